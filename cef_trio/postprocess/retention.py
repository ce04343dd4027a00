"""Forget ended streams whose files are gone, some days after their end (promise P7).

A completed stream is kept while its file exists; else the file would be uploaded as a new one. A failed stream, or one
whose recording was deleted, is kept until its file has been gone for that many days: until then an operator may bring
the file back and retry it. If it keeps its upload, that is aborted first. Three more are kept: a stream whose folder is
now on another device (a file system is not mounted), or whose watch folder is missing, one with a pending webhook, and
one of another watch folder or host, which only a daemon there forgets. A record that cannot be read is logged, and
stops no other.

A round costs what is forgotten, not what is remembered (``checkpoint/pruning.py``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import FAILED, History, OldStreams, Status, StreamMeta, StreamSummary, rules
from cef_trio.exceptions import CefMp4ProcessorError, ChunkProcessingError, S3OperationError
from cef_trio.files import is_same_mount
from cef_trio.resilience import Periodic
from cef_trio.upload import (
    FAILED_EVENT,
    STARTED_EVENT,
    Services,
    abort_uploads,
    bucket_changed,
    endpoint_changed,
    hold_lease,
    stream_of,
)

log = structlog.get_logger(__name__)

_PERIOD_SECONDS: Final = 3600.0
_MEND_SECONDS: Final = 600.0
_GONE_AT_ITS_END: Final = frozenset(
    {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS, Status.FAILED_FILE_MISSING_ON_RESUME}
)
_MILLISECOND: Final = timedelta(milliseconds=1)


async def mend_indexes(services: Services) -> None:
    """Make anew, every ten minutes, what Redis lost of the indexes of streams. Without a loss that is a few numbers."""
    async for _ in Periodic(_MEND_SECONDS):
        try:
            await services.store.mend_history()
        except CefMp4ProcessorError as error:
            log.warning("retention_failed", error=str(error))


async def forget_old_streams(services: Services, retention: timedelta, of_failed: timedelta | None = None) -> None:
    """Forget, every hour, the streams that ended longer ago than ``retention`` and have no file.

    ``of_failed``: the same for failed streams, and those whose recording was deleted; ``None``: ``retention``.
    """
    walks = Retention(services, retention, of_failed)
    async for _ in Periodic(_PERIOD_SECONDS):
        try:
            await services.store.mend_history()
            await walks.forget_now()
        except CefMp4ProcessorError as error:
            log.warning("retention_failed", error=str(error))


class Retention:
    """Walks through the ended streams, and forgets those that nothing needs."""

    def __init__(self, services: Services, retention: timedelta, of_failed: timedelta | None = None) -> None:
        self._services = services
        kept = dict.fromkeys(History, retention if of_failed is None else of_failed) | {History.COMPLETED: retention}
        self._retention_ms = {history: time // _MILLISECOND for history, time in kept.items()}
        self._walks = [OldStreams(history) for history in History]
        self._pending: frozenset[str] = frozenset()
        """Streams with a pending webhook."""
        self._now_ms = 0

    async def forget_now(self) -> int:
        """Run one round; return how many streams were forgotten.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        services, forgotten = self._services, dict.fromkeys(History, 0)
        self._pending = await self._with_pending_webhooks()
        self._now_ms = rules.unix_ms(services.utc_now())
        for walk in self._walks:

            async def take_out(known: StreamSummary, at_ms: int, history: History = walk.history) -> bool:
                try:
                    if history is History.COMPLETED:
                        gone = await self._forget_completed(known.meta)
                        forgotten[history] += gone
                        return gone
                    outcome = await self._forget_failed(history, known.meta, at_ms)
                    forgotten[history] += outcome is True
                except CefMp4ProcessorError as error:
                    of_stream = isinstance(error, ChunkProcessingError) or (
                        isinstance(error, S3OperationError) and services.s3_breaker.up.value
                    )
                    if error.transient and not of_stream:
                        raise  # Redis or S3 is unavailable: wait for the next round
                    log.warning("retention_failed", stream_id=known.meta.stream_id, error=str(error))
                    return False
                else:
                    return outcome is not None

            await walk.walk(services.store, self._now_ms - self._retention_ms[walk.history], take_out)
        if any(forgotten.values()):
            by_end = {history.value: number for history, number in forgotten.items()}
            log.info("streams_forgotten", streams=sum(forgotten.values()), **by_end)
        return sum(forgotten.values())

    async def _with_pending_webhooks(self) -> frozenset[str]:
        """Return the streams with a webhook that is still to be delivered, as far as there are receivers."""
        services, pending = self._services, frozenset[str]()
        if services.webhook is not None:
            pending |= await services.store.pending_webhooks()
        kinds = {STARTED_EVENT: services.start_webhook, FAILED_EVENT: services.failure_webhook}
        if any(client is not None for client in kinds.values()):
            events = [stream_of(event_id) for event_id in await services.store.pending_events()]
            pending |= {stream_id for kind, stream_id in events if kinds.get(kind) is not None}
        return pending

    async def _forget_completed(self, meta: StreamMeta) -> bool:
        if meta.stream_id in self._pending or not await self._is_gone(meta):
            return False
        await self._services.store.forget(meta.stream_id)
        return True

    async def _forget_failed(self, history: History, meta: StreamMeta, at_ms: int) -> bool | None:
        """Forget a stream whose file has been gone for long; ``False``: dated from now on, ``None``: kept.

        The time in the history is that of its end, or when its file was first found to be gone. An earlier one is none:
        the record has changed since, or Redis could not read its time.
        """
        store, since = self._services.store, rules.ended_at_ms(meta)
        if meta.stream_id in self._pending:
            return None
        if not await self._is_gone(meta):
            if at_ms == since or not self._services.is_ours(meta):
                return None
            await store.date(history, meta.stream_id, since)  # it was gone, and came back
            return False
        if at_ms <= since and meta.status not in _GONE_AT_ITS_END:
            await store.date(history, meta.stream_id, self._now_ms)
            return False
        return await self._forget_with_upload(meta) or None

    async def _forget_with_upload(self, meta: StreamMeta) -> bool:
        """Abort the upload that a failed stream keeps, and forget it, under its lease; return whether that was done.

        The lease has a holder of its own, so that it excludes this daemon's tasks too.
        """
        services, aborts = self._services, meta.status in FAILED and meta.object_etag is None
        if aborts and (bucket_changed(services, meta) or endpoint_changed(services, meta)):
            return False  # its upload, if any, is where the settings do not lead
        lease = replace(services.lease, instance=f"{services.lease.instance}/retention")
        ends_at = trio.current_time() + lease.ttl_seconds / 2
        async with hold_lease(services.store, meta.stream_id, lease) as held:
            checkpoint = await services.store.load(meta.stream_id) if held is not None else None
            if checkpoint is None or checkpoint.meta.status is not meta.status:
                return False  # retried meanwhile
            if aborts:
                with trio.move_on_at(ends_at) as scope:
                    await abort_uploads(services.s3, checkpoint.meta)
                if scope.cancelled_caught:
                    return False
            await services.store.forget(meta.stream_id)
        log.info(
            "failed_stream_forgotten",
            stream_id=meta.stream_id,
            path=meta.current_path,
            status=meta.status.value,
            upload_id=checkpoint.meta.s3_upload_id if aborts else None,
        )
        return True

    async def _is_gone(self, meta: StreamMeta) -> bool:
        path, disk = meta.current_path, self._services.disk
        if not self._services.is_ours(meta) or await disk.stat(path) is not None:
            return False
        place = await disk.mount_around(path, within=self._services.rules.root_of(path))
        # The file system may have been mounted since the file was looked for.
        return place is not None and is_same_mount(meta.identity, place) and await disk.stat(path) is None
