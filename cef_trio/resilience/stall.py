"""Whether the bytes of a stream move: noted where it happens, in the stream's own task and the tasks that it starts.

``at_risk.py`` judges by it whether a stream stands still, so what counts must be what brings bytes nearer to S3:

- a part that S3 acknowledged, or a step of the stream that is done (:meth:`Movement.progressed`);
- a block that was read or handed to the network (:func:`moved`), unless an attempt has failed since the last progress:
  what is read once more for the fifth attempt moves nothing. An attempt that goes on for ``_GOES_ON_SECONDS`` is no
  longer in doubt.

A stream that waits for its file to grow rests (:meth:`Movement.rest`); it stands still without any harm.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

import trio

_GOES_ON_SECONDS: Final = 30.0


@dataclass(slots=True)
class Movement:
    """How one stream moves. Times are ``trio.current_time()``."""

    moved_at: float = field(default_factory=trio.current_time)
    resting: bool = False
    trouble: str | None = None
    """The last failed attempt's error, until something progresses."""
    _again_since: float | None = None

    def enter(self) -> None:
        """Note for this stream from now on, in this task and those that it starts."""
        _current.set(self)

    def rest(self) -> None:
        """There is nothing to do for now."""
        self.resting = True

    def work(self) -> None:
        """There is something to do."""
        if self.resting:
            self.resting = False
            self.progressed()

    def progressed(self) -> None:
        """S3 has more than before, or the stream has done a step."""
        self.moved_at, self.trouble, self._again_since = trio.current_time(), None, None

    def moved(self) -> None:
        """A block was read or sent."""
        now = trio.current_time()
        if self.trouble is None:
            self.moved_at = now
        elif self._again_since is None:
            self._again_since = now
        elif now - self._again_since >= _GOES_ON_SECONDS:
            self.progressed()

    def failed(self, error: BaseException) -> None:
        """An attempt failed."""
        self.trouble, self._again_since = str(error), None


_current: ContextVar[Movement | None] = ContextVar("movement", default=None)


def moved() -> None:
    """A block of the stream of this task was read or sent."""
    movement = _current.get()
    if movement is not None:
        movement.moved()


def progressed() -> None:
    """S3 acknowledged something of the stream of this task."""
    movement = _current.get()
    if movement is not None:
        movement.progressed()


def failed(error: BaseException) -> None:
    """An attempt of the stream of this task failed."""
    movement = _current.get()
    if movement is not None:
        movement.failed(error)
