"""Hold the claim of a derived owner's name (``checkpoint/redis/owner_claim.py``) while the daemon works.

A clone of a machine, or a daemon with an explicit name that a running system has derived, does not start work while
the other one runs: it logs who has the name and what to do, and tries again (``checkpoint/claim_wait.py``: when it may
have it). If another system has the name while the daemon works, which takes a silence of ``LEASE_SECONDS``, the daemon
stops. A claim that Redis lost is taken again by the next renewal.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final

import structlog
import trio
from trio_util import AsyncBool

from cef_trio.checkpoint import RENEWALS, Claimant, ClaimWait
from cef_trio.checkpoint.redis import encode_time
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.observability import NEW_MACHINE_ID
from cef_trio.resilience import shielded
from cef_trio.upload import Services

log = structlog.get_logger(__name__)

_RELEASE_SECONDS: Final = 0.5
_LOOK: Final = 1 / 10
"""Time between two looks at the claim of another system, or two tries to renew ours, as a share of the TTL."""
_TODO: Final = (
    f"if that is another machine, one is a clone: give it a machine-id of its own ({NEW_MACHINE_ID}), or an OWNER_NAME"
    ", and restart its daemon; if both are to share one folder, give both the same OWNER_NAME"
)


class ClaimKeeper:
    """Takes and renews the claim, if the owner's name needs one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._claim = services.owner_claim
        self._held = AsyncBool(False)
        self._wait = ClaimWait()
        self._waits_since = inf
        """Since when another system is seen to have the name, by ``trio.current_time()``."""
        self.lost_to: tuple[str, str] | None = None
        """Boot id and host of the system that took the claim while this daemon worked."""

    @property
    def lost(self) -> bool:
        """Whether another system took the claim while this daemon worked."""
        return self.lost_to is not None

    @property
    def allows_work(self) -> bool:
        """Whether the name is ours, so that the namespace may be worked on."""
        return self._claim is None or (self._held.value and not self.lost)

    @property
    def is_taken(self) -> bool:
        """Whether we wait for a running system that has the name: for longer than the claim of one that has ended."""
        if self._claim is None or self.allows_work:
            return False
        return trio.current_time() >= self._waits_since + self._claim.lease.ttl_seconds

    async def take(self, waiting: Callable[[str], object]) -> None:
        """Wait until the name is ours. ``waiting`` is called with a sentence about the system that has it.

        Raises:
            RedisOperationError: Redis is unavailable; the next call goes on with what was seen before.
        """
        if self._claim is None:
            return
        logged = ""
        while not await self._try():
            holder = self._wait.holder
            if holder is not None and holder.system != logged:
                logged = holder.system
                log.error("owner_claimed_elsewhere", owner=self._claim.name, todo=_TODO, **_who(holder))
                waiting(f"waiting for the owner's name {self._claim.name}, which another running system has")
            if holder is not None:
                self._waits_since = min(self._waits_since, trio.current_time())
            await trio.sleep(_LOOK * self._claim.lease.ttl_seconds)
        if self._wait.holder is not None:
            log.info("owner_claimed", owner=self._claim.name)
        self._held.value = True

    async def _try(self) -> bool:
        """Look at the claim, and claim the name if that is right now; return whether it is ours."""
        assert self._claim is not None  # noqa: S101 - see take
        claim, ttl_seconds = self._claim, self._claim.lease.ttl_seconds
        try:
            seen = await claim.look()
            self._wait = self._wait.after(seen, trio.current_time())
            if not self._wait.may_claim(seen, trio.current_time()):
                return False
            other = await claim.take(self._now())
        except CefMp4ProcessorError:
            self._wait = self._wait.after_no_response(trio.current_time(), ttl_seconds)
            raise
        if other is not None:  # it was quicker
            self._wait = self._wait.after(other, trio.current_time())
        return other is None

    async def keep(self, stop: Callable[[], object]) -> None:
        """Renew the claim, once it is taken; release it when cancelled. ``stop`` is called if it is lost."""
        if self._claim is None or not self._claim.exclusive:
            return
        await self._held.wait_value(True)
        claim, failed = self._claim, False
        try:
            while True:
                began = trio.current_time()
                try:
                    other = await claim.take(self._now())
                except CefMp4ProcessorError as error:
                    if not failed:
                        log.warning("owner_claim_not_renewed", error=str(error))
                    failed = True
                else:
                    failed = False
                    if other is not None:
                        log.error("owner_claim_lost", owner=claim.name, todo=_TODO, **_who(other))
                        self.lost_to = (other.system, other.host)
                        stop()
                        return
                await trio.sleep_until(began + claim.lease.ttl_seconds * (_LOOK if failed else 1 / RENEWALS))
        finally:
            if self._services.redis_breaker.outage is None:
                with shielded(_RELEASE_SECONDS, saving="owner's claim"), suppress(CefMp4ProcessorError):
                    await self._claim.release()

    def _now(self) -> str:
        return encode_time(self._services.utc_now())


def _who(other: Claimant) -> dict[str, str]:
    return {"system": other.system, "host": other.host, "since": other.since}
