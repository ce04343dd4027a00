"""Move the streams of earlier versions into the owner's namespace, at the start, before the folder is watched.

Moved are the streams of our folder that are ours (``upload/ownership_rules.py``), or name no owner, and those that are
perhaps ours, as after a disk was moved, if their file is there by its file system's own numbers. Others stay for their
own daemons. A stream that another daemon holds is moved once its lease has ended: leases of daemons that are gone end
within ``LEASE_SECONDS``, so the start waits that long for them. Streams held for longer belong to a daemon that runs;
they are moved when it ends.

How many stay is remembered in the namespace: at the next start only the open ones are read again, unless these numbers,
or our folder's place, have changed. While the daemon runs, they are counted now and then, and after each outage of
Redis: a failover may have lost a move, which is then done again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import Owner
from cef_trio.checkpoint.redis import LegacyPlace, LegacyStream, LegacyStreams, Moved
from cef_trio.exceptions import (
    CefMp4ProcessorError,
    ChunkProcessingError,
    RecordingChangedError,
    RedisOperationError,
)
from cef_trio.files import is_below
from cef_trio.resilience import Periodic
from cef_trio.upload import Claim, Services, claim_by, is_file_by_numbers

log = structlog.get_logger(__name__)

_PROGRESS_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 1.0
_SHOWN: Final = 5
_COUNT_SECONDS: Final = 600.0
"""How often what was left is counted, without an outage of Redis."""
_OF_OPEN: Final = (LegacyPlace.ACTIVE, LegacyPlace.PENDING_COMPLETION)


class Upgrade:
    """Moves the streams of earlier versions."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._held: dict[str, str] = {}
        """The streams that another daemon held at last, and the holders."""
        self._left: tuple[int, ...] | None = None
        """What was left after the last pass (``LegacyStreams.counts``); ``None``: it is not readable."""
        self._redis_up_since = -inf

    async def run(self, report: Callable[[str], object]) -> None:
        """Move what is ours. ``report`` is called with sentences about the progress."""
        legacy = self._services.legacy
        if legacy is None:
            return
        try:
            self._left = counts = await legacy.counts()
        except RedisOperationError as error:
            if not error.rejected:
                raise
            log.warning("legacy_streams_not_readable", error=str(error))
            return
        there = sum(counts[:-1])
        if not there:
            return
        began_at = trio.current_time()
        await self._services.determine_owner()
        while not self._knows_place and trio.current_time() < began_at + self._services.lease.ttl_seconds:
            report("waiting for the watch folder, whose file system cannot be read")
            await trio.sleep(_PAUSE_SECONDS)
            await self._services.determine_owner()
        known = await legacy.remembered() == self._remembered(counts)
        places = _OF_OPEN if known else tuple(LegacyPlace)
        total = await self._passes(legacy, places, there, report)
        waits = bool(total.held)
        self._held, waits_until = total.held, trio.current_time() + self._services.lease.ttl_seconds
        if self._held:
            log.info("legacy_streams_waiting", streams=len(self._held), holders=self._holders())
            report(f"waiting for the leases of {len(self._held)} streams of an earlier version")
        while self._held and trio.current_time() < waits_until:
            await trio.sleep(_PAUSE_SECONDS)
            done = await self._pass(legacy, _OF_OPEN, there, report)
            self._held = done.held
            total.add(done)
        if waits:  # ended streams may have been held too: their daemon was killed just after their end
            done = await self._pass(legacy, places, there, report)
            self._held = done.held
            total.add(done)
        self._left = left = await legacy.counts()
        _log_moved(total, left=sum(left[:-1]), seconds=trio.current_time() - began_at)
        if self._knows_place and not self._held:
            await legacy.remember(self._remembered(left))
        if self._held:
            log.warning("legacy_streams_held", streams=len(self._held), holders=self._holders())

    async def keep_moving(self) -> None:
        """Move streams that another daemon held at the start, once it has ended, and what came back to the old keys.

        Returns if the old keys are not readable.
        """
        legacy, breaker = self._services.legacy, self._services.redis_breaker
        if legacy is None or self._left is None:
            return
        self._redis_up_since, count_at = breaker.up_since, trio.current_time() + _COUNT_SECONDS
        async for _ in Periodic(self._services.lease.ttl_seconds):
            up_since = breaker.up_since
            try:
                if self._held:
                    await self._move_again(legacy, tuple(LegacyPlace))
                elif up_since != self._redis_up_since or trio.current_time() >= count_at:
                    counts = await legacy.counts()
                    if any(now > before for now, before in zip(counts, self._left, strict=True)):
                        await self._move_again(legacy, tuple(LegacyPlace))
                        counts = await legacy.counts()
                    self._left = counts
                    self._redis_up_since, count_at = up_since, trio.current_time() + _COUNT_SECONDS
            except CefMp4ProcessorError as error:
                log.debug("legacy_streams_not_moved", error=str(error))

    async def _move_again(self, legacy: LegacyStreams, places: Sequence[LegacyPlace]) -> None:
        began_at = trio.current_time()
        done = await self._passes(legacy, places, 0, lambda _text: None)
        self._held = done.held
        if done.moved:
            _log_moved(done, left=await legacy.count(), seconds=trio.current_time() - began_at)

    def _remembered(self, counts: tuple[int, ...]) -> str:
        """Return what is remembered of what was left: its numbers, and for which place of our folder."""
        ours = f"{self._services.ownership.owner}\0{self._services.rules.described_folders}"
        place = hashlib.sha256(ours.encode(errors="surrogateescape")).hexdigest()[:16]
        return f"{' '.join(map(str, counts))} {place}"

    async def _passes(
        self, legacy: LegacyStreams, places: Sequence[LegacyPlace], there: int, report: Callable[[str], object]
    ) -> Moved:
        """Move what is ours, until a pass over what is left moves nothing.

        A pass misses streams if Redis fails over during it: a cursor leads to other places in another server's memory,
        and what the new primary did not receive is at the old keys again.
        """
        total = Moved()
        while True:
            done = await self._pass(legacy, places, there, report)
            total.moved, total.held, total.left = total.moved + done.moved, done.held, done.left
            if done.moved == 0 or await legacy.count() <= len(done.held):
                return total

    async def _pass(
        self, legacy: LegacyStreams, places: Sequence[LegacyPlace], there: int, report: Callable[[str], object]
    ) -> Moved:
        total, logged_at = Moved(), trio.current_time()
        for place in places:
            cursor = 0
            while True:
                cursor, found = await legacy.read(place, cursor)
                ours = [one for one in found if await self._is_ours(legacy, one)]
                total.add(await legacy.move(ours, self._services.lease))
                if trio.current_time() - logged_at > _PROGRESS_SECONDS:
                    logged_at = trio.current_time()
                    log.info("legacy_streams_moving", moved=total.moved, streams=there)
                    report(f"moved {total.moved} of {there} streams of an earlier version")
                if cursor == 0:
                    break
        return total

    @property
    def _knows_place(self) -> bool:
        """Whether it can be read where the watch folder is."""
        owner = self._services.ownership.owner
        return owner is not None and owner.mount is not None

    async def _is_ours(self, legacy: LegacyStreams, stream: LegacyStream) -> bool:
        claim = self._claim(stream)
        if claim is not Claim.PERHAPS:
            return claim is Claim.OURS
        try:
            if await self._services.disk.stat(stream.current_path) is None:
                return False
            meta = await legacy.meta(stream.stream_id)
            return meta is not None and await is_file_by_numbers(self._services, meta, stream.current_path)
        except (RecordingChangedError, ChunkProcessingError):
            return False  # it cannot be read: nothing is proved

    def _claim(self, stream: LegacyStream) -> Claim:
        ownership, rules = self._services.ownership, self._services.rules
        if rules.folders and not is_below(stream.current_path, rules.root_of(stream.current_path)):
            return Claim.OTHER_OWNER
        ours = ownership.owner or Owner(ownership.machine)
        if not self._knows_place and stream.owner is not None and stream.owner.mount is not None:
            same = ours.machine is not None and stream.owner.machine == ours.machine
            return Claim.OURS if same else Claim.OTHER_OWNER  # it may be another host's
        return claim_by(stream.owner, stream.fs_id, stream.current_path, ours)

    def _holders(self) -> list[str]:
        return sorted({holder.rpartition("/")[0] or holder for holder in self._held.values()})[:_SHOWN]


def _log_moved(done: Moved, *, left: int, seconds: float) -> None:
    log.info(
        "legacy_streams_moved", streams=done.moved, left=left, seconds=round(seconds, 3), left_because=dict(done.left)
    )
