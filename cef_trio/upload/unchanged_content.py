"""Check whether a completed recording whose file looks changed still has the same bytes.

``touch``, ``rsync -t``, ``cp -a`` to another disk, ``chmod`` and new inode numbers change no byte. So before such a
file is sent again, it is read once and compared with the recorded checksums. If they match, the record is corrected
(identity, modification time, path), and nothing is sent.

Its stamps prove that it did not change meanwhile. If all bytes match and its stamps do not, as of one that is touched
again and again, it may have changed since, but nothing shows that it did: it is compared again after a pause.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import ENDED, Change, Checkpoint, StreamMeta
from cef_trio.exceptions import LeaseLostError, RecordingTouchedError
from cef_trio.files import HEAD_BYTES, FileStat, OpenRecording
from cef_trio.resilience import stall
from cef_trio.upload.completed_parts import load_earlier, parts_of
from cef_trio.upload.copy_from_previous import ContentMatch, compare_content
from cef_trio.upload.lease_context import hold_lease
from cef_trio.upload.recognition import identify
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

_MAX_COMPARISONS: Final = 3
"""How often a file that changes meanwhile is compared."""


async def correct_if_unchanged(services: Services, stream_id: str, path: str) -> Checkpoint | ContentMatch:
    """Compare the file with a stream's complete object, and correct the stream's record if every byte is the same.

    Returns:
        ``ContentMatch.SAME`` if the record now describes the file; ``ContentMatch.NONE`` if the file shares no bytes
        with the recording, or the record cannot be read; else the completed stream, from which a new stream copies
        parts.

    Raises:
        RecordingChangedError: the file does not exist.
        RecordingTouchedError: it has all bytes, and was touched during each comparison. Repeat it after a pause.
        LeaseLostError: another daemon works on the completed stream.
        RedisOperationError, S3OperationError: Redis or S3 is unavailable.
    """
    completed = await load_earlier(services, stream_id)
    if completed is None or completed.meta.object_etag is None or completed.meta.status not in ENDED:
        return ContentMatch.NONE
    async with services.disk.open(path) as recording:
        for _ in range(_MAX_COMPARISONS):
            before = await recording.stat()
            fs_type = (await recording.origin()).system.name
            await trio.sleep(services.granularity_wait_seconds(fs_type, before))
            found = await compare_content(recording, before.size_bytes, completed)
            if found is ContentMatch.NONE and not completed.parts:
                # Not before: an unchanged file needs no request, and is no open stream while S3 is down.
                completed = replace(completed, parts=await parts_of(services, completed))
                if completed.parts:
                    found = await compare_content(recording, before.size_bytes, completed)
            if found is ContentMatch.NONE:
                return found
            if found is ContentMatch.SOME:
                services.advice.resumed(completed.meta, before)
                return completed
            after = await recording.stat()
            if (after, after.ctime_ns) == (before, before.ctime_ns):
                await _correct(services, completed.meta, recording, after, path)
                return ContentMatch.SAME
    raise touched(path)


def touched(path: str) -> RecordingTouchedError:
    """Return the error of a file that had all bytes of an object, and whose stamps changed while they were compared."""
    stall.progressed()  # S3 has what was read: a file that is touched all the time is not at risk (P10)
    return RecordingTouchedError(path)


async def _correct(services: Services, meta: StreamMeta, recording: OpenRecording, stat: FileStat, path: str) -> None:
    identity = await identify(recording, stat, HEAD_BYTES)
    store, lease, ownership = services.store, services.lease, services.ownership
    async with hold_lease(store, meta.stream_id, lease) as held:
        if held is None:
            raise LeaseLostError(f"another daemon works on stream {meta.stream_id}")
        owner = ownership.owner_of(path) or meta.owner
        change = Change({"identity": identity, "verified_mtime_ns": stat.mtime_ns, "owner": owner})
        await store.update(meta.stream_id, lease, change)
        name = ownership.name_at(path)
        if path != meta.current_path or (meta.owner is not None and name not in {"", meta.owner.name}):
            await store.rename(meta.stream_id, lease, path)
    log.info("recording_unchanged", stream_id=meta.stream_id, key=meta.s3_key_prefix, size_bytes=stat.size_bytes)
