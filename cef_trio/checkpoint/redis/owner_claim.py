"""The claim of an owner's name, for a name that was derived: only one running system may have it.

A cloned machine has the machine id of its original, and so its owner's name. A claim is a hash with a TTL that names
the running system by its boot id, with one field for each process: several daemons of one system share the name.
"""

from __future__ import annotations

from dataclasses import dataclass

from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.redis import scripts
from cef_trio.checkpoint.redis.client import RedisClient, run_script
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.scripts import arguments
from cef_trio.checkpoint.redis.scripts.arguments import Argument


@dataclass(frozen=True, slots=True)
class Claimant:
    """A running system that has a name."""

    system: str
    """Its boot id."""
    host: str
    since: str
    """When it claimed the name, as ISO 8601 in UTC."""


class OwnerClaim:
    """The claim of an owner's name by the running system of a lease, for as long as the lease's TTL."""

    def __init__(self, redis: RedisClient, keys: Keys, lease: Lease, host: str) -> None:
        self.name = keys.owner
        self.lease = lease
        self._redis = redis
        self._key = keys.claim
        self._host = host

    async def take(self, since: str) -> Claimant | None:
        """Claim the name, or renew the claim. Return the other system that has it; ``None``: it is ours."""
        ttl = arguments.milliseconds(self.lease)
        given: list[Argument] = [self.lease.host, self._host, since, self.lease.token, ttl]
        result, *holder = await self._redis.call(
            "claim_owner", lambda client: run_script(client, scripts.CLAIM, [self._key], given)
        )
        return None if result == b"ok" else Claimant(*(text.decode(errors="replace") for text in holder))

    async def release(self) -> None:
        """Give up the claim, unless other daemons of this system have it too."""
        given = [self.lease.host, self.lease.token]
        await self._redis.call("release_owner", lambda client: run_script(client, scripts.UNCLAIM, [self._key], given))
