"""What a check is: something that the daemon must do, asked of the part that does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """``run`` returns the promises that it found broken, each beginning with the promise's name."""

    name: str
    summary: str
    run: Callable[[], Awaitable[list[str]]]
    real: bool = False
    """Whether it needs the real clock, since it waits for threads or programs."""
