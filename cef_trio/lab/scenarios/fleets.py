"""Scenarios of fleets: several daemons at once, on hosts with a disk each, or with a shared folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from cef_trio.checkpoint.states import Status
from cef_trio.lab.fleet import DaemonPlan, Fleet, FleetPlan
from cef_trio.lab.scenarios.model import Scenario
from cef_trio.lab.world import PART
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.upload.work_division import ranked


def _record_on(fleet: Fleet, *hosts: str, name: str = "a.mp4") -> None:
    """Have recorders on these hosts write one and a half parts to a recording of the same name."""
    for host in hosts:
        fleet.writers(host).append(3 * PART // 2, name)


def _name_for(fleet: Fleet, host: str) -> str:
    """Return the name of a recording that the host's daemon is to begin, of the daemons of the shared folder."""
    processes = {one.daemon.services.lease.token: one.plan.host for one in fleet.daemons if one.daemon is not None}
    world = fleet.contexts["site"].world
    names = (f"{number}.mp4" for number in range(1000) if not (world.folder / f"{number}.mp4").exists())
    if host not in processes.values():  # an explorer has ended it
        return next(names)
    return next(name for name in names if processes[ranked(f"/{name}", processes)[0]] == host)


async def _same_path_on_each_host(fleet: Fleet) -> None:
    """Each host records under the same names; one of them crashes and boots again."""
    hosts = list(fleet.hosts)
    for name in ("a.mp4", "b.mp4"):
        _record_on(fleet, *hosts, name=name)
    await trio.sleep(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.crash, hosts[1], 20)
        await trio.sleep(5)
        _record_on(fleet, *hosts)
    await trio.sleep(3)


async def _folders_of_one_host(fleet: Fleet) -> None:
    """The daemons of one host, with one instance id, are killed and restarted in turn."""
    folders = [one.plan.watched for one in fleet.daemons]
    for folder in folders:
        _record_on(fleet, "h0", name=f"{folder}/a.mp4")
    for folder, kill in zip(folders, (True, False), strict=True):
        await trio.sleep(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(fleet.restart, f"h0/{folder}", 3, kill=kill))
            await trio.sleep(1)
            _record_on(fleet, "h0", name=f"{folder}/a.mp4")


async def _taken_over(fleet: Fleet) -> None:
    """The host that uploads from a shared folder crashes; its recorder's host continues to write."""
    _record_on(fleet, "h1")
    await trio.sleep(25)  # until the other hosts have seen it
    (holder,) = fleet.holders("site")
    others = [host for host in fleet.hosts if host != holder]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.crash, holder, 90)
        for _ in range(5):
            await trio.sleep(9)
            _record_on(fleet, others[0])


async def _out_of_reach_while_uploading(fleet: Fleet, interrupt: Callable[[Fleet], Awaitable[None]]) -> None:
    """The host that uploads from a shared folder is interrupted in the middle of a part; its recorder goes on."""
    fleet.arm(Fault(Kind.SLOW, "UploadPart", Moment.REPLY, times=None, seconds=0.4))
    await trio.sleep(3)  # after the first scans, so that only this host sees the new file at once
    name = _name_for(fleet, "h0")
    _record_on(fleet, "h0", name=name)
    await trio.sleep(0.2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interrupt, fleet)
        for _ in range(8):
            await trio.sleep(9)
            _record_on(fleet, "h0", name=name)


async def _cut_off_at_its_put(fleet: Fleet) -> None:
    """A host is cut off while it is to store a small recording; another one stores what has grown by then."""
    await trio.sleep(3)
    growing = [_name_for(fleet, host) for host in fleet.hosts]
    for host, name in zip(fleet.hosts, growing, strict=True):
        _record_on(fleet, host, name=name)
        await trio.sleep(0.5)
    await trio.sleep(18)  # until each host has seen the other's recording
    small = _name_for(fleet, "h0")  # its second one, so that without it each host still has one
    writers = fleet.writers("h0")
    writers.append(PART // 2, small)
    writers.close(small)
    await trio.sleep(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(fleet.cut, "h0", 100, redis=False))
        _record_on(fleet, "h0", name=growing[0])
        await trio.sleep(28)  # the outage has begun, and the small one has been silent for STREAM_TIMEOUT_SECONDS
        nursery.start_soon(partial(fleet.cut, "h0", 90, s3=False))  # S3 is back before it can know of its lost lease
        await trio.sleep(0.1)
        writers.append(PART // 4, small)
        writers.close(small)
    await trio.sleep(5)


async def _cut_off(fleet: Fleet, *, s3: bool = True) -> None:
    """The host loses its links for longer than a lease."""
    await fleet.cut("h0", 50, s3=s3)


async def _paused(fleet: Fleet) -> None:
    """The host is suspended for longer than a lease."""
    await fleet.pause("h0", 50)


async def _renamed_while_paused(fleet: Fleet) -> None:
    """A recording is renamed while the daemon that has its stream is suspended; the others see a file they miss."""
    await trio.sleep(3)
    for host in fleet.hosts:
        _record_on(fleet, host, name=_name_for(fleet, host))
        await trio.sleep(0.5)
    await trio.sleep(18)  # until each host has seen the others' recordings
    name = _name_for(fleet, "h0")  # its second one, so that without it each host still has one
    _record_on(fleet, "h0", name=name)
    await trio.sleep(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.pause, "h0", 22)
        await trio.sleep(1)
        new_name = _name_for(fleet, "h1")
        fleet.writers("h0").rename(name, new_name)
        await trio.sleep(20)
        _record_on(fleet, "h0", name=new_name)
        await trio.sleep(5)
    _record_on(fleet, "h0", name=new_name)
    await trio.sleep(3)


async def _patched_and_renamed_while_cut_off(fleet: Fleet) -> None:
    """A recording is patched and renamed while its daemon is cut off, so the others take it for another recording."""
    await trio.sleep(3)
    name = _name_for(fleet, "h0")
    _record_on(fleet, "h0", name=name)
    await trio.sleep(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.cut, "h0", 64)
        await trio.sleep(0.1)
        fleet.writers("h0").patch(5, b"patched", name)
        fleet.writers("h0").rename(name, _name_for(fleet, "h1"))
    await trio.sleep(25)  # until it has scanned the folder again


_CLOCKS: Final = (0.0, 90.0, -3600.0)
"""How far the clocks of the hosts are ahead, in seconds."""


async def _cloned(fleet: Fleet) -> None:
    """A clone of a machine waits, until it has an identity of its own; both record under the same names.

    Meanwhile Redis loses the claim, which the running machine takes again within half a second: it renews it every ten
    seconds. A clone that is started before that cannot know of it (``docs/correctness.md``).

    The clone is the first daemon, which the explorers interrupt: it may work as soon as the other one has stopped.
    """
    clone = fleet.daemons[0]
    clone.clone_of, clone.wanted.value = "o1", False
    await trio.sleep(1)
    clone.wanted.value = True
    for seconds in (18.5, 20, 20, 20):
        _record_on(fleet, "h0", "h1")
        await trio.sleep(seconds)
        fleet.lose_claims()
    calls = sorted({call for call in clone.life.calls if call not in {"redis claim_owner", "redis read_owner_claim"}})
    fleet.violations += [f"P9: a clone of a running machine made the call {call}" for call in calls]
    fleet.hits["fleet: cloned"] += 1
    clone.clone_of = None
    await fleet.restart(clone.plan.name, 3)
    _record_on(fleet, "h0", "h1")
    await trio.sleep(3)


async def _cut_off_for_long(fleet: Fleet) -> None:
    """A host with a folder of its own is cut off for minutes; it alone reports a risk."""
    _record_on(fleet, "h0", "h1")
    await trio.sleep(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.cut, "h0", 150)
        await trio.sleep(1)
        _record_on(fleet, "h0", "h1")
        await trio.sleep(120)
        cut_off = fleet.daemon("h0")
        if cut_off.processes == 1 and not cut_off.risks:  # one that was started meanwhile is not ready
            fleet.violations.append("P10: a host has been cut off for two minutes, and its daemon reports no risk")
        if fleet.daemon("h1").risks:
            fleet.violations.append("P10: a daemon reports a risk, since another host is cut off")


def _hosts(count: int, *, owner: str = "") -> tuple[DaemonPlan, ...]:
    """Return the daemons of several hosts; ``owner``: of their shared folder; empty: each has a disk of its own."""
    return tuple(DaemonPlan(f"h{number}", owner or f"o{number}", "", _CLOCKS[number]) for number in range(count))


SCENARIOS: Final = (
    Scenario(
        "same-path-on-each-host",
        "three hosts record under the same path and names, with one Redis and one bucket",
        fleet=FleetPlan(_hosts(3), _same_path_on_each_host),
    ),
    Scenario(
        "folders-of-one-host",
        "two daemons of one host, with a folder each, are restarted in turn",
        fleet=FleetPlan((DaemonPlan("h0", "o0", "x"), DaemonPlan("h0", "o0", "y")), _folders_of_one_host, webhook=True),
    ),
    Scenario(
        "cloned-host",
        "a clone of a running machine is started, and later gets an identity of its own",
        fleet=FleetPlan(_hosts(2), _cloned),
    ),
    Scenario(
        "cut-off-for-long",
        "of two hosts with a folder each, one loses Redis and S3 for minutes while it uploads",
        fleet=FleetPlan(_hosts(2), _cut_off_for_long),
    ),
    Scenario(
        "taken-over",
        "of three hosts with a shared folder, the one that uploads crashes",
        fleet=FleetPlan(_hosts(3, owner="site"), _taken_over),
    ),
    Scenario(
        "cut-off-while-uploading",
        "of two hosts with a shared folder, the one that uploads loses Redis and S3 for longer than its lease",
        fleet=FleetPlan(_hosts(2, owner="site"), partial(_out_of_reach_while_uploading, interrupt=_cut_off)),
    ),
    Scenario(
        "cut-off-from-redis",
        "of two hosts with a shared folder, the one that uploads loses Redis for longer than its lease",
        fleet=FleetPlan(
            _hosts(2, owner="site"), partial(_out_of_reach_while_uploading, interrupt=partial(_cut_off, s3=False))
        ),
    ),
    Scenario(
        "cut-off-at-its-put",
        "of two hosts with a shared folder, one is cut off as it stores a small recording, which grows meanwhile",
        fleet=FleetPlan(_hosts(2, owner="site"), _cut_off_at_its_put),
    ),
    Scenario(
        "paused-while-uploading",
        "of two hosts with a shared folder, the one that uploads is suspended for longer than its lease",
        fleet=FleetPlan(_hosts(2, owner="site"), partial(_out_of_reach_while_uploading, interrupt=_paused)),
    ),
    Scenario(
        "renamed-while-paused",
        "of three hosts with a shared folder, the one that uploads is suspended while the recording is renamed",
        fleet=FleetPlan(_hosts(3, owner="site"), _renamed_while_paused),
    ),
    Scenario(
        "patched-and-renamed-while-cut-off",
        "of three hosts with a shared folder, the one that uploads is cut off while its recording changes its name",
        may_end=frozenset({Status.FAILED_FILE_MISSING_ON_RESUME}),
        fleet=FleetPlan(_hosts(3, owner="site"), _patched_and_renamed_while_cut_off),
    ),
)
