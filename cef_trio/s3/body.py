"""Request bodies in two passes: :func:`measure` computes checksums, :class:`CheckedBody` reads again and sends.

Memory is one block, whatever the size. The file may change between the passes, so the second pass computes the
CRC64NVME again and sends the last block only if both agree. Otherwise the request ends before its Content-Length, S3
stores nothing, and :class:`RecordingChangedError` (transient: the part is read again) is raised.

The second pass sends a block in pieces of ``WRITE_BYTES``, and :class:`~cef_trio.s3.rate_limiter.RateLimiter` may make
them smaller.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import httpx

from cef_trio.exceptions import RecordingChangedError
from cef_trio.resilience import stall
from cef_trio.s3.checksums import CHECKSUMS, Crc64Nvme
from cef_trio.s3.model import ByteSource, ChecksumAlgorithm
from cef_trio.s3.rate_limiter import RateLimiter

BLOCK_BYTES: Final = 512 * 1024
WRITE_BYTES: Final = 64 * 1024
"""The most bytes of one write to the socket, which ``S3_WRITE_TIMEOUT_SECONDS`` limits.

A connection that needs longer for them never gets a part through: with four parts at once, on a line below 35 kbit/s.
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Size and checksums found by the first pass."""

    size_bytes: int
    crc64nvme: int
    digests: Mapping[ChecksumAlgorithm, bytes]


class BytesSource:
    """Bytes in memory as a :class:`ByteSource`."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        """The number of bytes."""
        return len(self._data)

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from the beginning; no checkpoint."""
        for offset in range(0, len(self._data), BLOCK_BYTES):
            yield self._data[offset : offset + BLOCK_BYTES]


async def measure(source: ByteSource, algorithms: AbstractSet[ChecksumAlgorithm]) -> Measured:
    """Read a source once and compute these checksums, and CRC64NVME in any case.

    Raises:
        RecordingChangedError: the source did not have ``source.size_bytes`` bytes.
        ChunkProcessingError: from the source.
    """
    size_bytes = source.size_bytes
    crc = Crc64Nvme()
    others = {name: CHECKSUMS[name].calculator() for name in algorithms if name is not ChecksumAlgorithm.CRC64NVME}
    seen = 0
    async with aclosing(source.blocks()) as blocks:
        async for block in blocks:
            seen += len(block)
            crc.update(block)
            for calculator in others.values():
                calculator.update(block)
    if seen != size_bytes:
        raise RecordingChangedError(f"{seen} bytes were read where {size_bytes} were expected")
    digests: dict[ChecksumAlgorithm, bytes] = {name: calculator.digest() for name, calculator in others.items()}
    digests[ChecksumAlgorithm.CRC64NVME] = crc.digest()
    return Measured(size_bytes, crc.value, digests)


class SmallBody(httpx.AsyncByteStream):
    """Bytes in memory, sent in pieces of ``WRITE_BYTES``. Not an async generator: see :class:`CheckedBody`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = len(data)

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._position = 0
        return self

    async def __anext__(self) -> bytes:
        begin = self._position
        if begin == len(self._data):
            raise StopAsyncIteration
        self._position = min(begin + WRITE_BYTES, len(self._data))
        return self._data[begin : self._position]


class CheckedBody(httpx.AsyncByteStream):
    """The second pass: yields the blocks to send, the last one only if the CRC64NVME is the measured one.

    Not an async generator: httpx drops a body when S3 responds early, and a dropped generator would be finalised by the
    garbage collector. :meth:`aclose` closes the source's iterator instead.
    """

    def __init__(self, source: ByteSource, measured: Measured, rate_limiter: RateLimiter) -> None:
        self._source = source
        self._measured = measured
        self._rate_limiter = rate_limiter
        self._blocks: AsyncGenerator[bytes, None] | None = None
        self._block = b""
        self._position = 0
        """How many bytes of the current block have been sent."""
        self._crc = Crc64Nvme()
        self._sent = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._blocks = self._source.blocks()
        self._block, self._position = b"", 0
        self._crc = Crc64Nvme()
        self._sent = 0
        return self

    async def __anext__(self) -> bytes:
        if self._blocks is None:
            raise StopAsyncIteration
        if self._position == len(self._block):
            self._block, self._position = await self._next_block(self._blocks), 0
        begin = self._position
        self._position += await self._rate_limiter.take(min(len(self._block) - begin, WRITE_BYTES))
        stall.moved()
        return self._block[begin : self._position]

    async def _next_block(self, blocks: AsyncGenerator[bytes, None]) -> bytes:
        """Return the next block; the last one only if size and CRC64NVME are the measured ones."""
        try:
            block = await anext(blocks)
        except StopAsyncIteration:
            if self._sent < self._measured.size_bytes:
                raise RecordingChangedError(
                    f"the recording ended after {self._sent} of {self._measured.size_bytes} bytes while it was sent"
                ) from None
            raise
        self._sent += len(block)
        self._crc.update(block)
        if self._sent > self._measured.size_bytes or (
            self._sent == self._measured.size_bytes and self._crc.value != self._measured.crc64nvme
        ):
            raise RecordingChangedError("the recording's bytes changed while they were sent")
        return block

    async def aclose(self) -> None:
        """Close the source's iterator."""
        blocks, self._blocks = self._blocks, None
        if blocks is not None:
            await blocks.aclose()
