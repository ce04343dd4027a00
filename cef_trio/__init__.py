"""cef-trio uploads growing video recordings to S3-compatible storage while they are still being written.

The promises (P1 … P10), the rooms and the glossary are in ``docs/architecture.md``.
"""

from cef_trio.exceptions import (
    AfterUploadError,
    BrokenRecordingError,
    CefMp4ProcessorError,
    ChunkProcessingError,
    FFprobeError,
    FileAccessError,
    LeaseLostError,
    OperationError,
    OutdatedError,
    PathTakenError,
    RecordingChangedError,
    RecordingTouchedError,
    RecordUnreadableError,
    RedisOperationError,
    S3OperationError,
    StreamEndedError,
    StreamFinalizationError,
    StreamInitializationError,
    WebhookOperationError,
)

__version__ = "0.1.0"

__all__ = [
    "AfterUploadError",
    "BrokenRecordingError",
    "CefMp4ProcessorError",
    "ChunkProcessingError",
    "FFprobeError",
    "FileAccessError",
    "LeaseLostError",
    "OperationError",
    "OutdatedError",
    "PathTakenError",
    "RecordUnreadableError",
    "RecordingChangedError",
    "RecordingTouchedError",
    "RedisOperationError",
    "S3OperationError",
    "StreamEndedError",
    "StreamFinalizationError",
    "StreamInitializationError",
    "WebhookOperationError",
    "__version__",
]
