"""The daemon as a process, and what a service manager sees of it: ready, alive, stopping; and as process 1."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from servers.daemon import daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.valkey import ValkeyServer
from structlog.testing import capture_logs
from waiting import until, wait_until

import cef_trio
from cef_trio.watch.patterns import matcher
from cef_trio.watch.watcher import Watcher

pytestmark = pytest.mark.real
SECONDS = 60.0


@pytest.fixture
def settings(tmp_path: Path, valkey: ValkeyServer) -> Iterator[dict[str, str]]:
    (tmp_path / "watch").mkdir()
    with embedded_s3_server(tmp_path, bucket="recordings") as endpoint:
        # This tree's package, whichever one the environment has installed: the processes do not start in this folder.
        tree = str(Path(cef_trio.__file__).parents[1])
        yield settings_for(tmp_path / "watch", endpoint, valkey.url, pythonpath=tree)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(SECONDS)
        yield listening


def until_notified(manager: socket.socket, wanted: str) -> list[str]:
    """Read messages until one holds ``wanted``; returns the lines of all of them."""
    lines: list[str] = []
    while not any(wanted in line for line in lines):
        lines += manager.recv(4096).decode().split("\n")
    return lines


def test_systemd_is_notified_of_the_start_the_life_and_the_end(
    settings: dict[str, str], manager: socket.socket, valkey: ValkeyServer
) -> None:
    valkey.freeze()
    settings |= {"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "400000", "RETRY_ATTEMPTS": "1"}
    with daemon(settings, wait_started=False) as process:
        assert until_notified(manager, "STATUS=") == ["STATUS=waiting for Redis and S3"]
        process.wait_for("waiting_for_service")
        valkey.thaw()
        *of_the_start, ready, _status = until_notified(manager, "=1")
        assert ready == "READY=1"
        assert "STATUS=starting; reading the watch folder" in of_the_start
        process.wait_for("daemon_started")  # a thread writes the log
        until_notified(manager, "WATCHDOG=1")
        valkey.freeze()  # an outage does not stop the beat, and is said
        until_notified(manager, "STATUS=waits for redis; 0 open streams")
        until_notified(manager, "WATCHDOG=1")
        valkey.thaw()
        until_notified(manager, "STATUS=ready; 0 open streams")
        process.signal(signal.SIGTERM)
        assert "READY=1" not in until_notified(manager, "STOPPING=1")[-2:]
        assert process.wait() == 0
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_a_daemon_whose_loop_stands_does_not_beat(settings: dict[str, str], manager: socket.socket) -> None:
    settings |= {"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "200000"}
    with daemon(settings) as process:
        until_notified(manager, "WATCHDOG=1")
        process.signal(signal.SIGSTOP)
        manager.settimeout(1.0)
        with pytest.raises(TimeoutError):
            until_notified(manager, "never said")
        process.signal(signal.SIGCONT)
        manager.settimeout(SECONDS)
        until_notified(manager, "WATCHDOG=1")
        assert process.stop() == 0


class Nobody:
    def handle_event(self, event: object) -> None:
        """Listen to nothing."""


async def test_a_watcher_whose_folder_is_gone_does_not_hang_and_has_made_no_turn(tmp_path: Path) -> None:
    folder = tmp_path / "watch"
    folder.mkdir()
    watcher = Watcher(str(folder), matcher(["*.mp4"]), Nobody(), rescan_seconds=3600)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run)
            turn = watcher.last_run
            folder.rmdir()
            await until(lambda: watcher.last_attempt != turn)
            assert watcher.last_run == turn
            nursery.cancel_scope.cancel()
    assert "watch_folder_lost" in {entry["event"] for entry in logs}


def as_process_1(settings: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """The daemon as process 1 of a namespace of its own, as in a container without an init."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--pid", "--fork", "true"], check=False, stderr=-3).returncode:
        pytest.skip("this machine gives no PID namespace")
    with log.open("wb") as out:
        return subprocess.Popen(
            [unshare, "--pid", "--fork", "--kill-child", sys.executable, "-X", "importtime", "-m", "cef_trio", "run"],
            env={"PATH": os.environ["PATH"], **settings},
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def stop_inside(unshare: subprocess.Popen[bytes]) -> int:
    """SIGTERM to process 1 of the namespace; returns its exit code, which unshare hands on."""
    (child,) = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    return unshare.wait(SECONDS)


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    def written() -> str:
        return log.read_text(errors="replace")

    wait_until(lambda: process.poll() is not None or text in written(), otherwise=written)
    assert process.poll() is None, written()


@pytest.mark.parametrize(
    ("moment", "exit_code"),
    [("pydantic_core", 143), ("cef_trio.settings.model", 143), ('"event": "daemon_started"', 0)],
)
def test_as_process_1_it_ends_by_sigterm_while_it_starts_and_when_it_runs(
    settings: dict[str, str], tmp_path: Path, moment: str, exit_code: int
) -> None:
    log = tmp_path / "daemon.log"
    if exit_code:
        del settings["REDIS_URL"]
        settings["REDIS_URL_FILE"] = str(tmp_path / "pipe")
        os.mkfifo(tmp_path / "pipe")  # nobody writes to it: however late the signal is, the daemon does not run yet
    process = as_process_1(settings, log)
    try:
        wait_for(log, moment, process)
        assert stop_inside(process) == exit_code
    finally:
        process.kill()
        process.wait()
