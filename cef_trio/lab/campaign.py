"""Campaigns: run many plans in parallel, and count the results."""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cef_trio.lab.run import Plan, Report, run_plan

_IDS = re.compile(r"\b[0-9a-f]{8}\b|[0-9a-f-]{20,}\S*")
_CHUNK = 8


def run_plans(plans: Iterable[Plan], *, processes: int) -> Iterator[Report]:
    """Run plans; yield their reports in order.

    Args:
        plans: the plans to run.
        processes: number of parallel processes; 1 runs them in this process.
    """
    if processes <= 1:
        yield from map(run_plan, plans)
        return
    # spawn: a fork would copy the threads and clocks of this process.
    # Ctrl-C goes to this process alone, which then ends the others.
    unbroken = (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(processes, signal.signal, unbroken) as pool:
        yield from pool.imap(run_plan, plans, chunksize=_CHUNK)


@dataclass(slots=True)
class LocationStats:
    """Counts for one line of the daemon at which faults were injected."""

    injected: Counter[str] = field(default_factory=Counter)
    """By kind of fault."""
    others: Counter[str] = field(default_factory=Counter)
    """Locations of the other tasks at that moment."""
    saved: Counter[str] = field(default_factory=Counter)
    """The state of the streams in Redis after the end of that daemon."""
    resumed: Counter[str] = field(default_factory=Counter)
    """The result of the last daemon, which runs without faults."""
    violated: int = 0


@dataclass(slots=True)
class Tally:
    """Counts of the results of several runs."""

    runs: int = 0
    injected: int = 0
    """Runs in which every planned fault was injected."""
    violated: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    """By violation, without ids of a single run."""
    examples: dict[str, Plan] = field(default_factory=dict)
    """The first plan with each violation."""
    locations: dict[str, LocationStats] = field(default_factory=dict)
    hits: Counter[str] = field(default_factory=Counter)
    longest_exit_seconds: float = 0.0

    def add(self, report: Report) -> list[str]:
        """Count a report; return the kinds of violations that no earlier run had."""
        new = []
        self.runs += 1
        self.injected += report.all_injected
        self.violated += bool(report.violations)
        self.hits += report.hits
        self.longest_exit_seconds = max(self.longest_exit_seconds, *report.exit_seconds, 0.0)
        for kind in {_IDS.sub("…", violation) for violation in report.violations}:
            self.violations[kind] += 1
            if kind not in self.examples:
                self.examples[kind] = report.plan
                new.append(kind)
        for injected in report.injected:
            location = self.locations.setdefault(injected.location, LocationStats())
            location.injected[injected.injection.fault] += 1
            location.others.update(task for task in injected.tasks if not task.endswith(injected.location))
            location.saved.update(
                report.saved[injected.injection.life - 1 : injected.injection.life][0] if report.saved else ()
            )
            location.resumed[report.resumed] += 1
            location.violated += bool(report.violations)
        return new
