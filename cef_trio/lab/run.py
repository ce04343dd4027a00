"""One run: a scenario with injected faults, resumed by further daemons, and checked against the invariants.

A plan has a number of consecutive daemons and the faults injected into each. The last daemon runs without faults and
with working servers, and must bring everything to rest. The writers run independently of the daemons.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from cef_trio.checkpoint.model import Checkpoint
from cef_trio.exceptions import leaves
from cef_trio.lab import invariants
from cef_trio.lab.checks import CHECKS, Check
from cef_trio.lab.crash_simulation import Life
from cef_trio.lab.faults import CRASH_MOMENTS, Injection
from cef_trio.lab.fleet_run import ORPHAN_SECONDS, REST_SECONDS, run_fleet, wait_until
from cef_trio.lab.fleet_simulation import FLEET, fleet_of
from cef_trio.lab.injector import Injected, Injector, run_daemon_task
from cef_trio.lab.journal import Entry, logging_into
from cef_trio.lab.mutations import mutated
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scenarios import SCENARIOS, Scenario, Script, world_for
from cef_trio.lab.scheduler import derived, run_virtual
from cef_trio.lab.simulation import SIMULATED, simulated
from cef_trio.lab.world import World, WorldDaemon
from cef_trio.upload.services import Services

_LASTING_FAULT_SECONDS = 150.0
"""Duration of a lasting fault: longer than the minute after which promise P10 requires a report."""
_MIDDLE_LIFE_SECONDS = 40.0
"""How long a daemon in the middle of a plan runs without a fault."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A reproducible run: equal plans give identical runs."""

    scenario: str
    """Name of a scenario or of a check (without injections), or ``simulated`` or ``fleet``."""
    injections: tuple[Injection, ...] = ()
    seed: int = 0
    mutation: str | None = None

    @property
    def definition(self) -> Scenario:
        """The scenario; that of a random world is made of the seed."""
        made = {SIMULATED: simulated, FLEET: fleet_of}.get(self.scenario)
        return made(self.seed) if made is not None else SCENARIOS[self.scenario]

    def __str__(self) -> str:
        return f"{self.scenario}: {', '.join(map(str, self.injections)) or 'no faults'}"


@dataclass(slots=True)
class Report:
    """The result of a run."""

    plan: Plan
    violations: list[str] = field(default_factory=list)
    injected: list[Injected] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    """How many steps each daemon's tasks took."""
    calls: list[list[str]] = field(default_factory=list)
    """The calls each daemon made."""
    saved: list[list[str]] = field(default_factory=list)
    """The state of each stream in Redis after the end of each daemon."""
    exit_seconds: list[float] = field(default_factory=list)
    """Exit time of each daemon with an injection."""
    resumed: str = ""
    """The result of the last daemon: parts kept, parts sent, and final statuses."""
    hits: Counter[str] = field(default_factory=Counter)
    """How often each fault was applied and each event took place."""
    entries: list[Entry] = field(default_factory=list)
    """The journal, if it was asked for."""
    digest: str = ""

    @property
    def all_injected(self) -> bool:
        """Whether every planned fault was injected."""
        return len(self.injected) == len(self.plan.injections)


def run_plan(plan: Plan, *, keep_journal: bool = False) -> Report:
    """Run a plan in a temporary folder and on a virtual clock."""
    report = Report(plan)
    with tempfile.TemporaryDirectory(prefix="cef-lab-") as folder, mutated(plan.mutation):
        before = _descriptors()
        check = CHECKS.get(plan.scenario)
        try:
            if check is not None:
                report.violations += _run_check(check)
            else:
                one = _run if plan.definition.fleet is None else _run_fleet
                run_virtual(one, Path(folder), report, keep_journal, seed=plan.seed + 1)
        except Exception as error:  # noqa: BLE001 - an exception of the daemon is a violation
            report.violations.append(f"P6: the daemon raised {next(leaves(error))!r}")
        if _descriptors() > before:
            report.violations.append(f"P7: {_descriptors() - before} file descriptors were left open")
    return report


def _run_check(check: Check) -> list[str]:
    return trio.run(check.run) if check.real else run_virtual(check.run, seed=1)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no Path is wanted


async def _run(folder: Path, report: Report, keep_journal: bool) -> None:
    plan = report.plan
    scenario = plan.definition
    world = world_for(scenario, folder, plan.seed)
    context = ScenarioContext(world)
    pauses = Random(derived(plan.seed, "pauses"))  # noqa: S311 - to be repeated, not secret
    with logging_into(world.journal):
        async with trio.open_nursery() as elsewhere, trio.open_nursery() as writers:
            context.other_daemons = world.proxy.background = elsewhere
            await scenario.before(context)
            if scenario.script_spans_lives:
                writers.start_soon(scenario.script, context)
            lives = max((injection.life for injection in plan.injections), default=1)
            for number in range(1, lives + 1):
                if number > 1:
                    scenario.between(context, number)
                injections = [injection for injection in plan.injections if injection.life == number]
                script = scenario.script if number == 1 and not scenario.script_spans_lives else None
                with _checking_sent_parts(world, scenario, report, enabled=number > 1):
                    await _run_daemon(context, scenario, injections, report, script=script, writers=writers)
                report.saved.append(_saved(context))
                if scenario.script_spans_lives:
                    await trio.sleep(pauses.uniform(0, 3))
        report.violations += invariants.lease_violations(context.other_life)
        if not scenario.faults_stay:
            world.endpoint.faults.clear()
            world.proxy.rules.clear()
        world.store.fault = None
        scenario.between(context, lives + 1)
        await _run_last_daemon(context, scenario, report)
    report.hits = context.counted()
    report.hits.update(f"daemon: {injected.injection.fault.value}" for injected in report.injected)
    report.digest = world.journal.digest(without=str(folder))
    if keep_journal:
        report.entries = world.journal.entries


async def _run_fleet(folder: Path, report: Report, keep_journal: bool) -> None:
    plan = report.plan
    run = await run_fleet(folder, plan.definition, plan.seed, plan.injections)
    fleet, journal = run.fleet, run.fleet.cloud.journal
    report.violations += run.violations
    report.injected, report.steps, report.calls, report.saved = fleet.injected, run.steps, run.calls, run.saved
    report.exit_seconds = run.exit_seconds
    report.resumed = ", ".join(f"{count} {status}" for status, count in sorted(run.statuses().items()))
    report.hits = fleet.hits + sum((context.counted() for context in fleet.contexts.values()), start=Counter())
    report.digest = journal.digest(without=str(folder))
    if keep_journal:
        report.entries = journal.entries


@contextmanager
def _checking_sent_parts(world: World, scenario: Scenario, report: Report, *, enabled: bool = True) -> Iterator[None]:
    """Check that the block sends no unchanged part that was recorded before it."""
    recorded, received = invariants.recorded_parts(world), world.received_parts()
    lost = world.redis_losses
    yield
    if enabled and not scenario.starts_over and world.redis_losses == lost:
        report.violations += invariants.sent_again(world, recorded, received)


async def _run_daemon(
    context: ScenarioContext,
    scenario: Scenario,
    injections: list[Injection],
    report: Report,
    *,
    script: Script | None,
    writers: trio.Nursery,
) -> None:
    """Run one daemon with its injections, and the scenario's script if it is given."""
    world = context.world
    world.acknowledgements.forget()
    world.receiver.acknowledged.clear()
    before = world.known()
    life = Life()
    crash = next((injection for injection in injections if injection.fault in CRASH_MOMENTS), None)
    if crash is not None:
        life.dies_at = (crash.at, CRASH_MOMENTS[crash.fault])
    async with trio.open_nursery() as scripts, world.services(life) as services:
        daemon = WorldDaemon(world, services)
        injector = Injector(
            daemon,
            life,
            [injection for injection in injections if injection.fault not in CRASH_MOMENTS],
            report.injected,
        )
        if crash is not None:
            life.on_end = lambda: injector.crashed(crash)
        context.daemon = daemon
        trio.lowlevel.add_instrument(injector)
        try:
            if script is not None:
                scripts.start_soon(script, context)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_daemon_task, daemon, injector)
                if script is not None:
                    await wait_until(lambda: not scripts.child_tasks or injector.ended_at is not None, 120)
                elif scenario.script_spans_lives:
                    await wait_until(
                        lambda: not writers.child_tasks or injector.ended_at is not None, _MIDDLE_LIFE_SECONDS
                    )
                else:
                    await wait_until(lambda: daemon.accepts_events, 1)
                    context.close_all()
                    await wait_until(
                        lambda: invariants.at_rest(world) or injector.ended_at is not None, _MIDDLE_LIFE_SECONDS
                    )
                if daemon.shutdown.signals == 0:
                    daemon.shutdown.request()
        finally:
            trio.lowlevel.remove_instrument(injector)
            context.daemon = None
        _check_exit(context, scenario, services, injector=injector, life=life, report=report, before=before)


def _check_exit(
    context: ScenarioContext,
    scenario: Scenario,
    services: Services,
    *,
    injector: Injector,
    life: Life,
    report: Report,
    before: list[Checkpoint],
) -> None:
    report.steps.append(injector.steps)
    report.calls.append(life.calls)
    report.violations += invariants.lease_violations(life)
    if life.ended:
        return  # the invariants of an exit do not apply to a crash
    rules = services.rules
    report.violations += invariants.after_exit(context.world, services, before, scenario)
    if injector.shutdown_at is not None and injector.ended_at is not None:
        took = injector.ended_at - injector.shutdown_at
        report.exit_seconds.append(took)
        bound = context.world.grace_seconds + rules.save_seconds + 1
        if took > bound:
            report.violations.append(f"P4: the exit took {took:.1f} seconds, the bound is {bound:g}")
    if injector.cancelled_at is not None and injector.ended_at is not None:
        took = injector.ended_at - injector.cancelled_at
        if took > rules.save_seconds + 1:
            report.violations.append(f"P4: the exit took {took:.1f} seconds after the second signal")


def _saved(context: ScenarioContext) -> list[str]:
    return [
        f"{checkpoint.meta.status.value}, {len(checkpoint.parts)} parts"
        + (", object completed" if checkpoint.meta.object_etag else "")
        for checkpoint in context.world.known()
    ]


async def _run_last_daemon(context: ScenarioContext, scenario: Scenario, report: Report) -> None:
    """Run the last daemon, without faults, until everything is at rest."""
    world = context.world
    received = world.received_parts()
    recorded = invariants.recorded_parts(world)
    untouched = world.known()
    world.acknowledgements.forget()
    world.receiver.acknowledged.clear()
    before = trio.lowlevel.current_statistics().tasks_living
    with _checking_sent_parts(world, scenario, report):
        async with world.daemon() as daemon:
            context.daemon = daemon
            context.close_all()
            if scenario.lasting_fault is not None:
                async with scenario.lasting_fault(context):
                    await trio.sleep(_LASTING_FAULT_SECONDS)
                    report.violations += invariants.unreported_risks(context, daemon.at_risk)
            if not await wait_until(lambda: invariants.at_rest(world), REST_SECONDS):
                states = Counter(checkpoint.meta.status.value for checkpoint in world.known())
                report.violations.append(f"P6: not at rest after {REST_SECONDS:g} seconds: {dict(states)}")
            await wait_until(lambda: not invariants.left_uploads(world, scenario), ORPHAN_SECONDS)
            if scenario.faults_stay:
                await trio.sleep(_LASTING_FAULT_SECONDS)
            # P10 allows a minute until a risk is reported.
            await wait_until(lambda: not invariants.unreported_risks(context, daemon.at_risk), _LASTING_FAULT_SECONDS)
            report.violations += invariants.unreported_risks(context, daemon.at_risk)
            # An outage ends with its next probe, within a minute.
            await wait_until(lambda: not invariants.false_risks(context, daemon.at_risk), _LASTING_FAULT_SECONDS)
            report.violations += invariants.false_risks(context, daemon.at_risk)
            services = daemon.services
    context.daemon = None
    if trio.lowlevel.current_statistics().tasks_living > before:
        report.violations.append("P7: tasks of the daemon are still running")
    report.resumed = _resumed(world, recorded, received)
    report.violations += invariants.after_exit(world, services, untouched)
    report.violations += invariants.at_the_end(context, scenario)
    if not report.injected:
        report.violations += scenario.check_unharmed(context)
    if scenario.bounded_bytes:
        report.violations += invariants.excess_bytes_sent(context, scenario, len(report.injected))


def _resumed(world: World, recorded: invariants.Recorded, received: invariants.Received) -> str:
    """Return what the last daemon did, compared with the records and received bytes before it."""
    now = world.received_parts()
    sent = {part for part, size_bytes in now.items() if size_bytes > received.get(part, 0)}
    again = sum(part in received for part in sent)
    ended = Counter(checkpoint.meta.status.value for checkpoint in world.known())
    return f"{len(recorded.keys() - sent)} parts kept, {len(sent) - again} sent, {again} sent again; " + ", ".join(
        f"{count} {status}" for status, count in sorted(ended.items())
    )
