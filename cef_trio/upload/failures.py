"""Decide which errors end a stream, and with which reason. Pure; used by ``processor.py``.

Transient errors never fail a stream (promise P6). Whether an error is transient is decided before it gets here:

- ``s3/errors.py`` and ``checkpoint/redis/errors.py`` classify the codes of S3 and Redis; a 403 is permanent there.
- ``resilience/retry.py`` makes a refusal transient if ``resilience/outage.py`` finds that all calls are refused, and
  that of a quota in any case.
- ``repeated_errors.py`` makes an error final that was repeated too often. A rejection by S3 is final only then: of some
  keys, or by some servers of a store, it may be of all recordings although the probe is accepted, and pass.

The open upload of a failed stream is kept if ``cef-trio retry`` can resume it, which is while the file exists.
"""

from __future__ import annotations

from typing import Final

from cef_trio.checkpoint import FAILED, SENTENCES, FailureReason, Status, StreamMeta
from cef_trio.exceptions import (
    CefMp4ProcessorError,
    ChunkProcessingError,
    RedisOperationError,
    S3OperationError,
    StreamFinalizationError,
    StreamInitializationError,
)

_ACCESS: Final = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AllAccessDisabled"}
)
_FINALIZING: Final = frozenset({"complete_multipart_upload", "head_object", "put_object"})


class StreamFailedError(CefMp4ProcessorError):
    """A stream failed permanently, for a known reason."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class ResumeError(StreamFailedError, StreamInitializationError):
    """A recorded stream cannot be resumed."""


class CompletionError(StreamFailedError, StreamFinalizationError):
    """A recording cannot be verified or completed."""


def reason_of_error(error: BaseException) -> FailureReason:  # noqa: PLR0911 - it is a table
    """Return the failure reason of a permanent error; ``UNEXPECTED`` if the table has none."""
    match error:
        case StreamFailedError():
            return error.reason
        case S3OperationError(code=code) if code in _ACCESS:
            return FailureReason.ACCESS_DENIED
        case S3OperationError(code="NoSuchBucket"):
            return FailureReason.NO_SUCH_BUCKET
        case S3OperationError(operation="upload_part" | "put_recording"):
            return FailureReason.S3_UPLOAD
        case S3OperationError(operation=operation) if operation in _FINALIZING:
            return FailureReason.FINALIZATION
        case S3OperationError():
            return FailureReason.S3_REFUSED
        case RedisOperationError():
            return FailureReason.REDIS_UPDATE
        case ChunkProcessingError():
            return FailureReason.FILE_UNREADABLE
        case _:
            return FailureReason.UNEXPECTED


def ends_stream(error: CefMp4ProcessorError) -> bool:
    """Return whether the error ends its stream at once. After the others the stream waits, then resumes."""
    waits = error.transient or is_lost_in_s3(error) or is_permission_denied(error) or is_rejected_by_s3(error)
    return not waits


def is_lost_in_s3(error: CefMp4ProcessorError) -> bool:
    """Return whether S3 denied a recorded upload or part; ``recovery.resume`` reconciles that."""
    return isinstance(error, S3OperationError) and error.code in {"NoSuchUpload", "InvalidPart"}


def is_permission_denied(error: BaseException) -> bool:
    """Return whether Redis denied a command (NOPERM). The operator can grant it, so streams wait instead of failing."""
    return isinstance(error, RedisOperationError) and not error.transient and error.rejected


def is_rejected_by_s3(error: BaseException) -> bool:
    """Return whether S3 rejected a call for a reason that may affect all calls, and the probe did not show that."""
    return isinstance(error, S3OperationError) and not error.transient and error.rejected


KEEPS_ITS_UPLOAD: Final = frozenset(FailureReason) - {
    FailureReason.FILE_MISSING_ON_RESUME,
    FailureReason.FILE_REPLACED,
    FailureReason.FILE_TOO_LARGE,
    FailureReason.UPLOAD_LOST,
    FailureReason.ABORTED,
}
"""Failures after which the open upload is kept, so that ``cef-trio retry`` can resume it."""


def aborted_because(meta: StreamMeta) -> str:
    """Return the failure reason of a stream that an operator aborts, in place of the record's."""
    if meta.status is Status.FAILED_ABORTED and meta.failure_reason:
        return meta.failure_reason  # it is repeated
    says = SENTENCES[FailureReason.ABORTED]
    if meta.object_etag is not None:
        says += " Its object is complete in S3 and stays; its metadata JSON was not written."
    if meta.status in FAILED and meta.failure_reason:
        says += f" Before that: {meta.failure_reason}"
    return says
