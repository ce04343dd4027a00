"""What goes into the S3 client and what comes out of it: plain values, and the one interface it asks of its caller.

Pure: no httpx, no trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class ChecksumAlgorithm(StrEnum):
    """How a part's bytes are proved to S3. The values are those of ``S3_CHECKSUM`` (there also ``auto``)."""

    CRC64NVME = "crc64nvme"
    CRC32C = "crc32c"
    SHA256 = "sha256"
    MD5 = "md5"


class ByteSource(Protocol):
    """Bytes that can be read from their beginning more than once: once for the checksum, once for each sending."""

    @property
    def size_bytes(self) -> int:
        """How many bytes there are."""
        ...

    def blocks(self) -> AsyncIterator[bytes]:
        """Read them from the beginning, in blocks of at most 512 KiB, ``size_bytes`` in all.

        Raises:
            RecordingChangedError: there are fewer bytes than there were.
            ChunkProcessingError: the disk could not be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class CreatedUpload:
    """A multipart upload that S3 opened, and how its parts are to be proved."""

    upload_id: str
    checksum: ChecksumAlgorithm


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that S3 acknowledged. ``crc64nvme`` is ours, of the bytes that were sent, whatever S3 was told."""

    part_number: int
    size_bytes: int
    etag: str
    crc64nvme: int
    checksum: str | None
    """What Complete must repeat for this part, base64 (crc32c, sha256); ``None`` for crc64nvme and md5."""


@dataclass(frozen=True, slots=True)
class ObjectRange:
    """Bytes ``offset`` to ``offset + size_bytes`` of an object of the same bucket, which has that ETag."""

    key: str
    etag: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """A part that S3 made of an object's bytes, and what it says of it. Whoever copies compares it."""

    etag: str
    crc64nvme: int | None
    checksum: str | None
    """Another checksum that S3 keeps of it, base64."""


@dataclass(frozen=True, slots=True)
class ListedPart:
    """A part as ListParts tells it. ``etag`` is without quotes."""

    part_number: int
    size_bytes: int
    etag: str
    crc64nvme: int | None
    checksum: str | None
    """Another checksum that S3 keeps of it, base64."""
    checksum_algorithm: ChecksumAlgorithm | None = None
    """Which one that is: ``CRC32C`` or ``SHA256``."""


@dataclass(frozen=True, slots=True)
class ListedUpload:
    """An open multipart upload as ListMultipartUploads tells it."""

    key: str
    upload_id: str
    initiated_at_utc: datetime


@dataclass(frozen=True, slots=True)
class ListedObject:
    """A finished object as ListObjectsV2 tells it. ``etag`` is without quotes."""

    key: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class ObjectsPage:
    """A page of ListObjectsV2; ``next_token`` is ``None`` on the last one."""

    objects: tuple[ListedObject, ...]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class AbortRule:
    """An enabled lifecycle rule: uploads of keys under ``prefix`` are aborted ``days`` after they began."""

    prefix: str
    days: int


@dataclass(frozen=True, slots=True)
class PartToComplete:
    """One entry of the list that CompleteMultipartUpload sends."""

    part_number: int
    etag: str
    size_bytes: int
    crc64nvme: int
    checksum: str | None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A finished object, as Complete, PutObject or HeadObject tell it. ``etag`` is without quotes."""

    key: str
    size_bytes: int
    etag: str
    crc64nvme: int | None
    """The full-object CRC64NVME that S3 itself holds; ``None`` where the store keeps none."""
    metadata: dict[str, str]
    """User metadata, names in lower case and without ``x-amz-meta-``."""
