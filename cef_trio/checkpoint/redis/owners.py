"""The names of all owners behind one ``REDIS_KEY_PREFIX``, and whether another owner knows a stream.

Needed only where ``S3_KEY_TEMPLATE`` has no ``{owner}``: listings then show the uploads of all owners, and one that is
unknown in this namespace may be another owner's.
"""

from __future__ import annotations

from collections.abc import Collection

from cef_trio.checkpoint.redis.client import Client, RedisClient
from cef_trio.checkpoint.redis.keys import Keys


class Owners:
    """The owners that have had a daemon, until they are retired."""

    def __init__(self, redis: RedisClient, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def register(self) -> None:
        """Add this owner. May be repeated."""
        await self._redis.call("register_owner", lambda client: client.sadd(self._keys.owners, self._keys.owner))

    async def retire(self, name: str) -> None:
        """Remove an owner."""
        await self._redis.call("retire_owner", lambda client: client.srem(self._keys.owners, name))

    async def known_elsewhere(self, stream_ids: Collection[str]) -> frozenset[str]:
        """Return the streams that another owner, or a daemon of an earlier version, has a record of."""

        def work(client: Client) -> frozenset[str]:
            names = {raw.decode(errors="replace") for raw in client.smembers(self._keys.owners)} | {""}
            found: set[str] = set()
            for name in sorted(names - {self._keys.owner}):
                keys = Keys(self._keys.base, name)
                with client.pipeline(transaction=False) as pipeline:
                    for stream_id in ids:
                        pipeline.exists(keys.meta(stream_id))
                    found.update(stream_id for stream_id, there in zip(ids, pipeline.execute(), strict=True) if there)
            return frozenset(found)

        ids = sorted(stream_ids)
        return await self._redis.call("known_elsewhere", work) if ids else frozenset()
