"""One record's trouble, and what belongs to others: taken for everybody's, or for ours (kind 9, P9); P10's silence."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import StreamMeta
from cef_trio.checkpoint.protocols import Records
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.mutations.model import Mutation, replace_in
from cef_trio.s3.client import S3Client
from cef_trio.upload import services, session
from cef_trio.upload.ownership import Ownership
from cef_trio.upload.ownership_rules import Claim
from cef_trio.upload.supervisor import StreamSupervisor


def _one_record_is_all(stack: ExitStack) -> None:
    """Kind 9: a batch with one record that cannot be read fails."""
    known = MemoryCheckpointStore._read_metas  # noqa: SLF001 - a switch in the lab, not an edit

    def all_or_none(self: MemoryCheckpointStore, stream_ids: Any) -> Records:
        records = known(self, stream_ids)
        for why in records.unreadable.values():
            raise RedisOperationError("load_metas", why)
        return records

    replace_in(stack, MemoryCheckpointStore, "_read_metas", all_or_none)


def _unreadable_untold(stack: ExitStack) -> None:
    """P10: of a file whose record cannot be read nothing is said."""
    replace_in(stack, StreamSupervisor, "set_aside", ())


def _any_folder_is_ours(stack: ExitStack) -> None:
    """P9: an open stream of any folder may be of a file in ours that has its number."""

    def always(_path: str, _watch_folder: str) -> bool:
        return True

    replace_in(stack, services, "is_below", always)


def _any_host_is_ours(stack: ExitStack) -> None:
    """P9: a record of any host is of this one, if it has a path of ours."""

    def always(_self: Ownership, _meta: StreamMeta) -> Claim:
        return Claim.OURS

    replace_in(stack, Ownership, "claim", always)


def _any_upload_is_a_stray(stack: ExitStack) -> None:
    """P9: whatever upload is open in the bucket when a stream ends is one of its strays."""

    async def all_of_them(s3: S3Client, _key: str, _listed: object) -> bool:
        for stray in await s3.list_multipart_uploads():
            await s3.abort_multipart_upload(stray.key, stray.upload_id)
        return True

    replace_in(stack, session, "_abort_rounds", all_of_them)


def _any_lease_may_be_taken(stack: ExitStack) -> None:
    """P9: a stream that another daemon works on is taken over."""

    def always(*_: object) -> bool:
        return True

    replace_in(stack, rules, "may_take", always)


MUTATIONS: Final = (
    Mutation(
        "unchecked: unreadable record in a batch",
        "one record that cannot be read fails all that are asked for with it",
        _one_record_is_all,
        "record-unreadable",
        ("P6",),
        None,
        kind="9",
    ),
    Mutation(
        "unreported: unreadable record",
        "a file whose record cannot be read is not told of",
        _unreadable_untold,
        "record-unreadable",
        ("P10",),
        None,
        kind="P10",
    ),
    Mutation(
        "unchecked: folder of a stream",
        "a stream of another folder is taken for one of a file here that has its number",
        _any_folder_is_ours,
        "foreign-stream",
        ("P9",),
        None,
        kind="P9",
    ),
    Mutation(
        "unchecked: host of a stream",
        "a stream of another host is taken for the one of a file here that has its path",
        _any_host_is_ours,
        "two-hosts",
        ("P9",),
        None,
        kind="P9",
    ),
    Mutation(
        "unchecked: owner of an upload",
        "an upload of another program is aborted as a stray",
        _any_upload_is_a_stray,
        "foreign-uploads",
        ("P9",),
        None,
        kind="P9",
    ),
    Mutation(
        "unchecked: lease of another daemon",
        "a stream is taken over from the daemon that works on it",
        _any_lease_may_be_taken,
        "partition",
        ("P2", "P3"),
        None,
        kind="P9",
    ),
)
