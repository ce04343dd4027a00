"""Asking the store about many streams, so that one record that cannot be read does not hide all the others.

A corrupt record (a hand that slipped in ``redis-cli``, a disk) is refused by name, never guessed at; asked one by one,
the others are still found. The streams of the corrupt ones are left alone, and it is said which.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

from cef_trio.checkpoint.codec import CorruptFieldError
from cef_trio.checkpoint.store import CheckpointStore, KnownPath
from cef_trio.exceptions import RedisOperationError

log = structlog.get_logger(__name__)

Ask = Callable[[Collection[str]], Awaitable[Mapping[str, KnownPath]]]


async def find_by_path(
    store: CheckpointStore, paths: Collection[str]
) -> tuple[Mapping[str, KnownPath], frozenset[str]]:
    """What is known of these paths, and the paths whose records cannot be read.

    Raises:
        RedisOperationError: the store cannot be asked.
    """
    return await _ask_all(store.find_by_path, paths)


async def load_metas(store: CheckpointStore, stream_ids: Collection[str]) -> Mapping[str, KnownPath]:
    """The records of those of these streams that have one that can be read.

    Raises:
        RedisOperationError: the store cannot be asked.
    """
    found, _ = await _ask_all(store.load_metas, stream_ids)
    return found


async def _ask_all(ask: Ask, names: Collection[str]) -> tuple[Mapping[str, KnownPath], frozenset[str]]:
    try:
        return await ask(names), frozenset()
    except RedisOperationError as error:
        if not isinstance(error.__cause__, CorruptFieldError):
            raise
        if len(names) == 1:
            log.error("checkpoint_unreadable", name=next(iter(names)), error=str(error))  # noqa: TRY400 - data, no bug
            return {}, frozenset(names)
    found: dict[str, KnownPath] = {}
    unreadable: set[str] = set()
    for name in names:
        one, corrupt = await _ask_all(ask, [name])
        found.update(one)
        unreadable |= corrupt
    return found, frozenset(unreadable)
