"""Writes that are left out, or come late; slots and uploads that are never given back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

import trio

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Lease, PartRecord, StreamMeta
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import OutdatedError, StreamEndedError
from cef_trio.lab.faults import FaultKind
from cef_trio.lab.mutations.model import Mutation, replace_in
from cef_trio.upload import orphan_cleanup
from cef_trio.upload.orphan_uploads import OrphanUploads
from cef_trio.upload.processor import Outcome, StreamProcessor
from cef_trio.upload.session import StreamUpload


def _verified_size_unrecorded(stack: ExitStack) -> None:
    update = StreamUpload.update

    async def left_out(self: StreamUpload, **fields: Any) -> None:
        if "verified_size_bytes" in fields:
            await trio.lowlevel.checkpoint()
            self.meta = replace(self.meta, **fields)
        else:
            await update(self, **fields)

    replace_in(stack, StreamUpload, "update", left_out)


def _stream_recorded_late(stack: ExitStack) -> None:
    """The stream's record is written when it has an upload, instead of before S3 hears of it."""
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


def _part_recorded_late(stack: ExitStack) -> None:
    """A part's record is written when the next one has begun: one is always behind."""
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


def _completion_unrecorded(stack: ExitStack) -> None:
    async def left_out(self: StreamUpload, stored: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.meta = replace(self.meta, object_etag=stored.etag, object_crc64nvme=stored.crc64nvme)

    replace_in(stack, StreamUpload, "record_object", left_out)


def _state_unsaved(stack: ExitStack) -> None:
    async def left_out(_self: StreamProcessor, _status: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamProcessor, "_save_exit", left_out)


def _lease_given_back_silently(stack: ExitStack) -> None:
    """A task whose look was outdated gives its lease back, and does not say that nobody works on the stream."""

    async def silently(self: StreamProcessor, error: OutdatedError) -> Outcome:
        if self.stream_id is not None and not isinstance(error, StreamEndedError):
            await self._services.store.release([self.stream_id], self._services.lease)
        return Outcome.LEASE_LOST

    replace_in(stack, StreamProcessor, "_outdated", silently)


def _verification_kept(stack: ExitStack) -> None:
    """What was verified is still taken for verified when other parts were recorded."""

    def numbers_only(self: StreamUpload, size_bytes: int) -> bool:
        return all(part.number in self.parts for part in self.plan.cut(size_bytes))

    replace_in(stack, rules, "_UNVERIFIED", {})
    replace_in(stack, StreamUpload, "has_exactly", numbers_only)


def _unknown_uploads_unseen(stack: ExitStack) -> None:
    async def left_out(_self: object, _live_ids: object = None) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    replace_in(stack, OrphanUploads, "list_unknown", left_out)


def _orphans_left(stack: ExitStack) -> None:
    async def left(_self: StreamUpload) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamUpload, "abort_orphans", left)
    _late_orphans_left(stack)


def _late_orphans_left(stack: ExitStack) -> None:
    """What is left is looked for at a stream's end only."""

    async def left(_services: object) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    replace_in(stack, orphan_cleanup, "_abort_all", left)


def _slot_kept(stack: ExitStack) -> None:
    release = trio.CapacityLimiter.release_on_behalf_of
    kept: list[object] = []

    def forgetful(self: trio.CapacityLimiter, borrower: object) -> None:
        if not kept:
            kept.append(borrower)
            return
        release(self, borrower)

    replace_in(stack, trio.CapacityLimiter, "release_on_behalf_of", forgetful)


def _webhook_owed_late(stack: ExitStack) -> None:
    """That a webhook is owed is recorded after the completion, in a step of its own."""
    transition = MemoryCheckpointStore.transition

    async def two_steps(
        self: MemoryCheckpointStore,
        stream_id: str,
        lease: Lease,
        status: Status,
        change: Change,
        *,
        enqueue_webhook: bool = False,
    ) -> None:
        await transition(self, stream_id, lease, status, change)
        if enqueue_webhook:
            await trio.lowlevel.checkpoint()
            await transition(self, stream_id, lease, status, change, enqueue_webhook=True)

    replace_in(stack, MemoryCheckpointStore, "transition", two_steps)


MUTATIONS: Final = (
    Mutation(
        "late: stream record",
        "S3 hears of a stream before Redis does",
        _stream_recorded_late,
        "first-part",
        ("P5", "P2", "P3"),
    ),
    Mutation(
        "late: part record",
        "a part is recorded when the next one has begun",
        _part_recorded_late,
        "first-part",
        ("P2",),
    ),
    Mutation(
        "left out: verified size",
        "what is being completed is not recorded before Complete",
        _verified_size_unrecorded,
        "finalizing",
        ("P2", "P1", "P6"),
    ),
    Mutation(
        "left out: s3_completed",
        "that the object exists is recorded with the metadata only",
        _completion_unrecorded,
        "finalizing",
        ("P2",),
    ),
    Mutation(
        "left out: state saved at the end", "nothing is saved on the way out", _state_unsaved, "first-part", ("P3",)
    ),
    Mutation(
        "left out: state saved after OutdatedError",
        "a lease is given back, and that nobody works on its stream any more is not saved",
        _lease_given_back_silently,
        "renamed-then-deleted",
        ("P3",),
        FaultKind.DRAIN,
    ),
    Mutation(
        "left out: verification reset by a new part",
        "parts that were sent after the verification are taken for what was verified",
        _verification_kept,
        "verified-then-grown",
        ("P1",),
        FaultKind.KILL,
    ),
    Mutation(
        "left out: adoption of orphan uploads",
        "what S3 has and Redis does not know is not looked for",
        _unknown_uploads_unseen,
        "adoption",
        ("P5", "P2"),
    ),
    Mutation(
        "late: pending webhook",
        "a completion is recorded, and in another step that its webhook is owed",
        _webhook_owed_late,
        "webhook",
        ("P3",),
    ),
    Mutation(
        "left out: abort of orphan uploads",
        "uploads whose creation was answered to nobody stay",
        _orphans_left,
        "transient-errors",
        ("P5",),
    ),
    Mutation(
        "left out: later abort of orphan uploads",
        "uploads whose creation takes effect after their stream's end stay",
        _late_orphans_left,
        "late-creation",
        ("P5",),
    ),
    Mutation(
        "left out: release of a part slot", "one part's slot is never given back", _slot_kept, "first-part", ("P7",)
    ),
)

VARIANTS: Final = (
    Mutation(
        "naive: checkpoint after the next step",
        "a part is recorded when the next one has begun",
        _part_recorded_late,
        "many-parts",
        ("P2",),
    ),
    Mutation("naive: no state saved", "a restart has to guess", _state_unsaved, "many-parts", ("P3",)),
)
