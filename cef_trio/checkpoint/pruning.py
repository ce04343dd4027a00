"""Which streams are old enough to be forgotten, so that nothing grows for ever (P7).

Only the question is here. Whether a stream's file is gone is for the caller to find out (forgotten while its file is
still there, it would be uploaded again); :meth:`CheckpointStore.forget` removes it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from datetime import datetime
from itertools import islice

from cef_trio.checkpoint.protocols import CheckpointStore, KnownPath
from cef_trio.checkpoint.states import StreamSet

_BATCH = 500

LoadMetas = Callable[[Collection[str]], Awaitable[Mapping[str, KnownPath]]]


async def completed_before(
    store: CheckpointStore, at_utc: datetime, *, load_metas: LoadMetas | None = None
) -> AsyncGenerator[KnownPath, None]:
    """The streams of ``streams:completed`` that were completed before ``at_utc``, in no order.

    Read 500 at a time, so that memory does not grow with their number. A stream without ``completed_at_utc`` counts by
    its last activity. ``load_metas`` is the store's own by default, which ends at a record that cannot be read. Use it
    with ``contextlib.aclosing`` if the loop may be left early.

    Raises:
        RedisOperationError: the store failed.
    """
    load_metas = load_metas or store.load_metas
    ids = iter(await store.members(StreamSet.COMPLETED))
    while batch := list(islice(ids, _BATCH)):
        for known in (await load_metas(batch)).values():
            if (known.meta.completed_at_utc or known.meta.last_activity_at_utc) < at_utc:
                yield known
