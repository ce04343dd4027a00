"""The states of a stream, and the table of allowed transitions. Pure.

A stream is in exactly one :class:`StreamSet` at a time. Its :class:`Status` is its current state, or how its task last
ended. ``HOME`` maps each status to its set (``None``: the stream stays in its set), ``TRANSITIONS`` maps it to the
statuses that may follow. Both checkpoint stores and the diagram in ``docs/`` are made from these tables or tested
against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class StreamSet(StrEnum):
    """The Redis set of a stream, ``streams:<value>``."""

    ACTIVE = "active"
    PENDING_COMPLETION = "pending_completion"
    COMPLETED = "completed"
    FAILED = "failed"


class History(StrEnum):
    """The indexes of ended streams by time, ``streams:<value>_at``."""

    COMPLETED = "completed"
    FAILED = "failed"
    DELETED = "deleted"
    """Streams in ``StreamSet.FAILED`` whose recording was deleted before its end: nothing failed. Also failed streams
    that an operator let go (``StreamMeta.let_go_at_utc``)."""


def count_known(sets: Mapping[StreamSet, int], histories: Mapping[History, int]) -> dict[str, int]:
    """Return the number of streams as people count them: by set, with ``deleted`` apart from ``failed``.

    ``deleted`` are the streams of :attr:`History.DELETED`, which need nobody. A stream that is in no index counts as
    failed. A set that could not be counted is absent.
    """
    known = {stream_set.value: count for stream_set, count in sets.items()}
    if StreamSet.FAILED in sets:
        deleted = min(histories.get(History.DELETED, 0), sets[StreamSet.FAILED])
        known |= {"failed": sets[StreamSet.FAILED] - deleted, "deleted": deleted}
    return known


class FailureReason(StrEnum):
    """Why a stream failed permanently. ``SENTENCES`` has a sentence for each, ``ADVICE`` what to do."""

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
        FailureReason.S3_UPLOAD: "S3 rejected a part of the recording permanently.",
        FailureReason.S3_REFUSED: "S3 rejected a request permanently; the current configuration cannot work.",
        FailureReason.ACCESS_DENIED: "The S3 credentials lack a permission that uploads need.",
        FailureReason.NO_SUCH_BUCKET: "The bucket does not exist.",
        FailureReason.REDIS_UPDATE: "Redis rejected a write of the stream's state permanently.",
        FailureReason.FILE_MISSING_ON_RESUME: "The recording did not exist when the daemon restarted.",
        FailureReason.FILE_REPLACED: "Another file replaced the recording before its upload was complete.",
        FailureReason.FILE_UNREADABLE: "The recording cannot be read (permissions, or a disk error).",
        FailureReason.FILE_TOO_LARGE: "The recording does not fit into 10,000 parts of its part size.",
        FailureReason.UPLOAD_LOST: "S3 lost the multipart upload repeatedly (a lifecycle rule, or another tool).",
        FailureReason.FINALIZATION: "The object could not be verified or completed.",
        FailureReason.UNEXPECTED: "An unexpected error: a bug. The log has the traceback.",
        FailureReason.ABORTED: "An operator aborted the upload (cef-trio abort).",
    }
)


_S3_ADVICE: Final = "find out why S3 refused this recording only (a policy for some keys?): `cef-trio show ID`"
_FILE_ADVICE: Final = "nothing, if it was deleted or replaced on purpose; otherwise put it back, or mount its disk"
ADVICE: Final[Mapping[FailureReason, str]] = MappingProxyType(
    {
        FailureReason.S3_UPLOAD: _S3_ADVICE,
        FailureReason.S3_REFUSED: _S3_ADVICE,
        FailureReason.ACCESS_DENIED: _S3_ADVICE,
        FailureReason.NO_SUCH_BUCKET: _S3_ADVICE,
        FailureReason.REDIS_UPDATE: "check Redis' memory, disk and ACL",
        FailureReason.FILE_MISSING_ON_RESUME: _FILE_ADVICE,
        FailureReason.FILE_REPLACED: _FILE_ADVICE,
        FailureReason.FILE_UNREADABLE: (
            "correct the file's permissions; the daemon tries again by itself, without `retry`"
        ),
        FailureReason.FILE_TOO_LARGE: "set a larger `CHUNK_SIZE_BYTES`; the upload starts over",
        FailureReason.UPLOAD_LOST: ("look for a lifecycle rule or a user that aborts uploads; the upload starts over"),
        FailureReason.FINALIZATION: (
            "read its error: a store that requires equal parts (`InvalidPart`, `EntityTooSmall`) needs "
            "`S3_EQUAL_PARTS=true`; if the settings of `retry` have it too, the upload starts over"
        ),
        FailureReason.UNEXPECTED: "the log has the traceback, by the stream's id; report it",
        FailureReason.ABORTED: "it was aborted on purpose (`cef-trio abort`): only `retry ID` resumes it",
    }
)
"""What to do about each before ``cef-trio retry``: on the status page, in ``show``, and in ``docs/operations.md``."""


class Status(StrEnum):
    """The status of a stream, as stored in ``stream:<id>:meta``."""

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
        """Return the status ``failed_<reason>``."""
        return cls(f"failed_{reason.value}")


FAILED: Final = frozenset(Status.failed(reason) for reason in FailureReason)
INTERRUPTED: Final = frozenset({Status.INTERRUPTED_SHUTDOWN, Status.INTERRUPTED_CANCELLED})
ENDED: Final = FAILED | {Status.COMPLETED, Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS}
"""Statuses that a stream leaves only by an operator's command."""


def advice_on(status: Status) -> str | None:
    """Return what to do about a failed stream; ``None``: it has not failed."""
    return _ADVICE_ON.get(status)


_ADVICE_ON: Final = {Status.failed(reason): text for reason, text in ADVICE.items()}

COMES_BACK: Final = frozenset({Status.FAILED_FILE_UNREADABLE})
"""Ended statuses that the daemon resumes by itself. Only earlier versions set them; this version waits for a file that
cannot be read."""

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
"""The set of each status; ``None``: the stream stays in its set (an interruption keeps the phase)."""

TRANSITIONS: Final[Mapping[Status, frozenset[Status]]] = MappingProxyType(
    {
        # An open stream may fail, be interrupted or wait for a retry at any time. It goes back to ACTIVE when its
        # recording grows, is rewritten or is truncated during finalization. It may be completed at any time too: Redis
        # may have lost that its object exists (tests/upload/test_rolled_back_records.py).
        Status.ACTIVE: frozenset(Status),
        Status.PENDING_COMPLETION: frozenset(Status),
        # The object exists; only its metadata JSON is still to be written. It is never uploaded again, so the stream
        # cannot go back. An interruption keeps this status, because it names the next step.
        Status.S3_COMPLETED: frozenset({Status.S3_COMPLETED, Status.RETRYING, Status.COMPLETED}) | FAILED,
        Status.RETRYING: frozenset(Status),
        Status.INTERRUPTED_SHUTDOWN: frozenset(Status),
        Status.INTERRUPTED_CANCELLED: frozenset(Status),
        # Ended. The same transition may be repeated after a lost reply. `retry` makes a failed stream active again;
        # `abort` aborts the upload that a failed stream kept.
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
    """Return whether a stream may go from ``current`` to ``following``; a status may follow itself."""
    return following in TRANSITIONS[current]
