"""The claims of owners' names in a simulated Redis (``checkpoint/redis/owner_claim.py`` has the real one)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

import trio

from cef_trio.checkpoint import Claimant, Lease, Vacancy
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.crash_simulation import Life

_RESPONSE_SECONDS = 1.0


@dataclass(slots=True)
class Claimed:
    """The claim of a name."""

    claimant: Claimant
    expires_at: float
    taken_at: float
    tokens: set[str] = field(default_factory=set)
    """The processes of the system that have it; none: it was given up."""


class SimulatedClaim:
    """An ``OwnerClaim`` of one process. ``claims``: all claims, by name."""

    exclusive = True

    def __init__(self, claims: dict[str, Claimed], name: str, lease: Lease, host: str, life: Life) -> None:
        self.name = name
        self.lease = lease
        self._claims = claims
        self._host = host
        self._life = life
        self._taken_at = 0.0
        self._held_until = -inf

    async def take(self, since: str) -> Claimant | None:
        """See ``OwnerClaim.take``."""
        asked_at = trio.current_time()
        await self._reach("claim_owner")
        now, claimed = trio.current_time(), self._current()
        held_since = self._taken_at if asked_at < self._held_until else None
        if claimed is not None and claimed.claimant.system != self.lease.host:
            if held_since is None or claimed.taken_at <= held_since:
                return self._as_seen(claimed)
            claimed = None
        if claimed is None:
            taken_at = now if held_since is None else held_since
            claimed = Claimed(Claimant(self.lease.host, self._host, since), now, taken_at)
        claimed.expires_at = now + self.lease.ttl_seconds
        claimed.tokens.add(self.lease.token)
        self._claims[self.name] = claimed
        self._taken_at, self._held_until = claimed.taken_at, asked_at + self.lease.ttl_seconds
        return None

    async def look(self) -> Claimant | Vacancy:
        """See ``OwnerClaim.look``."""
        await self._reach("read_owner_claim")
        claimed = self._current()
        if claimed is None or claimed.claimant.system == self.lease.host:
            return Vacancy.GIVEN_UP if self._is_given_up() else Vacancy.ABSENT
        return self._as_seen(claimed)

    async def release(self) -> None:
        """See ``OwnerClaim.release``."""
        self._held_until = -inf
        await self._reach("release_owner")
        claimed = self._current()
        if claimed is not None and claimed.claimant.system == self.lease.host:
            claimed.tokens.discard(self.lease.token)

    def _current(self) -> Claimed | None:
        claimed = self._claims.get(self.name)
        return claimed if claimed is not None and claimed.tokens and claimed.expires_at > trio.current_time() else None

    def _is_given_up(self) -> bool:
        claimed = self._claims.get(self.name)
        return claimed is not None and not claimed.tokens and claimed.expires_at > trio.current_time()

    def _as_seen(self, claimed: Claimed) -> Claimant:
        return replace(claimed.claimant, ends_in_seconds=claimed.expires_at - trio.current_time())

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
