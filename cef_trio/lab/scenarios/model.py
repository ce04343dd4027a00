"""The model of a scenario: its preparation, its script, and which results are allowed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final

import trio

from cef_trio.checkpoint.states import Status
from cef_trio.lab.fleet import FleetPlan
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.resilience import RetryPolicy

Script = Callable[[ScenarioContext], Awaitable[None]]


async def nothing(_context: ScenarioContext) -> None:
    """Prepare nothing."""
    await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario. The fields after ``script`` are optional; most of them permit what is a violation elsewhere."""

    name: str
    summary: str
    """What happens, in one line."""
    script: Script = nothing
    """What writers and servers do while the first daemon runs. The daemon may end early; the script must not depend on
    it."""
    before: Script = nothing
    """What happens before the first daemon, e.g. an earlier daemon or the properties of a file system."""
    may_end: frozenset[Status] = frozenset()
    """Statuses, besides ``completed``, in which its streams may end."""
    starts_over: bool = False
    """Whether recorded parts may be sent again: the file is truncated, or its upload is lost."""
    redis_may_fail: bool = False
    """Whether a state may be unsaved at exit; the daemon must then name the streams concerned."""
    redis_silent: bool = False
    """Whether Redis is down at exit, so acknowledgements may be unrecorded."""
    writes_again: bool = False
    """Whether completed recordings are written to again, and uploaded again."""
    faults_stay: bool = False
    """Whether the faults of S3 also apply to the last daemon."""
    one_object: bool = False
    """Whether no two objects may have the same bytes, even after Redis lost data."""
    bounded_bytes: bool = False
    """Whether the bytes sent must be bounded by the bytes changed."""
    slack_parts: int = 0
    """Parts that may be sent beyond that bound; holes are only seen in blocks of the real file system."""
    check_end: Callable[[ScenarioContext], list[str]] = lambda _: []
    """Returns further violations, when everything is at rest."""
    check_unharmed: Callable[[ScenarioContext], list[str]] = lambda _: []
    """The same, only for runs without injections."""
    between: Callable[[ScenarioContext, int], None] = lambda _context, _life: None
    """Called before each further daemon, with its number."""
    lasting_fault: Callable[[ScenarioContext], AbstractAsyncContextManager[None]] | None = None
    """A fault for the last daemon, which must report the risk (P10) and recover."""
    script_spans_lives: bool = False
    """Whether the script runs until its end, across crashes and restarts of the daemon."""
    max_concurrent_parts: int = 4
    fleet: FleetPlan | None = None
    """Several daemons at once, with a script of their own in place of ``script``; ``None``: one at a time."""
    policy: RetryPolicy = field(default=RetryPolicy(attempts=3, initial_seconds=0.2, max_seconds=2.0))


GONE: Final = frozenset({Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS, Status.FAILED_FILE_MISSING_ON_RESUME})
"""Final statuses of a stream whose file was deleted."""
