"""One run of a fleet: its script with its faults, then without faults until everything is at rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import trio

from cef_trio.checkpoint.states import Status
from cef_trio.lab import invariants
from cef_trio.lab.faults import Injection
from cef_trio.lab.fleet import EndedProcess, Fleet, FleetDaemon, FleetPlan
from cef_trio.lab.journal import logging_into
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scenarios import Scenario
from cef_trio.observability.at_risk import Risk
from cef_trio.resilience.best_effort import PAUSE_SECONDS
from cef_trio.upload.orphan_cleanup import PERIOD_SECONDS as ORPHAN_CLEANUP_SECONDS

REST_SECONDS = 900.0
"""Virtual seconds in which everything must have come to rest once the servers work."""
ORPHAN_SECONDS = PAUSE_SECONDS + ORPHAN_CLEANUP_SECONDS + 60.0
"""Virtual seconds in which uploads of ended streams must be found."""
RISK_SECONDS = 150.0
"""Virtual seconds in which a risk must be reported, and a false one withdrawn."""


class FleetRun:
    """One run of a fleet, and its violations."""

    def __init__(self, fleet: Fleet, scenario: Scenario) -> None:
        self.fleet = fleet
        self.violations: list[str] = []
        self.steps: list[int] = []
        """How many steps each process of the first daemon took."""
        self.calls: list[list[str]] = []
        """The calls of each process of the first daemon."""
        self.saved: list[list[str]] = []
        """The states of the streams after the end of each process of the first daemon."""
        self.exit_seconds: list[float] = []
        self._scenario = scenario
        fleet.on_exit = self._check_exit
        fleet.on_part = self._check_part

    async def run(self, plan: FleetPlan) -> None:
        """Run the fleet."""
        fleet = self.fleet
        with logging_into(fleet.cloud.journal):
            async with trio.open_nursery() as background:
                for context in fleet.contexts.values():
                    context.other_daemons = context.world.proxy.background = background
                async with trio.open_nursery() as nursery:
                    fleet.nursery = nursery
                    for daemon in fleet.daemons:
                        nursery.start_soon(daemon.run)
                    await plan.script(fleet)
                    await self._end_faults()
                    for context in fleet.contexts.values():
                        await self._rest(context)
                    await self._check_risks()
                    for context in fleet.contexts.values():
                        # A host that was cut off may have created one since, when it was back, without the lease.
                        await self._abort_left(context)
                    await self._stop_all()
                    nursery.cancel_scope.cancel()
        self.violations += fleet.violations
        for context in fleet.contexts.values():
            self.violations += invariants.at_the_end(context, self._scenario)
            self.violations += context.in_s3_twice()
        self._count_work()

    async def _end_faults(self) -> None:
        fleet = self.fleet
        fleet.cloud.endpoint.faults.clear()
        for context in fleet.contexts.values():
            context.world.proxy.rules.clear()
            context.world.store.fault = None
            context.close_all()
        for daemon in fleet.daemons:
            daemon.wanted.value = True
        await wait_until(lambda: all(daemon.accepts_events for daemon in fleet.daemons), RISK_SECONDS)

    async def _rest(self, context: ScenarioContext) -> None:
        world = context.world
        if not await wait_until(lambda: invariants.at_rest(world), REST_SECONDS):
            states = Counter(checkpoint.meta.status.value for checkpoint in world.known())
            self.violations.append(f"P6: not at rest after {REST_SECONDS:g} seconds: {dict(states)}")
        await self._abort_left(context)

    async def _abort_left(self, context: ScenarioContext) -> None:
        """Wait until no upload of an ended stream is open, as long as a daemon may take to abort it."""
        await wait_until(lambda: not invariants.left_uploads(context.world, self._scenario), ORPHAN_SECONDS)

    async def _check_risks(self) -> None:
        def false_risks() -> list[str]:
            return [
                violation
                for daemon in self.fleet.daemons
                for violation in invariants.false_risks(daemon.context, daemon.risks)
            ]

        for context in self.fleet.contexts.values():
            self.violations += invariants.unreported_risks(context, self._risks_of(context))
        await wait_until(lambda: not false_risks(), RISK_SECONDS)
        self.violations += false_risks()

    def _risks_of(self, context: ScenarioContext) -> Collection[Risk]:
        return [risk for daemon in self.fleet.daemons if daemon.context is context for risk in daemon.risks]

    async def _stop_all(self) -> None:
        for daemon in self.fleet.daemons:
            daemon.wanted.value = False
            daemon.stop()
        if not await wait_until(lambda: all(daemon.daemon is None for daemon in self.fleet.daemons), 60):
            self.violations.append("P4: a daemon has not ended a minute after its first signal")

    def _check_part(self, daemon: FleetDaemon, key: str, number: int) -> None:
        if daemon.daemon is not None:
            self.violations += invariants.sends_again(daemon.context.world, daemon.daemon.services, key, number)

    def _check_exit(self, ended: EndedProcess) -> None:
        self.violations += invariants.after_exit_of_one(ended)
        injector, rules = ended.injector, ended.services.rules
        if ended.daemon is self.fleet.daemons[0]:
            known = ended.daemon.context.world.known()
            self.steps.append(injector.steps)
            self.calls.append(ended.life.calls)
            self.saved.append([f"{one.meta.status.value}, {len(one.parts)} parts" for one in known])
        if injector.shutdown_at is None or injector.ended_at is None or ended.life.ended or ended.was_impaired:
            return
        took = injector.ended_at - injector.shutdown_at
        self.exit_seconds.append(took)
        bound = ended.daemon.context.world.grace_seconds + rules.save_seconds + 1
        if took > bound:
            self.violations.append(f"P4: the exit took {took:.1f} seconds, the bound is {bound:g}")

    def statuses(self) -> Counter[str]:
        """Return how many streams ended in which status."""
        contexts = self.fleet.contexts.values()
        return Counter(one.meta.status.value for context in contexts for one in context.world.known())

    def _count_work(self) -> None:
        """Count how the streams of shared folders were divided; that is no promise."""
        fleet = self.fleet
        for owner, context in fleet.contexts.items():
            if len(fleet.plan.hosts_of(owner)) == 1:
                continue
            ended = [one.meta.stream_id for one in context.world.known() if one.meta.status is Status.COMPLETED]
            by = Counter(fleet.last_daemon_of(stream_id) for stream_id in ended)
            fleet.hits["fleet: recordings of shared folders"] += len(ended)
            fleet.hits["fleet: of them by the busiest daemon"] += max(by.values(), default=0)


async def run_fleet(folder: Path, scenario: Scenario, seed: int, injections: Collection[Injection] = ()) -> FleetRun:
    """Run the fleet of a scenario in an empty folder, with injections into its first daemon."""
    plan = scenario.fleet
    if plan is None:
        raise ValueError(f"{scenario.name} has no fleet")
    run = FleetRun(Fleet(plan, folder, seed, scenario.policy, injections), scenario)
    await run.run(plan)
    return run


async def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition, at most that many virtual seconds; return whether it became true."""
    deadline = trio.current_time() + seconds
    while not condition():
        if trio.current_time() >= deadline:
            return False
        await trio.sleep(0.25)
    return True
