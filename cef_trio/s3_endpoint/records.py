"""Records: buckets, objects, open uploads and their parts, as plain values; ``to_json`` is their form on disk.

Checksums are base64, by algorithm; ETags are without quotes; times are Unix seconds.
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
class MultipartUpload:
    """An open multipart upload. ``algorithm`` is ``None`` if the request had none."""

    upload_id: str
    bucket: str
    key: str
    initiated_at: float
    headers: Mapping[str, str]
    """The object's response headers to GET and HEAD: content type, user metadata, storage class, …"""
    algorithm: Algorithm | None = None
    checksum_type: ChecksumType | None = None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object. ``upload_id`` is the multipart upload that created it."""

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
    """A bucket; ``lifecycle`` is the configuration document as sent, ``ownership`` determines whether it has ACLs."""

    name: str
    created_at: float
    lifecycle: str | None = None
    ownership: str = "BucketOwnerEnforced"


@dataclass(frozen=True, slots=True)
class StorageSnapshot:
    """All records of a storage."""

    buckets: list[Bucket] = field(default_factory=list)
    objects: list[StoredObject] = field(default_factory=list)
    uploads: list[tuple[MultipartUpload, list[StoredPart]]] = field(default_factory=list)


Record = Bucket | StoredObject | MultipartUpload | StoredPart


def to_json(record: Record) -> dict[str, Any]:
    """Return a record as JSON values."""
    return asdict(record)


def bucket_from_json(data: dict[str, Any]) -> Bucket:
    """Return a record from the result of ``to_json``."""
    return Bucket(**data)


def part_from_json(data: dict[str, Any]) -> StoredPart:
    """Return a record from the result of ``to_json``."""
    return StoredPart(**data)


def upload_from_json(data: dict[str, Any]) -> MultipartUpload:
    """Return a record from the result of ``to_json``."""
    algorithm, kind = data.pop("algorithm"), data.pop("checksum_type")
    return MultipartUpload(
        **data,
        algorithm=None if algorithm is None else Algorithm(algorithm),
        checksum_type=None if kind is None else ChecksumType(kind),
    )


def object_from_json(data: dict[str, Any]) -> StoredObject:
    """Return a record from the result of ``to_json``."""
    kind = data.pop("checksum_type")
    return StoredObject(**data, checksum_type=None if kind is None else ChecksumType(kind))
