"""Arguments and results of the S3 client: plain values, and the interface of a body's source. No httpx, no trio."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class ChecksumAlgorithm(StrEnum):
    """How a part is verified. The values are those of ``S3_CHECKSUM``, which also has ``auto``."""

    CRC64NVME = "crc64nvme"
    CRC32C = "crc32c"
    SHA256 = "sha256"
    MD5 = "md5"


class ByteSource(Protocol):
    """Bytes that can be read repeatedly: once for the checksum, once for each attempt to send them."""

    @property
    def size_bytes(self) -> int:
        """The number of bytes."""
        ...

    def blocks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from the beginning, in blocks of at most 512 KiB, ``size_bytes`` in total.

        Raises:
            RecordingChangedError: the file has become shorter.
            ChunkProcessingError: the file could not be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class CreatedUpload:
    """A multipart upload that S3 created, and the checksum algorithm of its parts."""

    upload_id: str
    checksum: ChecksumAlgorithm
    repeated: bool = False
    """Whether an earlier attempt failed, which may have created another upload."""


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that S3 acknowledged. ``crc64nvme`` is computed locally, whatever checksum was sent."""

    part_number: int
    size_bytes: int
    etag: str
    crc64nvme: int
    checksum: str | None
    """The checksum that CompleteMultipartUpload must repeat, base64 (crc32c, sha256); else ``None``."""


@dataclass(frozen=True, slots=True)
class ObjectRange:
    """Bytes ``offset`` to ``offset + size_bytes`` of an object with this ETag in the same bucket."""

    key: str
    etag: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """A part that S3 copied from an object. The caller compares it with the expected content."""

    etag: str
    crc64nvme: int | None
    checksum: str | None
    """Another checksum that S3 keeps of the part, base64."""


@dataclass(frozen=True, slots=True)
class ListedPart:
    """An entry of ListParts. ``etag`` is without quotes."""

    part_number: int
    size_bytes: int
    etag: str
    crc64nvme: int | None
    checksum: str | None
    """Another checksum that S3 keeps of the part, base64."""
    checksum_algorithm: ChecksumAlgorithm | None = None
    """The algorithm of ``checksum``: ``CRC32C`` or ``SHA256``."""


@dataclass(frozen=True, slots=True)
class ListedUpload:
    """An entry of ListMultipartUploads."""

    key: str
    upload_id: str
    initiated_at_utc: datetime


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An entry of ListObjectsV2. ``etag`` is without quotes."""

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
    """An enabled lifecycle rule: uploads of keys under ``prefix`` are aborted ``days`` after their creation."""

    prefix: str
    days: int


@dataclass(frozen=True, slots=True)
class PartToComplete:
    """An entry of the list in CompleteMultipartUpload."""

    part_number: int
    etag: str
    size_bytes: int
    crc64nvme: int
    checksum: str | None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object, from CompleteMultipartUpload, PutObject or HeadObject. ``etag`` is without quotes."""

    key: str
    size_bytes: int
    etag: str
    crc64nvme: int | None
    """The full-object CRC64NVME that S3 keeps; ``None`` if it keeps none."""
    metadata: dict[str, str]
    """User metadata, names in lower case and without ``x-amz-meta-``."""
    opaque_etag: bool = False
    """Whether HeadObject or GetObject shows that the ETag does not depend on the content alone (encryption)."""
