"""Holes in a preallocated file: parts within its size that are not written yet.

Not here: holes are found, and their parts not sent, by ``processor.py`` (``_ready``), which asks ``files/reader.py``
(``is_written``).

Holes do not count as lag or as data at risk, as their bytes do not exist yet. A partly written part counts as a hole,
since only full parts are sent. The information expires: if the file changed and was not checked again for
``MAX_AGE_SECONDS``, all its bytes count. Lag may be overestimated, never underestimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cef_trio.files import FileStat
from cef_trio.upload.file_state import Ending, FileState

MAX_AGE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Holes:
    """The first hole of a file, as of one check."""

    first_part: int
    """The first part with a hole. Of later parts only those sent or in flight are known to be written."""
    stat: FileStat
    """The file's stat at the check."""
    at: float
    """``trio.current_time()`` of the check."""

    def are_known(self, state: FileState, now: float) -> bool:
        """Return whether the information is still valid. The holes of an ended recording count as bytes."""
        unchanged = self.stat == state.stat or now - self.at <= MAX_AGE_SECONDS
        return unchanged and state.ending is Ending.NOT
