"""The model of a check: a minimal test of one part of the daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """A check. ``run`` returns its violations, each beginning with its promise: ``P7: …``."""

    name: str
    summary: str
    run: Callable[[], Awaitable[list[str]]]
    real: bool = False
    """Whether it needs the real clock, because it waits for threads or programs."""
