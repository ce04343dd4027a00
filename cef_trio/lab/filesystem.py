"""The file systems of a world: what they keep of a file, and what they can tell of it.

The bytes and names of a world's files are real, in a temporary folder. All that differs between file systems outside is
told by this module instead: device and inode numbers, generations, the grain and the clock of time stamps, whether a
read lease means that nobody writes, whether inotify hears of writes, whether the mount is there at all. ``kernel.py``
answers the daemon's own system calls by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

_LAG_NS: Final = 1_234_567


class Numbers(Enum):
    """What becomes of an inode's number."""

    UNIQUE = "unique"
    """No file ever has another's."""
    REUSED = "reused"
    """A deleted file's number is the next file's, as on ext4."""


class Leases(Enum):
    """What asking for a read lease tells."""

    TRUE = "true"
    """It is refused while somebody has the file open for writing."""
    ALWAYS = "always"
    """It is granted whoever writes: a FUSE mount whose writers are on its other side."""
    NEVER = "never"
    """There are none here, or the file is another user's."""


@dataclass(eq=False, slots=True)
class FileSystem:
    """One file system, and where it is mounted."""

    name: str = "ext4"
    """Its type, as ``statfs`` and mountinfo have it."""
    device: int = 64
    fsid: bytes = b""
    """Its own name for itself, as ``statfs`` has it; empty: it tells none."""
    numbers: Numbers = Numbers.UNIQUE
    generations: bool = True
    leases: Leases = Leases.TRUE
    granularity_ns: int = 1
    """The grain of its time stamps: 1 s on ext3 and HFS+, 2 s on FAT."""
    skew_ns: int = 0
    """How far its clock is ahead of the daemon's; negative: behind."""
    reports_events: bool = True
    """Whether inotify hears what is done to its files; not so where other hosts do it."""
    error: int | None = None
    """The ``errno`` of every call, while its server is gone."""
    open_error: int | None = None
    """The ``errno`` of every opening of a file, while looks at it succeed: no descriptor is to be had."""

    def stamp(self, now_ns: int) -> int:
        """The time stamp of what is done now, by a clock that lags like a kernel's.

        Stories begin at a whole second; stamps of whole seconds would all be taken for coarse ones.
        """
        return (now_ns - _LAG_NS + self.skew_ns) // self.granularity_ns * self.granularity_ns


@dataclass(eq=False, slots=True)
class Inode:
    """A file or folder, as its file system has it."""

    serial: int
    """Which one it is: never reused, and known to nobody but the laboratory."""
    file_system: FileSystem
    number: int
    generation: int
    mtime_ns: int
    ctime_ns: int
    since_ns: int = 0
    """Since when it bears its number."""
    writers: int = 0
    """How many have it open for writing."""
    written_at: float = 0.0
    """When a byte of it last changed, by the virtual clock."""
    denied: bool = False
    """Whether the daemon may not read it."""
    is_gone: bool = False


Key = tuple[int, int]
"""Device and inode of the temporary folder's real file system."""


@dataclass(slots=True)
class Inodes:
    """Every file there is or was, by its real inode, which nothing reuses while a world lasts."""

    by_key: dict[Key, Inode] = field(default_factory=dict)
    past_numbers: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(number, serial, from, until) of numbers that were given up."""
    _free: dict[FileSystem, list[int]] = field(default_factory=dict)
    _made: int = 0

    def make(self, key: Key, file_system: FileSystem, now_ns: int) -> Inode:
        """A file is made."""
        self._made += 1
        free = self._free.get(file_system)
        number = free.pop(0) if free else 1000 + self._made
        stamp = file_system.stamp(now_ns)
        made = Inode(self._made, file_system, number, self._made, stamp, stamp, since_ns=now_ns)
        self.by_key[key] = made
        return made

    def remove(self, inode: Inode, now_ns: int) -> None:
        """Its last name is gone."""
        if inode.is_gone:
            return
        inode.is_gone = True
        self._give_up(inode, now_ns)
        if inode.file_system.numbers is Numbers.REUSED:
            self._free.setdefault(inode.file_system, []).append(inode.number)

    def renumber(self, inodes: Iterable[Inode], now_ns: int) -> None:
        """These get other numbers."""
        for inode in inodes:
            self._give_up(inode, now_ns)
            inode.number += 10_000
            inode.since_ns = now_ns

    def living(self) -> Iterator[Inode]:
        """The files that are there."""
        return (inode for inode in self.by_key.values() if not inode.is_gone)

    def serials_with(self, number: int) -> set[int]:
        """The serials of the files that bear, or bore, a number."""
        return {serial for was, serial, _, _ in self.past_numbers if was == number} | {
            inode.serial for inode in self.living() if inode.number == number
        }

    def serial_at(self, number: int, when_ns: int) -> int | None:
        """Which file bore a number at that time."""
        for inode in self.living():
            if inode.number == number and inode.since_ns <= when_ns:
                return inode.serial
        return next(
            (serial for was, serial, since, until in self.past_numbers if was == number and since <= when_ns < until),
            None,
        )

    def _give_up(self, inode: Inode, now_ns: int) -> None:
        self.past_numbers.append((inode.number, inode.serial, inode.since_ns, now_ns))
