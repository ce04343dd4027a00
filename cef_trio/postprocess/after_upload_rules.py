"""When ``AFTER_UPLOAD`` may be carried out, and under which names (promise P8). Pure.

A recording is changed only if two checks pass at that moment: the *file* is the one that was verified (file system,
inode and its generation, size and modification time), and the *object* is in S3 as it was completed. In doubt the file
is kept, and the reason is logged.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cef_trio.checkpoint import Checkpoint, FileIdentity, PartRecord, Status
from cef_trio.files import FileStat, is_verified_file
from cef_trio.resilience import RetryPolicy
from cef_trio.s3 import StoredObject, combine_crc64nvme
from cef_trio.upload import PartPlan

BACKOFF: Final = RetryPolicy(initial_seconds=30.0, max_seconds=3600.0)
"""The pauses after failed attempts."""
_LONGEST_NAME_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A file as it was verified. ``crc64nvme`` covers all its bytes."""

    stream_id: str
    path: str
    identity: FileIdentity
    size_bytes: int
    mtime_ns: int
    crc64nvme: int


def verified_file(checkpoint: Checkpoint | None) -> VerifiedFile | None:
    """Return a completed stream's file as it was verified; ``None`` if the record is incomplete."""
    if checkpoint is None or checkpoint.meta.status is not Status.COMPLETED:
        return None
    meta = checkpoint.meta
    if meta.verified_size_bytes is None or meta.verified_mtime_ns is None or meta.object_etag is None:
        return None
    crc = meta.object_crc64nvme
    if checkpoint.parts or crc is None:  # recorded as completed by an earlier version
        crc = _crc_of_parts(PartPlan.of(meta), checkpoint.parts, meta.verified_size_bytes)
    if crc is None:
        return None
    return VerifiedFile(
        meta.stream_id, meta.current_path, meta.identity, meta.verified_size_bytes, meta.verified_mtime_ns, crc
    )


def _crc_of_parts(plan: PartPlan, parts: Mapping[int, PartRecord], size_bytes: int) -> int | None:
    pairs = list(plan.pair(size_bytes, parts))
    whole = [record for part, record in pairs if record is not None and record.size_bytes == part.size_bytes]
    if len(whole) < len(pairs):
        return None
    return combine_crc64nvme((record.crc64nvme, record.size_bytes) for record in whole)


def file_mismatch(expected: VerifiedFile, found: FileStat, observed: FileIdentity) -> str | None:
    """Return why an open file is not the one that was verified; ``None`` if it is."""
    if not is_verified_file(expected.identity, observed):
        return "another file has its name, or it is on another file system"
    if (found.size_bytes, found.mtime_ns) != (expected.size_bytes, expected.mtime_ns):
        return "it was changed after it was verified"
    return None


def object_mismatch(expected: VerifiedFile, etag: str, stored: StoredObject | None) -> str | None:
    """Return why the object at the stream's key is not proved to be the recording; ``None`` if it is.

    The checksum decides where the store keeps one; else the ETag must equal that of the completed object.
    """
    if stored is None:
        return "its object is not in S3 any more"
    if stored.size_bytes != expected.size_bytes:
        return f"its object has {stored.size_bytes} bytes, and the file that was verified {expected.size_bytes}"
    if stored.crc64nvme is not None:
        return None if stored.crc64nvme == expected.crc64nvme else "its object has another checksum"
    if not stored.etag:
        return "S3 shows neither a checksum nor an ETag of its object"
    return None if stored.etag == etag else "its object has another ETag than the one that was completed"


def root_name(root: str, watch_folders: Sequence[str]) -> str:
    """Return the folder below that of a move for the recordings of a watch folder; empty if only one is watched.

    It is the watch folder's name, or its path with ``_`` for ``/``, if two have one name.
    """
    if len(watch_folders) <= 1:
        return ""
    names = [os.path.basename(folder) for folder in watch_folders]  # noqa: PTH119 - a path of any bytes, as it is
    name = os.path.basename(root)  # noqa: PTH119 - as above
    is_clear = root in watch_folders and names.count(name) == 1
    return name if is_clear else root.strip("/").replace("/", "_")


def targets(file: VerifiedFile, watch_folder: str, folder: str) -> tuple[str, str]:
    """Return the target path of a move, and the one with the stream's id to use if the first is taken."""
    relative = os.path.relpath(file.path, watch_folder)
    first = os.path.join(folder, relative)  # noqa: PTH118 - a path of any bytes, as it is
    parent, name = os.path.split(first)
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - as above
    room = _LONGEST_NAME_BYTES - len(os.fsencode(f".{file.stream_id}{suffix}"))
    stem = os.fsdecode(os.fsencode(stem)[: max(room, 1)])
    return first, os.path.join(parent, f"{stem}.{file.stream_id}{suffix}")  # noqa: PTH118 - as above


def copy_name(target: str, stream_id: str) -> str:
    """Return the path of an incomplete copy: hidden, beside its target, the same for each attempt."""
    return os.path.join(os.path.dirname(target), f".{stream_id}.cef-trio-copy")  # noqa: PTH118, PTH120 - as above
