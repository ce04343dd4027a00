"""The claims of owners' names in a simulated Redis (``checkpoint/redis/owner_claim.py`` has the real one)."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.redis import Claimant
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.crash_simulation import Life

_RESPONSE_SECONDS = 1.0


@dataclass(slots=True)
class Claimed:
    """The claim of a name."""

    claimant: Claimant
    expires_at: float
    tokens: set[str] = field(default_factory=set)
    """The processes of the system that have it."""


class SimulatedClaim:
    """An ``OwnerClaim`` of one process. ``claims``: all claims, by name."""

    exclusive = True

    def __init__(self, claims: dict[str, Claimed], name: str, lease: Lease, host: str, life: Life) -> None:
        self.name = name
        self.lease = lease
        self._claims = claims
        self._host = host
        self._life = life

    async def take(self, since: str) -> Claimant | None:
        """See ``OwnerClaim.take``."""
        await self._reach("claim_owner")
        now, claimed = trio.current_time(), self._claims.get(self.name)
        if claimed is None or claimed.expires_at <= now:
            claimed = Claimed(Claimant(self.lease.host, self._host, since), now)
        if claimed.claimant.system != self.lease.host:
            return claimed.claimant
        claimed.expires_at = now + self.lease.ttl_seconds
        claimed.tokens.add(self.lease.token)
        self._claims[self.name] = claimed
        return None

    async def release(self) -> None:
        """See ``OwnerClaim.release``."""
        await self._reach("release_owner")
        claimed = self._claims.get(self.name)
        if claimed is not None and claimed.claimant.system == self.lease.host:
            claimed.tokens.discard(self.lease.token)
            if not claimed.tokens:
                del self._claims[self.name]

    async def _reach(self, operation: str) -> None:
        life = self._life
        life.begin_call(f"redis {operation}")
        await trio.lowlevel.checkpoint()
        await life.wait_connected()
        if life.redis_down.value:
            with trio.move_on_after(_RESPONSE_SECONDS):
                await life.redis_down.wait_value(False)
        if life.ended or life.redis_down.value:
            raise RedisOperationError(operation, "no answer", transient=True)
