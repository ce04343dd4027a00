"""Kind 4: a setting that would avoid repeated work is logged once, and with that setting the work is avoided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from checkpoint.examples import meta
from structlog.testing import capture_logs
from waiting import completed

from cef_trio.lab.world import PART, World
from cef_trio.upload.file_state import Ending
from cef_trio.upload.setting_hints import pause_setting, was_sent_twice

PAUSE_SECONDS = 6.0


def advised(logs: Any) -> list[tuple[str, Any]]:
    return [(entry["setting"], entry["value"]) for entry in logs if entry["event"] == "setting_would_help"]


async def appended_and_closed(world: World, grace_seconds: float) -> list[tuple[str, Any]]:
    """A recorder that opens, appends and closes every few seconds; returns what was advised meanwhile."""
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            object.__setattr__(daemon.services.rules, "close_grace_seconds", grace_seconds)
            for _ in range(5):
                world.append(PART + 300)
                daemon.closed()
                await trio.sleep(PAUSE_SECONDS)
            await trio.sleep(30)
            await completed(world)
    return advised(logs)


async def test_p2_append_after_close_is_logged_once_with_the_grace_that_would_have_made_one_object(
    world: World,
) -> None:
    [(setting, value)] = await appended_and_closed(world, 1.0)
    assert setting == "CLOSE_GRACE_SECONDS"
    assert PAUSE_SECONDS <= value <= PAUSE_SECONDS + 3
    assert len(world.recordings()) == 5


async def test_p2_with_the_grace_that_was_advised_append_and_close_makes_one_object(world: World) -> None:
    assert await appended_and_closed(world, PAUSE_SECONDS + 1) == []
    assert world.recordings() == [world.content()]


async def test_p2_a_writer_that_paused_for_longer_than_the_timeout_is_logged_once(world: World) -> None:
    world.has_writer = True
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            for _ in range(3):
                world.append(PART + 300)
                daemon.seen()
                await trio.sleep(50)
            await completed(world)
    [(setting, value)] = advised(logs)
    assert setting == "STREAM_TIMEOUT_SECONDS"
    assert 50 <= value <= 53


async def test_p2_a_recording_that_was_rewritten_at_its_end_is_logged_once(world: World) -> None:
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            for name in ("a.mp4", "b.mp4"):
                world.append(6 * PART, name)
                daemon.seen(name)
                await trio.sleep(5)
                world.patch(0, world.random.randbytes(5 * PART), name)
                daemon.closed(name)
                await trio.sleep(30)
    assert [setting for setting, _ in advised(logs)] == ["WATCH_PATTERNS"]


@pytest.mark.parametrize(
    ("ending", "pause_seconds", "found"),
    [
        (Ending.CLOSED, 0.2, ("CLOSE_GRACE_SECONDS", 2)),
        (Ending.CLOSED, 600.0, ("CLOSE_GRACE_SECONDS", 601)),
        (Ending.CLOSED, 600.1, None),
        (Ending.IDLE, 31.0, ("STREAM_TIMEOUT_SECONDS", 32)),
        (Ending.NOT, 5.0, None),
        (Ending.CLOSED, 0.0, None),
        (Ending.CLOSED, -3600.0, None),
    ],
)
def test_what_is_advised_follows_how_the_recording_ended_and_how_long_its_writer_paused(
    ending: Ending, pause_seconds: float, found: tuple[str, int] | None
) -> None:
    assert pause_setting(ending, pause_seconds) == found


@pytest.mark.parametrize(
    ("parts", "bytes_rewritten", "twice"), [(1, 1000, False), (2, 499, False), (2, 500, True), (9, 1000, True)]
)
def test_a_header_that_is_written_last_is_no_reason_for_advice(parts: int, bytes_rewritten: int, twice: bool) -> None:
    one = replace(meta("s1"), parts_rewritten=parts, bytes_rewritten=bytes_rewritten, verified_size_bytes=1000)
    assert was_sent_twice(one) is twice
