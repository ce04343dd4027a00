"""The simulated kernel of a world: it handles the daemon's system calls for files.

The daemon's own code runs: the scan, the walk along a path, the read lease, the deletion. Within a synchronous block of
:meth:`Kernel.intercepting`, the functions that this code calls (``os.stat``, ``os.open``, ``fcntl``, …) are replaced by
ones that return what the world's file systems would. The files are real, below one temporary folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from cef_trio.files import file_system as file_system_calls
from cef_trio.lab.filesystem import FileSystem, Inode, Inodes, Key, Leases
from cef_trio.lab.inotify import KernelQueues

_F_SETSIG: Final = getattr(fcntl, "F_SETSIG", 10)
_F_SETLEASE: Final = getattr(fcntl, "F_SETLEASE", 1024)
_F_GETLEASE: Final = getattr(fcntl, "F_GETLEASE", 1025)
_FS_IOC_GETFSUUID: Final = 0x80111500
_FS_IOC_GETVERSION: Final = 0x80087601
_PATH_ONLY: Final = getattr(os, "O_PATH", 0)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine. Several machines may have different folders at the same path ``seen_as``."""

    name: str
    folder: Path
    """The real path of its watched folder."""
    seen_as: Path
    """The path of that folder on the machine."""
    machine: str | None = "machine"
    """The hash of its machine-id; ``None``: unknown, as in a container."""
    watched: str = ""
    """The folder below ``seen_as`` that a daemon watches; empty: all of it."""
    clock_seconds: float = 0.0
    """How far its clock is ahead."""
    boot: str = ""
    """The id of its running system; empty: its name."""

    @property
    def system(self) -> str:
        """What identifies its running system, as the boot id does."""
        return self.boot or self.name

    @property
    def watch_folder(self) -> Path:
        """The path of the watched folder on the machine."""
        return self.seen_as / self.watched

    def real(self, path: Any) -> Any:
        """Return the real path of a path on this machine."""
        seen_as = os.fspath(self.seen_as)
        if isinstance(path, int) or self.folder == self.seen_as:
            return path
        text = os.fspath(path)
        return os.fspath(self.folder) + text[len(seen_as) :] if f"{text}/".startswith(f"{seen_as}/") else path


class Kernel:
    """All files of a world.

    Args:
        base: an empty folder for the world's files.
        now_ns: returns the time of day in the world, nanoseconds.
    """

    def __init__(self, base: Path, now_ns: Callable[[], int]) -> None:
        self.base = base
        self.inodes = Inodes()
        self.queues = KernelQueues()
        self._now_ns = now_ns
        self._kept = base / "kept"
        self._kept.mkdir()
        self._host: Host | None = None
        self._mounts: dict[str, FileSystem] = {os.fspath(base): FileSystem("tmpfs", device=1)}
        self._away = 0

    # -- operations of the laboratory ---------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Return the time of day in the world, nanoseconds."""
        return self._now_ns()

    def make_folder(self, path: Path, file_system: FileSystem | None = None) -> None:
        """Create a folder, and mount the file system on it if there is one."""
        path.mkdir(parents=True, exist_ok=True)
        if file_system is not None:
            self._mounts[os.fspath(path)] = file_system
        self.inodes.make(_key(os.stat(path)), self.file_system(path), self._now_ns())  # noqa: PTH116
        self.queues.folder_created(path)

    def make_file(self, path: Path) -> Inode:
        """Create an empty file."""
        path.touch()
        key = _key(os.lstat(path))
        inode = self.inodes.make(key, self.file_system(path), self._now_ns())
        # A hard link keeps the real inode from being reused; the world decides which numbers are.
        os.link(path, self._kept / str(inode.serial))
        return inode

    def inode(self, path: Path) -> Inode:
        """Return the inode of a path."""
        return self.inodes.by_key[_key(os.lstat(path))]

    def file_system(self, path: Path) -> FileSystem:
        """Return the file system of a path."""
        for folder in (path, *path.parents):
            found = self._mounts.get(os.fspath(folder))
            if found is not None:
                return found
        return self._mounts[os.fspath(self.base)]

    def file_systems(self) -> list[FileSystem]:
        """Return all mounted file systems."""
        return list(dict.fromkeys(self._mounts.values()))

    def sweep(self) -> None:
        """Remove the inodes of files that have no name any more."""
        for key, inode in self.inodes.by_key.items():
            kept = self._kept / str(inode.serial)
            if not inode.is_gone and kept.exists() and kept.stat().st_nlink == 1 and _key(kept.stat()) == key:
                self.inodes.remove(inode, self._now_ns())

    def renumber(self, file_system: FileSystem) -> None:
        """Give every file new inode numbers, as sshfs and FAT do when the kernel drops its inodes or mounts it again.

        Folders keep theirs, since a watch holds their inode.
        """
        files = [inode for inode in self.inodes.living() if (self._kept / str(inode.serial)).exists()]
        self.inodes.renumber([inode for inode in files if inode.file_system is file_system], self._now_ns())

    def unmount(self, folder: Path, *, leaves: FileSystem | None = None) -> Path:
        """Unmount a folder; an empty folder of the file system below it appears.

        ``leaves``: the file system below; by default that of the parent folder. Returns the argument ``away`` for
        :meth:`remount`.
        """
        self._away += 1
        away = self.base / f"away-{self._away}"
        self.queues.unmounted(folder)
        folder.rename(away)
        below = leaves or self.file_system(folder.parent)
        self._mounts[os.fspath(away)] = self._mounts.get(os.fspath(folder), below)
        self.make_folder(folder, below)
        return away

    def remount(self, folder: Path, away: Path) -> None:
        """Mount again what :meth:`unmount` unmounted."""
        self.queues.unmounted(folder)
        folder.rmdir()
        away.rename(folder)
        self._mounts[os.fspath(folder)] = self._mounts.pop(os.fspath(away))
        self.queues.folder_created(folder)

    # -- system calls of the daemon -----------------------------------------------------------------------------------

    @contextmanager
    def intercepting(self, host: Host | None = None) -> Iterator[None]:
        """Handle the system calls of a block, which must not await; ``host``: the machine that makes them."""
        replacements: list[tuple[Any, str, Any]] = [
            (os, "stat", self._stat),
            (os, "lstat", lambda path, *, dir_fd=None: self._stat(path, dir_fd=dir_fd, follow_symlinks=False)),
            (os, "fstat", lambda descriptor: self._simulated(_fstat(descriptor))),
            (os, "open", self._open),
            (os, "scandir", self._scandir),
            (os, "pread", self._pread),
            (fcntl, "fcntl", self._fcntl),
            (fcntl, "ioctl", self._ioctl),
            (file_system_calls, "statfs", self._statfs),
            (file_system_calls, "birth_ns", lambda *_: None),
            (file_system_calls, "mount_of", self._mount_of),
            (file_system_calls, "source_of", self._source_of),
        ]
        before = [(module, name, getattr(module, name)) for module, name, _ in replacements]
        for module, name, replacement in replacements:
            setattr(module, name, replacement)
        self._host = host
        try:
            yield
        finally:
            self._host = None
            for module, name, real in before:
                setattr(module, name, real)

    def _simulated(self, real: os.stat_result) -> os.stat_result:
        inode = self.inodes.by_key.get(_key(real))
        if inode is None:
            return real
        _check_server(inode)
        _check_inode(inode)
        fields = list(real)
        fields[1], fields[2] = inode.number, inode.file_system.device
        if stat.S_ISREG(real.st_mode):
            fields[3] = max(1, real.st_nlink - 1)  # without the world's own name of the file
        fields[8], fields[9] = inode.mtime_ns // 10**9, inode.ctime_ns // 10**9
        return os.stat_result(
            fields,
            {
                "st_mtime": inode.mtime_ns / 1e9,
                "st_ctime": inode.ctime_ns / 1e9,
                "st_mtime_ns": inode.mtime_ns,
                "st_ctime_ns": inode.ctime_ns,
                "st_blocks": real.st_blocks,
                "st_blksize": real.st_blksize,
            },
        )

    def _number(self, real: os.stat_result) -> int:
        inode = self.inodes.by_key.get(_key(real))
        return real.st_ino if inode is None else inode.number

    def _stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        return self._simulated(_stat(self._real(path, dir_fd), dir_fd=dir_fd, follow_symlinks=follow_symlinks))

    def _real(self, path: Any, dir_fd: int | None) -> Any:
        """Return the real path of a path, or of a name in an open folder, on the calling machine."""
        host = self._host
        if host is None:
            return path
        if dir_fd is None:
            return host.real(path)
        if path == host.seen_as.name and _key(_fstat(dir_fd)) == _key(_stat(host.seen_as.parent)):
            return os.path.relpath(host.folder, host.seen_as.parent)
        return path

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        path = self._real(path, dir_fd)
        inode = None
        with suppress(OSError):
            inode = self.inodes.by_key.get(_key(_stat(path, dir_fd=dir_fd, follow_symlinks=False)))
        if inode is not None:
            _check_open(inode, flags)
        return _open(path, flags, mode, dir_fd=dir_fd)

    def _scandir(self, path: Any) -> Any:
        return _Entries(_scandir(self._real(path, None)), self._simulated, self._number)

    def _pread(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        inode = self.inodes.by_key.get(_key(_fstat(descriptor)))
        if inode is not None:
            _check_server(inode)
            _check_inode(inode)
        return _pread(descriptor, size_bytes, offset)

    def _fcntl(self, descriptor: int, command: int, argument: Any = 0) -> Any:
        inode = self.inodes.by_key.get(_key(_fstat(descriptor)))
        if inode is None or command not in {_F_SETSIG, _F_SETLEASE, _F_GETLEASE}:
            return _fcntl(descriptor, command, argument)
        match inode.file_system.leases:
            case Leases.NEVER:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            case Leases.TRUE if inode.writers and command == _F_SETLEASE:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fcntl.F_RDLCK if command == _F_GETLEASE else 0

    def _statfs(self, descriptor: int) -> tuple[file_system_calls.FileSystem, bytes]:
        inode = self.inodes.by_key.get(_key(_fstat(descriptor)))
        if inode is None:
            return file_system_calls.UNKNOWN, b""
        return file_system_calls.file_system_named(inode.file_system.name), inode.file_system.fsid

    def _mount_of(self, descriptor: int) -> str | None:
        """Return the mount of an open file, in the format of mountinfo, on the calling machine."""
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - the kernel's text, not a Path
        folder = next((folder for folder in (Path(path), *Path(path).parents) if self._is_mount(folder)), self.base)
        host = self._host
        return f"{host.seen_as if host is not None and folder == host.folder else folder} /"

    def _source_of(self, descriptor: int) -> str | None:
        inode = self.inodes.by_key.get(_key(_fstat(descriptor)))
        return inode.file_system.source if inode is not None else None

    def _is_mount(self, folder: Path) -> bool:
        return self.file_system(folder) is not self.file_system(folder.parent)

    def _ioctl(self, descriptor: int, request: int, argument: Any = 0, *more: Any) -> Any:
        inode = self.inodes.by_key.get(_key(_fstat(descriptor)))
        if inode is not None and request == _FS_IOC_GETFSUUID:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        if inode is None or request != _FS_IOC_GETVERSION:
            return _ioctl(descriptor, request, argument, *more)
        if not inode.file_system.generations:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        argument[:4] = inode.generation.to_bytes(4, "little")
        return 0


Simulate = Callable[[os.stat_result], os.stat_result]


class _Entries:
    """The iterator that ``os.scandir`` returns, with simulated stat results."""

    def __init__(self, entries: Any, simulated: Simulate, number: Callable[[os.stat_result], int]) -> None:
        self._entries = entries
        self._simulated = simulated
        self._number = number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._entries.close()

    def __iter__(self) -> Iterator[_Entry]:
        # Sorted, since the order of a real folder is not reproducible.
        return iter([_Entry(entry, self._simulated, self._number) for entry in sorted(self._entries, key=_name)])

    def close(self) -> None:
        """Close the real iterator."""
        self._entries.close()


class _Entry:
    def __init__(self, entry: Any, simulated: Simulate, number: Callable[[os.stat_result], int]) -> None:
        self._entry = entry
        self._simulated = simulated
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return self._simulated(self._entry.stat(follow_symlinks=follow_symlinks))

    def inode(self) -> int:
        """Return the number that the folder has: that of a damaged inode can be read too."""
        return self._number(self._entry.stat(follow_symlinks=False))


def _name(entry: Any) -> str:
    name: str = entry.name
    return name


def _key(real: os.stat_result) -> Key:
    return real.st_dev, real.st_ino


def _check_server(inode: Inode) -> None:
    number = inode.file_system.error
    if number is not None:
        raise OSError(number, os.strerror(number))


def _check_inode(inode: Inode) -> None:
    if inode.damaged:
        raise OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN))


def _check_open(inode: Inode, flags: int) -> None:
    _check_server(inode)
    _check_inode(inode)
    if flags & _PATH_ONLY:
        return
    number = errno.EACCES if inode.denied else inode.file_system.open_error
    if number is not None:
        raise OSError(number, os.strerror(number))


_stat, _fstat, _open, _scandir, _pread = os.stat, os.fstat, os.open, os.scandir, os.pread
_fcntl, _ioctl = fcntl.fcntl, fcntl.ioctl
