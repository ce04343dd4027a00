"""A completed recording whose file is not as it was verified: is it the same, byte for byte?

``touch``, ``rsync -t``, ``cp -a`` to another disk, ``chmod``, a file system that numbers its inodes anew: none of them
changes a byte. So before such a file is sent again it is read once and compared with the checksums on record. If they
agree, the record is corrected (identity, modification time, path), and the file is settled.
"""

from __future__ import annotations

from typing import Final

import structlog
import trio

from cef_trio.checkpoint import Change, Checkpoint, Status, StreamMeta
from cef_trio.exceptions import LeaseLostError
from cef_trio.files import HEAD_BYTES, FileStat, OpenRecording
from cef_trio.upload.predecessor import ContentMatch, compare_content
from cef_trio.upload.recognition import identify
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

_ROUNDS: Final = 3
"""How often a file is compared that changes meanwhile."""


async def correct_if_unchanged(services: Services, stream_id: str, path: str) -> Checkpoint | ContentMatch:
    """Compare the file with the completed stream, and correct that one's record if it is the same, byte for byte.

    Returns:
        ``ContentMatch.SAME`` if the record now describes the file; ``ContentMatch.NONE`` if the file shares no bytes
        with the recording; else the completed stream, from which a new stream copies parts.

    Raises:
        RecordingChangedError: the file is not there (any more).
        LeaseLostError: another daemon works on the completed stream.
    """
    completed = await services.store.load(stream_id)
    if completed is None or completed.meta.status is not Status.COMPLETED:
        return ContentMatch.NONE
    async with services.disk.open(path) as recording:
        for _ in range(_ROUNDS):
            before = await recording.stat()
            fs_type = (await recording.origin()).system.name
            await trio.sleep(services.unproved_seconds(fs_type, before))
            found = await compare_content(recording, before.size_bytes, completed)
            if found is not ContentMatch.SAME:
                if found is ContentMatch.SOME:
                    services.advice.goes_on(completed.meta, before)
                return completed if found is ContentMatch.SOME else ContentMatch.NONE
            after = await recording.stat()
            if (after, after.ctime_ns) == (before, before.ctime_ns):
                await _correct(services, completed.meta, recording, after, path)
                return ContentMatch.SAME
    return completed  # it is being written


async def _correct(services: Services, meta: StreamMeta, recording: OpenRecording, stat: FileStat, path: str) -> None:
    identity = await identify(recording, stat, HEAD_BYTES)
    store, lease = services.store, services.lease
    if not await store.acquire(meta.stream_id, lease):
        raise LeaseLostError(f"another daemon works on stream {meta.stream_id}")
    change = Change(
        {"identity": identity, "verified_mtime_ns": stat.mtime_ns, "owner": services.ownership.owner or meta.owner}
    )
    await store.update(meta.stream_id, lease, change)
    owner = services.ownership
    if path != meta.current_path or (meta.owner is not None and owner.name not in {"", meta.owner.name}):
        await store.rename(meta.stream_id, lease, path)
    await store.release([meta.stream_id], lease)
    log.info("recording_unchanged", stream_id=meta.stream_id, key=meta.s3_key_prefix, size_bytes=stat.size_bytes)
