"""Decide whether an object in S3 has a file's bytes, and read its metadata JSON. Pure.

One of these must prove it, in this order, and no other evidence may contradict:

1. S3's own CRC64NVME of the whole object.
2. Its ETag, if it equals the one computed from these parts (``s3/etags.py``: an equal one is always a proof).
3. The metadata JSON, if it names that ETag: its checksum was computed when the object was completed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cef_trio.checkpoint import PartRecord, StreamMeta
from cef_trio.checkpoint.redis import decode_time
from cef_trio.s3 import (
    ListedPart,
    StoredObject,
    combine_crc64nvme,
    crc64nvme_from_base64,
    looks_like_md5,
    multipart_etag,
)
from cef_trio.upload.part_plan import MAX_PARTS, PartPlan


@dataclass(frozen=True, slots=True)
class PartDigest:
    """The checksums of one part of a file. ``md5`` is hexadecimal."""

    size_bytes: int
    crc64nvme: int
    md5: str


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The checksums of a file's parts, as a plan cuts them."""

    plan: PartPlan
    parts: tuple[PartDigest, ...]

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def crc64nvme(self) -> int:
        """The CRC64NVME of the whole file."""
        return combine_crc64nvme((part.crc64nvme, part.size_bytes) for part in self.parts)

    @property
    def etags(self) -> frozenset[str]:
        """The possible ETags of an object of these parts, where ETags are MD5s: of an upload, of one PutObject."""
        if not self.parts:
            return frozenset({hashlib.md5(b"", usedforsecurity=False).hexdigest()})
        md5s = [part.md5 for part in self.parts]
        found = {multipart_etag(md5s), *(md5s if len(md5s) == 1 else ())}
        return frozenset(etag for etag in found if etag is not None)


@dataclass(frozen=True, slots=True)
class ObjectMetadata:
    """The contents of a metadata JSON."""

    parts: tuple[ListedPart, ...]
    etag: str | None
    crc64nvme: int
    started_at_utc: datetime
    recording_began_at_utc: datetime | None
    """``None``: an earlier version wrote the document."""
    completed_at_utc: datetime | None
    duration_seconds: float | None
    records: tuple[PartRecord, ...]
    """The parts with their checksums; empty if an earlier version wrote the document, without them."""


def read_metadata(document: bytes, stream_id: str) -> ObjectMetadata | None:
    """Read a metadata JSON (``media/metadata.py``); ``None`` if it is not valid, or not this stream's."""
    try:
        loaded = json.loads(document)
    except (ValueError, RecursionError):
        return None
    if not isinstance(loaded, Mapping) or loaded.get("stream_id") != stream_id:
        return None
    try:
        return _read(loaded)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _read(loaded: Mapping[str, Any]) -> ObjectMetadata:
    chunks, checksum, etag = loaded["chunks"], loaded["checksum"], loaded["etag"]
    crc = crc64nvme_from_base64(str(checksum["value"])) if checksum["algorithm"] == "crc64nvme" else None
    parts = tuple(
        ListedPart(number, _size(chunk["size_bytes"]), str(chunk["etag"]), None, None)
        for number, chunk in enumerate(chunks, start=1)
        if chunk["part_number"] == number
    )
    if crc is None or len(parts) != len(chunks) or len(parts) > MAX_PARTS:
        raise ValueError("not a valid metadata JSON")
    records = tuple(_record(part, chunk) for part, chunk in zip(parts, chunks, strict=True) if "crc64nvme" in chunk)
    completed, duration = loaded["stream_completed_at_utc"], loaded["duration_seconds"]
    began = loaded.get("recording_began_at_utc")
    if duration is not None and not math.isfinite(float(duration)):
        raise ValueError("not a valid metadata JSON")
    return ObjectMetadata(
        parts,
        etag if isinstance(etag, str) and etag else None,
        crc,
        decode_time(loaded["stream_started_at_utc"]),
        decode_time(began) if began is not None else None,
        decode_time(completed) if completed is not None else None,
        float(duration) if duration is not None else None,
        records if len(records) == len(parts) else (),
    )


def _record(part: ListedPart, chunk: Mapping[str, Any]) -> PartRecord:
    crc, checksum = crc64nvme_from_base64(str(chunk["crc64nvme"])), chunk.get("checksum")
    if crc is None or not isinstance(checksum, str | None):
        raise ValueError("not a valid chunk")
    return PartRecord(
        part.part_number, part.etag, part.size_bytes, crc, decode_time(chunk["uploaded_at_utc"]), checksum
    )


def parts_of_object(meta: StreamMeta, metadata: ObjectMetadata | None) -> dict[int, PartRecord]:
    """Return the parts of a completed stream by its metadata JSON; none if that is of another object, or has none."""
    records = metadata.records if metadata is not None and metadata.etag == meta.object_etag else ()
    if sum(record.size_bytes for record in records) != meta.verified_size_bytes:
        return {}
    crc = combine_crc64nvme((record.crc64nvme, record.size_bytes) for record in records)
    if meta.object_crc64nvme not in {None, crc}:
        return {}
    return {record.part_number: record for record in records}


def _size(value: object) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is not a size")
    return value


def is_same(digest: FileDigest, stored: StoredObject, metadata: ObjectMetadata | None) -> bool:
    """Return whether the object is proved to have the file's bytes.

    Without its metadata the ETag must prove them, since the parts' ETags, which are recorded, are known only then.
    """
    if stored.size_bytes != digest.size_bytes or stored.crc64nvme not in {None, digest.crc64nvme}:
        return False
    by_etag = stored.etag in digest.etags
    if metadata is None:
        return by_etag
    sizes = [part.size_bytes for part in metadata.parts]  # none if Redis had lost the parts
    if metadata.crc64nvme != digest.crc64nvme or (sizes and sizes != [part.size_bytes for part in digest.parts]):
        return False
    return stored.crc64nvme is not None or by_etag or (bool(stored.etag) and metadata.etag == stored.etag)


def part_records(digest: FileDigest, metadata: ObjectMetadata | None, *, at: datetime) -> list[PartRecord]:
    """Return the records of the object's parts."""
    etags: Sequence[str]
    known = metadata.parts if metadata is not None else ()
    etags = [part.etag for part in known] if known else [part.md5 for part in digest.parts]
    return [
        PartRecord(number, etag, part.size_bytes, part.crc64nvme, at)
        for number, (part, etag) in enumerate(zip(digest.parts, etags, strict=True), start=1)
    ]


def object_checksum_algorithm(digest: FileDigest, stored: StoredObject, parts: Sequence[PartRecord]) -> str | None:
    """Return the algorithm that proves parts which S3 copies for a later version; ``None`` if none does."""
    if stored.crc64nvme is not None:
        return "crc64nvme"
    as_md5 = all(looks_like_md5(part.etag) for part in parts) and stored.etag in digest.etags
    return "md5" if parts and as_md5 else None
