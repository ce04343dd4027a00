"""What every checkpoint store promises (``cef_trio/checkpoint/protocols.py``), held against both of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from checkpoint.examples import OUR_NEXT_PROCESS, OURS, START, THEIRS, Subject, later, meta, part

from cef_trio.checkpoint.commit import Change, ExitState
from cef_trio.checkpoint.model import Checkpoint, FileIdentity, Lease, Owner
from cef_trio.checkpoint.protocols import CheckpointStore, StreamSummary
from cef_trio.checkpoint.redis.keys import job_lock_name
from cef_trio.checkpoint.rules import FORGOTTEN_BY_START_OVER
from cef_trio.checkpoint.states import ENDED, HOME, Status, StreamSet, may_follow
from cef_trio.exceptions import LeaseLostError, PathTakenError

NOTHING = Change({})
ODD_PATHS = ["/rec/a b%&+=\n.mp4", "/rec/\udcff\udc80.mp4", "/rec/äöü 録画.mp4", "/rec/'\"\\{}*?[].mp4"]


async def loaded(store: CheckpointStore, stream_id: str = "s1") -> Checkpoint:
    checkpoint = await store.load(stream_id)
    assert checkpoint is not None
    return checkpoint


async def sets_of(store: CheckpointStore, stream_id: str = "s1") -> list[StreamSet]:
    return [stream_set for stream_set in StreamSet if stream_id in await store.members(stream_set)]


async def test_ping_reaches_the_store(subject: Subject) -> None:
    await subject.store.ping()


# ---- create ----------------------------------------------------------------------------------------------------------


async def test_a_created_stream_is_loaded_as_it_was_given(subject: Subject) -> None:
    given = meta(s3_upload_id="u", failure_reason="väl\udcff", retry_at_utc=later(5), duration_seconds=0.1)
    await subject.store.create(given, OURS)
    assert await subject.store.load("s1") == Checkpoint(given, StreamSet.ACTIVE, {})
    assert await subject.store.load("s2") is None


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_any_path_finds_its_stream(subject: Subject, path: str) -> None:
    given = meta(path=path)
    await subject.store.create(given, OURS)
    known = {path: StreamSummary(given, StreamSet.ACTIVE)}
    assert await subject.store.find_by_path([path, "/rec/other.mp4"]) == known
    assert await subject.store.load_metas(["s1", "s2"]) == {"s1": known[path]}
    assert await subject.store.find_by_path([]) == {}
    assert await subject.store.load_metas([]) == {}


async def test_a_stream_created_with_adopted_parts_goes_on_after_the_last_of_them(subject: Subject) -> None:
    await subject.store.create(meta(), OURS, [part(1), part(3)])
    checkpoint = await loaded(subject.store)
    assert checkpoint.parts == {1: part(1), 3: part(3)}
    assert checkpoint.meta == meta(next_part_to_upload=4)


async def test_creating_again_under_the_same_lease_changes_nothing(subject: Subject) -> None:
    await subject.store.create(meta(), OURS)
    await subject.store.record_part("s1", OURS, part())
    before = subject.dump()
    await subject.store.create(meta(part_size=1), OURS, [part(9)])
    assert subject.dump() == before


@pytest.mark.parametrize("other", [THEIRS, OUR_NEXT_PROCESS])
async def test_a_stream_is_not_created_over_a_record_under_another_lease(subject: Subject, other: Lease) -> None:
    await subject.store.create(meta(), OURS)
    before = subject.dump()
    with pytest.raises(LeaseLostError):
        await subject.store.create(meta(part_size=1), other)
    assert subject.dump() == before


async def test_a_lease_taken_before_its_record_lets_only_its_owner_create_it(subject: Subject) -> None:
    assert await subject.store.acquire("s1", OURS)
    with pytest.raises(LeaseLostError):
        await subject.store.create(meta(), THEIRS)
    assert await subject.store.load("s1") is None
    await subject.store.create(meta(), OURS)
    assert await subject.store.load("s1") is not None


@pytest.mark.parametrize("status", list(Status))
async def test_a_stream_is_created_in_the_set_of_its_status(subject: Subject, status: Status) -> None:
    await subject.store.create(meta(status=status), OURS)
    home = HOME[status] or StreamSet.ACTIVE
    assert await sets_of(subject.store) == [home]
    assert await subject.store.load("s1") == Checkpoint(meta(status=status), home, {})


async def test_a_path_leads_to_the_stream_that_took_it_last(subject: Subject) -> None:
    await subject.store.create(meta("s1", path="/rec/x.mp4"), OURS)
    await subject.store.create(meta("s2", path="/rec/x.mp4"), OURS, replaced_stream_id="s1")
    found = await subject.store.find_by_path(["/rec/x.mp4"])
    assert found["/rec/x.mp4"].meta.stream_id == "s2"


@pytest.mark.parametrize("lease", [OURS, THEIRS])
@pytest.mark.parametrize("seen", [None, "s0", "s2"])
@pytest.mark.parametrize("status", [Status.ACTIVE, Status.COMPLETED, Status.FAILED_ABORTED])
async def test_a_path_that_leads_to_another_stream_than_was_seen_there_is_refused(
    subject: Subject, status: Status, seen: str | None, lease: Lease
) -> None:
    """Two daemons saw one file at once: the second one's judgement is old by the time that it writes."""
    await subject.store.create(meta("s1", path="/rec/x.mp4", status=status), OURS)
    before = subject.dump()
    with pytest.raises(PathTakenError, match="s1"):
        await subject.store.create(meta("s2", path="/rec/x.mp4"), lease, [part()], replaced_stream_id=seen)
    assert subject.dump() == before


async def test_a_path_whose_stream_lost_its_record_may_be_taken(subject: Subject) -> None:
    await subject.store.create(meta("s1", path="/rec/x.mp4"), OURS)
    subject.wipe_record("s1")
    await subject.store.create(meta("s2", path="/rec/x.mp4"), THEIRS, [part()])
    found = await subject.store.find_by_path(["/rec/x.mp4"])
    assert found["/rec/x.mp4"].meta.stream_id == "s2"
    assert (await loaded(subject.store, "s2")).parts == {1: part()}


async def test_one_stream_is_not_begun_for_two_files(subject: Subject) -> None:
    """Two tasks of one daemon adopted one upload: the second must not take the first one's record for its own."""
    await subject.store.create(meta(path="/rec/x.mp4"), OURS)
    before = subject.dump()
    with pytest.raises(PathTakenError):
        await subject.store.create(meta(path="/rec/y.mp4"), OURS)
    assert subject.dump() == before


async def test_a_stream_created_again_after_its_record_was_lost_inherits_no_parts(subject: Subject) -> None:
    await subject.store.create(meta(), OURS, [part(1), part(2)])
    subject.wipe_record("s1")
    await subject.store.create(meta(), OURS, [part(1)])
    assert list((await loaded(subject.store)).parts) == [1]


async def test_a_failed_stream_may_be_retried_or_aborted_by_a_command(subject: Subject) -> None:
    for status in (Status.ACTIVE, Status.S3_COMPLETED, Status.FAILED_ABORTED):
        assert may_follow(Status.FAILED_ACCESS_DENIED, status)
        await subject.store.create(meta(status, path=f"/rec/{status}", status=Status.FAILED_ACCESS_DENIED), OURS)
        await subject.store.transition(status, OURS, status, NOTHING)
        assert await sets_of(subject.store, status) == [HOME[status]]
    await subject.store.start_over(Status.FAILED_ABORTED, OURS, NOTHING)
    assert await sets_of(subject.store, Status.FAILED_ABORTED) == [StreamSet.ACTIVE]
    assert not may_follow(Status.S3_COMPLETED, Status.ACTIVE)


# ---- leases ----------------------------------------------------------------------------------------------------------


async def test_the_holders_of_leases_are_returned_and_free_leases_are_not(subject: Subject) -> None:
    await subject.store.create(meta("s1"), OURS)
    await subject.store.create(meta("s2", path="/rec/2.mp4"), THEIRS)
    assert await subject.store.holders(["s1", "s2", "s3"]) == {"s1": OURS.value, "s2": THEIRS.value}
    subject.expire("s1")
    await subject.store.release(["s2"], THEIRS)
    assert await subject.store.holders(["s1", "s2"]) == {}
    assert await subject.store.holders([]) == {}


async def test_a_lease_is_taken_over_by_the_same_instance_and_by_no_other(subject: Subject) -> None:
    await subject.store.create(meta(), OURS)
    assert not await subject.store.acquire("s1", THEIRS)
    assert await subject.store.acquire("s1", OURS)
    assert await subject.store.acquire("s1", OUR_NEXT_PROCESS)
    with pytest.raises(LeaseLostError):
        await subject.store.update("s1", OURS, NOTHING)
    await subject.store.update("s1", OUR_NEXT_PROCESS, NOTHING)


async def test_an_instance_name_that_begins_like_another_is_another_instance(subject: Subject) -> None:
    assert await subject.store.acquire("s1", Lease("host", "t", 30))
    assert not await subject.store.acquire("s1", Lease("host/a", "t", 30))
    assert await subject.store.acquire("s2", Lease("host/a", "t", 30))
    assert not await subject.store.acquire("s2", Lease("host", "a/t", 30))


async def test_an_expired_lease_is_anybodys_and_writes_under_it_are_refused(subject: Subject) -> None:
    await subject.store.create(meta(), OURS)
    subject.expire("s1")
    with pytest.raises(LeaseLostError, match="not held"):
        await subject.store.update("s1", OURS, NOTHING)
    assert await subject.store.acquire("s1", THEIRS)
    with pytest.raises(LeaseLostError, match="host-b/token-3"):
        await subject.store.update("s1", OURS, NOTHING)


async def test_renewing_returns_which_leases_are_no_longer_ours(subject: Subject) -> None:
    for stream_id in ("kept", "expired", "taken"):
        await subject.store.create(meta(stream_id), OURS)
    subject.expire("expired")
    subject.expire("taken")
    assert await subject.store.acquire("taken", THEIRS)
    assert await subject.store.renew(["kept", "expired", "taken", "unknown"], OURS) == {"expired", "taken", "unknown"}
    assert await subject.store.renew([], OURS) == frozenset()
    assert await subject.store.acquire("expired", THEIRS)


async def test_releasing_ends_our_leases_and_no_others(subject: Subject) -> None:
    await subject.store.create(meta("s1"), OURS)
    await subject.store.create(meta("s2"), THEIRS)
    await subject.store.release(["s1", "s2", "unknown"], OURS)
    await subject.store.release(["s1", "s2", "unknown"], OURS)
    assert await subject.store.acquire("s1", THEIRS)
    assert not await subject.store.acquire("s2", OURS)


async def test_more_streams_than_one_batch_are_renewed_loaded_and_released(subject: Subject) -> None:
    ids = [f"s{number}" for number in range(1100)]
    ours = replace(OURS, ttl_seconds=600.0)  # the first must not expire before the last is created
    for stream_id in ids:
        await subject.store.create(meta(stream_id), ours)
    subject.expire("s700")
    assert await subject.store.renew(ids, ours) == {"s700"}
    assert set(await subject.store.load_metas(ids)) == set(ids)
    assert len(await subject.store.find_by_path([f"/rec/{stream_id}.mp4" for stream_id in ids])) == len(ids)
    assert await subject.store.members(StreamSet.ACTIVE) == set(ids)
    assert await subject.store.count() == {**dict.fromkeys(StreamSet, 0), StreamSet.ACTIVE: len(ids)}
    await subject.store.release(ids, ours)
    assert await subject.store.renew(ids, ours) == set(ids)


WRITES: dict[str, Callable[[CheckpointStore, Lease], Awaitable[object]]] = {
    "update": lambda store, lease: store.update("s1", lease, Change({"part_size": 1})),
    "record_part": lambda store, lease: store.record_part("s1", lease, part(5)),
    "adopt_parts": lambda store, lease: store.adopt_parts("s1", lease, [part(5)]),
    "record_put": lambda store, lease: store.record_put("s1", lease, part(1), NOTHING),
    "cut_parts": lambda store, lease: store.cut_parts("s1", lease, 1),
    "start_over": lambda store, lease: store.start_over("s1", lease, NOTHING),
    "transition": lambda store, lease: store.transition("s1", lease, Status.PENDING_COMPLETION, NOTHING),
    "rename": lambda store, lease: store.rename("s1", lease, "/rec/new.mp4"),
    "save_interrupted": lambda store, lease: store.save_interrupted(
        [ExitState("s1", Status.INTERRUPTED_SHUTDOWN, START)], lease
    ),
    "release": lambda store, lease: store.release(["s1"], lease),
    "renew": lambda store, lease: store.renew(["s1"], lease),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("holder", [THEIRS, OUR_NEXT_PROCESS, None], ids=["another", "our-next-process", "nobody"])
async def test_a_write_under_a_lost_lease_leaves_everything_untouched(
    subject: Subject, write: str, holder: Lease | None
) -> None:
    await subject.store.create(meta(), OURS, [part(1)])
    subject.expire("s1")
    if holder is not None:
        assert await subject.store.acquire("s1", holder)
    else:
        assert not await subject.store.renew([], OURS)
    await subject.store.ping()
    before = subject.dump()
    try:
        answer = await WRITES[write](subject.store, OURS)
    except LeaseLostError:
        assert write not in {"save_interrupted", "release", "renew"}
    else:
        assert answer == {"save_interrupted": {"s1"}, "release": None, "renew": {"s1"}}[write]
    assert without_expired_leases(subject.dump()) == without_expired_leases(before)


def without_expired_leases(dumped: Any) -> Any:
    """The in-process store drops a lease that has run out at the next access; Redis at any time."""
    if isinstance(dumped, dict):
        return dumped
    return (dumped.streams, dumped.by_path, {k: v for k, v in dumped.leases.items() if v.expires_at > 1000.0})


@pytest.mark.parametrize("write", [name for name in WRITES if name not in {"release", "renew", "save_interrupted"}])
async def test_a_write_to_a_record_that_the_store_lost_makes_no_half_a_record(subject: Subject, write: str) -> None:
    await subject.store.create(meta(), OURS)
    subject.wipe_record("s1")
    before = subject.dump()
    with pytest.raises(LeaseLostError, match="does not exist"):
        await WRITES[write](subject.store, OURS)
    assert subject.dump() == before


# ---- changes ---------------------------------------------------------------------------------------------------------


async def test_an_update_sets_and_removes_fields(subject: Subject) -> None:
    await subject.store.create(meta(failure_reason="x", retry_attempts=3, retry_at_utc=later(1)), OURS)
    identity = FileIdentity(1, 2, 0, 0)
    change = Change({"identity": identity, "failure_reason": None, "retry_attempts": None, "s3_upload_id": "u"})
    for _ in range(2):
        await subject.store.update("s1", OURS, change)
        expected = meta(identity=identity, retry_at_utc=later(1), s3_upload_id="u")
        assert (await loaded(subject.store)).meta == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"status": Status.FAILED_UNEXPECTED},
        {"stream_id": "s2"},
        {"current_path": "/rec/new.mp4"},
        {"original_path": None},
        {"no_such_field": 1},
        {"s3_bucket": None},
        {"identity": None},
        {"retry_at_utc": START.replace(tzinfo=None)},
        {"object_crc64nvme": 1 << 64},
    ],
    ids=str,
)
async def test_a_change_that_would_break_the_record_is_refused_before_anything_is_written(
    subject: Subject, fields: dict[str, Any]
) -> None:
    await subject.store.create(meta(), OURS)
    before = subject.dump()
    change = Change({"part_size": 77, **fields})
    for write in (
        subject.store.update("s1", OURS, change),
        subject.store.transition("s1", OURS, Status.PENDING_COMPLETION, change),
        subject.store.start_over("s1", OURS, change),
    ):
        with pytest.raises(ValueError, match=r"change|aware|64-bit"):
            await write
    assert subject.dump() == before


# ---- parts -----------------------------------------------------------------------------------------------------------


async def test_a_recorded_part_counts_once_however_often_it_is_recorded(subject: Subject) -> None:
    await subject.store.create(meta(), OURS)
    for _ in range(3):
        await subject.store.record_part("s1", OURS, part(2, 100, seconds=7), rewritten=False)
        checkpoint = await loaded(subject.store)
        assert checkpoint.parts == {2: part(2, 100, seconds=7)}
        assert checkpoint.meta == meta(total_bytes_sent=100, next_part_to_upload=3, last_activity_at_utc=later(7))


async def test_a_part_sent_again_replaces_the_earlier_one_and_is_counted_as_rewritten(subject: Subject) -> None:
    await subject.store.create(meta(), OURS)
    await subject.store.record_part("s1", OURS, part(1, 100, seconds=1))
    await subject.store.record_part("s1", OURS, part(2, 100, seconds=2))
    for _ in range(2):
        await subject.store.record_part("s1", OURS, part(1, 60, seconds=3, etag="new"), rewritten=True)
    checkpoint = await loaded(subject.store)
    assert checkpoint.parts == {1: part(1, 60, seconds=3, etag="new"), 2: part(2, 100, seconds=2)}
    assert checkpoint.meta == meta(
        total_bytes_sent=260,
        next_part_to_upload=3,
        last_activity_at_utc=later(3),
        parts_rewritten=1,
        bytes_rewritten=60,
    )


@pytest.mark.parametrize(
    "difference",
    [{"etag": "other"}, {"size_bytes": 101}, {"crc64nvme": 1}, {"uploaded_at_utc": later(9)}, {"checksum": "AAAA"}],
    ids=lambda difference: next(iter(difference)),
)
async def test_a_part_that_differs_in_anything_is_another_sending(subject: Subject, difference: dict[str, Any]) -> None:
    await subject.store.create(meta(), OURS)
    await subject.store.record_part("s1", OURS, part(1, 100))
    other = replace(part(1, 100), **difference)
    await subject.store.record_part("s1", OURS, other)
    checkpoint = await loaded(subject.store)
    assert checkpoint.parts == {1: other}
    assert checkpoint.meta.total_bytes_sent == 100 + other.size_bytes


async def test_adopted_parts_are_not_counted_as_sent(subject: Subject) -> None:
    await subject.store.create(meta(), OURS)
    for _ in range(2):
        await subject.store.adopt_parts("s1", OURS, [part(4), part(2)])
    await subject.store.adopt_parts("s1", OURS, [part(1)])
    await subject.store.adopt_parts("s1", OURS, [])
    checkpoint = await loaded(subject.store)
    assert checkpoint.parts == {1: part(1), 2: part(2), 4: part(4)}
    assert checkpoint.meta == meta(next_part_to_upload=5)


async def test_p2_a_put_object_is_recorded_once_with_its_only_part(subject: Subject) -> None:
    await subject.store.create(meta(verified_size_bytes=100, verified_mtime_ns=7, verified_crc64nvme=8), OURS)
    for _ in range(2):  # recorded again, since the reply was lost
        await subject.store.record_put("s1", OURS, part(1), Change({"object_etag": "e"}))
    assert await subject.store.load("s1") == Checkpoint(
        meta(
            status=Status.S3_COMPLETED,
            object_etag="e",
            total_bytes_sent=100,
            next_part_to_upload=2,
            verified_size_bytes=100,
            verified_mtime_ns=7,
            verified_crc64nvme=8,
        ),
        StreamSet.PENDING_COMPLETION,
        {1: part(1)},
    )


async def test_p2_parts_before_a_cut_stay(subject: Subject) -> None:
    given = meta(s3_upload_id="u", verified_size_bytes=300, verified_mtime_ns=1)
    await subject.store.create(given, OURS, [part(1), part(2), part(10)])
    for _ in range(2):
        await subject.store.cut_parts("s1", OURS, 2)
    checkpoint = await loaded(subject.store)
    assert checkpoint.parts == {1: part(1), 2: part(2)}
    assert checkpoint.meta == meta(s3_upload_id="u", next_part_to_upload=3)


@pytest.mark.parametrize("how", ["sent", "adopted"])
async def test_p1_a_part_that_is_recorded_after_a_verification_takes_it_back(subject: Subject, how: str) -> None:
    await subject.store.create(meta(), OURS)
    await subject.store.record_part("s1", OURS, part(1))
    verified = {"verified_size_bytes": 100, "verified_mtime_ns": 7, "verified_crc64nvme": 8}
    await subject.store.update("s1", OURS, Change(verified))
    await subject.store.record_part("s1", OURS, part(1))  # recorded again, since the reply was lost: nothing is new
    assert (await loaded(subject.store)).meta.verified_size_bytes == 100
    if how == "sent":
        await subject.store.record_part("s1", OURS, part(1, etag="another"), rewritten=True)
    else:
        await subject.store.adopt_parts("s1", OURS, [part(2)])
    recorded = (await loaded(subject.store)).meta
    assert [getattr(recorded, name) for name in verified] == [None, None, None]


async def test_ten_thousand_parts_of_five_tebibytes_are_kept_and_loaded_in_order(subject: Subject) -> None:
    parts = [part(number, 550 * 1024 * 1024) for number in range(1, 10_001)]
    await subject.store.create(meta(total_bytes_sent=5 * 1024**4), OURS)
    await subject.store.adopt_parts("s1", OURS, parts[:-1])
    await subject.store.record_part("s1", OURS, parts[-1])
    checkpoint = await loaded(subject.store)
    assert list(checkpoint.parts.values()) == parts
    assert checkpoint.meta.next_part_to_upload == 10_001
    assert checkpoint.meta.total_bytes_sent == 5 * 1024**4 + 550 * 1024 * 1024


async def test_starting_over_forgets_the_upload_and_what_came_of_it(subject: Subject) -> None:
    given = meta(
        status=Status.FAILED_FINALIZATION,
        s3_upload_id="u",
        checksum_algorithm="crc64nvme",
        object_etag="e-3",
        object_crc64nvme=7,
        verified_size_bytes=300,
        verified_mtime_ns=1,
        verified_crc64nvme=2,
        completed_at_utc=later(1),
        total_bytes_sent=300,
        uploads_restarted=1,
    )
    await subject.store.create(given, OURS, [part(1), part(2)])
    for _ in range(2):
        await subject.store.start_over("s1", OURS, Change({"uploads_restarted": 2, "part_size": 5}))
        forgotten: dict[str, Any] = dict.fromkeys(FORGOTTEN_BY_START_OVER)
        expected = replace(given, status=Status.ACTIVE, uploads_restarted=2, part_size=5, **forgotten)
        assert await subject.store.load("s1") == Checkpoint(expected, StreamSet.ACTIVE, {})
        assert await sets_of(subject.store) == [StreamSet.ACTIVE]


async def test_starting_over_with_a_new_upload_keeps_the_new_one(subject: Subject) -> None:
    await subject.store.create(meta(s3_upload_id="old"), OURS)
    await subject.store.start_over("s1", OURS, Change({"s3_upload_id": "new"}))
    assert (await loaded(subject.store)).meta.s3_upload_id == "new"


@pytest.mark.parametrize("status", [status for status in Status if not may_follow(status, Status.ACTIVE)])
async def test_a_stream_whose_object_exists_never_starts_over(subject: Subject, status: Status) -> None:
    await subject.store.create(meta(status=status), OURS, [part()])
    before = subject.dump()
    with pytest.raises(ValueError, match="may not follow"):
        await subject.store.start_over("s1", OURS, NOTHING)
    assert subject.dump() == before


# ---- transitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("current", list(Status))
async def test_every_transition_of_the_table_is_made_and_every_other_is_refused(
    subject: Subject, current: Status
) -> None:
    for following in Status:
        stream_id = f"{current.value}-to-{following.value}"
        given = meta(stream_id, status=current)
        await subject.store.create(given, OURS)
        home = HOME[current] or StreamSet.ACTIVE
        if not may_follow(current, following):
            before = subject.dump()
            with pytest.raises(ValueError, match=f"{following.value!r} may not follow {current.value!r}"):
                await subject.store.transition(stream_id, OURS, following, Change({"failure_reason": "why"}))
            assert subject.dump() == before
            continue
        home = HOME[following] or home
        for _ in range(2):
            await subject.store.transition(stream_id, OURS, following, Change({"failure_reason": "why"}))
            expected = replace(given, status=following, failure_reason="why")
            assert await subject.store.load(stream_id) == Checkpoint(expected, home, {})
            assert await sets_of(subject.store, stream_id) == [home]
        subject.wipe_record(stream_id)


@pytest.mark.parametrize("phase", [Status.ACTIVE, Status.PENDING_COMPLETION])
@pytest.mark.parametrize("way", [status for status in Status if HOME[status] is None])
async def test_an_interruption_keeps_the_phase_that_it_interrupts(subject: Subject, phase: Status, way: Status) -> None:
    await subject.store.create(meta(), OURS)
    await subject.store.transition("s1", OURS, phase, NOTHING)
    await subject.store.transition("s1", OURS, way, NOTHING)
    assert await sets_of(subject.store) == [HOME[phase]]


# ---- pending webhooks -----------------------------------------------------------------------------------------------


async def test_a_webhook_is_pending_from_the_very_transition_until_it_is_settled(subject: Subject) -> None:
    store = subject.store
    await store.create(meta(status=Status.S3_COMPLETED), OURS)
    await store.create(meta("s2", status=Status.S3_COMPLETED), OURS)
    assert await store.pending_webhooks() == frozenset()
    for _ in range(2):
        await store.transition("s1", OURS, Status.COMPLETED, NOTHING, enqueue_webhook=True)
        await store.transition("s2", OURS, Status.COMPLETED, NOTHING)
        assert await store.pending_webhooks() == {"s1"}
    for _ in range(2):
        await store.ack_webhook("s1")
        await store.ack_webhook("never heard of")
        assert await store.pending_webhooks() == frozenset()
        assert not await store.is_webhook_pending("s1")


async def test_a_transition_that_is_refused_owes_nothing(subject: Subject) -> None:
    await subject.store.create(meta(status=Status.DELETED_LOCALLY), OURS)
    with pytest.raises(ValueError, match="may not follow"):
        await subject.store.transition("s1", OURS, Status.COMPLETED, NOTHING, enqueue_webhook=True)
    with pytest.raises(LeaseLostError):
        await subject.store.transition("s1", THEIRS, Status.DELETED_LOCALLY, NOTHING, enqueue_webhook=True)
    assert await subject.store.pending_webhooks() == frozenset()


async def test_what_is_forgotten_owes_no_webhook(subject: Subject) -> None:
    await subject.store.create(meta(status=Status.S3_COMPLETED), OURS)
    await subject.store.transition("s1", OURS, Status.COMPLETED, NOTHING, enqueue_webhook=True)
    await subject.store.forget("s1")
    assert await subject.store.pending_webhooks() == frozenset()


async def test_work_on_an_ended_stream_is_claimed_beside_the_streams_own_lease(subject: Subject) -> None:
    store, claimed = subject.store, job_lock_name("s1", "webhook")
    await store.create(meta(status=Status.COMPLETED), OURS)
    assert await store.acquire(claimed, THEIRS)
    assert not await store.acquire(claimed, OURS)
    assert await store.acquire(job_lock_name("s1", "after-upload"), OURS)
    assert await store.renew([claimed], OURS) == {claimed}
    assert await store.holders(["s1", claimed]) == {"s1": OURS.value, claimed: THEIRS.value}
    await store.release([claimed], THEIRS)
    assert await store.acquire(claimed, OURS)


# ---- renames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_a_renamed_stream_is_found_by_its_new_path_only(subject: Subject, path: str) -> None:
    await subject.store.create(meta(), OURS)
    for _ in range(2):
        await subject.store.rename("s1", OURS, path)
        found = await subject.store.find_by_path([path, "/rec/s1.mp4"])
        assert found == {path: StreamSummary(meta(current_path=path), StreamSet.ACTIVE)}


async def test_a_rename_leaves_the_old_path_to_the_stream_that_has_taken_it(subject: Subject) -> None:
    await subject.store.create(meta("s1", path="/rec/x.mp4"), OURS)
    await subject.store.create(meta("s2", path="/rec/x.mp4"), OURS, replaced_stream_id="s1")
    await subject.store.rename("s1", OURS, "/rec/y.mp4")
    found = await subject.store.find_by_path(["/rec/x.mp4", "/rec/y.mp4"])
    assert {path: known.meta.stream_id for path, known in found.items()} == {"/rec/x.mp4": "s2", "/rec/y.mp4": "s1"}


# ---- the way out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [Status.INTERRUPTED_SHUTDOWN, Status.INTERRUPTED_CANCELLED])
@pytest.mark.parametrize("current", list(Status))
async def test_an_interruption_is_saved_where_it_adds_to_the_status(
    subject: Subject, current: Status, way: Status
) -> None:
    given = meta(status=current)
    home = HOME[current] or StreamSet.ACTIVE
    await subject.store.create(given, OURS)
    for _ in range(2):  # the second time as after a lost reply: its lease is already given up
        assert await subject.store.save_interrupted([ExitState("s1", way, later(9))], OURS) == frozenset()
        expected = given
        if current not in ENDED:
            status = current if current is Status.S3_COMPLETED else way
            expected = replace(given, status=status, last_activity_at_utc=later(9))
        assert await subject.store.load("s1") == Checkpoint(expected, home, {})
    assert await subject.store.acquire("s1", THEIRS)


async def test_two_hundred_streams_are_saved_at_once_but_for_those_that_are_not_ours(subject: Subject) -> None:
    for number in range(200):
        await subject.store.create(meta(f"s{number}"), THEIRS if number == 13 else OURS)
    subject.expire("s50")
    exit_states = [
        ExitState(f"s{n}", Status.INTERRUPTED_CANCELLED if n % 2 else Status.INTERRUPTED_SHUTDOWN, later(n))
        for n in range(200)
    ]
    unsaved = await subject.store.save_interrupted(
        [*exit_states, ExitState("none", exit_states[0].status, START)], OURS
    )
    assert unsaved == {"s13", "s50", "none"}
    metas = await subject.store.load_metas([saving.stream_id for saving in exit_states])
    for saving in exit_states:
        saved = metas[saving.stream_id].meta
        if saving.stream_id in unsaved:
            assert saved == meta(saving.stream_id)
        else:
            assert (saved.status, saved.last_activity_at_utc) == (saving.status, saving.at_utc)
    assert await subject.store.save_interrupted([], OURS) == frozenset()


async def test_a_stream_that_another_daemon_went_on_with_is_not_taken_for_saved(subject: Subject) -> None:
    saving = ExitState("s1", Status.INTERRUPTED_SHUTDOWN, later(1))
    await subject.store.create(meta(), OURS)
    assert not await subject.store.save_interrupted([saving], OURS)
    assert await subject.store.acquire("s1", THEIRS)
    assert await subject.store.save_interrupted([saving], OURS) == {"s1"}


async def test_only_interruptions_are_saved_on_the_way_out(subject: Subject) -> None:
    await subject.store.create(meta(), OURS)
    before = subject.dump()
    for status in set(Status) - {Status.INTERRUPTED_SHUTDOWN, Status.INTERRUPTED_CANCELLED}:
        with pytest.raises(ValueError, match="not the status of an interrupted"):
            await subject.store.save_interrupted([ExitState("s1", status, START)], OURS)
    assert subject.dump() == before


# ---- forgetting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(Status))
async def test_an_ended_stream_is_forgotten_without_a_trace_and_an_open_one_left_alone(
    subject: Subject, status: Status
) -> None:
    empty = subject.dump()
    await subject.store.create(meta(status=status), OURS, [part()])
    await subject.store.rename("s1", OURS, "/rec/renamed.mp4")
    before = subject.dump()
    for _ in range(2):
        await subject.store.forget("s1")
        assert subject.dump() == (empty if status in ENDED else before)


async def test_forgetting_leaves_a_path_that_leads_to_another_stream(subject: Subject) -> None:
    await subject.store.create(meta("s1", path="/rec/x.mp4", status=Status.COMPLETED), OURS)
    await subject.store.create(meta("s2", path="/rec/x.mp4"), OURS, replaced_stream_id="s1")
    await subject.store.forget("s1")
    assert list(await subject.store.find_by_path(["/rec/x.mp4"])) == ["/rec/x.mp4"]


async def test_a_path_whose_stream_is_lost_is_unknown(subject: Subject) -> None:
    await subject.store.create(meta(), OURS)
    subject.wipe_record("s1")
    assert await subject.store.find_by_path(["/rec/s1.mp4"]) == {}


# ---- owners (P9) -----------------------------------------------------------------------------------------------------

HOST_A, HOST_B = Owner("a", "uuid:a", "/rec /"), Owner("b", "uuid:b", "/rec /")
SHARED_PATH = "/rec/cam.mp4"


async def ids_at(store: CheckpointStore, path: str) -> list[str | None]:
    """Where a path leads: plainly, for one host, for the other."""
    names = ("", HOST_A.name, HOST_B.name)
    found = [await store.find_by_path([path], owner={path: name}.__getitem__) for name in names]
    return [one[path].meta.stream_id if path in one else None for one in found]


async def two_hosts(store: CheckpointStore) -> None:
    await store.create(meta("s1", path=SHARED_PATH, owner=HOST_A), OURS)
    await store.create(meta("s2", path=SHARED_PATH, owner=HOST_B), THEIRS, other_owner_stream_id="s1")


async def test_p9_streams_of_two_owners_have_one_path_beside_each_other(subject: Subject) -> None:
    store = subject.store
    await two_hosts(store)
    with pytest.raises(PathTakenError):
        await store.create(
            meta("s3", path=SHARED_PATH, owner=HOST_B), THEIRS, other_owner_stream_id="s1"
        )  # it has one already
    assert await ids_at(store, SHARED_PATH) == ["s1", "s1", "s2"]
    await store.create(meta("s2", path=SHARED_PATH, owner=HOST_B), THEIRS, other_owner_stream_id="s1")  # repeated
    await store.create(meta("s4", path=SHARED_PATH, owner=HOST_B), THEIRS, replaced_stream_id="s2")
    assert await ids_at(store, SHARED_PATH) == ["s1", "s1", "s4"]
    assert (await loaded(store, "s2")).meta.owner == HOST_B


async def test_p9_only_the_stream_of_another_owner_that_was_seen_there_lets_a_stream_stand_beside_it(
    subject: Subject,
) -> None:
    await subject.store.create(meta("s1", path=SHARED_PATH, owner=HOST_A), OURS)
    for other_owner_stream_id in (None, "s9"):
        with pytest.raises(PathTakenError):
            await subject.store.create(
                meta("s2", path=SHARED_PATH, owner=HOST_B), THEIRS, other_owner_stream_id=other_owner_stream_id
            )
    assert await ids_at(subject.store, SHARED_PATH) == ["s1", "s1", "s1"]


async def test_p9_a_rename_takes_no_path_from_another_owner_and_a_forgotten_stream_leaves_only_its_own(
    subject: Subject,
) -> None:
    store = subject.store
    await store.create(meta("s1", path=SHARED_PATH, owner=HOST_A, status=Status.COMPLETED), OURS)
    await store.create(meta("s2", path="/rec/tmp.mp4", owner=HOST_B), THEIRS)
    for _ in range(2):
        await store.rename("s2", THEIRS, SHARED_PATH)
        assert await ids_at(store, SHARED_PATH) == ["s1", "s1", "s2"]
    assert await ids_at(store, "/rec/tmp.mp4") == [None] * 3
    await store.rename("s2", THEIRS, "/rec/away.mp4")
    assert await ids_at(store, SHARED_PATH) == ["s1"] * 3
    await store.rename("s2", THEIRS, SHARED_PATH)
    await store.forget("s1")
    assert await ids_at(store, SHARED_PATH) == [None, None, "s2"]
    await store.transition("s2", THEIRS, Status.FAILED_ABORTED, NOTHING)
    await store.forget("s2")
    assert await ids_at(store, SHARED_PATH) == [None] * 3


async def test_a_rename_over_a_path_of_the_same_owner_leads_there_as_ever(subject: Subject) -> None:
    store = subject.store
    await store.create(meta("s1", path=SHARED_PATH, owner=HOST_A), OURS)
    await store.create(meta("s2", path="/rec/tmp.mp4", owner=HOST_A), OURS)
    await store.rename("s2", OURS, SHARED_PATH)
    assert await ids_at(store, SHARED_PATH) == ["s2"] * 3


async def test_p9_a_lease_of_the_same_name_on_another_host_is_not_taken_over(subject: Subject) -> None:
    here = replace(OURS, host="0123456789ab")
    await subject.store.create(meta(), here)
    assert not await subject.store.acquire("s1", replace(OUR_NEXT_PROCESS, host="ba9876543210"))
    assert await subject.store.acquire("s1", replace(OUR_NEXT_PROCESS, host=here.host))
