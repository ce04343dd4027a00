"""What the daemon did once, when the world it was tried in was kinder than the one outside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

import trio

from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Lease, PartRecord, StreamMeta
from cef_trio.exceptions import FileAccessError
from cef_trio.files import file_system, writers
from cef_trio.files.writers import WriterState
from cef_trio.lab.mutations.model import Mutation, replace_in
from cef_trio.resilience import outage, retry
from cef_trio.resilience.best_effort import BestEffort
from cef_trio.s3.response_origin import ResponseOrigin
from cef_trio.upload import file_triage, recovery, start, supervisor, target
from cef_trio.upload.orphan_objects import OrphanObjects
from cef_trio.upload.predecessor import ContentMatch
from cef_trio.upload.session import StreamUpload


def _leases_are_evidence_anywhere(stack: ExitStack) -> None:
    """Kind 1: a read lease is evidence on whatever file system the kernel grants it."""
    replace_in(stack, file_system, "UNKNOWN", replace(file_system.UNKNOWN, local=True))


def _unknown_is_no(stack: ExitStack) -> None:
    """Kind 1: a file of which nobody can tell whether it has a writer has none."""
    take_lease = writers.take_lease

    def told(descriptor: int) -> WriterState:
        state = take_lease(descriptor)
        return WriterState.NONE if state is WriterState.UNKNOWN else state

    replace_in(stack, writers, "take_lease", told)


def _number_is_the_file(stack: ExitStack) -> None:
    """Kind 2: a file with a settled stream's number is that stream's file."""

    def never(_known: object, _stat: object) -> bool:
        return False

    replace_in(stack, supervisor, "must_be_recognized", never)


def _changed_is_new(stack: ExitStack) -> None:
    """Kind 3: a completed recording that is not as it was verified is sent again, and not compared."""

    async def uncompared(_services: object, _stream_id: str, _path: str) -> ContentMatch:
        await trio.lowlevel.checkpoint()
        return ContentMatch.NONE

    replace_in(stack, start, "correct_if_unchanged", uncompared)


def _lost_is_new(stack: ExitStack) -> None:
    """Kind 3: a completed recording that Redis has lost is sent again; its object is not looked for."""

    async def left_out(_self: OrphanObjects, _path: str, **_options: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, OrphanObjects, "adopt", left_out)


def _cut_is_another_recording(stack: ExitStack) -> None:
    """Kind 4: a file that became shorter begins with nothing."""

    async def over(self: StreamUpload, _size_bytes: int) -> int:
        await self.start_over()
        return 0

    replace_in(stack, StreamUpload, "cut", over)


def _nothing_is_copied(stack: ExitStack) -> None:
    """Kind 4: a completed recording that grows is sent from its first byte."""

    async def left_out(_self: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamUpload, "_find_base", left_out)


def _any_answer_is_s3s(stack: ExitStack) -> None:
    """Kind 5: what an ingress answers is taken for the store's own word."""

    def never(_self: object, *_: object, **__: object) -> bool:
        return False

    replace_in(stack, ResponseOrigin, "foreign_error", never)
    replace_in(stack, ResponseOrigin, "foreign_success", never)


def _listings_are_waited_for(stack: ExitStack) -> None:
    """Kind 8: a call that the next step could do without is waited for."""

    async def insist(_self: BestEffort, _operation: str, call: Callable[[], Awaitable[Any]], *, reach: object) -> Any:
        del reach
        return await call()

    replace_in(stack, BestEffort, "attempt", insist)


def _created_unasked(stack: ExitStack) -> None:
    """Kind 12: a stream is created although its path has led to another one since it was looked up."""
    create = MemoryCheckpointStore.create

    async def anyhow(
        self: MemoryCheckpointStore,
        meta: StreamMeta,
        lease: Lease,
        parts: tuple[PartRecord, ...] = (),
        *,
        instead_of: str | None = None,
        beside: str | None = None,
    ) -> None:
        del instead_of
        known = self.snapshot().by_path.get(meta.current_path)
        await create(self, meta, lease, parts, instead_of=known, beside=beside)

    replace_in(stack, MemoryCheckpointStore, "create", anyhow)


def _refusals_are_for_good(stack: ExitStack) -> None:
    """Kind 6: a refusal is one recording's own, though it strikes all."""

    def never(_error: BaseException) -> bool:
        return False

    replace_in(stack, retry, "is_refusal", never)
    replace_in(stack, outage, "is_refusal", never)


def _rights_are_for_good(stack: ExitStack) -> None:
    """Kind 6: a file that may not be read now never may."""
    init = FileAccessError.__init__

    def final(self: FileAccessError, message: str, *, denied: bool = False) -> None:
        init(self, message, denied=denied)
        self.transient = self.transient and not denied

    replace_in(stack, FileAccessError, "__init__", final)
    replace_in(stack, file_triage, "COMES_BACK", frozenset())


def _asked_by_ping(stack: ExitStack) -> None:
    """Kind 10: Redis is up when it answers PING, whatever becomes of a write."""
    replace_in(stack, MemoryCheckpointStore, "prove", MemoryCheckpointStore.ping)


def _missing_parts_believed(stack: ExitStack) -> None:
    """Kind 7: Complete says InvalidPart, and the very same is asked again."""

    def never(_upload: object, _listed: object) -> None:
        return None

    replace_in(stack, recovery, "_forget_unlisted", never)


def _bucket_of_now(stack: ExitStack) -> None:
    """Kind 13: a stream goes on in whatever bucket the settings name."""

    def never(_services: object, _meta: object) -> bool:
        return False

    replace_in(stack, target, "bucket_changed", never)


def _first_name_kept(stack: ExitStack) -> None:
    """Kind 13: an object is called as its file was when it was first seen."""

    async def left_out(_self: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamUpload, "_name_object", left_out)


MUTATIONS: Final = (
    Mutation(
        "unchecked: file system of a read lease",
        "a lease of a FUSE mount is taken for the word that nobody writes",
        _leases_are_evidence_anywhere,
        "fuse-remote-writer",
        ("P1", "P2", "P8"),
        None,
        kind="1",
    ),
    Mutation(
        "unchecked: unknown writer state",
        "who cannot tell whether a file has a writer says that it has none",
        _unknown_is_no,
        "touched-while-written",
        ("P1", "P2", "P8"),
        None,
        kind="1",
    ),
    Mutation(
        "unchecked: reused inode number",
        "a file that has a failed stream's number is taken for its file",
        _number_is_the_file,
        "inode-reused",
        ("P1", "P6"),
        None,
        kind="2",
    ),
    Mutation(
        "unchecked: content of a touched recording",
        "a completed recording with another time stamp is sent again",
        _changed_is_new,
        "touched-after-upload",
        ("P2",),
        None,
        kind="3",
    ),
    Mutation(
        "left out: search for the object of a lost record",
        "a completed recording whose record is lost is sent again",
        _lost_is_new,
        "completed-record-lost",
        ("P2",),
        None,
    ),
    Mutation(
        "left out: parts before a truncation",
        "a file that was cut off begins with nothing",
        _cut_is_another_recording,
        "tail-truncated",
        ("P2",),
        None,
        kind="4",
    ),
    Mutation(
        "left out: copies of existing parts",
        "a completed recording that grew is sent whole",
        _nothing_is_copied,
        "append-after-close",
        ("P2",),
        None,
        kind="4",
    ),
    Mutation(
        "unchecked: parts missing in S3",
        "InvalidPart is answered by the same question",
        _missing_parts_believed,
        "part-lost",
        ("P1", "P6"),
        None,
        kind="7",
    ),
    Mutation(
        "unchecked: bucket of a stream",
        "an open stream goes on in another bucket than it is recorded in",
        _bucket_of_now,
        "bucket-changes",
        ("P1", "P5", "P6"),
        None,
        kind="13",
    ),
    Mutation(
        "left out: key from the current file name",
        "an object keeps its file's temporary name",
        _first_name_kept,
        "temporary-name",
        ("P1",),
        None,
        kind="13",
    ),
    Mutation(
        "unchecked: refusals that affect every stream",
        "a refusal that strikes all streams fails each of them",
        _refusals_are_for_good,
        "access-denied-for-a-while",
        ("P6",),
        None,
        kind="6",
    ),
    Mutation(
        "unchecked: permission granted later",
        "a file that may not be read now has failed for good",
        _rights_are_for_good,
        "permission-granted-late",
        ("P6",),
        None,
        kind="6",
    ),
    Mutation(
        "unchecked: Redis accepts writes",
        "an outage is over when PING succeeds, and writes are refused",
        _asked_by_ping,
        "redis-failover",
        ("P10",),
        None,
        kind="10",
    ),
    Mutation(
        "unchecked: origin of a response",
        "a page of an ingress is taken for S3's word",
        _any_answer_is_s3s,
        "page-413",
        ("P1", "P2", "P6"),
        None,
        kind="5",
    ),
    Mutation(
        "unbounded: optional calls",
        "a listing that fails for good is waited for",
        _listings_are_waited_for,
        "list-uploads-fails",
        ("P6",),
        None,
        kind="8",
    ),
    Mutation(
        "unchecked: path taken since the lookup",
        "a stream is created whoever was first",
        _created_unasked,
        "two-daemons-one-folder",
        ("P2",),
        None,
        kind="12",
    ),
)
