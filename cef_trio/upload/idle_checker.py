"""The idle checker: looks after what the watcher cannot see.

Close events do not reach us from network mounts or other hosts, a writer may hang, a daemon may have died with streams
that nobody works on. So every few seconds each stream is judged, by cases that have names (``judge.check_idle``):

- idle and all sent → finalize · idle and more on disk → upload · shrunk → start over · missing → abort and fail
- no processor for a stream that Redis knows → resume (a retry that is due is one of these)
- a record that cannot be read → read it again: a person may have mended it

The checker only proposes: a stream looks at its file itself before it does anything it cannot take back. A file that
cannot be looked at keeps no other stream from its turn: who writes to the folder could take everybody's rights from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import structlog
import trio
from trio_util import periodic

from cef_trio.checkpoint import StreamSet, rules
from cef_trio.exceptions import CefMp4ProcessorError, ChunkProcessingError
from cef_trio.upload import bulk_load
from cef_trio.upload import file_state as news
from cef_trio.upload.file_triage import IdleCheckResult, check_idle
from cef_trio.upload.services import Services
from cef_trio.upload.supervisor import LiveStream, StreamSupervisor

log = structlog.get_logger(__name__)


class IdleChecker:
    """Checks all streams every ``period_seconds``."""

    def __init__(
        self,
        services: Services,
        supervisor: StreamSupervisor,
        *,
        watch_folder: str,
        timeout_seconds: float,
        period_seconds: float,
    ) -> None:
        self._services = services
        self._supervisor = supervisor
        self._watch_folder = watch_folder
        self._timeout_seconds = timeout_seconds
        self.period_seconds = period_seconds
        """How often it begins a round."""
        self.last_run = trio.current_time()
        """``trio.current_time()`` when it last began a round: a health check looks at it."""
        self._unseen: list[str] = []
        """Why streams could not be looked at in this round."""
        self._said: list[str] = []
        """The same of the round before."""

    async def run(self) -> None:
        """Check for ever."""
        async with aclosing(periodic(self.period_seconds)) as rounds:
            async for _ in rounds:
                self.last_run = trio.current_time()
                self._unseen.clear()
                try:
                    for live in self._supervisor.live:
                        with self._alone():
                            await self._check(live)
                    await self._resume_unattended()
                except CefMp4ProcessorError as error:
                    log.warning("idle_check_failed", error=str(error))
                if self._unseen and self._unseen != self._said:
                    log.warning("idle_check_failed", error=self._unseen[0])
                self._said = list(self._unseen)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What cannot be looked at, or Redis refuses for good, is one stream's trouble, and said once."""
        try:
            yield
        except CefMp4ProcessorError as error:
            if error.transient and not isinstance(error, ChunkProcessingError):
                raise  # Redis is away: that is everybody's
            self._unseen.append(str(error))

    async def _check(self, live: LiveStream) -> None:
        file_state = live.file_state.value
        found = await self._services.disk.stat(file_state.path)
        if live.file_state.value != file_state:
            return  # news came meanwhile, and is newer than this look
        finding = check_idle(
            idle_seconds=live.silent_seconds(trio.current_time()),
            timeout_seconds=self._timeout_seconds,
            known=file_state.stat,
            found=found,
        )
        match finding:
            case IdleCheckResult.IDLE_ALL_SENT:
                if news.idle(file_state) != file_state:
                    log.info("stream_idle", stream_id=live.processor.stream_id, seconds=self._timeout_seconds)
                    live.update(news.idle(file_state))
            case IdleCheckResult.IDLE_MORE_ON_DISK if found is not None:
                live.update(news.seen_now(file_state, found))
            case IdleCheckResult.SHRUNK | IdleCheckResult.MISSING:
                live.update(news.gone(file_state))
            case _:
                pass

    async def _resume_unattended(self) -> None:
        """Take up the streams of this folder that Redis knows as open and nobody works on."""
        store = self._services.store
        await self._services.look_at_folder()
        await bulk_load.ask_unreadable_again(store)
        self._supervisor.ask_set_aside_again()
        ids = await store.members(StreamSet.ACTIVE) | await store.members(StreamSet.PENDING_COMPLETION)
        unattended = ids - self._supervisor.live_ids
        if not unattended:
            return
        # A hint: the stream's own task takes the lease, and looks again under it. A lease that was taken here would be
        # nobody's if no task began, and would keep a person's `abort` out.
        holders = await store.holders(unattended)
        for known in (await bulk_load.load_metas(store, sorted(unattended))).values():
            path = known.meta.current_path
            # Another daemon's, which watches another folder; or a stranger's, who wrote a record to be led out of ours.
            if not path.startswith(self._watch_folder + "/") or ".." in path.split("/"):
                continue
            if not self._services.ownership.is_ours(known.meta):
                continue  # of another host, which calls its folder as we call ours (P9)
            if not rules.may_take(holders.get(known.meta.stream_id), self._services.lease):
                continue  # another daemon works on it
            with self._alone():
                stat = await self._services.disk.stat(path)
                self._supervisor.resume_unattended(known, stat=stat)
