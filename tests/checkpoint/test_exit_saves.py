"""P3, P4: many streams save their final states in one round trip; one cancelled save loses no other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cef_trio.checkpoint.commit import ExitState
from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.protocols import CheckpointStore
from cef_trio.checkpoint.shutdown_flush import ShutdownFlush
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import RedisOperationError
from cef_trio.resilience import CircuitBreaker, ProbeKind, RetryPolicy

pytestmark = pytest.mark.usefixtures("autojump_clock")

LEASE = Lease("us", "1", 30.0)


class Store:
    """What is asked of the store; ``seconds`` is how long it takes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.error: RedisOperationError | None = None
        self.calls: list[list[str]] = []

    async def save_interrupted(self, exit_states: Sequence[ExitState], _lease: Lease) -> frozenset[str]:
        self.calls.append(sorted(saving.stream_id for saving in exit_states))
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return frozenset()


async def succeed(_need: ProbeKind) -> None:
    await trio.lowlevel.checkpoint()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker("redis", succeed, RetryPolicy())


@pytest.fixture
def saves(store: Store, breaker: CircuitBreaker) -> ShutdownFlush:
    return ShutdownFlush(cast("CheckpointStore", store), LEASE, breaker)


def saving(stream_id: str) -> ExitState:
    return ExitState(stream_id, Status.INTERRUPTED_SHUTDOWN, datetime(2026, 1, 1, tzinfo=UTC))


async def test_p4_streams_that_end_at_one_moment_are_saved_in_one_call_and_later_ones_in_another(
    saves: ShutdownFlush, store: Store
) -> None:
    store.seconds = 0.1
    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(saves.save, saving(name))
        await trio.sleep(0.05)  # the call is on its way: who comes now cannot join it
        nursery.start_soon(saves.save, saving("d"))
    assert store.calls == [["a", "b", "c"], ["d"]]
    assert saves.unsaved == set()


@pytest.mark.parametrize("moment", ["before the call", "while it waits for another one's call"])
async def test_p3_a_call_whose_time_is_over_leaves_the_others_states_to_be_saved(
    saves: ShutdownFlush, store: Store, moment: str
) -> None:
    store.seconds = 1.0
    async with trio.open_nursery() as nursery:
        if moment != "before the call":
            nursery.start_soon(saves.save, saving("earlier"))
            await trio.sleep(0.5)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as joined:
                joined.start_soon(saves.save, saving("first"))
                if moment != "before the call":
                    await wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        assert "first" in saves.unsaved
        await saves.save(saving("next"))
    assert store.calls[-1] == ["next"]
    assert saves.unsaved == {"first"}


async def test_p4_callers_that_joined_a_call_whose_time_is_over_fail_without_waiting(
    saves: ShutdownFlush, store: Store
) -> None:
    store.seconds = 5.0
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            nursery.start_soon(saves.save, saving("joins"))
            await saves.save(saving("first"))
    assert trio.current_time() - began == pytest.approx(1)
    assert store.calls == [["first", "joins"]]
    assert saves.unsaved == {"first", "joins"}


async def test_p4_once_redis_has_failed_at_shutdown_no_further_call_is_made(
    saves: ShutdownFlush, store: Store, breaker: CircuitBreaker
) -> None:
    breaker.note_failure()
    await trio.sleep(1)
    saves.leave()
    await saves.save(saving("a"))
    assert store.calls == [["a"]]  # what failed before is no reason
    breaker.note_failure()
    await saves.save(saving("b"))
    assert store.calls == [["a"]]
    assert saves.unsaved == {"b"}


async def test_p4_a_failure_at_the_very_moment_of_leaving_counts(
    saves: ShutdownFlush, store: Store, breaker: CircuitBreaker
) -> None:
    saves.leave()
    breaker.note_failure()
    await saves.save(saving("a"))
    assert store.calls == []
    assert saves.unsaved == {"a"}


async def test_p3_what_redis_rejects_is_reported_as_unsaved(saves: ShutdownFlush, store: Store) -> None:
    store.error = RedisOperationError("save_interrupted", "no", transient=True)
    await saves.save(saving("a"))
    assert saves.unsaved == {"a"}
