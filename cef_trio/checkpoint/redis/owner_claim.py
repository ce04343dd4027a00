"""The claim of an owner's name, for a name that was derived: only one running system may have it.

A cloned machine has the machine id of its original, and so its owner's name. A claim is a hash with a TTL that names
the running system by its boot id, with one field for each process: several daemons of one system share the name.
"""

from __future__ import annotations

from math import inf

import trio

from cef_trio.checkpoint.claim_wait import Claimant, Vacancy
from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.redis import scripts
from cef_trio.checkpoint.redis.client import RedisClient, run_script
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.scripts import arguments
from cef_trio.checkpoint.redis.scripts.arguments import Argument


class OwnerClaim:
    """The claim of an owner's name by the running system of a lease, for as long as the lease's TTL.

    If it is not ``exclusive``, as for an explicit name that several systems share, it only respects others' claims.
    """

    def __init__(self, redis: RedisClient, keys: Keys, lease: Lease, host: str, *, exclusive: bool = True) -> None:
        self.name = keys.owner
        self.exclusive = exclusive
        self.lease = lease
        self._redis = redis
        self._key = keys.claim
        self._host = host
        self._taken = "0"
        """When our system took the name, by Redis' clock; the script returns it."""
        self._held_until = -inf
        """Until when nobody else could take it rightfully, by ``trio.current_time()``."""

    async def take(self, since: str) -> Claimant | None:
        """Claim the name, or renew the claim. Return the other system that has it; ``None``: no other one has.

        A claim that Redis lost is taken back, even from a system that claimed the name since then, if this process had
        it until less than the TTL ago. ``since``: the current time, as in :class:`Claimant`.
        """
        if not self.exclusive:
            found = await self.look()
            return found if isinstance(found, Claimant) else None
        asked_at = trio.current_time()
        reply = await self._run("claim_owner", since, self._taken if asked_at < self._held_until else "0", look="0")
        if reply[0] == "ok":
            self._taken, self._held_until = reply[1], asked_at + self.lease.ttl_seconds
            return None
        return _claimant(reply)

    async def look(self) -> Claimant | Vacancy:
        """Return the other system that has the name, or why none has; nothing is changed."""
        reply = await self._run("read_owner_claim", "", "0", look="1")
        if reply[0] == "free":
            return Vacancy.GIVEN_UP if reply[1] == "1" else Vacancy.ABSENT
        return _claimant(reply)

    async def release(self) -> None:
        """Give up the claim, unless other daemons of this system have it too."""
        self._held_until = -inf
        given: list[Argument] = [self.lease.host, self.lease.token, arguments.milliseconds(self.lease)]
        await self._redis.call("release_owner", lambda client: run_script(client, scripts.UNCLAIM, [self._key], given))

    async def _run(self, operation: str, since: str, held_since: str, *, look: str) -> list[str]:
        ttl = arguments.milliseconds(self.lease)
        given: list[Argument] = [self.lease.host, self._host, since, self.lease.token, ttl, held_since, look]
        reply = await self._redis.call(operation, lambda client: run_script(client, scripts.CLAIM, [self._key], given))
        return [text.decode(errors="replace") for text in reply]


def _claimant(reply: list[str]) -> Claimant:
    _, system, host, since, left = reply
    return Claimant(system, host, since, int(left) / 1000 if left.isdigit() else 0.0)
