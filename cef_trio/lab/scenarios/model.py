"""What a scenario is: what the world was before, what writers and servers do meanwhile, and how it may end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final

import trio

from cef_trio.checkpoint.states import Status
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.resilience import RetryPolicy

Script = Callable[[ScenarioContext], Awaitable[None]]


async def nothing(_context: ScenarioContext) -> None:
    """The world is new."""
    await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A story. ``may_end`` are statuses that its streams may end in, besides ``completed``."""

    name: str
    summary: str
    script: Script
    before: Script = nothing
    may_end: frozenset[Status] = frozenset()
    starts_over: bool = False
    """Whether parts may rightly be sent again: the file was cut off, or its upload given up."""
    redis_may_fail: bool = False
    """Whether Redis may not take a state on the way out; then it must be said whose was not saved."""
    redis_silent: bool = False
    """Whether Redis takes nothing at all at the end: what is acknowledged then cannot be recorded."""
    writes_again: bool = False
    """Whether completed recordings are rightly written to again, and then uploaded anew."""
    faults_stay: bool = False
    """Whether the servers' faults are still there for the daemon that comes last."""
    one_object: bool = False
    """Whether no two objects may have the same bytes, whatever Redis lost."""
    bounded_bytes: bool = False
    """Whether what is sent must be bounded by what was changed."""
    slack_parts: int = 0
    """How many parts may be sent beyond that: a file system tells holes by its own blocks, which are longer here."""
    check_end: Callable[[ScenarioContext], list[str]] = lambda _: []
    """What else is asked in the end; returns what is broken."""
    check_unharmed: Callable[[ScenarioContext], list[str]] = lambda _: []
    """What is asked only if no daemon was struck."""
    between: Callable[[ScenarioContext, int], None] = lambda _context, _life: None
    """What changes before each further daemon, whose number is told."""
    lasting_fault: Callable[[ScenarioContext], AbstractAsyncContextManager[None]] | None = None
    """A trouble that the last daemon still meets: it must say what is at risk by it (promise P10), and come back."""
    script_spans_lives: bool = False
    """Whether the script goes on while daemons die and others come."""
    max_concurrent_parts: int = 4
    policy: RetryPolicy = field(default=RetryPolicy(attempts=3, initial_seconds=0.2, max_seconds=2.0))


GONE: Final = frozenset({Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS, Status.FAILED_FILE_MISSING_ON_RESUME})
"""How a stream may end whose file was taken away."""
