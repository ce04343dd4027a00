"""How a failed stream comes back: which way, or why not. Pure.

- Its object exists, and only its metadata failed: it goes on there, with or without its file.
- Its upload was kept (``KEEPS_ITS_UPLOAD``): it goes on from its parts; the daemon compares them with S3 and the file.
- Its parts were refused as they are, and the settings ask for equal ones by now: it starts over with these.
- Its upload was aborted: it starts over, with nothing of the old upload left to be mistaken for something.
- Its recording is gone, or its name is another's: it cannot come back, and that is said here, not found out later. What
  cannot be seen from this machine is left to the daemon, which looks before it does anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from cef_trio.checkpoint import FAILED, FailureReason, FileIdentity, Status, StreamMeta
from cef_trio.files import FolderPlace, IdentityMatch, compare, is_same_place, on_another_file_system
from cef_trio.upload import KEEPS_ITS_UPLOAD, PartPlan


class Presence(Enum):
    """What there is where the stream's file was."""

    SAME = "same"
    GONE = "gone"
    OTHER = "other"
    TAKEN = "taken"
    """Redis says that the name is another stream's by now."""
    NOT_SEEN = "not_seen"
    """This machine cannot tell: another machine's file system, something not mounted, or no permission."""


class RetryPath(Enum):
    """How it comes back."""

    GO_ON = "go_on"
    START_OVER = "start_over"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Comeback:
    """``way`` is ``None`` if it cannot come back; ``says`` tells a person; ``fields`` are changed with it."""

    way: RetryPath | None
    says: str
    fields: Mapping[str, Any] = field(default_factory=dict)


_FRESH: Final[Mapping[str, Any]] = {"failure_reason": None, "retry_at_utc": None, "retry_attempts": None}
_NO_WAY: Final[Mapping[Presence, str]] = {
    Presence.GONE: "not retried: its recording is gone, so there is nothing to upload",
    Presence.OTHER: "not retried: another file has its recording's name now, which gets a stream of its own",
    Presence.TAKEN: "not retried: its recording's name belongs to a newer stream",
}
_NOT_FAILED: Final[Mapping[Status, str]] = {
    Status.COMPLETED: "not retried: it is completed",
    Status.DELETED_LOCALLY: "not retried: its recording was deleted; should it return, it is uploaded as a new stream",
    Status.ABORTED_NO_PARTS: "not retried: its recording was deleted; should it return, it is uploaded as a new stream",
}


def reason_of(status: Status) -> FailureReason | None:
    """The reason in a ``failed_<reason>``; ``None`` if the stream has not failed."""
    return FailureReason(status.value.removeprefix("failed_")) if status in FAILED else None


def presence_of(recorded: FileIdentity, observed: FileIdentity, sameness: IdentityMatch | None = None) -> Presence:
    """What a file at the stream's path is to the stream.

    ``sameness`` is what its bytes say, where they were asked; where they were not, the daemon asks them.
    """
    if on_another_file_system(recorded, observed) and sameness is not IdentityMatch.SAME:
        return Presence.NOT_SEEN
    if (sameness or compare(recorded, observed)) is not IdentityMatch.REPLACED:
        return Presence.SAME
    place = FolderPlace(observed.file_dev, observed.fs_id, observed.mount)
    return Presence.OTHER if is_same_place(recorded, place) else Presence.NOT_SEEN


def judge_comeback(  # noqa: PLR0911 - it is a table
    meta: StreamMeta, presence: Presence, size_bytes: int | None, *, part_size: int, equal_parts: bool
) -> Comeback:
    """Whether and how the stream comes back.

    Args:
        meta: its record.
        presence: what is where its file was.
        size_bytes: the file's size where it can be seen.
        part_size: what the settings say now, for a recording that did not fit into its parts.
        equal_parts: as ``part_size``.
    """
    reason = reason_of(meta.status)
    if reason is None:
        return Comeback(
            None, _NOT_FAILED.get(meta.status, f"not retried: it has not failed, it is {meta.status.value}")
        )
    if meta.object_etag is not None:
        return Comeback(RetryPath.FINISH, "retried: its object is complete, its metadata is written again", _FRESH)
    if presence in _NO_WAY:
        return Comeback(None, _NO_WAY[presence])
    doubt = "; its recording cannot be seen from here, so the daemon will look" if presence is Presence.NOT_SEEN else ""
    if reason is FailureReason.FILE_TOO_LARGE:
        return _with_larger_parts(meta, size_bytes, PartPlan(part_size, equal_parts), doubt)
    if reason is FailureReason.FINALIZATION and equal_parts and not meta.equal_parts:
        # The store refused to join its parts, and would refuse them again: now they are asked for as some stores want.
        fields = {**_FRESH, "part_size": part_size, "equal_parts": True, "uploads_restarted": None}
        return Comeback(
            RetryPath.START_OVER, f"retried: it starts over with equal parts of {part_size} bytes{doubt}", fields
        )
    if reason in KEEPS_ITS_UPLOAD:
        return Comeback(RetryPath.GO_ON, f"retried: it goes on from what was uploaded{doubt}", _FRESH)
    fields = {**_FRESH, "uploads_restarted": None}
    return Comeback(RetryPath.START_OVER, f"retried: it starts over, its old upload was given up{doubt}", fields)


def _with_larger_parts(meta: StreamMeta, size_bytes: int | None, plan: PartPlan, doubt: str) -> Comeback:
    fits = plan.max_size_bytes
    if fits <= PartPlan(meta.part_size, meta.equal_parts).max_size_bytes or (size_bytes or 0) > fits:
        return Comeback(
            None, "not retried: it would not fit into 10,000 parts again; set CHUNK_SIZE_BYTES higher, here too"
        )
    fields = {**_FRESH, "part_size": plan.part_size, "equal_parts": plan.equal_parts}
    return Comeback(
        RetryPath.START_OVER, f"retried: it starts over with parts of {plan.part_size} bytes{doubt}", fields
    )
