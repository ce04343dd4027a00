"""What the daemon's process takes from its machine: threads, the log's reader, its own end, programs (11, 15, 16)."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from typing import Any, Final, Self

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
"""Of the real clock; it is waited for in full by a mutation only."""
_REFUSED_THREADS: Final = 5
_PROBES: Final = 10


async def _log_that_nobody_reads() -> list[str]:
    """More lines than a pipe holds are logged, and nobody reads the pipe."""
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
    os.close(reading)  # a write that hangs fails now, and all that is queued is dropped
    logging.join()
    writer.flush(_PATIENCE_SECONDS)
    os.close(writing)
    return ["P4: a line of the log waited for its reader, and the loop with it"] * held


class _ToldWatchdog(ExitWatchdog):
    """One that tells of the end instead of ending the process."""

    def __init__(self) -> None:
        super().__init__(grace_seconds=0.0, save_seconds=0.0)
        self.ended = threading.Event()

    def _exit(self, say: object) -> None:
        del say
        self.ended.set()


class _NoTimer:
    """Without the kernel's timer, which would end this process."""

    def __enter__(self) -> Self:
        return self

    def exit_after(self, seconds: float) -> None:
        del seconds

    def __exit__(self, *_: object) -> None:
        pass


async def _loop_that_hangs() -> list[str]:
    """The daemon is asked to leave, and its loop is in a call that never returns."""
    await trio.lowlevel.checkpoint()
    with ExitStack() as stack:
        replace_in(stack, exit_watchdog, "_FaulthandlerTimer", _NoTimer)
        replace_in(stack, exit_watchdog, "OVERDUE_SECONDS", 0.0)
        watchdog = _ToldWatchdog()
        with watchdog.running():
            watchdog.count_signal(1)
            ended = watchdog.ended.wait(_PATIENCE_SECONDS)  # the loop hangs
    return [] if ended else ["P4: a loop that hangs is waited for, and the process does not end"]


async def _no_thread() -> list[str]:
    """The machine gives no thread for a while."""
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
    return [] if calls == [1] else [f"P2: a call that had to wait for a thread was made {len(calls)} times"]


async def _probe_without_limits() -> list[str]:
    """A program in ffprobe's place looks for its limits, for a second at most: they are set when it runs."""
    looks = "for i in 1 2 3 4 5 6 7 8 9 10; do [ $(ulimit -d) != unlimited ] && exit 0; sleep 0.1; done; exit 1"
    code, _, _ = await ffprobe._run(["/bin/sh", "-c", looks], 5.0)  # noqa: SLF001 - below the name of a program
    return [] if code == 0 else ["P7: a stranger's recording may have ffprobe take all the memory that there is"]


async def _probes_at_once() -> list[str]:
    """Ten recordings end at the same moment."""
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
    Check("log-pipe-not-read", "the log is a pipe that nobody reads", _log_that_nobody_reads, real=True),
    Check("event-loop-hangs", "the loop hangs when the daemon is to leave", _loop_that_hangs, real=True),
    Check("no-thread-available", "no thread is to be had for a while", _no_thread),
    Check("ffprobe-limits", "what a probe may take", _probe_without_limits, real=True),
    Check("ffprobe-concurrency", "many recordings end at once", _probes_at_once),
)
