"""Move the streams of earlier versions into the owner's namespace, at the start, before the folder is watched.

Moved are the streams of our folder that are ours (``upload/ownership_rules.py``), or name no owner. Others stay for
their own daemons. A stream that another daemon holds is moved once its lease has ended: leases of daemons that are gone
end within ``LEASE_SECONDS``, so the start waits that long for them. Streams held for longer belong to a daemon that
runs; they are moved when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import Owner
from cef_trio.checkpoint.redis import LegacyPlace, LegacyStream, LegacyStreams, Moved
from cef_trio.exceptions import CefMp4ProcessorError, RedisOperationError
from cef_trio.files import is_below
from cef_trio.resilience import Periodic
from cef_trio.upload import Claim, Services, claim_by

log = structlog.get_logger(__name__)

_PROGRESS_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 1.0
_SHOWN: Final = 5
_OF_OPEN: Final = (LegacyPlace.ACTIVE, LegacyPlace.PENDING_COMPLETION)


class Upgrade:
    """Moves the streams of earlier versions."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._held: dict[str, str] = {}
        """The streams that another daemon held at last, and the holders."""

    async def run(self, report: Callable[[str], object]) -> None:
        """Move what is ours. ``report`` is called with sentences about the progress."""
        legacy = self._services.legacy
        if legacy is None:
            return
        try:
            there = await legacy.count()
        except RedisOperationError as error:
            if not error.rejected:
                raise
            log.warning("legacy_streams_not_readable", error=str(error))
            return
        if not there:
            return
        began_at = trio.current_time()
        await self._services.determine_owner()
        while not self._knows_place and trio.current_time() < began_at + self._services.lease.ttl_seconds:
            report("waiting for the watch folder, whose file system cannot be read")
            await trio.sleep(_PAUSE_SECONDS)
            await self._services.determine_owner()
        total = await self._passes(legacy, there, report)
        self._held, waits_until = total.held, trio.current_time() + self._services.lease.ttl_seconds
        if self._held:
            log.info("legacy_streams_waiting", streams=len(self._held), holders=self._holders())
            report(f"waiting for the leases of {len(self._held)} streams of an earlier version")
        while self._held and trio.current_time() < waits_until:
            await trio.sleep(_PAUSE_SECONDS)
            done = await self._pass(legacy, _OF_OPEN, there, report)
            self._held = done.held
            total.add(done)
        left = await legacy.count()
        _log_moved(total, left=left, seconds=trio.current_time() - began_at)
        if self._held:
            log.warning("legacy_streams_held", streams=len(self._held), holders=self._holders())

    async def keep_moving(self) -> None:
        """Move streams that another daemon held at the start, once it has ended. Returns when there are none."""
        legacy = self._services.legacy
        if legacy is None or not self._held:
            return
        async for _ in Periodic(self._services.lease.ttl_seconds):
            try:
                done = await self._pass(legacy, _OF_OPEN, 0, lambda _text: None)
            except CefMp4ProcessorError as error:
                log.debug("legacy_streams_not_moved", error=str(error))
                continue
            self._held = done.held
            if done.moved:
                _log_moved(done, left=len(done.held), seconds=0.0)
            if not self._held:
                return

    async def _passes(self, legacy: LegacyStreams, there: int, report: Callable[[str], object]) -> Moved:
        """Move what is ours, until a pass over what is left moves nothing.

        A pass misses streams if Redis fails over during it: a cursor leads to other places in another server's memory,
        and what the new primary did not receive is at the old keys again.
        """
        total = Moved()
        while True:
            done = await self._pass(legacy, tuple(LegacyPlace), there, report)
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
                total.add(await legacy.move([one for one in found if self._is_ours(one)], self._services.lease))
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

    def _is_ours(self, stream: LegacyStream) -> bool:
        ownership, watched = self._services.ownership, self._services.rules.watch_folder
        if watched and not is_below(stream.current_path, watched):
            return False
        ours = ownership.owner or Owner(ownership.machine)
        if not self._knows_place and stream.owner is not None and stream.owner.mount is not None:
            return ours.machine is not None and stream.owner.machine == ours.machine  # else it may be another host's
        return claim_by(stream.owner, stream.fs_id, stream.current_path, ours) is Claim.OURS

    def _holders(self) -> list[str]:
        return sorted({holder.rpartition("/")[0] or holder for holder in self._held.values()})[:_SHOWN]


def _log_moved(done: Moved, *, left: int, seconds: float) -> None:
    log.info(
        "legacy_streams_moved", streams=done.moved, left=left, seconds=round(seconds, 3), left_because=dict(done.left)
    )
