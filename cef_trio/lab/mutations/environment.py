"""Mutations that remove the reaction to a fault of file systems, S3, proxies, Redis, or changed settings."""

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


def _read_leases_trusted_everywhere(stack: ExitStack) -> None:
    replace_in(stack, file_system, "UNKNOWN", replace(file_system.UNKNOWN, local=True))


def _unknown_writer_is_no_writer(stack: ExitStack) -> None:
    take_lease = writers.take_lease

    def state_of(descriptor: int) -> WriterState:
        state = take_lease(descriptor)
        return WriterState.NONE if state is WriterState.UNKNOWN else state

    replace_in(stack, writers, "take_lease", state_of)


def _inode_number_is_identity(stack: ExitStack) -> None:
    def never(_known: object, _stat: object) -> bool:
        return False

    replace_in(stack, supervisor, "must_be_recognized", never)


def _touched_is_uploaded_again(stack: ExitStack) -> None:
    async def uncompared(_services: object, _stream_id: str, _path: str) -> ContentMatch:
        await trio.lowlevel.checkpoint()
        return ContentMatch.NONE

    replace_in(stack, start, "correct_if_unchanged", uncompared)


def _lost_record_is_uploaded_again(stack: ExitStack) -> None:
    async def left_out(_self: OrphanObjects, _path: str, **_options: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, OrphanObjects, "adopt", left_out)


def _truncated_starts_over(stack: ExitStack) -> None:
    async def over(self: StreamUpload, _size_bytes: int) -> int:
        await self.start_over()
        return 0

    replace_in(stack, StreamUpload, "cut", over)


def _nothing_is_copied(stack: ExitStack) -> None:
    async def left_out(_self: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamUpload, "_find_base", left_out)


def _every_response_is_from_s3(stack: ExitStack) -> None:
    def never(_self: object, *_: object, **__: object) -> bool:
        return False

    replace_in(stack, ResponseOrigin, "foreign_error", never)
    replace_in(stack, ResponseOrigin, "foreign_success", never)


def _optional_calls_retried_forever(stack: ExitStack) -> None:
    async def retry_forever(
        _self: BestEffort, _operation: str, call: Callable[[], Awaitable[Any]], *, reach: object
    ) -> Any:
        del reach
        return await call()

    replace_in(stack, BestEffort, "attempt", retry_forever)


def _created_despite_other_stream(stack: ExitStack) -> None:
    create = MemoryCheckpointStore.create

    async def create_always(
        self: MemoryCheckpointStore,
        meta: StreamMeta,
        lease: Lease,
        parts: tuple[PartRecord, ...] = (),
        *,
        replaced_stream_id: str | None = None,
        other_owner_stream_id: str | None = None,
    ) -> None:
        del replaced_stream_id
        known = self.snapshot().by_path.get(meta.current_path)
        await create(self, meta, lease, parts, replaced_stream_id=known, other_owner_stream_id=other_owner_stream_id)

    replace_in(stack, MemoryCheckpointStore, "create", create_always)


def _refusals_are_permanent(stack: ExitStack) -> None:
    def never(_error: BaseException) -> bool:
        return False

    replace_in(stack, retry, "is_rejected", never)
    replace_in(stack, outage, "is_rejected", never)


def _denied_is_permanent(stack: ExitStack) -> None:
    init = FileAccessError.__init__

    def final(self: FileAccessError, message: str, *, denied: bool = False) -> None:
        init(self, message, denied=denied)
        self.transient = self.transient and not denied

    replace_in(stack, FileAccessError, "__init__", final)
    replace_in(stack, file_triage, "COMES_BACK", frozenset())


def _probed_by_ping(stack: ExitStack) -> None:
    replace_in(stack, MemoryCheckpointStore, "check_writable", MemoryCheckpointStore.ping)


def _missing_parts_not_sent(stack: ExitStack) -> None:
    def never(_upload: object, _listed: object) -> None:
        return None

    replace_in(stack, recovery, "_forget_unlisted", never)


def _bucket_from_settings(stack: ExitStack) -> None:
    def never(_services: object, _meta: object) -> bool:
        return False

    replace_in(stack, target, "bucket_changed", never)


def _key_keeps_first_name(stack: ExitStack) -> None:
    async def left_out(_self: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamUpload, "_name_object", left_out)


MUTATIONS: Final = (
    Mutation(
        "unchecked: file system of a read lease",
        "a read lease on a FUSE mount is taken as proof that the file has no writer",
        _read_leases_trusted_everywhere,
        "fuse-remote-writer",
        ("P1", "P2", "P8"),
        None,
        kind="1",
    ),
    Mutation(
        "unchecked: unknown writer state",
        "a file whose writer state is unknown is treated as one without a writer",
        _unknown_writer_is_no_writer,
        "touched-while-written",
        ("P1", "P2", "P8"),
        None,
        kind="1",
    ),
    Mutation(
        "unchecked: reused inode number",
        "a file with the inode number of a failed stream is taken for its file",
        _inode_number_is_identity,
        "inode-reused",
        ("P1", "P6"),
        None,
        kind="2",
    ),
    Mutation(
        "unchecked: content of a touched recording",
        "a completed recording with another time stamp is uploaded again",
        _touched_is_uploaded_again,
        "touched-after-upload",
        ("P2",),
        None,
        kind="3",
    ),
    Mutation(
        "left out: search for the object of a lost record",
        "a completed recording whose record is lost is uploaded again",
        _lost_record_is_uploaded_again,
        "completed-record-lost",
        ("P2",),
        None,
    ),
    Mutation(
        "left out: parts before a truncation",
        "a truncated recording is uploaded from its first byte",
        _truncated_starts_over,
        "tail-truncated",
        ("P2",),
        None,
        kind="4",
    ),
    Mutation(
        "left out: copies of existing parts",
        "a completed recording that grew is uploaded from its first byte",
        _nothing_is_copied,
        "append-after-close",
        ("P2",),
        None,
        kind="4",
    ),
    Mutation(
        "unchecked: parts missing in S3",
        "after InvalidPart, CompleteMultipartUpload is repeated with the same parts",
        _missing_parts_not_sent,
        "part-lost",
        ("P1", "P6"),
        None,
        kind="7",
    ),
    Mutation(
        "unchecked: bucket of a stream",
        "an open stream continues in the bucket of the current settings",
        _bucket_from_settings,
        "bucket-changes",
        ("P1", "P5", "P6"),
        None,
        kind="13",
    ),
    Mutation(
        "left out: key from the current file name",
        "an object's key has the first, temporary name of its file",
        _key_keeps_first_name,
        "temporary-name",
        ("P1",),
        None,
        kind="13",
    ),
    Mutation(
        "unchecked: refusals that affect every stream",
        "a refusal of every call fails each stream permanently",
        _refusals_are_permanent,
        "access-denied-for-a-while",
        ("P6",),
        None,
        kind="6",
    ),
    Mutation(
        "unchecked: permission granted later",
        "a file without read permission fails its stream permanently",
        _denied_is_permanent,
        "permission-granted-late",
        ("P6",),
        None,
        kind="6",
    ),
    Mutation(
        "unchecked: Redis accepts writes",
        "an outage of Redis ends when PING succeeds, although writes are refused",
        _probed_by_ping,
        "redis-failover",
        ("P10",),
        None,
        kind="10",
    ),
    Mutation(
        "unchecked: origin of a response",
        "the page of a proxy is taken for a response of S3",
        _every_response_is_from_s3,
        "page-413",
        ("P1", "P2", "P6"),
        None,
        kind="5",
    ),
    Mutation(
        "unbounded: optional calls",
        "an optional listing is retried without a limit",
        _optional_calls_retried_forever,
        "list-uploads-fails",
        ("P6",),
        None,
        kind="8",
    ),
    Mutation(
        "unchecked: path taken since the lookup",
        "a stream is created although its path got another stream since the lookup",
        _created_despite_other_stream,
        "two-daemons-one-folder",
        ("P2",),
        None,
        kind="12",
    ),
)
