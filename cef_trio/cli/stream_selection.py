"""Find streams by id, or by the beginning of an id if it is unambiguous."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from cef_trio.checkpoint import CheckpointStore
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.safe_text import printable

_SHOWN: Final = 5


class NoSuchStreamError(CefMp4ProcessorError):
    """No stream, or more than one, matches the given id."""


def select(given: str, stream_ids: Collection[str]) -> str:
    """Return the one id that is or begins with ``given``. Pure.

    Raises:
        NoSuchStreamError: none does, or several do.
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


async def select_all(store: CheckpointStore, given: Iterable[str]) -> list[str]:
    """Return the ids of the given streams, each once, in the given order.

    Raises:
        NoSuchStreamError: one of them matches no stream, or several.
        RedisOperationError: Redis cannot be read.
    """
    found = list[str]()
    for one in given:
        wanted = one.strip().lower()
        found.append(select(one, await store.ids_beginning_with(wanted) if wanted else ()))
    return list(dict.fromkeys(found))
