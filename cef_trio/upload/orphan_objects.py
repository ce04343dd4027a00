"""Adopt completed objects that Redis does not know, so that a recording whose record is lost is not uploaded again.

If Redis loses a completed recording's record, its file looks new, while S3 has the object, with the stream's id in its
key and metadata, and the metadata JSON beside it. So before a file is sent that has no writer and was last written
before Redis may have lost something, the objects under our prefix are listed. A key and the size *propose* an
object; its bytes, compared in one pass over the file, *decide* (``object_match.py``). The record is then restored:
as completed if the metadata JSON exists, else as an object whose metadata is still to be written.

An object is only read, never changed or deleted, whichever host uploaded it (promise P9): if two hosts have the same
bytes under the same name in one bucket, the file of one is stored by the object of the other.

All of this is optional (``best_effort.py``): a file whose object cannot be listed, read or proved is uploaded. One
listing, limited in time, serves all files that are known by then, and keeps only objects that fit one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import FileIdentity, PartRecord, Status, StreamMeta
from cef_trio.exceptions import S3OperationError
from cef_trio.files import HEAD_BYTES, FileSlice, FileStat, OpenRecording
from cef_trio.s3 import Crc64Nvme, ListedObject, StoredObject
from cef_trio.upload.completed_parts import read_metadata_json
from cef_trio.upload.object_key import ProposedStream, metadata_key
from cef_trio.upload.object_match import (
    FileDigest,
    ObjectMetadata,
    PartDigest,
    is_same,
    object_checksum_algorithm,
    part_records,
    read_metadata,
)
from cef_trio.upload.part_matching import plan_of
from cef_trio.upload.part_plan import PartPlan
from cef_trio.upload.recognition import identify
from cef_trio.upload.recovery import FileHistory, create_stream, new_record
from cef_trio.upload.services import Services
from cef_trio.upload.session import STREAM_ID_METADATA, StreamUpload
from cef_trio.upload.unchanged_content import touched

log = structlog.get_logger(__name__)

LIST_SECONDS: Final = 45.0
"""Timeout of one listing, enough for some hundred thousand objects. What was listed by then is used."""
_MAX_FOUND: Final = 10_000
_MAX_COMPARED: Final = 8
"""How many objects of the same name and size are compared with one file."""


@dataclass(frozen=True, slots=True)
class _Orphan:
    stored: ListedObject
    proposed: ProposedStream

    def fits(self, path: str, size_bytes: int) -> bool:
        return self.stored.size_bytes == size_bytes and self.proposed.fits(path)


@dataclass(frozen=True, slots=True)
class _Match:
    """An object that has the file's bytes."""

    orphan: _Orphan
    stored: StoredObject
    digest: FileDigest
    metadata: ObjectMetadata | None


class OrphanObjects:
    """The completed objects under our prefix that Redis does not know, may be a file's, and are not claimed."""

    def __init__(self, services: Services, live_ids: Callable[[], frozenset[str]]) -> None:
        """``live_ids`` returns the streams that have a task, whose objects are not adopted."""
        self._services = services
        self._live_ids = live_ids
        self._wanted: dict[int, list[str]] = {}
        """Paths of files that no listing has covered yet, by size."""
        self._orphans: list[_Orphan] = []
        self._listing = trio.Lock()

    def request(self, files: Mapping[str, FileStat]) -> None:
        """Add these files to the next listing."""
        for path, stat in files.items():
            self._wanted.setdefault(stat.size_bytes, []).append(path)

    async def list_unknown(self, leaving: Callable[[], bool]) -> None:
        """List the objects, unless all wanted files are covered. Call it without a slot: it may take long.

        Raises:
            S3OperationError: S3 is unavailable.
            RedisOperationError: Redis is unavailable.
        """
        async with self._listing:
            if not self._wanted:
                return
            wanted, self._wanted = self._wanted, {}
            done = False
            try:
                done = await self._list(wanted, leaving)
            finally:
                if not done:
                    for size_bytes, paths in wanted.items():
                        self._wanted.setdefault(size_bytes, []).extend(paths)

    async def _list(self, wanted: Mapping[int, list[str]], leaving: Callable[[], bool]) -> bool:
        """List what fits these files; return false if the shutdown interrupted that."""
        services, prefix = self._services, self._services.rules.key_template.prefix
        ends_at = trio.current_time() + LIST_SECONDS
        token: str | None = None
        found: list[_Orphan] = []
        while True:
            try:
                page = await services.attempt(
                    "list_objects",
                    lambda token=token: services.s3.list_objects(prefix, token),  # type: ignore[misc]
                )
            except S3OperationError as error:
                if error.transient:
                    raise
                log.warning("objects_not_listed", error=str(error))
                break
            if page is None:  # already logged
                break
            found += await self._unknown(self._fitting(page.objects, wanted))
            token = page.next_token
            if token is None:
                break
            if len(found) >= _MAX_FOUND or trio.current_time() >= ends_at:
                log.warning("objects_not_listed", error="there are too many; those that were listed are compared")
                break
            if leaving():
                return False
        known = {orphan.proposed.stream_id for orphan in self._orphans}
        self._orphans += [orphan for orphan in found[:_MAX_FOUND] if orphan.proposed.stream_id not in known]
        if found:
            log.info("unknown_objects_found", objects=len(found))
        return True

    def _fitting(self, objects: Iterable[ListedObject], wanted: Mapping[int, list[str]]) -> list[_Orphan]:
        parse = self._services.rules.key_template.parse
        return [
            _Orphan(stored, proposed)
            for stored in objects
            if (paths := wanted.get(stored.size_bytes)) and (proposed := parse(stored.key))
            if any(proposed.fits(path) for path in paths)
        ]

    async def _unknown(self, orphans: list[_Orphan]) -> list[_Orphan]:
        """Return those that Redis does not know, here or of another owner, whose gc may delete its own (P8)."""
        if not orphans:
            return []
        ids = {orphan.proposed.stream_id for orphan in orphans}
        known = await self._services.store.load_metas(ids)
        owned = known.keys() | known.unreadable.keys()
        owned |= await self._services.known_elsewhere(ids - owned)
        owned |= self._live_ids()
        return [orphan for orphan in orphans if orphan.proposed.stream_id not in owned]

    async def adopt(
        self, path: str, *, on_stream_id: Callable[[str], None], history: FileHistory
    ) -> StreamUpload | None:
        """Create a record for the object that has the file's bytes; return ``None`` if there is none: upload it.

        The stream's status is ``completed``, or ``s3_completed`` if its metadata JSON is still to be written.
        ``on_stream_id`` and ``history`` are as for :func:`cef_trio.upload.recovery.create_stream`.

        Raises:
            RecordingChangedError: the file does not exist.
            RecordingTouchedError: it has the bytes of an object, and was touched meanwhile. Repeat it after a pause.
            S3OperationError: S3 is unavailable.
            PathTakenError, LeaseLostError: another daemon was first.
        """
        services = self._services
        async with services.disk.open(path) as recording:
            before = await recording.stat()
            if not any(orphan.fits(path, before.size_bytes) for orphan in self._orphans):
                return None
            await trio.sleep(services.granularity_wait_seconds((await recording.origin()).system.name, before))
            match = await self._find(path, recording, before.size_bytes)
            if match is None or not self._claim(match.orphan):
                return None
            recorded = False
            try:
                identity = await identify(recording, before, HEAD_BYTES)
                after = await recording.stat()
                if after.size_bytes != before.size_bytes:
                    return None
                if (after, after.ctime_ns) != (before, before.ctime_ns):
                    raise touched(path)
                upload = await self._record(match, path, identity, after, on_stream_id=on_stream_id, history=history)
                recorded = True
            finally:
                if not recorded:
                    self._orphans.append(match.orphan)
        return await self._complete(upload) if match.metadata is not None else upload

    def _claim(self, orphan: _Orphan) -> bool:
        """Claim an object for one file; return false if it is claimed, or its stream has a task by now."""
        if orphan not in self._orphans or orphan.proposed.stream_id in self._live_ids():
            return False
        self._orphans.remove(orphan)
        return True

    async def _find(self, path: str, recording: OpenRecording, size_bytes: int) -> _Match | None:
        rules = self._services.rules
        plan = PartPlan.of(rules)
        if size_bytes > plan.max_size_bytes:
            return None
        digest = await digest_of_file(recording, size_bytes, plan)
        fitting = [orphan for orphan in self._orphans if orphan.fits(path, size_bytes)]
        fitting.sort(
            key=lambda orphan: orphan.stored.etag not in digest.etags
        )  # the listing's ETag usually identifies it
        for orphan in fitting[:_MAX_COMPARED]:
            try:
                match = await self._compare(orphan, recording, digest)
            except S3OperationError as error:
                if error.transient:
                    raise
                log.warning("object_not_compared", key=orphan.stored.key, error=str(error))
                continue
            if match is not None and orphan in self._orphans:
                return match
        return None

    async def _compare(self, orphan: _Orphan, recording: OpenRecording, digest: FileDigest) -> _Match | None:
        services, key, stream_id = self._services, orphan.stored.key, orphan.proposed.stream_id
        stored = await services.attempt("head_object", lambda: services.s3.head_object(key))
        if stored is None or stored.metadata.get(STREAM_ID_METADATA) != stream_id:
            return None
        if stored.size_bytes != digest.size_bytes or stored.crc64nvme not in {None, digest.crc64nvme}:
            return None
        document = await read_metadata_json(services, metadata_key(key))
        if document is None:
            return None
        if not document:
            return _Match(orphan, stored, digest, None) if is_same(digest, stored, None) else None
        metadata = read_metadata(document, stream_id)
        plan = plan_of(metadata.parts, digest.plan) if metadata is not None else None
        if metadata is None or plan is None:
            return None
        if plan != digest.plan:
            digest = await digest_of_file(recording, digest.size_bytes, plan)
        return _Match(orphan, stored, digest, metadata) if is_same(digest, stored, metadata) else None

    async def _record(
        self,
        match: _Match,
        path: str,
        identity: FileIdentity,
        stat: FileStat,
        *,
        on_stream_id: Callable[[str], None],
        history: FileHistory,
    ) -> StreamUpload:
        services, metadata = self._services, match.metadata
        now = services.utc_now()
        parts = part_records(match.digest, metadata, at=now)
        first_seen = [metadata.recording_began_at_utc or metadata.started_at_utc] if metadata is not None else []
        stream_id = match.orphan.proposed.stream_id
        record = new_record(services, stream_id, path, identity, stat, first_seen=first_seen)
        meta = _completed(record, match, parts, stat, at=now)
        if metadata is not None and services.webhook is None:
            meta = replace(meta, status=Status.COMPLETED)
        upload = await create_stream(services, meta, parts, on_stream_id=on_stream_id, history=history)
        log.info("object_adopted", key=meta.s3_key_prefix, size_bytes=stat.size_bytes, parts=len(parts))
        return upload

    async def _complete(self, upload: StreamUpload) -> StreamUpload:
        """Complete the stream: its metadata exists. Whether its webhook was delivered is unknown, so enqueue it."""
        services = self._services
        if services.webhook is not None:
            await upload.transition(Status.COMPLETED, enqueue_webhook=True)
            services.webhook_enqueued.value = True
        await services.store.release([upload.stream_id], services.lease)
        return upload


async def digest_of_file(recording: OpenRecording, size_bytes: int, plan: PartPlan) -> FileDigest:
    """Read the file once and return the checksums of its parts.

    Raises:
        RecordingChangedError: the file is shorter than ``size_bytes``.
        ChunkProcessingError: the file cannot be read.
    """
    parts = []
    for part in plan.split(size_bytes):
        crc, md5 = Crc64Nvme(), hashlib.md5(usedforsecurity=False)
        await FileSlice(recording, part.offset, part.size_bytes).feed(crc.update, md5.update)
        parts.append(PartDigest(part.size_bytes, crc.value, md5.hexdigest()))
    return FileDigest(plan, tuple(parts))


def _completed(
    record: StreamMeta, match: _Match, parts: list[PartRecord], stat: FileStat, *, at: datetime
) -> StreamMeta:
    """Return the record of a stream whose object is complete and whose metadata is still to be written."""
    digest, stored, metadata = match.digest, match.stored, match.metadata
    return replace(
        record,
        status=Status.S3_COMPLETED,
        s3_key_prefix=stored.key,
        part_size=digest.plan.part_size,
        equal_parts=digest.plan.equal_parts,
        checksum_algorithm=object_checksum_algorithm(digest, stored, parts),
        next_part_to_upload=len(parts) + 1,
        object_etag=stored.etag,
        object_crc64nvme=digest.crc64nvme,
        verified_size_bytes=stat.size_bytes,
        verified_mtime_ns=stat.mtime_ns,
        started_at_utc=metadata.started_at_utc if metadata else record.started_at_utc,
        completed_at_utc=(metadata.completed_at_utc if metadata else None) or at,
        duration_seconds=metadata.duration_seconds if metadata else None,
    )
