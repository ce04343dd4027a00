"""Kind 9: a key that cannot be read is one stream's trouble. It is set aside by name, and all others go on (P6, P9)."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoint.examples import OURS, THEIRS, Subject, later, meta, part
from servers.valkey import ValkeyServer
from structlog.testing import capture_logs

from cef_trio.checkpoint.commit import Change, ExitState
from cef_trio.checkpoint.protocols import Beat
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.exceptions import LeaseLostError, RecordUnreadableError, RedisOperationError

KEYS = Keys()
NOTHING = Change()


async def three(subject: Subject) -> None:
    for number in (1, 2, 3):
        await subject.store.create(meta(f"s{number}"), OURS, [part(1)])


async def test_kind9_a_record_of_a_wrong_type_is_set_aside_by_name_and_hides_no_other(subject: Subject) -> None:
    await three(subject)
    subject.corrupt(KEYS.meta("s2"))
    metas = await subject.store.load_metas(["s1", "s2", "s3", "s4"])
    by_path = await subject.store.find_by_path([f"/rec/s{number}.mp4" for number in (1, 2, 3, 4)])
    assert (set(metas), set(metas.unreadable)) == ({"s1", "s3"}, {"s2"})
    assert (set(by_path), set(by_path.unreadable)) == ({"/rec/s1.mp4", "/rec/s3.mp4"}, {"/rec/s2.mp4"})
    assert set(subject.store.unreadable.known) == {KEYS.meta("s2")}
    with pytest.raises(RecordUnreadableError):
        await subject.store.load("s2")


@pytest.mark.parametrize(
    "write", ["update", "transition", "record_part", "record_put", "rename", "start_over", "adopt_parts"]
)
async def test_kind9_nothing_is_written_to_a_record_of_a_wrong_type(subject: Subject, write: str) -> None:
    await three(subject)
    subject.corrupt(KEYS.meta("s2"))
    before = subject.dump()
    given: dict[str, tuple[Any, ...]] = {
        "update": (Change({"failure_reason": "why"}),),
        "transition": (Status.RETRYING, NOTHING),
        "record_part": (part(2),),
        "record_put": (part(1), NOTHING),
        "rename": ("/rec/new.mp4",),
        "start_over": (NOTHING,),
        "adopt_parts": ([part(3)],),
    }
    with pytest.raises(RedisOperationError) as caught:
        await getattr(subject.store, write)("s2", OURS, *given[write])
    assert not caught.value.transient
    assert subject.dump() == before


async def test_kind9_one_record_of_a_wrong_type_does_not_keep_the_others_from_being_saved(subject: Subject) -> None:
    await three(subject)
    subject.corrupt(KEYS.meta("s2"))
    exit_states = [ExitState(f"s{number}", Status.INTERRUPTED_SHUTDOWN, later(9)) for number in (1, 2, 3)]
    assert await subject.store.save_interrupted(exit_states, OURS) == {"s2"}
    saved = await subject.store.load_metas(["s1", "s3"])
    assert {known.meta.status for known in saved.values()} == {Status.INTERRUPTED_SHUTDOWN}


async def test_kind9_one_lease_of_a_wrong_type_is_lost_and_all_others_are_renewed_and_released(
    subject: Subject,
) -> None:
    await three(subject)
    subject.corrupt(KEYS.lease("s2"))
    assert await subject.store.renew(["s1", "s2", "s3"], OURS) == {"s2"}
    assert set(await subject.store.holders(["s1", "s2", "s3"])) == {"s1", "s3"}
    assert not await subject.store.acquire("s2", OURS)
    assert subject.store.unreadable.why_of("s2") == f"{KEYS.lease('s2')} is of a wrong type"
    with pytest.raises(LeaseLostError):
        await subject.store.update("s2", OURS, Change({"failure_reason": "why"}))
    exit_states = [ExitState(f"s{number}", Status.INTERRUPTED_SHUTDOWN, later(9)) for number in (1, 2)]
    assert await subject.store.save_interrupted(exit_states, OURS) == {"s2"}
    await subject.store.release(["s2", "s3"], OURS)
    assert await subject.store.acquire("s3", THEIRS)
    subject.repair(KEYS.lease("s2"))
    assert await subject.store.acquire("s2", OURS)
    assert subject.store.unreadable.why_of("s2") is None


async def test_kind9_an_index_of_leases_of_a_wrong_type_is_named_and_stops_no_write(subject: Subject) -> None:
    subject.corrupt(KEYS.leases)
    await three(subject)
    assert await subject.store.renew(["s1"], OURS) == frozenset()
    await subject.store.release(["s2"], OURS)
    assert (await subject.store.expired(0)).stream_ids == frozenset()
    assert dict(subject.store.unreadable.known) == {KEYS.leases: f"{KEYS.leases} is of a wrong type"}
    beat = await subject.store.beat(Beat(lease=OURS, renewed_ids=["s1"], expired_since_ms=0))
    assert beat.expired is not None
    assert not beat.expired.stream_ids
    subject.repair(KEYS.leases)
    subject.wait(0.002)
    assert "s2" in (await subject.store.expired(0)).stream_ids
    assert not subject.store.unreadable.known


async def test_kind9_parts_of_a_wrong_type_keep_the_record_readable_and_are_named(subject: Subject) -> None:
    await three(subject)
    subject.corrupt(KEYS.parts("s2"))
    with pytest.raises(RecordUnreadableError, match=r"stream:s2:parts is"):
        await subject.store.load("s2")
    assert set(await subject.store.load_metas(["s1", "s2"])) == {"s1", "s2"}
    assert set(subject.store.unreadable.known) == {KEYS.parts("s2")}
    subject.repair(KEYS.parts("s2"))
    assert await subject.store.load("s2") is not None
    assert not subject.store.unreadable.known


@pytest.mark.parametrize("stream_set", StreamSet)
async def test_kind9_a_set_of_a_wrong_type_stops_no_stream(subject: Subject, stream_set: StreamSet) -> None:
    await three(subject)
    subject.corrupt(KEYS.set(stream_set))
    assert await subject.store.members(stream_set) == frozenset()
    assert set(await subject.store.count()) == set(StreamSet) - {stream_set}
    await subject.store.create(meta("s4"), OURS)
    await subject.store.transition("s1", OURS, Status.PENDING_COMPLETION, NOTHING)
    await subject.store.transition("s1", OURS, Status.S3_COMPLETED, NOTHING)
    await subject.store.transition("s1", OURS, Status.COMPLETED, NOTHING, enqueue_webhook=True)
    await subject.store.transition("s2", OURS, Status.FAILED_UNEXPECTED, NOTHING)
    found = await subject.store.load_metas(["s1", "s2", "s3", "s4"])
    assert {key: known.meta.status for key, known in found.items()} == {
        "s1": Status.COMPLETED,
        "s2": Status.FAILED_UNEXPECTED,
        "s3": Status.ACTIVE,
        "s4": Status.ACTIVE,
    }
    assert {key: known.stream_set for key, known in found.items()} == {
        "s1": StreamSet.COMPLETED,
        "s2": StreamSet.FAILED,
        "s3": StreamSet.ACTIVE,
        "s4": StreamSet.ACTIVE,
    }
    await subject.store.forget("s1")
    assert await subject.store.load("s1") is None
    assert set(subject.store.unreadable.known) == {KEYS.set(stream_set)}


async def test_kind9_pending_webhooks_of_a_wrong_type_keep_no_stream_from_its_end(subject: Subject) -> None:
    await subject.store.create(meta("s1", status=Status.S3_COMPLETED), OURS)
    subject.corrupt(KEYS.pending_webhooks)
    await subject.store.transition("s1", OURS, Status.COMPLETED, NOTHING, enqueue_webhook=True)
    assert await subject.store.pending_webhooks() == frozenset()
    assert set(subject.store.unreadable.known) == {KEYS.pending_webhooks}


async def test_kind9_what_cannot_be_read_is_logged_once_and_forgotten_when_it_is_gone(subject: Subject) -> None:
    await three(subject)
    subject.corrupt(KEYS.meta("s2"))
    with capture_logs() as logs:
        for _ in range(5):
            await subject.store.load_metas(["s1", "s2"])
            await subject.store.find_by_path(["/rec/s2.mp4"])
    assert [(entry["event"], entry["key"]) for entry in logs] == [("checkpoint_unreadable", KEYS.meta("s2"))]
    subject.repair(KEYS.meta("s2"))
    await subject.store.load_metas(["s2"])
    assert not subject.store.unreadable.known


@pytest.mark.real
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"status": "paused_by_moon"}, "field 'status' cannot be read"),
        ({"part_size": "many"}, "field 'part_size' cannot be read"),
        ({"stream_id": "s1"}, "field 'stream_id' is another stream's"),
        ({"file_ino": None}, "field 'file_ino' is missing"),
        ({"status": None}, "field 'status' is missing"),
    ],
)
async def test_kind9_a_field_that_no_daemon_wrote_sets_its_record_aside(
    valkey: ValkeyServer, raw: Any, fields: dict[str, str | None], says: str
) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        for number in (1, 2, 3):
            await store.create(meta(f"s{number}"), OURS)
        for name, value in fields.items():
            if value is None:
                raw.hdel("stream:s2:meta", name)
            else:
                raw.hset("stream:s2:meta", name, value)
        found = await store.load_metas(["s1", "s2", "s3"])
        assert set(found) == {"s1", "s3"}
        assert says in found.unreadable["s2"]
        assert says in store.unreadable.known["stream:s2:meta"]


@pytest.mark.real
async def test_kind9_what_redis_refuses_for_another_reason_is_not_taken_for_a_wrong_type(
    valkey: ValkeyServer, raw: Any
) -> None:
    raw.execute_command("ACL", "SETUSER", "blind", "on", ">x", "~*", "+@all", "-smembers", "-sismember", "-get")
    try:
        url = valkey.url.replace("redis://", "redis://blind:x@")
        async with RedisCheckpointStore(url, socket_timeout_seconds=10) as store:
            for call in (store.members(StreamSet.ACTIVE), store.load_metas(["s1"]), store.acquire("s1", OURS)):
                with pytest.raises(RedisOperationError, match=r"NOPERM|ermission|not allowed"):
                    await call
            assert not store.unreadable.known
    finally:
        raw.execute_command("ACL", "DELUSER", "blind")


@pytest.mark.real
async def test_kind9_an_index_of_paths_of_a_wrong_type_is_named_with_what_to_do_and_made_anew_of_the_records(
    valkey: ValkeyServer, raw: Any
) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta("s1", status=Status.ACTIVE), OURS)
        await store.create(meta("s2"), OURS)
        for status in (Status.PENDING_COMPLETION, Status.S3_COMPLETED, Status.COMPLETED):
            await store.transition("s1", OURS, status, NOTHING)
        paths = ["/rec/s1.mp4", "/rec/s2.mp4", "/rec/s3.mp4"]
        raw.delete(KEYS.by_path)
        raw.set(KEYS.by_path, "a hand slipped")
        with capture_logs() as logs:
            for _ in range(5):
                with pytest.raises(RedisOperationError, match=r"by_path is of a wrong type.*redis-cli RENAME") as no:
                    await store.find_by_path(paths)
                assert not no.value.transient
            assert [(entry["event"], entry["key"]) for entry in logs] == [("checkpoint_unreadable", KEYS.by_path)]
            raw.rename(KEYS.by_path, f"{KEYS.by_path}.broken")
            assert set(await store.find_by_path(paths)) == {"/rec/s1.mp4", "/rec/s2.mp4"}
        assert logs[-1]["event"] == "path_index_rebuilt"
        assert not store.unreadable.known
    raw.delete(KEYS.by_path)
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:  # the next life asks too
        assert set(await store.find_by_path(paths)) == {"/rec/s1.mp4", "/rec/s2.mp4"}


@pytest.mark.real
async def test_kind9_each_key_of_many_streams_is_checked_for_its_type(valkey: ValkeyServer, raw: Any) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta("s1"), OURS)
        await store.create(meta("s2"), OURS)
        for status in (Status.PENDING_COMPLETION, Status.S3_COMPLETED, Status.COMPLETED):
            await store.transition("s1", OURS, status, NOTHING)
        await store.check_types()
        assert not store.unreadable.known  # what the daemon writes is of these types
        for key in KEYS.types:
            raw.delete(key)
            raw.lpush(key, "a hand slipped")
            await store.check_types()
            assert store.unreadable.known[key] == f"{key} is of a wrong type"
        raw.delete(*KEYS.types)
        await store.check_types()
        assert not store.unreadable.known


@pytest.mark.real
async def test_kind12_of_two_records_with_one_path_the_open_one_is_found_and_what_is_in_the_index_stays(
    valkey: ValkeyServer, raw: Any
) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta("old", current_path="/rec/a.mp4"), OURS)
        await store.transition("old", OURS, Status.FAILED_UNEXPECTED, NOTHING)
        await store.create(meta("new", current_path="/rec/a.mp4"), OURS, replaced_stream_id="old")
        raw.delete(KEYS.by_path)
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        found = await store.find_by_path(["/rec/a.mp4"])
        assert found["/rec/a.mp4"].meta.stream_id == "new"
