"""What the service manager hears, on a real datagram socket; and that it can never harm the daemon."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import trio
import trio.testing

from cef_trio.notify import ServiceManager, Turning, silent


class Listener:
    """A service manager's end of the protocol."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """First lines of the messages that have arrived since the last call."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode().splitlines()[0])
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@cef-trio-{uuid4().hex}"
    listener = Listener(address)
    yield listener
    listener.socket.close()


def manager_for(address: str, *, watchdog_usec: str = "", pid: str = "") -> ServiceManager:
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": watchdog_usec, "WATCHDOG_PID": pid}
    return ServiceManager.from_environment(environment)


def turning(name: str = "watcher", *, last: float = 0.0, limit: float = 10.0) -> Turning:
    return Turning(name, lambda: last, limit)


async def test_ready_and_stopping_are_said_in_this_order(listener: Listener) -> None:
    manager = manager_for(listener.address)
    await manager.attend([])
    manager.stopping()
    assert listener.heard() == ["READY=1", "STOPPING=1"]


async def test_the_watchdog_hears_of_us_at_half_of_its_patience(
    listener: Listener, autojump_clock: trio.testing.MockClock
) -> None:
    manager = manager_for(listener.address, watchdog_usec="30000000", pid=str(os.getpid()))
    assert manager.beat_seconds == 15
    with trio.move_on_after(46):
        await manager.attend([Turning("watcher", trio.current_time, 1)])
    assert listener.heard() == ["READY=1"] + ["WATCHDOG=1"] * 4


async def test_a_silent_task_keeps_the_beat_back_and_one_that_turns_again_brings_it_back(
    listener: Listener, autojump_clock: trio.testing.MockClock
) -> None:
    start, back = trio.current_time(), False
    task = Turning("watcher", lambda: trio.current_time() if back else start, 20)
    manager = manager_for(listener.address, watchdog_usec="10000000")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.attend, [task])
        await trio.sleep(21)
        assert len(listener.heard()) == 1 + 5  # READY, and beats at 0, 5, 10, 15 and 20
        await trio.sleep(60)
        assert listener.heard() == []
        back = True
        await trio.sleep(5)
        assert listener.heard() == ["WATCHDOG=1"]
        nursery.cancel_scope.cancel()


async def test_nobody_is_told_when_nobody_asks() -> None:
    manager = ServiceManager.from_environment({"WATCHDOG_USEC": "1000000"})
    assert manager.beat_seconds is None
    await manager.attend([turning()])
    manager.stopping()


@pytest.mark.parametrize("pid", ["1", "0", "x"])
async def test_another_process_s_watchdog_is_not_ours(listener: Listener, pid: str) -> None:
    manager = manager_for(listener.address, watchdog_usec="1000000", pid=pid)
    assert manager.beat_seconds is None
    await manager.attend([])
    assert listener.heard() == ["READY=1"]


@pytest.mark.parametrize("usec", ["", "0", "-1", "ten", "1e6", "\N{FULLWIDTH DIGIT ONE}"])
def test_nonsense_about_the_watchdog_counts_as_unset(usec: str) -> None:
    assert manager_for("@x", watchdog_usec=usec).beat_seconds is None


@pytest.mark.parametrize("address", ["vsock:2:9999", "relative", "@", "/"])
async def test_an_address_that_is_none_counts_as_unset(address: str) -> None:
    manager = manager_for(address, watchdog_usec="1000000")
    assert manager.beat_seconds is None
    await manager.attend([])


@pytest.mark.parametrize("address", ["/nonexistent/notify", "@nobody-listens-here", "/with\0zero", "/" + "long" * 100])
async def test_a_manager_that_cannot_be_told_harms_nothing(
    address: str, autojump_clock: trio.testing.MockClock
) -> None:
    manager = manager_for(address, watchdog_usec="1000000")
    manager.stopping()
    with trio.move_on_after(10) as patience:
        await manager.attend([turning()])
    assert patience.cancelled_caught  # it goes on trying to say READY, and raises nothing


async def test_ready_is_said_again_until_it_got_through(
    listener: Listener, autojump_clock: trio.testing.MockClock
) -> None:
    manager = manager_for(listener.address)
    filled = fill(listener)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.attend, [])
        await trio.sleep(2.5)
        assert listener.heard() == ["NOISE=1"] * filled
    assert listener.heard() == ["READY=1"]


def fill(listener: Listener) -> int:
    """Send until not even a new socket can; returns how many messages are waiting."""
    address = "\0" + listener.address[1:] if listener.address.startswith("@") else listener.address
    filled = before = 0
    with contextlib.ExitStack() as sockets:
        while True:
            noise = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            noise.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    noise.sendto(b"NOISE=1", address)
                    filled += 1
            if filled == before:
                return filled
            before = filled


def test_silence_is_longer_than_the_limit() -> None:
    tasks = [turning("early", last=100, limit=10), turning("late", last=89.9, limit=10)]
    assert silent(tasks, 110.0) == ["late"]
    assert silent(tasks, 99.9) == []


def test_a_task_that_waits_for_a_service_is_excused_and_gets_its_time_when_that_is_back() -> None:
    away = True
    task = Turning("stale_checker", lambda: 0.0, 10.0, excused=lambda: away)
    assert silent([task], 3600.0) == []
    away = False
    assert silent([task], 3609.0) == []
    assert silent([task], 3611.0) == ["stale_checker"]
