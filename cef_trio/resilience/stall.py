"""Progress of a stream, recorded in the stream's task and its child tasks.

``observability/at_risk.py`` uses it to find stalled streams. Progress is:

- a part that S3 acknowledged, or a completed step of the stream (:meth:`Progress.progressed`);
- a block that was read or sent (:func:`moved`), unless an attempt has failed since the last progress, because
  reading the same block for a fifth attempt is no progress. After ``_GOES_ON_SECONDS`` of blocks it counts again; if
  the attempt fails all the same, blocks count for nothing until S3 has acknowledged something. Else a store that
  refuses every part at its end would look healthy on a slow line.

The requests and retries of a stream are counted here too, for the status page.

A stream that waits for its file to grow is marked (:meth:`Progress.mark_waiting`) and is never stalled.
"""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

import trio

_GOES_ON_SECONDS: Final = 30.0


@dataclass(slots=True)
class Progress:
    """Progress of one stream. Times are ``trio.current_time()``."""

    last_progress_at: float = field(default_factory=trio.current_time)
    waiting: bool = False
    trouble: str | None = None
    """Error of the last failed attempt; cleared by progress."""
    _again_since: float | None = None
    _on_trust: bool | None = False
    """Whether blocks have counted again after a failure, without an acknowledgement since; ``None``: in vain."""
    requests: Counter[str] = field(default_factory=Counter)
    """Number of requests to S3 by operation, repeated ones included."""
    retries: Counter[str] = field(default_factory=Counter)
    """Number of repeated attempts by service and operation (``s3 upload_part``)."""

    def enter(self) -> None:
        """Record progress of this task and its future child tasks here."""
        _current.set(self)

    def mark_waiting(self) -> None:
        """Mark the stream as waiting for its file."""
        self.waiting = True

    def mark_working(self) -> None:
        """Mark the stream as working."""
        if self.waiting:
            self.waiting = False
            self.progressed()

    def progressed(self) -> None:
        """Record progress."""
        self._goes_on()
        self._on_trust = False

    def _goes_on(self) -> None:
        self.last_progress_at, self.trouble, self._again_since = trio.current_time(), None, None

    def moved(self) -> None:
        """Record a block that was read or sent."""
        now = trio.current_time()
        if self.trouble is None:
            self.last_progress_at = now
        elif self._on_trust is None:
            pass
        elif self._again_since is None:
            self._again_since = now
        elif now - self._again_since >= _GOES_ON_SECONDS:
            self._goes_on()
            self._on_trust = True

    def failed(self, error: BaseException) -> None:
        """Record a failed attempt."""
        self.trouble, self._again_since = str(error), None
        if self._on_trust:
            self._on_trust = None


_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def moved() -> None:
    """Record a block that was read or sent for this task's stream."""
    if progress := _current.get():
        progress.moved()


def progressed() -> None:
    """Record an acknowledgement of S3 for this task's stream."""
    if progress := _current.get():
        progress.progressed()


def failed(error: BaseException) -> None:
    """Record a failed attempt of this task's stream."""
    if progress := _current.get():
        progress.failed(error)


def requested(operation: str) -> None:
    """Count a request to S3 for this task's stream."""
    if progress := _current.get():
        progress.requests[operation] += 1


def retried(service: str, operation: str) -> None:
    """Count a repeated attempt for this task's stream."""
    if progress := _current.get():
        progress.retries[f"{service} {operation}"] += 1
