"""P4: what each signal does, and by when the last resort ends what is left."""

from __future__ import annotations

import math
import os

import pytest
import trio
from trio.testing import MockClock

from cef_trio.daemon import Shutdown
from cef_trio.exit_codes import ExitCode


async def test_p4_the_last_resort_comes_within_a_second_of_grace_and_save(autojump_clock: MockClock) -> None:
    shutdown = Shutdown(grace_seconds=6.0, save_seconds=2.0)
    assert shutdown.last_resort.deadline == math.inf, "a daemon that nobody stops runs for ever"
    await trio.sleep(1000)
    shutdown.request()
    assert 8 < shutdown.last_resort.deadline - trio.current_time() < 9


@pytest.mark.parametrize("later_seconds", [0.5, 7.9])
async def test_p4_a_second_signal_brings_it_nearer_and_never_puts_it_off(
    autojump_clock: MockClock, later_seconds: float
) -> None:
    shutdown = Shutdown(grace_seconds=6.0, save_seconds=2.0)
    shutdown.request()
    first = shutdown.last_resort.deadline
    await trio.sleep(later_seconds)
    shutdown.request()
    assert shutdown.last_resort.deadline == min(first, trio.current_time() + 2.6)


async def test_signals_drain_then_cancel_then_exit_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutdown, worker, drained = Shutdown(grace_seconds=6.0, save_seconds=2.0), trio.CancelScope(), []
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
