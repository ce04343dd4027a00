"""The verifications of an owner's objects, in two keys (``checkpoint/verification.py``).

A hash stream id → time (``TIME``, or ``TIME@TURN``) and result, which ``cef-trio verify --all`` reads; and a small hash
with the totals, which the daemon reads for its metrics, and ``status`` and ``doctor``. Both are hints: without them the
next run begins anew, and one of a wrong type counts as none, and is replaced by the next write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

from cef_trio.checkpoint.redis.client import Client, RedisClient
from cef_trio.checkpoint.redis.errors import MAPPED, is_of_one_key
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.verification import VerificationTotals, Verified

_BATCH: Final = 500

UnlessWrongType = Callable[[str, Callable[[], Any]], Any]


class Verifications:
    """The verifications of one owner's objects."""

    def __init__(self, redis: RedisClient, keys: Keys, unless_wrong_type: UnlessWrongType) -> None:
        """``unless_wrong_type`` notes whether a key can be read, and returns the reply of a call to it, or ``None``."""
        self._redis = redis
        self._keys = keys
        self._unless_wrong_type = unless_wrong_type

    async def known(self) -> dict[str, Verified]:
        """Return all, by stream id. An entry that cannot be read counts as none; a key of a wrong type is noted.

        Raises:
            RedisOperationError: Redis cannot be read.
        """
        found = {}
        for stream_id, value in (await self._redis.call("verifications", self._scan)).items():
            times, _, mismatch = value.partition(" ")
            at, _, turn = times.partition("@")
            if at.isdecimal() and (turn.isdecimal() or not turn):
                found[stream_id] = Verified(int(at), mismatch, int(turn) if turn else None)
        return found

    async def record(self, stream_id: str, verified: Verified) -> None:
        """Record a verification.

        Raises:
            RedisOperationError: Redis refused.
        """
        turn = "" if verified.turn_ms is None else f"@{verified.turn_ms}"
        entry, key = f"{verified.at_ms}{turn} {verified.mismatch}".strip(), self._keys.verified
        await self._redis.call(
            "record_verification", lambda client: _replacing(client, key, lambda: client.hset(key, stream_id, entry))
        )

    async def set_totals(self, totals: VerificationTotals | None) -> None:
        """Replace the totals.

        Raises:
            RedisOperationError: Redis refused.
        """

        def work(client: Client) -> None:
            key = self._keys.verification
            if totals is None:
                client.delete(key)
            else:
                _replacing(client, key, lambda: client.hset(key, mapping=_encode(totals)))

        await self._redis.call("record_verification", work)

    async def clear(self) -> None:
        """Remove everything.

        Raises:
            RedisOperationError: Redis refused.
        """
        await self._redis.call(
            "forget_verifications", lambda client: client.delete(self._keys.verified, self._keys.verification)
        )

    async def forget(self, stream_ids: Collection[str]) -> None:
        """Remove streams that are no longer completed.

        Raises:
            RedisOperationError: Redis refused.
        """
        ids = sorted(stream_ids)

        def work(client: Client) -> None:
            for start in range(0, len(ids), _BATCH):
                client.hdel(self._keys.verified, *ids[start : start + _BATCH])

        await self._redis.call("forget_verifications", work)

    async def totals(self) -> VerificationTotals | None:
        """Return the totals; ``None`` if nothing was verified, or they cannot be read. Costs one small read.

        Raises:
            RedisOperationError: Redis cannot be read.
        """
        key = self._keys.verification
        text = await self._redis.call(
            "verification", lambda client: _texts(self._unless_wrong_type(key, lambda: client.hgetall(key)))
        )
        try:
            return VerificationTotals(
                at_ms=int(text["at_ms"]),
                objects=int(text["objects"]),
                oldest_ms=int(text["oldest_ms"]),
                mismatches=int(text["mismatches"]),
                mismatched=tuple(text.get("mismatched", "").split()),
            )
        except (KeyError, ValueError):
            return None

    def _scan(self, client: Client) -> Mapping[str, str]:
        """Return all entries, in many small calls: one reply with millions would stop the server for all daemons."""
        key, cursor, found = self._keys.verified, 0, dict[str, str]()
        while reply := self._unless_wrong_type(key, partial(client.hscan, key, cursor, count=_BATCH)):
            cursor, entries = reply
            found.update(_texts(entries))
            if not cursor:
                break
        return found


def _texts(raw: Mapping[bytes, bytes] | None) -> Mapping[str, str]:
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in (raw or {}).items()}


def _replacing(client: Client, key: str, write: Callable[[], object]) -> None:
    """Write to a key; one of a wrong type is deleted first."""
    try:
        write()
    except MAPPED as error:
        if not is_of_one_key(error):
            raise
        client.delete(key)
        write()


def _encode(totals: VerificationTotals) -> dict[str, str]:
    return {
        "at_ms": str(totals.at_ms),
        "objects": str(totals.objects),
        "oldest_ms": str(totals.oldest_ms),
        "mismatches": str(totals.mismatches),
        "mismatched": " ".join(totals.mismatched),
    }
