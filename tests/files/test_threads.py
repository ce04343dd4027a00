"""P7: a call waits if the machine has no thread to give, and no call is made twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import structlog
import trio
from trio.testing import MockClock

from cef_trio.resilience.threads import ThreadedResolver, run_in_thread


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Refuse that many threads from now on."""

    def refuse(count: int) -> None:
        left, real = count, trio.to_thread.run_sync

        async def run_sync(*given: object, **named: object) -> object:
            nonlocal left
            if left:
                left -= 1
                await trio.lowlevel.checkpoint()
                raise RuntimeError("can't start new thread")
            return await real(*given, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)

    return refuse


async def test_p7_a_call_waits_for_a_thread_and_is_made_once(
    without: Callable[[int], None], autojump_clock: MockClock
) -> None:
    without(5)
    calls: list[str] = []
    with structlog.testing.capture_logs() as events:
        assert await run_in_thread(lambda: calls.append("made") or "result") == "result"  # type: ignore[func-returns-value]
    assert calls == ["made"]
    assert [event["event"] for event in events] == ["thread_unavailable", "thread_available"]


async def test_p2_a_call_that_is_cancelled_while_it_waits_has_changed_nothing(
    without: Callable[[int], None], autojump_clock: MockClock
) -> None:
    without(1000)
    calls: list[str] = []
    with structlog.testing.capture_logs() as events, trio.move_on_after(30) as scope:
        await run_in_thread(lambda: calls.append("made"))
    assert scope.cancelled_caught
    assert calls == []
    assert events[-1]["event"] == "thread_available", "nothing waits any more"


async def test_p2_what_a_call_raises_itself_is_not_taken_for_a_missing_thread() -> None:
    calls: list[str] = []

    def fails() -> None:
        calls.append("made")
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError):
        await run_in_thread(fails)
    assert calls == ["made"], "it may have changed something"


async def test_the_name_service_is_asked_in_such_a_thread(
    without: Callable[[int], None], autojump_clock: MockClock
) -> None:
    trio.socket.set_custom_hostname_resolver(ThreadedResolver())
    without(3)
    found = await trio.socket.getaddrinfo("localhost", 80, type=trio.socket.SOCK_STREAM)
    assert any(address[4][0] in {"127.0.0.1", "::1"} for address in found)
