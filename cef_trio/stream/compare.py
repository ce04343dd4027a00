"""Comparing what S3 lists with what the file holds: the bytes decide.

A listed part is taken over only if a checksum that S3 keeps of it (CRC64NVME, else the MD5 that is its ETag) is that of
the file's bytes at the part's place. A part that cannot be compared does not match: with KMS an ETag is no MD5, though
it may look like one (:mod:`cef_trio.s3.etags`); without a CRC64NVME such a part is sent again, never mistaken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

from cef_trio.checkpoint.model import PartRecord
from cef_trio.disk import FileSlice, OpenRecording
from cef_trio.exceptions import RecordingChangedError
from cef_trio.s3.checksums import Crc64Nvme
from cef_trio.s3.etags import looks_like_md5
from cef_trio.s3.model import ChecksumAlgorithm, ListedPart
from cef_trio.stream.parts import MIN_PART_BYTES, PartPlan


async def crc_of(recording: OpenRecording, offset: int, size_bytes: int) -> int:
    """The CRC64NVME of a piece of the file.

    Raises:
        RecordingChangedError: the file is shorter.
    """
    crc = Crc64Nvme()
    async for block in FileSlice(recording, offset, size_bytes).blocks():
        crc.update(block)
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
    if part.size_bytes > place.size_bytes or (part.crc64nvme is None and not looks_like_md5(part.etag)):
        return None
    crc = Crc64Nvme()
    md5 = hashlib.md5(usedforsecurity=False)
    try:
        async for block in FileSlice(recording, place.offset, part.size_bytes).blocks():
            crc.update(block)
            if part.crc64nvme is None:
                md5.update(block)
    except RecordingChangedError:
        return None  # the file ends before the part does
    same = crc.value == part.crc64nvme if part.crc64nvme is not None else md5.hexdigest() == part.etag.lower()
    return PartRecord(part.part_number, part.etag, part.size_bytes, crc.value, at, part.checksum) if same else None


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
    return ChecksumAlgorithm.MD5
