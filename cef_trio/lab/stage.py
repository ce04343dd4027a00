"""What a scenario's script is played on: the recordings' writer, and the watcher that tells a daemon of it.

The writer does not care whether the daemon lives. What it does while none is there is seen by the next one, as a file
that is found.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import trio

from cef_trio.lab.journal import Lane
from cef_trio.lab.mortal import Life, Witness
from cef_trio.lab.world import World, WorldDaemon
from cef_trio.local.s3 import Armed, Fault, Kind


class Stage:
    """A world, and the daemon that lives in it at the moment, if one does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.daemon: WorldDaemon | None = None
        self.versions: dict[bytes, set[int]] = {}
        """Every content that a recording ever had, and the inodes of the files that had it."""
        self.hits: Counter[str] = Counter()
        """What really happened, and how often."""
        self.elsewhere: trio.Nursery | None = None
        """Where a daemon on another machine can run, of which those that are struck know nothing."""
        self.other_life = Life()
        """That daemon's life."""
        self._other: WorldDaemon | None = None
        self._armed: list[Armed] = []
        self._kept = 0

    async def start_other(self) -> WorldDaemon:
        """Start a daemon on another machine; who starts it tells it to leave."""
        if self.elsewhere is None:
            raise RuntimeError("there is no other machine on this stage")
        other: WorldDaemon = await self.elsewhere.start(self._run_other)
        return other

    async def _run_other(self, *, task_status: trio.TaskStatus[WorldDaemon]) -> None:
        world = self.world
        async with (
            world.services(self.other_life, instance="elsewhere", witness=Witness()) as services,
            trio.open_nursery() as nursery,
        ):
            self._other = other = WorldDaemon(world, services)
            await nursery.start(other.run)
            task_status.started(other)

    def end_other(self) -> None:
        """Tell the daemon on the other machine to leave."""
        if self._other is not None:
            self._other.shutdown.request()

    def arm(self, fault: Fault) -> Armed:
        """Give S3 a fault."""
        armed = self.world.endpoint.faults.arm(fault)
        self._armed.append(armed)
        return armed

    def counted(self) -> Counter[str]:
        """What really happened, S3's faults with it."""
        for armed in self._armed:
            fault = armed.fault
            said = f" {fault.code}" if fault.kind is Kind.ERROR else f" ({fault.moment})"
            self.hits[f"s3: {fault.kind}{said}"] += armed.hits
        return self.hits

    @property
    def listening(self) -> WorldDaemon | None:
        """The daemon that news can be told to."""
        daemon = self.daemon
        return daemon if daemon is not None and daemon.listens else None

    def append(self, size_bytes: int, name: str = "a.mp4") -> None:
        """The writer appends."""
        self.world.append(size_bytes, name)
        self._noted(name)
        self._saw(name)

    def patch(self, offset: int, data: bytes, name: str = "a.mp4") -> None:
        """The writer writes over what it wrote before."""
        self.world.patch(offset, data, name)
        self._noted(name)
        self._saw(name)

    def truncate(self, size_bytes: int, name: str = "a.mp4") -> None:
        """The writer cuts the file off."""
        self._note(f"truncate {name} to {size_bytes}")
        with Path(self.world.path(name)).open("r+b") as file:
            file.truncate(size_bytes)
        self.world.stat(name)
        self._noted(name)
        self._saw(name)

    def replace(self, size_bytes: int, name: str = "a.mp4", *, heard: bool = True) -> None:
        """Another file takes the name; ``heard``: whether there is news of it."""
        self._note(f"replace {name} by another file of {size_bytes}")
        self._keep_inode(name)
        other = Path(self.world.path("other.tmp"))
        other.write_bytes(self.world.random.randbytes(size_bytes))
        other.rename(self.world.path(name))
        self.world.stat(name)
        self._noted(name)
        if heard:
            self._saw(name)

    def rename(self, old: str, new: str) -> None:
        """The file gets another name."""
        self._note(f"rename {old} to {new}")
        Path(self.world.path(old)).rename(self.world.path(new))
        self._noted(new)
        if self.listening:
            self.listening.moved(old, new)

    def delete(self, name: str = "a.mp4") -> None:
        """The file is deleted."""
        self._note(f"delete {name}")
        self._keep_inode(name)
        Path(self.world.path(name)).unlink()
        if self.listening:
            self.listening.gone(name)

    def touch(self, name: str = "a.mp4") -> None:
        """An empty file is made."""
        self._note(f"create {name}")
        Path(self.world.path(name)).touch()
        self.world.stat(name)
        self._noted(name)
        self._saw(name)

    def close(self, name: str = "a.mp4") -> None:
        """The writer closes the file."""
        self._note(f"close {name}")
        if self.listening:
            self.listening.closed(name)

    def close_all(self) -> None:
        """Nothing is being written any more."""
        for name in self.names():
            if self.listening:
                self.listening.closed(name)

    def names(self) -> list[str]:
        """The recordings that are there."""
        return sorted(entry.name for entry in self.world.folder.iterdir() if entry.suffix == ".mp4")

    def size_of(self, name: str) -> int:
        """How long a recording is, bytes."""
        return Path(self.world.path(name)).stat().st_size

    def _keep_inode(self, name: str) -> None:
        """Keep a file that loses its name: else its inode may be the next file's, or not, as the file system likes."""
        path = Path(self.world.path(name))
        if path.exists():
            self._kept += 1
            Path(self.world.path(f"kept-{self._kept}")).hardlink_to(path)

    def _saw(self, name: str) -> None:
        if self.listening:
            self.listening.saw(name)

    def _note(self, text: str) -> None:
        self.world.journal.note(Lane.FILE, text)

    def _noted(self, name: str) -> None:
        inode = Path(self.world.path(name)).stat().st_ino
        self.versions.setdefault(self.world.content(name), set()).add(inode)
