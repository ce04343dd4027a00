"""P6: the register of unreadable keys is read in the event loop while the threads that read Redis change it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from cef_trio.checkpoint.unreadable import UnreadableKeys


class Turn:
    """Gives a thread that changes the register its turn, once. If the register is locked, the thread waits."""

    def __init__(self, register: UnreadableKeys) -> None:
        self._register = register
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._change)
            self.thread.start()
            self.thread.join(0.2)

    def _change(self) -> None:
        self._register.note("key0", None)
        self._register.note("another", "of a wrong type")
        self._register.note("one more", "of a wrong type")


class Moment(float):
    """A point in time whose comparison is a turn."""

    turn: Turn

    def __lt__(self, other: float) -> bool:
        self.turn()
        return super().__lt__(other)


class StreamId(str):
    """A stream's id whose comparison, and hash, is a turn."""

    __slots__ = ("turn",)
    turn: Turn

    def __eq__(self, other: object) -> bool:
        self.turn()
        return super().__eq__(other)

    def __hash__(self) -> int:
        self.turn()
        return super().__hash__()


@pytest.mark.parametrize(
    "look",
    [
        lambda register: register.known,
        lambda register: register.newer,
        lambda register: register.stream_ids,
        lambda register: register.newer_ids,
        lambda register: register.why_of("s2"),
    ],
    ids=["known", "newer", "stream_ids", "newer_ids", "why_of"],
)
def test_p6_a_thread_that_notes_keys_during_a_look_does_not_end_the_daemon(
    monkeypatch: pytest.MonkeyPatch, look: Callable[[UnreadableKeys], object]
) -> None:
    register, now = UnreadableKeys(), Moment(time.monotonic())
    turn = now.turn = Turn(register)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for number in range(4):
        stream_id = StreamId(f"s{number}")
        stream_id.turn = turn
        register.note(f"key{number}", "of a wrong type", stream_id=stream_id, newer=number >= 2)
    look(register)
    assert turn.thread is not None
    turn.thread.join()
    assert set(register.known) == {"key1", "another", "one more"}
    assert set(register.newer) == {"key2", "key3"}
