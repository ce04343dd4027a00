"""The interface of a storage, and the storage in memory.

A storage keeps **blobs** (immutable bytes) and **records** (``records.py``) for the model. A record is the commit
point: a blob that no record names is unused. Each ``put_…`` and ``remove_…`` must be atomic, and a blob durable before
``commit`` returns its id.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import trio

from cef_trio.s3_endpoint.records import Bucket, MultipartUpload, StorageSnapshot, StoredObject, StoredPart


class BlobWriter(Protocol):
    """A blob being written. A context manager that discards it unless it was committed."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard the blob unless it was committed."""
        ...

    def write(self, block: bytes) -> None:
        """Append bytes; at most a few hundred KiB at once, since this may block on the disk."""
        ...

    async def commit(self) -> str:
        """Make the blob durable and return its id. If cancelled, the blob is discarded."""
        ...


class BlobReader(Protocol):
    """A blob opened for reading: it stays readable until ``close``, even if it is removed meanwhile."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return bytes of the blob."""
        ...

    def close(self) -> None:
        """Close it. May be called again."""
        ...


class Storage(Protocol):
    """Keeps blobs and records."""

    def load(self) -> StorageSnapshot:
        """Return all records; called once, at the start."""
        ...

    def new_blob(self) -> BlobWriter:
        """Start a new blob."""
        ...

    def open_blob(self, blob: str) -> BlobReader:
        """Open a blob for reading."""
        ...

    async def join_blobs(self, blobs: Sequence[tuple[str, int]]) -> str:
        """Concatenate blobs, given as ``(id, size_bytes)``, into a new one. If cancelled, there is no new blob."""
        ...

    def remove_blob(self, blob: str) -> None:
        """Delete a blob."""
        ...

    def put_bucket(self, bucket: Bucket) -> None:
        """Store a bucket's record."""
        ...

    def remove_bucket(self, name: str) -> None:
        """Delete a bucket's record."""
        ...

    def put_object(self, record: StoredObject) -> None:
        """Store an object's record in place of any other of that key."""
        ...

    def remove_object(self, bucket: str, key: str) -> None:
        """Delete an object's record; its blob is deleted by ``remove_blob``."""
        ...

    def put_upload(self, upload: MultipartUpload) -> None:
        """Store the record of an open upload."""
        ...

    def put_part(self, upload: MultipartUpload, part: StoredPart) -> None:
        """Store a part's record in place of any other of that number."""
        ...

    def remove_upload(self, upload: MultipartUpload) -> None:
        """Delete the records of an upload and its parts; their blobs are deleted by ``remove_blob``."""
        ...


class MemoryStorage:
    """Keeps blobs in memory; records are kept by the model alone."""

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[bytes, ...]] = {}
        self._ids = itertools.count(1)

    def load(self) -> StorageSnapshot:
        """Return nothing."""
        return StorageSnapshot()

    def new_blob(self) -> BlobWriter:
        """Start a new blob."""
        return _MemoryWriter(self)

    def open_blob(self, blob: str) -> BlobReader:
        """Open a blob for reading."""
        return _MemoryReader(self._blobs[blob])

    async def join_blobs(self, blobs: Sequence[tuple[str, int]]) -> str:
        """Return a new blob that shares the others' bytes."""
        await trio.lowlevel.checkpoint()
        return self.keep(tuple(itertools.chain.from_iterable(self._blobs[blob] for blob, _ in blobs)))

    def remove_blob(self, blob: str) -> None:
        """Delete a blob."""
        self._blobs.pop(blob, None)

    def keep(self, blocks: tuple[bytes, ...]) -> str:
        """Keep blocks as a blob."""
        blob = str(next(self._ids))
        self._blobs[blob] = blocks
        return blob

    def put_bucket(self, bucket: Bucket) -> None:
        """Do nothing: the model keeps the record."""

    def remove_bucket(self, name: str) -> None:
        """Do nothing: the model removes the record."""

    def put_object(self, record: StoredObject) -> None:
        """Do nothing: the model keeps the record."""

    def remove_object(self, bucket: str, key: str) -> None:
        """Do nothing: the model removes the record."""

    def put_upload(self, upload: MultipartUpload) -> None:
        """Do nothing: the model keeps the record."""

    def put_part(self, upload: MultipartUpload, part: StoredPart) -> None:
        """Do nothing: the model keeps the record."""

    def remove_upload(self, upload: MultipartUpload) -> None:
        """Do nothing: the model removes the record."""


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
