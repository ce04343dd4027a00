"""What the endpoint remembers: buckets, objects, open uploads and their parts, as plain values.

These are the values that a storage keeps and gives back; ``to_json`` and ``from_json`` are their form on disk.
Checksums are base64 as S3 sends them, by algorithm; ETags are without quotes; moments are Unix seconds (UTC).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cef_trio.s3_endpoint.checksums import Algorithm, ChecksumType


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part of an open upload."""

    number: int
    size_bytes: int
    etag: str
    blob: str
    modified_at: float
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Upload:
    """An open multipart upload. ``algorithm`` is ``None`` if the client named none."""

    upload_id: str
    bucket: str
    key: str
    initiated_at: float
    headers: Mapping[str, str]
    """What the object will answer to GET and HEAD: content type, user metadata, storage class, …"""
    algorithm: Algorithm | None = None
    checksum_type: ChecksumType | None = None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object. ``upload_id`` is that of the multipart upload it came from."""

    bucket: str
    key: str
    size_bytes: int
    etag: str
    blob: str
    modified_at: float
    headers: Mapping[str, str]
    checksums: Mapping[str, str] = field(default_factory=dict)
    checksum_type: ChecksumType | None = None
    upload_id: str | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket; ``lifecycle`` is the configuration document as it was put, ``ownership`` says whether it has ACLs."""

    name: str
    created_at: float
    lifecycle: str | None = None
    ownership: str = "BucketOwnerEnforced"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a storage remembers."""

    buckets: list[Bucket] = field(default_factory=list)
    objects: list[StoredObject] = field(default_factory=list)
    uploads: list[tuple[Upload, list[StoredPart]]] = field(default_factory=list)


Record = Bucket | StoredObject | Upload | StoredPart


def to_json(record: Record) -> dict[str, Any]:
    """A record as JSON knows it."""
    return asdict(record)


def bucket_from_json(data: dict[str, Any]) -> Bucket:
    """Read back what ``to_json`` wrote."""
    return Bucket(**data)


def part_from_json(data: dict[str, Any]) -> StoredPart:
    """Read back what ``to_json`` wrote."""
    return StoredPart(**data)


def upload_from_json(data: dict[str, Any]) -> Upload:
    """Read back what ``to_json`` wrote."""
    algorithm, kind = data.pop("algorithm"), data.pop("checksum_type")
    return Upload(
        **data,
        algorithm=None if algorithm is None else Algorithm(algorithm),
        checksum_type=None if kind is None else ChecksumType(kind),
    )


def object_from_json(data: dict[str, Any]) -> StoredObject:
    """Read back what ``to_json`` wrote."""
    kind = data.pop("checksum_type")
    return StoredObject(**data, checksum_type=None if kind is None else ChecksumType(kind))
