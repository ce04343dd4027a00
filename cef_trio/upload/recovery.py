"""Begin a stream, and resume it after a restart, crash, outage, lost reply or Redis failover.

Every resume takes the same steps: load the checkpoint, check the file, ask S3, and reconcile the three.

- Redis holds the acknowledged parts. They are trusted unless S3 contradicts them, so no recorded part is sent again
  (promise P2).
- S3 may have a part, an upload or an object whose record was lost, by a crash or by a Redis failover that lost the last
  writes. A part is adopted if its bytes are the file's, an upload if its key matches, an object if its metadata, size
  and checksum match.
- The file is recognized by its identity (``files/identity.py``), or by its recorded parts where that is ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from cef_trio.checkpoint import (
    COMES_BACK,
    ENDED,
    Checkpoint,
    FailureReason,
    FileIdentity,
    PartRecord,
    Status,
    StreamMeta,
    rules,
)
from cef_trio.exceptions import (
    ChunkProcessingError,
    LeaseLostError,
    OutdatedError,
    RecordingChangedError,
    RecordUnreadableError,
    S3OperationError,
    StreamEndedError,
)
from cef_trio.files import (
    HEAD_BYTES,
    FileStat,
    IdentityMatch,
    OpenRecording,
    identity_by_stat,
    is_same_mount,
    is_verified_file,
    on_another_file_system,
)
from cef_trio.s3 import ListedPart
from cef_trio.upload import bucket_change, webhook_events
from cef_trio.upload.completed_parts import load_earlier
from cef_trio.upload.failures import ResumeError
from cef_trio.upload.file_state import FileState
from cef_trio.upload.object_key import recording_start
from cef_trio.upload.orphan_uploads import OrphanUploads
from cef_trio.upload.part_matching import matching_parts, upload_checksum_algorithm
from cef_trio.upload.part_plan import PartSettings
from cef_trio.upload.recognition import identify, recognize
from cef_trio.upload.repeated_errors import Doubt
from cef_trio.upload.services import Services
from cef_trio.upload.session import StreamUpload

log = structlog.get_logger(__name__)

_GONE = frozenset({"NoSuchUpload", "NoSuchKey"})
_MAX_UPLOADS_LOST: Final = 5


@dataclass(frozen=True, slots=True)
class FileHistory:
    """The streams, and the lost records, that a file without an open stream may belong to."""

    replaced_stream_id: str | None = None
    """The ID of the stream that the path is recorded for: an ended one, or of another file. It is replaced."""
    other_owner_stream_id: str | None = None
    """The ID of another host's stream that the path is recorded for. It stays."""
    renamed: str | None = None
    """The ID of a completed stream whose file is missing at its path, and may be this one."""
    may_be_stored: bool = False
    """Whether the file may be a completed recording whose record Redis has lost."""


NO_HISTORY: Final = FileHistory()


async def begin(
    services: Services,
    unknown: OrphanUploads,
    path: str,
    *,
    on_stream_id: Callable[[str], None],
    history: FileHistory = NO_HISTORY,
    supersedes: StreamMeta | None = None,
) -> StreamUpload:
    """Begin a stream for a file without a record: adopt its upload if S3 has one, else create a new record.

    ``unknown`` are the uploads in S3 that Redis has no record of; ``supersedes`` is a completed stream with some of the
    file's bytes, whose parts can be copied within S3; :func:`create_stream` has the rest.

    Raises:
        RecordingChangedError: the file does not exist.
        PathTakenError, LeaseLostError: as :func:`create_stream`.
    """
    async with services.disk.open(path) as recording:
        stat = await recording.stat()
        identity = await identify(recording, stat, HEAD_BYTES)
        after_ns = await _written_after(services, identity, stat, history, supersedes)
        adopted = await unknown.claim(path, recording) if unknown.may_fit(path) else None
    first_seen = [adopted.upload.initiated_at_utc] if adopted else []
    if supersedes:
        first_seen.append(supersedes.recording_began_at_utc or supersedes.started_at_utc)
    stream_id = adopted.stream_id if adopted else services.new_stream_id()
    meta = new_record(services, stream_id, path, identity, stat, first_seen=first_seen, after_ns=after_ns)
    parts = adopted.parts if adopted else ()
    if supersedes:
        # Parts can be copied only with equal boundaries; an object of one PutObject has none.
        cut: PartSettings = supersedes if supersedes.checksum_algorithm is not None else services.rules
        meta = replace(
            meta,
            part_size=cut.part_size,
            equal_parts=cut.equal_parts,
            supersedes_stream_id=supersedes.stream_id,
            supersedes_key=supersedes.s3_key_prefix,
        )
    if adopted:
        meta = replace(
            meta,
            s3_key_prefix=adopted.upload.key,
            s3_upload_id=adopted.upload.upload_id,
            checksum_algorithm=adopted.checksum_algorithm,
            part_size=adopted.plan.part_size,
            equal_parts=adopted.plan.equal_parts,
            started_at_utc=adopted.upload.initiated_at_utc,
            next_part_to_upload=max(part.part_number for part in parts) + 1,
        )
    try:
        upload = await create_stream(services, meta, parts, on_stream_id=on_stream_id, history=history, announced=True)
    finally:
        if adopted:
            unknown.release(adopted)
    if adopted:
        log.info("upload_adopted", key=meta.s3_key_prefix, parts=len(parts))
    else:
        log.info("stream_started", key=meta.s3_key_prefix, part_size=meta.part_size, supersedes=meta.supersedes_key)
    return upload


async def _written_after(
    services: Services, identity: FileIdentity, stat: FileStat, history: FileHistory, supersedes: StreamMeta | None
) -> int:
    """Return the modification time, in nanoseconds, of a completed recording that had this file; 0: there was none.

    A file that was emptied and is written anew (``ffmpeg -y``) keeps its birth, which is that of the first recording.
    If it is superseded while it is written, the date of the superseded recording is known. Of a file that is not empty,
    and shares nothing with the recording as far as was compared, nothing shows that it is another recording.
    """
    earlier = supersedes
    if earlier is None and stat.size_bytes == 0 and history.replaced_stream_id is not None:
        found = await load_earlier(services, history.replaced_stream_id)
        earlier = found.meta if found is not None and found.meta.status is Status.COMPLETED else None
    if earlier is None or earlier.recording_began_at_utc is None or not is_verified_file(earlier.identity, identity):
        return 0
    return earlier.verified_mtime_ns or 0


async def create_stream(
    services: Services,
    meta: StreamMeta,
    parts: Sequence[PartRecord] = (),
    *,
    on_stream_id: Callable[[str], None],
    history: FileHistory,
    announced: bool = False,
) -> StreamUpload:
    """Create the record of a stream that has these parts in S3.

    ``on_stream_id`` is called with the stream ID before the record exists, so that the supervisor knows its task.
    ``announced``: enqueue its ``ON_START_WEBHOOK`` in the same step.

    Raises:
        PathTakenError: another stream was recorded for the path meanwhile.
        LeaseLostError: another daemon created a stream of this ID.
    """
    on_stream_id(meta.stream_id)
    event = webhook_events.started(meta) if announced and services.start_webhook is not None else None
    await services.store.create(
        meta,
        services.lease,
        parts,
        replaced_stream_id=history.replaced_stream_id,
        other_owner_stream_id=history.other_owner_stream_id,
        event=event,
    )
    if event is not None:
        services.event_enqueued[webhook_events.STARTED_EVENT].value = True
    records = {part.part_number: part for part in parts}
    is_new = meta.s3_upload_id is None and meta.object_etag is None
    return StreamUpload(services, Checkpoint(meta, rules.default_set(meta.status), records), is_new=is_new)


def new_record(
    services: Services,
    stream_id: str,
    path: str,
    identity: FileIdentity,
    stat: FileStat,
    *,
    first_seen: Iterable[datetime] = (),
    after_ns: int = 0,
) -> StreamMeta:
    """Return the record of a new stream.

    ``first_seen``: earlier times at which the file was there. Its stamps up to ``after_ns`` are of another recording.
    """
    settings, now = services.rules, services.utc_now()
    birth_ns, mtime_ns = (ns if ns is not None and ns > after_ns else None for ns in (stat.birth_ns, stat.mtime_ns))
    began = recording_start(birth_ns, mtime_ns, min((now, *first_seen)))
    return StreamMeta(
        stream_id=stream_id,
        original_path=path,
        current_path=path,
        identity=identity,
        s3_bucket=settings.bucket,
        s3_key_prefix=settings.key_template.key(stream_id, path, began),
        part_size=settings.recorded_part_size,
        equal_parts=settings.equal_parts,
        s3_endpoint=settings.endpoint or None,
        owner=services.ownership.owner_of(path),
        started_at_utc=now,
        last_activity_at_utc=now,
        recording_began_at_utc=began,
    )


async def record_refused(
    services: Services, file_state: FileState, *, on_stream_id: Callable[[str], None], history: FileHistory
) -> StreamUpload:
    """Create a record for a file whose stream could not be started, to hold the failure (promise P6)."""
    try:
        stat = await services.disk.stat(file_state.path)
    except ChunkProcessingError:
        stat = None
    stat = stat or file_state.stat
    meta = new_record(services, services.new_stream_id(), file_state.path, identity_by_stat(stat), stat)
    return await create_stream(services, meta, on_stream_id=on_stream_id, history=history)


async def resume(
    services: Services, stream_id: str, path: str | None, *, doubt: Doubt = Doubt.NOTHING, over_quota: bool = False
) -> StreamUpload:
    """Resume a recorded stream. ``path``: where its file was last seen; ``None``: the recorded path.

    ``doubt``: what S3's errors made doubtful, of the recorded upload and parts. ``over_quota``: a quota has refused to
    complete the upload. If it is gone by now, the store has aborted it (Garage), and that is no loss.

    Raises:
        LeaseLostError: another daemon owns the stream, or its record is gone.
        RecordUnreadableError: its record, parts or lease cannot be read.
        OutdatedError: its file is not at ``path``, and another path was recorded meanwhile. The lease is held.
        StreamEndedError: it was aborted or completed before the lease was acquired.
        ResumeError: its file is missing or replaced, or S3 lost its upload too often.
    """
    if not await services.store.acquire(stream_id, services.lease):
        odd = services.store.unreadable.why_of(stream_id)
        if odd is not None:
            raise RecordUnreadableError("acquire", odd)
        raise LeaseLostError(f"another daemon owns stream {stream_id}")
    checkpoint = await services.store.load(stream_id)
    if checkpoint is None:
        raise LeaseLostError(f"the record of stream {stream_id} is gone from Redis")
    if checkpoint.meta.status in ENDED - COMES_BACK:
        # It ended between the lookup and the lease. Resuming would reopen an aborted stream.
        await services.store.release([stream_id], services.lease)
        raise StreamEndedError(
            f"stream {stream_id} has ended: {checkpoint.meta.status.value}",
            completed=checkpoint.meta.status is Status.COMPLETED,
        )
    upload = StreamUpload(services, checkpoint)
    await bucket_change.reconcile_target(services, upload)
    if upload.meta.object_etag is not None:
        return upload
    path = path or upload.meta.current_path
    try:
        async with services.disk.open(path) as recording:
            identity_match = await _check_identity(services, upload, recording, path)
            if identity_match is IdentityMatch.SAME:
                await _record_identity(upload, recording)
            await _agree_with_s3(services, upload, recording, doubt, over_quota=over_quota)
            if identity_match is not IdentityMatch.SAME and upload.meta.object_etag is None:
                # Not known by anything: an object that a PutObject has stored may be of the file before it.
                await _record_identity(upload, recording)
    except RecordingChangedError as error:
        if await _was_completed(services, upload):
            return upload
        if path != upload.meta.current_path:
            # The path changed between the lookup and the lease, or after it: the recorded path is not checked yet. The
            # lease is released when the end of the task is saved.
            raise OutdatedError(f"stream {stream_id} has its file at {upload.meta.current_path!r} now") from error
        await check_mounted(services, upload.meta, path)
        raise ResumeError(FailureReason.FILE_MISSING_ON_RESUME, str(error)) from error
    if upload.meta.object_etag is None and upload.meta.status is not Status.ACTIVE:
        await upload.transition(Status.ACTIVE, retry_at_utc=None, failure_reason=None)
    log.info("stream_resumed", parts=len(upload.parts), covered_bytes=upload.covered_bytes)
    return upload


async def check_mounted(services: Services, meta: StreamMeta, path: str) -> None:
    """Check that a missing file is not merely on an unmounted file system.

    Raises:
        ChunkProcessingError: transient; the watch folder is missing, or the file's folder is on another mount than
            before, so a file system is probably not mounted.
    """
    place = await services.disk.mount_around(path, within=services.rules.root_of(path))
    if place is None:
        raise ChunkProcessingError(f"{path!r} and the watch folder do not exist", transient=True)
    if not is_same_mount(meta.identity, place):
        raise ChunkProcessingError(
            f"{path!r} does not exist, and its folder is on another file system, or another mount, than it was: is "
            "something not mounted?",
            transient=True,
        )


async def _check_identity(
    services: Services, upload: StreamUpload, recording: OpenRecording, path: str
) -> IdentityMatch:
    recorded = upload.meta.identity
    # Without parts, bytes of two files cannot be mixed.
    identity_match = await recognize(upload.meta, upload.parts, recording)
    if identity_match is IdentityMatch.REPLACED:
        await check_same_file_system(recording, recorded, path)
        known_as = upload.meta.current_path
        if path != known_as:  # proposed by its inode number only
            raise ResumeError(
                FailureReason.FILE_MISSING_ON_RESUME, f"{known_as!r} is gone, and {path!r} is another recording"
            )
        raise ResumeError(FailureReason.FILE_REPLACED, "another file has the recording's name now")
    await _record_owner(services, upload)
    return identity_match


async def _record_identity(upload: StreamUpload, recording: OpenRecording) -> None:
    observed = await identify(recording, await recording.stat(), HEAD_BYTES)
    if observed != upload.meta.identity:
        await upload.update(identity=observed)


async def _record_owner(services: Services, upload: StreamUpload) -> None:
    """Record this host as the owner: an earlier version did not, or the file was moved to this host."""
    ours, before = services.ownership.owner_of(upload.meta.current_path), upload.meta.owner
    if ours is None or ours == before:
        return
    await upload.update(owner=ours)
    if before is not None and before.name != ours.name:
        await services.store.rename(upload.stream_id, services.lease, upload.meta.current_path)


async def check_same_file_system(recording: OpenRecording, recorded: FileIdentity, path: str) -> None:
    """Check that a file that seems to have replaced the recording is not merely from another mount.

    Raises:
        ChunkProcessingError: transient; the file is on another file system.
    """
    if on_another_file_system(recorded, await identify(recording, await recording.stat(), 0)):
        raise ChunkProcessingError(
            f"{path!r} is another file, on another file system than the recording was: is something not mounted?",
            transient=True,
        )


async def _agree_with_s3(
    services: Services, upload: StreamUpload, recording: OpenRecording, doubt: Doubt, *, over_quota: bool
) -> None:
    if upload.meta.s3_upload_id is None:
        if await upload.find_put() is not None:
            await bucket_change.confirm_endpoint(services, upload)
        elif upload.meta.verified_crc64nvme is not None and bucket_change.endpoint_changed(services, upload.meta):
            await bucket_change.start_over_at_target(services, upload)
        else:
            await _find_upload(services, upload, recording)
            # Whatever was found or is created now is in the configured store.
            await bucket_change.confirm_endpoint(services, upload)
        return
    if doubt is Doubt.UPLOAD and upload.meta.uploads_restarted < _MAX_UPLOADS_LOST:
        # Not completed once more, to see whether it is: that has failed all the time.
        await upload_lost(services, upload)
        return
    listed: list[ListedPart] | None = None
    lost = doubt is Doubt.CONTRADICTED
    try:
        listed = await _list_parts(services, upload.meta.s3_key_prefix, upload.meta.s3_upload_id)
    except S3OperationError as error:
        if error.code not in _GONE:
            raise
        lost = True
    if listed is not None:
        await bucket_change.confirm_endpoint(services, upload)
        await _adopt_parts(services, upload, recording, listed)
        if doubt is not Doubt.NOTHING:
            _forget_unlisted(upload, listed)
    elif not lost:
        # Trust Redis. Unrecorded parts are sent again; lost ones fail the next UploadPart or the completion.
        log.info("parts_taken_from_redis", parts=len(upload.parts))
    elif not await _was_completed(services, upload):
        await upload_lost(services, upload, over_quota=over_quota)


async def _list_parts(services: Services, key: str, upload_id: str) -> list[ListedPart] | None:
    """Return the parts that S3 has; ``None`` if it does not list them, for now or ever.

    Raises:
        S3OperationError: the upload does not exist, or a transient failure.
    """
    try:
        return await services.attempt("list_parts", lambda: services.s3.list_parts(key, upload_id))
    except S3OperationError as error:
        if error.transient or error.code in _GONE:
            raise
        log.warning("parts_not_listed", error=str(error))
        return None


async def _find_upload(services: Services, upload: StreamUpload, recording: OpenRecording) -> None:
    """Find an upload whose ID was not recorded, by its key, which is unique; adopt its parts."""
    key = upload.meta.s3_key_prefix
    try:
        uploads = await services.attempt("list_multipart_uploads", lambda: services.s3.list_multipart_uploads(key))
    except S3OperationError as error:
        if error.transient:
            raise
        log.warning("uploads_not_listed", error=str(error))
        return
    # If none is listed, a new upload is created; others of this key are aborted at the completion.
    # One that S3 did not abort is no find: it is left because it is broken, or because another one is to be begun.
    left = {one.upload_id for one in services.orphan_cleanup.left}
    found = [candidate for candidate in uploads or () if candidate.key == key and candidate.upload_id not in left]
    if not found:
        return
    *others, newest = sorted(found, key=lambda candidate: candidate.initiated_at_utc)
    for orphan in others:
        await upload.abort_or_leave(orphan.upload_id)
    listed = await _list_parts(services, key, newest.upload_id)
    if listed is None:
        return
    if not listed:
        # The checksum algorithm of an empty upload is unknown; a new upload costs one call.
        await upload.abort_or_leave(newest.upload_id)
        return
    await upload.update(s3_upload_id=newest.upload_id, checksum_algorithm=upload_checksum_algorithm(listed).value)
    await _adopt_parts(services, upload, recording, listed)


async def _adopt_parts(
    services: Services, upload: StreamUpload, recording: OpenRecording, listed: list[ListedPart]
) -> None:
    """Adopt listed parts that are not recorded; forget records that the list contradicts.

    Recorded parts that are not listed are kept: some stores list late, and the completion fails if a part is missing.
    """
    contradicting = [part for part in listed if _contradicts(upload, part)]
    matching = await matching_parts(recording, contradicting, upload.plan, at=services.utc_now())
    for part in contradicting:
        if part.part_number not in matching and part.part_number in upload.parts:
            upload.drop(part.part_number)
    if matching:
        await upload.adopt(list(matching.values()))
        log.info("parts_adopted", parts=sorted(matching))


def _forget_unlisted(upload: StreamUpload, listed: list[ListedPart]) -> None:
    """Forget recorded parts that S3 does not list, so that they are sent again."""
    missing = set(upload.parts) - {part.part_number for part in listed}
    for number in missing:
        upload.drop(number)
    if missing:
        log.warning("parts_lost", parts=sorted(missing))


def _contradicts(upload: StreamUpload, part: ListedPart) -> bool:
    record = upload.parts.get(part.part_number)
    if record is not None and not part.etag and record.size_bytes == part.size_bytes:
        return False  # Swift lists copied parts with an empty ETag, which contradicts nothing
    # A store may list an ETag in other letters than it responded with; Complete may want those of the response.
    return record is None or (record.etag.lower(), record.size_bytes) != (part.etag.lower(), part.size_bytes)


async def _was_completed(services: Services, upload: StreamUpload) -> bool:
    """Find out whether S3 has the verified object and only the record was lost: complete its upload again.

    Only exactly the verified parts are completed. A part recorded later has cleared the verification
    (``checkpoint/rules.py``). An object of PutObject is looked for instead.
    """
    if await upload.find_put() is not None:
        return True
    size = upload.meta.verified_size_bytes
    if not size or upload.meta.s3_upload_id is None or not upload.has_exactly(size):
        return False
    try:
        stored = await services.s3.complete_multipart_upload(
            upload.meta.s3_key_prefix,
            upload.meta.s3_upload_id,
            upload.parts_to_complete(size),
            checksum=upload.checksum,
            stream_id=upload.stream_id,
        )
    except S3OperationError as error:
        if error.transient:
            raise
        return False
    await upload.record_object(stored)
    log.info("completion_found", key=stored.key)
    return True


async def is_stored(services: Services, upload: StreamUpload) -> bool:
    """Return whether the verified object of a stream whose file is gone or replaced is in S3; record it.

    Raises:
        S3OperationError: S3 is unavailable.
    """
    if upload.meta.object_etag is not None:
        return True
    return not bucket_change.bucket_changed(services, upload.meta) and await _was_completed(services, upload)


async def upload_lost(services: Services, upload: StreamUpload, *, over_quota: bool = False) -> None:
    """Start the stream over after S3 lost its upload, or a quota had it aborted, which may be repeated for ever.

    Raises:
        ResumeError: S3 lost it more than ``_MAX_UPLOADS_LOST`` times.
    """
    if bucket_change.endpoint_changed(services, upload.meta):
        await bucket_change.start_over_at_target(services, upload)
        return
    lost = upload.meta.uploads_restarted + (0 if over_quota else 1)
    if lost > _MAX_UPLOADS_LOST:
        raise ResumeError(FailureReason.UPLOAD_LOST, f"S3 lost the upload {lost} times")
    log.warning("upload_lost", key=upload.meta.s3_key_prefix, times=lost)
    await upload.start_over(uploads_restarted=lost)
