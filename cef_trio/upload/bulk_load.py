"""Load many streams from the store, tolerating records that cannot be read.

The store sets aside a record that it cannot read, and logs it once (``checkpoint/unreadable.py``);
:func:`retry_unreadable` reads these again, so that a repaired one is found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

from cef_trio.checkpoint import CheckpointStore, KnownPath, Records
from cef_trio.exceptions import RecordUnreadableError


async def find_by_path(
    store: CheckpointStore, paths: Collection[str], owner: str = ""
) -> tuple[Mapping[str, KnownPath], frozenset[str]]:
    """Return the streams at these paths, and the paths whose records cannot be read.

    Where several owners have a stream at one path, ``owner`` selects.

    Raises:
        RedisOperationError: Redis is unavailable.
    """
    found = await store.find_by_path(paths, owner=owner)
    return found, frozenset(found.unreadable)


async def load_metas(store: CheckpointStore, stream_ids: Collection[str]) -> Records:
    """Return the records of these streams, without those that are missing or cannot be read.

    Raises:
        RedisOperationError: Redis is unavailable.
    """
    return await store.load_metas(stream_ids)


async def retry_unreadable(store: CheckpointStore) -> None:
    """Read the unreadable records again: an entry is removed if its key was repaired or deleted.

    Raises:
        RedisOperationError: Redis is unavailable.
    """
    ids = sorted(store.unreadable.stream_ids)
    if not ids:
        return
    found = await store.load_metas(ids)
    for stream_id in ids:
        if stream_id not in found.unreadable:
            with suppress(RecordUnreadableError):  # of its parts; noted by the store
                await store.load(stream_id)
