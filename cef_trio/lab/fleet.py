"""A fleet: several daemons at once, on several hosts, that share one Redis server and one bucket.

Each *owner* (``OWNER_NAME``) is a world of its own (:class:`~cef_trio.lab.world.World`): a disk, a namespace in Redis
and a prefix in S3. All hosts have the same path, and their disks have the same device and inode numbers. An owner of
several hosts has a shared folder, a network file system of which inotify reports only the writes of its own host.

A fault concerns a host (its links to Redis and S3, a stopped process, a crash) or one daemon. Beyond the invariants of
``invariants.py``, a fleet checks at the transport that no daemon names a key outside of its owner's prefix (P9) and
that none sends a recorded part again while it holds the stream's lease (P2), and that another daemon of the owner takes
a dead one's streams over in time (P6).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from math import inf
from pathlib import Path
from random import Random
from typing import Final

import structlog
import trio
from trio_util import AsyncBool

from cef_trio.checkpoint.model import Checkpoint
from cef_trio.checkpoint.states import ENDED
from cef_trio.lab.crash_simulation import Acknowledgements, Life
from cef_trio.lab.faults import CRASH_MOMENTS, Injection
from cef_trio.lab.filesystem import FileSystem, Leases
from cef_trio.lab.injector import Injected, Injector, run_daemon_task
from cef_trio.lab.journal import Lane
from cef_trio.lab.kernel import Host
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scheduler import derived
from cef_trio.lab.world import Cloud, Owner, World, WorldDaemon, make_endpoint
from cef_trio.lab.writers import Writers
from cef_trio.observability.at_risk import Risk
from cef_trio.resilience import RetryPolicy
from cef_trio.s3_endpoint import ArmedFault, Fault
from cef_trio.upload.services import Services

LEASE_SECONDS: Final = 30.0
"""``LEASE_SECONDS`` of the daemons."""
TAKEOVER_SECONDS: Final = LEASE_SECONDS + 5.0
"""Within this time another daemon takes over the streams of a dead one."""
_RESTART_SECONDS: Final = 2.0
"""How long the service manager waits until it starts a daemon again."""


@dataclass(frozen=True, slots=True)
class DaemonPlan:
    """One daemon of a fleet."""

    host: str
    owner: str
    """Its ``OWNER_NAME``; several hosts with one owner share the watch folder."""
    watched: str = ""
    """The folder below the owner's that it watches; empty: all of it."""
    clock_seconds: float = 0.0
    """How far the clock of its host is ahead."""

    @property
    def name(self) -> str:
        """Its name in the journal and in violations."""
        return f"{self.host}/{self.watched}" if self.watched else self.host


FleetScript = Callable[["Fleet"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """The daemons of a fleet, and what happens to them and to their files; all daemons are started at its begin."""

    daemons: tuple[DaemonPlan, ...]
    script: FleetScript
    webhook: bool = False
    """Whether the daemons have a webhook."""

    def hosts_of(self, owner: str) -> tuple[str, ...]:
        """Return the hosts of an owner; several ones share its folder."""
        return tuple(dict.fromkeys(one.host for one in self.daemons if one.owner == owner))


@dataclass(eq=False, slots=True)
class FleetHost:
    """The state of a host."""

    name: str
    redis_down: AsyncBool
    s3_down: AsyncBool
    stopped: AsyncBool
    """While true, its processes are stopped (SIGSTOP): they call nothing."""
    boot: int = 1
    """The number of its current boot."""

    @property
    def is_impaired(self) -> bool:
        """Whether its daemons cannot reach Redis or S3."""
        return self.loses_leases or bool(self.s3_down.value)

    @property
    def loses_leases(self) -> bool:
        """Whether its daemons cannot renew their leases; without S3 alone they keep them."""
        return bool(self.redis_down.value or self.stopped.value)


@dataclass(frozen=True, slots=True)
class EndedProcess:
    """A process of a daemon that has ended."""

    daemon: FleetDaemon
    services: Services
    life: Life
    injector: Injector
    acknowledgements: Acknowledgements
    before: Collection[Checkpoint]
    """The streams of its owner at its start."""
    was_impaired: bool
    """Whether it was ever stopped or cut off."""


class FleetDaemon:
    """One daemon's consecutive processes. While :attr:`wanted`, a process that ends is started again."""

    def __init__(self, fleet: Fleet, plan: DaemonPlan, host: FleetHost) -> None:
        self.plan = plan
        self.host = host
        self.context = fleet.contexts[plan.owner]
        self.wanted = AsyncBool(True)
        self.life = Life()
        self.daemon: WorldDaemon | None = None
        """The running process; ``None``: none is."""
        self.processes = 0
        """How many processes it has had."""
        self.healthy_since: float | None = None
        """Since when its process has been running without a fault of its host."""
        self.recovered_at = -inf
        """When it was last started, or a fault of its host ended."""
        self.was_impaired = False
        """Whether its process was ever stopped or cut off."""
        self.clone_of: str | None = None
        """The owner whose name its machine has, as it was cloned; ``None``: its own."""
        self._fleet = fleet

    @property
    def lease(self) -> str:
        """The value of its leases; empty: it is not running."""
        return self.daemon.services.lease.value if self.daemon is not None else ""

    @property
    def accepts_events(self) -> bool:
        """Whether its process has started, and no shutdown was requested."""
        return self.daemon is not None and self.daemon.accepts_events

    @property
    def risks(self) -> tuple[Risk, ...]:
        """The risks that it reports (P10)."""
        return self.daemon.at_risk if self.daemon is not None else ()

    async def run(self) -> None:
        """Run one process after the other, until cancelled."""
        structlog.contextvars.bind_contextvars(at=self.plan.name)
        while True:
            await self.wanted.wait_value(True)
            await self._run_process()
            await trio.sleep(_RESTART_SECONDS)

    async def _run_process(self) -> None:
        fleet, plan = self._fleet, self.plan
        world = fleet.contexts[self.clone_of or plan.owner].world
        self.processes += 1
        injections = fleet.injections_for(self)
        crash = next((injection for injection in injections if injection.fault in CRASH_MOMENTS), None)
        life = self.life = Life(
            (crash.at, CRASH_MOMENTS[crash.fault]) if crash is not None else None,
            cut_off=self.host.stopped,
            redis_down=self.host.redis_down,
            s3_down=self.host.s3_down,
            has_links=True,
            on_lease=lambda stream_id: fleet.leased(self, stream_id),
            on_part=lambda key, number: fleet.on_part(self, key, number),
        )
        machine, boot = f"machine of {plan.host}", f"boot {self.host.boot} of {plan.host}"
        host = Host(plan.host, world.folder, world.host.seen_as, machine, plan.watched, plan.clock_seconds, boot)
        before, acknowledgements = world.known(), Acknowledgements()
        self.was_impaired = self.host.is_impaired
        async with world.services(life, instance=plan.host, acknowledgements=acknowledgements, host=host) as services:
            daemon = self.daemon = WorldDaemon(world, services, host)
            steps = [injection for injection in injections if injection is not crash]
            injector = Injector(daemon, life, steps, fleet.injected)

            def crashed() -> None:
                fleet.lost(self)
                if crash is not None:
                    injector.crashed(crash)
                else:
                    injector.cancel_tasks()

            life.on_end = crashed
            self.recovered()
            trio.lowlevel.add_instrument(injector)
            try:
                await run_daemon_task(daemon, injector)
            finally:
                trio.lowlevel.remove_instrument(injector)
                self.daemon, self.healthy_since = None, None
        fleet.on_exit(EndedProcess(self, services, life, injector, acknowledgements, before, self.was_impaired))

    def recovered(self) -> None:
        """Note that it was started, or that a fault of its host ended."""
        if self.daemon is not None and not self.host.is_impaired:
            self.healthy_since = self.recovered_at = trio.current_time()

    def kill(self) -> None:
        """Crash the process, if one is running."""
        if self.daemon is not None:
            self._fleet.note(f"{self.plan.name} is killed")
            self.life.end()

    def stop(self) -> None:
        """Request the shutdown of the process, if one is running."""
        if self.daemon is not None and self.daemon.shutdown.signals == 0:
            self._fleet.note(f"{self.plan.name} is stopped")
            self.daemon.shutdown.request()


class Fleet:
    """The running fleet.

    Args:
        plan: its daemons and its script.
        folder: an empty folder.
        seed: of its worlds.
        policy: the retries of its daemons.
        injections: faults of the first daemon.
    """

    def __init__(
        self, plan: FleetPlan, folder: Path, seed: int, policy: RetryPolicy, injections: Collection[Injection] = ()
    ) -> None:
        self.plan = plan
        self.cloud = Cloud(make_endpoint(Random(derived(seed, "S3")), seed))  # noqa: S311 - to be repeated, not secret
        self.contexts: dict[str, ScenarioContext] = {}
        """The world and the writers of each owner."""
        for number, owner in enumerate(dict.fromkeys(one.owner for one in plan.daemons)):
            (folder / owner).mkdir()
            world = World(
                folder / owner / "watch",
                seed=seed + number,
                policy=policy,
                base=folder / owner,
                file_system=self._file_system(owner),
                owner=Owner(owner, self.cloud, folder / "watch", is_derived=len(plan.hosts_of(owner)) == 1),
            )
            world.webhook = plan.webhook
            context = self.contexts[owner] = ScenarioContext(world)
            first, *others = plan.hosts_of(owner)
            context.writers.host = first
            for host in others:
                context.writers_of(world.host).host = host
        self.hosts = {
            name: FleetHost(name, AsyncBool(False), AsyncBool(False), AsyncBool(False))
            for name in dict.fromkeys(one.host for one in plan.daemons)
        }
        self.daemons = [FleetDaemon(self, one, self.hosts[one.host]) for one in plan.daemons]
        self.hits: Counter[str] = Counter()
        self.violations: list[str] = []
        self.injected: list[Injected] = []
        self.takeovers: list[float] = []
        """How long after the loss of its daemon each stream was taken over, in seconds."""
        self.on_exit: Callable[[EndedProcess], None] = lambda _: None
        """Called at the end of each process."""
        self.on_part: Callable[[FleetDaemon, str, int], None] = lambda _daemon, _key, _number: None
        """Called before a daemon sends a part, with the key and the number of the part."""
        self.nursery: trio.Nursery | None = None
        """For what the script starts; set while the fleet runs."""
        self._injections = injections
        self._leased: dict[str, list[tuple[float, FleetDaemon]]] = {}
        """By stream: when which daemon acquired its lease."""

    def _file_system(self, owner: str) -> FileSystem:
        if len(self.plan.hosts_of(owner)) == 1:
            return FileSystem()
        return FileSystem("nfs", device=50, source="nas:/recordings", leases=Leases.NEVER, generations=False)

    def note(self, text: str) -> None:
        """Add an event to the journal."""
        self.cloud.journal.note(Lane.LAB, text)

    def daemon(self, name: str) -> FleetDaemon:
        """Return the daemon of a name (:attr:`DaemonPlan.name`)."""
        return next(one for one in self.daemons if one.plan.name == name)

    def on(self, host: str) -> list[FleetDaemon]:
        """Return the daemons of a host."""
        return [one for one in self.daemons if one.plan.host == host]

    def writers(self, host: str) -> Writers:
        """Return the recorders on a host."""
        (owner,) = {one.plan.owner for one in self.on(host)}
        return next(writers for writers in self.contexts[owner].all_writers if writers.host == host)

    def injections_for(self, daemon: FleetDaemon) -> list[Injection]:
        """Return the injections into the current process of a daemon."""
        if daemon is not self.daemons[0]:
            return []
        return [injection for injection in self._injections if injection.life == daemon.processes]

    def arm(self, fault: Fault) -> ArmedFault:
        """Arm a fault of the S3 endpoint."""
        return next(iter(self.contexts.values())).arm(fault)

    # -- faults -------------------------------------------------------------------------------------------------------

    async def cut(self, host: str, seconds: float, *, redis: bool = True, s3: bool = True) -> None:
        """Cut the links of a host to Redis and S3 for a while."""
        to = " and ".join(name for name, is_cut in (("Redis", redis), ("S3", s3)) if is_cut)
        state = self.hosts[host]
        await self._impair(host, seconds, f"cut off from {to}", *([state.redis_down] * redis), *([state.s3_down] * s3))

    async def pause(self, host: str, seconds: float) -> None:
        """Stop the processes of a host for a while (SIGSTOP, a suspended virtual machine)."""
        await self._impair(host, seconds, "paused", self.hosts[host].stopped)

    def lose_claims(self) -> None:
        """Have Redis lose the claims of all owners' names (an eviction, a failover)."""
        self.hits["fleet: claims lost"] += 1
        self.note("Redis loses all claims")
        self.cloud.claims.clear()

    async def _impair(self, host: str, seconds: float, what: str, *switches: AsyncBool) -> None:
        self.hits[f"fleet: {what}"] += 1
        self.note(f"{host} is {what} for {seconds:.1f} s")
        for switch in switches:
            switch.value = True
        for one in self.on(host):
            self.lost(one)
        await trio.sleep(seconds)
        for switch in switches:
            switch.value = False
        self.note(f"{host} is not {what} any more")
        for one in self.on(host):
            one.recovered()

    async def crash(self, host: str, seconds: float) -> None:
        """Crash a host, which boots again after a while."""
        self.hits["fleet: host crashes"] += 1
        self.note(f"{host} crashes, and boots after {seconds:.1f} s")
        for one in self.on(host):
            one.wanted.value = False
            one.kill()
        self.hosts[host].boot += 1
        await trio.sleep(seconds)
        for one in self.on(host):
            one.wanted.value = True

    async def restart(self, name: str, seconds: float, *, kill: bool = False) -> None:
        """Stop or kill a daemon, and start it again after a while."""
        self.hits["fleet: killed" if kill else "fleet: restarted"] += 1
        daemon = self.daemon(name)
        daemon.wanted.value = False
        if kill:
            daemon.kill()
        else:
            daemon.stop()
        await trio.sleep(seconds)
        daemon.wanted.value = True

    # -- leases -------------------------------------------------------------------------------------------------------

    def leased(self, daemon: FleetDaemon, stream_id: str) -> None:
        """Record that a daemon has acquired a stream's lease."""
        self._leased.setdefault(stream_id, []).append((trio.current_time(), daemon))

    def holders(self, owner: str) -> set[str]:
        """Return the hosts whose daemons hold a lease of a stream of an owner."""
        daemons = [one for one in self.daemons if one.plan.owner == owner]
        return {one.plan.host for one in daemons if one.context.world.leases_of(one.lease)}

    def last_daemon_of(self, stream_id: str) -> str:
        """Return the name of the daemon that last acquired a stream's lease."""
        return self._leased[stream_id][-1][1].plan.name

    def lost(self, daemon: FleetDaemon) -> None:
        """Expect that another daemon of its owner takes a daemon's streams over, as it crashed or has no Redis."""
        daemon.was_impaired, daemon.healthy_since = True, None
        if not daemon.life.ended and not daemon.host.loses_leases:
            return
        held = daemon.context.world.leases_of(daemon.lease)
        if held and self.nursery is not None:
            self.nursery.start_soon(self._expect_takeover, daemon, held)

    async def _expect_takeover(self, lost: FleetDaemon, stream_ids: list[str]) -> None:
        began = trio.current_time()
        world = lost.context.world
        await trio.sleep(TAKEOVER_SECONDS + 0.01)
        others = [
            one
            for one in self.daemons
            if one.context is lost.context and one is not lost and one.plan.watched == lost.plan.watched
        ]
        for stream_id in stream_ids:
            taken = [(at, by) for at, by in self._leased.get(stream_id, []) if at > began]
            if taken:
                at, by = taken[0]
                if by is not lost:
                    self.hits["fleet: takeovers"] += 1
                    self.takeovers.append(at - began)
                continue
            if lost.recovered_at > began:
                continue  # it came back, and may have renewed its lease
            open_ids = {one.meta.stream_id for one in world.known() if one.meta.status not in ENDED}
            if stream_id in open_ids and any(
                one.healthy_since is not None and one.healthy_since <= began for one in others
            ):
                self.violations.append(
                    f"P6: stream {stream_id[:8]} of {lost.plan.name} was not taken over in {TAKEOVER_SECONDS:g} seconds"
                )
