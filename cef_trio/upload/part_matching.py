"""Comparing what S3 lists with what the file holds: the bytes decide.

A listed part is taken over only if a checksum that S3 keeps of it (CRC64NVME, else CRC32C or SHA-256, else the MD5 that
is its ETag) is that of the file's bytes at the part's place. A part that cannot be compared does not match: with KMS an
ETag is no MD5, though it may look like one (:mod:`cef_trio.s3.etags`); if S3 keeps nothing else of such a part, it is
sent again, never mistaken.
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
from cef_trio.upload.part_plan import MIN_PART_BYTES, PartPlan


async def crc_of(recording: OpenRecording, offset: int, size_bytes: int) -> int:
    """The CRC64NVME of a piece of the file.

    Raises:
        RecordingChangedError: the file is shorter.
    """
    crc = Crc64Nvme()
    await FileSlice(recording, offset, size_bytes).feed(crc)
    return crc.value


async def matching_parts(
    recording: OpenRecording, listed: Iterable[ListedPart], plan: PartPlan, *, at: datetime
) -> dict[int, PartRecord]:
    """Those of the listed parts whose bytes are the file's, as records (``uploaded_at_utc`` is ``at``)."""
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
        await FileSlice(recording, place.offset, part.size_bytes).feed(crc, calculator)
    except RecordingChangedError:
        return None  # the file ends before the part does
    same = calculator.digest() == kept
    return PartRecord(part.part_number, part.etag, part.size_bytes, crc.value, at, part.checksum) if same else None


def _proof(part: ListedPart) -> tuple[ChecksumAlgorithm, bytes] | None:
    """The best that S3 keeps of a part's bytes; ``None`` if it keeps nothing that can be compared."""
    if part.crc64nvme is not None:
        return ChecksumAlgorithm.CRC64NVME, crc64nvme_bytes(part.crc64nvme)
    if part.checksum is not None and part.checksum_algorithm is not None:
        digest = from_base64(part.checksum)
        return None if digest is None else (part.checksum_algorithm, digest)
    return (ChecksumAlgorithm.MD5, bytes.fromhex(part.etag)) if looks_like_md5(part.etag) else None


def plan_of(listed: Sequence[ListedPart], expected: PartPlan) -> PartPlan | None:
    """The plan by which these parts were cut, judged by their sizes; ``None`` if by none of ours.

    ``expected`` is what the settings say now; the upload may be older than the settings.
    """
    if not listed:
        return expected
    first = min(listed, key=lambda part: part.part_number)
    candidates = [expected]
    if first.part_number == 1 and first.size_bytes >= MIN_PART_BYTES:
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


def algorithm_of(listed: Sequence[ListedPart]) -> ChecksumAlgorithm:
    """How the parts of an upload found in S3 were proved, judged by what S3 keeps of them."""
    if any(part.crc64nvme is not None for part in listed):
        return ChecksumAlgorithm.CRC64NVME
    kept = [part.checksum_algorithm for part in listed if part.checksum_algorithm is not None]
    return kept[0] if kept else ChecksumAlgorithm.MD5
