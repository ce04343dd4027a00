"""Finding completed streams that are old enough to be removed, so that the store does not grow without bound (P7).

The caller (``postprocess/retention.py``) must check that the stream's file is gone before it removes the stream by
:meth:`StreamStore.forget`; otherwise the file would be uploaded again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from itertools import islice

from cef_trio.checkpoint.protocols import CheckpointStore, StreamSummary
from cef_trio.checkpoint.states import StreamSet

_BATCH = 500


async def completed_before(store: CheckpointStore, at_utc: datetime) -> AsyncGenerator[StreamSummary, None]:
    """Yield the streams of ``streams:completed`` that were completed before ``at_utc``, in no order.

    Reads 500 records at a time, so that memory does not grow with their number. A stream without ``completed_at_utc``
    is dated by its last activity. Use ``contextlib.aclosing`` if the loop may end early.

    Raises:
        RedisOperationError: the store failed.
    """
    ids = iter(await store.members(StreamSet.COMPLETED))
    while batch := list(islice(ids, _BATCH)):
        for known in (await store.load_metas(batch)).values():
            if (known.meta.completed_at_utc or known.meta.last_activity_at_utc) < at_utc:
                yield known
