"""Check streams for what the watcher cannot see.

Close events do not arrive from network mounts or other hosts, a writer may hang, and a daemon may have died with open
streams. So every few seconds each stream is checked (``idle_rules.check_idle``):

- no write for ``STREAM_TIMEOUT_SECONDS``, all seen → finalize
- more on disk than the events reported → upload
- shrunk or missing → mark the file for a check by ``processor.py``, which keeps the parts that the file still covers,
  or ends the stream of a deleted file as ``deleted_locally``
- a stream in Redis without a task → resume it (this includes a retry that is due). Found by the index of leases that
  expired or were released since the last look, so that the streams of other daemons cost nothing.
- a record that cannot be read → read it again, in case it was repaired
- a stream that an operator wants aborted (`cef-trio abort`) → its task aborts it, or one that is started for that

The checker only proposes: a stream checks its file again before any irreversible step. A file that cannot be accessed
does not stop the check of the others; else anyone who may write to the folder could stop all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import ENDED, Expired, StreamSet
from cef_trio.exceptions import CefMp4ProcessorError, ChunkProcessingError, RecordUnreadableError
from cef_trio.resilience import Periodic
from cef_trio.upload import file_state
from cef_trio.upload.idle_rules import IdleCheckResult, check_idle
from cef_trio.upload.live_stream import LiveStream
from cef_trio.upload.services import Services
from cef_trio.upload.supervisor import StreamSupervisor
from cef_trio.upload.takeover import Takeover

log = structlog.get_logger(__name__)

_ALL_SECONDS: Final = 600.0
"""How often the leases of all open streams are read, in case Redis lost writes, or the index lacks a stream."""
_CLOCKS_APART_MS: Final = 60_000
"""How far the clocks of a primary and of the replica that takes over may differ, with no effect."""


class IdleChecker:
    """Checks all streams every ``period_seconds`` (``STALE_CHECK_SECONDS``, `daemon/main.py`)."""

    def __init__(
        self,
        services: Services,
        supervisor: StreamSupervisor,
        *,
        timeout_seconds: float,
        period_seconds: float,
        ask_expired: Callable[[int], Awaitable[Expired]] | None = None,
    ) -> None:
        """``ask_expired`` asks Redis for expired leases (:meth:`Heartbeat.expired`); by default, only that."""
        self._services = services
        self._ask_expired = self._ask_store if ask_expired is None else ask_expired
        self._supervisor = supervisor
        self._timeout_seconds = timeout_seconds
        self.period_seconds = period_seconds
        self.last_run = trio.current_time()
        """``trio.current_time()`` at the start of the last round, for the health check."""
        self._errors: list[str] = []
        """Errors of single streams in this round."""
        self._logged_errors: list[str] = []
        """The errors of the round before, which are logged already."""
        self._waiting: frozenset[str] = frozenset()
        """Streams of this folder without a task that could not be resumed yet; until :meth:`_resume` has ended, all
        that were found."""
        self._had_task: frozenset[str] = frozenset()
        """The streams that had a task in the last round: the lease of one that failed to save its end is still ours."""
        self._expired_at_ms = 0
        """When Redis was last asked for expired leases, by its clock; 0: ask for all."""
        self._all_due_at = -inf
        """When the leases of all open streams are read again, by ``trio.current_time()``."""
        self._redis_up_since = -inf
        self._to_abort: frozenset[str] = frozenset()
        """The streams that an operator wants aborted."""
        self._takeover = Takeover(services, supervisor.read_peers)

    async def run(self) -> None:
        """Check until cancelled."""
        async for _ in Periodic(self.period_seconds):
            self.last_run = trio.current_time()
            self._errors.clear()
            try:
                for live in self._supervisor.live:
                    with self._isolate_errors():
                        await self._check(live)
                await self._resume_without_task()
            except CefMp4ProcessorError as error:
                log.warning("idle_check_failed", error=str(error))
            if self._errors and self._errors != self._logged_errors:
                log.warning("idle_check_failed", error=self._errors[0])
            self._logged_errors = list(self._errors)
            await self._look_between()

    async def _look_between(self) -> None:
        """Resume streams whose leases end before the next round, where several daemons do so each its share."""
        while self._takeover.look_at < self.last_run + self.period_seconds:
            await trio.sleep_until(self._takeover.look_at)
            try:
                await self._resume(frozenset(), await self._find_without_lease(self._ask_store))
            except CefMp4ProcessorError as error:
                log.debug("takeover_check_failed", error=str(error))
                return  # the next round tells

    @contextmanager
    def _isolate_errors(self) -> Iterator[None]:
        """Note an error that concerns one stream only; raise one that concerns all."""
        try:
            yield
        except CefMp4ProcessorError as error:
            if error.transient and not isinstance(error, ChunkProcessingError):
                raise  # Redis is unavailable, for every stream
            self._errors.append(str(error))

    async def _check(self, live: LiveStream) -> None:
        state = live.file_state.value
        found = await self._services.disk.stat(state.path)
        if live.file_state.value != state:
            return  # an event came meanwhile, and is newer than this stat
        result = check_idle(
            idle_seconds=live.idle_seconds(),
            timeout_seconds=self._timeout_seconds,
            known=state.stat,
            found=found,
        )
        match result:
            case IdleCheckResult.IDLE_ALL_SENT:
                if file_state.idle(state) != state:
                    log.info("stream_idle", stream_id=live.processor.stream_id, seconds=self._timeout_seconds)
                    live.update(file_state.idle(state))
            case IdleCheckResult.IDLE_MORE_ON_DISK if found is not None:
                live.update(file_state.seen_now(state, found))
            case IdleCheckResult.SHRUNK | IdleCheckResult.MISSING:
                live.update(file_state.gone(state))
            case _:
                pass

    async def _retry_unreadable(self) -> None:
        """Read the unreadable records again; the store drops an entry if its key was repaired or deleted."""
        store = self._services.store
        ids = sorted(store.unreadable.stream_ids)
        if not ids:
            return
        found = await store.load_metas(ids)
        for stream_id in ids:
            if stream_id not in found.unreadable:
                with suppress(RecordUnreadableError):  # of its parts; noted by the store
                    await store.load(stream_id)

    async def _resume_without_task(self) -> None:
        """Resume the open streams of this folder that no daemon works on."""
        await self._services.determine_owner()
        await self._retry_unreadable()
        self._supervisor.files.retry_set_aside()
        await self._supervisor.retry_held()
        await self._supervisor.review_failed()
        had_task, self._had_task = self._had_task, self._supervisor.live_ids
        self._waiting |= had_task
        await self._resume(had_task, await self._find_without_lease(self._ask_expired))
        await self._withdraw_aborts()

    async def _resume(self, had_task: frozenset[str], expired: Expired) -> None:
        """Resume those of the waiting streams that no daemon works on, of several daemons our share.

        ``had_task``: those that had one here. If a call fails, all of them wait on.
        """
        store = self._services.store
        self._supervisor.abort(self._to_abort)
        without_task = (self._waiting | self._to_abort) - self._supervisor.live_ids
        without_task -= frozenset(store.unreadable.newer_ids)
        # Only a hint: the stream's task acquires the lease and checks again. A lease acquired here would block
        # `cef-trio abort` if no task began.
        holders = await store.holders(without_task) if without_task else {}
        free = [key for key in sorted(without_task) if self._services.may_take(holders.get(key))]
        waiting = set()
        known_ones = (await store.load_metas(free, below=self._services.watched) if free else {}).values()
        # Those of another watch folder or host are not ours (P9).
        ours = [one for one in known_ones if self._services.is_ours(one.meta) and one.meta.status not in ENDED]
        of_others = without_task - holders.keys() - had_task - self._to_abort
        left = await self._takeover.left_to_others(
            [one.meta for one in ours if one.meta.stream_id in of_others], expired
        )
        for known in ours:
            stream_id = known.meta.stream_id
            waiting.add(stream_id)
            if stream_id in left:
                continue
            with self._isolate_errors():
                stat = await self._services.disk.stat(known.meta.current_path)
                self._supervisor.resume_without_task(known, stat=stat)
        self._waiting = frozenset(waiting)

    async def _withdraw_aborts(self) -> None:
        """Remove the requests to abort streams that an earlier version has ended, or whose records are gone."""
        without_task = self._to_abort - self._supervisor.live_ids
        if not without_task:
            return
        known = await self._services.store.load_metas(without_task)
        ended = {stream_id for stream_id in without_task - known.keys() if stream_id not in known.unreadable}
        ended |= {stream_id for stream_id, one in known.items() if one.meta.status in ENDED}
        await self._services.store.withdraw_aborts(ended)

    async def _ask_store(self, since_ms: int) -> Expired:
        return await self._services.store.expired(since_ms, self._services.lease.ending_ms)

    async def _find_without_lease(self, ask_expired: Callable[[int], Awaitable[Expired]]) -> Expired:
        """Let the open streams wait whose leases ended since the last call; now and then all, whatever their leases.

        All at first too, as those of an earlier process of this daemon have leases that are ours.
        """
        store, up_since = self._services.store, self._services.redis_breaker.up_since
        if trio.current_time() >= self._all_due_at or up_since != self._redis_up_since:
            ids = await store.members(StreamSet.ACTIVE) | await store.members(StreamSet.PENDING_COMPLETION)
            self._waiting |= ids  # before another call, which may fail: they are not asked for again soon
            self._all_due_at, self._redis_up_since = trio.current_time() + _ALL_SECONDS, up_since
        expired = await ask_expired(max(0, self._expired_at_ms - _CLOCKS_APART_MS))
        if expired.at_ms < self._expired_at_ms:
            # The clock was set back: a lease that was released before that ends in the future, by the index.
            self._all_due_at = -inf
        self._waiting |= expired.stream_ids
        self._expired_at_ms = expired.at_ms
        self._to_abort = expired.abort_requests
        await self._takeover.note(expired)
        return expired
