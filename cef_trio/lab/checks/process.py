"""Checks of the daemon's process: its log, its exit, threads, and ffprobe."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from typing import Any, Final

import trio

from cef_trio.daemon import exit_watchdog
from cef_trio.daemon.exit_watchdog import ExitWatchdog
from cef_trio.exceptions import FFprobeError
from cef_trio.lab.checks.model import Check
from cef_trio.lab.mutations.model import replace_in
from cef_trio.media import ffprobe
from cef_trio.observability.log_writer import LineWriter
from cef_trio.resilience.threads import run_in_thread

_LINES: Final = 4000
_LINE: Final = b"x" * 99 + b"\n"
_PATIENCE_SECONDS: Final = 1.0
"""Real seconds, waited for in full only with a mutation."""
_REFUSED_THREADS: Final = 5
_PROBES: Final = 10


async def _log_pipe_not_read() -> list[str]:
    """More lines are logged than fit into the pipe, which is not read."""
    await trio.lowlevel.checkpoint()
    reading, writing = os.pipe()
    writer = LineWriter(writing)

    def log_all() -> None:
        for _ in range(_LINES):
            writer.write(_LINE)

    logging = threading.Thread(target=log_all, daemon=True)
    logging.start()
    logging.join(_PATIENCE_SECONDS)
    held = logging.is_alive()
    os.close(reading)  # a blocked write fails now, and the queued lines are dropped
    logging.join()
    writer.flush(_PATIENCE_SECONDS)
    os.close(writing)
    return ["P4: writing a log line blocked the event loop"] * held


class _RecordingWatchdog(ExitWatchdog):
    """An exit watchdog that records the exit instead of ending the process."""

    def __init__(self) -> None:
        super().__init__(grace_seconds=0.0, save_seconds=0.0)
        self.ended = threading.Event()

    def _exit(self, say: object) -> None:
        del say
        self.ended.set()


class _NoTimer:
    """Replaces the kernel's timer, which would end this process."""

    def exit_after(self, seconds: float) -> None:
        del seconds

    def close(self) -> None:
        pass


async def _event_loop_hangs() -> list[str]:
    """A shutdown is requested while the event loop hangs in a call."""
    await trio.lowlevel.checkpoint()
    with ExitStack() as stack:
        replace_in(stack, exit_watchdog, "_FaulthandlerTimer", _NoTimer)
        replace_in(stack, exit_watchdog, "OVERDUE_SECONDS", 0.0)
        watchdog = _RecordingWatchdog()
        with watchdog.running():
            watchdog.count_signal(1)
            ended = watchdog.ended.wait(_PATIENCE_SECONDS)  # blocks the event loop
    return [] if ended else ["P4: the process does not end while its event loop hangs"]


async def _no_thread_available() -> list[str]:
    """The first attempts to start a thread fail."""
    left, run_sync = _REFUSED_THREADS, trio.to_thread.run_sync

    async def refused_at_first(*given: Any, **named: Any) -> Any:
        nonlocal left
        await trio.lowlevel.checkpoint()
        if left:
            left -= 1
            raise RuntimeError("can't start new thread")
        return await run_sync(*given, **named)

    with ExitStack() as stack:
        replace_in(stack, trio.to_thread, "run_sync", refused_at_first)
        calls: list[int] = []
        await run_in_thread(lambda: calls.append(1))
    return [] if calls == [1] else [f"P2: a call that waited for a thread was made {len(calls)} times"]


async def _ffprobe_limits() -> list[str]:
    """A program in place of ffprobe polls its memory limit for a second; it is set after the start."""
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do [ $(ulimit -d) != unlimited ] && exit 0; sleep 0.1; done; exit 1"
    code, _, _ = await ffprobe._run(["/bin/sh", "-c", script], 5.0)  # noqa: SLF001 - the public function runs ffprobe only
    return [] if code == 0 else ["P7: ffprobe runs without a memory limit"]


async def _ffprobe_concurrency() -> list[str]:
    """Ten recordings are probed at the same moment."""
    running = most = 0

    async def run(_command: list[str], _cpu_seconds: float) -> tuple[int, bytes, bytes]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return 1, b"", b""

    async def probe() -> None:
        try:
            await ffprobe.probe("a.mp4", ffprobe_path="ffprobe", timeout_seconds=30)
        except FFprobeError:
            return

    with ExitStack() as stack:
        replace_in(stack, ffprobe, "_run", run)
        async with trio.open_nursery() as nursery:
            for _ in range(_PROBES):
                nursery.start_soon(probe)
    return [f"P7: {most} of {_PROBES} probes ran at once"] if most > ffprobe.MAX_AT_ONCE else []


CHECKS: Final = (
    Check("log-pipe-not-read", "the log is a pipe that is not read", _log_pipe_not_read, real=True),
    Check("event-loop-hangs", "the event loop hangs at a shutdown", _event_loop_hangs, real=True),
    Check("no-thread-available", "no thread can be started for a while", _no_thread_available),
    Check("ffprobe-limits", "ffprobe runs with a memory limit", _ffprobe_limits, real=True),
    Check("ffprobe-concurrency", "many recordings are probed at once", _ffprobe_concurrency),
)
