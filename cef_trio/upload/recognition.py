"""Which file is this? The shell around ``identity.py``: opens the file, gathers the evidence, and lets bytes decide.

Everyone who has to know asks here: a stream that comes back, a look at a file that is in doubt, a file that Redis knows
by its path, a recording under a new name, a person's ``retry``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cef_trio.checkpoint import ENDED, CheckpointStore, FileIdentity, PartRecord, StreamMeta
from cef_trio.exceptions import RecordingChangedError
from cef_trio.files import Disk, FileStat, IdentityMatch, OpenRecording, compare, head_of, identity_of, same_fs_id
from cef_trio.s3 import crc64nvme
from cef_trio.upload.part_matching import crc_of
from cef_trio.upload.part_plan import PartPlan

_SAME_FILE_PARTS: Final = 3
"""How many recorded parts are compared at most before a file whose first bytes changed is called another one."""


async def identify(recording: OpenRecording, stat: FileStat, head_bytes: int) -> FileIdentity:
    """Which file this is."""
    head = await head_of(recording, head_bytes)
    return identity_of(stat, await recording.origin(), head_size_bytes=len(head), head_crc64nvme=crc64nvme(head))


async def recognize(meta: StreamMeta, parts: Mapping[int, PartRecord], recording: OpenRecording) -> IdentityMatch:
    """Whether an open file is the stream's: ``SAME`` or ``REPLACED``, or ``ASK_BYTES`` if there are no bytes to ask."""
    recorded = meta.identity
    observed = await identify(recording, await recording.stat(), recorded.head_size_bytes)
    identity_match = compare(recorded, observed)
    if identity_match is not IdentityMatch.ASK_BYTES or not parts:
        return identity_match
    return IdentityMatch.SAME if await _has_their_bytes(meta, parts, recording) else IdentityMatch.REPLACED


async def _has_their_bytes(meta: StreamMeta, parts: Mapping[int, PartRecord], recording: OpenRecording) -> bool:
    plan = PartPlan(meta.part_size, equal_parts=meta.equal_parts)
    for number in sorted(parts, reverse=True)[:_SAME_FILE_PARTS]:
        record = parts[number]
        try:
            crc = await crc_of(recording, plan.part(number).offset, record.size_bytes)
        except RecordingChangedError:
            continue
        if crc == record.crc64nvme:
            return True
    return False


async def is_proved(store: CheckpointStore, disk: Disk, meta: StreamMeta, path: str) -> bool:
    """Whether the file at a path is proved to be the stream's: by its file system's own numbers, or by its bytes.

    For a stream that may be another host's (``ownership.py``): equal numbers of two file systems prove nothing.

    Raises:
        RecordingChangedError, ChunkProcessingError, RedisOperationError: as :func:`recognize_at`.
    """
    async with disk.open(path) as recording:
        observed = await identify(recording, await recording.stat(), meta.identity.head_size_bytes)
        identity_match = compare(meta.identity, observed)
        if identity_match is not IdentityMatch.ASK_BYTES and same_fs_id(meta.identity, observed):
            return identity_match is IdentityMatch.SAME
        checkpoint = await store.load(meta.stream_id)
        parts = checkpoint.parts if checkpoint else {}
        return bool(parts) and await _has_their_bytes(meta, parts, recording)


async def recognize_at(store: CheckpointStore, disk: Disk, meta: StreamMeta, path: str) -> IdentityMatch:
    """The same of the file at a path, for a stream of which only the record is at hand.

    Where there are no bytes to ask, a stream that has ended has no claim on the file, and an open one has: nothing of
    it was sent, so nothing can be mixed.

    Raises:
        RecordingChangedError: there is no file.
        ChunkProcessingError: it cannot be opened or read.
        RedisOperationError: the parts are needed, and Redis cannot be asked.
    """
    async with disk.open(path) as recording:
        identity_match = await recognize(meta, {}, recording)
        if identity_match is IdentityMatch.ASK_BYTES:
            checkpoint = await store.load(meta.stream_id)
            identity_match = await recognize(meta, checkpoint.parts if checkpoint else {}, recording)
    if identity_match is not IdentityMatch.ASK_BYTES:
        return identity_match
    return IdentityMatch.REPLACED if meta.status in ENDED else IdentityMatch.SAME
