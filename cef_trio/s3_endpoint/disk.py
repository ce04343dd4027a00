"""The storage on disk: objects and open uploads survive a restart, and ``kill -9`` at any moment.

A full or broken disk raises ``OSError``; ``endpoint.py`` returns 500 ``InternalError``.

Layout under the data folder::

    buckets/<bucket>/bucket.json
    buckets/<bucket>/records/<sha256 of the key>.json   an object: the commit point, names its blob
    buckets/<bucket>/objects/<key>                      the same blob as a readable file (a hard link)
    uploads/<upload id>/upload.json                     an open upload
    uploads/<upload id>/<part number>.json              a part of it: the commit point, names its blob
    blobs/<id>                                          bytes
    …/*.tmp                                             incomplete; removed at the next start

Every file is written under another name and renamed, so that a reader finds the complete old or new one. With
``fsync`` it is forced to the disk first, which protects against a power cut; ``kill -9`` does not need it. ``load``
removes blobs that no record names, which are left by a crash.

``objects/`` is for users and for ``cmp``; the endpoint never reads it. In it, bytes of a key outside
``A-Za-z0-9`` and ``-_.~!+,=@ ()`` are percent-encoded, also ``.`` and ``..`` as components; components over 200 bytes
end in a hash. A key whose name is the folder of another key (``a`` and ``a/b``) has no file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import trio

from cef_trio.s3_endpoint.records import (
    Bucket,
    MultipartUpload,
    Record,
    StorageSnapshot,
    StoredObject,
    StoredPart,
    bucket_from_json,
    object_from_json,
    part_from_json,
    to_json,
    upload_from_json,
)
from cef_trio.s3_endpoint.storage import BlobReader, BlobWriter

_COPY_BYTES: Final = 1024 * 1024
_MAX_COMPONENT_BYTES: Final = 200
_PLAIN: Final = "-_.~!+,=@ ()"


class DiskStorage:
    """Keeps blobs and records in a folder, for one process at a time.

    Args:
        folder: the data folder; created if it does not exist.
        fsync: force every blob and record to the disk before it is committed.

    Raises:
        OSError: the folder cannot be created or written.
    """

    def __init__(self, folder: Path, *, fsync: bool = False) -> None:
        self._folder = folder
        self._blobs = folder / "blobs"
        self._buckets = folder / "buckets"
        self._uploads = folder / "uploads"
        self._fsync = fsync
        for each in (self._blobs, self._buckets, self._uploads):
            each.mkdir(parents=True, exist_ok=True)

    def load(self) -> StorageSnapshot:
        """Read all records, and remove what crashes left behind.

        Raises:
            OSError: the folder cannot be read.
            ValueError: a record is malformed.
        """
        for leftover in self._folder.rglob("*.tmp"):
            leftover.unlink()
        snapshot = StorageSnapshot(
            buckets=[bucket_from_json(_read(path)) for path in sorted(self._buckets.glob("*/bucket.json"))],
            objects=[object_from_json(_read(path)) for path in sorted(self._buckets.glob("*/records/*.json"))],
            uploads=[self._load_upload(path) for path in sorted(self._uploads.glob("*/upload.json"))],
        )
        named = {record.blob for record in snapshot.objects}
        named.update(part.blob for _, parts in snapshot.uploads for part in parts)
        for blob in self._blobs.iterdir():
            if blob.name not in named:
                blob.unlink()
        for record in snapshot.objects:
            self._link_readable(record)
        return snapshot

    def new_blob(self) -> BlobWriter:
        """Start a new blob."""
        return _DiskWriter(self._blobs / secrets.token_hex(16), fsync=self._fsync)

    def open_blob(self, blob: str) -> BlobReader:
        """Open a blob for reading."""
        return _DiskReader(self._blobs / blob)

    async def join_blobs(self, blobs: Sequence[tuple[str, int]]) -> str:
        """Copy blobs into a new one, with a checkpoint after each MiB."""
        with _DiskWriter(self._blobs / secrets.token_hex(16), fsync=self._fsync) as writer:
            for blob, size_bytes in blobs:
                reader = _DiskReader(self._blobs / blob)
                with contextlib.closing(reader):
                    for offset in range(0, size_bytes, _COPY_BYTES):
                        await trio.lowlevel.checkpoint()
                        writer.write(reader.read(offset, min(_COPY_BYTES, size_bytes - offset)))
            return await writer.commit()

    def remove_blob(self, blob: str) -> None:
        """Delete a blob."""
        (self._blobs / blob).unlink(missing_ok=True)

    def put_bucket(self, bucket: Bucket) -> None:
        """Store a bucket's record."""
        for folder in ("records", "objects"):
            (self._buckets / bucket.name / folder).mkdir(parents=True, exist_ok=True)
        self._write(self._buckets / bucket.name / "bucket.json", bucket)

    def remove_bucket(self, name: str) -> None:
        """Delete a bucket; its record first, so that a crash in between leaves no bucket."""
        (self._buckets / name / "bucket.json").unlink(missing_ok=True)
        shutil.rmtree(self._buckets / name, ignore_errors=True)

    def put_object(self, record: StoredObject) -> None:
        """Store an object's record and link its blob below ``objects/``."""
        self._write(self._record_path(record.bucket, record.key), record)
        self._link_readable(record)

    def remove_object(self, bucket: str, key: str) -> None:
        """Delete an object's record and its link."""
        self._record_path(bucket, key).unlink(missing_ok=True)
        readable = self._buckets / bucket / "objects" / readable_path(key)
        with contextlib.suppress(OSError):
            # A folder of that name belongs to other keys; empty folders are removed with their last file.
            readable.unlink()
            for parent in readable.relative_to(self._buckets / bucket / "objects").parents[:-1]:
                (self._buckets / bucket / "objects" / parent).rmdir()

    def put_upload(self, upload: MultipartUpload) -> None:
        """Store the record of an open upload."""
        folder = self._uploads / upload.upload_id
        folder.mkdir(exist_ok=True)
        self._write(folder / "upload.json", upload)

    def put_part(self, upload: MultipartUpload, part: StoredPart) -> None:
        """Store a part's record."""
        self._write(self._uploads / upload.upload_id / f"{part.number}.json", part)

    def remove_upload(self, upload: MultipartUpload) -> None:
        """Delete an upload; its record first, so that a crash in between leaves no upload."""
        (self._uploads / upload.upload_id / "upload.json").unlink(missing_ok=True)
        shutil.rmtree(self._uploads / upload.upload_id, ignore_errors=True)

    def _load_upload(self, path: Path) -> tuple[MultipartUpload, list[StoredPart]]:
        parts = [part_from_json(_read(each)) for each in path.parent.glob("*.json") if each.stem.isdigit()]
        return upload_from_json(_read(path)), parts

    def _record_path(self, bucket: str, key: str) -> Path:
        return self._buckets / bucket / "records" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def _link_readable(self, record: StoredObject) -> None:
        readable = self._buckets / record.bucket / "objects" / readable_path(record.key)
        temporary = self._blobs / f"{record.blob}.{secrets.token_hex(4)}.tmp"
        # Only for users: a key without a file (see above), or a file system without hard links, is not an error.
        with contextlib.suppress(OSError):
            if readable.exists() and readable.samefile(self._blobs / record.blob):
                return
            readable.parent.mkdir(parents=True, exist_ok=True)
            os.link(self._blobs / record.blob, temporary)
            try:
                temporary.rename(readable)
            finally:
                temporary.unlink(missing_ok=True)

    def _write(self, path: Path, record: Record) -> None:
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(to_json(record), file)
            if self._fsync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if self._fsync:
            _fsync_folder(path.parent)


def readable_path(key: str) -> Path:
    """Return the path of a key below ``objects/``: relative, never outside, with valid file names."""
    return Path(*(_readable_component(component) for component in key.split("/")))


def _readable_component(component: str) -> str:
    name = quote(component, safe=_PLAIN)
    if name in ("", ".", ".."):
        return "%empty" if not name else name.replace(".", "%2E")
    if len(name) > _MAX_COMPONENT_BYTES:
        digest = hashlib.sha256(component.encode()).hexdigest()[:32]
        return f"{name[: _MAX_COMPONENT_BYTES - 40]}%hash{digest}"
    return name


class _DiskWriter:
    def __init__(self, path: Path, *, fsync: bool) -> None:
        self._path = path
        self._temporary = path.with_suffix(".tmp")
        self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._fsync = fsync
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._open = False
            os.close(self._file)
            self._temporary.unlink(missing_ok=True)

    def write(self, block: bytes) -> None:
        left = memoryview(block)
        while left:
            left = left[os.write(self._file, left) :]

    async def commit(self) -> str:
        if self._fsync:
            # In a worker thread, since it may take long; a cancellation waits for it.
            await trio.to_thread.run_sync(os.fsync, self._file)
        else:
            await trio.lowlevel.checkpoint()
        self._open = False
        os.close(self._file)
        self._temporary.rename(self._path)
        if self._fsync:
            _fsync_folder(self._path.parent)
        return self._path.name


class _DiskReader:
    def __init__(self, path: Path) -> None:
        self._file: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, size_bytes: int) -> bytes:
        if self._file is None:
            raise ValueError("the blob is closed")
        return os.pread(self._file, size_bytes, offset)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _fsync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not a record")  # noqa: TRY004 - a bad value in a file, not a bad argument
    return data
