"""Which stream a person means: its id, or the beginning of it if no other begins alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from cef_trio.checkpoint import CheckpointStore, StreamSet
from cef_trio.cli.output import printable
from cef_trio.exceptions import CefMp4ProcessorError

_SHOWN: Final = 5


class NoSuchStreamError(CefMp4ProcessorError):
    """No stream, or more than one, is meant by what was given."""


def select(given: str, stream_ids: Collection[str]) -> str:
    """The one id that ``given`` is, or begins. Pure.

    Raises:
        NoSuchStreamError: there is none, or there are several.
    """
    wanted = given.strip().lower()
    if wanted in stream_ids:
        return wanted
    found = sorted(stream_id for stream_id in stream_ids if wanted and stream_id.startswith(wanted))
    if len(found) == 1:
        return found[0]
    shown = printable(given)
    if not found:
        raise NoSuchStreamError(f"no stream is or begins with '{shown}'; `cef-trio list` shows them")
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise NoSuchStreamError(
        f"'{shown}' begins {len(found)} streams: {', '.join(found[:_SHOWN])}{more}; give more of it"
    )


async def all_ids(store: CheckpointStore) -> frozenset[str]:
    """The ids of all streams.

    Raises:
        RedisOperationError: the store cannot be asked.
    """
    found: set[str] = set()
    for stream_set in StreamSet:
        found |= await store.members(stream_set)
    return frozenset(found)


async def select_all(store: CheckpointStore, given: Iterable[str]) -> list[str]:
    """The streams that are meant, each once, in the order in which they were given.

    Raises:
        NoSuchStreamError: one of them means no stream, or several.
        RedisOperationError: the store cannot be asked.
    """
    ids = await all_ids(store)
    return list(dict.fromkeys(select(one, ids) for one in given))
