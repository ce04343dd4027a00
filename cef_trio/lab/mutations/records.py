"""Mutations that omit or delay a write to Redis, the release of a slot, or the abort of an upload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import trio

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.commit import Change, Commit
from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Lease, PartRecord, StreamMeta, WebhookEvent
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import OutdatedError, StreamEndedError
from cef_trio.files.reader import OpenRecording
from cef_trio.lab.faults import FaultKind
from cef_trio.lab.mutations.model import mutation, replace_in
from cef_trio.s3.model import StoredObject
from cef_trio.upload import orphan_cleanup, recovery
from cef_trio.upload.orphan_uploads import OrphanUploads
from cef_trio.upload.processor import Outcome, StreamProcessor
from cef_trio.upload.services import Services
from cef_trio.upload.session import StreamUpload


@mutation("left out: verified size", "finalizing", "P2", "P1", "P6")
def _verified_size_not_recorded(stack: ExitStack) -> None:
    """The verified size is not recorded before CompleteMultipartUpload."""
    update = StreamUpload.update

    async def left_out(self: StreamUpload, **fields: Any) -> None:
        if "verified_size_bytes" in fields:
            await trio.lowlevel.checkpoint()
            self.meta = replace(self.meta, **fields)
        else:
            await update(self, **fields)

    replace_in(stack, StreamUpload, "update", left_out)


@mutation("left out: chosen part size", "part-size-auto", "P2", "P1", "P6")
def _part_size_not_recorded(stack: ExitStack) -> None:
    """With ``CHUNK_SIZE_BYTES=auto`` the part size is chosen, but not recorded."""
    update = StreamUpload.update

    async def left_out(self: StreamUpload, *, part_size: int | None = None, **fields: Any) -> None:
        if part_size is not None:
            self.meta = replace(self.meta, part_size=part_size)
        if fields:
            await update(self, **fields)
        else:
            await trio.lowlevel.checkpoint()

    replace_in(stack, StreamUpload, "update", left_out)


@mutation("early: record of a put object", "small", "P1")
def _put_recorded_early(stack: ExitStack) -> None:
    """The object of a PutObject is recorded before the request."""
    put_whole = StreamUpload.put_whole

    async def recorded_first(
        self: StreamUpload, recording: OpenRecording, size_bytes: int, mtime_ns: int, crc: int
    ) -> StoredObject:
        await self.update(verified_size_bytes=size_bytes, verified_mtime_ns=mtime_ns, verified_crc64nvme=crc)
        await self.record_object(StoredObject(self.meta.s3_key_prefix, size_bytes, "0" * 32, crc, {}))
        return await put_whole(self, recording, size_bytes, mtime_ns, crc)

    replace_in(stack, StreamUpload, "put_whole", recorded_first)


@mutation("left out: index of ended streams", "first-part", "P7", fault=None)
def _ended_streams_not_indexed(stack: ExitStack) -> None:
    """The end of a stream is not written into the index of ended streams."""
    index = MemoryCheckpointStore._index  # noqa: SLF001 - the step that is changed

    def left_out(self: MemoryCheckpointStore, stream_id: str) -> None:
        index(self, stream_id)
        self._history.clear()

    replace_in(stack, MemoryCheckpointStore, "_index", left_out)


@mutation("left out: index of leases", "first-part", "P7", fault=None)
def _leases_not_indexed(stack: ExitStack) -> None:
    """A stream is not taken out of the index of leases when it ends, so that it is looked at for ever."""
    index = MemoryCheckpointStore._index  # noqa: SLF001 - the step that is changed

    def left_out(self: MemoryCheckpointStore, stream_id: str) -> None:
        ends = dict(self._lease_ends)
        index(self, stream_id)
        self._lease_ends = {**ends, **self._lease_ends}

    replace_in(stack, MemoryCheckpointStore, "_index", left_out)


@mutation("left out: parts at completion", "first-part", "P7", fault=None)
def _parts_kept(stack: ExitStack) -> None:
    """The parts of a completed stream stay in Redis."""
    transition = rules.transition

    def kept(status: Status, change: Change, **more: Any) -> Commit:
        return replace(transition(status, change, **more), keep_to=None)

    replace_in(stack, rules, "transition", kept)


@mutation("late: stream record", "first-part", "P5", "P2", "P3")
def _stream_recorded_late(stack: ExitStack) -> None:
    """An upload is created before its stream is recorded."""
    create, update = MemoryCheckpointStore.create, MemoryCheckpointStore.update
    waiting: dict[str, Callable[[], Awaitable[None]]] = {}

    async def later(
        self: MemoryCheckpointStore, meta: StreamMeta, lease: Lease, parts: Sequence[PartRecord] = (), **options: Any
    ) -> None:
        await trio.lowlevel.checkpoint()
        waiting[meta.stream_id] = lambda: create(self, meta, lease, parts, **options)

    async def now(self: MemoryCheckpointStore, stream_id: str, lease: Lease, change: Any) -> None:
        write = waiting.pop(stream_id, None)
        if write is not None:
            await write()
        await update(self, stream_id, lease, change)

    replace_in(stack, MemoryCheckpointStore, "create", later)
    replace_in(stack, MemoryCheckpointStore, "update", now)


@mutation("late: part record", "first-part", "P2")
def _part_recorded_late(stack: ExitStack) -> None:
    """A part is recorded after the next one was sent."""
    record_part = MemoryCheckpointStore.record_part
    waiting: dict[str, Callable[[], Awaitable[None]]] = {}

    async def later(
        self: MemoryCheckpointStore, stream_id: str, lease: Lease, part: PartRecord, *, rewritten: bool = False
    ) -> None:
        write = waiting.pop(stream_id, None)
        waiting[stream_id] = lambda: record_part(self, stream_id, lease, part, rewritten=rewritten)
        if write is not None:
            await write()
        else:
            await trio.lowlevel.checkpoint()

    replace_in(stack, MemoryCheckpointStore, "record_part", later)


@mutation("left out: s3_completed", "finalizing", "P2")
def _completion_not_recorded(stack: ExitStack) -> None:
    """A completed object is not recorded before its metadata."""

    async def left_out(self: StreamUpload, stored: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.meta = replace(self.meta, object_etag=stored.etag, object_crc64nvme=stored.crc64nvme)

    replace_in(stack, StreamUpload, "record_object", left_out)


@mutation("left out: state saved at the end", "first-part", "P3")
def _final_state_not_saved(stack: ExitStack) -> None:
    """No state is saved at exit."""

    async def left_out(_self: StreamProcessor, _status: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamProcessor, "_save_exit", left_out)


@mutation("left out: state saved after OutdatedError", "renamed-then-deleted", "P3", fault=FaultKind.DRAIN)
def _lease_released_without_state(stack: ExitStack) -> None:
    """A lease is released without a saved status."""

    async def silently(self: StreamProcessor, error: OutdatedError) -> Outcome:
        if self.stream_id is not None and not isinstance(error, StreamEndedError):
            await self._services.store.release([self.stream_id], self._services.lease)
        return Outcome.LEASE_LOST

    replace_in(stack, StreamProcessor, "_outdated", silently)


@mutation("left out: verification reset by a new part", "verified-then-grown", "P1", fault=FaultKind.KILL)
def _verification_not_reset(stack: ExitStack) -> None:
    """Parts that are sent after a verification count as verified."""

    def numbers_only(self: StreamUpload, size_bytes: int) -> bool:
        return all(part.number in self.parts for part in self.plan.split(size_bytes))

    replace_in(stack, rules, "_UNVERIFIED", {})
    replace_in(stack, StreamUpload, "has_exactly", numbers_only)


@mutation("left out: adoption of orphan uploads", "adoption", "P5", "P2")
def _orphan_uploads_not_adopted(stack: ExitStack) -> None:
    """Uploads that are open in S3 and not in Redis are not looked for."""

    async def left_out(_self: object, _live_ids: object = None) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    replace_in(stack, OrphanUploads, "list_unknown", left_out)


@mutation("left out: abort of orphan uploads", "transient-errors", "P5")
def _orphan_uploads_not_aborted(stack: ExitStack) -> None:
    """Uploads whose creation had a lost response stay open."""

    async def left(_self: StreamUpload) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamUpload, "abort_orphans", left)
    _late_orphan_uploads_not_aborted.apply(stack)


@mutation("left out: later abort of orphan uploads", "late-creation", "P5")
def _late_orphan_uploads_not_aborted(stack: ExitStack) -> None:
    """Uploads that are created after the end of their stream stay open."""

    async def left(_services: object) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    replace_in(stack, orphan_cleanup, "_abort_all", left)


@mutation("left out: upload of an aborted stream", "first-part", "P5", "P2", fault=FaultKind.ABORT)
def _upload_of_an_aborted_stream_left(stack: ExitStack) -> None:
    """A stream that an operator wants aborted ends, and its upload stays open."""

    async def leave(_self: StreamProcessor, _upload: StreamUpload) -> str:
        await trio.lowlevel.checkpoint()
        return ""

    replace_in(stack, StreamProcessor, "_abort_upload", leave)


@mutation("unchecked: completion during an abort", "finalizing", "P5", fault=FaultKind.ABORT)
def _completion_during_an_abort_overlooked(stack: ExitStack) -> None:
    """S3 completes the object while its stream is aborted, and it is not recorded."""

    async def not_stored(_services: Services, _upload: StreamUpload) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    replace_in(stack, recovery, "is_stored", not_stored)


@mutation("left out: release of a part slot", "first-part", "P7")
def _slot_not_released(stack: ExitStack) -> None:
    """The slot of one part is not released."""
    release = trio.CapacityLimiter.release_on_behalf_of
    kept: list[object] = []

    def keep_first(self: trio.CapacityLimiter, borrower: object) -> None:
        if not kept:
            kept.append(borrower)
            return
        release(self, borrower)

    replace_in(stack, trio.CapacityLimiter, "release_on_behalf_of", keep_first)


@mutation("late: pending webhook", "webhook", "P3")
def _pending_webhook_recorded_late(stack: ExitStack) -> None:
    """A pending webhook is recorded in a step after the completion."""
    transition = MemoryCheckpointStore.transition

    async def two_steps(
        self: MemoryCheckpointStore,
        stream_id: str,
        lease: Lease,
        status: Status,
        change: Change,
        *,
        enqueue_webhook: bool = False,
        event: WebhookEvent | None = None,
    ) -> None:
        await transition(self, stream_id, lease, status, change, event=event)
        if enqueue_webhook:
            await trio.lowlevel.checkpoint()
            await transition(self, stream_id, lease, status, change, enqueue_webhook=True)

    replace_in(stack, MemoryCheckpointStore, "transition", two_steps)


_NAIVE_LATE_PART = replace(
    _part_recorded_late, name="naive: checkpoint after the next step", shows_in="many-parts", breaks=("P2",)
)
_NAIVE_NO_STATE = replace(_final_state_not_saved, name="naive: no state saved", shows_in="many-parts", breaks=("P3",))
