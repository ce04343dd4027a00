"""Asking the store about many streams, so that one record that cannot be read does not hide all the others.

The store itself sets aside what it cannot read, notes it and logs it once (``checkpoint/unreadable.py``); it is left
alone. Here is also who asks about it again, so that what a person has mended is found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

from cef_trio.checkpoint import CheckpointStore, KnownPath, Records
from cef_trio.exceptions import RecordUnreadableError


async def find_by_path(
    store: CheckpointStore, paths: Collection[str], owner: str = ""
) -> tuple[Mapping[str, KnownPath], frozenset[str]]:
    """What is known of these paths, and the paths whose records cannot be read; of several owners' that of this one.

    Raises:
        RedisOperationError: the store cannot be asked.
    """
    found = await store.find_by_path(paths, owner=owner)
    return found, frozenset(found.unreadable)


async def load_metas(store: CheckpointStore, stream_ids: Collection[str]) -> Records:
    """The records of those of these streams that have one that can be read.

    Raises:
        RedisOperationError: the store cannot be asked.
    """
    return await store.load_metas(stream_ids)


async def ask_unreadable_again(store: CheckpointStore) -> None:
    """Read what could not be read once more: an entry goes if its key was mended, or is gone.

    Raises:
        RedisOperationError: the store cannot be asked.
    """
    ids = sorted(store.unreadable.stream_ids)
    if not ids:
        return
    found = await store.load_metas(ids)
    for stream_id in ids:
        if stream_id not in found.unreadable:
            with suppress(RecordUnreadableError):  # its parts: noted by the store
                await store.load(stream_id)
