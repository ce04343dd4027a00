"""P4: the effect of each signal, and when the exit watchdog ends the process."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from pathlib import Path

import pytest
import trio
from servers.daemon import daemon, settings_for
from servers.endpoints import Endpoint
from servers.valkey import ValkeyServer

from cef_trio.daemon import exit_watchdog
from cef_trio.daemon.exit_watchdog import ExitWatchdog
from cef_trio.daemon.main import Shutdown
from cef_trio.exit_codes import ExitCode

pytestmark = pytest.mark.usefixtures("autojump_clock")


def leaving(grace_seconds: float = 6.0, save_seconds: float = 2.0) -> tuple[Shutdown, ExitWatchdog]:
    watchdog = ExitWatchdog(grace_seconds, save_seconds)
    return Shutdown(grace_seconds, save_seconds, watchdog), watchdog


async def test_p4_the_watchdog_ends_the_process_within_a_second_of_grace_and_save() -> None:
    shutdown, watchdog = leaving()
    assert watchdog.deadline == math.inf, "a daemon without a signal runs for ever"
    before = time.monotonic()
    shutdown.request()
    assert before + 8 < watchdog.deadline < time.monotonic() + 9


@pytest.mark.parametrize("grace_seconds", [0.1, 6.0])
async def test_p4_a_second_signal_shortens_the_deadline_and_never_extends_it(grace_seconds: float) -> None:
    shutdown, watchdog = leaving(grace_seconds)
    shutdown.request()
    first, before = watchdog.deadline, time.monotonic()
    shutdown.request()
    # On a slow machine the grace may be over by then; so the first deadline stays.
    assert min(first, before + 2) <= watchdog.deadline < time.monotonic() + 3
    assert watchdog.deadline <= first
    assert watchdog.deadline < first or grace_seconds < 1


class RecordingTimer:
    """A timer that only records its delays: faulthandler's would end the tests."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def exit_after(self, seconds: float) -> None:
        self.delays.append(seconds)

    def cancel(self) -> None:
        self.delays.append(math.inf)

    def close(self) -> None:
        pass


async def test_p4_the_timer_that_needs_no_interpreter_lock_is_set_before_anything_is_drained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is drained may keep the lock, and then no thread could set the timer any more."""
    timer = RecordingTimer()
    monkeypatch.setattr(exit_watchdog, "_FaulthandlerTimer", lambda: timer)
    shutdown, watchdog = leaving()
    set_when_drained: list[int] = []
    shutdown.on_drain.append(lambda: set_when_drained.append(len(timer.delays)))
    with watchdog.running():
        shutdown.request()
    assert set_when_drained == [1]
    assert 8 < timer.delays[0] < 8 + 1.2


async def test_signals_drain_then_cancel_then_exit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shutdown, _ = leaving()
    worker, drained = trio.CancelScope(), []
    shutdown.workers.append(worker)
    shutdown.on_drain.append(lambda: drained.append(True))
    shutdown.request()
    assert (drained, shutdown.intake.cancel_called, worker.cancel_called) == ([True], True, False)
    assert worker.deadline == trio.current_time() + 6
    shutdown.request()
    assert worker.cancel_called
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    shutdown.request()
    assert exits == [ExitCode.NOT_SAVED]
    assert drained == [True], "once"


@pytest.mark.parametrize("code", list(ExitCode))
@pytest.mark.parametrize("late", [False, True], ids=["in time", "the deadline passes"])
def test_p4_a_daemon_that_has_finished_ends_with_its_own_code_however_late_the_process_ends(
    code: ExitCode, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a starved machine the last steps outlast the deadline; everything is saved, so the code says so."""
    timer, exits, ended = RecordingTimer(), [], threading.Event()

    def end(with_code: int) -> None:
        exits.append(with_code)
        ended.set()

    monkeypatch.setattr(exit_watchdog, "_FaulthandlerTimer", lambda: timer)
    monkeypatch.setattr(os, "_exit", end)
    watchdog = ExitWatchdog(6.0, 2.0)
    with watchdog.running():
        watchdog.count_signal(1)
        watchdog.finished(code)
        assert timer.delays[-1] == math.inf, "the timer's own exit code would be 1"
        assert watchdog.deadline <= time.monotonic() + 1
        if late:
            watchdog.deadline = -math.inf
            watchdog._notify()
            assert ended.wait(30)
        else:
            watchdog.exit(code)
        watchdog.count_signal(2)
        assert timer.delays[-1] == math.inf, "a late signal does not set it again"
    assert set(exits) == {code}


def test_a_signal_after_the_end_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    watchdog = ExitWatchdog(6.0, 2.0)
    watchdog.finished(ExitCode.DONE)
    for number in (1, 2, 3):
        watchdog.count_signal(number)
    assert exits == [ExitCode.DONE]


def test_before_the_end_the_deadline_means_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    ExitWatchdog(6.0, 2.0).exit_now()
    assert exits == [ExitCode.NOT_SAVED]


SLOW_TEARDOWN = """
import atexit, sys, time
from cef_trio.cli import main
atexit.register(time.sleep, 60)  # a teardown that takes long
sys.exit(main(["run"]))
"""


@pytest.mark.real
def test_p4_the_interpreters_teardown_does_not_outlast_the_deadline(
    tmp_path: Path, valkey: ValkeyServer, endpoint: Endpoint
) -> None:
    settings = settings_for(tmp_path, endpoint, valkey.url)
    with daemon(settings, under=[sys.executable, "-c", SLOW_TEARDOWN]) as running:
        assert running.stop() == 0
        assert running.count("daemon_stopped") == 1
