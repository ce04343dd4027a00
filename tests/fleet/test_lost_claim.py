"""P9: Redis loses the claim of an owner's name. The living holder keeps the name; a waiting clone does not get it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
import trio
from servers.valkey import ValkeyServer
from servers.valkey_fleet import SentinelTrio, sentinel_trio
from structlog.typing import EventDict
from trio.testing import MockClock
from trio_util import AsyncBool
from waiting import until

from cef_trio.checkpoint import RENEWALS, Claimant, ClaimWait, Lease, Vacancy
from cef_trio.checkpoint.redis import OwnerClaim, RedisCheckpointStore
from cef_trio.daemon.owner_claim import ClaimKeeper
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.claims import Claimed, SimulatedClaim
from cef_trio.resilience import SingleAttempt

TTL: Final = 30.0
LOOK: Final = TTL / 10
OWNER: Final = "0123456789ab"
SINCE: Final = "2026-11-29T12:00:00.000000Z"
ORIGINAL: Final = Lease("cam", "process-1", TTL, host="boot-1")
CLONE: Final = Lease("cam", "process-2", TTL, host="boot-2")


# ---- the decision ----------------------------------------------------------------------------------------------------


def looks_of_a_clone(lost_at: float, renews_first_at: float) -> list[bool]:
    """Whether a waiting clone may claim, at each of its looks, if the claim is lost once."""
    renewals = [renews_first_at + number * TTL / RENEWALS for number in range(9)]
    seen, answers = ClaimWait(), []
    for number in range(20):
        now = number * LOOK
        last = max((at for at in renewals if at <= now), default=renews_first_at - TTL / RENEWALS)
        is_lost = last <= lost_at <= now
        found = Vacancy.ABSENT if is_lost else Claimant("boot-1", "one", SINCE, last + TTL - now)
        seen = seen.after(found, now)
        answers.append(seen.may_claim(found, now))
    return answers


@pytest.mark.parametrize("renews_first_at", [0.1, 2.5, 5.0, 9.9])
def test_a_living_holders_claim_is_never_claimable_whenever_it_is_lost(renews_first_at: float) -> None:
    for lost_at in (moment / 4 for moment in range(1, 4 * 50)):
        assert not any(looks_of_a_clone(lost_at, renews_first_at)), lost_at


@pytest.mark.parametrize("found", [Vacancy.ABSENT, Vacancy.GIVEN_UP])
def test_a_name_that_was_never_seen_taken_is_free(found: Vacancy) -> None:
    assert ClaimWait().after(found, 5.0).may_claim(found, 5.0)
    assert ClaimWait().after_no_response(4.0, TTL).may_claim(found, 5.0), "an outage at the start delays nothing"


def test_each_order_of_what_a_waiting_clone_sees() -> None:
    """A model of what may be known: the end of the claim seen last, a release, and an outage."""
    other = Claimant("boot-1", "one", SINCE, TTL)
    for steps in itertools.product([other, Vacancy.ABSENT, Vacancy.GIVEN_UP, None], repeat=5):
        seen, not_before = ClaimWait(), -1.0
        holder_known = False
        for number, found in enumerate(steps):
            now = number * LOOK
            if found is None:
                seen = seen.after_no_response(now, TTL)
                not_before = max(not_before, now + TTL / 2) if holder_known else not_before
                continue
            seen = seen.after(found, now)
            if found is other:
                holder_known, not_before = True, now + TTL
            elif found is Vacancy.GIVEN_UP:
                not_before = -1.0
            assert seen.may_claim(found, now) == (found is not other and now >= not_before), (steps, number)


# ---- two daemons on a virtual clock ----------------------------------------------------------------------------------


@dataclass
class Fleet:
    """An original and a clone, and the claims that a simulated Redis has of their name."""

    claims: dict[str, Claimed] = field(default_factory=dict)
    redis_down: AsyncBool = field(default_factory=AsyncBool)
    stopped: list[str] = field(default_factory=list)

    def keeper(self, lease: Lease) -> ClaimKeeper:
        async def connected() -> None:
            await trio.lowlevel.checkpoint()

        life = SimpleNamespace(
            begin_call=lambda _: None, wait_connected=connected, redis_down=self.redis_down, ended=False
        )
        services = SimpleNamespace(
            owner_claim=SimulatedClaim(self.claims, OWNER, lease, lease.host, cast("Any", life)),
            redis_breaker=SimpleNamespace(outage=None),
            utc_now=lambda: datetime.now(UTC),
        )
        return ClaimKeeper(cast("Any", services))

    async def run(self, keeper: ClaimKeeper, name: str, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take the name and keep it, as the daemon does."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.keep, lambda: self.stopped.append(name))
            while True:
                try:
                    await keeper.take(lambda _: None)
                except RedisOperationError:
                    await trio.sleep(1)
                else:
                    break


async def two_daemons(lose: Callable[[Fleet], Any]) -> tuple[Fleet, ClaimKeeper, ClaimKeeper]:
    fleet = Fleet()
    original, clone = fleet.keeper(ORIGINAL), fleet.keeper(CLONE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.run, original, "original")
        await trio.sleep(1.3)
        nursery.start_soon(fleet.run, clone, "clone")
        await lose(fleet)
        await trio.sleep(4 * TTL)
        outcome = (original.allows_work, clone.allows_work)
        nursery.cancel_scope.cancel()
    assert outcome == (True, False), fleet
    assert fleet.stopped == []
    return fleet, original, clone


@pytest.mark.parametrize("tenth", range(0, 330, 7))
async def test_a_claim_that_is_evicted_at_any_moment_stays_with_its_living_holder(
    autojump_clock: MockClock, tenth: int
) -> None:
    async def evict(fleet: Fleet) -> None:
        await trio.sleep(1 + tenth / 10)
        fleet.claims.clear()

    await two_daemons(evict)


@pytest.mark.parametrize("outage_seconds", [1, 5, 12, 20, 29, 45])
@pytest.mark.parametrize("begins_after", [1, 8, 9.5, 17])
async def test_a_failover_that_loses_the_claim_leaves_it_with_its_living_holder(
    autojump_clock: MockClock, outage_seconds: float, begins_after: float
) -> None:
    async def fail_over(fleet: Fleet) -> None:
        await trio.sleep(begins_after)
        fleet.redis_down.value = True
        fleet.claims.clear()
        await trio.sleep(outage_seconds)
        fleet.redis_down.value = False

    await two_daemons(fail_over)


async def test_a_clone_that_starts_while_the_claim_is_lost_gives_the_name_back(
    autojump_clock: MockClock, logged: list[EventDict]
) -> None:
    fleet = Fleet()
    original, clone = fleet.keeper(ORIGINAL), fleet.keeper(CLONE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.run, original, "original")
        await trio.sleep(1.3)
        fleet.claims.clear()
        nursery.start_soon(fleet.run, clone, "clone")
        await trio.sleep(2 * TTL / RENEWALS + 1)
        assert (original.allows_work, clone.allows_work) == (True, False)
        nursery.cancel_scope.cancel()
    assert fleet.stopped == ["clone"]
    assert [one["system"] for one in logged if one["event"] == "owner_claim_lost"] == ["boot-1"]


async def test_a_name_that_is_given_up_is_taken_at_once_and_that_of_a_dead_system_when_its_claim_ends(
    autojump_clock: MockClock,
) -> None:
    for gives_up, within in ((True, LOOK + 1), (False, TTL + LOOK + 1)):
        fleet = Fleet()
        original, clone = fleet.keeper(ORIGINAL), fleet.keeper(CLONE)
        assert original._claim is not None
        assert await original._claim.take(SINCE) is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fleet.run, clone, "clone")
            await trio.sleep(1)
            assert not clone.allows_work
            if gives_up:
                await original._claim.release()
            with trio.fail_after(within):
                await clone._held.wait_value(True)
            nursery.cancel_scope.cancel()


# ---- real servers ----------------------------------------------------------------------------------------------------


@pytest.mark.real
async def test_the_script_gives_a_lost_claim_back_to_the_system_that_held_it_without_a_gap(
    valkey: ValkeyServer,
) -> None:
    async with RedisCheckpointStore(valkey.url, owner=OWNER) as store:
        original, clone = (OwnerClaim(store._redis, store.keys, lease, lease.host) for lease in (ORIGINAL, CLONE))
        assert await original.take(SINCE) is None
        found = await clone.look()
        assert isinstance(found, Claimant)
        assert TTL - 5 < found.ends_in_seconds <= TTL
        valkey.command("DEL", store.keys.claim)
        assert await clone.look() is Vacancy.ABSENT
        assert await clone.take(SINCE) is None
        assert await original.take(SINCE) is None, "it had the name before"
        assert await clone.take(SINCE) == Claimant("boot-1", "boot-1", SINCE)
        assert await original.take(SINCE) is None
        await original.release()
        assert await clone.look() is Vacancy.GIVEN_UP
        assert await clone.take(SINCE) is None
        assert await original.take(SINCE) == Claimant("boot-2", "boot-2", SINCE), "it gave the name up"


@pytest.mark.real
async def test_a_claim_lost_by_a_failover_of_sentinels_is_its_holders_again() -> None:
    lease_seconds = 12.0
    with sentinel_trio() as redis:
        async with RedisCheckpointStore(redis.url, owner=OWNER, retrier=SingleAttempt()) as store:
            keepers = []
            stopped: list[str] = []
            for system in ("boot-1", "boot-2"):
                lease = Lease("cam", system, lease_seconds, host=system)
                services = SimpleNamespace(
                    owner_claim=OwnerClaim(store._redis, store.keys, lease, system),
                    redis_breaker=SimpleNamespace(outage=None),
                    utc_now=lambda: datetime.now(UTC),
                )
                keepers.append(ClaimKeeper(cast("Any", services)))
            original, clone = keepers
            fleet = Fleet(stopped=stopped)
            with trio.fail_after(120):
                async with trio.open_nursery() as nursery:
                    new_primary = await lose_by_failover(redis, partial(start, nursery, fleet), original, clone)
                    assert b"boot-2" not in new_primary.command("HGET", store.keys.claim, "system")
                    with trio.move_on_after(1.5 * lease_seconds):
                        await clone._held.wait_value(True)
                    assert (original.allows_work, clone.allows_work) == (True, False)
                    found = await cast("OwnerClaim", clone._claim).look()
                    assert isinstance(found, Claimant)
                    assert found.system == "boot-1"
                    nursery.cancel_scope.cancel()
            assert stopped == []


def start(nursery: trio.Nursery, fleet: Fleet, keeper: ClaimKeeper, name: str) -> None:
    nursery.start_soon(fleet.run, keeper, name)


async def lose_by_failover(
    redis: SentinelTrio, run: Callable[[ClaimKeeper, str], None], original: ClaimKeeper, clone: ClaimKeeper
) -> ValkeyServer:
    """The primary takes the claim, its replicas never get it, and one of them becomes the primary."""
    primary = redis.primary()
    replicas = [one for one in redis.servers if one is not primary]
    for one in replicas:
        one.freeze()
    run(original, "original")
    await original._held.wait_value(True)
    run(clone, "clone")
    await until(lambda: clone._wait.holder is not None)
    primary.kill()
    for one in replicas:
        one.thaw()

    def promoted() -> ValkeyServer | None:
        return next((one for one in replicas if b"role:master" in one.command("INFO", "replication")), None)

    await until(lambda: promoted() is not None)
    new = promoted()
    assert new is not None
    return new
