"""What can happen to a daemon, and when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cef_trio.lab.crash_simulation import Death


class Blow(StrEnum):
    """What happens to a daemon."""

    DRAIN = "drain"
    """The first signal."""
    CANCEL = "cancel"
    """Signals until the tasks are cancelled."""
    KILL = "kill"
    """The process is gone, in the middle of a step."""
    DIE_BEFORE = "die-before"
    """It is gone before a call is made."""
    DIE_UNANSWERED = "die-unanswered"
    """It is gone when a call has had its effect, and before the answer arrives."""
    DIE_ANSWERED = "die-answered"
    """It is gone when the answer has arrived, and before anything was done with it."""


DEATHS: Final = {
    Blow.DIE_BEFORE: Death.BEFORE,
    Blow.DIE_UNANSWERED: Death.UNANSWERED,
    Blow.DIE_ANSWERED: Death.ANSWERED,
}
"""The blows that fall in a call, and the moment of it."""
FATAL: Final = frozenset(DEATHS) | {Blow.KILL}
"""The blows after which the process does nothing more."""


@dataclass(frozen=True, slots=True)
class Strike:
    """``at``: the step of the daemon's tasks (before it), or of the dying blows the number of the call; from 1.

    ``life``: which daemon, from 1.
    """

    blow: Blow
    at: int
    life: int = 1

    def __str__(self) -> str:
        return f"{self.blow.value}@{self.at}" + (f" in life {self.life}" if self.life > 1 else "")
