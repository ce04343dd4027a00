"""Daemons of a shared folder divide its new files, on a virtual clock; a file waits for a limited time only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import trio

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import Status
from cef_trio.lab.fleet import DaemonPlan, Fleet, FleetPlan
from cef_trio.lab.fleet_run import FleetRun, run_fleet
from cef_trio.lab.scenarios.model import Scenario
from cef_trio.lab.scheduler import run_virtual
from cef_trio.lab.world import PART
from cef_trio.upload import work_division
from cef_trio.upload.supervisor import StreamSupervisor
from cef_trio.upload.work_division import ranked, wait_seconds

RESCAN_SECONDS = 20.0
"""Of the laboratory's daemons."""
START_SECONDS = 3.0
"""Until daemons that were started together have seen each other."""


def run(
    folder: Path,
    hosts: int,
    script: Callable[[Fleet], Awaitable[None]],
    *,
    may_end: frozenset[Status] = frozenset(),
) -> FleetRun:
    daemons = tuple(DaemonPlan(f"h{number}", "site") for number in range(hosts))
    plan = FleetPlan(daemons, script)
    scenario = Scenario("shared-work", "several hosts with a shared folder", may_end=may_end, fleet=plan)

    async def go() -> FleetRun:
        return await run_fleet(folder, scenario, 0)

    return run_virtual(go, seed=1)


def name_for(fleet: Fleet, host: str) -> str:
    """Return the name of a recording that the host's daemon is to begin."""
    return names_for(fleet, host, 1)[0]


def names_for(fleet: Fleet, host: str, count: int) -> list[str]:
    """Return the names of recordings that the host's daemon is to begin."""
    tokens = {one.daemon.services.lease.token: one.plan.host for one in fleet.daemons if one.daemon is not None}
    names = (name for name in map("{}.mp4".format, range(100)) if tokens[ranked(f"/{name}", tokens)[0]] == host)
    return list(islice(names, count))


def begun(fleet: Fleet) -> list[tuple[float, str]]:
    """Return when and by whom each stream was begun."""
    return [(leases[0][0], leases[0][1].plan.host) for leases in fleet._leased.values()]


@pytest.mark.parametrize("at_once", [True, False])
def test_hosts_of_a_shared_folder_get_equal_shares_of_its_recordings(tmp_path: Path, *, at_once: bool) -> None:
    shares: list[Counter[str]] = []

    async def script(fleet: Fleet) -> None:
        await trio.sleep(0 if at_once else START_SECONDS)
        names = [f"{number}.mp4" for number in range(12)]
        for name in names:
            fleet.writers("h0").append(3 * PART // 2, name)
            await trio.sleep(0 if at_once else RESCAN_SECONDS / 3)
            for before in names[: names.index(name)]:  # none of them ends
                fleet.writers("h0").append(1, before)
        for _ in range(6):
            await trio.sleep(RESCAN_SECONDS / 3)
            for name in names:
                fleet.writers("h0").append(1, name)
        shares.append(Counter(host for _, host in begun(fleet)))

    ended = run(tmp_path, 3, script)
    assert ended.violations == []
    assert sum(shares[0].values()) == 12
    assert max(shares[0].values()) - min(shares[0][f"h{number}"] for number in range(3)) <= (0 if at_once else 2)


def test_p6_a_recording_whose_daemon_dies_before_it_begins_it_is_begun_by_another_within_the_limit(
    tmp_path: Path,
) -> None:
    async def script(fleet: Fleet) -> None:
        await trio.sleep(START_SECONDS)
        fleet.writers("h0").append(3 * PART // 2, name_for(fleet, "h1"))
        written = trio.current_time()
        await trio.sleep(1)
        assert not begun(fleet), "the host that sees it at once did not leave it to the other one"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fleet.crash, "h1", 100.0)
            await trio.sleep(wait_seconds(RESCAN_SECONDS))
            [(at, host)] = begun(fleet)
            assert host == "h0"
            assert at - written <= wait_seconds(RESCAN_SECONDS)
            assert at - written > wait_seconds(RESCAN_SECONDS) - 1

    assert run(tmp_path, 2, script).violations == []


def test_a_recording_is_left_to_a_daemon_that_was_stopped_no_longer_than_its_last_report_takes(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> None:
        await trio.sleep(START_SECONDS)
        name = name_for(fleet, "h1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fleet.restart, "h1", 100.0)
            await trio.sleep(1)
            fleet.writers("h0").append(3 * PART // 2, name)
            written = trio.current_time()
            await trio.sleep(5)
            [(at, host)] = begun(fleet)
            assert host == "h0"
            assert at - written < 5

    assert run(tmp_path, 2, script).violations == []


def test_a_daemon_without_another_one_neither_waits_nor_asks_for_any(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> None:
        fleet.daemon("h1").wanted.value = False
        fleet.daemon("h1").stop()
        await trio.sleep(30)
        calls: Counter[str] = Counter()

        async def count(operation: str, moment: Moment) -> None:
            if moment is Moment.BEFORE:
                calls[operation] += 1

        world = fleet.contexts["site"].world
        world.store.fault = count
        fleet.writers("h0").append(3 * PART // 2, "a.mp4")
        written = trio.current_time()
        await trio.sleep(60)
        world.store.fault = None
        [(at, host)] = begun(fleet)
        assert host == "h0"
        assert at - written < 0.5
        assert not calls["reports"]

    assert run(tmp_path, 2, script).violations == []


def test_two_daemons_that_leave_a_file_to_each_other_begin_it_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def others(_self: StreamSupervisor, paths: list[str]) -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        waiting = [path for path in paths if not _self.files.is_begun_here(path)]
        return dict.fromkeys(waiting, "the other one")

    monkeypatch.setattr(StreamSupervisor, "_others_files", others)

    async def script(fleet: Fleet) -> None:
        await trio.sleep(START_SECONDS)
        fleet.writers("h0").append(3 * PART // 2, "a.mp4")
        written = trio.current_time()
        await trio.sleep(wait_seconds(RESCAN_SECONDS) + 1)
        [(at, _)] = begun(fleet)
        assert at - written <= wait_seconds(RESCAN_SECONDS) + 0.1

    assert run(tmp_path, 2, script).violations == []


def test_p6_a_host_that_cannot_reach_s3_leaves_new_recordings_to_the_others(tmp_path: Path) -> None:
    """Also in the first seconds of its outage, of which its reports do not tell yet."""

    async def script(fleet: Fleet) -> None:
        await trio.sleep(START_SECONDS)
        writers = fleet.writers("h1")
        open_here, *new = names_for(fleet, "h1", 5)
        writers.append(PART + 10, open_here)
        await trio.sleep(START_SECONDS)
        assert [host for _, host in begun(fleet)] == ["h1"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(fleet.cut, "h1", 100.0, redis=False))
            await trio.sleep(1)
            writers.append(PART, open_here)
            process = fleet.daemon("h1").daemon
            assert process is not None
            await process.services.s3_breaker.up.wait_value(False)
            for name in new:
                writers.append(PART + 10, name)
            await trio.sleep(RESCAN_SECONDS + START_SECONDS)
            assert [host for _, host in begun(fleet)] == ["h1", *["h0"] * len(new)]
        await trio.sleep(2 * RESCAN_SECONDS)

    assert run(tmp_path, 2, script).violations == []


@pytest.mark.parametrize("over", ["nothing", "a recording that is in S3"])
def test_p2_a_renamed_recording_is_left_to_the_daemon_that_has_it_open_for_as_long_as_its_outage_takes(
    tmp_path: Path, over: str
) -> None:
    """Its bytes prove nothing: it has no part yet (world 102148 of the fleets). The others report no risk."""

    async def script(fleet: Fleet) -> None:
        await trio.sleep(START_SECONDS)
        writers = fleet.writers("h0")
        new_name = "renamed.mp4"
        if over != "nothing":
            writers.append(PART + 10, new_name)
            writers.close(new_name)
            await trio.sleep(RESCAN_SECONDS + START_SECONDS)
        earlier = len(begun(fleet))
        name = name_for(fleet, "h1")
        writers.append(PART // 2, name)
        await trio.sleep(RESCAN_SECONDS + START_SECONDS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(fleet.cut, "h1", 180.0, redis=False))
            writers.append(PART, name)
            await trio.sleep(40)  # until its task waits for the end of the outage
            writers.patch(0, b"another beginning", name)
            writers.rename(name, new_name)
            for _ in range(9):
                await trio.sleep(10)
                writers.append(PART, new_name)
                assert not fleet.daemon("h0").risks
        await trio.sleep(2 * RESCAN_SECONDS)
        assert [host for _, host in begun(fleet)][earlier:] == ["h1"]

    assert run(tmp_path, 2, script).violations == []


def test_p2_a_renamed_recording_that_its_bytes_do_not_prove_costs_no_more_than_what_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host that renamed it starts its daemon before the other host has scanned (world 77731 of the fleets)."""

    async def script(fleet: Fleet) -> None:
        await trio.sleep(START_SECONDS)
        name, writers = name_for(fleet, "h1"), fleet.writers("h0")
        writers.append(PART + 10, name)
        await trio.sleep(RESCAN_SECONDS + START_SECONDS)
        assert [host for _, host in begun(fleet)] == ["h1"]
        monkeypatch.setattr(work_division, "divide", lambda paths, loads: dict.fromkeys(paths, next(iter(loads))))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fleet.restart, "h0", 1.0)
            await trio.sleep(0.5)
            writers.patch(0, b"another beginning", name)
            writers.rename(name, "renamed.mp4")
        await trio.sleep(2 * RESCAN_SECONDS)
        assert fleet.contexts["site"].world.received_bytes() <= 2 * PART + 10

    # The number alone does not prove it: the stream ends, and the file gets another one.
    assert run(tmp_path, 2, script, may_end=frozenset({Status.DELETED_LOCALLY})).violations == []


def hold(fleet: Fleet, counts: dict[str, int]) -> list[str]:
    """Write recordings of which each host's daemon is to begin so many; return their names."""
    tokens = {one.daemon.services.lease.token: one.plan.host for one in fleet.daemons if one.daemon is not None}
    left, names = Counter(counts), []
    for name in map("{}.mp4".format, range(1000)):
        host = tokens[ranked(f"/{name}", tokens)[0]]
        if left[host] > 0:
            left[host] -= 1
            names.append(name)
            fleet.writers(host).append(3 * PART // 2, name)
    return names


async def keep_open(fleet: Fleet, host: str, names: list[str], seconds: float) -> None:
    """Have recorders write to these recordings for a while, so that none ends."""
    for _ in range(int(seconds / 5)):
        await trio.sleep(5)
        for name in names:
            fleet.writers(host).append(1, name)


def open_streams(fleet: Fleet) -> Counter[str]:
    """Return how many streams each host's daemon works on."""
    world = fleet.contexts["site"].world
    return Counter({one.plan.host: len(world.leases_of(one.lease)) for one in fleet.daemons if one.lease})


@pytest.mark.parametrize("how", ["crash", "pause"])
def test_p6_the_streams_of_a_dead_daemon_are_divided_among_the_others_in_time(tmp_path: Path, how: str) -> None:
    """The oracle checks that each was taken within LEASE_SECONDS + 5 s."""
    after: list[Counter[str]] = []

    async def script(fleet: Fleet) -> None:
        await trio.sleep(START_SECONDS)
        names = hold(fleet, {"h0": 6, "h1": 6, "h2": 6})
        await keep_open(fleet, "h1", names, RESCAN_SECONDS + 5)
        assert open_streams(fleet) == {"h0": 6, "h1": 6, "h2": 6}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fleet.crash if how == "crash" else fleet.pause, "h0", 60.0)
            await keep_open(fleet, "h1", names, 40)
            after.append(open_streams(fleet))
        await keep_open(fleet, "h1", names, 30)

    ran = run(tmp_path, 3, script)
    assert ran.violations == []
    assert (after[0]["h1"], after[0]["h2"]) == (9, 9)


def test_p6_the_last_daemon_takes_all_streams_in_time_also_while_the_dead_ones_seem_to_live(tmp_path: Path) -> None:
    """Of h1 only the registry tells, and that for a minute: it had no stream."""
    after: list[Counter[str]] = []

    async def script(fleet: Fleet) -> None:
        await trio.sleep(START_SECONDS)
        names = hold(fleet, {"h0": 1})
        await keep_open(fleet, "h2", names, RESCAN_SECONDS + 5)
        names += [f"more-{number}.mp4" for number in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fleet.crash, "h1", 120.0)
            nursery.start_soon(fleet.crash, "h0", 120.0)
            await keep_open(fleet, "h2", names, 40)
            after.append(open_streams(fleet))
            await keep_open(fleet, "h2", names, 60)
            after.append(open_streams(fleet))

    ran = run(tmp_path, 3, script)
    assert ran.violations == []
    assert after[0]["h2"] >= 1
    assert after[1]["h2"] == 4


@pytest.mark.parametrize("seconds", [0.5, 4, 9])
def test_p6_the_streams_of_two_daemons_that_die_after_each_other_are_all_taken_in_time(
    tmp_path: Path, seconds: float
) -> None:
    after: list[Counter[str]] = []

    async def script(fleet: Fleet) -> None:
        await trio.sleep(START_SECONDS)
        names = hold(fleet, {"h0": 4, "h1": 4, "h2": 4})
        await keep_open(fleet, "h2", names, RESCAN_SECONDS + 5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fleet.crash, "h0", 90.0)
            await trio.sleep(seconds)
            nursery.start_soon(fleet.crash, "h1", 90.0)
            await keep_open(fleet, "h2", names, 40)
            after.append(open_streams(fleet))

    assert run(tmp_path, 3, script).violations == []
    assert after[0]["h2"] == 12


def test_p6_the_streams_of_a_daemon_that_is_stopped_are_divided_among_the_others(tmp_path: Path) -> None:
    after: list[Counter[str]] = []

    async def script(fleet: Fleet) -> None:
        await trio.sleep(START_SECONDS)
        names = hold(fleet, {"h0": 6, "h1": 6, "h2": 6})
        await keep_open(fleet, "h1", names, RESCAN_SECONDS + 5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fleet.restart, "h0", 60.0)
            await keep_open(fleet, "h1", names, 15)
            after.append(open_streams(fleet))

    ran = run(tmp_path, 3, script)
    assert ran.violations == []
    assert (after[0]["h1"], after[0]["h2"]) == (9, 9)
