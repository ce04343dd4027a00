"""The last log lines of each stream, for the status page.

A structlog processor that runs after redaction, so that no secret is kept (``logs.py``). Everything is bounded (promise
P7): ``MAX_LINES_OF_A_STREAM``, ``MAX_LINES`` of all streams together, ``MAX_TEXT`` characters in a line. The streams
that logged nothing for longest are forgotten first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

MAX_LINES_OF_A_STREAM: Final = 40
MAX_LINES: Final = 10_000
MAX_TEXT: Final = 300
_SHOWN_APART: Final = frozenset({"event", "level", "timestamp", "stream_id", "file"})
_IN_THE_LOG: Final = frozenset({"exception", "stack", "exc_info", "stack_info"})
"""Long fields that are not kept."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log line of a stream."""

    at: str
    """ISO 8601, UTC."""
    level: str
    event: str
    text: str
    """Its other fields."""


class RecentLines:
    """Keeps lines. Called by one thread at a time (a logging handler holds its lock); read by any."""

    def __init__(self) -> None:
        self._streams: dict[str, deque[LogLine]] = {}
        """The stream that logged last is last."""
        self._count = 0

    def __call__(self, _logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Keep a line that has the field ``stream_id``; see :mod:`structlog.processors`."""
        stream_id = event.get("stream_id")
        if isinstance(stream_id, str):
            self._keep(stream_id, _line(event))
        return event

    def of(self, stream_id: str) -> tuple[LogLine, ...]:
        """Return the last lines of a stream, oldest first."""
        lines = self._streams.get(stream_id)
        return () if lines is None else tuple(lines.copy())

    def _keep(self, stream_id: str, line: LogLine) -> None:
        lines = self._streams.pop(stream_id, None)
        if lines is None:
            lines = deque(maxlen=MAX_LINES_OF_A_STREAM)
        self._streams[stream_id] = lines
        self._count += len(lines) < MAX_LINES_OF_A_STREAM
        lines.append(line)
        while self._count > MAX_LINES:
            self._count -= len(self._streams.pop(next(iter(self._streams))))


def _line(event: MutableMapping[str, Any]) -> LogLine:
    return LogLine(
        at=str(event.get("timestamp", ""))[:40],
        level=str(event.get("level", ""))[:20],
        event=str(event.get("event", ""))[:MAX_TEXT],
        text=_shortened(" ".join(_fields(event))),
    )


def _fields(event: MutableMapping[str, Any]) -> Iterator[str]:
    for name, value in event.items():
        if name in _IN_THE_LOG:
            yield f"({name} in the log)"
        elif name not in _SHOWN_APART:
            yield f"{name}={_shortened(value if isinstance(value, str) else repr(value))}"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
