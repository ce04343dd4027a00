"""The log of a stream: five or six info lines, whatever its length; parts are logged as debug."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs
from waiting import completed

from cef_trio.lab.world import PART, World

LIFE = ["stream_started", "upload_created", "recording_ended", "object_completed", "stream_completed"]


@pytest.mark.parametrize("parts", [1, 3, 40])
async def test_a_stream_logs_five_info_lines_however_long_it_is(world: World, parts: int) -> None:
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            for _ in range(parts):
                world.append(PART)
                daemon.seen()
                await trio.sleep(1)
            daemon.closed()
            await completed(world)
    told = [entry["event"] for entry in logs if entry["log_level"] != "debug" and entry["event"] != "shutdown_started"]
    assert told == LIFE
    sent = [entry for entry in logs if entry["event"] == "part_uploaded"]
    assert [entry["log_level"] for entry in sent] == ["debug"] * parts


async def test_an_idle_recording_has_a_sixth_line(world: World) -> None:
    world.append(PART + 1)
    with capture_logs() as logs:
        async with world.daemon():
            await completed(world)
    told = [entry["event"] for entry in logs if entry["log_level"] == "info" and entry["event"] != "shutdown_started"]
    assert told == [*LIFE[:2], "stream_idle", *LIFE[2:]]


async def test_a_recording_that_is_rewritten_at_its_end_has_no_more_lines(world: World) -> None:
    world.append(5 * PART)
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            await trio.sleep(1)
            world.patch(3, b"a size")
            daemon.closed()
            await completed(world)
    told = [entry["event"] for entry in logs if entry["log_level"] == "info" and entry["event"] != "shutdown_started"]
    assert told == LIFE


async def test_a_resumed_stream_is_logged_once(world: World) -> None:
    world.append(2 * PART + 5)
    async with world.daemon():
        await trio.sleep(1)
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            daemon.closed()
            await completed(world)
    told = [entry["event"] for entry in logs if entry["log_level"] == "info" and entry["event"] != "shutdown_started"]
    assert told == ["stream_resumed", *LIFE[2:]]
