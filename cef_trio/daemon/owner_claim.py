"""Hold the claim of a derived owner's name (``checkpoint/redis/owner_claim.py``) while the daemon works.

A clone of a machine, or a daemon with an explicit name that a running system has derived, does not start work while
the other one runs: it logs who has the name and what to do, and tries again. If the claim is lost while the daemon
works, which takes a silence of ``LEASE_SECONDS``, the daemon stops.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Final

import structlog
import trio
from trio_util import AsyncBool

from cef_trio.checkpoint.redis import Claimant, encode_time
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.resilience import Periodic, shielded
from cef_trio.upload import Services

log = structlog.get_logger(__name__)

_RELEASE_SECONDS: Final = 0.5
_TODO: Final = (
    "if that is another machine, one is a clone: give it a machine-id of its own (rm /etc/machine-id; "
    "systemd-machine-id-setup), or an OWNER_NAME; if both are to share one folder, give both the same OWNER_NAME"
)


class ClaimKeeper:
    """Takes and renews the claim, if the owner's name needs one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._claim = services.owner_claim
        self._held = AsyncBool(False)
        self.lost = False
        """Whether another system took the claim while this daemon worked."""

    @property
    def allows_work(self) -> bool:
        """Whether the name is ours, so that the namespace may be worked on."""
        return self._claim is None or (self._held.value and not self.lost)

    async def take(self, waiting: Callable[[str], object]) -> None:
        """Wait until the name is ours. ``waiting`` is called with a sentence about the system that has it."""
        if self._claim is None:
            return
        other: Claimant | None = None
        while (found := await self._claim.take(self._now())) is not None:
            if found != other:
                log.error("owner_claimed_elsewhere", owner=self._claim.name, todo=_TODO, **asdict(found))
                waiting(f"waiting for the owner's name {self._claim.name}, which another running system has")
            other = found
            await trio.sleep(self._claim.lease.ttl_seconds / 10)
        if other is not None:
            log.info("owner_claimed", owner=self._claim.name)
        self._held.value = True

    async def keep(self, stop: Callable[[], object]) -> None:
        """Renew the claim, once it is taken; release it when cancelled. ``stop`` is called if it is lost."""
        if self._claim is None or not self._claim.exclusive:
            return
        await self._held.wait_value(True)
        try:
            async for _ in Periodic(self._claim.lease.ttl_seconds / 3):
                try:
                    other = await self._claim.take(self._now())
                except CefMp4ProcessorError as error:
                    log.warning("owner_claim_not_renewed", error=str(error))
                    continue
                if other is not None:
                    log.error("owner_claim_lost", owner=self._claim.name, todo=_TODO, **asdict(other))
                    self.lost = True
                    stop()
                    return
        finally:
            if self._services.redis_breaker.outage is None:
                with shielded(_RELEASE_SECONDS, saving="owner's claim"), suppress(CefMp4ProcessorError):
                    await self._claim.release()

    def _now(self) -> str:
        return encode_time(self._services.utc_now())
