"""The properties of simulated file systems, and the inodes of their files.

The bytes and names of a world's files are real, in a temporary folder. What differs between file systems is simulated:
device and inode numbers, generations, the granularity and clock of time stamps, the meaning of a read lease, whether
inotify reports writes, and whether the server of a mount responds. ``kernel.py`` applies it to the daemon's system
calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

_LAG_NS: Final = 1_234_567


class Numbers(Enum):
    """How inode numbers are assigned."""

    UNIQUE = "unique"
    """Every file has a number of its own."""
    REUSED = "reused"
    """The next file gets the number of a deleted one, as on ext4."""


class Leases(Enum):
    """When a read lease (``F_SETLEASE``) is granted."""

    TRUE = "true"
    """If no process has the file open for writing, as on a local disk."""
    ALWAYS = "always"
    """Always, as on a FUSE mount whose writers are on the other side."""
    NEVER = "never"
    """Never, as on a network file system or for a file of another user."""


@dataclass(eq=False, slots=True)
class FileSystem:
    """One file system."""

    name: str = "ext4"
    """Its type in ``statfs`` and mountinfo."""
    device: int = 64
    fsid: bytes = b""
    """``f_fsid`` of ``statfs``; empty: none."""
    source: str | None = None
    """The source of its mount, e.g. ``nas:/recordings``."""
    numbers: Numbers = Numbers.UNIQUE
    generations: bool = True
    leases: Leases = Leases.TRUE
    granularity_ns: int = 1
    """The granularity of its time stamps: 1 s on ext3 and HFS+, 2 s on FAT."""
    skew_ns: int = 0
    """How far its clock is ahead of the daemon's; negative: behind."""
    reports_events: bool = True
    """Whether inotify reports changes; not if other hosts make them."""
    error: int | None = None
    """The ``errno`` of every call, if its server is down."""
    open_error: int | None = None
    """The ``errno`` of opening a file, while ``stat`` succeeds: no descriptors are left."""

    def stamp(self, now_ns: int) -> int:
        """Return the time stamp of a change made now.

        It lags a little, as a kernel's does. The virtual clock starts at a whole second, and time stamps of whole
        seconds would look like coarse granularity.
        """
        return (now_ns - _LAG_NS + self.skew_ns) // self.granularity_ns * self.granularity_ns


@dataclass(eq=False, slots=True)
class Inode:
    """A file or folder."""

    serial: int
    """Its identity: never reused, and not visible to the daemon."""
    file_system: FileSystem
    number: int
    generation: int
    mtime_ns: int
    ctime_ns: int
    since_ns: int = 0
    """When it got its number, nanoseconds."""
    writers: int = 0
    """How many writers have it open."""
    written_at: float = 0.0
    """When its bytes last changed, by the virtual clock."""
    denied: bool = False
    """Whether the daemon may not read it."""
    damaged: bool = False
    """Whether every call on it fails, as with an inode that the file system finds damaged."""
    is_gone: bool = False


Key = tuple[int, int]
"""Device and inode of the temporary folder's real file system."""


@dataclass(slots=True)
class Inodes:
    """Every file that exists or existed, by its real inode, which is not reused during a run."""

    by_key: dict[Key, Inode] = field(default_factory=dict)
    past_numbers: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(number, serial, from, until) of numbers that a file no longer has; times in nanoseconds."""
    _free: dict[FileSystem, list[int]] = field(default_factory=dict)
    _made: int = 0

    def make(self, key: Key, file_system: FileSystem, now_ns: int) -> Inode:
        """Add a new file."""
        self._made += 1
        free = self._free.get(file_system)
        number = free.pop(0) if free else 1000 + self._made
        stamp = file_system.stamp(now_ns)
        made = Inode(self._made, file_system, number, self._made, stamp, stamp, since_ns=now_ns)
        self.by_key[key] = made
        return made

    def remove(self, inode: Inode, now_ns: int) -> None:
        """Remove a file whose last name was deleted."""
        if inode.is_gone:
            return
        inode.is_gone = True
        self._end_number(inode, now_ns)
        if inode.file_system.numbers is Numbers.REUSED:
            self._free.setdefault(inode.file_system, []).append(inode.number)

    def renumber(self, inodes: Iterable[Inode], now_ns: int) -> None:
        """Give files new numbers."""
        for inode in inodes:
            self._end_number(inode, now_ns)
            inode.number += 10_000
            inode.since_ns = now_ns

    def living(self) -> Iterator[Inode]:
        """Return the files that exist."""
        return (inode for inode in self.by_key.values() if not inode.is_gone)

    def serials_with(self, number: int) -> set[int]:
        """Return the serials of all files that have or had a number."""
        return {serial for was, serial, _, _ in self.past_numbers if was == number} | {
            inode.serial for inode in self.living() if inode.number == number
        }

    def serial_at(self, number: int, when_ns: int) -> int | None:
        """Return the serial of the file that had a number at that time."""
        for inode in self.living():
            if inode.number == number and inode.since_ns <= when_ns:
                return inode.serial
        return next(
            (serial for was, serial, since, until in self.past_numbers if was == number and since <= when_ns < until),
            None,
        )

    def _end_number(self, inode: Inode, now_ns: int) -> None:
        self.past_numbers.append((inode.number, inode.serial, inode.since_ns, now_ns))
