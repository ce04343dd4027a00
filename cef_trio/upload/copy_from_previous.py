"""What a file shares with the completed stream that its path leads to, if the file is not as it was verified.

Before anything is sent, the file is compared with the recorded checksums:

- All bytes are equal (``touch``, ``rsync -t``, ``cp -a`` to another disk, ``chmod``): the record is corrected, and
  nothing is sent (``unchanged_content.py``).
- Some are (it grew, was truncated, or its head was patched): a new stream begins, which *supersedes* the completed one.
  Every part that equals a recorded one is copied within S3 from the completed object (UploadPartCopy), and only the
  rest is sent (:class:`CopySource`). The new object's metadata names the superseded one, which is kept: a webhook may
  have announced it, and the daemon needs no permission to delete objects.
- None are: another recording took the path, and an unrelated stream begins.

A copied part is proved like a sent one: S3's response must contain the CRC64NVME (or the other checksum, or the MD5) of
the file's bytes at that offset, and Complete compares the whole object. A part that cannot be copied is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import structlog

from cef_trio.checkpoint import Checkpoint, PartRecord, StreamMeta
from cef_trio.exceptions import S3OperationError
from cef_trio.files import FileSlice, OpenRecording
from cef_trio.s3 import (
    CHECKSUMS,
    ChecksumAlgorithm,
    CopiedPart,
    Crc64Nvme,
    ObjectRange,
    looks_like_md5,
    to_base64,
)
from cef_trio.upload.completed_parts import load_earlier, parts_of
from cef_trio.upload.part_matching import crc_of, has_bytes_of
from cef_trio.upload.part_plan import Part, PartPlan
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

_MAX_SAMPLES: Final = 3
"""How many parts of a file of another size are compared with the completed one."""
_MAX_FAILURES: Final = 3


class ContentMatch(Enum):
    """How much of a completed stream's bytes a file has."""

    SAME = "same"
    SOME = "some"
    NONE = "none"


@dataclass(slots=True)
class CopySource:
    """A completed object from which a stream's parts may be copied."""

    key: str
    etag: str
    parts: Mapping[int, PartRecord]
    failures: int = 0

    async def copy(
        self, services: Services, meta: StreamMeta, recording: OpenRecording, part: Part
    ) -> PartRecord | None:
        """Copy the part within S3 if the file still has its bytes; return ``None`` if it must be sent.

        Raises:
            RecordingChangedError: the file became shorter.
        """
        kept = self.parts.get(part.number)
        if kept is None or kept.size_bytes != part.size_bytes or self.failures >= _MAX_FAILURES:
            return None
        expected = await _expected(meta, recording, part, kept)
        if expected is None:
            return None
        source = ObjectRange(self.key, self.etag, part.offset, part.size_bytes)
        try:
            copied = await services.s3.upload_part_copy(
                meta.s3_key_prefix, meta.s3_upload_id or "", part.number, source
            )
        except S3OperationError as error:
            # A permanent error means that the store cannot copy; a transient one may happen a few times.
            self.failures = self.failures + 1 if error.transient else _MAX_FAILURES
            log.info("part_not_copied", part_number=part.number, error=str(error))
            return None
        if not _is_proved(copied, expected):
            self.failures = _MAX_FAILURES
            log.info("part_not_copied", part_number=part.number, error="S3's answer has no checksum of the copy")
            return None
        now = services.utc_now()
        return replace(expected, etag=copied.etag, uploaded_at_utc=now)


async def _expected(meta: StreamMeta, recording: OpenRecording, part: Part, kept: PartRecord) -> PartRecord | None:
    """Return the part as S3 must have copied it; ``None`` if the file has other bytes there.

    The other checksums are computed from the file, since those of ``kept`` are from a document in the bucket
    (``completed_parts.py``), which others may have changed, or are of bytes that nothing proved.
    """
    algorithm = ChecksumAlgorithm(meta.checksum_algorithm or ChecksumAlgorithm.MD5)
    crc, md5 = Crc64Nvme(), CHECKSUMS[ChecksumAlgorithm.MD5].calculator()
    composite = CHECKSUMS[algorithm].calculator() if CHECKSUMS[algorithm].is_composite else None
    updates = [crc.update, md5.update, *([composite.update] if composite is not None else [])]
    await FileSlice(recording, part.offset, part.size_bytes).feed(*updates)
    if crc.value != kept.crc64nvme:
        return None
    checksum = to_base64(composite.digest()) if composite is not None else None
    return replace(kept, etag=md5.digest().hex(), checksum=checksum)


def _is_proved(copied: CopiedPart, expected: PartRecord) -> bool:
    if copied.crc64nvme is not None:
        return copied.crc64nvme == expected.crc64nvme
    if copied.checksum is not None and expected.checksum is not None:
        return copied.checksum == expected.checksum
    # An equal ETag is always a proof (s3/etags.py).
    return looks_like_md5(copied.etag) and copied.etag.lower() == expected.etag.lower()


async def copy_source_of(services: Services, meta: StreamMeta) -> CopySource | None:
    """Return the object that a stream may copy from; ``None`` without one of the same part size and checksum.

    Raises:
        RedisOperationError, S3OperationError: Redis or S3 is unavailable.
    """
    if meta.supersedes_stream_id is None:
        return None
    before = await load_earlier(services, meta.supersedes_stream_id)
    if before is None or not before.meta.object_etag:
        return None
    old = before.meta
    aligned = (old.part_size, old.equal_parts) == (meta.part_size, meta.equal_parts)
    elsewhere = old.s3_bucket != meta.s3_bucket or len({old.s3_endpoint, meta.s3_endpoint} - {None}) > 1
    if not aligned or elsewhere or old.checksum_algorithm != meta.checksum_algorithm:
        return None
    size, plan = old.verified_size_bytes or 0, PartPlan.of(old)
    if size > plan.max_size_bytes:
        return None  # edited by hand
    pairs = plan.pair(size, await parts_of(services, before))
    parts = {part.number: record for part, record in pairs if record is not None}
    return CopySource(old.s3_key_prefix, before.meta.object_etag, parts)


async def compare_content(  # noqa: PLR0911 - a return a rule
    recording: OpenRecording, size_bytes: int, completed: Checkpoint
) -> ContentMatch:
    """Compare a file of that size with the recorded checksums of a completed stream.

    A file of the same size is read up to the first part that differs; of any other file a few parts are read. Without
    parts only the checksum of the whole object can be compared.
    """
    meta = completed.meta
    verified = meta.verified_size_bytes
    if verified is None or verified > PartPlan.of(meta).max_size_bytes:
        return ContentMatch.NONE  # the second is edited by hand, and must not fail the file's own stream (P6)
    if verified == 0:
        return ContentMatch.SAME if size_bytes == 0 else ContentMatch.SOME
    parts = [part for part in PartPlan.of(meta).split(verified) if part.number in completed.parts]
    if not parts and size_bytes == verified and meta.object_crc64nvme is not None:
        same = await crc_of(recording, 0, size_bytes) == meta.object_crc64nvme
        return ContentMatch.SAME if same else ContentMatch.NONE
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
    for part in (*inside[:1], *inside[:-_MAX_SAMPLES:-1]):
        if await _agrees(recording, part, completed.parts[part.number]):
            return ContentMatch.SOME
    return ContentMatch.NONE


async def _agrees(recording: OpenRecording, part: Part, record: PartRecord) -> bool:
    return record.size_bytes == part.size_bytes and await has_bytes_of(record, recording, part.offset)
