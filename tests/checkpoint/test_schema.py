"""Schemas of records and namespaces: a write raises an older record, a newer one is left alone (both stores)."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoint.examples import OURS, THEIRS, Subject, later, meta, part
from servers.valkey import ValkeyServer
from structlog.testing import capture_logs

from cef_trio.checkpoint import schema
from cef_trio.checkpoint.commit import Change, ExitState
from cef_trio.checkpoint.redis import codec
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.exceptions import LeaseLostError, PathTakenError, RecordUnreadableError

KEYS = Keys()
NEWER = schema.CURRENT + 1
WRITES: dict[str, tuple[Any, ...]] = {
    "update": (Change({"failure_reason": "why"}),),
    "transition": (Status.PENDING_COMPLETION, Change()),
    "record_part": (part(2),),
    "adopt_parts": ([part(3)],),
    "cut_parts": (0,),
    "start_over": (Change(),),
    "rename": ("/rec/new.mp4",),
}


def test_each_schema_says_what_changed() -> None:
    assert list(schema.CHANGES) == list(range(1, schema.CURRENT + 1))
    assert all(schema.CHANGES.values())


@pytest.mark.parametrize("text", ["", "0", "-1", "2.0", " 2", "two", "\u0662"])
def test_a_schema_is_a_decimal_number_from_1_on(text: str) -> None:
    with pytest.raises(ValueError, match="no schema"):
        schema.parse(text)


async def test_a_new_record_is_of_the_current_schema(subject: Subject) -> None:
    await subject.store.create(meta("s1", schema=1), OURS)
    checkpoint = await subject.store.load("s1")
    assert checkpoint is not None
    assert checkpoint.meta.schema == schema.CURRENT


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_raises_a_record_without_a_schema_in_the_same_step(subject: Subject, write: str) -> None:
    await subject.store.create(meta("s1"), OURS, [part(1)])
    subject.set_schema("s1", 1)
    before = await subject.store.load("s1")
    assert before is not None
    assert before.meta.schema == 1
    await getattr(subject.store, write)("s1", OURS, *WRITES[write])
    after = await subject.store.load("s1")
    assert after is not None
    assert after.meta.schema == schema.CURRENT


async def test_saving_at_shutdown_raises_a_record_and_reading_it_does_not(subject: Subject) -> None:
    await subject.store.create(meta("s1"), OURS)
    await subject.store.create(meta("s2"), OURS)
    for name in ("s1", "s2"):
        subject.set_schema(name, 1)
    assert not await subject.store.save_interrupted([ExitState("s1", Status.INTERRUPTED_SHUTDOWN, later(9))], OURS)
    await subject.store.find_by_path(["/rec/s2.mp4"])
    await subject.store.acquire("s2", OURS)
    known = await subject.store.load_metas(["s1", "s2"])
    assert {name: one.meta.schema for name, one in known.items()} == {"s1": schema.CURRENT, "s2": 1}


async def test_a_newer_record_is_named_with_what_every_schema_keeps_and_hides_no_other(subject: Subject) -> None:
    for name in ("s1", "s2"):
        await subject.store.create(meta(name), OURS)
    subject.set_schema("s2", NEWER)
    with capture_logs() as logs:
        for _ in range(3):
            metas = await subject.store.load_metas(["s1", "s2", "s3"])
            by_path = await subject.store.find_by_path(["/rec/s1.mp4", "/rec/s2.mp4"])
    assert [entry["event"] for entry in logs] == ["records_newer"]
    assert (set(metas), set(metas.unreadable), set(metas.newer)) == ({"s1"}, {"s2"}, {"s2"})
    assert (set(by_path), set(by_path.newer)) == ({"/rec/s1.mp4"}, {"/rec/s2.mp4"})
    found = metas.newer["s2"]
    assert (found.schema, found.stream_set, found.current_path, found.holder) == (
        str(NEWER),
        StreamSet.ACTIVE,
        b"/rec/s2.mp4",
        OURS.value,
    )
    assert not found.is_waiting
    assert not subject.store.unreadable.known
    assert set(subject.store.unreadable.newer) == {KEYS.meta("s2")}
    assert set(subject.store.unreadable.newer_ids) == {"s2"}
    assert not subject.store.unreadable.stream_ids
    with pytest.raises(RecordUnreadableError, match=f"of schema {NEWER}, of a newer version"):
        await subject.store.load("s2")


@pytest.mark.parametrize("write", WRITES)
async def test_a_daemon_with_the_lease_and_a_cached_record_cannot_write_to_a_record_that_became_newer(
    subject: Subject, write: str
) -> None:
    """The lease does not protect here: it is ours. Whoever raised the record, nothing of it is changed."""
    await subject.store.create(meta("s1"), OURS, [part(1)])
    subject.set_schema("s1", NEWER)
    before = subject.dump()
    with pytest.raises(RecordUnreadableError) as caught:
        await getattr(subject.store, write)("s1", OURS, *WRITES[write])
    assert not caught.value.transient
    assert subject.dump() == before
    assert set(subject.store.unreadable.newer) == {KEYS.meta("s1")}


@pytest.mark.parametrize("write", WRITES)
async def test_a_daemon_whose_stream_a_newer_one_took_over_has_lost_its_lease(subject: Subject, write: str) -> None:
    """As after a pause longer than the lease: the newer daemon took the lease, and raised the record."""
    await subject.store.create(meta("s1"), OURS, [part(1)])
    subject.expire("s1")
    assert await subject.store.acquire("s1", THEIRS)
    subject.set_schema("s1", NEWER)
    await subject.store.release(["s1"], THEIRS)
    before = subject.dump()
    assert await subject.store.renew(["s1"], OURS) == {"s1"}
    with pytest.raises(LeaseLostError):
        await getattr(subject.store, write)("s1", OURS, *WRITES[write])
    assert subject.dump() == before


async def test_saving_at_shutdown_leaves_a_newer_record_and_saves_the_others(subject: Subject) -> None:
    for name in ("s1", "s2", "s3"):
        await subject.store.create(meta(name), OURS)
    subject.set_schema("s2", NEWER)
    states = [ExitState(name, Status.INTERRUPTED_SHUTDOWN, later(9)) for name in ("s1", "s2", "s3")]
    assert await subject.store.save_interrupted(states, OURS) == {"s2"}
    assert await subject.store.acquire("s2", THEIRS)  # its lease is released
    subject.set_schema("s2", schema.CURRENT)
    known = await subject.store.load_metas(["s1", "s2", "s3"])
    assert [known[name].meta.status for name in ("s1", "s2", "s3")] == [
        Status.INTERRUPTED_SHUTDOWN,
        Status.ACTIVE,
        Status.INTERRUPTED_SHUTDOWN,
    ]


async def test_a_newer_record_is_not_forgotten_and_its_path_gets_no_second_stream(subject: Subject) -> None:
    await subject.store.create(meta("s1"), OURS)
    await subject.store.transition("s1", OURS, Status.FAILED_UNEXPECTED, Change())
    await subject.store.release(["s1"], OURS)
    subject.set_schema("s1", NEWER)
    before = subject.dump()
    await subject.store.forget("s1")
    with pytest.raises(PathTakenError):
        await subject.store.create(meta("s2", path="/rec/s1.mp4"), OURS)
    assert subject.dump() == before


async def test_a_namespace_is_raised_once_and_never_lowered(subject: Subject) -> None:
    assert await subject.store.raise_schema() is None
    assert await subject.store.raise_schema() == schema.CURRENT


@pytest.mark.real
async def test_a_newer_or_odd_schema_of_a_namespace_stays(valkey: ValkeyServer, raw: Any) -> None:
    async with RedisCheckpointStore(valkey.url, key_prefix="{a}:", socket_timeout_seconds=10) as store:
        assert await store.raise_schema() is None
        assert raw.get("{a}:schema") == b"%d" % schema.CURRENT
        raw.set("{a}:schema", "1")
        assert await store.raise_schema() == 1
        assert raw.get("{a}:schema") == b"%d" % schema.CURRENT
        raw.set("{a}:schema", str(NEWER))
        assert await store.raise_schema() == NEWER
        assert raw.get("{a}:schema") == b"%d" % NEWER
        raw.set("{a}:schema", "a hand slipped")
        assert await store.raise_schema() is None
        assert raw.get("{a}:schema") == b"a hand slipped"
        assert set(store.unreadable.known) == {"{a}:schema"}


@pytest.mark.real
async def test_a_schema_that_is_no_number_makes_its_record_unreadable_and_unwritable(
    valkey: ValkeyServer, raw: Any
) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta("s1"), OURS)
        raw.hset(KEYS.meta("s1"), "schema", "two")
        with pytest.raises(RecordUnreadableError, match="nothing was written"):
            await store.update("s1", OURS, Change({"failure_reason": "why"}))
        found = await store.load_metas(["s1"])
        assert "field 'schema' cannot be read" in found.unreadable["s1"]
        assert not found.newer


@pytest.mark.real
async def test_a_lost_index_of_paths_leads_to_newer_records_too(valkey: ValkeyServer, raw: Any) -> None:
    """Without its entry the file of a newer record would get a second stream."""
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        for name in ("s1", "s2"):
            await store.create(meta(name), OURS)
    raw.hset(KEYS.meta("s2"), "schema", str(NEWER))
    raw.delete(KEYS.by_path)
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        found = await store.find_by_path(["/rec/s1.mp4", "/rec/s2.mp4"])
        assert (set(found), set(found.newer)) == ({"/rec/s1.mp4"}, {"/rec/s2.mp4"})


def test_a_newer_record_is_not_decoded_whatever_else_it_holds() -> None:
    encoded = {name.encode(): value for name, value in codec.encode_meta(meta("s1")).items()}
    changed = {**encoded, b"schema": b"%d" % NEWER, b"status": b"teleported", b"part_size": b"many"}
    with pytest.raises(codec.NewerSchemaError) as caught:
        codec.decode_meta(changed, of="s1")
    assert caught.value.schema == NEWER
