"""Mutations that remove the reaction to a fault of file systems, S3, proxies, Redis, or changed settings."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import trio

from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Lease, PartRecord, StreamMeta, WebhookEvent
from cef_trio.exceptions import FileAccessError
from cef_trio.files import FileStat, file_system, writers
from cef_trio.files.writers import WriterState
from cef_trio.lab.mutations.model import mutation, replace_in
from cef_trio.resilience import outage, retry
from cef_trio.resilience.best_effort import BestEffort
from cef_trio.s3.response_origin import ResponseOrigin
from cef_trio.upload import (
    bucket_change,
    failures,
    file_triage,
    processor,
    recognition,
    recovery,
    start_stream,
    supervisor,
)
from cef_trio.upload.copy_from_previous import ContentMatch
from cef_trio.upload.orphan_objects import OrphanObjects
from cef_trio.upload.scan_history import ScanHistory
from cef_trio.upload.session import StreamUpload
from cef_trio.watch import Scanned, scan


@mutation("unchecked: file system of a read lease", "fuse-remote-writer", "P1", "P2", "P8", fault=None, kind="1")
def _read_leases_trusted_everywhere(stack: ExitStack) -> None:
    """A read lease on a FUSE mount is taken as proof that the file has no writer."""
    replace_in(stack, file_system, "UNKNOWN", replace(file_system.UNKNOWN, local=True))


@mutation("unchecked: unknown writer state", "touched-while-written", "P1", "P2", "P8", fault=None, kind="1")
def _unknown_writer_is_no_writer(stack: ExitStack) -> None:
    """A file whose writer state is unknown is treated as one without a writer."""
    take_lease = writers.take_lease

    def state_of(descriptor: int) -> WriterState:
        state = take_lease(descriptor)
        return WriterState.NONE if state is WriterState.UNKNOWN else state

    replace_in(stack, writers, "take_lease", state_of)


@mutation("unchecked: reused inode number", "inode-reused", "P1", "P6", fault=None, kind="2")
def _inode_number_is_identity(stack: ExitStack) -> None:
    """A file with the inode number of a failed stream is taken for its file."""

    def never(_known: object, _stat: object) -> bool:
        return False

    replace_in(stack, supervisor, "must_be_recognized", never)


@mutation("unchecked: inode number under another name", "number-under-another-name", "P1", fault=None, kind="2")
def _inode_number_is_a_rename(stack: ExitStack) -> None:
    """A file that has the inode number of a missing recording under another name is taken for that one."""

    async def always(_services: object, _meta: object, _path: str) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    replace_in(stack, processor, "is_found_at", always)


@mutation("unchecked: content of a touched recording", "touched-after-upload", "P2", fault=None, kind="3")
def _touched_is_uploaded_again(stack: ExitStack) -> None:
    """A completed recording with another time stamp is uploaded again."""

    async def uncompared(_services: object, _stream_id: str, _path: str) -> ContentMatch:
        await trio.lowlevel.checkpoint()
        return ContentMatch.NONE

    replace_in(stack, start_stream, "correct_if_unchanged", uncompared)


@mutation("left out: search for the object of a lost record", "completed-record-lost", "P2", fault=None)
def _lost_record_is_uploaded_again(stack: ExitStack) -> None:
    """A completed recording whose record is lost is uploaded again."""

    async def left_out(_self: OrphanObjects, _path: str, **_options: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, OrphanObjects, "adopt", left_out)


@mutation("left out: upload of an earlier copy", "copied-while-growing", "P2", fault=None, kind="4")
def _newer_copy_starts_over(stack: ExitStack) -> None:
    """A newer copy of a growing recording is uploaded from its first byte."""
    replace_in(stack, recognition, "_may_be_taken_over", lambda _meta: False)


@mutation("left out: parts before a truncation", "tail-truncated", "P2", fault=None, kind="4")
def _truncated_starts_over(stack: ExitStack) -> None:
    """A truncated recording is uploaded from its first byte."""

    async def over(self: StreamUpload, _size_bytes: int) -> int:
        await self.start_over()
        return 0

    replace_in(stack, StreamUpload, "truncate", over)


@mutation("left out: copies of existing parts", "append-after-close", "P2", fault=None, kind="4")
def _nothing_is_copied(stack: ExitStack) -> None:
    """A completed recording that grew is uploaded from its first byte."""

    async def left_out(_self: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamUpload, "_find_base", left_out)


@mutation("unchecked: origin of a response", "page-404", "P1", "P2", "P6", fault=None, kind="5")
def _every_response_is_from_s3(stack: ExitStack) -> None:
    """The page of a proxy is taken for a response of S3."""

    def never(_self: object, *_: object, **__: object) -> bool:
        return False

    replace_in(stack, ResponseOrigin, "foreign_error", never)
    replace_in(stack, ResponseOrigin, "foreign_success", never)


@mutation("unbounded: optional calls", "list-uploads-fails", "P6", fault=None, kind="8")
def _optional_calls_retried_forever(stack: ExitStack) -> None:
    """An optional listing is retried without a limit."""

    async def retry_forever(
        _self: BestEffort, _operation: str, call: Callable[[], Awaitable[Any]], *, reach: object
    ) -> Any:
        del reach
        return await call()

    replace_in(stack, BestEffort, "attempt", retry_forever)


@mutation("unchecked: path taken since the lookup", "two-daemons-one-folder", "P2", fault=None, kind="12")
def _created_despite_other_stream(stack: ExitStack) -> None:
    """A stream is created although its path got another stream since the lookup."""
    create = MemoryCheckpointStore.create

    async def create_always(
        self: MemoryCheckpointStore,
        meta: StreamMeta,
        lease: Lease,
        parts: tuple[PartRecord, ...] = (),
        *,
        replaced_stream_id: str | None = None,
        other_owner_stream_id: str | None = None,
        event: WebhookEvent | None = None,
    ) -> None:
        del replaced_stream_id
        known = self.snapshot().by_path.get(meta.current_path)
        await create(
            self,
            meta,
            lease,
            parts,
            replaced_stream_id=known,
            other_owner_stream_id=other_owner_stream_id,
            event=event,
        )

    replace_in(stack, MemoryCheckpointStore, "create", create_always)


@mutation("unchecked: refusals that affect every stream", "access-denied-for-a-while", "P6", fault=None, kind="6")
def _refusals_are_permanent(stack: ExitStack) -> None:
    """A refusal of every call fails each stream permanently, at once."""

    def never(_error: BaseException) -> bool:
        return False

    replace_in(stack, retry, "is_rejected", never)
    replace_in(stack, outage, "is_rejected", never)
    replace_in(stack, failures, "is_rejected_by_s3", never)


@mutation("unchecked: quota that refuses large bodies alone", "over-quota", "P6", fault=None, kind="6")
def _quota_is_permanent(stack: ExitStack) -> None:
    """A quota with room for the probe's few bytes fails each stream permanently, at once."""

    def never(_error: BaseException) -> bool:
        return False

    replace_in(stack, retry, "is_over_quota", never)
    replace_in(stack, failures, "is_rejected_by_s3", never)


@mutation("unchecked: permission granted later", "permission-granted-late", "P6", fault=None, kind="6")
def _denied_is_permanent(stack: ExitStack) -> None:
    """A file without read permission fails its stream permanently."""
    init = FileAccessError.__init__

    def final(self: FileAccessError, message: str, *, denied: bool = False) -> None:
        init(self, message, denied=denied)
        self.transient = self.transient and not denied

    replace_in(stack, FileAccessError, "__init__", final)
    replace_in(stack, file_triage, "COMES_BACK", frozenset())


@mutation("unchecked: Redis accepts writes", "redis-failover", "P10", fault=None, kind="10")
def _probed_by_ping(stack: ExitStack) -> None:
    """An outage of Redis ends when PING succeeds, although writes are refused."""
    replace_in(stack, MemoryCheckpointStore, "check_writable", MemoryCheckpointStore.ping)


@mutation("unchecked: parts missing in S3", "part-lost", "P1", "P6", fault=None, kind="7")
def _missing_parts_not_sent(stack: ExitStack) -> None:
    """After InvalidPart, CompleteMultipartUpload is repeated with the same parts."""

    def never(_upload: object, _listed: object) -> None:
        return None

    replace_in(stack, recovery, "_forget_unlisted", never)


@mutation("unchecked: damaged entry of a folder", "entry-damaged", "P6", fault=None, kind="9")
def _damaged_entry_ends_scan(stack: ExitStack) -> None:
    """One entry that cannot be looked at ends the scan of its folder."""
    read_one = scan._read_one  # noqa: SLF001 - a mutation replaces private functions

    def read_all(*args: Any, **options: Any) -> Any:
        found = read_one(*args, **options)
        if found.unreadable:
            raise OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN))
        return found

    replace_in(stack, scan, "_read_one", read_all)


@mutation("unchecked: entry that may be a missing file", "renamed-unreadable", "P2", "P6", fault=None, kind="1")
def _unreadable_entry_is_nobodys(stack: ExitStack) -> None:
    """A missing file counts as deleted although its new name may be an entry that cannot be read."""
    completed = ScanHistory.completed

    def of_files_only(history: ScanHistory, event: Scanned, undecided: Mapping[str, FileStat] | None = None) -> None:
        completed(history, replace(event, unreadable_entries={}), undecided)

    replace_in(stack, ScanHistory, "completed", of_files_only)


@mutation("unchecked: bucket of a stream", "bucket-changes", "P1", "P5", "P6", fault=None, kind="13")
def _bucket_from_settings(stack: ExitStack) -> None:
    """An open stream continues in the bucket of the current settings."""

    def never(_services: object, _meta: object) -> bool:
        return False

    replace_in(stack, bucket_change, "bucket_changed", never)


@mutation("left out: key from the current file name", "temporary-name", "P1", fault=None, kind="13")
def _key_keeps_first_name(stack: ExitStack) -> None:
    """An object's key has the first, temporary name of its file."""

    async def left_out(_self: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamUpload, "_name_object", left_out)
