"""Exceptions that cross package boundaries.

Exceptions of libraries (httpx, redis, OSError, subprocess) are mapped to these where the library is called, with
``raise … from``. Each message states what was tried, on what, and why it failed; ``transient`` states whether a retry
can succeed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_MAX_MESSAGE: Final = 1500
_MAX_CAUSES: Final = 8


def causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and its causes, the outermost first; of a group, over its first error.

    ``__context__`` is followed too, since some libraries (httpcore's pool) raise ``from None``.
    """
    current: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if current is None:
            return
        if isinstance(current, BaseExceptionGroup):  # one error for each address of a host
            current = current.exceptions[0]
        yield current
        current = current.__cause__ or current.__context__


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Iterate over the errors in nested groups; over the error itself if it is no group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


class CefMp4ProcessorError(Exception):
    """Base class of all errors of cef-trio."""

    transient: bool = False
    """Whether the same call may succeed later without a change by the operator."""


class StreamInitializationError(CefMp4ProcessorError):
    """A stream could not be started or resumed: its file is missing or replaced, or S3 lost its upload."""


class ChunkProcessingError(CefMp4ProcessorError):
    """A part could not be read from its recording."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        self.transient = transient
        super().__init__(message)


class FileAccessError(ChunkProcessingError):
    """The file system refused access to a recording (permissions, disk, file server).

    ``denied``: permission is missing (EACCES, EPERM). Programs that copy or move files set permissions last.
    """

    def __init__(self, message: str, *, denied: bool = False) -> None:
        self.denied = denied
        super().__init__(message, transient=True)


class RecordingTouchedError(ChunkProcessingError):
    """A file had all bytes of its object, and its time stamps changed while they were compared: compare it again."""

    def __init__(self, path: str) -> None:
        why = f"{path!r} has the bytes of its object in S3, and its time stamps changed while they were compared"
        super().__init__(why, transient=True)


class StreamFinalizationError(CefMp4ProcessorError):
    """A recording was uploaded but could not be verified or completed."""


class FFprobeError(CefMp4ProcessorError):
    """ffprobe is missing, failed, timed out, or printed something that is not its JSON."""


class BrokenRecordingError(FFprobeError):
    """ffprobe ran, and found that the file is no recording that can be played."""


class AfterUploadError(CefMp4ProcessorError):
    """An uploaded recording could not be deleted or moved; it is left in place and tried again."""


class RecordingChangedError(CefMp4ProcessorError):
    """The file changed during a read: it became shorter, or its bytes differ between two passes."""

    transient = True


class LeaseLostError(CefMp4ProcessorError):
    """Another daemon owns the stream, or the lease expired; nothing was written, and no further write is allowed."""


class OutdatedError(LeaseLostError):
    """The stream or its file changed between the lookup and the lease; nothing was written. Look it up again."""


class PathTakenError(OutdatedError):
    """The path belongs to another stream now; nothing was written. Look the file up again."""


class StreamEndedError(OutdatedError):
    """The stream ended between the lookup and the lease; no further write is allowed."""

    def __init__(self, message: str, *, completed: bool) -> None:
        self.completed = completed
        super().__init__(message)


class OperationError(CefMp4ProcessorError):
    """A call to an external service failed. ``str()`` is ``<service> operation '<operation>' failed: <message>``."""

    service = "Outside"
    certificate_refused: bool = False
    """Whether a TLS certificate was refused by either side; the start does not wait for that to change."""
    other_topology: bool = False
    """Whether the address leads to a server of another kind than it says; the start does not wait either."""
    rejected: bool = False
    """Whether the service rejected the call for a reason that may affect all calls (credentials, permission, quota,
    bucket); the circuit breaker finds out. Stays set if the breaker made the error transient."""

    over_quota: bool = False
    """Whether a quota has no room for the call's bytes. A smaller call, like a probe's, may still succeed."""
    unreadable: bool = False
    """Whether the reply was not one that this service sends: a proxy's, or of a single odd key; the circuit breaker
    finds out."""

    def __init__(self, operation: str, message: str, *, transient: bool = False) -> None:
        if len(message) > _MAX_MESSAGE:  # may quote a server, and goes to the log and to Redis
            message = f"{message[:_MAX_MESSAGE]}…"
        self.operation = operation
        self.message = message
        self.transient = transient
        super().__init__(f"{self.service} operation {operation!r} failed: {message}")


class S3OperationError(OperationError):
    """An S3 call failed.

    ``code`` is S3's error code (``NoSuchUpload``, ``SlowDown``, …) or, for failures without a reply, the name of the
    network error. ``status`` is the HTTP status, ``None`` without a reply.
    """

    service = "S3"

    def __init__(
        self,
        operation: str,
        message: str,
        *,
        transient: bool = False,
        code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        bucket: str | None = None,
        key: str | None = None,
        part_number: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.code = code
        self.status = status
        self.request_id = request_id
        self.bucket = bucket
        self.key = key
        self.part_number = part_number
        self.retry_after_seconds = retry_after_seconds
        super().__init__(operation, message, transient=transient)


class WebhookOperationError(OperationError):
    """A webhook was not delivered; ``status`` is the HTTP status of the receiver's response, ``None`` without one.

    The message holds only the receiver's host, since the URL may be a secret.
    """

    service = "Webhook"

    def __init__(
        self,
        operation: str,
        message: str,
        *,
        transient: bool = False,
        status: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        super().__init__(operation, message, transient=transient)


class RedisOperationError(OperationError):
    """A Redis call failed; it may have taken effect unless the message states otherwise."""

    service = "Redis"


class RecordUnreadableError(RedisOperationError):
    """The record of one stream cannot be read (edited by hand, or of a newer version); it is left unchanged."""
