"""What only the in-process store offers: the laboratory's hands on its memory, its clock and its faults."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from checkpoint.examples import OURS, THEIRS, meta, part

from cef_trio.checkpoint.memory import MemoryCheckpointStore, Moment
from cef_trio.checkpoint.states import StreamSet
from cef_trio.exceptions import LeaseLostError, RedisOperationError


async def test_a_restored_snapshot_is_a_server_that_lost_what_came_after_it() -> None:
    store = MemoryCheckpointStore()
    await store.create(meta("s1"), OURS)
    await store.record_part("s1", OURS, part(1))
    then = store.snapshot()
    await store.record_part("s1", OURS, part(2))
    await store.create(meta("s2"), OURS)
    store.restore(then)
    assert store.snapshot() == then
    checkpoint = await store.load("s1")
    assert checkpoint is not None
    assert dict(checkpoint.parts) == {1: part(1)}
    assert await store.members(StreamSet.ACTIVE) == {"s1"}
    await store.record_part("s1", OURS, part(2))
    assert store.snapshot() != then


async def test_a_cleared_store_has_lost_everything_leases_too() -> None:
    store = MemoryCheckpointStore()
    await store.create(meta(), OURS)
    store.clear()
    assert await store.load("s1") is None
    with pytest.raises(LeaseLostError):
        await store.record_part("s1", OURS, part())


async def test_a_lease_runs_out_on_the_clock_of_trio(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    store = MemoryCheckpointStore()
    await store.create(meta(), OURS)
    await trio.sleep(OURS.ttl_seconds - 1)
    assert not await store.renew(["s1"], OURS)
    await trio.sleep(OURS.ttl_seconds - 1)
    assert not await store.acquire("s1", THEIRS)
    await trio.sleep(1)
    assert await store.acquire("s1", THEIRS)


async def test_a_fault_before_sending_leaves_the_store_as_it_was() -> None:
    store = MemoryCheckpointStore()
    seen: list[tuple[str, Moment]] = []

    async def fail(operation: str, moment: Moment) -> None:
        seen.append((operation, moment))
        if moment is Moment.SENT:
            raise RedisOperationError(operation, "refused", transient=True)

    store.fault = fail
    with pytest.raises(RedisOperationError, match="Redis operation 'create' failed: refused"):
        await store.create(meta(), OURS)
    store.fault = None
    assert seen == [("create", Moment.BEFORE), ("create", Moment.SENT)]
    assert await store.load("s1") is None


async def test_a_loaded_checkpoint_does_not_change_when_the_store_does() -> None:
    store = MemoryCheckpointStore()
    await store.create(meta(), OURS)
    checkpoint = await store.load("s1")
    assert checkpoint is not None
    await store.record_part("s1", OURS, part())
    assert not checkpoint.parts
