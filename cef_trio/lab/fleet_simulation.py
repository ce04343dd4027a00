"""Random fleets: 2 to 8 daemons on 1 to 4 hosts, whose recordings must each be in S3 exactly once. A seed makes one.

The random numbers are a stream of their own, so the worlds of one daemon (``simulation.py``) are the same with and
without fleets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

import trio

from cef_trio.lab.file_faults import TAKEN_FOR_ANOTHER_FILE
from cef_trio.lab.fleet import DaemonPlan, Fleet, FleetPlan
from cef_trio.lab.scenarios import Scenario
from cef_trio.lab.scheduler import derived
from cef_trio.lab.world import PART
from cef_trio.lab.writers import Writers
from cef_trio.s3_endpoint import Fault, Kind, Moment

FLEET: Final = "fleet"
"""The name of the scenario that a seed makes."""
_SHARE: Final = 0.15
"""Share of the seeds whose world is a fleet."""
_FAULTS: Final = ("cut", "cut", "redis cut", "s3 cut", "pause", "crash", "crash", "kill", "kill", "restart")
KINDS: Final = ("shared", "separate", "folders")
"""How the daemons are related: one folder of several hosts; a folder and a disk for each host; several folders of each
host."""


def is_fleet(seed: int) -> bool:
    """Return whether the random world of a seed is a fleet."""
    return Random(derived(seed, "is fleet")).random() < _SHARE


def fleet_of(seed: int) -> Scenario:
    """Return the fleet of a seed."""
    random = Random(derived(seed, "fleet"))
    kind = random.choice(KINDS)
    daemons = _daemons(kind, random)
    # A network file system has no inode generations.
    may_end = TAKEN_FOR_ANOTHER_FILE if kind == "shared" else frozenset()
    faults = tuple(_FleetFault.of(random, daemons) for _ in range(random.randint(1, 4)))
    return Scenario(
        FLEET,
        "a random fleet",
        may_end=may_end,
        fleet=FleetPlan(daemons, partial(_run, seed=seed, kind=kind, faults=faults), webhook=random.random() < 0.2),
    )


def _daemons(kind: str, random: Random) -> tuple[DaemonPlan, ...]:
    """Return the daemons; with several hosts, their clocks are apart."""
    clocks = (0.0, 0.0, random.uniform(-120, 120), random.choice((-3600.0, 3600.0)))
    match kind:
        case "shared":
            shared = [DaemonPlan(f"h{number}", "site", "", clocks[number]) for number in range(random.randint(2, 4))]
            beside = [DaemonPlan("other", "other")] if random.random() < 0.3 and len(shared) < 4 else []
            return (*shared, *beside)
        case "separate":
            count = random.randint(2, 4)
            return tuple(DaemonPlan(f"h{number}", f"o{number}", "", clocks[number]) for number in range(count))
        case _:
            hosts, folders = random.choice(((1, 2), (1, 4), (2, 2), (2, 4)))
            return tuple(
                DaemonPlan(f"h{host}", f"o{host}", f"d{folder}", clocks[host])
                for host in range(hosts)
                for folder in range(folders)
            )


@dataclass(frozen=True, slots=True)
class _FleetFault:
    """A fault of a host or of a daemon."""

    at: float
    """When it begins, in seconds."""
    kind: str
    """One of :data:`_FAULTS`."""
    daemon: DaemonPlan
    seconds: float
    """How long it lasts: often longer than a lease."""

    @classmethod
    def of(cls, random: Random, daemons: tuple[DaemonPlan, ...]) -> _FleetFault:
        long = random.random() < 0.6
        return cls(
            random.uniform(0, 40),
            random.choice(_FAULTS),
            random.choice(daemons),
            random.uniform(31, 70) if long else random.uniform(0.5, 30),
        )

    async def run(self, fleet: Fleet) -> None:
        """Wait for its time, and inject it; a host has one fault at a time."""
        await trio.sleep(self.at)
        host = self.daemon.host
        if fleet.hosts[host].is_impaired or not all(one.wanted.value for one in fleet.on(host)):
            return
        match self.kind:
            case "cut":
                await fleet.cut(host, self.seconds)
            case "redis cut":
                await fleet.cut(host, self.seconds, s3=False)
            case "s3 cut":
                await fleet.cut(host, self.seconds, redis=False)
            case "pause":
                await fleet.pause(host, self.seconds)
            case "crash":
                await fleet.crash(host, self.seconds)
            case _:
                await fleet.restart(self.daemon.name, self.seconds, kill=self.kind == "kill")


async def _run(fleet: Fleet, *, seed: int, kind: str, faults: tuple[_FleetFault, ...]) -> None:
    fleet.hits[f"fleet: {kind}"] += 1
    random = Random(derived(seed, "fleet's S3"))
    for _ in range(random.randint(0, 3)):
        fleet.arm(_fault_of_s3(random))
    async with trio.open_nursery() as nursery:
        for daemon in fleet.daemons:
            random = Random(derived(seed, "fleet's writer", daemon.plan.name))
            for number in range(random.randint(1, 2)):
                # The same names on every host, but for a shared folder.
                name = f"{daemon.plan.host}-{number}.mp4" if kind == "shared" else f"{number}.mp4"
                path = f"{daemon.plan.watched}/{name}" if daemon.plan.watched else name
                writer = Random(random.getrandbits(32))
                nursery.start_soon(_record, fleet.writers(daemon.plan.host), path, writer, kind != "shared")
        for fault in faults:
            nursery.start_soon(fault.run, fleet)


async def _record(writers: Writers, name: str, random: Random, patches_begin: bool) -> None:
    """Write a recording; it is silent for less than ``STREAM_TIMEOUT_SECONDS``.

    ``patches_begin``: its first bytes may change. On a network file system they identify it, until a part is recorded.
    """
    await trio.sleep(random.uniform(0, 10))
    first = random.randint(1, 2 * PART)
    writers.append(first, name)
    slow = random.random() < 0.5
    written_at = trio.current_time()
    for _ in range(random.randint(2, 10)):
        await trio.sleep(min(random.expovariate(0.15 if slow else 1.0), 12.0))
        action = random.choice(("append", "append", "append", "append", "patch", "rename"))
        silent = trio.current_time() - written_at > 10.0
        written_at = written_at if action == "rename" and not silent else trio.current_time()
        match "append" if silent else action:
            case "patch":
                offset = random.randrange(len(writers.content(name)))
                writers.patch(offset if patches_begin else max(offset, first), random.randbytes(5), name)
            case "rename":
                folder, slash, last = name.rpartition("/")
                writers.rename(name, f"{folder}{slash}r{last}")
                name = f"{folder}{slash}r{last}"
            case _:
                writers.append(random.randint(1, 2 * PART), name)
    await trio.sleep(random.expovariate(1.0))
    if random.random() < 0.8:
        writers.close(name)


def _fault_of_s3(random: Random) -> Fault:
    operation = random.choice(("CreateMultipartUpload", "UploadPart", "UploadPart", "CompleteMultipartUpload"))
    nth = random.randint(1, 12)
    match random.randint(0, 2):
        case 0:
            return Fault(Kind.ERROR, operation, nth=nth, times=2, code="InternalError")
        case 1:
            return Fault(Kind.RESET, operation, Moment.REPLY, nth=nth, times=2)
        case _:
            return Fault(Kind.SLOW, operation, Moment.REPLY, nth=nth, times=10, seconds=random.uniform(0.1, 3.0))
