"""Kind 8, P4, P7: a hung mount is set aside, all others continue, and it is used again once it responds."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import structlog
import trio
from trio.testing import MockClock

from cef_trio.files.mounts import MountHungError, Mounts, mount_point_of, mount_points

MOUNTINFO = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
41 22 0:35 / /watch/hung rw - fuse.bindfs bindfs rw
42 22 0:36 / /watch/with\\040blank\\134and rw - fuse.bindfs bindfs rw
"""
HUNG, ELSEWHERE = "/watch/hung/a.mp4", "/watch/b.mp4"
SECONDS = 60.0


class Table:
    """The mount points; the calls of the tests below access no file system."""

    def __init__(self) -> None:
        self.text = MOUNTINFO
        self.mounts = Mounts(timeout_seconds=SECONDS, max_threads=2, read_mountinfo=lambda: self.text)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(os, "statvfs", lambda point: None)
    return Table()


class Server:
    """The server of a file system: a call made while it is stopped blocks in a thread."""

    def __init__(self) -> None:
        self._goes_on = threading.Event()
        self.asked = threading.Semaphore(0)
        self.is_idle = threading.Event()
        self.waiting = 0

    def ask(self) -> str:
        self.waiting += 1
        self.asked.release()
        self._goes_on.wait(30)
        self.waiting -= 1
        self.is_idle.set()
        return "answer"

    def go_on(self) -> None:
        self._goes_on.set()


@contextmanager
def stopped() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.go_on()


async def refused(mounts: Mounts, server: Server, path: str = HUNG) -> None:
    """Make a call that must be refused at once: the virtual clock stands still."""
    with pytest.raises(MountHungError):
        await mounts.run(path, server.ask)


async def refused_in_time(mounts: Mounts, server: Server, clock: MockClock, path: str = HUNG) -> None:
    """Make a call that blocks in the server and is refused after the time limit."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused, mounts, server, path)
        await trio.to_thread.run_sync(server.asked.acquire)
        await pass_the_time(nursery, clock)


async def pass_the_time(nursery: trio.Nursery, clock: MockClock) -> None:
    while nursery.child_tasks:
        await trio.testing.wait_all_tasks_blocked(0.02)
        clock.jump(SECONDS)


async def test_p7_a_mount_that_does_not_answer_is_refused_at_once_and_has_one_thread_more_at_most(
    table: Table, mock_clock: MockClock
) -> None:
    with stopped() as server, structlog.testing.capture_logs() as events:
        await refused_in_time(table.mounts, server, mock_clock)
        assert set(table.mounts.hung.value) == {"/watch/hung"}
        await refused_in_time(table.mounts, server, mock_clock, "/watch/hung/deep/c.mp4")  # one asks it again
        for number in range(100):
            await refused(table.mounts, server, f"/watch/hung/{number}.mp4")
        assert server.waiting == 2
    assert [event["event"] for event in events] == ["mount_hung"]


async def test_p10_other_mounts_go_on_while_one_has_used_all_its_threads(table: Table, mock_clock: MockClock) -> None:
    with stopped() as server:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(refused, table.mounts, server, f"{HUNG}{number}")
            for _ in range(2):
                await trio.to_thread.run_sync(server.asked.acquire)
            for _ in range(20):  # meanwhile no time passes, however long these threads take to start
                assert await table.mounts.run_long(ELSEWHERE, lambda _: "here") == "here"
                await trio.lowlevel.checkpoint()
            await pass_the_time(nursery, mock_clock)
        assert server.waiting == 2, "its share of threads, and those that waited for one were let go"


async def test_p6_a_mount_is_used_again_when_the_abandoned_call_returns(table: Table, mock_clock: MockClock) -> None:
    back = []
    table.mounts.on_recovery = lambda: back.append("back")
    with stopped() as server:
        await refused_in_time(table.mounts, server, mock_clock)
        assert table.mounts.hung.value
        server.go_on()
        await table.mounts.hung.wait_value(lambda hung: not hung)
        assert await table.mounts.run(HUNG, server.ask) == "answer"
    assert back == ["back"]


async def test_p6_a_mount_is_used_again_when_a_probe_returns_though_the_first_call_never_does(
    table: Table, mock_clock: MockClock
) -> None:
    with stopped() as server:
        await refused_in_time(table.mounts, server, mock_clock)
        assert await table.mounts.run("/watch/hung/other.mp4", lambda: "answer") == "answer"
        assert not table.mounts.hung.value
        asked = server.waiting
        await refused(table.mounts, server)  # the one file goes on being refused, and is not asked for
        assert server.waiting == asked
        assert not table.mounts.hung.value
    await trio.to_thread.run_sync(server.is_idle.wait)
    answers: list[str] = []
    while not answers:  # the thread that was let go tells the loop a little later
        await trio.testing.wait_all_tasks_blocked(0.01)
        with suppress(MountHungError):
            answers.append(await table.mounts.run(HUNG, lambda: "answer"))


async def test_p6_a_new_mount_is_used_though_a_thread_still_waits_for_the_old_one(
    table: Table, mock_clock: MockClock
) -> None:
    with stopped() as server:
        await refused_in_time(table.mounts, server, mock_clock)
        table.text = MOUNTINFO.replace("41 22", "77 22")
        mock_clock.jump(2)
        assert await table.mounts.run(HUNG, lambda: "answer") == "answer"
        assert not table.mounts.hung.value


async def test_p4_a_cancelled_call_is_abandoned_at_once_and_its_hang_is_still_noticed(
    table: Table, mock_clock: MockClock
) -> None:
    with stopped() as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(table.mounts.run, HUNG, server.ask)
            await trio.to_thread.run_sync(server.asked.acquire)
            await trio.testing.wait_all_tasks_blocked(0.02)
            nursery.cancel_scope.cancel()
        mock_clock.jump(SECONDS)
        await refused_in_time(table.mounts, server, mock_clock, "/watch/hung/b.mp4")
        assert table.mounts.hung.value == {"/watch/hung": 0.0}


async def test_a_call_that_makes_progress_has_no_time_limit(table: Table, mock_clock: MockClock) -> None:
    table.mounts.timeout_seconds = 0.4

    def long(beat: object) -> str:
        for _ in range(10):
            threading.Event().wait(0.4 / 8 + 0.001)  # by the real clock: more often it tells nothing
            trio.from_thread.run_sync(mock_clock.jump, 0.3)
            beat()  # type: ignore[operator]
        return "all of it"

    told: list[float] = []
    assert await table.mounts.run_long(HUNG, long, lambda: told.append(trio.current_time())) == "all of it"
    assert told[0] == 0.0
    assert told[-1] > 2.0


async def test_p8_a_change_is_never_abandoned_and_none_begins_on_a_hung_mount(
    table: Table, mock_clock: MockClock
) -> None:
    done: list[str] = []
    with stopped() as server:
        async with trio.open_nursery() as nursery:

            async def change() -> None:
                done.append(await table.mounts.change(HUNG, server.ask))

            nursery.start_soon(change)
            await trio.to_thread.run_sync(server.asked.acquire)
            await trio.testing.wait_all_tasks_blocked(0.02)
            mock_clock.jump(SECONDS)
            await refused_in_time(table.mounts, server, mock_clock, "/watch/hung/b.mp4")
            assert table.mounts.hung.value, "a change that does not return is noticed by the next call"
            with pytest.raises(MountHungError):
                await table.mounts.change("/watch/hung/c.mp4", lambda: done.append("too late"))
            assert await table.mounts.change(ELSEWHERE, lambda: "here") == "here"
            assert done == []
            server.go_on()
    assert done == ["answer"]


async def test_what_the_file_system_refuses_is_raised_as_it_is(table: Table) -> None:
    def refuse() -> None:
        raise PermissionError(13, "no", HUNG)

    with pytest.raises(PermissionError):
        await table.mounts.run(HUNG, refuse)
    assert not table.mounts.hung.value


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("/watch/hung/deep/a.mp4", "/watch/hung"),
        ("/watch/hung", "/watch/hung"),
        ("/watch/hungry/a.mp4", "/"),
        ("/watch/with blank\\and/a.mp4", "/watch/with blank\\and"),
        ("/", "/"),
        ("relative.mp4", "/"),
    ],
)
def test_the_mount_of_a_path_is_the_longest_that_it_is_below(path: str, point: str) -> None:
    assert mount_point_of(path, mount_points(MOUNTINFO)) == point


def test_of_two_mounts_at_one_point_the_upper_one_counts() -> None:
    assert mount_points(MOUNTINFO + "50 41 0:40 / /watch/hung rw - tmpfs tmpfs rw\n")["/watch/hung"] == 50
