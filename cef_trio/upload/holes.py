"""What a stream knows of the holes in a file whose size was set before its bytes were written.

They are no lag and not at risk: no byte of theirs is anywhere. A part of which the writer has written a piece counts as
a hole, as no part is sent before it is full. What is known gets old, since the writer goes on: after
``BELIEVED_SECONDS`` without a new look a file that changed counts whole: lag may be told too large, never too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cef_trio.files import FileStat
from cef_trio.upload.file_state import Ending, FileState

BELIEVED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Holes:
    """Where a file was found not to be written yet."""

    first_part: int
    """The first part with a hole. Behind it only what was sent, or is on its way, is known to be written."""
    stat: FileStat
    """The file that was looked at."""
    at: float
    """``trio.current_time()`` of the look."""

    def are_known(self, state: FileState, now: float) -> bool:
        """Whether they are still there; of a recording that has ended, holes are bytes like all others."""
        unchanged = self.stat == state.stat or now - self.at <= BELIEVED_SECONDS
        return unchanged and state.ending is Ending.NOT
