"""P2, P4: work that should not be lost is shielded for a limited time, then cancelled."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from cef_trio.resilience.shield import shielded_at_first


async def test_p2_work_that_ends_in_time_is_not_cancelled_and_its_result_is_not_lost(autojump_clock: MockClock) -> None:
    done: list[str] = []

    async def work() -> str:
        await trio.sleep(1)
        return "id"

    with trio.CancelScope() as scope:
        scope.cancel()
        done.append(await shielded_at_first(work, 2, saving="a test"))
    assert done == ["id"]


async def test_p4_work_that_hangs_is_cancelled_when_its_time_is_over(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()
        await shielded_at_first(partial(trio.sleep, 1000), 2, saving="a test")
    assert scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(2)


async def test_work_that_is_not_cancelled_has_no_time_limit(autojump_clock: MockClock) -> None:
    async def work() -> str:
        await trio.sleep(100)
        return "id"

    assert await shielded_at_first(work, 2, saving="a test") == "id"


async def test_an_exception_of_the_work_is_not_in_a_group() -> None:
    async def work() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await shielded_at_first(work, 2, saving="a test")
