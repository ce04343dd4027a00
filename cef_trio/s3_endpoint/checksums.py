"""S3's checksums on the server side: computed while bytes are received, combined at Complete. Pure.

Rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html. CRC64NVME is always of the
full object, SHA-1 and SHA-256 of a multipart object are always composite (a digest of the parts' digests, followed by
``-<parts>``), CRC32 and CRC32C may be either and are composite by default. Deliberately independent of the client's
``cef_trio.s3.checksums``: the tests' reference must not share its mistakes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Protocol

from awscrt import checksums as crt


class Algorithm(StrEnum):
    """The checksum algorithms of S3. The values are the ends of ``x-amz-checksum-…``."""

    CRC32 = "crc32"
    CRC32C = "crc32c"
    CRC64NVME = "crc64nvme"
    SHA1 = "sha1"
    SHA256 = "sha256"

    @property
    def header(self) -> str:
        """The header that carries it."""
        return f"x-amz-checksum-{self.value}"

    @property
    def element(self) -> str:
        """The XML element that carries it: ``ChecksumCRC64NVME``."""
        return f"Checksum{self.value.upper()}"


class ChecksumType(StrEnum):
    """Whether a multipart object's checksum covers its bytes or its parts' checksums."""

    FULL_OBJECT = "FULL_OBJECT"
    COMPOSITE = "COMPOSITE"


class Hash(Protocol):
    """An incremental hash."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...


class _Crc:
    __slots__ = ("_function", "_size", "_value")

    def __init__(self, function: Callable[[bytes, int], int], size_bytes: int) -> None:
        self._function = function
        self._size = size_bytes
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


_SIZES: Final = MappingProxyType(
    {
        Algorithm.CRC32: 4,
        Algorithm.CRC32C: 4,
        Algorithm.CRC64NVME: 8,
        Algorithm.SHA1: 20,
        Algorithm.SHA256: 32,
    }
)
_COMBINERS: Final[Mapping[Algorithm, Callable[[int, int, int], int]]] = MappingProxyType(
    {
        Algorithm.CRC32: crt.combine_crc32,
        Algorithm.CRC32C: crt.combine_crc32c,
        Algorithm.CRC64NVME: crt.combine_crc64nvme,
    }
)


def start(algorithm: Algorithm) -> Hash:
    """Return a new hash."""
    functions: dict[Algorithm, Any] = {
        Algorithm.CRC32: crt.crc32,
        Algorithm.CRC32C: crt.crc32c,
        Algorithm.CRC64NVME: crt.crc64nvme,
    }
    if algorithm in functions:
        return _Crc(functions[algorithm], _SIZES[algorithm])
    return hashlib.sha256() if algorithm is Algorithm.SHA256 else hashlib.sha1(usedforsecurity=False)


def encode(digest: bytes) -> str:
    """Return a digest in base64, as in headers and XML."""
    return base64.b64encode(digest).decode("ascii")


def is_valid(algorithm: Algorithm, text: str) -> bool:
    """Return whether the text is base64 of a digest of the algorithm's length."""
    try:
        return len(base64.b64decode(text, validate=True)) == _SIZES[algorithm]
    except (binascii.Error, ValueError):
        return False


def default_type(algorithm: Algorithm) -> ChecksumType:
    """Return the type if CreateMultipartUpload names none."""
    return ChecksumType.FULL_OBJECT if algorithm is Algorithm.CRC64NVME else ChecksumType.COMPOSITE


def is_allowed(algorithm: Algorithm, kind: ChecksumType) -> bool:
    """Return whether S3 supports the algorithm with this type."""
    if kind is ChecksumType.FULL_OBJECT:
        return algorithm in _COMBINERS
    return algorithm is not Algorithm.CRC64NVME


def full_object(algorithm: Algorithm, parts: Iterable[tuple[str, int]]) -> str:
    """Return the checksum of the object from ``(base64 checksum, size_bytes)`` of its parts in order; CRCs only.

    Raises:
        KeyError: the algorithm is not a CRC.
    """
    combine = _COMBINERS[algorithm]
    whole = 0
    for text, size_bytes in parts:
        whole = combine(whole, int.from_bytes(base64.b64decode(text), "big"), size_bytes)
    return encode(whole.to_bytes(_SIZES[algorithm], "big"))


def composite(algorithm: Algorithm, parts: Sequence[str]) -> str:
    """Return the checksum of the parts' checksums, followed by their number."""
    calculator = start(algorithm)
    for text in parts:
        calculator.update(base64.b64decode(text))
    return f"{encode(calculator.digest())}-{len(parts)}"


def multipart_etag(parts_md5: Sequence[str]) -> str:
    """Return the ETag of a multipart object, without quotes: MD5 of the parts' MD5s, followed by their number."""
    joined = b"".join(bytes.fromhex(md5) for md5 in parts_md5)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts_md5)}"
