"""``verify --all``: every object once before any again, within its bounds, and no mismatch is forgotten (P1, P6)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import redis
import trio
from servers.command import answer
from servers.json_schemas import check_document
from servers.stream_records import DAEMON, a_stream, stream_id
from servers.valkey import ValkeyServer, valkey_server
from waiting import completed

from cef_trio.checkpoint import FIRST_TURN, Checkpoint, Status, StreamSet, VerificationTotals, Verified
from cef_trio.checkpoint.redis import RedisCheckpointStore
from cef_trio.cli.checks import Severity, judge_verification
from cef_trio.cli.object_check import NOT_READ, Comparison
from cef_trio.cli.scrub import Bounds, Compare, Outcome, Pace, in_turn, outcome_of, verify_every
from cef_trio.cli.session import CommandContext
from cef_trio.cli.verify import compare_object
from cef_trio.exceptions import S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.world import PART, World
from cef_trio.s3_endpoint import Fault, Kind


class Kept:
    """What Redis would keep."""

    def __init__(self) -> None:
        self.entries: dict[str, Verified] = {}
        self.last: VerificationTotals | None = None

    async def known(self) -> dict[str, Verified]:
        return dict(self.entries)

    async def record(self, stream_id: str, verified: Verified) -> None:
        self.entries[stream_id] = verified

    async def set_totals(self, totals: VerificationTotals | None) -> None:
        self.last = totals

    async def forget(self, stream_ids: Sequence[str]) -> None:
        for one in stream_ids:
            del self.entries[one]


async def uploaded(world: World, *names: str) -> list[Checkpoint]:
    """The completed streams of new recordings, in the order of the names."""
    for name in names:
        world.append(2 * PART + 7, name)
    async with world.daemon() as daemon:
        for name in names:
            daemon.closed(name)
        await trio.sleep(60)
        found = {one.meta.current_path: one for one in await completed(world)}
    return [found[world.path(name)] for name in names]


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def scrubbed(context: CommandContext, kept: Kept) -> CommandContext:
    return replace(context, verifications=kept)  # type: ignore[arg-type]


async def run(
    context: CommandContext,
    capsys: pytest.CaptureFixture[str],
    bounds: Bounds | None = None,
    compare: Compare | None = None,
) -> tuple[ExitCode, Mapping[str, Any]]:
    capsys.readouterr()
    compare = compare or partial(compare_object, context, quiet=True)
    code = await verify_every(context, compare, bounds or Bounds(), as_json=True)
    document = json.loads(capsys.readouterr().out)
    check_document("verify", document)
    return code, document


async def test_each_object_is_verified_and_recorded(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = {one.meta.stream_id for one in await uploaded(world, "a.mp4", "b.mp4", "c.mp4")}
    code, document = await run(scrubbed, capsys)
    assert (code, document["completed"], document["bounded"]) == (ExitCode.DONE, 3, False)
    assert document["counts"] == {"identical": 3, "unproven": 0, "mismatch": 0, "skipped": 0}
    assert kept.entries.keys() == ids
    assert kept.last is not None
    assert (kept.last.objects, kept.last.mismatches) == (3, 0)


async def test_a_bounded_run_is_continued_by_the_next(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = {one.meta.stream_id for one in await uploaded(world, "a.mp4", "b.mp4", "c.mp4")}
    seen = []
    for _ in range(3):
        before = dict(kept.entries)
        await trio.sleep(60)
        _, document = await run(scrubbed, capsys, Bounds(objects=1))
        assert document["bounded"] is True
        seen += [one for one in kept.entries if kept.entries[one] != before.get(one)]
    assert sorted(seen) == sorted(ids), "each once before any again"
    await trio.sleep(60)
    before = dict(kept.entries)
    await run(scrubbed, capsys, Bounds(objects=1))
    assert [one for one in before if before[one] != kept.entries[one]] == seen[:1], "then the one that waited longest"


async def test_p1_a_mismatch_is_exit_code_5_until_it_is_mended(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, whole = await uploaded(world, "a.mp4", "b.mp4")
    key, content = broken.meta.s3_key_prefix, world.content("a.mp4")
    changed = bytes([content[0] ^ 1]) + content[1:]
    await scrubbed.s3.put_object(key, changed, content_type="video/mp4")
    code, document = await run(scrubbed, capsys)
    assert (code, document["mismatched"]) == (ExitCode.ANSWER_IS_NO, [broken.meta.stream_id])
    assert kept.last is not None
    assert (kept.last.mismatches, kept.last.mismatched) == (1, (broken.meta.stream_id,))
    await trio.sleep(60)
    kept.entries[whole.meta.stream_id] = Verified(0)
    code, document = await run(scrubbed, capsys, Bounds(objects=1))
    assert document["counts"] == {"identical": 1, "unproven": 0, "mismatch": 0, "skipped": 0}
    assert code is ExitCode.ANSWER_IS_NO, "a mismatch of an earlier run is not silent"
    await scrubbed.s3.put_object(key, content, content_type="video/mp4")
    code, document = await run(scrubbed, capsys)
    assert (code, document["mismatched"]) == (ExitCode.DONE, [])


async def test_a_missing_object_is_a_mismatch_and_one_that_cannot_be_read_now_is_none(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, archived = await uploaded(world, "a.mp4", "b.mp4")
    await scrubbed.s3.delete_object(gone.meta.s3_key_prefix)
    key = archived.meta.s3_key_prefix
    world.endpoint.faults.arm(Fault(Kind.ERROR, "GetObject", key=key, code="InvalidObjectState", times=None))
    code, document = await run(scrubbed, capsys)
    assert code is ExitCode.ANSWER_IS_NO
    assert document["counts"] == {"identical": 0, "unproven": 0, "mismatch": 1, "skipped": 1}
    assert kept.entries.keys() == {gone.meta.stream_id}


async def test_an_outage_ends_the_run_and_keeps_what_was_verified(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = sorted(await uploaded(world, "a.mp4", "b.mp4"), key=lambda one: one.meta.stream_id)
    key = streams[1].meta.s3_key_prefix
    world.endpoint.faults.arm(Fault(Kind.ERROR, "GetObject", key=key, code="SlowDown", times=None))
    with pytest.raises(S3OperationError):
        await run(scrubbed, capsys)
    document = json.loads(capsys.readouterr().out)
    assert (document["finished"], document["counts"]["identical"]) == (False, 1)
    assert kept.entries.keys() == {streams[0].meta.stream_id}


async def test_objects_that_are_skipped_keep_no_other_from_being_verified(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were never verified, so they are the first of each run; ``--limit`` counts what is read."""
    streams = sorted(await uploaded(world, "a.mp4", "b.mp4", "c.mp4"), key=lambda one: one.meta.stream_id)
    for archived in streams[:2]:
        key = archived.meta.s3_key_prefix
        world.endpoint.faults.arm(Fault(Kind.ERROR, "GetObject", key=key, code="InvalidObjectState", times=None))
    code, document = await run(scrubbed, capsys, Bounds(objects=1))
    assert (code, document["counts"]) == (
        ExitCode.DONE,
        {"identical": 1, "unproven": 0, "mismatch": 0, "skipped": 2},
    )
    assert kept.entries.keys() == {streams[2].meta.stream_id}
    for result in document["results"]:
        assert ": not read: it is in an archive class" in result["says"]


@pytest.mark.parametrize("first", [True, False])
async def test_an_object_that_s3_refuses_is_a_mismatch_and_the_others_are_read(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str], first: bool
) -> None:
    """Its KMS key was deleted, or a policy denies it: without this no later object would ever be verified."""
    streams = sorted(await uploaded(world, "a.mp4", "b.mp4", "c.mp4"), key=lambda one: one.meta.stream_id)
    refused = streams[0 if first else 1]
    key = refused.meta.s3_key_prefix
    world.endpoint.faults.arm(Fault(Kind.ERROR, "GetObject", key=key, code="AccessDenied", times=None))
    code, document = await run(scrubbed, capsys)
    assert (code, document["finished"]) == (ExitCode.ANSWER_IS_NO, True)
    assert document["counts"] == {"identical": 2, "unproven": 0, "mismatch": 1, "skipped": 0}
    assert document["mismatched"] == [refused.meta.stream_id]
    assert kept.entries.keys() == {one.meta.stream_id for one in streams}
    assert "AccessDenied" in kept.entries[refused.meta.stream_id].mismatch


async def test_an_object_that_is_refused_at_the_end_of_a_run_is_no_mismatch_yet(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    """The credentials may have expired; the next run begins with it."""
    read, refused = sorted(await uploaded(world, "a.mp4", "b.mp4"), key=lambda one: one.meta.stream_id)
    key = refused.meta.s3_key_prefix
    world.endpoint.faults.arm(Fault(Kind.ERROR, "GetObject", key=key, code="ExpiredToken", times=None))
    code, document = await run(scrubbed, capsys)
    assert (code, document["mismatched"]) == (ExitCode.ANSWER_IS_NO, [])
    assert kept.entries.keys() == {read.meta.stream_id}
    code, document = await run(scrubbed, capsys)
    assert (code, document["mismatched"]) == (ExitCode.ANSWER_IS_NO, [refused.meta.stream_id])


@pytest.mark.parametrize("bounds", [Bounds(), Bounds(objects=1)])
async def test_where_nothing_can_be_read_no_object_is_at_fault(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str], bounds: Bounds
) -> None:
    await uploaded(world, "a.mp4", "b.mp4")
    world.endpoint.faults.arm(Fault(Kind.ERROR, "GetObject", code="AccessDenied", times=None))
    with pytest.raises(S3OperationError, match="AccessDenied"):
        await run(scrubbed, capsys, bounds)
    assert (kept.entries, json.loads(capsys.readouterr().out)["finished"]) == ({}, False)


async def test_what_is_no_longer_completed_is_forgotten(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    [stream] = await uploaded(world, "a.mp4")
    kept.entries["gone"] = Verified(1, "was wrong")
    code, _ = await run(scrubbed, capsys)
    assert (code, set(kept.entries)) == (ExitCode.DONE, {stream.meta.stream_id})


async def test_the_rate_is_kept_and_the_time_ends_the_run(
    world: World, scrubbed: CommandContext, capsys: pytest.CaptureFixture[str]
) -> None:
    stream, _ = await uploaded(world, "a.mp4", "b.mp4")
    size = stream.meta.verified_size_bytes or 0
    began = trio.current_time()
    await run(scrubbed, capsys, Bounds(bytes_per_second=size))
    assert trio.current_time() - began == pytest.approx(2.0, abs=0.2)
    began = trio.current_time()
    _, document = await run(scrubbed, capsys, Bounds(bytes_per_second=size // 4, seconds=5.0))
    assert trio.current_time() - began == pytest.approx(5.0, abs=0.2)
    assert document["bounded"] is True


async def test_an_object_that_fits_into_no_run_keeps_no_other_from_being_verified(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run would begin with it, and end within it."""
    [large] = await uploaded(world, "a.mp4")
    world.append(7, "b.mp4")
    async with world.daemon() as daemon:
        daemon.closed("b.mp4")
        await trio.sleep(60)
    bounds = Bounds(bytes_per_second=(large.meta.verified_size_bytes or 0) // 10, seconds=5.0)
    code, document = await run(scrubbed, capsys, bounds)
    assert (code, document["bounded"]) == (ExitCode.DONE, False)
    assert document["counts"] == {"identical": 1, "unproven": 0, "mismatch": 0, "skipped": 1}
    assert document["results"][0]["subject"] == large.meta.stream_id
    assert "need 10s at --rate, more than --for" in document["results"][0]["says"]


def durations(seconds: Mapping[str, float]) -> Compare:
    """Objects whose reading takes so long, and which are then as recorded."""

    async def compare(checkpoint: Checkpoint, _pace: Pace) -> list[Comparison]:
        await trio.sleep(seconds[checkpoint.meta.stream_id])
        return [Comparison("object", True, "equal")]

    return compare


async def test_p6_an_object_that_no_run_has_the_time_for_stops_no_other_and_is_not_silent(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run began with it, read a part of it, and ended with exit code 0."""
    ids = sorted(one.meta.stream_id for one in await uploaded(world, "a.mp4", "b.mp4", "c.mp4"))
    large, *small = ids
    compare, bounds = durations({large: 100.0, **dict.fromkeys(small, 1.0)}), Bounds(seconds=30.0)
    code, document = await run(scrubbed, capsys, bounds, compare)
    assert (code, document["bounded"]) == (ExitCode.ANSWER_IS_NO, True), "nothing was read to its end"
    [result] = document["results"]
    assert (result["subject"], result["ok"]) == (large, False)
    assert "longer than --for" in result["says"]
    assert kept.last is None, "it was not verified"
    code, document = await run(scrubbed, capsys, bounds, compare)
    assert (code, document["bounded"], document["results"]) == (ExitCode.DONE, True, [])
    assert document["counts"]["identical"] == 2
    assert [one for one in ids if kept.entries[one].at_ms] == small
    assert kept.last is not None
    assert (kept.last.objects, kept.last.oldest_ms > 0) == (2, True)
    code, document = await run(scrubbed, capsys, Bounds(), compare)
    assert (code, document["bounded"]) == (ExitCode.DONE, False)
    assert all(one.turn_ms is None for one in kept.entries.values())


async def test_p6_an_object_for_which_too_little_time_was_left_has_all_the_time_of_the_next_run(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also before new recordings: with some each day, it would else be the second of each run."""
    new, verified, large = sorted(one.meta.stream_id for one in await uploaded(world, "a.mp4", "b.mp4", "c.mp4"))
    kept.entries |= {verified: Verified(1), large: Verified(2, "was wrong")}
    compare, bounds = durations({new: 10.0, verified: 1.0, large: 25.0}), Bounds(seconds=30.0)
    code, _ = await run(scrubbed, capsys, bounds, compare)
    assert (code, kept.entries[large].mismatch) == (ExitCode.ANSWER_IS_NO, "was wrong"), "it was not read since"
    del kept.entries[new]
    code, document = await run(scrubbed, capsys, bounds, compare)
    assert (code, document["results"]) == (ExitCode.DONE, [])
    assert (kept.entries[large].mismatch, kept.entries[large].turn_ms) == ("", None)
    assert kept.entries[new] == Verified(0, turn_ms=FIRST_TURN), "now it is the one with too little time"


async def test_what_was_read_in_time_is_recorded_although_the_time_ends_then(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    [stream] = await uploaded(world, "a.mp4")
    record = kept.record

    async def slowly(*given: Any) -> None:
        await trio.sleep(5)
        await record(*given)

    monkeypatch.setattr(kept, "record", slowly)
    code, document = await run(scrubbed, capsys, Bounds(seconds=30), durations({stream.meta.stream_id: 28}))
    assert (code, document["bounded"], len(kept.entries)) == (ExitCode.DONE, False, 1)


@pytest.mark.parametrize("shows", [Comparison(NOT_READ, False, "archived"), Comparison("object", None, "no checksum")])
async def test_a_run_that_proves_no_object_has_the_exit_code_of_one_that_is_not_proven(
    world: World, scrubbed: CommandContext, capsys: pytest.CaptureFixture[str], shows: Comparison
) -> None:
    """All are in another bucket than S3_BUCKET_NAME, or archived, or without a checksum."""

    async def compare(checkpoint: Checkpoint, _pace: Pace) -> list[Comparison]:
        return [Comparison("object", True, "equal") if checkpoint.meta.stream_id == proven else shows]

    proven = ""
    assert (await run(scrubbed, capsys, compare=compare))[0] is ExitCode.DONE, "there is no object"
    proven = (await uploaded(world, "a.mp4", "b.mp4"))[0].meta.stream_id
    assert (await run(scrubbed, capsys, compare=compare))[0] is ExitCode.DONE
    proven = ""
    assert (await run(scrubbed, capsys, compare=compare))[0] is ExitCode.ANSWER_IS_NO


async def test_a_record_that_changed_meanwhile_is_no_mismatch(
    world: World, scrubbed: CommandContext, kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    [stream] = await uploaded(world, "a.mp4")

    async def compare(_checkpoint: Checkpoint, _pace: Pace) -> list[Comparison]:
        await world.store.forget(stream.meta.stream_id)
        return [Comparison("object", False, "does not exist")]

    code, document = await run(scrubbed, capsys, compare=compare)
    assert (code, document["mismatched"], kept.entries) == (ExitCode.ANSWER_IS_NO, [], {}), "none was verified"


def test_those_never_verified_come_first_then_the_oldest() -> None:
    known = {"a": Verified(9), "b": Verified(8), "d": Verified(0, turn_ms=FIRST_TURN), "e": Verified(7, turn_ms=10)}
    assert in_turn(["a", "b", "c", "d", "e"], known) == ["d", "c", "b", "a", "e"]


@pytest.mark.parametrize(
    ("agrees", "outcome"),
    [
        ([None, True], Outcome.IDENTICAL),
        ([None, None], Outcome.UNPROVEN),
        ([True, False], Outcome.MISMATCH),
        ([False], Outcome.MISMATCH),
    ],
)
def test_what_comparisons_show(agrees: list[bool | None], outcome: Outcome) -> None:
    assert outcome_of([Comparison("x", one, "says") for one in agrees]) is outcome
    assert outcome_of([Comparison(NOT_READ, False, "archived")]) is Outcome.SKIPPED


def test_doctor_names_a_mismatch() -> None:
    now = datetime(2026, 7, 1, tzinfo=UTC)
    at_ms = int(now.timestamp() * 1000)
    assert judge_verification(None, now).severity is Severity.OK
    assert judge_verification(VerificationTotals(at_ms, 3, at_ms, 0), now).severity is Severity.OK
    found = judge_verification(VerificationTotals(at_ms, 3, at_ms, 1, ("0b6f0c4e",)), now)
    assert found.severity is Severity.PROBLEM
    assert "0b6f0c4e" in found.says


@pytest.mark.real
@pytest.mark.parametrize(
    "arguments",
    [[], ["0b6f", "--all"], ["0b6f", "--rate", "1MiB"], ["--all", "--rate", "1"], ["--all", "--limit", "0"]],
)
def test_arguments_that_do_not_fit_together_are_one_error(arguments: list[str]) -> None:
    assert len(answer("verify", *arguments, settings={}, code=2)["error"]["lines"]) == 1


@pytest.mark.real
async def test_p7_a_long_history_is_read_in_many_small_calls(
    context: CommandContext, valkey: ValkeyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """One reply with all ids, or all verifications, would stop Redis for every daemon, and be too late for this one."""
    [first, *others] = [stream_id(number) for number in range(20_000)]
    async with RedisCheckpointStore(valkey.url, owner="node-7", socket_timeout_seconds=10) as store:
        await store.create(a_stream(0, status=Status.COMPLETED), DAEMON)
        with redis.Redis.from_url(valkey.url) as raw:
            raw.sadd(store.keys.set(StreamSet.COMPLETED), *others)
            raw.hset(store.keys.verified, mapping={**dict.fromkeys(others, "1"), others[0]: "1 was wrong", "gone": "1"})
            raw.config_resetstat()
            real = replace(context, store=store, verifications=store.verifications)

            async def compare(_checkpoint: Checkpoint, _pace: Pace) -> list[Comparison]:
                return [Comparison("object", True, "equal")]

            code = await verify_every(real, compare, Bounds(objects=1), as_json=True)
            calls = {name: one["calls"] for name, one in raw.info("commandstats").items()}
            assert raw.hlen(store.keys.verified) == 20_000
        document = json.loads(capsys.readouterr().out)
        assert (code, document["mismatched"]) == (ExitCode.ANSWER_IS_NO, [others[0]])
        assert (document["completed"], document["counts"]["identical"]) == (20_000, 1)
        assert calls["cmdstat_sscan"] >= 20
        assert calls["cmdstat_hscan"] >= 20
        assert calls["cmdstat_hgetall"] == 2, "the record of the one that was read, and its parts"
        assert "cmdstat_smembers" not in calls
        assert first in await store.verifications.known()


@pytest.mark.real
async def test_verifications_in_redis() -> None:
    with valkey_server(tcp=True) as server:
        async with (
            RedisCheckpointStore(server.url, owner="node-7", socket_timeout_seconds=10) as store,
            RedisCheckpointStore(server.url, owner="node-8", socket_timeout_seconds=10) as other,
        ):
            kept = store.verifications
            assert (await kept.known(), await kept.totals()) == ({}, None)
            await kept.record("a", Verified(1))
            await kept.record("b", Verified(2, "checkpoint DIFFERENT: 5 bytes"))
            known = await kept.known()
            assert known == {"a": Verified(1), "b": Verified(2, "checkpoint DIFFERENT: 5 bytes")}
            await kept.set_totals(VerificationTotals.of(known))
            assert await kept.totals() == VerificationTotals(2, 2, 1, 1, ("b",))
            assert (await other.verifications.known(), await other.verifications.totals()) == ({}, None)
            tried = {"c": Verified(0, turn_ms=FIRST_TURN), "d": Verified(3, "is wrong", turn_ms=4)}
            for one, verified in tried.items():
                await kept.record(one, verified)
            assert await kept.known() == known | tried
            await kept.forget(["b", *tried])
            assert list(await kept.known()) == ["a"]
            await kept.set_totals(None)
            assert await kept.totals() is None
            await kept.clear()
            assert await kept.known() == {}
            for key in (store.keys.verified, store.keys.verification):
                server.command("SET", key, "a hand slipped")
            assert (await kept.known(), await kept.totals()) == ({}, None)
            await kept.record("a", Verified(1))
            await kept.set_totals(VerificationTotals.of(known))
            assert (await kept.known(), await kept.totals()) == ({"a": Verified(1)}, VerificationTotals.of(known))
