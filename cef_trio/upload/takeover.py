"""Divide the streams of a daemon that died or stopped among the other daemons of a shared folder.

All daemons look when the leases end, and each takes its share at once, by the same rule as for new files
(``work_division.py``). The rest is left to the others for ``LEFT_SECONDS``; then whoever looks takes it, so that the
promise holds whatever the views: within ``LEASE_SECONDS`` + 5 s (P6). A daemon that knows no other one takes all.

A daemon that did not renew its leases gets no share, though it may be paused only: for a minute the registry does not
tell. It is known by its leases shortly before they end, which those of a working daemon never come near.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from math import inf
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import ENDING_MS, Expired, StreamMeta, StreamSet
from cef_trio.upload.services import Services
from cef_trio.upload.work_division import begun_by_others

log = structlog.get_logger(__name__)

LEFT_SECONDS: Final = 3.5
"""How long after the end of its lease a stream is left to the daemon that is to take it."""
_DYING_SECONDS: Final = ENDING_MS / 1000 + 5.0
"""How long a daemon that did not renew a lease gets no share: until after the end of that lease."""
_LATER_SECONDS: Final = 0.1
"""How much after the end of a lease is looked: Redis' clock counts milliseconds, and its reply takes a while."""
_PAUSE_SECONDS: Final = 0.5
"""Between two looks at least."""


class Takeover:
    """Which streams without a lease this daemon takes, and when to look at leases between two rounds.

    ``read_peers`` reads the reports of our owner's daemons, if those at hand are old.
    """

    def __init__(self, services: Services, read_peers: Callable[[], Awaitable[None]]) -> None:
        self._services = services
        self._read_peers = read_peers
        self._dying: dict[str, float] = {}
        """The daemons that did not renew a lease, and until when they get no share, by ``trio.current_time()``."""
        self.look_at = inf
        """When to look again before the next round, by ``trio.current_time()``; infinite: not before that."""

    @property
    def _divides(self) -> bool:
        """Whether other daemons are known, and leases last so long that those of a working one never come near."""
        services = self._services
        peers = services.peers.living(trio.current_time())
        return bool(peers) and services.shares_folder and services.lease.ending_ms > 0

    async def note(self, expired: Expired) -> None:
        """Note who does not renew its leases, and look again when the first of these ends.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        now, store = trio.current_time(), self._services.store
        self.look_at = inf
        self._dying = {process: until for process, until in self._dying.items() if now < until}
        ending = {stream_id: end for stream_id, end in expired.ends_ms.items() if end > expired.at_ms}
        if not ending or not self._divides:
            return
        for holder in (await store.holders(ending)).values():
            self._dying[_process(holder)] = now + _DYING_SECONDS
        self._look_in((min(ending.values()) - expired.at_ms) / 1000 + _LATER_SECONDS, since=now)

    async def left_to_others(self, free: Collection[StreamMeta], expired: Expired) -> frozenset[str]:
        """Return those of these streams without a lease that another daemon is to take, or has taken by now.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        services, now = self._services, trio.current_time()
        # A lease that has not ended by now, but has no holder, was released before Redis' clock was set back.
        left_until = {one: expired.ends_ms[one] + LEFT_SECONDS * 1000 for one in expired.stream_ids}
        names = {
            one.stream_id: one.current_path.removeprefix(services.rules.root_of(one.current_path))
            for one in free
            if left_until.get(one.stream_id, 0) > expired.at_ms and services.ownership.is_shared_at(one.current_path)
        }
        if not names or not self._divides:
            return frozenset()
        await self._read_peers()
        peers = services.peers.living(trio.current_time()) - self._dying.keys()
        if not peers:
            return frozenset()
        opened = [await services.store.members(one) for one in (StreamSet.ACTIVE, StreamSet.PENDING_COMPLETION)]
        holders = await services.store.holders(frozenset().union(*opened))
        still = {stream_id: name for stream_id, name in names.items() if stream_id not in holders}
        processes = [_process(holder) for holder in holders.values()]
        others = begun_by_others(
            still,
            still,
            process=services.lease.token,
            streams=processes.count(services.lease.token),
            peers=peers,
            held_by=processes,
            takes_files=services.s3_breaker.outage is None,
        )
        if others:
            log.debug("streams_left_to_other_daemons", streams=len(others))
            self._look_in((min(left_until[one] for one in others) - expired.at_ms) / 1000, since=now)
        return frozenset(names.keys() - still.keys() | others.keys())

    def _look_in(self, seconds: float, *, since: float) -> None:
        earliest = trio.current_time() + _PAUSE_SECONDS
        self.look_at = min(self.look_at, max(earliest, since + seconds))


def _process(holder: str) -> str:
    """Return the token of the process that has this lease."""
    return holder.rpartition("/")[2]
