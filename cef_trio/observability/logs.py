"""Logging: structlog for cef-trio and its libraries, in one format, on standard error.

Messages are event names with fields: ``log.info("part_uploaded", part_number=3)``. The stream's id and file are bound
by context. File names are untrusted: control characters are escaped in both formats, and tracebacks are indented, so
that a name cannot forge a line or a colour. Secrets are removed by value everywhere, and by field name.

A log that cannot be written, or is read slowly, does not stop the daemon: a thread writes the lines
(``log_writer.py``). Dropped lines are counted and logged (``log_lines_lost``) when writing works again.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TextIO
from urllib.parse import quote

import structlog

from cef_trio.observability.log_writer import LineWriter
from cef_trio.observability.recent_lines import LogLine, RecentLines
from cef_trio.safe_text import printable
from cef_trio.settings import AppEnvironment, Settings, secret_values

REDACTED: Final = "***"
QUIET: Final = ("httpx", "httpcore", "redis", "asyncio", "botocore", "urllib3")
"""Libraries that log below WARNING too much (each URL, each retry)."""
_MIN_SECRET_LENGTH: Final = 4
"""Shorter values occur in ordinary words."""
_SECRET_NAME: Final = re.compile(r"(^|_)(secret|password|passwd|token|authorization)(_|$)", re.IGNORECASE)
_MULTILINE: Final = ("exception", "stack")
"""Fields with several lines."""
_FLUSH_SECONDS: Final = 0.25
"""How long the process waits for the log at exit; P4 leaves one second after the save."""

Event = MutableMapping[str, Any]
Processor = Callable[[Any, str, Event], Event]
log = structlog.get_logger(__name__)


def configure(
    environment: AppEnvironment,
    level: str,
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    writer: LineWriter | None = None,
    recent: RecentLines | None = None,
) -> None:
    """Set up logging for this process; may be called repeatedly.

    Development writes console lines, production JSON lines, to ``stream`` (standard error) or in the background by
    ``writer``. ``secrets`` are removed, also as quoted in a URL or by ``repr``. ``recent`` keeps lines without them.
    """
    stream = stream or sys.stderr
    shared: list[Callable[[Any, str, Event], Any]] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    redact: Processor = Redactor(secrets)
    kept: list[Processor] = [redact] if recent is None else [redact, recent]
    colors = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    last = _last_steps(environment, kept, colors=colors)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream, writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    logging.captureWarnings(capture=True)  # warnings become log lines
    set_level(level)


def set_level(level: str) -> None:
    """Set the lowest level that is written. Takes effect at once for all loggers, also bound ones."""
    logging.getLogger().setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def configure_for(settings: Settings) -> None:
    """Set up logging for a daemon from its settings, without their secrets.

    An uncaught exception becomes a log event: one line in production, without secrets.
    """
    global _writer  # noqa: PLW0603 - one log per process
    if _writer is None:
        with suppress(OSError):  # a stream without a descriptor, as in tests: written synchronously
            _writer = LineWriter(sys.stderr.fileno(), on_recovered=_log_lost_lines)
            atexit.register(flush)
    configure(settings.app_env, settings.log_level, secrets=secret_values(settings), writer=_writer, recent=_recent)
    sys.excepthook = _log_uncaught


_writer: LineWriter | None = None
_recent: Final = RecentLines()


def recent_lines_of(stream_id: str) -> tuple[LogLine, ...]:
    """Return the last log lines of a stream, oldest first, without secrets."""
    return _recent.of(stream_id)


def flush() -> None:
    """Wait briefly until all lines are written; call it before ``os._exit``."""
    if _writer is not None:
        _writer.flush(_FLUSH_SECONDS)


def lost_lines() -> int:
    """Return the number of lines lost since the process began."""
    return 0 if _writer is None else _writer.lost


def _log_lost_lines(lines: int) -> None:
    log.warning("log_lines_lost", lines=lines)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        log.critical("uncaught_exception", error=str(error), exc_info=(kind, error, traceback))


def _last_steps(
    environment: AppEnvironment, redact_and_keep: list[Processor], *, colors: bool
) -> list[Callable[[Any, str, Event], Any]]:
    if environment is AppEnvironment.PRODUCTION:
        return [
            # Locals may hold secrets.
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            *redact_and_keep,
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ]
    return [
        structlog.processors.format_exc_info,
        *redact_and_keep,
        _printable,
        structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
        ),
    ]


class Redactor:
    """structlog processor that converts all values to plain ones and removes secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        values = [secret for secret in secrets if len(secret) >= _MIN_SECRET_LENGTH]
        forms = {form for value in values for form in (value, quote(value, safe=""), repr(value)[1:-1])}
        longest_first = sorted(forms, key=len, reverse=True)  # a secret may be a prefix of another
        self._forms = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def __call__(self, _logger: Any, _name: str, event: Event) -> Event:
        """See :mod:`structlog.processors`."""
        return self._mapping(event)

    def _mapping(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        return {
            self.text(str(key)): REDACTED if _SECRET_NAME.search(str(key)) and value else self._plain(value)
            for key, value in values.items()
        }

    def _plain(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case None | bool() | int() | float():
                return value
            case Mapping():
                return self._mapping(value)
            case list() | tuple() | set() | frozenset():
                return [self._plain(inner) for inner in value]
            case os.PathLike():
                return self.text(os.fsdecode(value))
        # repr() here, since the renderer runs after redaction.
        return self.text(repr(value))

    def text(self, text: str) -> str:
        """Return the text without secrets."""
        return self._forms.sub(REDACTED, text) if self._forms else text


def _printable(_logger: Any, _name: str, event: Event) -> Event:
    """Escape control characters; only tracebacks keep their lines, indented."""
    return {_escaped(key): _indented(value) if key in _MULTILINE else _escaped(value) for key, value in event.items()}


def _indented(value: Any) -> Any:
    return "\n".join("    " + _escaped(line) for line in value.split("\n")) if isinstance(value, str) else value


def _escaped(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the stream; ignores write errors."""

    def __init__(self, stream: TextIO, writer: LineWriter | None = None) -> None:
        super().__init__(stream)
        self._writer = writer
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        if self._writer is None:
            super().emit(record)
            return
        try:
            line = self.format(record) + self.terminator
            self._writer.write(line.encode(self._encoding, "backslashreplace"))
        except Exception:  # noqa: BLE001 - as in logging's own handlers
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; for an event that cannot be rendered, one with the error and its location."""
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - arguments and repr may raise anything
            where = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
            says = f"event_not_rendered: {type(error).__name__}, {record.pathname}:{record.lineno}"
            return super().format(logging.makeLogRecord({**where, "msg": says}))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Ignore the error: the log cannot be written."""
