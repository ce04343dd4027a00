"""Logging: structlog for us and for the libraries below us, one shape for all, on standard error.

Events, not prose: ``log.info("part_uploaded", part_number=3)``. The stream's id and file are bound by context. Names
of files come from strangers: a newline or an escape sequence in one must not forge a line or a colour, so control
characters are written as escapes in both forms, and a traceback for a person is indented, whose lines no message can
leave. Secrets are taken out by value wherever they turn up, and by name where a field is called one.

A log that cannot be written stops nothing, and neither does one that is slow to be read: a daemon's lines are written
by a thread of their own (``log_writer.py``). What had to be dropped is counted, and said (``log_lines_lost``) when
lines can be written again.
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
from cef_trio.settings import AppEnvironment, Settings, secret_values

REDACTED: Final = "***"
QUIET: Final = ("httpx", "httpcore", "redis", "asyncio", "botocore", "urllib3")
"""Libraries whose ordinary chatter (each URL, each retry) is not for our log."""
_MIN_SECRET_LENGTH: Final = 4
"""Shorter values would be found in ordinary words."""
_SECRET_NAME: Final = re.compile(r"(^|_)(secret|password|passwd|token|authorization)(_|$)", re.IGNORECASE)
_MULTILINE: Final = ("exception", "stack")
"""Fields that the console shows as lines of their own."""
_FLUSH_SECONDS: Final = 0.25
"""How long the process's end waits for whoever reads the log; P4 leaves a second for all that follows the saving."""

Event = MutableMapping[str, Any]
log = structlog.get_logger(__name__)


def configure(
    environment: AppEnvironment,
    level: str,
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    writer: LineWriter | None = None,
) -> None:
    """Set up logging for this process; may be called again.

    Args:
        environment: console lines for a person, or JSON lines.
        level: the least level that is written (``DEBUG`` … ``ERROR``).
        secrets: values that must never be written, as they are or as a URL or ``repr`` quotes them.
        stream: where to write; standard error by default.
        writer: writes to the stream in the background; without one each line is written before the call returns.
    """
    stream = stream or sys.stderr
    shared: list[Callable[[Any, str, Event], Any]] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last = _last_steps(environment, Redactor(secrets), colors=stream.isatty())
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
    logging.captureWarnings(capture=True)  # a library's warning is a line like all others, not one of its own on stderr
    set_level(level)


def set_level(level: str) -> None:
    """Set the least level that is written; may be called at any time.

    It holds at once for every logger, bound ones too: structlog's ask the standard library's, and these ask the root.
    """
    logging.getLogger().setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def configure_for(settings: Settings) -> None:
    """Set up logging for a daemon's process as the settings say, with their secrets kept out.

    The traceback of an exception that nobody caught, which Python would print as it is, is an event like any other:
    one line in production, and no secret in it.
    """
    global _writer  # noqa: PLW0603 - one log for a process, as logging itself has one
    if _writer is None:
        with suppress(OSError):  # a stream that is no file, as in a test: written in place
            _writer = LineWriter(sys.stderr.fileno(), on_recovered=_log_lost_lines)
            atexit.register(flush)
    configure(settings.app_env, settings.log_level, secrets=secret_values(settings), writer=_writer)
    sys.excepthook = _log_uncaught


_writer: LineWriter | None = None


def flush() -> None:
    """Wait a moment until what was logged is written. Whoever ends the process by ``os._exit`` calls it before."""
    if _writer is not None:
        _writer.flush(_FLUSH_SECONDS)


def lost_lines() -> int:
    """How many lines could not be written since the process began."""
    return 0 if _writer is None else _writer.lost


def _log_lost_lines(lines: int) -> None:
    log.warning("log_lines_lost", lines=lines)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        log.critical("uncaught_exception", error=str(error), exc_info=(kind, error, traceback))


def _last_steps(
    environment: AppEnvironment, redact: Callable[[Any, str, Event], Event], *, colors: bool
) -> list[Callable[[Any, str, Event], Any]]:
    if environment is AppEnvironment.PRODUCTION:
        return [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(
                    show_locals=False
                )  # locals may hold what must not be seen
            ),
            redact,
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ]
    return [
        structlog.processors.format_exc_info,
        redact,
        _printable,
        structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
        ),
    ]


class Redactor:
    """A processor that leaves only plain values (text, numbers, lists, mappings of text), and no secret in them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        values = [secret for secret in secrets if len(secret) >= _MIN_SECRET_LENGTH]
        forms = {form for value in values for form in (value, quote(value, safe=""), repr(value)[1:-1])}
        longest_first = sorted(forms, key=len, reverse=True)  # one secret may begin another
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
        # Not left to the renderer: its repr() would come after this.
        return self.text(repr(value))

    def text(self, text: str) -> str:
        """The text with no secret in it."""
        return self._forms.sub(REDACTED, text) if self._forms else text


def _printable(_logger: Any, _name: str, event: Event) -> Event:
    """Escape control characters everywhere; lines stay lines in a traceback alone, indented."""
    return {_escaped(key): _indented(value) if key in _MULTILINE else _escaped(value) for key, value in event.items()}


def _indented(value: Any) -> Any:
    return "\n".join("    " + _escaped(line) for line in value.split("\n")) if isinstance(value, str) else value


def _escaped(value: Any) -> Any:
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in value)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the stream; a broken pipe or an odd character never stops the daemon."""

    def __init__(self, stream: TextIO, writer: LineWriter | None = None) -> None:
        super().__init__(stream)
        self._writer = writer
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line, or hand it over to be written."""
        if self._writer is None:
            super().emit(record)
            return
        try:
            line = self.format(record) + self.terminator
            self._writer.write(line.encode(self._encoding, "backslashreplace"))
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        """The line; for an event that cannot be rendered, one that says so and where it came from."""
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's arguments or repr raise
            where = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
            says = f"event_not_rendered: {type(error).__name__}, {record.pathname}:{record.lineno}"
            return super().format(logging.makeLogRecord({**where, "msg": says}))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A log that cannot be written is no reason to stop uploading; there is nowhere to say so."""
