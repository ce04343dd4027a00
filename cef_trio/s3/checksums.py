"""Checksums of bytes that pass by: incremental, in the forms S3 wants. Pure.

S3's rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html. CRCs go over the wire
as base64 of their big-endian bytes, SHA-256 and MD5 as base64 of their digests. CRC64NVME is linear, so the checksum
of a whole object follows from its parts' (``FULL_OBJECT``); nothing needs to be read again for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from awscrt import checksums as crt

from cef_trio.s3.model import ChecksumAlgorithm

_CRC64_BYTES: Final = 8
_CRC32_BYTES: Final = 4


class Calculator(Protocol):
    """Takes bytes block by block and knows their checksum at any time."""

    def update(self, block: bytes, /) -> None:
        """Take more bytes."""
        ...

    def digest(self) -> bytes:
        """The checksum of all bytes so far."""
        ...


class Crc64Nvme:
    """CRC-64/NVME, S3's default checksum."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: int = 0

    def update(self, block: bytes, /) -> None:
        """Take more bytes."""
        self.value = crt.crc64nvme(block, self.value)

    def digest(self) -> bytes:
        """Eight bytes, big-endian."""
        return crc64nvme_bytes(self.value)


class Crc32C:
    """CRC-32C (Castagnoli)."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: int = 0

    def update(self, block: bytes, /) -> None:
        """Take more bytes."""
        self.value = crt.crc32c(block, self.value)

    def digest(self) -> bytes:
        """Four bytes, big-endian."""
        return self.value.to_bytes(_CRC32_BYTES, "big")


def _md5() -> Calculator:
    return hashlib.md5(usedforsecurity=False)


CALCULATORS: Final[Mapping[ChecksumAlgorithm, Callable[[], Calculator]]] = MappingProxyType(
    {
        ChecksumAlgorithm.CRC64NVME: Crc64Nvme,
        ChecksumAlgorithm.CRC32C: Crc32C,
        ChecksumAlgorithm.SHA256: hashlib.sha256,
        ChecksumAlgorithm.MD5: _md5,
    }
)

HEADERS: Final[Mapping[ChecksumAlgorithm, str]] = MappingProxyType(
    {
        ChecksumAlgorithm.CRC64NVME: "x-amz-checksum-crc64nvme",
        ChecksumAlgorithm.CRC32C: "x-amz-checksum-crc32c",
        ChecksumAlgorithm.SHA256: "x-amz-checksum-sha256",
        ChecksumAlgorithm.MD5: "content-md5",
    }
)
"""The request header that carries each; S3 answers with the same ones, but never with ``content-md5``."""


def to_base64(digest: bytes) -> str:
    """A digest as S3's headers and XML carry it."""
    return base64.b64encode(digest).decode("ascii")


def from_base64(text: str) -> bytes | None:
    """A digest as headers and XML carried it; ``None`` for what is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def crc64nvme_bytes(value: int) -> bytes:
    """A CRC64NVME as a digest: eight bytes, big-endian."""
    return value.to_bytes(_CRC64_BYTES, "big")


def crc64nvme_to_base64(value: int) -> str:
    """A CRC64NVME as S3 writes it."""
    return to_base64(crc64nvme_bytes(value))


def crc64nvme_from_base64(text: str | None) -> int | None:
    """A CRC64NVME as S3 wrote it; ``None`` for nothing, and for what is none (composite checksums end in ``-N``)."""
    digest = from_base64(text) if text else None
    return int.from_bytes(digest, "big") if digest is not None and len(digest) == _CRC64_BYTES else None


def crc64nvme(data: bytes) -> int:
    """The CRC64NVME of bytes in memory."""
    value: int = crt.crc64nvme(data)
    return value


def combine_crc64nvme(parts: Iterable[tuple[int, int]]) -> int:
    """The CRC64NVME of a whole, from its parts' ``(crc64nvme, size_bytes)`` in order; 0 for nothing."""
    whole = 0
    for crc, size_bytes in parts:
        whole = crt.combine_crc64nvme(whole, crc, size_bytes)
    return whole
