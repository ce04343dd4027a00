"""The life of a stream, as a table. Everything that says which status may follow which stands in this file.

A stream is in exactly one :class:`StreamSet` at a time, and its :class:`Status` says how it is or how its task last
ended. ``HOME`` gives the set of each status (``None``: the stream stays in the set where it is), ``TRANSITIONS`` gives
the statuses that may follow. Both checkpoint stores and the documentation's diagram are made from, or tested against,
these tables. Pure: no I/O, no trio.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class StreamSet(StrEnum):
    """The Redis set that a stream is in; the values are the ends of the key names (``streams:<value>``)."""

    ACTIVE = "active"
    PENDING_COMPLETION = "pending_completion"
    COMPLETED = "completed"
    FAILED = "failed"


class FailureReason(StrEnum):
    """Why a stream ended for good without a completed object. ``SENTENCES`` says it in words."""

    S3_UPLOAD = "s3_upload"
    S3_REFUSED = "s3_refused"
    ACCESS_DENIED = "access_denied"
    NO_SUCH_BUCKET = "no_such_bucket"
    REDIS_UPDATE = "redis_update"
    FILE_MISSING_ON_RESUME = "file_missing_on_resume"
    FILE_REPLACED = "file_replaced"
    FILE_UNREADABLE = "file_unreadable"
    FILE_TOO_LARGE = "file_too_large"
    UPLOAD_LOST = "upload_lost"
    FINALIZATION = "finalization"
    UNEXPECTED = "unexpected"
    ABORTED = "aborted"


SENTENCES: Final[Mapping[FailureReason, str]] = MappingProxyType(
    {
        FailureReason.S3_UPLOAD: "S3 refused a part of the recording for good.",
        FailureReason.S3_REFUSED: "S3 refused a call for good; the upload cannot go on as it is configured.",
        FailureReason.ACCESS_DENIED: "S3 does not allow these credentials to do what an upload needs.",
        FailureReason.NO_SUCH_BUCKET: "The bucket does not exist.",
        FailureReason.REDIS_UPDATE: "Redis refused to record the stream's state for good.",
        FailureReason.FILE_MISSING_ON_RESUME: "The recording was gone when the daemon started again.",
        FailureReason.FILE_REPLACED: "Another file took the recording's name before it was uploaded whole.",
        FailureReason.FILE_UNREADABLE: "The recording cannot be read (permissions, or a disk error).",
        FailureReason.FILE_TOO_LARGE: "The recording does not fit into 10,000 parts of its part size.",
        FailureReason.UPLOAD_LOST: "S3 lost the multipart upload again and again (a lifecycle rule, or another tool).",
        FailureReason.FINALIZATION: "The object could not be verified or completed.",
        FailureReason.UNEXPECTED: "An error that nobody foresaw: a bug. The log has its traceback.",
        FailureReason.ABORTED: "A person aborted the upload (cef-trio abort).",
    }
)


class Status(StrEnum):
    """The status of a stream, as ``stream:<id>:meta`` keeps it."""

    ACTIVE = "active"
    PENDING_COMPLETION = "pending_completion"
    S3_COMPLETED = "s3_completed"
    COMPLETED = "completed"
    RETRYING = "retrying"
    INTERRUPTED_SHUTDOWN = "interrupted_shutdown"
    INTERRUPTED_CANCELLED = "interrupted_cancelled"
    DELETED_LOCALLY = "deleted_locally"
    ABORTED_NO_PARTS = "aborted_no_parts"
    FAILED_S3_UPLOAD = "failed_s3_upload"
    FAILED_S3_REFUSED = "failed_s3_refused"
    FAILED_ACCESS_DENIED = "failed_access_denied"
    FAILED_NO_SUCH_BUCKET = "failed_no_such_bucket"
    FAILED_REDIS_UPDATE = "failed_redis_update"
    FAILED_FILE_MISSING_ON_RESUME = "failed_file_missing_on_resume"
    FAILED_FILE_REPLACED = "failed_file_replaced"
    FAILED_FILE_UNREADABLE = "failed_file_unreadable"
    FAILED_FILE_TOO_LARGE = "failed_file_too_large"
    FAILED_UPLOAD_LOST = "failed_upload_lost"
    FAILED_FINALIZATION = "failed_finalization"
    FAILED_UNEXPECTED = "failed_unexpected"
    FAILED_ABORTED = "failed_aborted"

    @classmethod
    def failed(cls, reason: FailureReason) -> Status:
        """The status ``failed_<reason>``."""
        return cls(f"failed_{reason.value}")


FAILED: Final = frozenset(Status.failed(reason) for reason in FailureReason)
INTERRUPTED: Final = frozenset({Status.INTERRUPTED_SHUTDOWN, Status.INTERRUPTED_CANCELLED})
ENDED: Final = FAILED | {Status.COMPLETED, Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS}
"""Statuses of streams that nothing more happens to unless a person asks for it."""

COMES_BACK: Final = frozenset({Status.FAILED_FILE_UNREADABLE})
"""Of these, what the daemon takes up again by itself: a change on its own machine can mend it, and does not say so.
Earlier versions ended streams so; now a file that cannot be read is waited for."""

_OPEN: Final = frozenset(Status) - ENDED

HOME: Final[Mapping[Status, StreamSet | None]] = MappingProxyType(
    {
        Status.ACTIVE: StreamSet.ACTIVE,
        Status.PENDING_COMPLETION: StreamSet.PENDING_COMPLETION,
        Status.S3_COMPLETED: StreamSet.PENDING_COMPLETION,
        Status.COMPLETED: StreamSet.COMPLETED,
        Status.RETRYING: None,
        Status.INTERRUPTED_SHUTDOWN: None,
        Status.INTERRUPTED_CANCELLED: None,
        Status.DELETED_LOCALLY: StreamSet.FAILED,
        Status.ABORTED_NO_PARTS: StreamSet.FAILED,
        **dict.fromkeys(FAILED, StreamSet.FAILED),
    }
)
"""The set of each status; ``None`` where the stream stays where it is (an interruption keeps the phase)."""

TRANSITIONS: Final[Mapping[Status, frozenset[Status]]] = MappingProxyType(
    {
        # An open stream may fail, be interrupted or wait for a retry at any time. Going back to ACTIVE from a later
        # phase is what a recording does that grows, is rewritten or is truncated while it is being finalized.
        Status.ACTIVE: _OPEN | FAILED | {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS},
        Status.PENDING_COMPLETION: _OPEN | FAILED | {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS},
        # The object exists: only its metadata is still to be written. It is never uploaded again, so it cannot go back;
        # an interruption leaves this status as it is, since it says exactly where to go on.
        Status.S3_COMPLETED: frozenset({Status.S3_COMPLETED, Status.RETRYING, Status.COMPLETED}) | FAILED,
        Status.RETRYING: _OPEN | {Status.COMPLETED} | FAILED | {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS},
        Status.INTERRUPTED_SHUTDOWN: _OPEN
        | {Status.COMPLETED}
        | FAILED
        | {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS},
        Status.INTERRUPTED_CANCELLED: _OPEN
        | {Status.COMPLETED}
        | FAILED
        | {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS},
        # Ended. Repeating the same transition is harmless (a reply lost on the way); `retry` makes a failed one active,
        # and `abort` gives up the upload that a failed one had kept.
        Status.COMPLETED: frozenset({Status.COMPLETED}),
        Status.DELETED_LOCALLY: frozenset({Status.DELETED_LOCALLY}),
        Status.ABORTED_NO_PARTS: frozenset({Status.ABORTED_NO_PARTS}),
        **{
            status: frozenset(
                {status, Status.ACTIVE, Status.PENDING_COMPLETION, Status.S3_COMPLETED, Status.FAILED_ABORTED}
            )
            for status in FAILED
        },
    }
)


def may_follow(current: Status, following: Status) -> bool:
    """Whether a stream in ``current`` may be put into ``following``; the same status may always be repeated."""
    return following in TRANSITIONS[current]
