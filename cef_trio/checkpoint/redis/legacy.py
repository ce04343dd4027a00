"""Streams of earlier versions, which had no namespaces: their keys are behind ``REDIS_KEY_PREFIX`` alone.

They are moved into the owner's namespace, in batches; each batch is one atomic script, so that a process that ends at
any point leaves every stream in one of the two places, and the next one continues. RENAME moves a record and its parts
whatever their size.

How many were left is remembered in the namespace, so that a start beside the streams of others does not read them all
again (``daemon/upgrade.py``).

With a cluster, earlier versions required a hash tag in ``REDIS_KEY_PREFIX``. It counts for the namespace too, so both
are in one slot. Without one there are no such streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from redis.exceptions import ResponseError

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.model import Lease, Owner, StreamMeta
from cef_trio.checkpoint.redis import codec, scripts
from cef_trio.checkpoint.redis.client import Client, RedisClient, run_script
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.scripts import arguments
from cef_trio.checkpoint.redis.scripts.arguments import Argument
from cef_trio.checkpoint.states import Status, StreamSet

BATCH: Final = 100
"""Streams per call; a script that moves so many blocks the server for some ten milliseconds at most."""
_ATTEMPTS: Final = 5
"""How often a stream is moved whose path gets another stream meanwhile."""
_FIELDS: Final = ("owner", *codec.OWNER_FIELDS, "file_fs_id", "current_path", "status")


@dataclass(frozen=True, slots=True)
class LegacyStream:
    """What decides whose a stream is."""

    stream_id: str
    owner: Owner | None
    fs_id: str | None
    current_path: str
    home: StreamSet
    """The set that its status belongs to."""


class Place(Enum):
    """Where the ids of streams are found."""

    PENDING_COMPLETION = "pending_completion"
    ACTIVE = "active"
    FAILED = "failed"
    COMPLETED = "completed"
    BY_PATH = "by_path"
    """Streams that are in no set, but have a record."""


@dataclass(slots=True)
class Moved:
    """The results of moving streams."""

    moved: int = 0
    held: dict[str, str] = field(default_factory=dict)
    """Streams that another daemon works on, and the holders of their leases."""
    left: dict[str, int] = field(default_factory=dict)
    """Numbers of streams that were left for other reasons, by the reason (``scripts/move.lua``)."""

    def add(self, other: Moved) -> None:
        """Add the results of another batch."""
        self.moved += other.moved
        self.held |= other.held
        for why, number in other.left.items():
            self.left[why] = self.left.get(why, 0) + number


class LegacyStreams:
    """The streams at the keys of earlier versions."""

    def __init__(self, redis: RedisClient, old: Keys, keys: Keys, *, in_cluster: bool) -> None:
        """``old``: the keys without an owner; ``keys``: those of the namespace."""
        self._redis = redis
        self._old = old
        self._keys = keys
        self._impossible = not keys.owner or (in_cluster and not old.hash_tag)

    async def count(self) -> int:
        """Return the number of streams there.

        Raises:
            RedisOperationError: Redis cannot be read, or the user may not read keys outside the namespace.
        """
        return sum((await self.counts())[:-1])

    async def counts(self) -> tuple[int, ...]:
        """Return the sizes of the four sets and of the index of paths; 0 for one of a wrong type.

        Raises:
            RedisOperationError: as :meth:`count`.
        """

        def work(client: Client) -> tuple[int, ...]:
            with client.pipeline(transaction=False) as pipeline:
                for key in self._old.sets.values():
                    pipeline.scard(key)
                pipeline.hlen(self._old.by_path)
                counts = pipeline.execute(raise_on_error=False)
            for count in counts:
                _raise_unless_wrong_type(count)
            return tuple(count if isinstance(count, int) else 0 for count in counts)

        return (0,) * (len(StreamSet) + 1) if self._impossible else await self._redis.call("count_legacy", work)

    async def remembered(self) -> str | None:
        """Return what was last remembered (:meth:`remember`)."""

        def work(client: Client) -> str | None:
            try:
                found = client.get(self._keys.legacy_left)
            except ResponseError as error:
                _raise_unless_wrong_type(error)
                return None
            return None if found is None else found.decode(errors="replace")

        return await self._redis.call("read_legacy", work)

    async def remember(self, left: str) -> None:
        """Remember what was left, in the namespace."""
        await self._redis.call("move_legacy", lambda client: client.set(self._keys.legacy_left, left))

    async def meta(self, stream_id: str) -> StreamMeta | None:
        """Return a stream's record; ``None`` if there is none, or it cannot be read."""

        def work(client: Client) -> StreamMeta | None:
            try:
                raw = client.hgetall(self._old.meta(stream_id))
                return codec.decode_meta(raw, of=stream_id) if raw else None
            except ResponseError as error:
                _raise_unless_wrong_type(error)
            except (codec.NewerSchemaError, codec.CorruptFieldError):
                pass
            return None

        return await self._redis.call("read_legacy", work)

    async def read(self, place: Place, cursor: int = 0) -> tuple[int, Sequence[LegacyStream]]:
        """Return the next cursor, 0 at the end, and some streams with readable records.

        A stream that is there for the whole time of a scan is returned at least once.
        """

        def work(client: Client) -> tuple[int, Sequence[LegacyStream]]:
            following, ids = self._scan(client, place, cursor)
            with client.pipeline(transaction=False) as pipeline:
                for stream_id in ids:
                    pipeline.hmget(self._old.meta(stream_id), _FIELDS)
                found = pipeline.execute(raise_on_error=False) if ids else []
            return following, [one for pair in zip(ids, found, strict=True) if (one := _decode(*pair)) is not None]

        return (0, ()) if self._impossible else await self._redis.call("read_legacy", work)

    async def move(self, streams: Sequence[LegacyStream], lease: Lease) -> Moved:
        """Move streams, but for those whose leases another daemon holds. May be repeated."""
        total = Moved()
        for start in range(0, len(streams), BATCH):
            total.add(await self._move(streams[start : start + BATCH], lease))
        return total

    async def _move(self, batch: Sequence[LegacyStream], lease: Lease) -> Moved:
        old, keys = self._old, self._keys
        named = [*old.sets.values(), old.by_path, old.pending_webhooks, keys.by_path, keys.pending_webhooks]
        named += keys.homes

        def run(client: Client, some: Sequence[LegacyStream]) -> list[tuple[str, str]]:
            given: list[Argument] = [lease.holder]
            of_each: list[str] = []
            for one, there in zip(some, self._at_paths(client, some), strict=True):
                key = one.stream_id
                of_each += [old.lease(key), old.meta(key), old.parts(key), keys.meta(key), keys.parts(key)]
                of_each.append(keys.meta(there))
                given += [key, arguments.set_number(one.home), there]
            _, results = run_script(client, scripts.MOVE, [*named, *of_each], given)
            parted = (result.decode(errors="replace").partition("/") for result in results)
            return [(what, holder) for what, _, holder in parted]

        def work(client: Client) -> Moved:
            done, left = Moved(), list(batch)
            for attempt in range(_ATTEMPTS):
                results, again = run(client, left), list[LegacyStream]()
                for one, (what, holder) in zip(left, results, strict=True):
                    if what == "moved":
                        done.moved += 1
                    elif what == "held":
                        done.held[one.stream_id] = holder
                    elif what == "path_changed" and attempt + 1 < _ATTEMPTS:
                        again.append(one)
                    else:
                        done.left[what] = done.left.get(what, 0) + 1
                left = again
                if not left:
                    break
            return done

        return await self._redis.call("move_legacy", work)

    def _at_paths(self, client: Client, some: Sequence[LegacyStream]) -> list[str]:
        """Return the streams in the namespace that have the paths of these; empty where there is none."""
        try:
            raw = client.hmget(self._keys.by_path, [codec.path_field(one.current_path) for one in some])
        except ResponseError as error:
            _raise_unless_wrong_type(error)
            return [""] * len(some)
        return [value.decode(errors="replace") if value is not None else "" for value in raw]

    def _scan(self, client: Client, place: Place, cursor: int) -> tuple[int, list[str]]:
        try:
            if place is Place.BY_PATH:
                following, found = client.hscan(self._old.by_path, cursor, count=BATCH)
                ids = list(found.values())
            else:
                following, ids = client.sscan(self._old.set(StreamSet(place.value)), cursor, count=BATCH)
        except ResponseError as error:
            _raise_unless_wrong_type(error)
            return 0, []
        return int(following), list(dict.fromkeys(raw.decode(errors="replace") for raw in ids))


def _raise_unless_wrong_type(reply: object) -> None:
    if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
        raise reply


def _decode(stream_id: str, raw: Sequence[bytes | None] | Exception) -> LegacyStream | None:
    """Return what was read of a record; ``None`` if there is none, or it cannot be read."""
    if isinstance(raw, Exception):
        _raise_unless_wrong_type(raw)
        return None
    fields = {name: value.decode("utf-8", "surrogateescape") for name, value in zip(_FIELDS, raw, strict=True) if value}
    if "current_path" not in fields:
        return None
    owner = None
    if raw[0] is not None:
        owner = Owner(*(fields.get(name) for name in codec.OWNER_FIELDS))
    try:
        home = rules.default_set(Status(fields.get("status", "")))
    except ValueError:  # of another version; its set counts
        home = StreamSet.ACTIVE
    return LegacyStream(stream_id, owner, fields.get("file_fs_id"), fields["current_path"], home)
