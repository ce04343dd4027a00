"""Compare the parts that S3 lists with the bytes of the file.

A listed part is adopted only if a checksum that S3 keeps of it (CRC64NVME, else CRC32C or SHA-256, else an ETag that is
an MD5) equals that of the file's bytes at the part's offset. A part that cannot be compared does not match: with KMS an
ETag is not an MD5, even if it looks like one (:mod:`cef_trio.s3.etags`), and such a part is sent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from cef_trio.checkpoint import PartRecord
from cef_trio.exceptions import RecordingChangedError
from cef_trio.files import FileSlice, OpenRecording
from cef_trio.s3 import (
    CHECKSUMS,
    ChecksumAlgorithm,
    Crc64Nvme,
    ListedPart,
    crc64nvme_bytes,
    from_base64,
    looks_like_md5,
)
from cef_trio.upload.part_plan import MAX_PART_BYTES, MIN_PART_BYTES, PartPlan


async def crc_of(recording: OpenRecording, offset: int, size_bytes: int) -> int:
    """Return the CRC64NVME of a range of the file.

    Raises:
        RecordingChangedError: the file is shorter.
    """
    crc = Crc64Nvme()
    await FileSlice(recording, offset, size_bytes).feed(crc.update)
    return crc.value


async def has_bytes_of(record: PartRecord, recording: OpenRecording, offset: int) -> bool:
    """Return whether the file has the bytes of a recorded part at that offset; false if it is shorter."""
    try:
        return await crc_of(recording, offset, record.size_bytes) == record.crc64nvme
    except RecordingChangedError:
        return False


async def matching_parts(
    recording: OpenRecording, listed: Iterable[ListedPart], plan: PartPlan, *, at: datetime
) -> dict[int, PartRecord]:
    """Return records of the listed parts whose bytes are the file's (``uploaded_at_utc`` is ``at``)."""
    matching = {}
    for part in listed:
        record = await _match(recording, part, plan, at)
        if record is not None:
            matching[part.part_number] = record
    return matching


async def _match(recording: OpenRecording, part: ListedPart, plan: PartPlan, at: datetime) -> PartRecord | None:
    place = plan.part(part.part_number)
    proof = _proof(part)
    if part.size_bytes > place.size_bytes or proof is None:
        return None
    algorithm, kept = proof
    crc, calculator = Crc64Nvme(), CHECKSUMS[algorithm].calculator()
    try:
        await FileSlice(recording, place.offset, part.size_bytes).feed(crc.update, calculator.update)
    except RecordingChangedError:
        return None  # the file ends before the part does
    same = calculator.digest() == kept
    return PartRecord(part.part_number, part.etag, part.size_bytes, crc.value, at, part.checksum) if same else None


def _proof(part: ListedPart) -> tuple[ChecksumAlgorithm, bytes] | None:
    """Return the best checksum that S3 keeps of a part; ``None`` if none can be compared."""
    if part.crc64nvme is not None:
        return ChecksumAlgorithm.CRC64NVME, crc64nvme_bytes(part.crc64nvme)
    if part.checksum is not None and part.checksum_algorithm is not None:
        digest = from_base64(part.checksum)
        return None if digest is None else (part.checksum_algorithm, digest)
    return (ChecksumAlgorithm.MD5, bytes.fromhex(part.etag)) if looks_like_md5(part.etag) else None


def plan_of(listed: Sequence[ListedPart], expected: PartPlan) -> PartPlan | None:
    """Return the plan by which these parts were cut, judged by their sizes; ``None`` if no plan fits.

    ``expected`` is the plan of the current settings; the upload may be older.
    """
    if not listed:
        return expected
    first = min(listed, key=lambda part: part.part_number)
    candidates = [expected]
    if first.part_number == 1 and MIN_PART_BYTES <= first.size_bytes <= MAX_PART_BYTES:
        candidates += [PartPlan(first.size_bytes), PartPlan(first.size_bytes, equal_parts=True)]
    last = max(part.part_number for part in listed)
    for plan in candidates:
        if all(
            part.size_bytes == plan.part(part.part_number).size_bytes
            or (part.part_number == last and part.size_bytes < plan.part(last).size_bytes)
            for part in listed
        ):
            return plan
    return None


def upload_checksum_algorithm(listed: Sequence[ListedPart]) -> ChecksumAlgorithm:
    """Return the checksum algorithm with which a listed upload's parts were sent."""
    if any(part.crc64nvme is not None for part in listed):
        return ChecksumAlgorithm.CRC64NVME
    kept = [part.checksum_algorithm for part in listed if part.checksum_algorithm is not None]
    return kept[0] if kept else ChecksumAlgorithm.MD5
