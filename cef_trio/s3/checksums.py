"""The checksum algorithms of S3: one table, incremental calculators, base64. Pure.

Rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html. A CRC is sent as the base64
of its big-endian bytes, SHA-256 and MD5 as the base64 of their digests. CRC64NVME is linear, so the checksum of an
object is computed from those of its parts (``FULL_OBJECT``) without reading it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from awscrt import checksums as crt

from cef_trio.s3.model import ChecksumAlgorithm

FULL_OBJECT: Final = "FULL_OBJECT"
COMPOSITE: Final = "COMPOSITE"
_CRC64_BYTES: Final = 8
_CRC32_BYTES: Final = 4


class Calculator(Protocol):
    """An incremental checksum; ``hashlib`` objects have this interface."""

    def update(self, block: bytes, /) -> None:
        """Add bytes."""
        ...

    def digest(self) -> bytes:
        """Return the checksum of all bytes so far."""
        ...


class _Crc:
    __slots__ = ("_add", "_size_bytes", "value")

    def __init__(self, add: Callable[[bytes, int], int], size_bytes: int) -> None:
        self._add = add
        self._size_bytes = size_bytes
        self.value = 0

    def update(self, block: bytes, /) -> None:
        """Add bytes."""
        self.value = self._add(block, self.value)

    def digest(self) -> bytes:
        """Return the value, big-endian."""
        return self.value.to_bytes(self._size_bytes, "big")


class Crc64Nvme(_Crc):
    """CRC-64/NVME, S3's default checksum."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(crt.crc64nvme, _CRC64_BYTES)


def _crc32c() -> Calculator:
    return _Crc(crt.crc32c, _CRC32_BYTES)


def _md5() -> Calculator:
    return hashlib.md5(usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class Checksum:
    """How one algorithm is computed, and how requests and responses carry its value."""

    calculator: Callable[[], Calculator]
    header: str
    """The request header of a part or object. S3 responds with the same one, except ``content-md5``."""
    xml_element: str = ""
    """The element of a part in ListParts and CompleteMultipartUpload; empty for MD5, which has none."""
    object_type: str | None = None
    """``x-amz-checksum-type`` of a multipart upload; ``None`` where S3 keeps no checksum of the object."""

    @property
    def is_composite(self) -> bool:
        """Whether CompleteMultipartUpload must repeat the value of every part."""
        return self.object_type == COMPOSITE


CHECKSUMS: Final[Mapping[ChecksumAlgorithm, Checksum]] = MappingProxyType(
    {
        ChecksumAlgorithm.CRC64NVME: Checksum(Crc64Nvme, "x-amz-checksum-crc64nvme", "ChecksumCRC64NVME", FULL_OBJECT),
        ChecksumAlgorithm.CRC32C: Checksum(_crc32c, "x-amz-checksum-crc32c", "ChecksumCRC32C", COMPOSITE),
        ChecksumAlgorithm.SHA256: Checksum(hashlib.sha256, "x-amz-checksum-sha256", "ChecksumSHA256", COMPOSITE),
        ChecksumAlgorithm.MD5: Checksum(_md5, "content-md5"),
    }
)
"""All that the client knows of each algorithm. A new one is an entry here, in :class:`ChecksumAlgorithm` and in
:class:`~cef_trio.s3.config.ChecksumMode`."""


def to_base64(digest: bytes) -> str:
    """Return a digest in base64, as headers and XML carry it."""
    return base64.b64encode(digest).decode("ascii")


def from_base64(text: str) -> bytes | None:
    """Return a digest from base64; ``None`` if it is not valid base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def crc64nvme_bytes(value: int) -> bytes:
    """Return a CRC64NVME as a digest: eight bytes, big-endian."""
    return value.to_bytes(_CRC64_BYTES, "big")


def crc64nvme_to_base64(value: int) -> str:
    """Return a CRC64NVME in base64, as headers and XML carry it."""
    return to_base64(crc64nvme_bytes(value))


def crc64nvme_from_base64(text: str | None) -> int | None:
    """Return a CRC64NVME from base64; ``None`` if it is missing or invalid (a composite checksum ends in ``-N``)."""
    digest = from_base64(text) if text else None
    return int.from_bytes(digest, "big") if digest is not None and len(digest) == _CRC64_BYTES else None


def crc64nvme(data: bytes) -> int:
    """Return the CRC64NVME of bytes in memory."""
    value: int = crt.crc64nvme(data)
    return value


def combine_crc64nvme(parts: Iterable[tuple[int, int]]) -> int:
    """Return the CRC64NVME of an object from its parts' ``(crc64nvme, size_bytes)`` in order; 0 without parts."""
    whole = 0
    for crc, size_bytes in parts:
        whole = crt.combine_crc64nvme(whole, crc, size_bytes)
    return whole


def composite_checksum(algorithm: ChecksumAlgorithm, parts: Iterable[str | None]) -> str | None:
    """Return the ``COMPOSITE`` checksum of an object from those of its parts (base64); ``None`` if one is missing."""
    calculator, count = CHECKSUMS[algorithm].calculator(), 0
    for part in parts:
        digest = from_base64(part) if part is not None else None
        if digest is None:
            return None
        calculator.update(digest)
        count += 1
    return f"{to_base64(calculator.digest())}-{count}"
