"""P6: a stream that a round of the idle checker found, and could not resume, is resumed in a later one.

P7: what it asks periodically is not asked for each batch of new files too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from waiting import until_idle

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import RedisOperationError
from cef_trio.files import Disk
from cef_trio.files.reader import regular_file_stat
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.upload.ownership import Ownership
from cef_trio.watch.events import Seen

LEASE_SECONDS = 30


async def killed(world: World) -> None:
    """Leave the lease of a daemon that was killed, and a stream without its file, so that no lookup resumes it."""
    world.append(2 * PART)
    async with world.killed_daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
    Path(world.path()).unlink()


def refuse(world: World, operations: Collection[str], *, until: float) -> list[str]:
    """Have Redis refuse calls, which is no outage, until a moment; return those."""
    refused: list[str] = []

    async def refusing(operation: str, moment: Moment) -> None:
        await trio.lowlevel.checkpoint()
        asked = operation in operations and moment is Moment.BEFORE
        if asked and trio.current_time() < until:
            refused.append(operation)
            raise RedisOperationError(operation, "NOPERM", transient=False)

    world.store.fault = refusing
    return refused


@pytest.mark.parametrize("operation", ["expired", "holders", "load_metas"])
async def test_p6_a_stream_of_an_earlier_process_is_resumed_though_calls_of_the_first_round_fail(
    world: World, operation: str
) -> None:
    """Only a round that reads all leases finds it: the lease of that process is this daemon's own."""
    await killed(world)
    operations = {operation, "beat"} if operation == "expired" else {operation}  # a heartbeat asks for them too
    refused = refuse(world, operations, until=trio.current_time() + 6)
    async with world.daemon():
        await until_idle(world, Status.FAILED_FILE_MISSING_ON_RESUME, seconds=LEASE_SECONDS / 2)
    assert refused


@pytest.mark.parametrize("operation", ["holders", "load_metas"])
async def test_p6_a_dead_daemons_stream_is_resumed_though_calls_fail_for_minutes_when_its_lease_ends(
    world: World, operation: str
) -> None:
    await killed(world)
    began = trio.current_time()
    async with world.services(instance="another") as services, trio.open_nursery() as nursery:
        daemon = WorldDaemon(world, services)
        await nursery.start(daemon.run)
        await trio.sleep(LEASE_SECONDS / 2)
        refused = refuse(world, {operation}, until=began + 150)
        await trio.sleep(150)
        assert refused
        await until_idle(world, Status.FAILED_FILE_MISSING_ON_RESUME, seconds=10)
        daemon.shutdown.request()


async def test_p7_the_places_of_the_folders_are_looked_up_once_for_a_mount_below_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look-up can take two seconds, if one of the folders hangs."""
    async with world.daemon() as daemon:
        await trio.sleep(7)
        determine, asked = Ownership.determine, 0

        async def counted(ownership: Ownership, disk: Disk, folders: Sequence[str]) -> None:
            nonlocal asked
            asked += 1
            await determine(ownership, disk, folders)

        monkeypatch.setattr(Ownership, "determine", counted)
        for number in range(10):
            world.append(10, name := f"{number}.mp4")
            stat = regular_file_stat(Path(world.path(name)).stat())
            assert stat is not None
            daemon.supervisor.handle_event(Seen(world.path(name), replace(stat, file_dev=99)))
            await trio.sleep(0.01)
        assert {known.meta.current_path for known in world.known()} == {world.path(f"{n}.mp4") for n in range(10)}
        assert asked == 1
