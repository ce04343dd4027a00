"""Progress of a stream, recorded in the stream's task and its child tasks.

``observability/at_risk.py`` uses it to find stalled streams. Progress is:

- a part that S3 acknowledged, or a completed step of the stream (:meth:`Movement.progressed`);
- a block that was read or sent (:func:`moved`), unless an attempt has failed since the last progress, because
  reading the same block for a fifth attempt is no progress. After ``_GOES_ON_SECONDS`` of blocks it counts again.

A stream that waits for its file to grow rests (:meth:`Movement.rest`) and is never stalled.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

import trio

_GOES_ON_SECONDS: Final = 30.0


@dataclass(slots=True)
class Movement:
    """Progress of one stream. Times are ``trio.current_time()``."""

    moved_at: float = field(default_factory=trio.current_time)
    resting: bool = False
    trouble: str | None = None
    """Error of the last failed attempt; cleared by progress."""
    _again_since: float | None = None

    def enter(self) -> None:
        """Record progress of this task and its future child tasks here."""
        _current.set(self)

    def rest(self) -> None:
        """Mark the stream as waiting for its file."""
        self.resting = True

    def work(self) -> None:
        """Mark the stream as working."""
        if self.resting:
            self.resting = False
            self.progressed()

    def progressed(self) -> None:
        """Record progress."""
        self.moved_at, self.trouble, self._again_since = trio.current_time(), None, None

    def moved(self) -> None:
        """Record a block that was read or sent."""
        now = trio.current_time()
        if self.trouble is None:
            self.moved_at = now
        elif self._again_since is None:
            self._again_since = now
        elif now - self._again_since >= _GOES_ON_SECONDS:
            self.progressed()

    def failed(self, error: BaseException) -> None:
        """Record a failed attempt."""
        self.trouble, self._again_since = str(error), None


_current: ContextVar[Movement | None] = ContextVar("movement", default=None)


def moved() -> None:
    """Record a block that was read or sent for this task's stream."""
    movement = _current.get()
    if movement is not None:
        movement.moved()


def progressed() -> None:
    """Record an acknowledgement of S3 for this task's stream."""
    movement = _current.get()
    if movement is not None:
        movement.progressed()


def failed(error: BaseException) -> None:
    """Record a failed attempt of this task's stream."""
    movement = _current.get()
    if movement is not None:
        movement.failed(error)
