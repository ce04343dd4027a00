"""The context of a scenario: its world, the writers of its recordings, the servers' faults, the current daemon.

The writers run whether or not a daemon does. A daemon finds what was written before its start as existing files.
"""

from __future__ import annotations

from collections import Counter

import trio

from cef_trio.lab.crash_simulation import Acknowledgements, Life
from cef_trio.lab.filesystem import FileSystem
from cef_trio.lab.journal import Lane
from cef_trio.lab.kernel import Host
from cef_trio.lab.world import PART, World, WorldDaemon, is_probe
from cef_trio.lab.writers import Writers
from cef_trio.s3_endpoint import ArmedFault, CallInfo, Fault, Kind


def no_probe(call: CallInfo) -> bool:
    """Select the calls that are not the daemon's probes of S3."""
    return not is_probe(call.key or "")


class ScenarioContext:
    """A world and the daemon that runs in it, if any."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.daemon: WorldDaemon | None = None
        self.writers = Writers(world.kernel, world.folder, world.random, world.journal)
        """The writers in the watch folder."""
        self.all_writers = [self.writers]
        self.hits: Counter[str] = Counter()
        """How often each event took place, by name."""
        self.other_daemons: trio.Nursery | None = None
        """The nursery for daemons on another machine, outside of the daemon under test."""
        self.other_life = Life()
        """The process of that daemon."""
        self.unmounted: dict[str, trio.Event] = {}
        """Unmounted folders, and the event that is set when each is mounted again."""
        self.violations: list[str] = []
        """Violations found by the scenario's script."""
        self._other: WorldDaemon | None = None
        self._armed: list[ArmedFault] = []

    async def start_other(self, host: Host | None = None, *, instance: str = "elsewhere") -> WorldDaemon:
        """Start a daemon on another machine, with the same folder or its own, until :meth:`end_other`."""
        if self.other_daemons is None:
            raise RuntimeError("this context has no nursery for another machine")
        other: WorldDaemon = await self.other_daemons.start(self._run_other, host, instance)
        return other

    async def _run_other(self, host: Host | None, instance: str, *, task_status: trio.TaskStatus[WorldDaemon]) -> None:
        world = self.world
        self.other_life = Life(
            writes_without_lease=self.other_life.writes_without_lease, cut_off=self.other_life.cut_off
        )
        async with (
            world.services(
                self.other_life, instance=instance, acknowledgements=Acknowledgements(), host=host
            ) as services,
            trio.open_nursery() as nursery,
        ):
            self.other_life.on_end = nursery.cancel_scope.cancel
            self._other = other = WorldDaemon(world, services, host)
            await nursery.start(other.run)
            task_status.started(other)

    async def recorded_by_an_earlier_daemon(self, *names: str) -> None:
        """Run a daemon that sends some parts of these recordings, and stop it while they are written."""
        async with self.world.daemon() as daemon:
            self.daemon = daemon
            for name in names:
                self.append(3 * PART + 500, name)
            await trio.sleep(3)
        self.daemon = None

    def writers_of(self, host: Host) -> Writers:
        """Return writers for the folder of another machine."""
        writers = Writers(self.world.kernel, host.folder, self.world.random, self.world.journal)
        self.all_writers.append(writers)
        return writers

    def end_other(self) -> None:
        """Request the shutdown of the daemon on the other machine."""
        if self._other is not None:
            self._other.shutdown.request()

    def arm(self, fault: Fault) -> ArmedFault:
        """Arm a fault of the S3 endpoint."""
        armed = self.world.endpoint.faults.arm(fault)
        self._armed.append(armed)
        return armed

    async def completes(self, name: str = "a.mp4", *, within: float) -> None:
        """Wait until a recording is in S3; record a violation if the daemon ran all the time and did not upload it."""
        daemon, deadline = self.daemon, trio.current_time() + within
        while trio.current_time() < deadline:
            if name not in self.names() or self.writers.content(name) in self.world.recordings():
                return
            if daemon is None or self.daemon is not daemon or not daemon.accepts_events:
                return
            await trio.sleep(1)
        self.violations.append(f"P6: {name} is not in S3 after {within:g} seconds without faults")

    def in_s3_twice(self) -> list[str]:
        """Return a violation if S3 has two recordings of the same bytes (promise P2)."""
        recordings = self.world.recordings()
        twice = len(recordings) - len(set(recordings))
        return [f"P2: {twice} recordings are in S3 twice"] if twice else []

    def refuse(self, operation: str, code: str) -> ArmedFault:
        """Make S3 refuse a call until the fault is disarmed."""
        return self.arm(Fault(Kind.ERROR, operation, times=None, code=code))

    def refuse_parts_over_quota(self) -> ArmedFault:
        """Make a quota refuse every part until the fault is disarmed; the probe's few bytes still find room."""
        return self.arm(Fault(Kind.ERROR, "UploadPart", times=None, code="QuotaExceeded", predicate=no_probe))

    def lose_part(self, number: int) -> None:
        """Remove an acknowledged part from every open upload."""
        self.world.journal.note(Lane.LAB, f"S3 loses part {number}")
        for upload in self.world.endpoint.model._uploads.values():  # noqa: SLF001 - the endpoint has no such operation
            upload.parts.pop(number, None)

    @property
    def file_system(self) -> FileSystem:
        """The watched folder's file system."""
        return self.world.kernel.file_system(self.world.folder)

    @property
    def fault_hits(self) -> int:
        """How often the armed faults of S3 have been applied."""
        return sum(armed.hits for armed in self._armed)

    def counted(self) -> Counter[str]:
        """Return the event counts, including the faults of S3."""
        for armed in self._armed:
            fault = armed.fault
            detail = f" {fault.code}" if fault.kind is Kind.ERROR else f" ({fault.moment})"
            self.hits[f"s3: {fault.kind}{detail}"] += armed.hits
        return self.hits

    def append(self, size_bytes: int, name: str = "a.mp4") -> None:
        """Append random bytes to a file."""
        self.writers.append(size_bytes, name)

    def patch(self, offset: int, data: bytes, name: str = "a.mp4") -> None:
        """Overwrite earlier bytes of a file."""
        self.writers.patch(offset, data, name)

    def truncate(self, size_bytes: int, name: str = "a.mp4") -> None:
        """Truncate a file, or extend it by a hole."""
        self.writers.truncate(size_bytes, name)

    def replace(self, size_bytes: int, name: str = "a.mp4", *, reported: bool = True) -> None:
        """Replace a file by another one; ``reported``: whether inotify reports it."""
        self.world.kernel.queues.drops_events = not reported
        self.writers.replace(size_bytes, name)
        self.world.kernel.queues.drops_events = False

    def rename(self, old: str, new: str) -> None:
        """Rename a file."""
        self.writers.rename(old, new)

    def delete(self, name: str = "a.mp4") -> None:
        """Delete a file."""
        self.writers.delete(name)

    def touch(self, name: str = "a.mp4") -> None:
        """Create an empty file and keep it open."""
        self.writers.create(name)

    def close(self, name: str = "a.mp4") -> None:
        """Close a file."""
        self.writers.close(name)

    def close_all(self) -> None:
        """Close every file of every writer."""
        for writers in self.all_writers:
            for name in writers.names():
                writers.close(name)

    def names(self) -> list[str]:
        """Return the names of the recordings in the watch folder."""
        return self.writers.names()

    def size_of(self, name: str) -> int:
        """Return the size of a recording in bytes."""
        return len(self.writers.content(name))

    @property
    def versions(self) -> dict[bytes, set[int]]:
        """Every content that a recording ever had, and the serial numbers of the files that had it."""
        found: dict[bytes, set[int]] = {}
        for writers in self.all_writers:
            for content, serials in writers.versions.items():
                found.setdefault(content, set()).update(serials)
        return found
