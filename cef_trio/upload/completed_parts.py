"""The parts of a completed stream, which Redis has only until the completion: its metadata JSON has them.

They are needed if the file changed (parts are copied within S3, ``copy_from_previous.py``), and to recognize a file
whose numbers prove nothing (``recognition.py``). A document of an earlier version has no checksums of the parts; the
record of such a stream still has the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import structlog

from cef_trio.checkpoint import Checkpoint, PartRecord, Status
from cef_trio.exceptions import RecordUnreadableError, S3OperationError
from cef_trio.upload.object_key import MAX_METADATA_BYTES, metadata_key
from cef_trio.upload.object_match import parts_of_object, read_metadata
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)


async def load_earlier(services: Services, stream_id: str) -> Checkpoint | None:
    """Return an earlier stream that a file may share bytes with; ``None`` if it is gone, or cannot be read.

    The store notes an unreadable one. Without it more is sent, but the file's own stream does not wait for it (P6).

    Raises:
        RedisOperationError: Redis is unavailable.
    """
    try:
        return await services.store.load(stream_id)
    except RecordUnreadableError:
        return None


async def parts_of(services: Services, checkpoint: Checkpoint) -> Mapping[int, PartRecord]:
    """Return the parts of a stream; none if it is completed, and its metadata JSON cannot be read or lacks them.

    Raises:
        S3OperationError: S3 is unavailable (transient).
    """
    meta = checkpoint.meta
    if meta.status is not Status.COMPLETED or checkpoint.parts or not meta.verified_size_bytes:
        return checkpoint.parts
    if meta.s3_bucket != services.rules.bucket:
        return {}
    try:
        document = await read_metadata_json(services, metadata_key(meta.s3_key_prefix))
    except S3OperationError as error:
        if error.transient:
            raise
        log.info("completed_parts_unknown", stream_id=meta.stream_id, error=str(error))
        return {}
    return parts_of_object(meta, read_metadata(document or b"", meta.stream_id))


async def read_metadata_json(services: Services, key: str) -> bytes | None:
    """Return a metadata JSON, empty if there is none; ``None`` if it is unknown, or too large to be ours.

    Raises:
        S3OperationError: S3 refuses it, or is unavailable.
    """
    read = partial(services.s3.get_small_object, key, max_bytes=MAX_METADATA_BYTES)
    try:
        return await services.attempt("get_object", read) or None
    except S3OperationError as error:
        if error.code == "NoSuchKey":
            return b""
        raise
