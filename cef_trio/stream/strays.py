"""Stray uploads of completed streams that could not be looked for at the time: looked for until it is done.

An upload whose creation was answered to nobody lies under its stream's key. The end of the stream looks for it, and
does not wait for that (``best_effort.py``). What could not be looked for then is asked again here, now and then. A
completed stream never opens an upload again, so whatever is open under its key is a stray, and nobody else's. What this
process does not live to see is ``cef-trio gc``'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.stream.best_effort import PAUSE_SECONDS

log = structlog.get_logger(__name__)

_MOST_KEYS: Final = 10_000
"""Of more than these the oldest are left to ``cef-trio gc`` (promise P7)."""


class StrayUploads:
    """The keys under which strays are still to be looked for."""

    def __init__(self) -> None:
        self._keys: dict[str, None] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys, the oldest first."""
        return tuple(self._keys)

    def leave(self, key: str) -> None:
        """Look for them later. Only for a stream that is completed."""
        self._keys[key] = None
        if len(self._keys) > _MOST_KEYS:
            del self._keys[next(iter(self._keys))]

    def done(self, key: str) -> None:
        """None is left under that key."""
        self._keys.pop(key, None)


async def abort_left_strays(strays: StrayUploads, abort_listed: Callable[[str], Awaitable[bool]]) -> None:
    """Look for what was left, now and then, for ever.

    ``abort_listed`` aborts what is listed under a key; false: it cannot be listed now.
    """
    while True:
        await trio.sleep(PAUSE_SECONDS)
        for key in strays.keys:
            try:
                if not await abort_listed(key):
                    break
            except CefMp4ProcessorError as error:
                log.warning("strays_not_aborted", error=str(error))
                break
            strays.done(key)
