"""Fleets in the laboratory: several daemons at once, on several hosts, under the same promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from cef_trio.lab.explorers import worlds
from cef_trio.lab.fleet import TAKEOVER_SECONDS
from cef_trio.lab.fleet_run import FleetRun, run_fleet
from cef_trio.lab.fleet_simulation import FLEET, fleet_of, is_fleet
from cef_trio.lab.run import Plan, run_plan
from cef_trio.lab.scenarios import SCENARIOS, fleets
from cef_trio.lab.scheduler import run_virtual
from cef_trio.lab.simulation import SIMULATED


@pytest.mark.parametrize("name", [scenario.name for scenario in fleets.SCENARIOS])
def test_no_promise_is_violated_by_several_daemons(name: str) -> None:
    report = run_plan(Plan(name))
    assert report.violations == []
    assert any(count for kind, count in report.hits.items() if kind.startswith("fleet: "))


def run_of(name: str, folder: Path) -> FleetRun:
    async def run() -> FleetRun:
        return await run_fleet(folder, SCENARIOS[name], 0)

    return run_virtual(run, seed=1)


@pytest.mark.parametrize(
    "name", ["taken-over", "cut-off-while-uploading", "cut-off-from-redis", "paused-while-uploading"]
)
def test_p6_the_streams_of_a_lost_host_are_taken_over_within_the_lease_and_five_seconds(
    name: str, tmp_path: Path
) -> None:
    run = run_of(name, tmp_path)
    assert run.violations == []
    assert run.fleet.takeovers
    assert max(run.fleet.takeovers) <= TAKEOVER_SECONDS


def test_p9_each_daemon_names_only_the_keys_of_its_owner(tmp_path: Path) -> None:
    run = run_of("same-path-on-each-host", tmp_path)
    assert run.violations == []
    assert {(one.plan.owner, len(one.context.world.objects())) for one in run.fleet.daemons} == {
        ("o0", 4),
        ("o1", 4),
        ("o2", 4),
    }  # two recordings of each host, with their metadata
    for one in run.fleet.daemons:
        assert one.life.keys
        assert all(key.startswith(f"streams/{one.plan.owner}/") for key in one.life.keys)


def test_the_same_seed_gives_the_same_fleet() -> None:
    assert run_plan(Plan(FLEET, seed=60)).digest == run_plan(Plan(FLEET, seed=60)).digest


def test_a_share_of_the_random_worlds_are_fleets_of_two_to_eight_daemons() -> None:
    seeds = [seed for seed in range(2000) if is_fleet(seed)]
    assert 0.12 < len(seeds) / 2000 < 0.18
    plans = {plan.seed: plan.scenario for plan in worlds(0, 2000)}
    assert {seed for seed, scenario in plans.items() if scenario == FLEET} == set(seeds)
    assert set(plans.values()) == {FLEET, SIMULATED}
    made = [plan for seed in seeds if (plan := fleet_of(seed).fleet) is not None]
    counts = {len(plan.daemons) for plan in made}
    assert min(counts) == 2
    assert max(counts) == 8
    assert {len({one.host for one in plan.daemons}) for plan in made} == {1, 2, 3, 4}


@pytest.mark.parametrize("seed", [27, 49, 62])
def test_p2_a_recording_that_is_renamed_on_another_host_is_not_begun_again(seed: int) -> None:
    """The daemon that has its stream cannot record the rename; the daemons of the other hosts see an unknown file."""
    assert run_plan(Plan(FLEET, seed=seed)).violations == []
