"""Faults of the daemon process: shutdown, cancellation, aborts and crashes, and the moment of each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cef_trio.lab.crash_simulation import CrashMoment


class FaultKind(StrEnum):
    """A fault of the daemon process."""

    DRAIN = "drain"
    """The first signal: a graceful shutdown."""
    CANCEL = "cancel"
    """Repeated signals, until the tasks are cancelled."""
    ABORT = "abort"
    """The daemon reads that an operator wants all open streams aborted. The process goes on."""
    KILL = "kill"
    """A crash between two steps of a task."""
    DIE_BEFORE = "die-before"
    """A crash before a call is made."""
    DIE_UNANSWERED = "die-unanswered"
    """A crash after a call took effect and before its response arrives."""
    DIE_ANSWERED = "die-answered"
    """A crash after the response arrived and before it is processed."""


CRASH_MOMENTS: Final = {
    FaultKind.DIE_BEFORE: CrashMoment.BEFORE,
    FaultKind.DIE_UNANSWERED: CrashMoment.UNANSWERED,
    FaultKind.DIE_ANSWERED: CrashMoment.ANSWERED,
}
"""The faults that are injected in a call, and the moment in the call."""
FATAL: Final = frozenset(CRASH_MOMENTS) | {FaultKind.KILL}
"""The faults that end the process."""


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault and the moment at which it is injected.

    ``at``: the step of the daemon's tasks before which it is injected, or for crashes in a call the number of the call;
    both from 1. ``life``: the number of the daemon, from 1.
    """

    fault: FaultKind
    at: int
    life: int = 1

    def __str__(self) -> str:
        return f"{self.fault.value}@{self.at}" + (f" in life {self.life}" if self.life > 1 else "")
