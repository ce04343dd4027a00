"""A body in two passes: :func:`measure` reads it for its checksums, :class:`CheckedBody` reads it again to send it.

Memory is one block, whatever the size. Between the passes the file may change under us, so the second pass computes the
CRC64NVME again and holds the last block back until it agrees: bytes other than those measured are never sent whole, the
request ends short of its Content-Length, and S3 stores nothing of it. That makes a changed recording an error here
(:class:`RecordingChangedError`, transient: the part is read anew), not a riddle at the server.

The second pass goes as fast as the :class:`~cef_trio.s3.rate_limiter.RateLimiter` lets it: a block leaves in pieces,
each in its turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

import httpx

from cef_trio.exceptions import RecordingChangedError
from cef_trio.resilience import stall
from cef_trio.s3.checksums import CALCULATORS, Crc64Nvme
from cef_trio.s3.model import ByteSource, ChecksumAlgorithm
from cef_trio.s3.rate_limiter import RateLimiter

BLOCK_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """What the first pass found."""

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
        """How many bytes there are."""
        return len(self._data)

    async def blocks(self) -> AsyncIterator[bytes]:
        """Read them from the beginning; no checkpoint."""
        for offset in range(0, len(self._data), BLOCK_BYTES):
            yield self._data[offset : offset + BLOCK_BYTES]


async def measure(source: ByteSource, algorithms: AbstractSet[ChecksumAlgorithm]) -> Measured:
    """Read everything once and compute these checksums, and always CRC64NVME.

    Raises:
        RecordingChangedError: there are not ``source.size_bytes`` bytes.
        ChunkProcessingError: from the source.
    """
    size_bytes = source.size_bytes
    crc = Crc64Nvme()
    others = {name: CALCULATORS[name]() for name in algorithms if name is not ChecksumAlgorithm.CRC64NVME}
    seen = 0
    async with _closing(source.blocks()) as blocks:
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
    """Bytes in memory, sent at once. No async generator, for the reason that :class:`CheckedBody` gives."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pending = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._pending = True
        return self

    async def __anext__(self) -> bytes:
        if not self._pending:
            raise StopAsyncIteration
        self._pending = False
        return self._data


class CheckedBody(httpx.AsyncByteStream):
    """The second pass: the blocks to send, the last one only if all of them are what was measured.

    No async generator on purpose: httpx drops a body it stops reading (S3 may answer early), and a dropped generator
    would be finished by the garbage collector. :meth:`aclose` ends the source's blocks instead.
    """

    def __init__(self, source: ByteSource, measured: Measured, rate_limiter: RateLimiter) -> None:
        self._source = source
        self._measured = measured
        self._rate_limiter = rate_limiter
        self._blocks: AsyncIterator[bytes] | None = None
        self._block = b""
        self._position = 0
        """How much of the newest block has been sent."""
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
        self._position += await self._rate_limiter.take(len(self._block) - begin)
        stall.moved()
        return self._block[begin : self._position]  # a whole block is itself: nothing is copied where nothing is paced

    async def _next_block(self, blocks: AsyncIterator[bytes]) -> bytes:
        """The next block, if it may be sent: the last one only if all of them are what was measured."""
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
        """End the reading, wherever it stands."""
        blocks, self._blocks = self._blocks, None
        close = getattr(blocks, "aclose", None)
        if close is not None:
            await close()


class _closing:  # noqa: N801 - used like contextlib.aclosing
    """``aclosing`` for iterators that may have nothing to close."""

    def __init__(self, blocks: AsyncIterator[bytes]) -> None:
        self._blocks = blocks

    async def __aenter__(self) -> AsyncIterator[bytes]:
        return self._blocks

    async def __aexit__(self, *_: object) -> None:
        close = getattr(self._blocks, "aclose", None)
        if close is not None:
            await close()
