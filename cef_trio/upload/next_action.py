"""Decide the next action of a stream. Pure; tests enumerate all cases.

``processor.py`` calls ``next_action`` after every step and every event, and performs the action. The rules are in order
of priority: a completed object needs only its metadata, and no file, but a certain new name is recorded first; a path
that only an inode number led to is compared before its use; a needed check of the file comes before its use; ready
bytes are sent before the end of the recording is considered. Not here: the grace after a close, and writers that still
have the file open (``processor.py``: ``_has_ended``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cef_trio.files import FileStat
from cef_trio.upload.file_state import Ending, FileState
from cef_trio.upload.part_plan import PartPlan


class Action(Enum):
    """The next step of a stream."""

    PARK = "park"
    """Save the state and end the task: the daemon is draining."""
    WRITE_METADATA = "write_metadata"
    COMPARE = "compare"
    """Compare the file at a path that only its inode number led to: whether it is the stream's."""
    RENAME = "rename"
    """Record the file's new name."""
    CHECK_FILE = "check_file"
    """Open the file: it may be gone, replaced or truncated."""
    UPLOAD = "upload"
    FINALIZE = "finalize"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class RecordedProgress:
    """The part of a stream's own state that decides its next action."""

    plan: PartPlan
    first_missing: int
    """The lowest number of a part that S3 has not acknowledged."""
    path: str
    """The file's path as recorded in Redis."""
    object_exists: bool = False
    nothing_ready_at: FileStat | None = None
    """The stat at which no part was ready to send: the missing parts are holes that are not written yet."""


def next_action(known: RecordedProgress, state: FileState) -> Action:  # noqa: PLR0911 - one return a rule, in their order
    """Return the next action. The caller waits for the grace period before it acts on ``FINALIZE``."""
    if state.draining:
        return Action.PARK
    if state.guessed_from is not None:  # the file at that path may be another one, which can never be read
        return Action.WRITE_METADATA if known.object_exists else Action.COMPARE
    if known.path != state.path:
        return Action.RENAME
    if known.object_exists:
        return Action.WRITE_METADATA
    if state.needs_check:
        return Action.CHECK_FILE
    missing = known.first_missing <= known.plan.count_full(state.stat.size_bytes)
    if missing and known.nothing_ready_at != state.stat:
        return Action.UPLOAD
    if state.ending is not Ending.NOT:
        return Action.FINALIZE
    return Action.WAIT


class FileCheck(Enum):
    """The result of checking a stream's file."""

    SAME = "same"
    GONE = "gone"
    REPLACED = "replaced"
    SHRUNK = "shrunk"
    """The file is shorter than the parts that were sent: it was truncated."""


def check_file(found: FileStat | None, *, is_ours: bool, covered_bytes: int) -> FileCheck:
    """Classify the file at the stream's path; ``found`` is its stat, ``None`` if there is no file.

    ``covered_bytes`` is the end of the furthest part that S3 acknowledged.
    """
    if found is None:
        return FileCheck.GONE
    if not is_ours:
        return FileCheck.REPLACED
    return FileCheck.SHRUNK if found.size_bytes < covered_bytes else FileCheck.SAME
