"""Map permanent errors to the failure reasons of streams. Pure.

Transient errors never fail a stream (promise P6). The open upload of a failed stream is kept if ``cef-trio retry`` can
resume it, which is while the file exists.
"""

from __future__ import annotations

from typing import Final

from cef_trio.checkpoint import FailureReason
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


def reason_of(error: BaseException) -> FailureReason:  # noqa: PLR0911 - it is a table
    """Return the failure reason of a permanent error; ``UNEXPECTED`` if the table has none."""
    match error:
        case StreamFailedError():
            return error.reason
        case S3OperationError(code=code) if code in _ACCESS:
            return FailureReason.ACCESS_DENIED
        case S3OperationError(code="NoSuchBucket"):
            return FailureReason.NO_SUCH_BUCKET
        case S3OperationError(operation="upload_part"):
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


def is_missing_right(error: BaseException) -> bool:
    """Return whether Redis denied a command (NOPERM). The operator can grant it, so streams wait instead of failing."""
    return isinstance(error, RedisOperationError) and not error.transient and error.rejected


KEEPS_ITS_UPLOAD: Final = frozenset(FailureReason) - {
    FailureReason.FILE_MISSING_ON_RESUME,
    FailureReason.FILE_REPLACED,
    FailureReason.FILE_TOO_LARGE,
    FailureReason.UPLOAD_LOST,
    FailureReason.ABORTED,
}
"""Failures after which the open upload is kept, so that ``cef-trio retry`` can resume it."""
