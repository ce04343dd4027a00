"""What a stream does next. Pure, and small enough to be enumerated.

``next_action`` is asked again after every step and every piece of news; the shell (``processor.py``) does what it says.
The order of the rules is the order of importance: an object that exists needs only its metadata; a file in doubt is
looked at before anything is done with it; bytes that are ready are sent before the end is considered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cef_trio.files import FileStat
from cef_trio.upload.file_state import Ending, FileState
from cef_trio.upload.part_plan import PartPlan


class Action(Enum):
    """What to do next."""

    PARK = "park"
    """Save the state and leave: the daemon is on its way out."""
    WRITE_METADATA = "write_metadata"
    RENAME = "rename"
    """Record the file's new name."""
    CHECK_FILE = "check_file"
    """Look at the file itself: it may be gone, replaced or shorter."""
    UPLOAD = "upload"
    FINALIZE = "finalize"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Known:
    """What a stream knows of itself."""

    plan: PartPlan
    first_missing: int
    """The lowest part number that S3 has not acknowledged."""
    path: str
    """Where the file is, as Redis has it."""
    object_exists: bool = False
    nothing_ready_at: FileStat | None = None
    """The file that was found to have no part to send: what is missing of it is not written yet."""


def next_action(known: Known, state: FileState) -> Action:  # noqa: PLR0911 - one return a rule, in their order
    """Decide. ``Ending.CLOSED`` must have been held for the grace by whoever acts on ``FINALIZE``."""
    if state.draining:
        return Action.PARK
    if known.path != state.path:
        return Action.RENAME
    if known.object_exists:
        return Action.WRITE_METADATA
    if state.suspect:
        return Action.CHECK_FILE
    missing = known.first_missing <= known.plan.count_full(state.stat.size_bytes)
    if missing and known.nothing_ready_at != state.stat:
        return Action.UPLOAD
    if state.ending is not Ending.NOT:
        return Action.FINALIZE
    return Action.WAIT


class FileCheck(Enum):
    """What a look at the file showed."""

    SAME = "same"
    GONE = "gone"
    REPLACED = "replaced"
    SHRUNK = "shrunk"
    """It is shorter than the parts that were sent: it was truncated, and is another recording now."""


def check_file(found: FileStat | None, *, is_ours: bool, covered_bytes: int) -> FileCheck:
    """Judge a fresh look at the stream's path; ``found`` is ``None`` if nothing is there.

    ``is_ours``: whether what is there is the stream's file (``recognition.py``).
    """
    if found is None:
        return FileCheck.GONE
    if not is_ours:
        return FileCheck.REPLACED
    return FileCheck.SHRUNK if found.size_bytes < covered_bytes else FileCheck.SAME
