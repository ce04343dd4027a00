"""Streams of earlier versions are moved into the owner's namespace: whole, once, and from wherever a process ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from checkpoint import examples
from checkpoint.conftest import dump
from redis import Redis
from redis.crc import key_slot
from servers.valkey import ValkeyServer, valkey_server
from waiting import until

from cef_trio.checkpoint import schema
from cef_trio.checkpoint.model import Checkpoint, Owner
from cef_trio.checkpoint.redis import codec, legacy
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.legacy import LegacyStream, Moved, Place
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import History, Status, StreamSet
from cef_trio.exceptions import RedisOperationError

pytestmark = pytest.mark.real

OWNER = "node-7"
HERE, THERE = Owner("machine-1", "uuid:1", "/ /"), Owner("machine-2", "uuid:2", "/ /")
PATHS = ["/rec/active.mp4", "/rec/empty.mp4", "/rec/r\udce9named.mp4", "/rec/same.mp4", "/rec/done.mp4"]
OURS = frozenset({"active", "empty", "renamed", "pending", "failed", "second", "done", "superseded", "homeless"})
FOREIGN = frozenset({"first"})


@asynccontextmanager
async def stores(
    server: ValkeyServer, base: str = ""
) -> AsyncIterator[tuple[RedisCheckpointStore, RedisCheckpointStore]]:
    """The store of an earlier version, and that of the namespace."""
    async with (
        RedisCheckpointStore(server.url, key_prefix=base, socket_timeout_seconds=10) as old,
        RedisCheckpointStore(server.url, key_prefix=base, owner=OWNER, socket_timeout_seconds=10) as new,
    ):
        yield old, new


async def fill(store: RedisCheckpointStore, raw: Any) -> dict[str, Checkpoint]:
    """A stream of each kind, as an earlier version leaves them; returns their checkpoints."""
    lease, keys = examples.OURS, store.keys
    part = examples.part
    await store.create(examples.meta("active", owner=HERE), lease, [part(1), part(2)])
    await store.create(examples.meta("empty"), lease)
    await store.create(examples.meta("renamed", owner=HERE), lease, [part(1)])
    await store.rename("renamed", lease, "/rec/r\udce9named.mp4")
    await store.create(examples.meta("pending", owner=HERE, status=Status.PENDING_COMPLETION), lease, [part(1)])
    await store.create(examples.meta("failed", owner=HERE, status=Status.FAILED_S3_REFUSED), lease, [part(1)])
    await store.create(examples.meta("first", path="/rec/same.mp4", owner=THERE), lease, [part(1)])
    await store.create(
        examples.meta("second", path="/rec/same.mp4", owner=HERE), lease, [part(3)], other_owner_stream_id="first"
    )
    done = {"path": "/rec/done.mp4", "owner": HERE, "status": Status.COMPLETED, "completed_at_utc": examples.later(9)}
    await store.create(examples.meta("superseded", **done), lease)
    await store.create(examples.meta("done", **done), lease, replaced_stream_id="superseded")
    await store.create(examples.meta("homeless", owner=HERE), lease, [part(1)])
    raw.srem(keys.set(StreamSet.ACTIVE), "homeless")
    raw.sadd(keys.pending_webhooks, "done")
    for stream_id in OURS | FOREIGN:
        raw.hdel(keys.meta(stream_id), schema.FIELD)
        raw.delete(keys.lease(stream_id))
    raw.hdel(keys.by_path, codec.COUNT_FIELD)
    for key in {*raw.keys(f"{keys.prefix}*")}:
        name = key.decode().removeprefix(keys.prefix)
        if not name.startswith(("stream:", "webhooks:")) and name not in {"streams:by_path", *SETS}:
            raw.delete(key)
    return {stream_id: found for stream_id in OURS | FOREIGN if (found := await store.load(stream_id)) is not None}


SETS = frozenset(f"streams:{stream_set.value}" for stream_set in StreamSet)


async def move_all(
    store: RedisCheckpointStore, is_ours: Callable[[LegacyStream], bool] = lambda one: one.owner in {HERE, None}
) -> Moved:
    total = Moved()
    for place in Place:
        cursor = 0
        while True:
            cursor, found = await store.legacy.read(place, cursor)
            total.add(await store.legacy.move([one for one in found if is_ours(one)], examples.OURS))
            if not cursor:
                break
    return total


def without_schema(checkpoint: Checkpoint | None) -> Checkpoint | None:
    return checkpoint and replace(checkpoint, meta=replace(checkpoint.meta, schema=1))


@pytest.mark.parametrize("base", ["", "cef:", "{cef}:"])
async def test_our_streams_move_whole_and_those_of_others_stay(valkey: ValkeyServer, raw: Any, base: str) -> None:
    async with stores(valkey, base) as (old, new):
        before = await fill(old, raw)
        by_path = await old.find_by_path(PATHS, owner=lambda _: HERE.name)
        theirs = {key: raw.dump(key) for key in (old.keys.meta("first"), old.keys.parts("first"))}
        assert await new.legacy.count() == len(before) - 1, "one is in no set"
        assert (await move_all(new)).moved == len(OURS)
        for stream_id in OURS:
            assert without_schema(await new.load(stream_id)) == without_schema(before[stream_id]), stream_id
            assert await old.load(stream_id) is None
        sets = {stream_set: await new.members(stream_set) for stream_set in StreamSet}
        for stream_id in OURS:
            assert [one for one, ids in sets.items() if stream_id in ids] == [before[stream_id].stream_set], stream_id
        found = await new.find_by_path(PATHS, owner=lambda _: HERE.name)
        assert {path: one.meta.stream_id for path, one in found.items()} == {
            path: one.meta.stream_id for path, one in by_path.items()
        }
        assert await new.pending_webhooks() == {"done"}
        assert await new.mend_history() == 0, "they are in the indexes by time too"
        assert [key for key, _ in await new.ended(History.COMPLETED, before_ms=1 << 50)] == ["done", "superseded"]
        assert await new.legacy.count() == 1
        assert {key: raw.dump(key) for key in theirs} == theirs
        left = {key.decode() for key in raw.keys("*") if not key.decode().startswith(new.keys.prefix)}
        assert left == {*theirs, old.keys.by_path, old.keys.set(StreamSet.ACTIVE)}
        assert raw.hgetall(old.keys.by_path) == {b"/rec/same.mp4": b"first"}
        state = dump(raw)
        assert await move_all(new) == Moved()
        assert dump(raw) == state


async def test_a_stream_that_another_daemon_holds_stays_whole_until_its_lease_ends(
    valkey: ValkeyServer, raw: Any
) -> None:
    async with stores(valkey) as (old, new):
        await fill(old, raw)
        assert await old.acquire("active", examples.THEIRS)
        assert await old.acquire("pending", examples.OURS)
        whole = {key: raw.dump(key) for key in (old.keys.meta("active"), old.keys.parts("active"))}
        done = await move_all(new)
        assert done.held == {"active": examples.THEIRS.value}
        assert done.moved == len(OURS) - 1, "a lease of an earlier process of ours does not count"
        assert {key: raw.dump(key) for key in whole} == whole
        assert await old.holders(["active", "pending"]) == {"active": examples.THEIRS.value}
        raw.delete(old.keys.lease("active"))
        assert (await move_all(new)).moved == 1


class EndsAt:
    """Ends the process at a call, before it is made or after it."""

    def __init__(self, store: RedisCheckpointStore, number: int, *, before: bool) -> None:
        self._call, self._number, self._before = store._redis.call, number, before
        self.calls = 0
        store._redis.call = self  # type: ignore[method-assign]

    async def __call__(self, operation: str, work: Callable[[Any], Any]) -> Any:
        self.calls += 1
        if self.calls == self._number and self._before:
            raise SystemExit
        result = await self._call(operation, work)
        if self.calls == self._number:
            raise SystemExit
        return result


@pytest.mark.parametrize("before", [True, False])
async def test_wherever_a_process_ends_the_next_one_continues(
    valkey: ValkeyServer, raw: Any, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    monkeypatch.setattr(legacy, "BATCH", 2)
    async with stores(valkey) as (old, new):
        await fill(old, raw)
        await move_all(new)
        expected = dump(raw)
    number, ended = 0, True
    while ended:
        number += 1
        valkey.flush()
        async with stores(valkey) as (old, new):
            checkpoints = await fill(old, raw)
            ending = EndsAt(new, number, before=before)
            try:
                await move_all(new)
                ended = False
            except SystemExit:
                ended = True
            for stream_id, checkpoint in checkpoints.items():  # in one of the two places, whole
                there = [one for one in (await old.load(stream_id), await _loaded(valkey, stream_id)) if one]
                assert list(map(without_schema, there)) == [without_schema(checkpoint)]
        async with stores(valkey) as (_, new):
            await move_all(new)
        assert _untimed(dump(raw)) == _untimed(expected), ending.calls
    assert number > len(OURS) / 2


async def _loaded(server: ValkeyServer, stream_id: str) -> Checkpoint | None:
    async with RedisCheckpointStore(server.url, owner=OWNER, socket_timeout_seconds=10) as store:
        return await store.load(stream_id)


def _untimed(state: dict[bytes, tuple[bytes, bool]]) -> dict[bytes, tuple[bytes, bool]]:
    """Without the index of leases, whose times are those of the move."""
    return {key: value for key, value in state.items() if not key.endswith(b"leases")}


async def test_a_stream_that_was_moved_in_part_is_moved_to_its_end(valkey: ValkeyServer, raw: Any) -> None:
    """No script stops half way, unless the server itself refuses a command of it."""
    async with stores(valkey) as (old, new):
        before = await fill(old, raw)
        raw.rename(old.keys.meta("active"), new.keys.meta("active"))
        found = LegacyStream("active", HERE, None, "/rec/active.mp4", StreamSet.ACTIVE)
        assert (await new.legacy.move([found], examples.OURS)).moved == 1
        assert without_schema(await new.load("active")) == without_schema(before["active"])
        assert (await new.find_by_path(["/rec/active.mp4"]))["/rec/active.mp4"].meta.stream_id == "active"
        assert "active" not in await old.members(StreamSet.ACTIVE)


async def test_what_cannot_be_moved_is_left_and_counted(valkey: ValkeyServer, raw: Any) -> None:
    async with stores(valkey) as (old, new):
        await fill(old, raw)
        raw.hset(old.keys.meta("active"), schema.FIELD, str(schema.CURRENT + 1))
        raw.copy(old.keys.meta("pending"), new.keys.meta("pending"))
        raw.delete(old.keys.meta("failed"))
        raw.sadd(old.keys.set(StreamSet.ACTIVE), b"\xff", "nonsense")
        raw.delete(old.keys.meta("empty"))
        raw.rpush(old.keys.meta("empty"), "x")
        before = {key: raw.dump(key) for key in map(old.keys.meta, ("active", "pending", "empty"))}
        done = await move_all(new)
        assert done.left["newer"] >= 1
        assert done.left["both"] >= 1
        assert {key: raw.dump(key) for key in before} == before
        gone = [LegacyStream(one, HERE, None, "/rec/x.mp4", StreamSet.ACTIVE) for one in ("failed", "empty")]
        assert (await new.legacy.move(gone, examples.OURS)).left == {"absent": 1, "unreadable": 1}


@pytest.mark.parametrize(
    ("there", "beside_before", "leads_to"),
    [
        ({"owner": HERE}, False, "there"),
        ({"owner": HERE}, True, "there"),
        ({"owner": THERE}, False, "moved"),
        ({"owner": THERE}, True, "moved"),
        ({}, False, "there"),
        ({}, True, "moved"),
        (None, False, "moved"),
    ],
    ids=["ours", "ours-beside", "other-owner", "other-owner-beside", "no-owner", "no-owner-beside", "no-record"],
)
async def test_a_stream_of_the_same_owner_that_has_the_path_in_the_namespace_keeps_it(
    valkey: ValkeyServer, raw: Any, there: dict[str, Any] | None, beside_before: bool, leads_to: str
) -> None:
    path = "/rec/a.mp4"
    async with stores(valkey) as (old, new):
        if beside_before:
            await old.create(examples.meta("first", path=path, owner=THERE), examples.OURS)
        other = "first" if beside_before else None
        await old.create(examples.meta("moved", path=path, owner=HERE), examples.OURS, other_owner_stream_id=other)
        await new.create(examples.meta("there", path=path, **(there or {})), examples.OURS)
        if there is None:
            raw.delete(new.keys.meta("there"))
        found = LegacyStream("moved", HERE, None, path, StreamSet.ACTIVE)
        assert (await new.legacy.move([found], examples.OURS)).moved == 1
        known = await new.find_by_path([path], owner=lambda _: HERE.name)
        assert known[path].meta.stream_id == leads_to
        assert await new.members(StreamSet.ACTIVE) == {"moved", "there"}


async def test_a_path_that_gets_another_stream_during_the_move_is_looked_at_again(
    valkey: ValkeyServer, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/rec/a.mp4"
    async with stores(valkey) as (old, new):
        await old.create(examples.meta("moved", path=path, owner=HERE), examples.OURS)
        await new.create(examples.meta("there", path=path, owner=HERE), examples.OURS)
        raw.delete(new.keys.by_path)
        moving, real = new.legacy, type(new.legacy)._at_paths

        def then_created(*given: Any) -> list[str]:
            seen = real(*given)
            raw.hset(new.keys.by_path, path, "there")
            return seen

        monkeypatch.setattr(type(moving), "_at_paths", then_created)
        found = LegacyStream("moved", HERE, None, path, StreamSet.ACTIVE)
        assert (await moving.move([found], examples.OURS)).moved == 1
        assert raw.hget(new.keys.by_path, path) == b"there"


@pytest.mark.parametrize("key", ["by_path", "pending_webhooks", *StreamSet])
async def test_a_key_of_a_wrong_type_stops_no_stream(valkey: ValkeyServer, raw: Any, key: str) -> None:
    async with stores(valkey) as (old, new):
        await fill(old, raw)
        for keys in (old.keys, new.keys):
            name = keys.set(StreamSet(key)) if key in set(StreamSet) else getattr(keys, key)
            raw.delete(name)
            raw.set(name, "garbage")
        await move_all(new)
        for stream_id in ("done", "active", "pending", "failed"):
            places = [await store.load(stream_id) for store in (old, new)]
            assert sum(place is not None for place in places) == 1
        assert await new.legacy.count() >= 0


async def test_a_user_who_may_not_read_the_old_keys_is_refused(valkey: ValkeyServer, raw: Any) -> None:
    async with stores(valkey) as (old, _):
        await fill(old, raw)
    raw.acl_setuser(
        "narrow", enabled=True, passwords=["+secret"], keys=[f"{Keys('', OWNER).prefix}*"], commands=["+@all"]
    )
    url = valkey.url.replace("redis://", "redis://narrow:secret@")
    async with RedisCheckpointStore(url, owner=OWNER, socket_timeout_seconds=10) as store:
        with pytest.raises(RedisOperationError) as caught:
            await store.legacy.count()
        assert caught.value.rejected
        for name in ("other", OWNER):
            raw.sadd(store.keys.owners, name)
        with pytest.raises(RedisOperationError):
            await store.owners.known_elsewhere(["1"])  # nor the names
        raw.acl_setuser("narrow", keys=["{fleet}:*"])
        assert await store.owners.known_elsewhere(["1", "2"]) == {"1", "2"}, "what cannot be known is another's"
    raw.acl_deluser("narrow")


@pytest.mark.parametrize("base", ["{cef}:", "x{a}y{b}"])
def test_with_a_hash_tag_of_its_own_both_places_are_in_one_slot(base: str) -> None:
    old, new = Keys(base), Keys(base, OWNER)
    names: Sequence[str] = [
        *(old.by_path, old.pending_webhooks, *old.sets.values(), old.meta("s"), old.lease("s"), old.parts("s")),
        *(new.by_path, new.pending_webhooks, *new.homes, new.meta("s"), new.parts("s")),
    ]
    assert len({key_slot(name.encode()) for name in names}) == 1


async def test_in_a_cluster_streams_move_within_the_slot_of_the_hash_tag() -> None:
    with (
        valkey_server(tcp=True, arguments=["--cluster-enabled", "yes"]) as server,
        Redis(unix_socket_path=str(server.socket_path)) as raw,
    ):
        assert server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
        await until(lambda: b"cluster_state:ok" in server.command("CLUSTER", "INFO"))
        url, base = f"redis+cluster://127.0.0.1:{server.port}", "{cef}:"
        async with (
            RedisCheckpointStore(url, key_prefix=base, socket_timeout_seconds=10) as old,
            RedisCheckpointStore(url, key_prefix=base, owner=OWNER, socket_timeout_seconds=10) as new,
        ):
            before = await fill(old, raw)
            assert (await move_all(new)).moved == len(OURS)
            for stream_id in OURS:
                assert without_schema(await new.load(stream_id)) == without_schema(before[stream_id]), stream_id
            assert await new.legacy.count() == 1


async def test_a_cluster_without_a_hash_tag_had_no_streams_of_earlier_versions() -> None:
    store = RedisCheckpointStore("redis+cluster://127.0.0.1:1", owner=OWNER)
    assert await store.legacy.count() == 0
    assert await store.legacy.read(Place.ACTIVE) == (0, ())
