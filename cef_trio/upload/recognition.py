"""Recognize the file of a stream: by its identity (``files/identity.py``), and by its bytes where that is ambiguous.

Used to resume a stream, to check a stream's file, to triage a file with a recorded path, to find renamed recordings,
and by ``cef-trio retry``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from cef_trio.checkpoint import ENDED, FAILED, FileIdentity, PartRecord, StreamMeta
from cef_trio.exceptions import ChunkProcessingError, FileAccessError, RecordingChangedError
from cef_trio.files import (
    FileStat,
    IdentityMatch,
    OpenRecording,
    compare_identity,
    head_of,
    identity_of,
    inodes_last,
    looks_the_same,
    may_be,
    same_fs_id,
    without_head,
)
from cef_trio.observability import read_fleet
from cef_trio.s3 import crc64nvme
from cef_trio.upload.completed_parts import parts_of
from cef_trio.upload.part_matching import has_bytes_of
from cef_trio.upload.part_plan import PartPlan
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

_SAME_FILE_PARTS: Final = 3
"""The maximum number of recorded parts to compare with a file whose first bytes changed."""


async def identify(recording: OpenRecording, stat: FileStat, head_bytes: int) -> FileIdentity:
    """Return the identity of an open file, with the checksum of its first ``head_bytes`` bytes."""
    head = await head_of(recording, head_bytes)
    return identity_of(stat, await recording.origin(), head_size_bytes=len(head), head_crc64nvme=crc64nvme(head))


async def recognize(
    meta: StreamMeta, parts: Mapping[int, PartRecord], recording: OpenRecording, *, by_head: bool = True
) -> IdentityMatch:
    """Return whether an open file is the stream's; ``ASK_BYTES`` if that is ambiguous and no part was recorded.

    ``by_head``: the first bytes may prove it, beside the numbers. They do not of a failed stream, as the next recording
    may begin alike and must not be left out.

    Another file that has the bytes of the parts is the stream's too: a newer copy of the recording that took its place
    (``rsync`` without ``--inplace``, again and again while it grows). Its upload goes on with that file.
    """
    recorded = meta.identity if by_head and meta.status not in FAILED else without_head(meta.identity)
    observed = await identify(recording, await recording.stat(), meta.identity.head_size_bytes)
    identity_match = compare_identity(recorded, observed)
    if identity_match is IdentityMatch.SAME or not parts:
        return identity_match
    is_another = identity_match is IdentityMatch.REPLACED
    if is_another and not _may_be_taken_over(meta):
        return IdentityMatch.REPLACED
    # Of another file, the final verification compares the other parts.
    has_them = await _has_their_bytes(meta, parts, recording, of_all=is_another)
    return IdentityMatch.SAME if has_them else IdentityMatch.REPLACED


def _may_be_taken_over(meta: StreamMeta) -> bool:
    """Return whether another file may go on with a stream: nothing of its first file was verified yet."""
    return meta.status not in ENDED and meta.verified_size_bytes is None


async def _has_their_bytes(
    meta: StreamMeta, parts: Mapping[int, PartRecord], recording: OpenRecording, *, of_all: bool = False
) -> bool:
    """Return whether a file has the bytes of one of the last recorded parts, or ``of_all`` of them."""
    plan = PartPlan.of(meta)
    for number in sorted(parts, reverse=True)[:_SAME_FILE_PARTS]:
        has_them = await has_bytes_of(parts[number], recording, plan.part(number).offset)
        if has_them is not of_all:
            return has_them
    return of_all


async def is_proved(services: Services, meta: StreamMeta, path: str) -> bool:
    """Return whether the file at a path is certainly the stream's: by the numbers of its file system, or by its bytes.

    For streams that may belong to another host (``ownership.py``), where equal inode numbers prove nothing.

    Raises:
        RecordingChangedError, ChunkProcessingError, RedisOperationError, S3OperationError: as :func:`recognize_at`.
    """
    async with services.disk.open(path) as recording:
        proof = await _by_numbers(recording, meta)
        if proof is not None:
            return proof
        parts = await _load_parts(services, meta)
        return bool(parts) and await _has_their_bytes(meta, parts, recording)


async def is_file_by_numbers(services: Services, meta: StreamMeta, path: str) -> bool:
    """Return whether the file at a path is certainly the stream's, by the numbers of its file system alone.

    Raises:
        RecordingChangedError: the file does not exist.
        ChunkProcessingError: it cannot be opened or read.
    """
    async with services.disk.open(path) as recording:
        return await _by_numbers(recording, meta) is True


async def _by_numbers(recording: OpenRecording, meta: StreamMeta) -> bool | None:
    """Return whether an open file is the stream's by its file system's own numbers; ``None`` if they do not tell."""
    observed = await identify(recording, await recording.stat(), meta.identity.head_size_bytes)
    identity_match = compare_identity(meta.identity, observed)
    if identity_match is IdentityMatch.ASK_BYTES or not same_fs_id(meta.identity, observed):
        return None
    return identity_match is IdentityMatch.SAME


async def match_at(services: Services, meta: StreamMeta, path: str, *, by_head: bool = True) -> IdentityMatch:
    """Return whether the file at a path is the stream's, as :func:`recognize`; load the parts if they are needed.

    Raises:
        RecordingChangedError: the file does not exist.
        ChunkProcessingError: it cannot be opened or read.
        RedisOperationError, S3OperationError: the parts could not be loaded.
    """
    async with services.disk.open(path) as recording:
        identity_match = await recognize(meta, {}, recording, by_head=by_head)
        if identity_match is IdentityMatch.ASK_BYTES or (
            identity_match is IdentityMatch.REPLACED and _may_be_taken_over(meta)
        ):
            parts = await _load_parts(services, meta)
            identity_match = await recognize(meta, parts, recording, by_head=by_head)
    return identity_match


async def is_found_at(services: Services, meta: StreamMeta, path: str) -> bool:
    """Return whether the file at another path is certainly the stream's, renamed.

    By its generation or birth time, or by a recorded part. An equal inode number proves nothing, as a deleted file's is
    given to the next one, and equal first bytes do not either (P1). As long as S3 has nothing of the stream, one of
    them is enough, the number where numbers last: its object is not named yet, and no bytes can be mixed.

    Raises:
        RecordingChangedError, ChunkProcessingError, RedisOperationError, S3OperationError: as :func:`match_at`.
    """
    identity_match = await match_at(services, meta, path, by_head=False)
    may_be_in_s3 = meta.s3_upload_id is not None or meta.verified_size_bytes is not None
    if identity_match is not IdentityMatch.ASK_BYTES or may_be_in_s3:
        return identity_match is IdentityMatch.SAME
    recorded = meta.identity
    async with services.disk.open(path) as recording:
        observed = await identify(recording, await recording.stat(), recorded.head_size_bytes)
    if inodes_last(observed.fs_type) and recorded.file_ino == observed.file_ino:
        return True
    return looks_the_same(recorded, observed, recorded.head_size_bytes)


async def _load_parts(services: Services, meta: StreamMeta) -> Mapping[int, PartRecord]:
    checkpoint = await services.store.load(meta.stream_id)
    return await parts_of(services, checkpoint) if checkpoint else {}


async def recognize_at(services: Services, meta: StreamMeta, path: str) -> IdentityMatch:
    """Return whether the file at a path is the stream's: ``SAME`` or ``REPLACED``.

    If the identity is ambiguous and no part was recorded, the result is ``SAME`` for an open stream (no bytes were
    sent, so none can be mixed), and ``REPLACED`` for an ended one. A failed one keeps its file if that looks the same
    (:func:`~cef_trio.files.looks_the_same`): else an aborted recording would be uploaded after all, and another one
    would fail again and again, each time as a new stream, where inode numbers do not last (FAT, FUSE).

    Raises:
        RecordingChangedError, ChunkProcessingError, RedisOperationError, S3OperationError: as :func:`match_at`.
    """
    identity_match = await match_at(services, meta, path)
    if identity_match is not IdentityMatch.ASK_BYTES:
        return identity_match
    if meta.status not in ENDED:
        return IdentityMatch.SAME
    if meta.status in FAILED:
        async with services.disk.open(path) as recording:
            stat = await recording.stat()
            observed = await identify(recording, stat, meta.identity.head_size_bytes)
        if looks_the_same(meta.identity, observed, stat.size_bytes):
            return IdentityMatch.SAME
    return IdentityMatch.REPLACED


async def recognize_found(
    services: Services, meta: StreamMeta, path: str, stat: FileStat, *, is_ours: bool
) -> IdentityMatch | None:
    """Return whether a file that was found at the path of a stream is the stream's; ``None`` if that cannot be checked.

    ``ASK_BYTES`` for one that is not readable, and may be the stream's by its stat. ``is_ours``: the stream belongs to
    this host.

    Raises:
        RedisOperationError, S3OperationError: the parts or the reports could not be loaded.
    """
    try:
        if not is_ours:
            is_it = not await _owner_lives(services, meta) and await is_proved(services, meta, path)
            return IdentityMatch.SAME if is_it else IdentityMatch.REPLACED
        return await recognize_at(services, meta, path)
    except RecordingChangedError:
        return None  # deleted meanwhile
    except ChunkProcessingError as error:
        if not (isinstance(error, FileAccessError) and error.denied):
            log.warning("recording_check_failed", error=str(error))
            return None
        if not is_ours:
            return IdentityMatch.REPLACED
        return IdentityMatch.ASK_BYTES if may_be(meta.identity, stat) else IdentityMatch.REPLACED


async def _owner_lives(services: Services, meta: StreamMeta) -> bool:
    """Return whether another daemon of the stream's owner is running; then equal bytes prove nothing."""
    fleet = read_fleet(await services.store.reports(beginning=f"{services.owner_name}/"))
    living = {one.place for one in fleet.living if one.process != services.lease.token}
    return meta.owner is not None and meta.owner.name in living
