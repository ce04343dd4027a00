"""Forget completed streams whose files are gone, some days after their completion (promise P7).

A completed stream is kept while its file exists; else the file would be uploaded as a new one. Three more are kept: a
stream whose folder is now on another device (a file system is not mounted), one with a pending webhook, and one of
another watch folder or host, which only a daemon there forgets. A record that cannot be read is logged, and stops no
other.
"""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta
from typing import Final

import structlog

from cef_trio.checkpoint import StreamSummary, completed_before
from cef_trio.exceptions import CefMp4ProcessorError, ChunkProcessingError
from cef_trio.files import is_same_mount
from cef_trio.resilience import Periodic
from cef_trio.upload import Services

log = structlog.get_logger(__name__)

_PERIOD_SECONDS: Final = 3600.0


async def forget_old_streams(services: Services, retention: timedelta) -> None:
    """Forget, every hour, the streams that were completed longer ago than ``retention`` and have no file."""
    async for _ in Periodic(_PERIOD_SECONDS):
        try:
            forgotten = await forget_now(services, retention)
        except CefMp4ProcessorError as error:
            log.warning("retention_failed", error=str(error))
        else:
            if forgotten:
                log.info("streams_forgotten", streams=forgotten)


async def forget_now(services: Services, retention: timedelta) -> int:
    """Run one round; return how many streams were forgotten."""
    forgotten = 0
    pending = await services.store.pending_webhooks() if services.webhook is not None else frozenset()
    before = services.utc_now() - retention
    async with aclosing(completed_before(services.store, before)) as old:
        async for known in old:
            if known.meta.stream_id in pending:
                continue
            try:
                if await _is_gone(services, known):
                    await services.store.forget(known.meta.stream_id)
                    forgotten += 1
            except CefMp4ProcessorError as error:
                if error.transient and not isinstance(error, ChunkProcessingError):
                    raise  # Redis is unavailable: wait for the next round
                log.warning("retention_failed", stream_id=known.meta.stream_id, error=str(error))
    return forgotten


async def _is_gone(services: Services, known: StreamSummary) -> bool:
    path = known.meta.current_path
    if not services.is_ours(known.meta) or await services.disk.stat(path) is not None:
        return False
    place = await services.disk.mount_around(path)
    return place is not None and is_same_mount(known.meta.identity, place)
