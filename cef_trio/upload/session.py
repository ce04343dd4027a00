"""A stream's multipart upload or its only PutObject, kept in step with its checkpoint.

The order is fixed: S3 acknowledges, memory is updated at once, Redis records it, and only then does the stream go on.
Every effect of S3 is recorded through :meth:`Services.record_effect`, so a cancellation between the effect and its
record waits (promise P2). Differences between memory and Redis after a failure are reconciled by ``recovery.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import structlog
import trio

from cef_trio.checkpoint import ENDED, Change, Checkpoint, PartRecord, Status, StreamMeta, WebhookEvent, rules
from cef_trio.exceptions import LeaseLostError, RecordingChangedError, S3OperationError
from cef_trio.files import FileSlice, FileStat, OpenRecording
from cef_trio.observability import PartState
from cef_trio.s3 import ChecksumAlgorithm, ListedUpload, PartToComplete, S3Client, StoredObject
from cef_trio.upload.changing_parts import ChangingParts
from cef_trio.upload.copy_from_previous import CopySource, copy_source_of
from cef_trio.upload.next_action import RecordedProgress
from cef_trio.upload.object_key import recording_start
from cef_trio.upload.orphan_cleanup import OpenUpload
from cef_trio.upload.part_plan import Part, PartPlan
from cef_trio.upload.services import Services
from cef_trio.upload.sparse_file_lag import Holes

log = structlog.get_logger(__name__)

STREAM_ID_METADATA = "cef-stream-id"
"""The user metadata key that holds the stream ID of an object (HeadObject returns it)."""
_ABORT_ROUNDS = 3


class StreamUpload:
    """One stream's state, and the calls that change it. Used only by the stream's own task."""

    def __init__(self, services: Services, checkpoint: Checkpoint, *, is_new: bool = False) -> None:
        """``is_new``: its record was just created, and S3 has nothing of it."""
        self._services = services
        self._may_have_strays = not is_new
        """Whether S3 may have an upload under its key that is not recorded. Only a new stream whose upload was created
        at the first attempt is known to have none."""
        self.meta: StreamMeta = checkpoint.meta
        self.parts: dict[int, PartRecord] = dict(checkpoint.parts)
        self.plan = PartPlan.of(self.meta)
        self._in_flight: set[int] = set()
        self._failed: set[int] = set()
        """Full parts whose last attempt to send failed or is in flight."""
        self._first_missing = 1
        self.rewritten: set[int] = set()
        """Parts that this process sent again, because their bytes had changed."""
        self.verified_parts = 0
        """Parts from the first on that the current verification has compared with the file."""
        self.unwritten: set[int] = set()
        """Holes: parts within the file's size that were not written yet at the current or last check."""
        self.holes: Holes | None = None
        """The first hole, for lag."""
        self.changing = ChangingParts(services.rules.retry.ceiling_seconds)
        self.nothing_ready_at: FileStat | None = None
        """The file's stat when every part was in S3, in flight, unwritten or left out because it changes."""
        self._base: CopySource | None = None
        """The completed object of an earlier version of the file, if any; its parts can be copied within S3."""
        self._base_checked = False

    @property
    def stream_id(self) -> str:
        """The stream's UUID."""
        return self.meta.stream_id

    @property
    def known(self) -> RecordedProgress:
        """The state that ``next_action`` needs."""
        exists = self.meta.object_etag is not None
        path, waits = self.meta.current_path, self.nothing_ready_at
        return RecordedProgress(self.plan, self.first_missing, path, object_exists=exists, nothing_ready_at=waits)

    @property
    def first_missing(self) -> int:
        """The lowest number of a part that S3 has not acknowledged in full."""
        while self._has_full(self._first_missing):
            self._first_missing += 1
        return self._first_missing

    def next_to_send(self, size_bytes: int) -> Part | None:
        """Return the first full part of a file of this size that is not acknowledged, in flight or left out."""
        last = self.plan.count_full(size_bytes)
        number = self.first_missing
        while number <= last and (number in self._in_flight or self._has_full(number) or self._is_left_out(number)):
            number += 1
        return self.plan.part(number) if number <= last else None

    def forget_settled(self, size_bytes: int) -> None:
        """Forget which parts of a file of this size were changing, if S3 has them or they are not full any more."""
        last = self.plan.count_full(size_bytes)
        self.changing.keep(lambda number: number <= last and not self._has_full(number))

    def _is_left_out(self, number: int) -> bool:
        return number in self.unwritten or self.changing.is_left_out(number)

    @property
    def covered_bytes(self) -> int:
        """The end offset of the furthest part that S3 acknowledged."""
        return max((self._end_of(part) for part in self.parts.values()), default=0)

    @property
    def acknowledged_bytes(self) -> int:
        """The number of bytes that S3 acknowledged, at any offset."""
        return sum(part.size_bytes for part in self.parts.values())

    @property
    def acknowledged_to(self) -> int:
        """The number of bytes that S3 acknowledged from the start of the file without a gap."""
        number = self.first_missing
        before = self.plan.part(number - 1).end if number > 1 else 0
        short = self.parts.get(number)
        return before + (short.size_bytes if short is not None else 0)

    def waiting_before_hole(self, first_hole: int) -> tuple[int, int]:
        """Return the number of written bytes that S3 does not have, and their end offset.

        Behind the first hole (in part ``first_hole``) only parts that were sent count as written.
        """
        behind = {number for number in self._in_flight | self._failed if number >= first_hole}
        missing = behind.union(range(self.first_missing, first_hole))
        waiting = sum(self._missing_bytes(number) for number in missing)
        return waiting, self.plan.part(max(behind)).end if behind else self.plan.part(first_hole).offset

    def with_marks_of(self, earlier: StreamUpload | None) -> StreamUpload:
        """Take over which parts were rewritten or change all the time, as the record does not know; return this."""
        if earlier is not None and earlier.meta.s3_upload_id == self.meta.s3_upload_id:
            self.rewritten, self.changing = earlier.rewritten, earlier.changing
        return self

    def part_states(self, size_bytes: int) -> Iterator[PartState]:
        """Yield the state of each part of a file of this size."""
        for part, record in self.plan.pair(min(size_bytes, self.plan.max_size_bytes), self.parts):
            number = part.number
            if number in self._in_flight:
                yield PartState.IN_FLIGHT
            elif number in self._failed:
                yield PartState.FAILED
            elif record is not None and record.size_bytes == part.size_bytes:
                yield PartState.REWRITTEN if number in self.rewritten else PartState.STORED
            else:
                yield PartState.UNWRITTEN if number in self.unwritten else PartState.WAITING

    def _missing_bytes(self, number: int) -> int:
        part = self.parts.get(number)
        return self.plan.part(number).size_bytes - (part.size_bytes if part is not None else 0)

    def _has_full(self, number: int) -> bool:
        part = self.parts.get(number)
        return part is not None and part.size_bytes == self.plan.part(number).size_bytes

    async def update(self, **fields: Any) -> None:
        """Set fields of the record, in memory and in Redis."""
        change = Change(fields)
        self.meta = rules.update(change).meta_after(self.meta)
        await self._services.store.update(self.stream_id, self._services.lease, change)

    async def _record_step(self, **fields: Any) -> None:
        """Set fields of a step of the upload, with all that name it (:func:`rules.fields_of_upload`)."""
        await self.update(**rules.fields_of_upload(self.meta) | fields)

    async def transition(
        self, status: Status, *, enqueue_webhook: bool = False, event: WebhookEvent | None = None, **fields: Any
    ) -> None:
        """Change the status, in memory and in Redis.

        ``enqueue_webhook`` enqueues the webhook in the same write, ``event`` this event.
        """
        if status in ENDED:
            fields.setdefault("last_activity_at_utc", self._services.utc_now())  # when it ended
        if status is Status.COMPLETED:
            fields = rules.fields_of_upload(self.meta) | fields
        change = Change(fields)
        self.meta = rules.transition(status, change).meta_after(self.meta)
        await self._services.store.transition(
            self.stream_id, self._services.lease, status, change, enqueue_webhook=enqueue_webhook, event=event
        )

    async def rename(self, path: str) -> None:
        """Record the file's new path, in Redis and in memory."""
        await self._services.store.rename(self.stream_id, self._services.lease, path)
        self.meta = rules.rename(path).meta_after(self.meta)

    async def choose_part_size(self, rate: float | None, size_bytes: int) -> None:
        """Choose the part size with ``CHUNK_SIZE_BYTES=auto``, and record it, before the upload is created.

        ``rate``: at which the file is written, in bytes per second; ``None``: unknown. It is chosen once: a record that
        has another size than the least, or parts to copy, keeps its size.
        """
        auto, meta = self._services.rules.auto_part_size, self.meta
        if auto is None or meta.s3_upload_id is not None or meta.supersedes_key is not None:
            return
        if self.parts or meta.part_size != auto.least_bytes:
            return
        size = auto.choose(rate, size_bytes, equal_parts=meta.equal_parts)
        if size != meta.part_size:
            await self.update(part_size=size)
            self.plan = PartPlan.of(self.meta)
        log.debug("part_size_chosen", part_size=size, bytes_per_second=None if rate is None else round(rate))

    async def ensure_open(self) -> None:
        """Create the multipart upload, unless it is open.

        The key is in Redis before S3 is called: an upload whose ID is lost is found by its key (``recovery.py``), which
        is unique as it holds the stream's UUID.
        """
        if self.meta.s3_upload_id is not None:
            await self._find_base()
            return
        await self._name_object()
        options = self._services.s3.options
        before, self._may_have_strays = self._may_have_strays, True  # until the upload's id is known
        created = await self._services.s3.create_multipart_upload(
            self.meta.s3_key_prefix,
            metadata={STREAM_ID_METADATA: self.stream_id},
            content_type=options.content_type_of(self.meta.current_path),
            headers=options.for_recording(),
        )
        self._may_have_strays = before or created.repeated
        record = partial(self._record_step, s3_upload_id=created.upload_id, checksum_algorithm=created.checksum.value)
        try:
            await self._services.record_effect("upload id", record)
        except BaseException:  # also Cancelled: a renewal may find the lease lost first
            # On a store that lists no uploads, nobody else knows it. It is aborted once the stream has ended.
            self._services.orphan_cleanup.leave(OpenUpload(self.stream_id, self.meta.s3_key_prefix, created.upload_id))
            self._services.orphan_cleanup.request()
            raise
        log.info(
            "upload_created",
            key=self.meta.s3_key_prefix,
            checksum=created.checksum.value,
            part_size=self.meta.part_size,
        )
        await self._find_base()

    async def _find_base(self) -> None:
        """Find the object to copy parts from, once. Needs the upload's checksum algorithm."""
        if not self._base_checked:
            self._base = await copy_source_of(self._services, self.meta)
            self._base_checked = True

    async def _name_object(self) -> None:
        """Record the key and original path from the file's current path, just before the object is created.

        Many recorders write under a temporary name, or in a temporary folder, and rename the file soon after. Once a
        PutObject was begun, the key stays: a request that takes effect late would leave an object under another one.
        """
        if self.meta.verified_crc64nvme is not None:
            return
        path, key = self.meta.current_path, object_key(self._services, self.meta)
        if (key, path) != (self.meta.s3_key_prefix, self.meta.original_path):
            await self.update(s3_key_prefix=key, original_path=path)

    @property
    def upload_id(self) -> str:
        """The ID of the open upload."""
        if self.meta.s3_upload_id is None:
            raise RuntimeError("no upload is open")
        return self.meta.s3_upload_id

    @property
    def checksum(self) -> ChecksumAlgorithm:
        """The checksum algorithm of the open upload's parts."""
        return ChecksumAlgorithm(self.meta.checksum_algorithm or ChecksumAlgorithm.MD5.value)

    def reserve(self, part_number: int) -> None:
        """Mark a part as in flight before its task starts; :meth:`send` removes the mark."""
        self._in_flight.add(part_number)

    async def send(self, recording: OpenRecording, part: Part) -> None:
        """Send a part, or have S3 copy it, and record it. A part that was sent before is replaced.

        On cancellation the part is either recorded, or S3 had not acknowledged it.
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
                self.rewritten.add(part.number)
            self.parts[part.number] = record
            await self._services.record_effect(
                "part record",
                lambda: self._services.store.record_part(
                    self.stream_id, self._services.lease, record, rewritten=rewritten
                ),
            )
        except RecordingChangedError:
            if not self._has_full(part.number):
                self.changing.changed(part.number)
            raise
        finally:
            self._in_flight.discard(part.number)
            if self._has_full(part.number):
                self._failed.discard(part.number)
                self.changing.forget(part.number)
        self.meta = rules.record_part(record, rewritten=rewritten).meta_after(self.meta)
        log.debug("part_uploaded", part_number=part.number, size_bytes=record.size_bytes, rewritten=rewritten)

    async def _copy(self, recording: OpenRecording, part: Part) -> bool:
        """Copy the part within S3 from the object of an earlier version, if it has the bytes; return whether it did."""
        record = await self._base.copy(self._services, self.meta, recording, part) if self._base is not None else None
        if record is None:
            return False
        self.parts[part.number] = record
        await self._services.record_effect(
            "copied part's record",
            lambda: self._services.store.adopt_parts(self.stream_id, self._services.lease, [record]),
        )
        self.meta = rules.adopt_parts([record]).meta_after(self.meta)
        log.debug("part_copied", part_number=part.number, size_bytes=record.size_bytes)
        return True

    async def adopt(self, parts: list[PartRecord]) -> None:
        """Record parts that were found in S3 and match the file."""
        self.parts.update((part.part_number, part) for part in parts)
        self.meta = rules.adopt_parts(parts).meta_after(self.meta)
        await self._services.store.adopt_parts(self.stream_id, self._services.lease, parts)

    def drop(self, part_number: int) -> None:
        """Forget a part in memory that S3 does not have, so that it is sent and recorded again."""
        del self.parts[part_number]
        self._first_missing = min(self._first_missing, part_number)

    async def truncate(self, size_bytes: int) -> int:
        """Forget the parts beyond the new end of a truncated file; return the number of parts left.

        The final verification checks the parts that are left. S3 keeps the forgotten ones until they are replaced, or
        left out of the completion.
        """
        self.changing.clear()
        behind = [number for number, part in self.parts.items() if self._end_of(part) > size_bytes]
        if behind:
            self._failed.clear()
            self.holes = None
            keep_to = min(behind) - 1
            for number in [number for number in self.parts if number > keep_to]:
                self.drop(number)
            self.meta = rules.cut_parts(keep_to).meta_after(self.meta)
            await self._services.store.cut_parts(self.stream_id, self._services.lease, keep_to)
        return len(self.parts)

    def _end_of(self, part: PartRecord) -> int:
        return self.plan.part(part.part_number).offset + part.size_bytes

    async def start_over(self, **fields: Any) -> None:
        """Start over without parts; the open upload is aborted, or left (:meth:`abort_or_leave`)."""
        await self.abort_or_leave()
        await self.leave_behind(**fields)

    async def leave_behind(self, **fields: Any) -> None:
        """Start over without parts and without aborting the open upload: it is gone, left, or in another bucket."""
        self.parts.clear()
        self.rewritten.clear()
        self.verified_parts = 0
        self._failed.clear()
        self.changing.clear()
        self.holes = None
        self._first_missing = 1
        change = Change(fields)
        self.meta = rules.start_over(change).meta_after(self.meta)
        await self._services.store.start_over(self.stream_id, self._services.lease, change)

    async def abort(self) -> None:
        """Abort every open upload of this stream's key. No part may be in flight.

        Others than the recorded one are aborted if S3 lists them.

        Raises:
            S3OperationError: the recorded upload, or one that S3 lists, could not be aborted.
            LeaseLostError: another daemon owns the stream; nothing was aborted after that.
        """
        if self.meta.s3_upload_id is not None:
            await self.abort_one(self.meta.s3_upload_id)
        await self._abort_listed()
        if self._may_have_strays:
            self._services.orphan_cleanup.request()  # a creation whose response was lost may take effect later

    async def abort_or_leave(self, upload_id: str | None = None) -> str:
        """Abort an upload under this stream's key, by default every one; return why one is left, if one is.

        For uploads that nothing needs any more: neither the stream's next step nor its end waits for S3 to abort them,
        while S3 does the rest. ``orphan_cleanup.py`` aborts what is left, once the stream has ended.

        Raises:
            S3OperationError: S3 is down (transient). Raised once: a store, or a proxy before it, may not answer to
                aborts alone.
            LeaseLostError: another daemon owns the stream; nothing was aborted after that.
        """
        services = self._services
        failed_before = any(upload.stream_id == self.stream_id for upload in services.orphan_cleanup.left)
        try:
            if upload_id is None:
                await self.abort()
            else:
                await self.abort_one(upload_id)
        except S3OperationError as error:
            if not services.s3_breaker.up.value and not failed_before:
                raise
            self._may_have_strays = True
            services.orphan_cleanup.request()
            left = upload_id or self.meta.s3_upload_id
            log.warning("orphan_abort_failed", key=self.meta.s3_key_prefix, upload_id=left, error=str(error))
            return f"Its upload is left in S3: {error}"
        return ""

    async def abort_one(self, upload_id: str) -> None:
        """Abort one upload under this stream's key.

        The request may wait for the end of an outage. Once the lease has ended, another daemon goes on with the same
        upload, so each attempt renews the lease first.

        Raises:
            S3OperationError: it was not aborted, which ``orphan_cleanup.py`` remembers.
            LeaseLostError: another daemon owns the stream; nothing was sent after that.
        """
        upload = OpenUpload(self.stream_id, self.meta.s3_key_prefix, upload_id)
        try:
            await self._services.s3.abort_multipart_upload(upload.key, upload_id, fence=self._still_ours)
        except S3OperationError:
            self._services.orphan_cleanup.leave(upload)
            raise
        self._services.orphan_cleanup.aborted(upload)

    async def _still_ours(self) -> None:
        if await self._services.store.renew([self.stream_id], self._services.lease):
            raise LeaseLostError(f"the lease of stream {self.stream_id} was lost before an upload was aborted")

    async def abort_orphans(self) -> None:
        """Abort other uploads under a completed stream's key, left when the reply to their creation was lost.

        Nothing is listed if there can be none. The metadata does not wait for that: on failure, ``orphan_cleanup.py``
        retries in the background.
        """
        if not self._may_have_strays:
            return
        try:
            if await self._abort_listed():
                return
        except S3OperationError as error:
            log.warning("orphan_abort_failed", error=str(error))
        self._services.orphan_cleanup.request()

    async def _abort_listed(self) -> bool:
        """Abort the uploads that S3 lists under the key; return false if the listing is suspended and worth a retry.

        Raises:
            S3OperationError: an abort failed, or the listing failed transiently.
            LeaseLostError: another daemon owns the stream; nothing was aborted after that.
        """
        services, key = self._services, self.meta.s3_key_prefix

        async def listed() -> list[ListedUpload] | None:
            try:
                return await services.attempt("list_multipart_uploads", lambda: services.s3.list_multipart_uploads(key))
            except S3OperationError as error:
                if error.transient:
                    raise
                log.warning("orphan_listing_failed", error=str(error))  # `cef-trio gc` reports it too
                return []

        return await _abort_rounds(key, listed, self.abort_one)

    async def complete(self, size_bytes: int, mtime_ns: int) -> StoredObject:
        """Complete the upload of a file that was verified with this size and mtime, and record the object.

        The verified size and mtime are recorded first: after a crash in between, the next start knows which object to
        look for in S3.
        """
        await self._record_step(verified_size_bytes=size_bytes, verified_mtime_ns=mtime_ns)
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
        """Return whether all parts of a file of this size are recorded with the right sizes."""
        return all(
            record is not None and record.size_bytes == part.size_bytes
            for part, record in self.plan.pair(size_bytes, self.parts)
        )

    def parts_to_complete(self, size_bytes: int) -> list[PartToComplete]:
        """Return the acknowledged parts of a file of this size."""
        records = [self.parts[part.number] for part in self.plan.split(size_bytes)]
        return [
            PartToComplete(part.part_number, part.etag, part.size_bytes, part.crc64nvme, part.checksum)
            for part in records
        ]

    async def put_whole(self, recording: OpenRecording, size_bytes: int, mtime_ns: int, crc64nvme: int) -> StoredObject:
        """Store a recording, verified with this size, mtime and CRC64NVME, with one PutObject; record the object.

        What was verified is recorded before each attempt: after a crash in between, the next start knows which object
        to look for in S3 (``recovery.py``). The same write is refused without the lease, so a request that waited for
        the end of an outage does not replace what another daemon stored meanwhile. On cancellation the object is either
        recorded, or S3 had not acknowledged it.

        Raises:
            RecordingChangedError: the file changed after its verification; S3 has no such object.
            LeaseLostError: another daemon owns the stream; nothing was sent after that.
        """
        if self.meta.s3_upload_id is not None:
            await self.start_over()  # the file was truncated to nothing, and an upload cannot be empty
        await self._name_object()
        record = partial(
            self._record_step, verified_size_bytes=size_bytes, verified_mtime_ns=mtime_ns, verified_crc64nvme=crc64nvme
        )
        options = self._services.s3.options
        began = trio.current_time()
        stored = await self._services.s3.put_recording(
            self.meta.s3_key_prefix,
            FileSlice(recording, 0, size_bytes),
            crc64nvme=crc64nvme,
            stream_id=self.stream_id,
            content_type=options.content_type_of(self.meta.current_path),
            headers=options.for_recording(),
            fence=record,
        )
        self._services.metrics.part_uploaded(size_bytes, trio.current_time() - began)
        await self.record_object(stored)
        return stored

    async def find_put(self) -> StoredObject | None:
        """Return the object of an unrecorded PutObject, if one was begun and took effect, and record it.

        Raises:
            S3OperationError: S3 is unavailable.
        """
        meta = self.meta
        if meta.verified_crc64nvme is None or meta.verified_size_bytes is None or meta.s3_upload_id is not None:
            return None
        try:
            stored = await self._services.s3.find_recording(
                meta.s3_key_prefix,
                size_bytes=meta.verified_size_bytes,
                crc64nvme=meta.verified_crc64nvme,
                stream_id=meta.stream_id,
            )
        except S3OperationError as error:
            if error.transient:
                raise
            log.warning("object_not_compared", key=meta.s3_key_prefix, error=str(error))
            return None
        if stored is not None:
            await self.record_object(stored)
        return stored

    async def left_object(self) -> str:
        """Return a sentence on an object that a PutObject of this stream left without the recording's bytes, or "".

        A store that ignores checksums may damage what it stores. The daemon needs no permission to delete objects
        (docs/correctness.md), so a stream that ends without an object names it.

        Raises:
            S3OperationError: S3 is unavailable. If it refuses to tell, no object is named.
        """
        meta = self.meta
        if meta.object_etag is not None or meta.verified_crc64nvme is None or meta.s3_upload_id is not None:
            return ""
        try:
            stored = await self._services.s3.head_object(meta.s3_key_prefix)
        except S3OperationError as error:
            if error.transient:
                raise
            return ""
        if stored is None or stored.metadata.get(STREAM_ID_METADATA) != self.stream_id:
            return ""
        return f"An object without its bytes is left in S3; it may be deleted: {meta.s3_key_prefix}"

    async def record_object(self, stored: StoredObject) -> None:
        """Record that the object is complete; only its metadata is left to write.

        That of a PutObject is recorded as the only part, too.
        """
        now = self._services.utc_now()
        change = Change(
            rules.fields_of_upload(self.meta)
            | {
                "object_etag": stored.etag,
                "object_crc64nvme": stored.crc64nvme,
                "completed_at_utc": now,
                "last_activity_at_utc": now,
            }
        )
        crc = self.meta.verified_crc64nvme
        if crc is None or not stored.size_bytes:
            commit = rules.transition(Status.S3_COMPLETED, change)
            write = partial(
                self._services.store.transition, self.stream_id, self._services.lease, Status.S3_COMPLETED, change
            )
        else:
            part = PartRecord(1, stored.etag, stored.size_bytes, crc, now)
            self.parts = {1: part}
            commit = rules.record_put(part, change)
            write = partial(self._services.store.record_put, self.stream_id, self._services.lease, part, change)
        self.meta = commit.meta_after(self.meta)
        await self._services.record_effect("object record", write)


def object_key(services: Services, meta: StreamMeta) -> str:
    """Return the key that a stream's object would have if it were created now."""
    began = meta.recording_began_at_utc or recording_start(meta.identity.birth_ns, None, meta.started_at_utc)
    return services.rules.key_template.key(meta.stream_id, meta.current_path, began)


async def abort_uploads(s3: S3Client, meta: StreamMeta) -> None:
    """Abort every open upload of a stream's key, for a command.

    An abort races parts in flight (https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html): no
    part may be in flight, and uploads that are still listed are aborted again. If S3 does not list uploads, only the
    recorded one is aborted; ``cef-trio gc`` finds the others.

    Raises:
        S3OperationError: an abort failed.
    """
    key = meta.s3_key_prefix

    async def listed() -> list[ListedUpload]:
        try:
            return await s3.list_multipart_uploads(key)
        except S3OperationError as error:
            log.warning("orphan_listing_failed", error=str(error))
            return []

    if meta.s3_upload_id is not None:
        await s3.abort_multipart_upload(key, meta.s3_upload_id)
    await _abort_rounds(key, listed, partial(s3.abort_multipart_upload, key))


async def _abort_rounds(
    key: str, listed: Callable[[], Awaitable[list[ListedUpload] | None]], abort: Callable[[str], Awaitable[None]]
) -> bool:
    for _ in range(_ABORT_ROUNDS):
        uploads = await listed()
        if uploads is None:
            return False
        orphans = [upload for upload in uploads if upload.key == key]
        if not orphans:
            return True
        for orphan in orphans:
            await abort(orphan.upload_id)
    return True
