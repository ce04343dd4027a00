"""Logging: structlog for us and for the libraries below us, one shape for all, on standard error.

Events, not prose: ``log.info("part_uploaded", part_number=3)``. The stream's id and file are bound by context. Names
of files come from strangers: a newline or an escape sequence in one must not forge a line or a colour, so control
characters are written as escapes in both forms. Values of secrets are taken out wherever they turn up.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, TextIO
from urllib.parse import urlsplit

import structlog
from pydantic import SecretStr

from cef_trio.config import AppEnvironment, Settings

REDACTED: Final = "***"
QUIET: Final = ("httpx", "httpcore", "hpack", "redis", "hypercorn", "asyncio", "botocore", "urllib3")
"""Libraries whose ordinary chatter (each URL, each retry) is not for our log."""
_MIN_SECRET_LENGTH: Final = 4
"""Shorter values would be found in ordinary words."""

Event = MutableMapping[str, Any]


def configure(
    environment: AppEnvironment, level: str, *, secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Set up logging for this process; may be called again.

    Args:
        environment: console lines for a person, or JSON lines.
        level: the least level that is written (``DEBUG`` … ``ERROR``).
        secrets: values that must never be written.
        stream: where to write; standard error by default.
    """
    shared: list[Callable[[Any, str, Event], Any]] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last = _last_steps(environment, tuple(secret for secret in secrets if len(secret) >= _MIN_SECRET_LENGTH))
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
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def configure_for(settings: Settings) -> None:
    """Set up logging as the settings say, with their secrets kept out."""
    values = [getattr(settings, name) for name in Settings.model_fields]
    secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    # A Redis URL is a secret for its password; the rest of it is of use to a person.
    passwords = [password for secret in secrets if "://" in secret and (password := urlsplit(secret).password)]
    configure(
        settings.app_env,
        settings.log_level,
        secrets=[*passwords, *(secret for secret in secrets if "://" not in secret)],
    )


def _last_steps(environment: AppEnvironment, secrets: tuple[str, ...]) -> list[Callable[[Any, str, Event], Any]]:
    def redact(_logger: Any, _name: str, event: Event) -> Event:
        return {key: _without(value, secrets) for key, value in event.items()}

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
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
        ),
    ]


def _without(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, REDACTED)
        return value
    if isinstance(value, Mapping):
        return {key: _without(inner, secrets) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without(inner, secrets) for inner in value]
    return value


def _printable(_logger: Any, _name: str, event: Event) -> Event:
    """Escape control characters in every value but a traceback, which has lines of its own."""
    return {key: value if key == "exception" else _escaped(value) for key, value in event.items()}


def _escaped(value: Any) -> Any:
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in value)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the standard error of the moment; a broken pipe or an odd character never stops the daemon."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream or sys.stderr)
        if isinstance(self.stream, io.TextIOWrapper):
            self.stream.reconfigure(errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A log that cannot be written is no reason to stop uploading; there is nowhere to say so."""
