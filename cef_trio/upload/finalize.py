"""Finalize a recording: verify every byte, complete the object, write its metadata.

A writer may change any byte until it closes the file: patch the size of ``mdat`` (plain MP4), shift the whole body
(``+faststart``), rewrite a duration. So the whole file is read again, and parts whose bytes changed are sent again
under their numbers. Passes repeat until one changes nothing and the file's size and mtime are the same before and after
it, with an mtime old enough to prove that (``time_stamps.py``). The object is then the file of that moment (P1).

If the file changes during a pass, or in two passes one after the other, it is still being written: the stream goes back
to waiting, without a slot.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import structlog

from cef_trio.checkpoint import FailureReason, Status
from cef_trio.exceptions import (
    BrokenRecordingError,
    ChunkProcessingError,
    FFprobeError,
    RecordingChangedError,
    S3OperationError,
)
from cef_trio.files import FileStat, IdentityMatch, OpenRecording
from cef_trio.media import MediaInfo, metadata_json, object_crc64nvme
from cef_trio.s3 import StoredObject, combine_crc64nvme
from cef_trio.upload.failures import CompletionError
from cef_trio.upload.object_key import metadata_key, relative_path
from cef_trio.upload.part_matching import crc_of
from cef_trio.upload.part_plan import Part
from cef_trio.upload.recognition import recognize
from cef_trio.upload.send_parts import send_all
from cef_trio.upload.services import Services
from cef_trio.upload.session import StreamUpload

log = structlog.get_logger(__name__)

_NOT_IMPLEMENTED = 501
_NO_RECORDING = "ffprobe finds no recording in it: its index (moov) is missing or damaged"


async def verify_and_complete(
    services: Services,
    upload: StreamUpload,
    recording: OpenRecording,
    *,
    draining: Callable[[], bool],
    pause: Callable[[float], Awaitable[None]],
) -> FileStat | None:
    """Verify the file, send what changed, and complete the object.

    ``pause`` waits for the given number of seconds, or until the daemon drains.

    Returns:
        ``None`` if the object is complete or the daemon is draining; otherwise the file's stat, as it changed during
        the verification, or between its passes, and is still being written.

    Raises:
        RecordingChangedError: the file was truncated during a read.
        CompletionError: the file does not fit into its part plan.
    """
    if upload.meta.status is not Status.PENDING_COMPLETION:
        await upload.transition(Status.PENDING_COMPLETION)
        log.info("recording_ended", parts=len(upload.parts), covered_bytes=upload.covered_bytes)
    waited_for: FileStat | None = None
    had_changed = False
    while not draining():
        before = await recording.stat()
        if before.size_bytes > upload.plan.max_size_bytes:
            raise CompletionError(
                FailureReason.FILE_TOO_LARGE,
                f"{before.size_bytes} bytes do not fit into 10,000 parts of {upload.plan.part_size} bytes; "
                "set CHUNK_SIZE_BYTES higher",
            )
        if before != waited_for and (
            wait_seconds := services.granularity_wait_seconds(upload.meta.identity.fs_type, before)
        ):
            await pause(wait_seconds)
        waited_for = before  # any later write gets a later time stamp, so this wait is not repeated
        one_put = upload.plan.is_one_put(before.size_bytes, upload_open=upload.meta.s3_upload_id is not None)
        if one_put:
            changed, crc = False, await crc_of(recording, 0, before.size_bytes)
        else:
            changed = await _send_changed_parts(services, upload, recording, before.size_bytes, draining)
        if draining():
            return None
        after = await recording.stat()
        if after != before or (changed and had_changed):  # through a mapping: the time stamp shows that late, or never
            return await _still_written(upload, after)
        if changed:
            had_changed = True
            continue
        if one_put:
            done = await _put(services, upload, recording, before, crc, draining=draining)
            if not isinstance(done, StoredObject):
                return done
            stored = done
        else:
            stored = await upload.complete(before.size_bytes, before.mtime_ns)
        log.info(
            "object_completed",
            key=stored.key,
            size_bytes=before.size_bytes,
            parts=len(upload.parts),
            etag=stored.etag,
            parts_rewritten=upload.meta.parts_rewritten,
        )
        return None
    return None


async def _put(
    services: Services,
    upload: StreamUpload,
    recording: OpenRecording,
    verified: FileStat,
    crc64nvme: int,
    *,
    draining: Callable[[], bool],
) -> StoredObject | FileStat | None:
    """Store a verified file with one PutObject, unless the daemon drains, or the file changed before a slot was free.

    Returns:
        The object; ``None`` if the daemon is draining; the file's new stat if it is still being written.
    """
    async with services.part_slots:
        if draining():
            return None
        after = await recording.stat()
        if after == verified:
            return await upload.put_whole(recording, verified.size_bytes, verified.mtime_ns, crc64nvme)
    return await _still_written(upload, after)


async def _still_written(upload: StreamUpload, found: FileStat) -> FileStat:
    log.info("recording_still_written", size_bytes=found.size_bytes)
    await upload.transition(Status.ACTIVE)
    return found


async def _send_changed_parts(
    services: Services, upload: StreamUpload, recording: OpenRecording, size_bytes: int, draining: Callable[[], bool]
) -> bool:
    """Read the whole file and send every part that differs from the one in S3; return whether any did."""
    await upload.ensure_open()

    async def changed_parts() -> AsyncGenerator[Part, None]:
        for part, record in upload.plan.pair(size_bytes, upload.parts):
            upload.verified_parts = part.number - 1
            if draining():
                return
            if (
                record is None
                or record.size_bytes != part.size_bytes
                or record.crc64nvme != await crc_of(recording, part.offset, part.size_bytes)
            ):
                yield part
        upload.verified_parts += 1

    try:
        return await send_all(services, upload, recording, changed_parts(), stop=draining)
    except S3OperationError as error:
        if error.transient or error.status != _NOT_IMPLEMENTED or error.part_number not in upload.parts:
            raise
        # Some stores (rclone) cannot replace a part. The recording has ended, so a new upload needs no replacements.
        log.warning("parts_cannot_be_replaced", part_number=error.part_number, error=str(error))
        await upload.start_over()
        return True


async def finish(services: Services, upload: StreamUpload, path: str | None) -> None:
    """Probe the recording, write its metadata beside the object, and complete the stream.

    ``path`` is ``None`` if its file is gone or replaced. A file is probed only if it is what was verified, since the
    stream may be resumed here long after: another file's duration would be wrong.
    Every step is safe to repeat: a stream that stops here stays ``s3_completed`` and is finished by the next start.
    """
    await upload.abort_orphans()
    size_bytes = upload.meta.verified_size_bytes or 0
    parts = [record for _, record in upload.plan.pair(size_bytes, upload.parts) if record is not None]
    crc = (
        combine_crc64nvme((part.crc64nvme, part.size_bytes) for part in parts)
        if upload.has_exactly(size_bytes)
        else object_crc64nvme(upload.meta)  # Redis lost parts
    )
    media, broken = None, None
    if path is not None:
        same, crc = await _compare(services, upload, path, crc)
        media, broken = await _probe(services, upload, path, crc) if same else (None, None)
    meta, now = replace(upload.meta, object_crc64nvme=crc, broken=broken), services.utc_now()
    below = relative_path(meta.original_path, services.rules.key_template.folders)
    document = metadata_json(meta, parts, media, processed_at_utc=now, relative_path=below)
    await services.s3.put_object(
        metadata_key(meta.s3_key_prefix),
        document,
        content_type="application/json",
        headers=services.s3.options.for_metadata(),
    )
    duration_seconds = media.duration_seconds if media else None
    enqueue_webhook = services.webhook is not None
    await upload.transition(
        Status.COMPLETED,
        enqueue_webhook=enqueue_webhook,
        duration_seconds=duration_seconds,
        last_activity_at_utc=now,
        object_crc64nvme=crc,
        broken=broken,
    )
    if broken is not None:
        services.metrics.recording_broken()
        log.warning("recording_broken", key=meta.s3_key_prefix, reason=broken)
    if enqueue_webhook:
        services.webhook_enqueued.value = True
    if duration_seconds is not None:
        services.metrics.recording_probed(duration_seconds)
    await services.store.release([upload.stream_id], services.lease)
    log.info(
        "stream_completed",
        key=meta.s3_key_prefix,
        size_bytes=size_bytes,
        duration_seconds=duration_seconds,
        parts_rewritten=meta.parts_rewritten,
        bytes_rewritten=meta.bytes_rewritten,
    )
    services.advice.completed(meta)


async def _compare(services: Services, upload: StreamUpload, path: str, crc: int | None) -> tuple[bool, int | None]:
    """Return whether the file at ``path`` has the object's bytes, and their CRC64NVME if it is known now."""
    meta = upload.meta
    try:
        async with services.disk.open(path) as recording:
            found = await recording.stat()
            if found.size_bytes != meta.verified_size_bytes:
                return False, crc
            if found.mtime_ns == meta.verified_mtime_ns and (
                await recognize(meta, upload.parts, recording) is IdentityMatch.SAME
            ):
                return True, crc if crc is not None else await crc_of(recording, 0, found.size_bytes)
            return crc is not None and await crc_of(recording, 0, found.size_bytes) == crc, crc
    except (RecordingChangedError, ChunkProcessingError) as error:
        log.info("recording_not_probed", error=str(error))
        return False, crc


async def _probe(
    services: Services, upload: StreamUpload, path: str, crc: int | None
) -> tuple[MediaInfo | None, str | None]:
    """Return what ffprobe reports of the file, and why it is broken, if it is; nothing if the file was replaced.

    A failure of ffprobe itself does not make a recording broken: then nothing is known of it.
    """
    media, broken = None, None
    try:
        media = await services.probe(path)
        broken = media.broken
    except BrokenRecordingError as error:
        log.warning("ffprobe_failed", error=str(error))
        broken = _NO_RECORDING
    except FFprobeError as error:
        log.warning("ffprobe_failed", error=str(error))  # the recording is complete all the same; its duration is null
    if media is None and broken is None:
        return None, None
    same, _ = await _compare(services, upload, path, crc)
    return (media, broken) if same else (None, None)
