"""The periodic calls of a daemon in one round trip: each has its own result, and a failed one fails no other."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoint.examples import OURS, THEIRS, Subject, meta
from servers.valkey import ValkeyServer

from cef_trio.checkpoint.protocols import Beat, BeatReply
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.store import RedisCheckpointStore

REPORT = ("o/cam", "well", "o/")


async def test_each_part_has_its_own_result_and_what_is_not_due_is_not_done(subject: Subject) -> None:
    store = subject.store
    assert await store.beat(Beat(lease=OURS)) == BeatReply()
    for name, lease in (("s1", OURS), ("s2", THEIRS), ("s3", OURS)):
        await store.create(meta(name, path=f"/rec/{name}.mp4"), lease)
    await store.release(["s3"], OURS)
    reply = await store.beat(Beat(lease=OURS, renewed_ids=["s1", "s2"], expired_since_ms=0, report=REPORT))
    assert reply.lost == frozenset({"s2"})
    assert reply.expired is not None
    assert reply.expired.stream_ids == {"s3"}
    assert reply.reports is not None
    assert reply.reports.reports == {}
    assert await store.holders(["s1", "s2"]) == {"s1": OURS.value, "s2": THEIRS.value}
    reply = await store.beat(Beat(lease=OURS, report=REPORT))
    assert (reply.lost, reply.expired) == (None, None)
    assert reply.reports is not None
    assert [one.text for one in reply.reports.reports.values()] == ["well"]


async def test_many_leases_are_renewed_in_one_call(subject: Subject) -> None:
    ids = [f"s{number}" for number in range(1100)]
    reply = await subject.store.beat(Beat(lease=OURS, renewed_ids=ids, expired_since_ms=0))
    assert reply.lost == frozenset(ids)
    assert reply.expired is not None


@pytest.mark.real
async def test_a_part_that_fails_fails_no_other_and_scripts_that_the_server_forgot_are_sent_again(
    valkey: ValkeyServer, raw: Any
) -> None:
    beat = Beat(lease=OURS, renewed_ids=["s1"], expired_since_ms=0, report=REPORT)
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta("s1"), OURS)
        raw.script_flush()
        for broken in (Keys().daemons, Keys().daemons_seen):
            raw.set(broken, "x")
            raw.pexpire(Keys().lease("s1"), 20_000)
            reply = await store.beat(beat)
            assert (reply.lost, reply.expired is not None, reply.reports) == (frozenset(), True, None)
            assert raw.pttl(Keys().lease("s1")) > 20_000
            raw.delete(broken)
        raw.config_resetstat()
        reply = await store.beat(beat)
        assert reply.reports is not None
        assert raw.info("commandstats")["cmdstat_evalsha"]["calls"] == 3
        assert "cmdstat_eval" not in raw.info("commandstats")
