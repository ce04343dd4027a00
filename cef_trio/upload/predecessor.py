"""A file whose name leads to a completed stream, and which is not as it was verified: what did change of it?

Metadata is not content, and a local change is not a new recording. So before a byte is sent, the file is compared with
the checksums on record:

- All bytes are the same (``touch``, ``rsync -t``, ``cp -a`` to another disk, ``chmod``): the record is corrected, and
  nothing is sent (``correction.py``).
- Some are (it grew, it was cut off, its head was patched): a new stream begins, which *supersedes* the completed one.
  Every part whose bytes are those of a recorded part is copied within S3 from the completed object (UploadPartCopy);
  only what changed is sent (:class:`Base`). The new object's metadata names the superseded one, which stays: a webhook
  may have told of it, and the daemon needs no right to delete anything in the bucket.
- None are: another recording took the name, and a new stream begins that has nothing to do with the old one.

A copied part is proved like a sent one: S3's answer must tell the CRC64NVME (or the other checksum, or the MD5) that
the file's bytes have at that place, and Complete compares the whole object. A copy that fails for any reason is no
trouble: the part is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

from cef_trio.checkpoint import Checkpoint, PartRecord, Status, StreamMeta
from cef_trio.exceptions import RecordingChangedError, S3OperationError
from cef_trio.files import OpenRecording
from cef_trio.s3 import CopiedPart, ObjectRange, looks_like_md5
from cef_trio.upload.part_matching import crc_of
from cef_trio.upload.part_plan import Part, PartPlan
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

_SAMPLES: Final = 3
"""How many parts are compared at most to see whether a file of another size has anything of the completed one."""
_MAX_FAILURES: Final = 3


class ContentMatch(Enum):
    """What a file has of a completed stream's bytes."""

    SAME = "same"
    SOME = "some"
    NONE = "none"


@dataclass(slots=True)
class Base:
    """A completed object of which a stream's parts may be copied."""

    key: str
    etag: str
    parts: Mapping[int, PartRecord]
    failures: int = 0

    async def copy(
        self, services: Services, meta: StreamMeta, recording: OpenRecording, part: Part
    ) -> PartRecord | None:
        """Have S3 copy the part, if the file still has its bytes there; ``None``: it must be sent.

        Raises:
            RecordingChangedError: the file became shorter.
        """
        kept = self.parts.get(part.number)
        if kept is None or kept.size_bytes != part.size_bytes or self.failures >= _MAX_FAILURES:
            return None
        if await crc_of(recording, part.offset, part.size_bytes) != kept.crc64nvme:
            return None
        source = ObjectRange(self.key, self.etag, part.offset, part.size_bytes)
        try:
            copied = await services.s3.upload_part_copy(
                meta.s3_key_prefix, meta.s3_upload_id or "", part.number, source
            )
        except S3OperationError as error:
            # A store that cannot copy will not learn it; anything else is tried again a few times, then given up.
            self.failures = self.failures + 1 if error.transient else _MAX_FAILURES
            log.info("part_not_copied", part_number=part.number, error=str(error))
            return None
        if not _is_proved(copied, kept):
            self.failures = _MAX_FAILURES
            log.info("part_not_copied", part_number=part.number, error="S3 does not tell which bytes it copied")
            return None
        now = services.utc_now()
        return PartRecord(part.number, copied.etag, part.size_bytes, kept.crc64nvme, now, kept.checksum)


def _is_proved(copied: CopiedPart, kept: PartRecord) -> bool:
    if copied.crc64nvme is not None:
        return copied.crc64nvme == kept.crc64nvme
    if copied.checksum is not None and kept.checksum is not None:
        return copied.checksum == kept.checksum
    # An ETag that is equal is always a proof (s3/etags.py): the recorded one was that of these very bytes.
    return looks_like_md5(copied.etag) and copied.etag == kept.etag


async def base_of(services: Services, meta: StreamMeta) -> Base | None:
    """The object that a stream may copy from; ``None`` if there is none, or its parts lie or are proved otherwise.

    Raises:
        RedisOperationError: Redis cannot be asked.
    """
    if meta.supersedes_stream_id is None:
        return None
    before = await services.store.load(meta.supersedes_stream_id)
    if before is None or before.meta.status is not Status.COMPLETED or not before.meta.object_etag:
        return None
    old = before.meta
    aligned = (old.part_size, old.equal_parts) == (meta.part_size, meta.equal_parts)
    elsewhere = old.s3_bucket != meta.s3_bucket or len({old.s3_endpoint, meta.s3_endpoint} - {None}) > 1
    if not aligned or elsewhere or old.checksum_algorithm != meta.checksum_algorithm:
        return None
    size = old.verified_size_bytes or 0
    parts = {part.number: before.parts[part.number] for part in _plan(old).cut(size) if part.number in before.parts}
    return Base(old.s3_key_prefix, before.meta.object_etag, parts)


async def compare_content(recording: OpenRecording, size_bytes: int, completed: Checkpoint) -> ContentMatch:
    """Compare a file of that size with what is recorded of a completed stream.

    A file of the same size is read to the first part that differs; of one of another size some parts are read.
    """
    meta = completed.meta
    verified = meta.verified_size_bytes
    if verified is None:
        return ContentMatch.NONE
    if verified == 0:
        return ContentMatch.SAME if size_bytes == 0 else ContentMatch.SOME
    parts = [part for part in _plan(meta).cut(verified) if part.number in completed.parts]
    if size_bytes == verified:
        agreeing = 0
        for part in parts:
            if not await _agrees(recording, part, completed.parts[part.number]):
                break
            agreeing += part.size_bytes
        if agreeing == verified:
            return ContentMatch.SAME
        if agreeing:
            return ContentMatch.SOME
    inside = [part for part in parts if part.end <= size_bytes]
    for part in (*inside[:1], *inside[:-_SAMPLES:-1]):
        if await _agrees(recording, part, completed.parts[part.number]):
            return ContentMatch.SOME
    return ContentMatch.NONE


async def _agrees(recording: OpenRecording, part: Part, record: PartRecord) -> bool:
    try:
        crc = await crc_of(recording, part.offset, record.size_bytes)
    except RecordingChangedError:
        return False
    return record.size_bytes == part.size_bytes and crc == record.crc64nvme


def _plan(meta: StreamMeta) -> PartPlan:
    return PartPlan(meta.part_size, equal_parts=meta.equal_parts)
