"""The names of all owners behind one ``REDIS_KEY_PREFIX``, and whether another owner knows a stream.

Where ``S3_KEY_TEMPLATE`` has no ``{owner}``, listings show the uploads of all owners, and one that is unknown in this
namespace may be another owner's. With ``{owner}`` too, if another owner's template has its objects below this prefix.

A set of a wrong type is named, and stops nothing: then another owner may know any stream.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from cef_trio.checkpoint.redis.client import Client, RedisClient
from cef_trio.checkpoint.redis.errors import MAPPED, is_of_one_key, is_rejected
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.unreadable import UnreadableKeys

T = TypeVar("T")


class Owners:
    """The owners that have had a daemon, until they are retired."""

    def __init__(self, redis: RedisClient, keys: Keys, unreadable: UnreadableKeys) -> None:
        self._redis = redis
        self._keys = keys
        self._unreadable = unreadable

    async def register(self) -> None:
        """Add this owner. May be repeated; daemons do so from time to time, since Redis may lose the set."""
        await self._call("register_owner", lambda client: client.sadd(self._keys.owners, self._keys.owner))

    async def retire(self, name: str) -> None:
        """Remove an owner."""
        await self._call("retire_owner", lambda client: client.srem(self._keys.owners, name))

    async def has(self, name: str) -> bool:
        """Return whether that owner has had a daemon, and is not retired, as far as is known."""
        return await self._call("has_owner", lambda client: client.sismember(self._keys.owners, name)) != 0

    async def known_elsewhere(self, stream_ids: Collection[str], *, mixed: bool = True) -> frozenset[str]:
        """Return the streams that another owner, or a daemon of an earlier version, has a record of.

        Where our user of Redis may not read another namespace, its owner may have a record of any of them: all are
        returned, if listings are ``mixed``; else none. If the names cannot be read, all are returned.
        """

        def work(client: Client) -> frozenset[str]:
            names = {raw.decode(errors="replace") for raw in client.smembers(self._keys.owners)} | {""}
            found: set[str] = set()
            for name in sorted(names - {self._keys.owner}):
                keys = Keys(self._keys.base, name)
                with client.pipeline(transaction=False) as pipeline:
                    for stream_id in ids:
                        pipeline.exists(keys.meta(stream_id))
                    replies = pipeline.execute(raise_on_error=False)
                for stream_id, there in zip(ids, replies, strict=True):
                    if isinstance(there, Exception) and not is_rejected(there):
                        raise there
                    if there and (mixed or not isinstance(there, Exception)):
                        found.add(stream_id)
            return frozenset(found)

        ids = sorted(stream_ids)
        if not ids:
            return frozenset()
        found = await self._call("known_elsewhere", work)
        return frozenset(ids) if found is None else found

    async def _call(self, operation: str, work: Callable[[Client], T]) -> T | None:
        """Return what ``work`` returns; ``None`` if the set of the names is of a wrong type, which is noted."""
        key = self._keys.owners

        def unless_wrong_type(client: Client) -> T | None:
            try:
                found = work(client)
            except MAPPED as error:
                if not is_of_one_key(error):
                    raise
                self._unreadable.note(key, f"{key} is of a wrong type, and is to be a set")
                return None
            self._unreadable.note(key, None)
            return found

        return await self._redis.call(operation, unless_wrong_type)
