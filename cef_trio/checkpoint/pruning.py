"""Walks through ended streams, above all to remove the old ones, so that the store does not grow without bound (P7).

The caller (``postprocess/retention.py``) must check that the stream's file is gone before it removes the stream by
:meth:`StreamStore.forget`; otherwise the file would be uploaded again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from cef_trio.checkpoint.protocols import CheckpointStore, Records, StreamSummary
from cef_trio.checkpoint.states import History

MAX_KEPT: Final = 1000
"""How many streams that must be kept are read in one round."""
_BATCH: Final = 500
_FAR_MS: Final = 1 << 52

TakeOut = Callable[[StreamSummary, int], Awaitable[bool]]
"""Gets a stream and its time in the history, in ms; removes or dates it, and returns true; or false: it is kept."""


async def ended_streams(store: CheckpointStore, history: History) -> AsyncGenerator[Records, None]:
    """Yield the records of a history, some hundred at a time. For commands: reads all of it.

    Raises:
        RedisOperationError: the store failed.
    """
    since_ms = skip = 0
    while page := await store.ended(history, since_ms=since_ms, before_ms=_FAR_MS, skip=skip, limit=_BATCH):
        yield await store.load_metas([stream_id for stream_id, _ in page])
        last = page[-1][1]
        again = sum(at_ms == last for _, at_ms in page)
        since_ms, skip = last, again + (skip if last == since_ms else 0)


class OldStreams:
    """A walk through one history, the earliest stream first.

    A round ends after ``MAX_KEPT`` streams that must be kept, and the next one goes on there, so that a round has the
    same cost however many are kept. Those that are taken out are not limited.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self._since_ms = 0
        self._skip = 0
        """How many streams of just that time are kept."""

    async def walk(self, store: CheckpointStore, before_ms: int, take_out: TakeOut) -> int:
        """Offer the streams that ended before that time to ``take_out``; return how many it took out.

        Raises:
            RedisOperationError: the store failed.
        """
        taken = kept = 0
        while kept < MAX_KEPT:
            page = await store.ended(
                self.history, since_ms=self._since_ms, before_ms=before_ms, skip=self._skip, limit=_BATCH
            )
            known = await store.load_metas([stream_id for stream_id, _ in page])
            for stream_id, at_ms in page:
                if stream_id in known and await take_out(known[stream_id], at_ms):
                    taken += 1
                    continue
                kept += 1
                self._skip = self._skip + 1 if at_ms == self._since_ms else 1
                self._since_ms = at_ms
            if len(page) < _BATCH:
                self._since_ms = self._skip = 0
                break
        return taken
