"""Mutations that ignore ownership (P9), or let one unreadable record affect other streams."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Checkpoint, StreamMeta
from cef_trio.checkpoint.protocols import Records
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.mutations.model import mutation, replace_in
from cef_trio.upload import services, session
from cef_trio.upload.files_without_task import FilesWithoutTask
from cef_trio.upload.ownership import Ownership
from cef_trio.upload.ownership_rules import Claim


@mutation("unchecked: unreadable record in a batch", "record-unreadable", "P6", fault=None, kind="9")
def _unreadable_record_fails_batch(stack: ExitStack) -> None:
    """One unreadable record fails the whole batch."""
    known = MemoryCheckpointStore._read_metas  # noqa: SLF001 - a mutation replaces private functions

    def all_or_none(self: MemoryCheckpointStore, stream_ids: Any, *, below: str = "") -> Records:
        records = known(self, stream_ids, below=below)
        for why in records.unreadable.values():
            raise RedisOperationError("load_metas", why)
        return records

    replace_in(stack, MemoryCheckpointStore, "_read_metas", all_or_none)


@mutation("unreported: unreadable record", "record-unreadable", "P10", fault=None, kind="P10")
def _unreadable_not_reported(stack: ExitStack) -> None:
    """A file with an unreadable record is not reported as at risk."""
    replace_in(stack, FilesWithoutTask, "set_aside", ())


@mutation("unchecked: newer record", "record-newer", "P9", fault=None, kind="9")
def _newer_record_written(stack: ExitStack) -> None:
    """A record of a newer version is read and written to."""

    def never(_self: MemoryCheckpointStore, _stream: Checkpoint | None) -> str | None:
        return None

    replace_in(stack, MemoryCheckpointStore, "_why_newer", never)


@mutation("unchecked: newer record at a lookup", "record-newer", "P2", "P9", fault=None, kind="9")
def _newer_record_counts_as_lost(stack: ExitStack) -> None:
    """A record of a newer version counts as lost, so that its file is a new recording."""
    known = MemoryCheckpointStore._read_metas  # noqa: SLF001

    def without_newer(self: MemoryCheckpointStore, stream_ids: Any, *, below: str = "") -> Records:
        records = known(self, stream_ids, below=below)
        for path in [path for path, stream_id in self._by_path.items() if stream_id in records.newer]:
            del self._by_path[path]
        return Records(records.readable)

    replace_in(stack, MemoryCheckpointStore, "_read_metas", without_newer)


@mutation("unchecked: folder of a stream", "foreign-stream", "P9", fault=None, kind="P9")
def _every_folder_is_own(stack: ExitStack) -> None:
    """A stream of another folder is assigned to a file with its inode number."""

    def always(_path: str, folders: Sequence[str]) -> str:
        return folders[0]

    replace_in(stack, services, "root_of", always)
    replace_in(stack, services.Services, "watched", "")  # the folder by which the store selects records


@mutation("unchecked: host of a stream", "two-hosts", "P9", fault=None, kind="P9")
def _every_host_is_own(stack: ExitStack) -> None:
    """A stream of another host is assigned to a file with its path."""

    def always(_self: Ownership, _meta: StreamMeta) -> Claim:
        return Claim.OURS

    replace_in(stack, Ownership, "claim", always)


@mutation("unchecked: owner of an upload", "foreign-uploads", "P9", fault=None, kind="P9")
def _every_upload_is_orphan(stack: ExitStack) -> None:
    """An upload of another program is aborted as an orphan."""

    async def all_of_them(upload: session.StreamUpload) -> bool:
        s3 = upload._services.s3  # noqa: SLF001 - a mutation reaches in
        for stray in await s3.list_multipart_uploads():
            await s3.abort_multipart_upload(stray.key, stray.upload_id)
        return True

    replace_in(stack, session.StreamUpload, "_abort_listed", all_of_them)


@mutation("unchecked: lease of another daemon", "partition", "P2", "P3", fault=None, kind="P9")
def _every_lease_may_be_taken(stack: ExitStack) -> None:
    """The lease of a stream is taken from the daemon that works on it."""

    def always(*_: object) -> bool:
        return True

    replace_in(stack, rules, "may_take", always)
