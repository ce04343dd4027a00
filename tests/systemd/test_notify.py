"""The service manager is told the truth, and can do no harm: on real sockets, and on a virtual clock."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import trio
import trio.testing

from cef_trio.daemon.main import RunningDaemon
from cef_trio.daemon.systemd import SILENT_SECONDS, Heartbeat, ServiceNotifier, silent_tasks


class Manager:
    """A service manager's socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)

        self._read: list[list[str]] = []

    def messages(self) -> list[list[str]]:
        """What has come since the last call, each message as its lines."""
        self.take_in()
        found, self._read = self._read, []
        return found

    def take_in(self) -> str:
        """Empty the socket's queue, which holds some ten messages."""
        while True:
            try:
                self._read.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return "well"


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@cef-trio-test-{uuid4().hex}"
    listening = Manager(address)
    yield listening
    listening.socket.close()


def test_a_message_is_one_datagram_of_lines(manager: Manager) -> None:
    notifier = ServiceNotifier.from_environment({"NOTIFY_SOCKET": manager.address})
    assert notifier.ready("3 streams open")
    assert notifier.status("waiting for redis")
    assert notifier.stopping()
    ready, status, stopping = manager.messages()
    assert ready == ["READY=1", "STATUS=3 streams open"]
    assert status == ["STATUS=waiting for redis"]
    assert stopping[0] == "STOPPING=1"


def test_a_status_cannot_forge_a_message(manager: Manager) -> None:
    ServiceNotifier(manager.address).status("a\nREADY=1\0\x1b[2J\udcff")
    assert manager.messages() == [["STATUS=a?READY=1??[2J?"]]


@pytest.mark.parametrize("address", ["", "@", "/", "relative", "vsock:2:1234", "/nobody/listens/here", "/" + "x" * 200])
def test_an_invalid_socket_address_does_no_harm(address: str) -> None:
    notifier = ServiceNotifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert notifier.ready("well") is False
    assert notifier.stopping() is False


def test_a_manager_that_does_not_listen_delays_nothing(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = ServiceNotifier(manager.address)
    told = 0
    while notifier.status("still here"):
        told += 1
    assert told > 0  # its queue is full: the next message is dropped, and this line is reached
    assert len(manager.messages()) == told
    assert notifier.status("again")
    manager.socket.close()


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
    ],
)
def test_the_watchdog_is_the_one_that_was_asked_for(variables: dict[str, str], seconds: float | None) -> None:
    assert ServiceNotifier.from_environment({"NOTIFY_SOCKET": "/x", **variables}).watchdog_seconds == seconds
    assert ServiceNotifier.from_environment(variables).watchdog_seconds is None


@pytest.mark.parametrize(
    ("turn", "excused_at", "expected"),
    [
        (Heartbeat("t", at=1000.0, period_seconds=5.0), {}, False),
        (Heartbeat("t", at=1000.0 - SILENT_SECONDS - 5.0, period_seconds=5.0), {}, False),
        (Heartbeat("t", at=1000.0 - SILENT_SECONDS - 5.1, period_seconds=5.0), {}, True),
        (Heartbeat("t", at=1000.0 - SILENT_SECONDS - 5.1, period_seconds=6.0), {}, False),
        (Heartbeat("t", at=0.0, period_seconds=5.0, excused=True), {}, False),
        (Heartbeat("t", at=0.0, period_seconds=5.0), {"t": 990.0}, False),
        (Heartbeat("t", at=0.0, period_seconds=5.0), {"t": 100.0}, True),
        (Heartbeat("t", at=0.0, period_seconds=5.0), {"another": 990.0}, True),
        (Heartbeat("t", at=990.0, period_seconds=5.0), {"t": 100.0}, False),
    ],
)
def test_silence_is_a_turn_that_is_long_overdue_and_not_excused(
    turn: Heartbeat, excused_at: dict[str, float], expected: bool
) -> None:
    assert silent_tasks([turn], now=1000.0, excused_at=excused_at) == (["t"] if expected else [])


class Tasks:
    """Two tasks that turn, unless they are held."""

    def __init__(self) -> None:
        self.held = False
        self.excused = False
        self.last_run = trio.current_time()

    def heartbeats(self) -> list[Heartbeat]:
        now = trio.current_time()
        if not self.held:
            self.last_run = now
        return [Heartbeat("watcher", now, 30.0), Heartbeat("idle checker", self.last_run, 5.0, excused=self.excused)]


def beats(manager: Manager) -> int:
    return sum("WATCHDOG=1" in message for message in manager.messages())


async def test_a_scan_that_reads_for_minutes_is_not_silent_and_one_that_stands_still_is() -> None:
    now = trio.current_time()
    watcher: Any = SimpleNamespace(last_attempt=now - 3600, read_at=now - 1, rescan_seconds=30.0)
    others: Any = SimpleNamespace(
        redis_breaker=SimpleNamespace(up=SimpleNamespace(value=True)), last_run=now, period_seconds=5.0
    )
    daemon = RunningDaemon(others, others, watcher, others, others, others)
    await trio.lowlevel.checkpoint()
    assert silent_tasks(daemon.heartbeats(), now=now, excused_at={}) == []
    watcher.read_at = now - 3600
    assert silent_tasks(daemon.heartbeats(), now=now, excused_at={}) == ["watcher"]


async def test_it_beats_at_half_the_watchdogs_time(manager: Manager, autojump_clock: trio.testing.MockClock) -> None:
    tasks = Tasks()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ServiceNotifier(manager.address, 30.0).watch, tasks.heartbeats, manager.take_in)
        await trio.sleep(61)
        found = manager.messages()
        assert found == [["WATCHDOG=1", "STATUS=well"]] * 5
        nursery.cancel_scope.cancel()


async def test_a_silent_task_stops_the_beat_and_its_return_starts_it_again(
    manager: Manager, autojump_clock: trio.testing.MockClock
) -> None:
    tasks = Tasks()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ServiceNotifier(manager.address, 30.0).watch, tasks.heartbeats, manager.take_in)
        await trio.sleep(1)
        tasks.held = True
        await trio.sleep(SILENT_SECONDS)
        assert beats(manager) > 0
        await trio.sleep(30)
        manager.messages()
        await trio.sleep(3600)
        assert beats(manager) == 0
        tasks.held = False
        await trio.sleep(30)
        assert beats(manager) == 2
        nursery.cancel_scope.cancel()


async def test_an_outage_of_hours_does_not_stop_the_beat_nor_does_its_end(
    manager: Manager, autojump_clock: trio.testing.MockClock
) -> None:
    tasks = Tasks()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ServiceNotifier(manager.address, 30.0).watch, tasks.heartbeats, manager.take_in)
        tasks.held = tasks.excused = True
        await trio.sleep(6 * 3600 + 1)
        assert beats(manager) == 6 * 3600 // 15 + 1
        tasks.excused = False  # Redis is back; the checker needs a moment yet
        await trio.sleep(60)
        assert beats(manager) == 4
        await trio.sleep(SILENT_SECONDS + 30)
        manager.messages()
        await trio.sleep(60)
        assert beats(manager) == 0  # now it hangs, and nothing excuses it
        nursery.cancel_scope.cancel()


async def test_without_a_watchdog_no_heartbeat_is_sent_and_the_status_is_kept_current(
    manager: Manager, autojump_clock: trio.testing.MockClock
) -> None:
    await ServiceNotifier("", 30.0).watch(list, str)
    assert manager.messages() == []
    said = iter(["ready", "waits for s3", "at risk"])
    with trio.move_on_after(40):
        await ServiceNotifier(manager.address).watch(list, lambda: next(said))
    assert manager.messages() == [["STATUS=ready"], ["STATUS=waits for s3"], ["STATUS=at risk"]]


async def test_ready_that_was_not_taken_is_sent_again_until_it_is(
    manager: Manager, autojump_clock: trio.testing.MockClock
) -> None:
    notifier = ServiceNotifier(manager.address)
    noise = 0
    while notifier.status("noise"):
        noise += 1
    assert not notifier.ready("well")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.watch, list, lambda: "well")
        await trio.sleep(10.5)
        assert [message[0] for message in manager.messages()] == ["STATUS=noise"] * noise
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert manager.messages() == [["READY=1", "STATUS=well"], ["STATUS=well"]]


async def test_ready_that_was_taken_is_not_sent_twice(manager: Manager, autojump_clock: trio.testing.MockClock) -> None:
    notifier = ServiceNotifier(manager.address)
    assert notifier.ready("well")
    with trio.move_on_after(40):
        await notifier.watch(list, lambda: "well")
    assert [message[0] for message in manager.messages()] == ["READY=1", *["STATUS=well"] * 3]
