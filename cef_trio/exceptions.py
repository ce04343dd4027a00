"""Every exception that crosses a room of this project.

Libraries' exceptions (httpx, redis, OSError, subprocess) are mapped to these at the edge where the library is called,
with ``raise … from``, so that inside the house only these are seen. Each says what was tried, on what, why it failed,
and whether trying again can help (``transient``).
"""

from __future__ import annotations

from typing import Final

_MAX_MESSAGE: Final = 1500


class CefMp4ProcessorError(Exception):
    """Base of every error that cef-trio raises on purpose."""

    transient: bool = False
    """Whether the same call may succeed later without anybody changing anything."""


class StreamInitializationError(CefMp4ProcessorError):
    """A stream could not be begun: its file cannot be opened, or no upload could be created for it."""


class ChunkProcessingError(CefMp4ProcessorError):
    """A part could not be read from its recording."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        self.transient = transient
        super().__init__(message)


class FileAccessError(ChunkProcessingError):
    """The file system refused a recording: its rights, its disk, its server. A change on this machine can mend it.

    ``denied``: the rights are missing (EACCES, EPERM). Programs that copy or move set them last.
    """

    def __init__(self, message: str, *, denied: bool = False) -> None:
        self.denied = denied
        super().__init__(message, transient=True)


class StreamFinalizationError(CefMp4ProcessorError):
    """A recording was uploaded but could not be verified or completed."""


class FFprobeError(CefMp4ProcessorError):
    """ffprobe is missing, failed, timed out, or printed something that is not its JSON."""


class AfterUploadError(CefMp4ProcessorError):
    """A recording that is uploaded could not be deleted or moved; it is where it was, and is tried again."""


class RecordingChangedError(CefMp4ProcessorError):
    """The file changed under a read: it is shorter than it was, or its bytes differ between two passes."""

    transient = True


class LeaseLostError(CefMp4ProcessorError):
    """Another daemon owns the stream now, or the lease ran out: nothing was written, and nothing may be."""


class OutdatedError(LeaseLostError):
    """What was seen of a stream or its file before its lease is not so any more: nothing was written; look again."""


class PathTakenError(OutdatedError):
    """The path of a file leads to another stream by now: nothing was written, and the file is to be judged anew."""


class StreamEndedError(OutdatedError):
    """The stream ended between the look at it and its lease: nothing may be done with it any more."""

    def __init__(self, message: str, *, completed: bool) -> None:
        self.completed = completed
        super().__init__(message)


class OperationError(CefMp4ProcessorError):
    """A call of an outside service failed. ``str()`` is ``<service> operation '<operation>' failed: <message>``."""

    service = "Outside"
    certificate_refused: bool = False
    """Whether a certificate was refused, theirs by us or ours by them: no start waits for that to pass."""
    refusal: bool = False
    """Whether it was answered with a no that may strike every call alike (a key, a right, a quota, a bucket): the
    breaker finds out. It stays set where that made it transient."""

    def __init__(self, operation: str, message: str, *, transient: bool = False) -> None:
        if len(message) > _MAX_MESSAGE:  # it quotes what a server said, and goes to the log and to Redis
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
    """A webhook was not delivered; ``status`` is the HTTP status of the receiver's answer, ``None`` without one.

    Its text holds the receiver's host only: a webhook's URL may be a secret.
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
    """A Redis call failed; nothing is known about whether it took effect unless the message says so."""

    service = "Redis"


class RecordUnreadableError(RedisOperationError):
    """One stream's record cannot be read: a person or a newer version wrote it. It is left alone as it is."""
