"""Where the endpoint keeps things: the interface, and the backend in memory.

A storage keeps **blobs** (bytes, written once, never changed) and **records** (``records.py``). The model decides what
is true; the storage only keeps it. A record is the commit point: a blob that no record names does not exist for
anybody. So a storage must make each ``put_…`` and ``remove_…`` atomic, and a blob durable before ``commit`` returns its
id.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import trio

from cef_trio.s3_endpoint.records import Bucket, Snapshot, StoredObject, StoredPart, Upload


class BlobWriter(Protocol):
    """A blob being written. Leaving the context discards it unless it was committed."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard what was not committed."""
        ...

    def write(self, block: bytes) -> None:
        """Append bytes; at most a few hundred KiB at once, as this may block on the disk."""
        ...

    async def commit(self) -> str:
        """Make the blob durable and give its id. If this is cancelled, the blob is discarded."""
        ...


class BlobReader(Protocol):
    """A blob opened for reading: its bytes stay readable until ``close``, even if it is removed meanwhile."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Bytes of the blob."""
        ...

    def close(self) -> None:
        """Let it go. May be called again."""
        ...


class Storage(Protocol):
    """A place for blobs and records."""

    def load(self) -> Snapshot:
        """Everything that was put and not removed; called once, at the start."""
        ...

    def new_blob(self) -> BlobWriter:
        """Begin a blob."""
        ...

    def open_blob(self, blob: str) -> BlobReader:
        """Open a blob for reading."""
        ...

    async def join_blobs(self, blobs: Sequence[tuple[str, int]]) -> str:
        """A new blob made of others, given as ``(id, size_bytes)``. If this is cancelled, there is none."""
        ...

    def remove_blob(self, blob: str) -> None:
        """Forget a blob."""
        ...

    def put_bucket(self, bucket: Bucket) -> None:
        """Remember a bucket."""
        ...

    def remove_bucket(self, name: str) -> None:
        """Forget a bucket."""
        ...

    def put_object(self, record: StoredObject) -> None:
        """Remember an object in place of any other of that key."""
        ...

    def remove_object(self, bucket: str, key: str) -> None:
        """Forget an object; its blob is removed by ``remove_blob``."""
        ...

    def put_upload(self, upload: Upload) -> None:
        """Remember an open upload."""
        ...

    def put_part(self, upload: Upload, part: StoredPart) -> None:
        """Remember a part in place of any other of that number."""
        ...

    def remove_upload(self, upload: Upload) -> None:
        """Forget an upload and its parts; their blobs are removed by ``remove_blob``."""
        ...


class MemoryStorage:
    """Keeps blobs in this process; records live in the model alone, so nothing survives it."""

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[bytes, ...]] = {}
        self._ids = itertools.count(1)

    def load(self) -> Snapshot:
        """Nothing: memory forgets."""
        return Snapshot()

    def new_blob(self) -> BlobWriter:
        """Begin a blob."""
        return _MemoryWriter(self)

    def open_blob(self, blob: str) -> BlobReader:
        """Open a blob for reading."""
        return _MemoryReader(self._blobs[blob])

    async def join_blobs(self, blobs: Sequence[tuple[str, int]]) -> str:
        """A new blob that shares the others' bytes."""
        await trio.lowlevel.checkpoint()
        return self.keep(tuple(itertools.chain.from_iterable(self._blobs[blob] for blob, _ in blobs)))

    def remove_blob(self, blob: str) -> None:
        """Forget a blob."""
        self._blobs.pop(blob, None)

    def keep(self, blocks: tuple[bytes, ...]) -> str:
        """Keep blocks as a blob."""
        blob = str(next(self._ids))
        self._blobs[blob] = blocks
        return blob

    def put_bucket(self, bucket: Bucket) -> None:
        """Nothing to do: the model remembers."""

    def remove_bucket(self, name: str) -> None:
        """Nothing to do: the model forgets."""

    def put_object(self, record: StoredObject) -> None:
        """Nothing to do: the model remembers."""

    def remove_object(self, bucket: str, key: str) -> None:
        """Nothing to do: the model forgets."""

    def put_upload(self, upload: Upload) -> None:
        """Nothing to do: the model remembers."""

    def put_part(self, upload: Upload, part: StoredPart) -> None:
        """Nothing to do: the model remembers."""

    def remove_upload(self, upload: Upload) -> None:
        """Nothing to do: the model forgets."""


class _MemoryWriter:
    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage
        self._blocks: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocks.clear()

    def write(self, block: bytes) -> None:
        self._blocks.append(block)

    async def commit(self) -> str:
        await trio.lowlevel.checkpoint()
        return self._storage.keep(tuple(self._blocks))


class _MemoryReader:
    def __init__(self, blocks: tuple[bytes, ...]) -> None:
        self._blocks = blocks
        self._ends = list(itertools.accumulate(len(block) for block in blocks))

    def read(self, offset: int, size_bytes: int) -> bytes:
        pieces = []
        index = bisect_right(self._ends, offset)
        while size_bytes > 0 and index < len(self._blocks):
            start = offset - (self._ends[index] - len(self._blocks[index]))
            piece = self._blocks[index][start : start + size_bytes]
            pieces.append(piece)
            offset += len(piece)
            size_bytes -= len(piece)
            index += 1
        return b"".join(pieces)

    def close(self) -> None:
        pass
