"""The registry of daemons: reports with the store's own time, for a limited time and in a limited number."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoint.examples import Subject
from servers.valkey import ValkeyServer

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.store import RedisCheckpointStore

KEYS = Keys()
REGISTRY = [KEYS.daemons, KEYS.daemons_seen, KEYS.daemons_by_name]
DAY_MS = 86_400_000


async def test_a_report_replaces_the_earlier_one_of_its_name_and_has_the_time_of_the_store(subject: Subject) -> None:
    store = subject.store
    assert (await store.report("o/räum 1\udcff", "well", beginning="o/")).reports == {}
    replaced = await store.report("o/räum 1\udcff", "better", beginning="o/")
    [one] = replaced.reports.values()
    assert (one.text, one.received_at <= replaced.now) == ("well", True)
    await store.report("p/room-2", '{"a": "b c"}', beginning="p/")
    found = await store.reports()
    assert sorted(one.text for one in found.reports.values()) == ["better", '{"a": "b c"}']
    assert all(replaced.now <= one.received_at <= found.now for one in found.reports.values())
    for _ in range(2):
        await store.forget_reports(["p/room-2", "nobody"])
        assert [one.text for one in (await store.reports()).reports.values()] == ["better"]
    await store.forget_reports([])


async def test_a_report_costs_what_its_owner_has_and_returns_no_other_owners(subject: Subject) -> None:
    store = subject.store
    for name in ("o/a", "o/b", "o/z\udcff", "o-/a", "o0/a", "n/a", "o"):
        await store.report(name, name, beginning=name)
    # Redis' names that are not UTF-8 come back with a replacement character.
    for found in (await store.report("o/a", "again", beginning="o/"), await store.reports(beginning="o/")):
        assert {name[:3] for name in found.reports} == {"o/a", "o/b", "o/z"}
    assert found.reports["o/a"].text == "again"
    assert len((await store.reports()).reports) == 7
    assert (await store.reports(beginning="q/")).reports == {}


async def test_the_registry_in_memory_forgets_by_age_and_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_REPORTS", 3)
    now = [0.0]
    store = MemoryCheckpointStore(clock=lambda: now[0])
    await store.report("old", "x", beginning="")
    now[0] = rules.REPORT_SECONDS - 1
    await store.report("a", "x", beginning="")
    assert set((await store.reports()).reports) == {"old", "a"}
    now[0] += 1
    for name in ("b", "c", "a", "d"):
        await store.report(name, "x", beginning="")
    assert list((await store.reports()).reports) == ["c", "a", "d"]


@pytest.mark.real
async def test_the_registry_in_redis_forgets_by_age_and_by_number_and_keeps_nothing_for_ever(
    valkey: ValkeyServer, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_REPORTS", 3)
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.report("a", "x", beginning="")
        [(_, now)] = raw.zrange(KEYS.daemons_seen, 0, -1, withscores=True)
        assert raw.hget(KEYS.daemons, "a") == b"%d x" % now
        for name, days in (("older", 7.1), ("old", 7.0), ("young", 6.9)):
            raw.zadd(KEYS.daemons_seen, {name: now - days * DAY_MS})
            raw.zadd(KEYS.daemons_by_name, {name: 0})
            raw.hset(KEYS.daemons, name, f"{now - days * DAY_MS:.0f} x")
        await store.report("b", "x", beginning="")
        assert set((await store.reports()).reports) == {"young", "a", "b"}
        await store.report("c", "x", beginning="")
        assert set((await store.reports()).reports) == {"a", "b", "c"}
        assert raw.hlen(KEYS.daemons) == raw.zcard(KEYS.daemons_seen) == raw.zcard(KEYS.daemons_by_name) == 3
        for key in REGISTRY:
            assert 0 <= rules.REPORT_SECONDS * 1000 - raw.pttl(key) < 60_000


@pytest.mark.real
@pytest.mark.parametrize("key", REGISTRY)
async def test_kind9_a_registry_of_a_wrong_type_is_named_and_no_call_but_a_report_fails(
    valkey: ValkeyServer, raw: Any, key: str
) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        raw.set(key, "x")
        assert (await store.reports()).reports == {}
        assert dict(store.unreadable.known) == {key: f"{key} is of a wrong type"}
        raw.delete(key)
        await store.report("a", "x", beginning="")
        assert set((await store.reports()).reports) == {"a"}
        assert not store.unreadable.known
        raw.hset(KEYS.daemons, "odd", "no time")
        assert (await store.reports()).reports["odd"].received_at == 0
        raw.hset(KEYS.daemons, "odd", "9" * 5000 + " x")
        assert (await store.reports()).reports["odd"].received_at == 0
