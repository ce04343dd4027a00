"""Ended streams by time, completed ones by their file, open ones by their lease: the same from both stores."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest
import trio
from checkpoint.examples import OURS, START, THEIRS, Subject, later, meta, part
from redis import Redis
from servers.valkey import ValkeyServer, valkey_server
from waiting import until

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.commit import Change, ExitState
from cef_trio.checkpoint.model import ENDING_MS, FileIdentity, Lease, Owner
from cef_trio.checkpoint.protocols import Beat, CheckpointStore, StreamSummary
from cef_trio.checkpoint.pruning import MAX_KEPT, OldStreams
from cef_trio.checkpoint.redis import codec, indexes
from cef_trio.checkpoint.redis.keys import Keys, job_lock_name
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import ENDED, FAILED, History, Status, StreamSet, count_known

FAR = 10**13
START_MS = rules.ended_at_ms(meta())
WHEN = {"last_activity_at_utc": later(5)}


async def histories(store: CheckpointStore, stream_id: str = "s1") -> dict[History, int]:
    """Where the stream is, and at which time."""
    found = {history: dict(await store.ended(history, before_ms=FAR)) for history in History}
    assert await store.count_ended() == {history: len(times) for history, times in found.items()}
    return {history: times[stream_id] for history, times in found.items() if stream_id in times}


async def complete(store: CheckpointStore, stream_id: str, **fields: Any) -> None:
    await store.create(meta(stream_id, status=Status.S3_COMPLETED, **fields), OURS)
    await store.transition(stream_id, OURS, Status.COMPLETED, Change({}))


@pytest.mark.parametrize("sizes", [*product(range(3), repeat=2)])
def test_a_stream_counts_as_failed_unless_the_index_shows_that_it_was_deleted_or_let_go(sizes: tuple[int, int]) -> None:
    failed, deleted = sizes
    sets = {StreamSet.ACTIVE: 4, StreamSet.FAILED: failed}
    known = count_known(sets, {History.DELETED: deleted})
    assert known == {"active": 4, "failed": max(0, failed - deleted), "deleted": min(failed, deleted)}
    assert count_known(sets, {}) == {"active": 4, "failed": failed, "deleted": 0}  # without an index
    assert count_known({StreamSet.ACTIVE: 4}, {History.DELETED: deleted}) == {"active": 4}  # a set of a wrong type


# ---- ended streams ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(ENDED - {Status.COMPLETED}))
async def test_an_ended_stream_is_in_the_history_of_its_status_until_it_is_open_again(
    subject: Subject, status: Status
) -> None:
    store, history = subject.store, History.FAILED if status in FAILED else History.DELETED
    await store.create(meta(), OURS)
    assert await histories(store) == {}
    await store.transition("s1", OURS, status, Change(WHEN))
    assert await histories(store) == {history: START_MS + 5000}
    if status in FAILED:
        await store.transition("s1", OURS, Status.ACTIVE, Change({}))
        assert await histories(store) == {}
        await store.transition("s1", OURS, Status.FAILED_UPLOAD_LOST, Change({"last_activity_at_utc": later(9)}))
        assert await histories(store) == {History.FAILED: START_MS + 9000}
    await store.forget("s1")
    assert await histories(store) == {}


async def test_a_failed_stream_that_was_let_go_counts_as_failed_no_more_until_it_fails_again(subject: Subject) -> None:
    store, let_go = subject.store, {"let_go_at_utc": later(7)}
    await store.create(meta(), OURS)
    await store.transition("s1", OURS, Status.FAILED_UNEXPECTED, Change(WHEN))
    await store.transition("s1", OURS, Status.FAILED_ABORTED, Change(let_go))
    assert await histories(store) == {History.DELETED: START_MS + 5000}
    await store.mend_history()
    assert await histories(store) == {History.DELETED: START_MS + 5000}
    await store.start_over("s1", OURS, Change({"let_go_at_utc": None}))
    await store.transition("s1", OURS, Status.FAILED_UNEXPECTED, Change(WHEN))
    assert await histories(store) == {History.FAILED: START_MS + 5000}


async def test_a_completed_stream_is_dated_by_its_completion(subject: Subject) -> None:
    await complete(subject.store, "s1", completed_at_utc=later(7), last_activity_at_utc=later(9))
    await subject.store.create(meta("s2", status=Status.COMPLETED, last_activity_at_utc=later(2)), OURS)
    assert await histories(subject.store) == {History.COMPLETED: START_MS + 7000}
    assert await histories(subject.store, "s2") == {History.COMPLETED: START_MS + 2000}


async def test_an_ended_stream_keeps_its_time_when_its_end_is_recorded_again(subject: Subject) -> None:
    await subject.store.create(meta(), OURS)
    await subject.store.transition("s1", OURS, Status.FAILED_UNEXPECTED, Change(WHEN))
    await subject.store.transition("s1", OURS, Status.FAILED_UNEXPECTED, Change({"last_activity_at_utc": later(8)}))
    assert await histories(subject.store) == {History.FAILED: START_MS + 5000}


async def test_streams_are_found_by_time_in_pages_and_the_latest_first(subject: Subject) -> None:
    store = subject.store
    for number in (3, 1, 2, 4):
        await complete(store, f"s{number}", completed_at_utc=later(number))
    at = [(f"s{number}", START_MS + 1000 * number) for number in range(1, 5)]
    before_last = at[3][1]
    assert await store.ended(History.COMPLETED, before_ms=before_last) == at[:3]
    assert await store.ended(History.COMPLETED, before_ms=before_last, limit=2) == at[:2]
    assert await store.ended(History.COMPLETED, before_ms=before_last, since_ms=at[1][1]) == at[1:3]
    assert await store.ended(History.COMPLETED, before_ms=before_last, since_ms=at[1][1], skip=1) == at[2:3]
    assert await store.latest(History.COMPLETED, 2) == ["s4", "s3"]
    assert await store.latest(History.COMPLETED, 0) == []
    await store.date(History.COMPLETED, "s1", FAR - 1)
    await store.date(History.COMPLETED, "s9", FAR - 1)
    await store.date(History.FAILED, "s2", FAR - 1)
    assert await store.latest(History.COMPLETED, 9) == ["s1", "s4", "s3", "s2"]
    assert await store.count_ended() == {History.COMPLETED: 4, History.FAILED: 0, History.DELETED: 0}


@pytest.mark.parametrize("at", [later(0), later(-1e9), later(86400 * 59.9), later(1e9), START.replace(microsecond=0)])
async def test_times_of_any_date_are_the_same_in_both_stores(subject: Subject, at: Any) -> None:
    record = meta(status=Status.FAILED_UNEXPECTED, last_activity_at_utc=at)
    await subject.store.create(record, OURS)
    assert await histories(subject.store) == {History.FAILED: rules.ended_at_ms(record)}
    assert rules.ended_at_ms(record) == int(at.timestamp() * 1000)


# ---- files of completed streams ----------------------------------------------------------------------------


async def test_a_completed_stream_keeps_no_parts(subject: Subject) -> None:
    store = subject.store
    await store.create(meta("s1", status=Status.S3_COMPLETED), OURS, [part(1), part(2)])
    await store.transition("s1", OURS, Status.COMPLETED, Change({}))
    await store.create(meta("s2", status=Status.COMPLETED), OURS, [part(1), part(2)])
    for stream_id in ("s1", "s2"):
        checkpoint = await store.load(stream_id)
        assert checkpoint is not None
        assert (checkpoint.parts, checkpoint.meta.next_part_to_upload) == ({}, 3)


async def test_completed_streams_are_proposed_by_inode_and_by_modification_time(subject: Subject) -> None:
    store, ns = subject.store, 1_764_430_000_123_456_789
    for number in (1, 2, 3):
        identity = FileIdentity(1, 10 + number, 0, 0)
        await complete(store, f"s{number}", identity=identity, verified_mtime_ns=ns + number * 10**6)
    await store.create(meta("open", identity=FileIdentity(1, 11, 0, 0), verified_mtime_ns=ns), OURS)
    assert await store.completed_like([11], []) == {"s1"}
    assert await store.completed_like([99, 12], [ns + 10**6]) == {"s1", "s2"}
    assert await store.completed_like([], []) == frozenset()
    change = Change({"identity": FileIdentity(1, 99, 0, 0), "verified_mtime_ns": ns})
    for stream_id in ("s1", "open"):
        await store.update(stream_id, OURS, change)
    assert await store.completed_like([11], [ns + 10**6]) == frozenset()
    assert await store.completed_like([99], []) == await store.completed_like([], [ns]) == {"s1"}
    await store.forget("s1")
    assert await store.completed_like([99], [ns]) == frozenset()


async def test_ids_are_found_by_their_beginning(subject: Subject) -> None:
    for stream_id in ("ab1", "ab", "a*b", "b", "ba"):
        await subject.store.create(meta(stream_id), OURS)
    assert await subject.store.ids_beginning_with("ab") == {"ab"}
    assert await subject.store.ids_beginning_with("a") == {"ab1", "ab", "a*b"}
    assert await subject.store.ids_beginning_with("a*") == {"a*b"}
    assert await subject.store.ids_beginning_with("c") == frozenset()


async def test_records_of_other_folders_are_not_read(subject: Subject) -> None:
    paths = {"a": "/rec/a.mp4", "b": "/rec/x/b.mp4", "c": "/records/c.mp4", "d": "/d.mp4", "e": "/rec"}
    for stream_id, path in paths.items():
        await subject.store.create(meta(stream_id, path=path), OURS)
    ids = [*paths, "unknown"]
    assert set(await subject.store.load_metas(ids, below="/rec")) == {"a", "b"}
    assert set(await subject.store.load_metas(ids, below="/")) == set(await subject.store.load_metas(ids)) == set(paths)


# ---- walks -----------------------------------------------------------------------------------------------------------


async def test_p7_a_walk_takes_out_all_that_may_go_and_reads_a_bounded_number_that_must_stay(subject: Subject) -> None:
    store, stay = subject.store, MAX_KEPT + 600
    for number in range(stay + 67):
        seconds = number // 300  # many at one time
        record = meta(f"s{number:04}", status=Status.COMPLETED, completed_at_utc=later(seconds))
        await store.create(record, OURS)
    walk, seen = OldStreams(History.COMPLETED), list[str]()

    async def take_out(known: StreamSummary, at_ms: int) -> bool:
        assert at_ms == rules.ended_at_ms(known.meta)
        seen.append(known.meta.stream_id)
        if int(known.meta.stream_id[1:]) % 25:
            return False
        await store.forget(known.meta.stream_id)
        return True

    before = START_MS + 60_000
    first = await walk.walk(store, before, take_out)
    assert MAX_KEPT <= len(seen) - first < MAX_KEPT + 500
    assert first + await walk.walk(store, before, take_out) == 67
    assert len(seen) == len(set(seen)) == stay + 67
    seen.clear()
    assert await walk.walk(store, before, take_out) == 0
    assert "s0001" in seen  # from the beginning


# ---- leases ----------------------------------------------------------------------------------------------------------


async def free(store: CheckpointStore, since_ms: int = 0) -> frozenset[str]:
    return (await store.expired(since_ms)).stream_ids


async def test_p3_an_open_stream_without_a_lease_is_found_however_it_was_left(subject: Subject) -> None:
    store = subject.store
    for stream_id in ("released", "saved", "held", "ended", "finishing"):
        await store.create(meta(stream_id), OURS)
    assert await free(store) == frozenset()
    await store.release(["released"], OURS)
    await store.save_interrupted([ExitState("saved", Status.INTERRUPTED_SHUTDOWN, START)], OURS)
    await store.transition("ended", OURS, Status.FAILED_ABORTED, Change({}))
    await store.transition("finishing", OURS, Status.PENDING_COMPLETION, Change({}))
    await store.release(["ended", "finishing"], OURS)
    assert await free(store) == {"released", "saved", "finishing"}
    assert await store.acquire("released", THEIRS)
    assert await store.renew(["held", "saved"], OURS) == {"saved"}
    assert await free(store) == {"saved", "finishing"}
    assert await store.acquire("ended", THEIRS)
    assert await store.acquire(job_lock_name("held", "work"), THEIRS)
    await store.release([job_lock_name("held", "work")], THEIRS)
    await store.transition("ended", THEIRS, Status.ACTIVE, Change({}))  # `retry`
    await store.release(["ended"], THEIRS)
    assert await free(store) == {"saved", "finishing", "ended"}
    await store.forget("ended")  # refused: it is open
    assert "ended" in await free(store)


async def test_a_lease_that_nobody_renews_is_found_when_it_expires(subject: Subject) -> None:
    store = subject.store
    await store.create(meta("s1"), Lease("host-a", "1", 0.001))
    await store.create(meta("s2"), OURS)
    subject.wait(0.005)
    expired = await store.expired(0)
    assert expired.stream_ids == {"s1"}
    subject.wait(0.005)
    assert await free(store, expired.at_ms) == frozenset()  # it was known before
    await store.release(["s2"], OURS)
    assert await free(store, expired.at_ms) == {"s2"}


async def test_a_lease_that_is_to_end_soon_is_told_before_it_ends_and_one_that_is_renewed_in_time_is_not(
    subject: Subject,
) -> None:
    store = subject.store
    await store.create(meta("dying"), Lease("host-a", "1", 0.9 * ENDING_MS / 1000))
    await store.create(meta("held"), Lease("host-b", "2", 2 * ENDING_MS / 1000))
    await store.create(meta("free"), OURS)
    await store.release(["free"], OURS)
    subject.wait(0.005)
    assert (await store.expired(0)).ends_ms.keys() == {"free"}
    beat = Beat(lease=OURS, expired_since_ms=0)
    for expired in (await store.expired(0, OURS.ending_ms), (await store.beat(beat)).expired):
        assert expired is not None
        assert expired.stream_ids == {"free"}
        assert expired.ends_ms.keys() == {"free", "dying"}
        assert expired.ends_ms["free"] <= expired.at_ms < expired.ends_ms["dying"] <= expired.at_ms + ENDING_MS


@pytest.mark.parametrize("ttl_seconds", [3, 10, 15])
async def test_p7_leases_that_are_short_are_not_told_before_they_end_as_those_of_a_working_daemon_would_be(
    subject: Subject, ttl_seconds: float
) -> None:
    """Each question would return all open streams of the owner."""
    store, short = subject.store, Lease("host-a", "1", ttl_seconds)
    for number in range(3):
        await store.create(meta(f"s{number}"), short)
    for expired in (
        await store.expired(0, short.ending_ms),
        (await store.beat(Beat(lease=short, expired_since_ms=0))).expired,
    ):
        assert expired is not None
        assert expired.ends_ms == {}


@pytest.mark.parametrize("ttl_seconds", [3, 10, 15, 15.1, 30, 120])
def test_a_working_daemon_renews_its_leases_before_they_count_as_ending(ttl_seconds: float) -> None:
    lease = Lease("host-a", "1", ttl_seconds)
    assert lease.ending_ms < ttl_seconds * 1000 * 2 / 3
    assert (lease.ending_ms > 0) is (ttl_seconds > 15)


# ---- indexes that are not whole (real) -------------------------------------------------------------------------------


@pytest.mark.real
async def test_indexes_that_an_earlier_version_did_not_keep_are_made_whole(valkey: ValkeyServer, raw: Any) -> None:
    keys = Keys()
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        for number in range(4):
            await complete(store, f"c{number}", completed_at_utc=later(number))
        await store.create(meta("failed", status=Status.FAILED_ABORTED), OURS)
        await store.create(meta("deleted", status=Status.DELETED_LOCALLY), OURS)
        for stream_id in ("open", "held"):
            await store.create(meta(stream_id), OURS)
        await store.release(["open"], OURS)
        before = {key: raw.zrange(key, 0, -1, withscores=True) for key in keys.homes[4:9]}
        assert await store.mend_history() == 0
        raw.delete(*keys.homes[4:])
        assert await store.mend_history() == 6
        assert {key: raw.zrange(key, 0, -1, withscores=True) for key in keys.homes[4:9]} == before
        assert await store.mend_history() == 0
        raw.zadd(keys.history(History.FAILED), {"open": 1})  # it failed, and an earlier version reopened it
        raw.zadd(keys.leases, {"c1": 1})
        assert await store.mend_history() == 6 + 15  # the sets, then the indexes
        assert {key: raw.zrange(key, 0, -1, withscores=True) for key in keys.homes[4:9]} == before
        assert await free(store) == {"open", "held"}  # only a hint: its lease shows that `held` is not free
        assert set(await store.holders(["open", "held"])) == {"held"}
        await trio.sleep(0.002)
        await store.renew(["held"], OURS)
        assert await free(store) == {"open"}


@pytest.mark.real
async def test_p6_streams_whose_set_was_evicted_are_put_back_and_those_without_a_record_leave_the_indexes(
    valkey: ValkeyServer, raw: Any
) -> None:
    keys = Keys()
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await complete(store, "c1", completed_at_utc=later(1))
        await store.create(meta("failed", status=Status.FAILED_ABORTED), OURS)
        statuses = {"open": Status.RETRYING, "done": Status.S3_COMPLETED, "held": Status.ACTIVE}
        for stream_id, status in statuses.items():
            await store.create(meta(stream_id, status=status), OURS)
        await store.release(["open", "done"], OURS)
        before = {key: raw.smembers(key) for key in keys.homes[:4]}
        raw.zadd(keys.leases, {"no-record": 1})
        raw.zadd(keys.history(History.FAILED), {"no-record": 1})
        raw.delete(*keys.homes[:4])
        await store.expired(0)
        assert await free(store) >= {"open", "done"}
        await store.mend_history()
        assert {key: raw.smembers(key) for key in keys.homes[:4]} == before
        assert raw.zscore(keys.leases, "no-record") is raw.zscore(keys.history(History.FAILED), "no-record") is None
        assert (await store.count_ended())[History.COMPLETED] == 1


async def a_stream_of_each_kind(store: RedisCheckpointStore, number: int = 1) -> None:
    """Also two completed ones with one path, of which the later has it, and one of another owner at that path."""
    ours, other = Owner("machine", "uuid:1", "/ /"), Owner("other-machine", "uuid:2", "/ /")
    same = {"path": f"/rec/same-{number}.mp4", "owner": ours}
    for name, seconds in ((f"c{number}", 1), (f"later{number}", 5)):
        replaced = f"c{number}" if name.startswith("later") else None
        await store.create(meta(name, status=Status.S3_COMPLETED, **same), OURS, replaced_stream_id=replaced)
        when = Change({"completed_at_utc": later(seconds), "last_activity_at_utc": later(seconds)})
        await store.transition(name, OURS, Status.COMPLETED, when)
    beside = meta(f"beside{number}", path=f"/rec/same-{number}.mp4", owner=other)
    await store.create(beside, OURS, other_owner_stream_id=f"later{number}")
    await store.create(meta(f"failed{number}", status=Status.FAILED_ABORTED), OURS)
    await store.create(meta(f"deleted{number}", status=Status.DELETED_LOCALLY), OURS)
    await store.create(meta(f"open{number}", status=Status.RETRYING), OURS)
    await store.create(meta(f"done{number}", status=Status.S3_COMPLETED), OURS)
    await store.release([f"open{number}", f"done{number}", f"beside{number}"], OURS)


PATHS = ["/rec/same-1.mp4", *(f"/rec/{name}1.mp4" for name in ("failed", "deleted", "open", "done"))]


async def found_by_path(store: CheckpointStore) -> set[str]:
    owners = Owner("machine", "uuid:1", "/ /"), Owner("other-machine", "uuid:2", "/ /")
    found = [await store.find_by_path(PATHS, owner=dict.fromkeys(PATHS, owner.name).__getitem__) for owner in owners]
    return {f"{path} {known.meta.stream_id}" for one in found for path, known in one.items()}


@pytest.mark.real
@pytest.mark.parametrize("base", ["", "a[b]*?\\:"])
async def test_p6_whatever_indexes_redis_loses_they_are_made_anew_from_the_records_under_a_running_store(
    valkey: ValkeyServer, raw: Any, base: str
) -> None:
    """Each key, each pair of them, all but one, and all. Another owner's keys are left alone."""
    async with (
        RedisCheckpointStore(valkey.url, key_prefix=base, owner="node-7", socket_timeout_seconds=10) as store,
        RedisCheckpointStore(valkey.url, key_prefix=base, owner="node-70", socket_timeout_seconds=10) as neighbour,
    ):
        await a_stream_of_each_kind(store)
        await a_stream_of_each_kind(neighbour, 2)
        keys = store.keys
        every = [*keys.homes, keys.by_path]

        def members() -> dict[str, object]:
            sets: dict[str, object] = {key: raw.smembers(key) for key in keys.homes[:4]}
            sets |= {key: raw.zrange(key, 0, -1, withscores=True) for key in keys.homes[4:9]}
            of_paths = raw.hlen(keys.by_path), raw.hget(keys.by_path, codec.COUNT_FIELD)
            return sets | {keys.leases: sorted(raw.zrange(keys.leases, 0, -1)), keys.by_path: of_paths}

        before, by_path = members(), await found_by_path(store)
        theirs = {key: raw.dump(key) for key in raw.keys("*{node-70}*")}
        assert len(by_path) == len(PATHS) + 1
        assert theirs
        assert await store.mend_history() == 0
        lost_together = [set(some) for number in (1, 2) for some in combinations(every, number)]
        lost_together += [set(every) - {key} for key in every] + [set(every)]
        for lost in lost_together:
            raw.delete(*lost)
            await store.mend_history()
            expired = await free(store)
            assert expired >= {"open1", "done1", "beside1"}, lost
            assert members() == before, lost
            assert await found_by_path(store) == by_path, lost
            assert await store.mend_history() == 0, lost
        for lost in ({keys.by_path}, set(every)):
            raw.delete(*lost)
            assert await found_by_path(store) == by_path, "a lookup needs it at once"
        assert {key: raw.dump(key) for key in theirs} == theirs


async def test_p6_in_a_cluster_too_lost_indexes_are_made_anew() -> None:
    with (
        valkey_server(tcp=True, arguments=["--cluster-enabled", "yes"]) as server,
        Redis(unix_socket_path=str(server.socket_path)) as raw,
    ):
        assert server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
        await until(lambda: b"cluster_state:ok" in server.command("CLUSTER", "INFO"))
        url = f"redis+cluster://127.0.0.1:{server.port}"
        async with RedisCheckpointStore(url, owner="node-7", socket_timeout_seconds=10) as store:
            await a_stream_of_each_kind(store)
            before = await found_by_path(store)
            for key in (*store.keys.homes, store.keys.by_path):
                raw.delete(key)
            assert await found_by_path(store) == before
            assert await free(store) == {"open1", "done1", "beside1"}


@pytest.mark.real
async def test_p6_a_user_who_may_not_scan_finds_what_the_other_indexes_name(valkey: ValkeyServer, raw: Any) -> None:
    raw.acl_setuser("narrow", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-scan"])
    url = valkey.url.replace("redis://", "redis://narrow:secret@")
    async with RedisCheckpointStore(url, owner="node-7", socket_timeout_seconds=10) as store:
        await a_stream_of_each_kind(store)
        before = await found_by_path(store)
        raw.delete(store.keys.by_path)
        assert await found_by_path(store) == before
        assert await store.mend_history() == 0
    raw.acl_deluser("narrow")


@pytest.mark.real
async def test_p7_an_index_that_cannot_be_mended_is_not_walked_again_and_strangers_leave_it(
    valkey: ValkeyServer, raw: Any
) -> None:
    async with RedisCheckpointStore(valkey.url, owner="node-7", socket_timeout_seconds=10) as store:
        await a_stream_of_each_kind(store)
        for key in store.keys.homes[:4]:
            raw.sadd(key, b"\xff\xfe", "no-record")
        assert await store.mend_history() > 0
        assert await store.mend_history() == 0
        assert all(not raw.sismember(key, b"\xff\xfe") for key in store.keys.homes[:4])
        assert (await store.count())[StreamSet.ACTIVE] == 2


@pytest.mark.real
async def test_p7_paths_are_led_to_the_latest_of_many_streams_in_bounded_calls(
    valkey: ValkeyServer, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "BATCH", 7)
    monkeypatch.setattr(indexes, "_OVERLAP", 2)
    monkeypatch.setattr(indexes, "_SCANNED", 5)
    async with RedisCheckpointStore(valkey.url, owner="node-7", socket_timeout_seconds=10) as store:
        for number in range(60):
            path = f"/rec/{number % 20}.mp4"
            status = (Status.COMPLETED, Status.FAILED_ABORTED, Status.DELETED_LOCALLY)[number % 3]
            ended = {"completed_at_utc": later(number), "last_activity_at_utc": later(number)}
            before = f"s{number - 20}" if number >= 20 else None
            record = meta(f"s{number}", path=path, status=status, **ended)
            await store.create(record, OURS, replaced_stream_id=before)
        by_path = raw.hgetall(store.keys.by_path)
        sizes = []
        real = store.known

        def noted(client: Any, ids: Any, **more: Any) -> Any:
            sizes.append(len(ids))
            return real(client, ids, **more)

        monkeypatch.setattr(store, "known", noted)
        raw.delete(*store.keys.homes, store.keys.by_path)
        await store.mend_history()
        assert raw.hgetall(store.keys.by_path) == by_path
        assert max(sizes) <= 7


@pytest.mark.real
async def test_an_index_of_a_wrong_type_stops_no_stream(valkey: ValkeyServer, raw: Any) -> None:
    keys = Keys()
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        for key in keys.homes[4:]:
            raw.set(key, "x")
        await complete(store, "s1")
        await store.create(meta("s2"), OURS)
        await store.renew(["s2"], OURS)
        await store.update("s1", OURS, Change({"verified_mtime_ns": 1}))
        assert await store.count_ended() == {}
        assert await store.ended(History.COMPLETED, before_ms=FAR) == []
        assert await store.latest(History.COMPLETED, 1) == []
        await store.date(History.COMPLETED, "s1", 1)
        assert await store.completed_like([1234], []) == frozenset()
        assert await store.mend_history() == 0
        assert await free(store) == frozenset()
        assert keys.history(History.COMPLETED) in store.unreadable.known
