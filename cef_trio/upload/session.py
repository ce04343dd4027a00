"""One stream's multipart upload and its checkpoint, kept in step.

Owns the order of things: S3 does, memory notes it at once, Redis records it, and only then does anything else happen to
the stream. Every effect of S3 is recorded through :meth:`Services.record_effect`, so that a cancellation between the
effect and its record waits (promise P2). What memory and Redis disagree about after a failure is settled by
``recovery.py``, never here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import structlog
import trio

from cef_trio.checkpoint import (
    Change,
    Checkpoint,
    PartRecord,
    Status,
    StreamMeta,
    apply_change,
    count_adopted,
    count_part,
    cut_off,
    starting_over,
)
from cef_trio.exceptions import S3OperationError
from cef_trio.files import FileSlice, FileStat, OpenRecording
from cef_trio.s3 import ChecksumAlgorithm, ListedUpload, PartToComplete, S3Client, StoredObject
from cef_trio.upload.holes import Holes
from cef_trio.upload.next_action import Known
from cef_trio.upload.part_plan import Part, PartPlan
from cef_trio.upload.predecessor import Base, base_of
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

STREAM_ID_METADATA = "cef-stream-id"
"""The user metadata by which a finished object is known to be ours (HeadObject)."""
_ABORT_ROUNDS = 3


class StreamUpload:
    """What is known of one stream, and the calls that change it. Used by the stream's own task only."""

    def __init__(self, services: Services, checkpoint: Checkpoint) -> None:
        self._services = services
        self.meta: StreamMeta = checkpoint.meta
        self.parts: dict[int, PartRecord] = dict(checkpoint.parts)
        self.plan = PartPlan(self.meta.part_size, equal_parts=self.meta.equal_parts)
        self._in_flight: set[int] = set()
        self._failed: set[int] = set()
        """Parts that were written, and that S3 did not take when they were sent last."""
        self._first_missing = 1
        self.unwritten: set[int] = set()
        """Parts within the file that its writer has not written yet, as far as the look that goes on, or the last one,
        has come."""
        self.holes: Holes | None = None
        """What is known of them, for lag."""
        self.nothing_ready_at: FileStat | None = None
        """The file of which every part was in S3, in flight or unwritten."""
        self._base: Base | None = None
        """The completed object of an earlier state of the file, if there is one and it was asked for."""
        self._base_asked = False

    @property
    def stream_id(self) -> str:
        """The stream's UUID."""
        return self.meta.stream_id

    @property
    def known(self) -> Known:
        """What ``decide.next_action`` asks for."""
        exists = self.meta.object_etag is not None
        path, waits = self.meta.current_path, self.nothing_ready_at
        return Known(self.plan, self.first_missing, path, object_exists=exists, nothing_ready_at=waits)

    @property
    def first_missing(self) -> int:
        """The lowest number of a full part that S3 has not acknowledged in full."""
        while self._has_full(self._first_missing):
            self._first_missing += 1
        return self._first_missing

    def next_to_send(self, size_bytes: int) -> Part | None:
        """The first full part of a file of that size that is neither acknowledged nor in flight."""
        last = self.plan.count_full(size_bytes)
        number = self.first_missing
        while number <= last and (number in self._in_flight or number in self.unwritten or self._has_full(number)):
            number += 1
        return self.plan.part(number) if number <= last else None

    @property
    def covered_bytes(self) -> int:
        """The end of the furthest part that S3 acknowledged."""
        return max((self._end_of(part) for part in self.parts.values()), default=0)

    @property
    def acknowledged_bytes(self) -> int:
        """How many bytes S3 has acknowledged, wherever they are in the file."""
        return sum(part.size_bytes for part in self.parts.values())

    @property
    def acknowledged_to(self) -> int:
        """The end of the parts that S3 acknowledged without a gap."""
        number = self.first_missing
        before = self.plan.part(number - 1).end if number > 1 else 0
        short = self.parts.get(number)
        return before + (short.size_bytes if short is not None else 0)

    def waiting_before_hole(self, first_hole: int) -> tuple[int, int]:
        """Of a file whose first hole is in that part: how many written bytes S3 does not have, and where they end.

        Behind the hole these are the parts that are in flight, or were.
        """
        behind = {number for number in self._in_flight | self._failed if number >= first_hole}
        missing = behind.union(range(self.first_missing, first_hole))
        waiting = sum(self._missing_bytes(number) for number in missing)
        return waiting, self.plan.part(max(behind)).end if behind else self.plan.part(first_hole).offset

    def _missing_bytes(self, number: int) -> int:
        part = self.parts.get(number)
        return self.plan.part(number).size_bytes - (part.size_bytes if part is not None else 0)

    def _has_full(self, number: int) -> bool:
        part = self.parts.get(number)
        return part is not None and part.size_bytes == self.plan.part(number).size_bytes

    async def update(self, **fields: Any) -> None:
        """Set fields of the record, in memory and in Redis."""
        self.meta = replace(self.meta, **fields)
        await self._services.store.update(self.stream_id, self._services.lease, Change(fields))

    async def transition(self, status: Status, *, enqueue_webhook: bool = False, **fields: Any) -> None:
        """Put the stream into a status, in memory and in Redis; ``enqueue_webhook`` enqueues its webhook there too."""
        self.meta = replace(self.meta, status=status, **fields)
        await self._services.store.transition(
            self.stream_id, self._services.lease, status, Change(fields), enqueue_webhook=enqueue_webhook
        )

    async def rename(self, path: str) -> None:
        """The file has another name now."""
        await self._services.store.rename(self.stream_id, self._services.lease, path)
        self.meta = replace(self.meta, current_path=path)

    async def ensure_open(self) -> None:
        """Have a multipart upload to send parts to.

        The stream, with its key, is in Redis before S3 is asked: an upload whose id is lost on the way is found by its
        key (``recovery.py``), which holds the stream's UUID and so is nobody else's.
        """
        if self.meta.s3_upload_id is not None:
            await self._find_base()
            return
        await self._name_object()
        options = self._services.s3.options
        created = await self._services.s3.create_multipart_upload(
            self.meta.s3_key_prefix,
            metadata={STREAM_ID_METADATA: self.stream_id},
            content_type=options.content_type,
            headers=options.for_recording(),
        )
        await self._services.record_effect(
            "upload id",
            lambda: self.update(s3_upload_id=created.upload_id, checksum_algorithm=created.checksum.value),
        )
        log.info("upload_created", key=self.meta.s3_key_prefix, checksum=created.checksum.value)
        await self._find_base()

    async def _find_base(self) -> None:
        """Ask once for the object to copy from; how the upload's parts are proved must be known by then."""
        if not self._base_asked:
            self._base = await base_of(self._services, self.meta)
            self._base_asked = True

    async def _name_object(self) -> None:
        """Give the object its key, now that it is about to exist: its file may have got its real name since.

        Recorders write under a temporary name and rename; so the key, and the name in the metadata, are those of now.
        """
        path = self.meta.current_path
        key = self._services.rules.key_template.key(self.stream_id, path)
        if (key, path) != (self.meta.s3_key_prefix, self.meta.original_path):
            await self.update(s3_key_prefix=key, original_path=path)

    @property
    def upload_id(self) -> str:
        """The open upload's id."""
        if self.meta.s3_upload_id is None:
            raise RuntimeError("no upload is open")
        return self.meta.s3_upload_id

    @property
    def checksum(self) -> ChecksumAlgorithm:
        """How the open upload's parts are proved."""
        return ChecksumAlgorithm(self.meta.checksum_algorithm or ChecksumAlgorithm.MD5.value)

    def reserve(self, part_number: int) -> None:
        """Count a part as in flight before its task has started; :meth:`send` takes it back at its end."""
        self._in_flight.add(part_number)

    async def send(self, recording: OpenRecording, part: Part) -> None:
        """Send a part and record it, or have S3 copy it if it has the bytes; one that was sent before is replaced.

        On cancellation the part is either recorded, or in flight: S3's acknowledgement had not arrived.
        """
        self._in_flight.add(part.number)
        self._failed.add(part.number)
        began = trio.current_time()
        try:
            if await self._copy(recording, part):
                return
            sent = await self._services.s3.upload_part(
                self.meta.s3_key_prefix,
                self.upload_id,
                part.number,
                FileSlice(recording, part.offset, part.size_bytes),
                self.checksum,
            )
            record = PartRecord(
                sent.part_number, sent.etag, sent.size_bytes, sent.crc64nvme, self._services.utc_now(), sent.checksum
            )
            rewritten = part.number in self.parts
            self._services.metrics.part_uploaded(sent.size_bytes, trio.current_time() - began)
            if rewritten:
                self._services.metrics.part_rewritten(sent.size_bytes)
            self.parts[part.number] = record
            await self._services.record_effect(
                "part record",
                lambda: self._services.store.record_part(
                    self.stream_id, self._services.lease, record, rewritten=rewritten
                ),
            )
        finally:
            self._in_flight.discard(part.number)
            if self._has_full(part.number):
                self._failed.discard(part.number)
        self.meta = count_part(self.meta, record, rewritten=rewritten)
        log.debug("part_uploaded", part_number=part.number, size_bytes=record.size_bytes, rewritten=rewritten)

    async def _copy(self, recording: OpenRecording, part: Part) -> bool:
        """Have S3 copy the part from the completed object of an earlier state, if there is one that has its bytes."""
        record = await self._base.copy(self._services, self.meta, recording, part) if self._base is not None else None
        if record is None:
            return False
        self.parts[part.number] = record
        await self._services.record_effect(
            "copied part's record",
            lambda: self._services.store.adopt_parts(self.stream_id, self._services.lease, [record]),
        )
        self.meta = count_adopted(self.meta, [record])
        log.debug("part_copied", part_number=part.number, size_bytes=record.size_bytes)
        return True

    async def adopt(self, parts: list[PartRecord]) -> None:
        """Record parts that were found in S3 and compared with the file."""
        self.parts.update((part.part_number, part) for part in parts)
        self.meta = count_adopted(self.meta, parts)
        await self._services.store.adopt_parts(self.stream_id, self._services.lease, parts)

    def drop(self, part_number: int) -> None:
        """Forget a record that S3 does not bear out, so that the part is sent again and its record replaced."""
        del self.parts[part_number]
        self._first_missing = min(self._first_missing, part_number)

    async def cut(self, size_bytes: int) -> int:
        """The file was cut off: forget the parts that end behind its end now; returns how many stay.

        Those before the cut stay: whether they still are the file's is seen when it is verified. S3 keeps the others
        until they are replaced or, at the completion, left out.
        """
        behind = [number for number, part in self.parts.items() if self._end_of(part) > size_bytes]
        if behind:
            self._failed.clear()
            self.holes = None
            keep_to = min(behind) - 1
            for number in [number for number in self.parts if number > keep_to]:
                self.drop(number)
            self.meta = cut_off(self.meta, keep_to)
            await self._services.store.cut_parts(self.stream_id, self._services.lease, keep_to)
        return len(self.parts)

    def _end_of(self, part: PartRecord) -> int:
        return self.plan.part(part.part_number).offset + part.size_bytes

    async def start_over(self, **fields: Any) -> None:
        """Abort the open upload and begin with nothing: the file is another recording now, or S3 lost the upload."""
        await self.abort()
        await self.leave_behind(**fields)

    async def leave_behind(self, **fields: Any) -> None:
        """Begin with nothing, and leave the open upload as it is: it is gone, or not ours to touch from here."""
        self.parts.clear()
        self._failed.clear()
        self.holes = None
        self._first_missing = 1
        change = Change(fields)
        self.meta = apply_change(replace(self.meta, status=Status.ACTIVE), starting_over(change))
        await self._services.store.start_over(self.stream_id, self._services.lease, change)

    async def abort(self) -> None:
        """Abort every open upload of this stream's key; the caller has no part in flight any more.

        The one that Redis knows is aborted, or this fails. Others can be listed only, and are not waited for.
        """
        if self.meta.s3_upload_id is not None:
            await self._services.s3.abort_multipart_upload(self.meta.s3_key_prefix, self.meta.s3_upload_id)
        await abort_listed(self._services, self.meta.s3_key_prefix)

    async def abort_orphans(self) -> None:
        """Abort what S3 still lists under a completed stream's key: uploads whose creation was answered to nobody.

        Its metadata does not wait for that: what cannot be done now is left to the background (``orphan_cleanup.py``).
        """
        key = self.meta.s3_key_prefix
        try:
            if await abort_listed(self._services, key):
                return
        except S3OperationError as error:
            log.warning("orphan_abort_failed", error=str(error))
        self._services.orphan_cleanup.request()

    async def complete(self, size_bytes: int, mtime_ns: int) -> StoredObject:
        """Complete the upload of a file that was verified at that size and time, and record that the object exists.

        The verified size and time are recorded first: if the daemon dies in between, the next start knows what was
        being completed, and asks S3 whether it was.
        """
        await self.update(verified_size_bytes=size_bytes, verified_mtime_ns=mtime_ns)
        stored = await self._services.s3.complete_multipart_upload(
            self.meta.s3_key_prefix,
            self.upload_id,
            self.parts_to_complete(size_bytes),
            checksum=self.checksum,
            stream_id=self.stream_id,
        )
        await self.record_object(stored)
        return stored

    def has_exactly(self, size_bytes: int) -> bool:
        """Whether the parts of a file of that size are recorded, each as long as it is there."""
        records = [(part, self.parts.get(part.number)) for part in self.plan.cut(size_bytes)]
        return all(record is not None and record.size_bytes == part.size_bytes for part, record in records)

    def parts_to_complete(self, size_bytes: int) -> list[PartToComplete]:
        """The parts of a file of that size, as they were acknowledged."""
        records = [self.parts[part.number] for part in self.plan.cut(size_bytes)]
        return [
            PartToComplete(part.part_number, part.etag, part.size_bytes, part.crc64nvme, part.checksum)
            for part in records
        ]

    async def put_empty(self, mtime_ns: int) -> StoredObject:
        """Store an empty recording: a multipart upload cannot be empty, so it is a plain object."""
        await self.abort()
        await self._name_object()
        await self.update(verified_size_bytes=0, verified_mtime_ns=mtime_ns)
        options = self._services.s3.options
        stored = await self._services.s3.put_object(
            self.meta.s3_key_prefix,
            b"",
            content_type=options.content_type,
            metadata={STREAM_ID_METADATA: self.stream_id},
            headers=options.for_recording(),
        )
        await self.record_object(stored)
        return stored

    async def record_object(self, stored: StoredObject) -> None:
        """Record that the object exists: from now on only its metadata is to be written."""
        now = self._services.utc_now()
        await self._services.record_effect(
            "object record",
            lambda: self.transition(
                Status.S3_COMPLETED,
                object_etag=stored.etag,
                object_crc64nvme=stored.crc64nvme,
                completed_at_utc=now,
                last_activity_at_utc=now,
            ),
        )


async def abort_uploads(s3: S3Client, meta: StreamMeta) -> None:
    """Abort every open upload of a stream's key, for a person who waits; S3 may know more of them than Redis does.

    An abort races parts in flight (https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html): the
    caller has none any more, and what is still listed is aborted again. The upload that Redis knows is what matters:
    where S3 does not list, `cef-trio gc` finds the others.

    Raises:
        S3OperationError: S3 refused to abort, or did not answer.
    """
    if meta.s3_upload_id is not None:
        await s3.abort_multipart_upload(meta.s3_key_prefix, meta.s3_upload_id)
    try:
        await _abort_rounds(s3, meta.s3_key_prefix, lambda: s3.list_multipart_uploads(meta.s3_key_prefix))
    except _NotListedError as error:
        log.warning("orphan_listing_failed", error=str(error.__cause__))


async def abort_listed(services: Services, key: str) -> bool:
    """Abort what S3 lists under a key; returns whether it could be listed, or never can be.

    Raises:
        S3OperationError: S3 refused to abort, or is away.
    """
    s3 = services.s3

    async def listed() -> list[ListedUpload] | None:
        return await services.attempt("list_multipart_uploads", lambda: s3.list_multipart_uploads(key))

    try:
        return await _abort_rounds(s3, key, listed)
    except _NotListedError as error:
        cause = error.__cause__
        if isinstance(cause, S3OperationError) and cause.transient:
            raise cause from None
        log.warning("orphan_listing_failed", error=str(cause))  # not allowed to list: `cef-trio gc` says so too
        return True


class _NotListedError(Exception):
    """A listing failed, and not an abort."""


async def _abort_rounds(s3: S3Client, key: str, listed: Callable[[], Awaitable[list[ListedUpload] | None]]) -> bool:
    for _ in range(_ABORT_ROUNDS):
        try:
            uploads = await listed()
        except S3OperationError as error:
            raise _NotListedError from error
        if uploads is None:
            return False
        orphans = [upload for upload in uploads if upload.key == key]
        if not orphans:
            return True
        for orphan in orphans:
            await s3.abort_multipart_upload(key, orphan.upload_id)
    return True
