"""The claim of an owner's name, for a name that was derived: only one running system may have it.

A cloned machine has the machine id of its original, and so its owner's name. A claim is a hash with a TTL that names
the running system by its boot id, with one field for each process: several daemons of one system share the name.
"""

from __future__ import annotations

from dataclasses import dataclass

from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.redis import scripts
from cef_trio.checkpoint.redis.client import Client, RedisClient, run_script
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

    async def take(self, since: str) -> Claimant | None:
        """Claim the name, or renew the claim. Return the other system that has it; ``None``: no other one has.

        ``since``: the current time, as in :class:`Claimant`.
        """
        if not self.exclusive:
            return await self._redis.call("read_owner_claim", self._read)
        ttl = arguments.milliseconds(self.lease)
        given: list[Argument] = [self.lease.host, self._host, since, self.lease.token, ttl]
        result, *holder = await self._redis.call(
            "claim_owner", lambda client: run_script(client, scripts.CLAIM, [self._key], given)
        )
        return None if result == b"ok" else Claimant(*(text.decode(errors="replace") for text in holder))

    def _read(self, client: Client) -> Claimant | None:
        fields = client.hmget(self._key, ["system", "host", "since"])
        system, host, since = (raw.decode(errors="replace") if raw is not None else "" for raw in fields)
        return Claimant(system, host, since) if system not in {"", self.lease.host} else None

    async def release(self) -> None:
        """Give up the claim, unless other daemons of this system have it too."""
        given = [self.lease.host, self.lease.token]
        await self._redis.call("release_owner", lambda client: run_script(client, scripts.UNCLAIM, [self._key], given))
