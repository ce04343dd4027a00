"""How a failed stream is retried, or why it cannot be. Pure.

- Its object exists and only its metadata failed: finish, with or without its file.
- Its upload was kept (``KEEPS_ITS_UPLOAD``): continue from its parts; the daemon compares them with S3 and the file.
- Its parts were refused and the settings now require equal parts: start over with equal parts.
- Its upload was aborted: start over, with nothing left of the old upload.
- Its recording is gone, or another file has its name: refuse. Where this machine cannot see the file, the daemon checks
  before it does anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from cef_trio.checkpoint import FAILED, FailureReason, FileIdentity, Status, StreamMeta
from cef_trio.files import FolderMount, IdentityMatch, compare_identity, is_same_mount, on_another_file_system
from cef_trio.upload import KEEPS_ITS_UPLOAD, PartPlan


class Presence(Enum):
    """What is at the path of the stream's file."""

    SAME = "same"
    GONE = "gone"
    OTHER = "other"
    TAKEN = "taken"
    """By the records in Redis, the path belongs to another stream."""
    NOT_SEEN = "not_seen"
    """Unknown on this machine: another machine's file system, not mounted, or no permission."""


class RetryPath(Enum):
    """How a stream is retried."""

    GO_ON = "go_on"
    START_OVER = "start_over"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """``way`` is ``None`` if the stream cannot be retried; ``says`` is the message, ``fields`` the record's changes."""

    way: RetryPath | None
    says: str
    fields: Mapping[str, Any] = field(default_factory=dict)


_LET_GO: Final = ("let_go_at_utc", "let_go_size_bytes", "let_go_mtime_ns")
_FRESH: Final[Mapping[str, Any]] = dict.fromkeys(("failure_reason", "retry_at_utc", "retry_attempts", *_LET_GO))
_NO_WAY: Final[Mapping[Presence, str]] = {
    Presence.GONE: "not retried: its recording is gone, so there is nothing to upload",
    Presence.OTHER: "not retried: another file has its recording's name now, which gets a stream of its own",
    Presence.TAKEN: "not retried: its recording's name belongs to a newer stream",
}
_NOT_FAILED: Final[Mapping[Status, str]] = {
    Status.COMPLETED: "not retried: it is completed",
    Status.DELETED_LOCALLY: "not retried: its recording was deleted; if it returns, it is uploaded as a new stream",
    Status.ABORTED_NO_PARTS: "not retried: its recording was deleted; if it returns, it is uploaded as a new stream",
}


def reason_of_status(status: Status) -> FailureReason | None:
    """Return the reason in a ``failed_<reason>`` status, or ``None`` if the stream has not failed."""
    return FailureReason(status.value.removeprefix("failed_")) if status in FAILED else None


def presence_of(
    recorded: FileIdentity, observed: FileIdentity, identity_match: IdentityMatch | None = None
) -> Presence:
    """Return whether the file at the stream's path is the stream's recording.

    ``identity_match`` is the result of comparing its bytes, if they were compared; else the daemon compares them.
    """
    if on_another_file_system(recorded, observed) and identity_match is not IdentityMatch.SAME:
        return Presence.NOT_SEEN
    if (identity_match or compare_identity(recorded, observed)) is not IdentityMatch.REPLACED:
        return Presence.SAME
    place = FolderMount(observed.file_dev, observed.fs_id, observed.mount)
    return Presence.OTHER if is_same_mount(recorded, place) else Presence.NOT_SEEN


def plan_retry(  # noqa: PLR0911 - it is a table
    meta: StreamMeta, presence: Presence, size_bytes: int | None, *, part_size: int, equal_parts: bool
) -> RetryPlan:
    """Return whether and how the stream is retried.

    ``size_bytes`` is the file's size, if this machine can see it; ``part_size`` (in bytes, for a recording that did not
    fit into its parts) and ``equal_parts`` are those of the settings.
    """
    reason = reason_of_status(meta.status)
    if reason is None:
        return RetryPlan(
            None, _NOT_FAILED.get(meta.status, f"not retried: it has not failed, it is {meta.status.value}")
        )
    if meta.object_etag is not None:
        return RetryPlan(RetryPath.FINISH, "retried: its object is complete, its metadata is written again", _FRESH)
    if presence in _NO_WAY:
        return RetryPlan(None, _NO_WAY[presence])
    unseen_note = (
        "; its recording cannot be seen from here, so the daemon checks it" if presence is Presence.NOT_SEEN else ""
    )
    if reason is FailureReason.FILE_TOO_LARGE:
        return _with_larger_parts(meta, size_bytes, PartPlan(part_size, equal_parts), unseen_note)
    if reason is FailureReason.FINALIZATION and equal_parts and not meta.equal_parts:
        # The store refused to join parts of unequal sizes, and would refuse them again.
        fields = {**_FRESH, "part_size": part_size, "equal_parts": True, "uploads_restarted": None}
        return RetryPlan(
            RetryPath.START_OVER, f"retried: it starts over with equal parts of {part_size} bytes{unseen_note}", fields
        )
    if reason in KEEPS_ITS_UPLOAD:
        return RetryPlan(RetryPath.GO_ON, f"retried: it continues from what was uploaded{unseen_note}", _FRESH)
    fields = {**_FRESH, "uploads_restarted": None}
    return RetryPlan(RetryPath.START_OVER, f"retried: it starts over, its old upload was aborted{unseen_note}", fields)


def _with_larger_parts(meta: StreamMeta, size_bytes: int | None, plan: PartPlan, unseen_note: str) -> RetryPlan:
    fits = plan.max_size_bytes
    if fits <= PartPlan.of(meta).max_size_bytes or (size_bytes or 0) > fits:
        return RetryPlan(
            None, "not retried: it would not fit into 10,000 parts again; set CHUNK_SIZE_BYTES higher, here too"
        )
    fields = {**_FRESH, "part_size": plan.part_size, "equal_parts": plan.equal_parts}
    return RetryPlan(
        RetryPath.START_OVER, f"retried: it starts over with parts of {plan.part_size} bytes{unseen_note}", fields
    )
