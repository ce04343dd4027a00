"""Mutations that ignore what keeps several daemons apart, or what makes them share their work."""

from __future__ import annotations

from contextlib import ExitStack
from math import inf
from typing import Any

import trio

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.redis import Keys
from cef_trio.daemon.owner_claim import ClaimKeeper
from cef_trio.lab.mutations.model import mutation, replace_in
from cef_trio.s3 import S3Client, StoredObject
from cef_trio.s3.fence import Fence
from cef_trio.upload.missed_renames import MovedFiles
from cef_trio.upload.object_key import KeyTemplate


@mutation("ignored: namespace of an owner", "same-path-on-each-host", "P1", "P9", fault=None, kind="P9")
def _one_namespace(stack: ExitStack) -> None:
    """All owners have the same keys in Redis, and the same prefix in S3."""

    def of_all(template: str, _owner: str, **_rest: object) -> KeyTemplate:
        return KeyTemplate(template.replace("{owner}/", ""))

    replace_in(stack, Keys, "prefix", "")
    replace_in(stack, KeyTemplate, "of_owner", staticmethod(of_all))


@mutation("ignored: claim of an owner's name", "cloned-host", "P9", fault=None, kind="P9")
def _claim_ignored(stack: ExitStack) -> None:
    """A clone of a running machine works in its namespace."""

    async def at_once(_self: ClaimKeeper, *_: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, ClaimKeeper, "take", at_once)


@mutation("ignored: leases in a shared folder", "paused-while-uploading", "P2", "P6", fault=None)
def _leases_in_shared_folder_ignored(stack: ExitStack) -> None:
    """Several daemons of a shared folder upload the same recording."""

    def always(*_: object) -> bool:
        return True

    replace_in(stack, rules, "may_take", always)


@mutation("never: takeover", "taken-over", "P6", fault=None)
def _leases_never_expire(stack: ExitStack) -> None:
    """The streams of a dead host are not taken over."""
    hold = MemoryCheckpointStore._hold  # noqa: SLF001 - a mutation replaces private functions

    def for_ever(self: MemoryCheckpointStore, stream_id: str, lease: Lease) -> None:
        hold(self, stream_id, lease)
        self._leases[stream_id].expires_at = inf

    replace_in(stack, MemoryCheckpointStore, "_hold", for_ever)


@mutation("unchecked: renames on other hosts", "renamed-while-paused", "P2", fault=None)
def _renames_on_other_hosts_ignored(stack: ExitStack) -> None:
    """A recording that was renamed on another host is taken for a new one."""
    find = MovedFiles.find_missing

    async def only_when_due(self: MovedFiles, ids: object, numbers: object = None) -> None:
        if numbers is None:
            await find(self, ids)  # type: ignore[arg-type]

    replace_in(stack, MovedFiles, "find_missing", only_when_due)


@mutation("unchecked: lease before each PutObject", "cut-off-at-its-put", "P1", fault=None, kind="12")
def _put_unfenced(stack: ExitStack) -> None:
    """A PutObject that waited for the end of an outage is sent although another daemon owns the stream by now."""

    put = S3Client.put_recording

    async def asked_once(self: S3Client, *args: Any, fence: Fence, **options: Any) -> StoredObject:
        await fence()
        return await put(self, *args, **options)

    replace_in(stack, S3Client, "put_recording", asked_once)
