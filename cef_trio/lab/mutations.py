"""The daemon with one thing left out, to show that the laboratory would notice.

A mutation takes away one shield, one write before the next step, or one check of a reply: by a switch here, never by an
edit there. An explorer that finds nothing wrong with a mutated daemon would prove nothing about the real one. The naive
variants are what one writes who has not thought of cancellation; they are for the table in ``docs/correctness.md``.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from cef_trio import shielded as shield_room
from cef_trio.checkpoint import rules
from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Lease, PartRecord, StreamMeta
from cef_trio.checkpoint.states import Status
from cef_trio.checkpoint.store import Change
from cef_trio.disk import OpenRecording
from cef_trio.lab.blows import Blow
from cef_trio.lab.disk import InlineRecording
from cef_trio.recording import FileStat
from cef_trio.s3 import completion
from cef_trio.s3.model import StoredObject
from cef_trio.s3.sending import Sender
from cef_trio.s3.xml import CompleteResult, XmlError, parse_complete_result
from cef_trio.stream import disposal, finalize, processor, recovery
from cef_trio.stream.adoption import UnknownUploads
from cef_trio.stream.parts import Part
from cef_trio.stream.processor import StreamProcessor
from cef_trio.stream.sending import send_all
from cef_trio.stream.services import Services
from cef_trio.stream.upload import StreamUpload

Apply = Callable[[ExitStack], None]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One thing left out. ``shows_in`` and ``blow``: where it shows; ``breaks``: which promises."""

    name: str
    summary: str
    apply: Apply
    shows_in: str
    breaks: tuple[str, ...]
    blow: Blow = Blow.CANCEL


def _replace(stack: ExitStack, owner: object, name: str, value: object) -> None:
    before = vars(owner)[name]
    setattr(owner, name, value)
    stack.callback(setattr, owner, name, before)


def _without_shields(*names: str) -> Apply:
    def apply(stack: ExitStack) -> None:
        _replace(stack, shield_room, "removed", shield_room.removed | set(names))

    return apply


def _unbounded_shields(stack: ExitStack) -> None:
    """Every shield without an end, and a store whose silence nobody ever gives up."""
    opened = trio.move_on_after

    def for_ever(_seconds: float, **options: bool) -> trio.CancelScope:
        return opened(math.inf, **options)

    class _Trio:
        move_on_after = staticmethod(for_ever)
        CancelScope = trio.CancelScope

    _replace(stack, shield_room, "trio", _Trio)


def _verified_size_unrecorded(stack: ExitStack) -> None:
    update = StreamUpload.update

    async def left_out(self: StreamUpload, **fields: Any) -> None:
        if "verified_size_bytes" in fields:
            await trio.lowlevel.checkpoint()
            self.meta = replace(self.meta, **fields)
        else:
            await update(self, **fields)

    _replace(stack, StreamUpload, "update", left_out)


def _stream_recorded_late(stack: ExitStack) -> None:
    """The stream's record is written when it has an upload, instead of before S3 hears of it."""
    create, update = MemoryCheckpointStore.create, MemoryCheckpointStore.update
    waiting: dict[str, Callable[[], Awaitable[None]]] = {}

    async def later(
        self: MemoryCheckpointStore, meta: StreamMeta, lease: Lease, parts: Sequence[PartRecord] = ()
    ) -> None:
        await trio.lowlevel.checkpoint()
        waiting[meta.stream_id] = lambda: create(self, meta, lease, parts)

    async def now(self: MemoryCheckpointStore, stream_id: str, lease: Lease, change: Any) -> None:
        write = waiting.pop(stream_id, None)
        if write is not None:
            await write()
        await update(self, stream_id, lease, change)

    _replace(stack, MemoryCheckpointStore, "create", later)
    _replace(stack, MemoryCheckpointStore, "update", now)


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

    _replace(stack, MemoryCheckpointStore, "record_part", later)


def _completion_unrecorded(stack: ExitStack) -> None:
    async def left_out(self: StreamUpload, stored: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.meta = replace(self.meta, object_etag=stored.etag, object_crc64nvme=stored.crc64nvme)

    _replace(stack, StreamUpload, "record_object", left_out)


def _state_unsaved(stack: ExitStack) -> None:
    async def left_out(_self: StreamProcessor, _status: object) -> None:
        await trio.lowlevel.checkpoint()

    _replace(stack, StreamProcessor, "_save_exit", left_out)


def _error_in_200_believed(stack: ExitStack) -> None:
    parse = parse_complete_result

    def credulous(body: bytes) -> CompleteResult:
        try:
            return parse(body)
        except XmlError:
            return CompleteResult("0" * 32, None)

    async def taken(self: completion.Completion, result: CompleteResult, _answer: object) -> StoredObject:
        await trio.lowlevel.checkpoint()
        return StoredObject(self._key, self._size_bytes, result.etag or "", result.crc64nvme, {})

    _replace(stack, completion, "parse_complete_result", credulous)
    _replace(stack, completion.Completion, "_verified", taken)


def _checksum_of_part_unread(stack: ExitStack) -> None:
    def believed(_self: object, *_: object) -> None:
        return None

    _replace(stack, Sender, "_doubt", believed)


def _any_object_is_ours(stack: ExitStack) -> None:
    async def no_difference(_self: object, _stored: object) -> None:
        await trio.lowlevel.checkpoint()

    _replace(stack, completion.Completion, "_difference", no_difference)


def _list_of_parts_believed_unseen(stack: ExitStack) -> None:
    def never(upload: StreamUpload, part: Any) -> bool:
        return part.part_number not in upload.parts

    _replace(stack, recovery, "_contradicts", never)


def _list_of_parts_unread(stack: ExitStack) -> None:
    def never(_upload: StreamUpload, _part: object) -> bool:
        return False

    _replace(stack, recovery, "_contradicts", never)


def _lost_answer_is_a_failure(stack: ExitStack) -> None:
    async def gone(_self: object, error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    _replace(stack, completion.Completion, "_ours_or", gone)

    async def never(_services: object, _upload: object) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    _replace(stack, recovery, "_was_completed", never)


def _unverified(stack: ExitStack) -> None:
    async def only_missing(
        services: Services, upload: StreamUpload, recording: OpenRecording, size_bytes: int, leaving: Callable[[], bool]
    ) -> bool:
        await upload.ensure_open()

        async def missing() -> AsyncGenerator[Part, None]:
            for part in upload.plan.cut(size_bytes):
                record = upload.parts.get(part.number)
                if record is None or record.size_bytes != part.size_bytes:
                    yield part

        return await send_all(services, upload, recording, missing(), stop=leaving)

    _replace(stack, finalize, "_make_parts_true", only_missing)


def _any_file_is_ours(stack: ExitStack) -> None:
    def same(*_: object) -> bool:
        return True

    _replace(stack, processor, "is_same_file", same)


def _pass_believed(stack: ExitStack) -> None:
    """The file's time is not looked at: what was written while a pass read is not noticed."""
    stat = InlineRecording.stat

    async def without_time(self: InlineRecording) -> FileStat:
        return replace(await stat(self), mtime_ns=0)

    _replace(stack, InlineRecording, "stat", without_time)


def _verification_kept(stack: ExitStack) -> None:
    """What was verified is still taken for verified when other parts were recorded."""

    def as_it_was(meta: StreamMeta) -> StreamMeta:
        return meta

    def numbers_only(self: StreamUpload, size_bytes: int) -> bool:
        return all(part.number in self.parts for part in self.plan.cut(size_bytes))

    _replace(stack, rules, "_unverified", as_it_was)
    _replace(stack, StreamUpload, "has_exactly", numbers_only)


def _unknown_uploads_unseen(stack: ExitStack) -> None:
    async def left_out(_self: object) -> None:
        await trio.lowlevel.checkpoint()

    _replace(stack, UnknownUploads, "look", left_out)


def _strays_left(stack: ExitStack) -> None:
    async def left(_self: StreamUpload) -> None:
        await trio.lowlevel.checkpoint()

    _replace(stack, StreamUpload, "abort_strays", left)


def _lease_unasked(stack: ExitStack) -> None:
    """A write is taken from whoever makes it."""
    fenced = MemoryCheckpointStore._fenced  # noqa: SLF001 - a switch in the lab, not an edit

    def anybodys(self: MemoryCheckpointStore, stream_id: str, lease: Lease) -> Any:
        return self._streams.get(stream_id) or fenced(self, stream_id, lease)

    _replace(stack, MemoryCheckpointStore, "_fenced", anybodys)


def _slot_kept(stack: ExitStack) -> None:
    release = trio.CapacityLimiter.release_on_behalf_of
    kept: list[object] = []

    def forgetful(self: trio.CapacityLimiter, borrower: object) -> None:
        if not kept:
            kept.append(borrower)
            return
        release(self, borrower)

    _replace(stack, trio.CapacityLimiter, "release_on_behalf_of", forgetful)


def _deleted_unchecked(stack: ExitStack) -> None:
    def never(*_: object) -> None:
        return None

    _replace(stack, disposal, "why_not_the_file", never)


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
        owes_webhook: bool = False,
    ) -> None:
        await transition(self, stream_id, lease, status, change)
        if owes_webhook:
            await trio.lowlevel.checkpoint()
            await transition(self, stream_id, lease, status, change, owes_webhook=True)

    _replace(stack, MemoryCheckpointStore, "transition", two_steps)


_SHIELDS: Final = (
    ("interrupted state", "how a cancelled stream ended is not saved", "first-part", ("P3",)),
    (
        "parked state",
        "a drained stream's state is lost, and with it that of those who joined its write",
        "shutdown",
        ("P3",),
    ),
    ("part record", "a part is acknowledged, and its record cut off", "first-part", ("P2",)),
    (
        "part acknowledgement",
        "a part's answer is here, and giving its connection back is cut off",
        "first-part",
        ("P2",),
    ),
    ("upload id", "an upload is created, and its id thrown away", "first-part", ("P2",)),
    ("object record", "an object is completed, and that is not recorded", "finalizing", ("P2",)),
    ("webhook delivery", "a webhook is taken, and that is not recorded", "webhook", ("P3",)),
)

_MUTATIONS: Final = (
    *(
        Mutation(f"no shield: {name}", summary, _without_shields(name), scenario, breaks)
        for name, summary, scenario, breaks in _SHIELDS
    ),
    Mutation(
        "late: the stream's record",
        "S3 hears of a stream before Redis does",
        _stream_recorded_late,
        "first-part",
        ("P5", "P2", "P3"),
    ),
    Mutation(
        "late: a part's record",
        "a part is recorded when the next one has begun",
        _part_recorded_late,
        "first-part",
        ("P2",),
    ),
    Mutation(
        "left out: the verified size",
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
        "left out: the state at the end", "nothing is saved on the way out", _state_unsaved, "first-part", ("P3",)
    ),
    Mutation(
        "unchecked: 200 with an error",
        "Complete's status is believed, its body not read",
        _error_in_200_believed,
        "error-in-200",
        ("P1", "P6"),
    ),
    Mutation(
        "unchecked: a part's checksum",
        "what S3 says it stored is not compared with what was sent",
        _checksum_of_part_unread,
        "damaged",
        ("P6",),
    ),
    Mutation(
        "unchecked: whose object it is",
        "an object under the key is taken for ours",
        _any_object_is_ours,
        "foreign-object",
        ("P1",),
    ),
    Mutation(
        "unchecked: the list of parts",
        "what S3 has under a recorded number is not compared",
        _list_of_parts_believed_unseen,
        "bytes-go-back",
        ("P6",),
        Blow.DIE_UNANSWERED,
    ),
    Mutation(
        "unchecked: a lost answer",
        "NoSuchUpload after a lost answer is taken for a loss",
        _lost_answer_is_a_failure,
        "passing-errors",
        ("P2", "P6"),
    ),
    Mutation("unchecked: the bytes", "what was sent earlier is not read again", _unverified, "rewrites", ("P1",)),
    Mutation(
        "unchecked: whose file it is",
        "a file under the recording's name is taken for the recording",
        _any_file_is_ours,
        "replaced-unheard",
        ("P1",),
    ),
    Mutation(
        "unchecked: the file after a pass",
        "whether the file changed while it was verified is not asked",
        _pass_believed,
        "rewrites",
        ("P1", "P2"),
    ),
    Mutation(
        "left out: a verification taken back",
        "parts that were sent after the verification are taken for what was verified",
        _verification_kept,
        "verified-then-grown",
        ("P1",),
        Blow.KILL,
    ),
    Mutation(
        "unchecked: whose lease it is",
        "a write is taken from whoever makes it",
        _lease_unasked,
        "partition",
        ("P3",),
    ),
    Mutation(
        "left out: unknown uploads",
        "what S3 has and Redis does not know is not looked for",
        _unknown_uploads_unseen,
        "adoption",
        ("P5", "P2"),
    ),
    Mutation(
        "unchecked: the file before it is deleted",
        "a completed recording is deleted without another look at it",
        _deleted_unchecked,
        "deleted-after-upload",
        ("P8",),
    ),
    Mutation(
        "late: the webhook that is owed",
        "a completion is recorded, and in another step that its webhook is owed",
        _webhook_owed_late,
        "webhook",
        ("P3",),
    ),
    Mutation(
        "left out: strays",
        "uploads whose creation was answered to nobody stay",
        _strays_left,
        "passing-errors",
        ("P5",),
    ),
    Mutation("left out: a slot's return", "one part's slot is never given back", _slot_kept, "first-part", ("P7",)),
)

_VARIANTS: Final = (
    Mutation(
        "naive: no shields",
        "cancellation may fall anywhere",
        _without_shields(*(name for name, _, _, _ in _SHIELDS)),
        "many-parts",
        ("P2", "P3"),
    ),
    Mutation(
        "naive: shields without an end",
        "what is saved on the way out is waited for",
        _unbounded_shields,
        "redis-frozen",
        ("P4",),
    ),
    Mutation(
        "naive: checkpoint after the next step",
        "a part is recorded when the next one has begun",
        _part_recorded_late,
        "many-parts",
        ("P2",),
    ),
    Mutation("naive: no state saved", "a restart has to guess", _state_unsaved, "many-parts", ("P3",)),
    Mutation(
        "naive: S3 is not asked",
        "what Redis knows is all that is known",
        _list_of_parts_unread,
        "bytes-go-back",
        ("P6",),
        Blow.DIE_UNANSWERED,
    ),
)

MUTATIONS: Final = {mutation.name: mutation for mutation in _MUTATIONS}
VARIANTS: Final = {mutation.name: mutation for mutation in _VARIANTS}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Run the body with that mutation or variant; ``None``: with the daemon as it is.

    Raises:
        KeyError: there is none of that name.
    """
    with ExitStack() as stack:
        if name is not None:
            (MUTATIONS | VARIANTS)[name].apply(stack)
        yield
