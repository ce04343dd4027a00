"""What was true before an await is checked again after it, or was reserved before it (correctness.md, kind 12).

Each test lets something happen while the daemon waits for a response: all such moments are enumerated, or the
scheduler's random order is varied by many seeds.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from waiting import completed

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.states import Status
from cef_trio.lab.scheduler import run_virtual
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.watch.events import Scanned

SEEDS = range(8)
ANOTHER = Lease("another", "token", 30.0)

MOMENTS_OF_RESUMING = [
    pytest.param((seen, operation, moment), id=f"{'watcher' if seen else 'idle checker'}: {operation} {moment.value}")
    for seen, operations in (
        (True, ("find_by_path", "acquire", "load")),
        (False, ("members", "holders", "load_metas", "acquire", "load")),
    )
    for operation in operations
    for moment in (Moment.BEFORE, Moment.AFTER)
]
"""Every moment of every call that a daemon makes before it resumes a stream. Once it has the lease, no other daemon can
change the stream, and the injected change has no effect."""


def _with_many_dice(folder: Path, story: Callable[[World], Awaitable[None]]) -> None:
    """Run the scenario in worlds of many seeds, each with another order of tasks."""

    async def tell(seed: int) -> None:
        watched = folder / f"watch-{seed}"
        watched.mkdir()
        await story(World(watched, seed=seed))

    for seed in SEEDS:
        run_virtual(tell, seed, seed=seed)


def test_two_daemons_that_see_files_at_once_upload_each_of_them_once(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        for number in range(5):
            world.append(2 * PART + number, f"{number}.mp4")
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            daemons = []
            for instance in ("one", "two"):
                services = await stack.enter_async_context(world.services(instance=instance))
                daemons.append(WorldDaemon(world, services))
                nursery.start_soon(daemons[-1].run)
            await trio.sleep(0.5)
            for daemon in daemons:
                for number in range(5):
                    daemon.closed(f"{number}.mp4")
            await completed(world)
            await trio.sleep(60)
            for daemon in daemons:
                daemon.shutdown.request()
            await trio.sleep(10)
        assert sorted(world.recordings()) == sorted(world.content(f"{number}.mp4") for number in range(5))
        assert len(world.known()) == 5
        assert world.received_bytes() == sum(2 * PART + number for number in range(5))
        assert world.open_uploads() == []

    _with_many_dice(tmp_path, story)


def test_p1_an_upload_that_redis_forgot_is_adopted_by_one_of_two_files_that_fit_it(tmp_path: Path) -> None:
    """A copy of a recording, with the same name in another folder, has its bytes; then both grow."""

    async def story(world: World) -> None:
        for folder in ("one", "two"):
            (world.folder / folder).mkdir()
        names = ("one/a.mp4", "two/a.mp4")
        world.append(3 * PART, names[0])
        async with world.killed_daemon() as daemon:
            daemon.seen(names[0])
            await trio.sleep(1)
        assert len(world.open_uploads()) == 1
        world.lose_redis()
        shutil.copyfile(world.path(names[0]), world.path(names[1]))
        for name in names:
            world.append(PART + 10, name)
        async with world.daemon() as daemon:
            for name in names:
                daemon.closed(name)
            await completed(world)
            await trio.sleep(60)
        assert sorted(world.recordings()) == sorted(world.content(name) for name in names)
        known = world.known()
        assert {checkpoint.meta.current_path for checkpoint in known} == {world.path(name) for name in names}
        objects = world.objects()
        for checkpoint in known:
            assert objects[checkpoint.meta.s3_key_prefix] == Path(checkpoint.meta.current_path).read_bytes()
        assert world.open_uploads() == []

    _with_many_dice(tmp_path, story)


def _once(world: World, operation: str, moment: Moment, change: Callable[[], Awaitable[None]]) -> list[str]:
    """Inject the change at that moment of the first such call; return what was injected so far."""
    injected: list[str] = []

    async def fault(called: str, at: Moment) -> None:
        await trio.lowlevel.checkpoint()
        if not injected and (called, at) == (operation, moment):
            injected.append(called)
            await change()

    world.store.fault = fault
    return injected


async def _interrupted(world: World) -> str:
    """Create a stream with two parts and no task; return its id."""
    world.append(2 * PART + 10)
    async with world.daemon():
        await trio.sleep(1)
    (checkpoint,) = world.known()
    assert checkpoint.meta.status is Status.INTERRUPTED_SHUTDOWN
    assert len(checkpoint.parts) == 2
    return checkpoint.meta.stream_id


async def _change_while_resuming(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    moment_of_call: tuple[bool, str, Moment],
    change: Callable[[str], Awaitable[None]],
) -> tuple[str, list[str], list[str]]:
    """Have another daemon change an interrupted stream at that moment, if it gets the stream's lease.

    Returns the stream's id, the calls at which the change was injected, and the id again for each change that was made.
    """
    seen, operation, moment = moment_of_call
    stream_id = await _interrupted(world)
    if not seen:
        monkeypatch.setattr(world, "scan", lambda: Scanned({}, began_at=trio.current_time()))
    done: list[str] = []

    async def with_a_lease() -> None:
        if not await world.store.acquire(stream_id, ANOTHER):
            return  # as `cef-trio abort` is refused
        await change(stream_id)
        await world.store.release([stream_id], ANOTHER)
        done.append(stream_id)

    return stream_id, _once(world, operation, moment, with_a_lease), done


@pytest.mark.parametrize("moment_of_call", MOMENTS_OF_RESUMING)
async def test_an_abort_between_lookup_and_lease_ends_the_stream(
    world: World, monkeypatch: pytest.MonkeyPatch, moment_of_call: tuple[bool, str, Moment]
) -> None:
    async def abort(stream_id: str) -> None:
        change = Change({"failure_reason": "aborted by a person"})
        await world.store.transition(stream_id, ANOTHER, Status.FAILED_ABORTED, change)
        await world.abort_open_uploads()
        await world.store.update(stream_id, ANOTHER, Change({"s3_upload_id": None, "checksum_algorithm": None}))

    _, injected, aborted = await _change_while_resuming(world, monkeypatch, moment_of_call, abort)
    async with world.daemon() as daemon:
        await trio.sleep(60)
        daemon.closed()
        await trio.sleep(60)
    assert injected == [moment_of_call[1]]
    (checkpoint,) = world.known()
    if aborted:
        assert checkpoint.meta.status is Status.FAILED_ABORTED
        assert checkpoint.meta.s3_upload_id is None
        assert world.recordings() == []
    else:
        assert checkpoint.meta.status is Status.COMPLETED
    assert world.open_uploads() == []
    assert world.store.snapshot().leases == {}, "an unused lease blocks `retry` and `abort`"


@pytest.mark.parametrize("moment_of_call", MOMENTS_OF_RESUMING)
async def test_p2_a_rename_by_another_daemon_between_lookup_and_lease_causes_no_upload(
    world: World, monkeypatch: pytest.MonkeyPatch, moment_of_call: tuple[bool, str, Moment]
) -> None:
    async def rename(stream_id: str) -> None:
        Path(world.path("a.mp4")).rename(world.path("b.mp4"))
        await world.store.rename(stream_id, ANOTHER, world.path("b.mp4"))

    stream_id, injected, renamed = await _change_while_resuming(world, monkeypatch, moment_of_call, rename)
    async with world.daemon() as daemon:
        await trio.sleep(60)
        name = "b.mp4" if renamed else "a.mp4"
        daemon.closed(name)
        await completed(world)
    assert injected == [moment_of_call[1]]
    (checkpoint,) = world.known()
    assert (checkpoint.meta.stream_id, checkpoint.meta.current_path) == (stream_id, world.path(name))
    assert world.received_bytes() == 2 * PART + 10


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_a_newer_path_that_another_daemon_recorded_before_our_lease_stays(world: World, moment: Moment) -> None:
    """``a.mp4`` is completed and renamed to ``b.mp4``; while that is to be recorded, it becomes ``c.mp4``."""
    world.append(PART)

    async def rename_again() -> None:
        Path(world.path("b.mp4")).rename(world.path("c.mp4"))
        assert await world.store.acquire(stream_id, ANOTHER)
        await world.store.rename(stream_id, ANOTHER, world.path("c.mp4"))
        await world.store.release([stream_id], ANOTHER)

    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
        stream_id = checkpoint.meta.stream_id
        injected = _once(world, "find_by_path", moment, rename_again)
        Path(world.path("a.mp4")).rename(world.path("b.mp4"))
        daemon.moved("a.mp4", "b.mp4")
        await trio.sleep(30)
    assert injected == ["find_by_path"]
    (checkpoint,) = world.known()
    assert checkpoint.meta.current_path == world.path("c.mp4")


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_p2_a_file_that_takes_a_path_during_its_lookup_is_looked_up_again(world: World, moment: Moment) -> None:
    """``b.mp4`` is new; while it is looked up in Redis, a recorded file is renamed over it."""
    stream_id = await _interrupted(world)
    world.append(100, "b.mp4")

    async def rename() -> None:
        await trio.lowlevel.checkpoint()
        Path(world.path("a.mp4")).replace(world.path("b.mp4"))
        daemon.moved("a.mp4", "b.mp4")

    async with world.services() as services, trio.open_nursery() as nursery:
        daemon = WorldDaemon(world, services)
        injected = _once(world, "find_by_path", moment, rename)
        nursery.start_soon(daemon.run)
        await trio.sleep(60)
        daemon.closed("b.mp4")
        found = await completed(world)
        daemon.shutdown.request()
    assert injected == ["find_by_path"]
    assert [checkpoint.meta.stream_id for checkpoint in found] == [stream_id]
    assert world.recordings() == [world.content("b.mp4")]
    assert world.received_bytes() == 2 * PART + 10


async def test_a_webhook_that_another_daemon_delivered_between_lookup_and_lease_is_not_delivered_again(
    world: World,
) -> None:
    world.webhook = True
    settled: list[str] = []

    async def fault(called: str, at: Moment) -> None:
        await trio.lowlevel.checkpoint()
        if (called, at) == ("acquire", Moment.BEFORE) and not settled and world.pending_webhooks:
            settled.extend(world.pending_webhooks)
            await world.store.ack_webhook(settled[0])

    world.append(100)
    world.store.fault = fault
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await trio.sleep(120)
    assert len(settled) == 1
    assert world.receiver.acknowledged == set()


async def test_one_of_two_tasks_that_begin_the_same_stream_is_refused(world: World) -> None:
    """If two tasks ever have one stream id, the path of the record distinguishes them."""
    stream_id = await _interrupted(world)
    (checkpoint,) = world.known()
    await world.store.acquire(stream_id, ANOTHER)
    other = replace(checkpoint.meta, original_path=world.path("z.mp4"), current_path=world.path("z.mp4"))
    with pytest.raises(Exception, match="exists already, for another file"):
        await world.store.create(other, ANOTHER)
