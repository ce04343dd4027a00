"""Many runs, on as many processors as there are, and what they come to."""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cef_trio.lab.run import Plan, Report, run_plan

_OF_ONE_RUN = re.compile(r"\b[0-9a-f]{8}\b|[0-9a-f-]{20,}\S*")
_CHUNK = 8


def conduct(plans: Iterable[Plan], *, processes: int) -> Iterator[Report]:
    """Run the plans; yields their reports in order.

    Args:
        plans: what to run.
        processes: how many at once; 1 runs them in this process.
    """
    if processes <= 1:
        yield from map(run_plan, plans)
        return
    # spawn: a fork would take along whatever threads and clocks this process has.
    # Ctrl-C is for this process alone, which then ends them.
    unbroken = (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(processes, signal.signal, unbroken) as pool:
        yield from pool.imap(run_plan, plans, chunksize=_CHUNK)


@dataclass(slots=True)
class Place:
    """A line of the daemon at which runs were struck."""

    struck: Counter[str] = field(default_factory=Counter)
    """By blow."""
    others: Counter[str] = field(default_factory=Counter)
    """Where the other tasks were then."""
    saved: Counter[str] = field(default_factory=Counter)
    """What Redis said of the streams when the struck daemon had ended."""
    resumed: Counter[str] = field(default_factory=Counter)
    """What the daemon that came after the last blow made of it."""
    violated: int = 0


@dataclass(slots=True)
class Tally:
    """What some runs came to."""

    runs: int = 0
    struck: int = 0
    """Runs in which every strike of the plan found its moment."""
    violated: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    """By what was violated, with what belongs to one run left out."""
    examples: dict[str, Plan] = field(default_factory=dict)
    """The first plan of each."""
    places: dict[str, Place] = field(default_factory=dict)
    hits: Counter[str] = field(default_factory=Counter)
    longest_exit_seconds: float = 0.0

    def add(self, report: Report) -> list[str]:
        """Count one more; returns the kinds of violations that no earlier run had."""
        new = []
        self.runs += 1
        self.struck += report.all_struck
        self.violated += bool(report.violations)
        self.hits += report.hits
        self.longest_exit_seconds = max(self.longest_exit_seconds, *report.exit_seconds, 0.0)
        for kind in {_OF_ONE_RUN.sub("…", violation) for violation in report.violations}:
            self.violations[kind] += 1
            if kind not in self.examples:
                self.examples[kind] = report.plan
                new.append(kind)
        for struck in report.struck:
            place = self.places.setdefault(struck.place, Place())
            place.struck[struck.strike.blow] += 1
            place.others.update(task for task in struck.tasks if not task.endswith(struck.place))
            place.saved.update(report.saved[struck.strike.life - 1 : struck.strike.life][0] if report.saved else ())
            place.resumed[report.resumed] += 1
            place.violated += bool(report.violations)
        return new
