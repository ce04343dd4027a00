"""What a scenario's script is played on: the recordings' writers, the servers' faults, and the daemon of the moment.

The writers do not care whether the daemon lives. What they do while none is there is seen by the next one, as a file
that is found.
"""

from __future__ import annotations

from collections import Counter

import trio

from cef_trio.lab.crash_simulation import Life, Witness
from cef_trio.lab.filesystem import FileSystem
from cef_trio.lab.journal import Lane
from cef_trio.lab.kernel import Host
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.lab.writers import Writers
from cef_trio.s3_endpoint import Armed, Fault, Kind


class Stage:
    """A world, and the daemon that lives in it at the moment, if one does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.daemon: WorldDaemon | None = None
        self.writers = Writers(world.kernel, world.folder, world.random, world.journal)
        """Who writes in the folder that the daemon watches."""
        self.all_writers = [self.writers]
        self.hits: Counter[str] = Counter()
        """What really happened, and how often."""
        self.elsewhere: trio.Nursery | None = None
        """Where a daemon on another machine can run, of which those that are struck know nothing."""
        self.other_life = Life()
        """That daemon's life."""
        self.away: dict[str, trio.Event] = {}
        """Folders that nobody can write to, since they are not mounted, and who tells when they are."""
        self.complaints: list[str] = []
        """What a script found broken."""
        self._other: WorldDaemon | None = None
        self._armed: list[Armed] = []

    async def start_other(self, host: Host | None = None, *, instance: str = "elsewhere") -> WorldDaemon:
        """Start a daemon on another machine, of the same folder or its own; who starts it tells it to leave."""
        if self.elsewhere is None:
            raise RuntimeError("there is no other machine on this stage")
        other: WorldDaemon = await self.elsewhere.start(self._run_other, host, instance)
        return other

    async def _run_other(self, host: Host | None, instance: str, *, task_status: trio.TaskStatus[WorldDaemon]) -> None:
        world = self.world
        self.other_life = Life(trespasses=self.other_life.trespasses, cut_off=self.other_life.cut_off)
        async with (
            world.services(self.other_life, instance=instance, witness=Witness(), host=host) as services,
            trio.open_nursery() as nursery,
        ):
            self.other_life.on_end = nursery.cancel_scope.cancel
            self._other = other = WorldDaemon(world, services, host)
            await nursery.start(other.run)
            task_status.started(other)

    async def recorded_by_an_earlier_daemon(self, *names: str) -> None:
        """A daemon that had sent some parts of these recordings, and was stopped while they were written."""
        async with self.world.daemon() as daemon:
            self.daemon = daemon
            for name in names:
                self.append(3 * PART + 500, name)
            await trio.sleep(3)
        self.daemon = None

    def writers_of(self, host: Host) -> Writers:
        """Who writes in the folder of another machine."""
        writers = Writers(self.world.kernel, host.folder, self.world.random, self.world.journal)
        self.all_writers.append(writers)
        return writers

    def end_other(self) -> None:
        """Tell the daemon on the other machine to leave."""
        if self._other is not None:
            self._other.shutdown.request()

    def arm(self, fault: Fault) -> Armed:
        """Give S3 a fault."""
        armed = self.world.endpoint.faults.arm(fault)
        self._armed.append(armed)
        return armed

    async def completes(self, name: str = "a.mp4", *, within: float) -> None:
        """Wait until a recording is in S3, and complain if a daemon that was there all the time did not bring it."""
        daemon, deadline = self.daemon, trio.current_time() + within
        while trio.current_time() < deadline:
            if name not in self.names() or self.writers.content(name) in self.world.recordings():
                return
            if daemon is None or self.daemon is not daemon or not daemon.listens:
                return
            await trio.sleep(1)
        self.complaints.append(f"P6: {name} is not in S3 after {within:g} seconds in which nothing was in its way")

    def in_s3_twice(self) -> list[str]:
        """What is broken if recordings of the same bytes are in S3 (promise P2)."""
        recordings = self.world.recordings()
        twice = len(recordings) - len(set(recordings))
        return [f"P2: {twice} recordings are in S3 twice"] if twice else []

    def refuse(self, operation: str, code: str) -> Armed:
        """Have S3 refuse a call until that is disarmed."""
        return self.arm(Fault(Kind.ERROR, operation, times=None, code=code))

    def lose_part(self, number: int) -> None:
        """S3 loses a part that it has acknowledged, of every open upload."""
        self.world.journal.note(Lane.LAB, f"S3 loses part {number}")
        for upload in self.world.endpoint.model._uploads.values():  # noqa: SLF001 - no store loses one on purpose
            upload.parts.pop(number, None)

    @property
    def file_system(self) -> FileSystem:
        """The watched folder's file system."""
        return self.world.kernel.file_system(self.world.folder)

    @property
    def fault_hits(self) -> int:
        """How often S3's faults have struck."""
        return sum(armed.hits for armed in self._armed)

    def counted(self) -> Counter[str]:
        """What really happened, S3's faults with it."""
        for armed in self._armed:
            fault = armed.fault
            said = f" {fault.code}" if fault.kind is Kind.ERROR else f" ({fault.moment})"
            self.hits[f"s3: {fault.kind}{said}"] += armed.hits
        return self.hits

    def append(self, size_bytes: int, name: str = "a.mp4") -> None:
        """The writer appends."""
        self.writers.append(size_bytes, name)

    def patch(self, offset: int, data: bytes, name: str = "a.mp4") -> None:
        """The writer writes over what it wrote before."""
        self.writers.patch(offset, data, name)

    def truncate(self, size_bytes: int, name: str = "a.mp4") -> None:
        """The writer cuts the file off, or makes it longer by a hole."""
        self.writers.truncate(size_bytes, name)

    def replace(self, size_bytes: int, name: str = "a.mp4", *, heard: bool = True) -> None:
        """Another file takes the name; ``heard``: whether there is news of it."""
        self.world.kernel.queues.deaf = not heard
        self.writers.replace(size_bytes, name)
        self.world.kernel.queues.deaf = False

    def rename(self, old: str, new: str) -> None:
        """The file gets another name."""
        self.writers.rename(old, new)

    def delete(self, name: str = "a.mp4") -> None:
        """The file is deleted."""
        self.writers.delete(name)

    def touch(self, name: str = "a.mp4") -> None:
        """An empty file is made, and kept open."""
        self.writers.create(name)

    def close(self, name: str = "a.mp4") -> None:
        """The writer closes the file."""
        self.writers.close(name)

    def close_all(self) -> None:
        """Nothing is being written any more."""
        for writers in self.all_writers:
            for name in writers.names():
                writers.close(name)

    def names(self) -> list[str]:
        """The recordings that are there."""
        return self.writers.names()

    def size_of(self, name: str) -> int:
        """How long a recording is, bytes."""
        return len(self.writers.content(name))

    @property
    def versions(self) -> dict[bytes, set[int]]:
        """Every content that a recording ever had, and the serials of the files that had it."""
        found: dict[bytes, set[int]] = {}
        for writers in self.all_writers:
            for content, serials in writers.versions.items():
                found.setdefault(content, set()).update(serials)
        return found
