"""The keys of ``status --watch``; and the terminal is as before, however it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from servers.command import ROOT
from servers.stream_records import a_stream
from servers.valkey import ValkeyServer, valkey_server
from waiting import WAIT_SECONDS, wait_until

from cef_trio.checkpoint import Status, StreamSet
from cef_trio.cli.status_model import OpenStream
from cef_trio.cli.watch_keys import Filter, Order, View

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def a_row(number: int, *, holder: str | None = "d", status: Status = Status.ACTIVE, lag: int = 0) -> OpenStream:
    return OpenStream(
        meta=a_stream(number, f"/rec/{9 - number}.mp4", status=status, started_at_utc=NOW + timedelta(number)),
        stream_set=StreamSet.ACTIVE,
        acknowledged_bytes=100,
        size_on_disk_bytes=100 + lag,
        holder=holder,
        idle_seconds=0.0,
        bytes_per_second=float(number),
    )


ROWS = [a_row(1, lag=5), a_row(2, holder=None), a_row(3, status=Status.RETRYING, lag=9)]


def pressed(keys: str) -> View | None:
    view: View | None = View()
    for key in keys:
        assert view is not None
        view = view.press(key)
    return view


def shown(keys: str) -> list[int]:
    view = pressed(keys)
    assert view is not None
    return [int(one.meta.stream_id[:8], 16) for one in view.select(ROWS)]


@pytest.mark.parametrize(
    ("keys", "numbers"),
    [
        ("", [1, 2, 3]),
        ("s", [3, 1, 2]),
        ("ss", [3, 2, 1]),
        ("sss", [3, 2, 1]),
        ("ssss", [1, 2, 3]),
        ("f", [2, 3]),
        ("ff", [1, 3]),
        ("fff", [1, 2, 3]),
        ("sf", [3, 2]),
        ("x1\r", [1, 2, 3]),
    ],
)
def test_a_key_changes_order_and_filter_in_turn(keys: str, numbers: list[int]) -> None:
    assert shown(keys) == numbers


def test_the_line_below_says_what_was_chosen() -> None:
    assert View().says == ""
    assert "PAUSED" in (pressed("p") or View()).says
    assert (pressed("pp") or View()).says == ""
    assert View(order=Order.LAG, filter=Filter.BEHIND).says == "sort: lag   filter: behind"
    assert all(word in (pressed("?s") or View()).says for word in ("q quit", "p pause", "sort: lag", "filter: all"))
    assert pressed("q") is None


@dataclass
class Watching:
    process: subprocess.Popen[bytes]
    terminal: int
    before: list[object]
    said: bytes = b""

    def until(self, text: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while text.encode() not in self.said:
            assert time.monotonic() < deadline, self.said[-2000:]
            self.said += os.read(self.terminal, 65536)

    def ended(self) -> int:
        """The exit code; the terminal is as before, and the screen too."""
        os.set_blocking(self.terminal, False)
        deadline = time.monotonic() + WAIT_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            try:
                self.said += os.read(self.terminal, 65536)
            except OSError:
                time.sleep(0.01)

        def has_left_the_alternate_screen() -> bool:
            with suppress(OSError):  # the kernel passes on a little later what the process wrote last
                self.said += os.read(self.terminal, 65536)
            return self.said.rfind(b"\x1b[?1049l") > self.said.rfind(b"\x1b[?1049h")

        wait_until(has_left_the_alternate_screen, otherwise=lambda: repr(self.said[-2000:]))
        assert termios.tcgetattr(self.terminal) == self.before
        return self.process.returncode


@contextmanager
def watching(valkey: ValkeyServer, *arguments: str, **more: str) -> Iterator[Watching]:
    terminal, inner = pty.openpty()
    before = termios.tcgetattr(terminal)
    fcntl.ioctl(inner, termios.TIOCSWINSZ, b"\x28\x00\x78\x00\x00\x00\x00\x00")  # 40 lines of 120 columns
    process = subprocess.Popen(
        [sys.executable, "-m", "cef_trio", *(arguments or ("status", "--watch"))],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "REDIS_URL": valkey.url, "OWNER_NAME": "node-7",
             "TERM": "xterm", **more},
        stdin=inner, stdout=inner, stderr=inner, cwd="/", start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - the child is a new session
    )  # fmt: skip
    try:
        yield Watching(process, terminal, before)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(inner)


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with valkey_server(tcp=True) as server:
        yield server


@pytest.mark.real
def test_keys_in_a_terminal(valkey: ValkeyServer) -> None:
    with watching(valkey) as watch:
        watch.until("owner node-7")
        os.write(watch.terminal, b"?")
        watch.until("q quit")
        os.write(watch.terminal, b"\x1b[A?p")  # an arrow is no key of ours, whatever letters it has
        watch.until("PAUSED")
        os.write(watch.terminal, b"q")
        assert watch.ended() == 0


@pytest.mark.real
@pytest.mark.parametrize(
    ("end", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (b"\x03", 130)], ids=["SIGINT", "SIGTERM", "Ctrl-C"]
)
def test_a_signal_restores_the_terminal(valkey: ValkeyServer, end: signal.Signals | bytes, code: int) -> None:
    with watching(valkey) as watch:
        watch.until("owner node-7")
        if isinstance(end, bytes):
            os.write(watch.terminal, end)
        else:
            watch.process.send_signal(end)
        assert watch.ended() == code


@pytest.mark.real
@pytest.mark.parametrize("unknown", ["COLUMNS", "LINES"])
def test_a_terminal_whose_size_is_unknown_shows_everything(valkey: ValkeyServer, unknown: str) -> None:
    """A serial console, or `docker exec -t`, may have COLUMNS=0."""
    with watching(valkey, **{unknown: "0"}) as watch:
        watch.until("owner node-7")
        os.write(watch.terminal, b"q")
        assert watch.ended() == 0
    with watching(valkey, "list", **{unknown: "0"}) as listing:
        listing.until("No streams.")


@pytest.mark.real
@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_be_redrawn_is_refused(valkey: ValkeyServer, term: str) -> None:
    """It would stay empty."""
    with watching(valkey, TERM=term) as watch:
        watch.until(f"--watch cannot redraw this terminal (TERM={term}); repeat `cef-trio status`")
        assert watch.process.wait(WAIT_SECONDS) == 2


@pytest.mark.real
@pytest.mark.parametrize(("term", "escapes"), [("xterm", True), ("dumb", False)])
def test_a_dumb_terminal_gets_no_escape_sequence(valkey: ValkeyServer, term: str, escapes: bool) -> None:
    """A line of progress cannot be erased there."""
    with watching(valkey, "status", TERM=term) as shown:
        shown.until("in the last minute")
        assert shown.process.wait(WAIT_SECONDS) == 0
        assert (b"\x1b" in shown.said) is escapes
