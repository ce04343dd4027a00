"""The kernel of a world: it answers the daemon's own system calls as the world's file systems would.

The daemon's code for files runs as it is: the scan, the walk along a path, the read lease, the deletion. Only the
calls below it (``os.stat``, ``os.open``, ``fcntl``, …) are answered here, inside :meth:`Kernel.answering`, which holds
for one synchronous block at a time. So whatever that code comes to ask of the kernel, it asks this one.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from cef_trio.files import file_system as told
from cef_trio.lab.filesystem import FileSystem, Inode, Inodes, Key, Leases
from cef_trio.lab.inotify import KernelQueues

_F_SETSIG: Final = getattr(fcntl, "F_SETSIG", 10)
_F_SETLEASE: Final = getattr(fcntl, "F_SETLEASE", 1024)
_F_GETLEASE: Final = getattr(fcntl, "F_GETLEASE", 1025)
_FS_IOC_GETFSUUID: Final = 0x80111500
_FS_IOC_GETVERSION: Final = 0x80087601
_WALKS: Final = getattr(os, "O_PATH", 0)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine. Its daemon calls the watched folder ``seen_as``, as daemons on other machines may call theirs."""

    name: str
    folder: Path
    """Where its watched folder really is."""
    seen_as: Path
    machine: str | None = "machine"
    """What its machine's id is hashed to; ``None``: it is not told, as in a container."""

    def real(self, path: Any) -> Any:
        """A path of the daemon's as it really is."""
        seen_as = os.fspath(self.seen_as)
        if isinstance(path, int) or self.folder == self.seen_as:
            return path
        text = os.fspath(path)
        return os.fspath(self.folder) + text[len(seen_as) :] if f"{text}/".startswith(f"{seen_as}/") else path


class Kernel:
    """What knows every file of a world.

    Args:
        base: a folder of this world's own, in which everything lies.
        now_ns: the world's time of day.
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

    # -- what the laboratory does -------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """The world's time of day."""
        return self._now_ns()

    def make_folder(self, path: Path, file_system: FileSystem | None = None) -> None:
        """Make a folder; with a file system, mount that on it."""
        path.mkdir(parents=True, exist_ok=True)
        if file_system is not None:
            self._mounts[os.fspath(path)] = file_system
        self.inodes.make(_key(os.stat(path)), self.file_system(path), self._now_ns())  # noqa: PTH116
        self.queues.folder_came(path)

    def make_file(self, path: Path) -> Inode:
        """Make an empty file."""
        path.touch()
        key = _key(os.lstat(path))
        inode = self.inodes.make(key, self.file_system(path), self._now_ns())
        # A second name keeps the real inode from being another file's: what is reused is for the world to say.
        os.link(path, self._kept / str(inode.serial))
        return inode

    def inode(self, path: Path) -> Inode:
        """The file of that name."""
        return self.inodes.by_key[_key(os.lstat(path))]

    def file_system(self, path: Path) -> FileSystem:
        """The file system on which a path is."""
        for folder in (path, *path.parents):
            found = self._mounts.get(os.fspath(folder))
            if found is not None:
                return found
        return self._mounts[os.fspath(self.base)]

    def file_systems(self) -> list[FileSystem]:
        """Every file system that is mounted somewhere."""
        return list(dict.fromkeys(self._mounts.values()))

    def sweep(self) -> None:
        """Take note of files that have lost their names."""
        for key, inode in self.inodes.by_key.items():
            kept = self._kept / str(inode.serial)
            if not inode.is_gone and kept.exists() and kept.stat().st_nlink == 1 and _key(kept.stat()) == key:
                self.inodes.remove(inode, self._now_ns())

    def renumber(self, file_system: FileSystem) -> None:
        """Every file of it gets another number, as on sshfs or FAT when the kernel forgets them, or mounts it again.

        A folder that is watched keeps its own: the kernel holds it.
        """
        files = [inode for inode in self.inodes.living() if (self._kept / str(inode.serial)).exists()]
        self.inodes.renumber([inode for inode in files if inode.file_system is file_system], self._now_ns())

    def unmount(self, folder: Path, *, leaves: FileSystem | None = None) -> Path:
        """Take what is mounted on a folder away; an empty folder of the file system below it is left there.

        ``leaves``: the file system that is below; by default that of the folder above. Returns what :meth:`remount`
        wants to bring it back.
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
        """Bring back what :meth:`unmount` took away."""
        self.queues.unmounted(folder)
        folder.rmdir()
        away.rename(folder)
        self._mounts[os.fspath(folder)] = self._mounts.pop(os.fspath(away))
        self.queues.folder_came(folder)

    # -- what the daemon asks -----------------------------------------------------------------------------------------

    @contextmanager
    def answering(self, host: Host | None = None) -> Iterator[None]:
        """Answer the system calls of a block, which must not await anything; ``host``: on which machine they are."""
        answers: list[tuple[Any, str, Any]] = [
            (os, "stat", self._stat),
            (os, "lstat", lambda path, *, dir_fd=None: self._stat(path, dir_fd=dir_fd, follow_symlinks=False)),
            (os, "fstat", lambda descriptor: self._told(_fstat(descriptor))),
            (os, "open", self._open),
            (os, "scandir", self._scandir),
            (os, "pread", self._pread),
            (fcntl, "fcntl", self._fcntl),
            (fcntl, "ioctl", self._ioctl),
            (told, "statfs", self._statfs),
            (told, "birth_ns", lambda *_: None),
            (told, "mount_of", self._mount_of),
            (told, "source_of", lambda _: None),
        ]
        before = [(module, name, getattr(module, name)) for module, name, _ in answers]
        for module, name, answer in answers:
            setattr(module, name, answer)
        self._host = host
        try:
            yield
        finally:
            self._host = None
            for module, name, real in before:
                setattr(module, name, real)

    def _told(self, real: os.stat_result) -> os.stat_result:
        inode = self.inodes.by_key.get(_key(real))
        if inode is None:
            return real
        _check_there(inode)
        fields = list(real)
        fields[1], fields[2] = inode.number, inode.file_system.device
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

    def _stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        return self._told(_stat(self._real(path, dir_fd), dir_fd=dir_fd, follow_symlinks=follow_symlinks))

    def _real(self, path: Any, dir_fd: int | None) -> Any:
        """A path, or a name in a folder that is walked through, as it is on the machine that asks."""
        host = self._host
        if host is None:
            return path
        if dir_fd is None:
            return host.real(path)
        if path == host.seen_as.name and _key(_fstat(dir_fd)) == _key(_stat(host.seen_as.parent)):
            return host.folder.name
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
        return _Entries(_scandir(self._real(path, None)), self._told)

    def _pread(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        inode = self.inodes.by_key.get(_key(_fstat(descriptor)))
        if inode is not None:
            _check_there(inode)
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

    def _statfs(self, descriptor: int) -> tuple[told.FileSystem, bytes]:
        inode = self.inodes.by_key.get(_key(_fstat(descriptor)))
        if inode is None:
            return told.UNKNOWN, b""
        return told.named(inode.file_system.name), inode.file_system.fsid

    def _mount_of(self, descriptor: int) -> str | None:
        """On which mount an open file is, as mountinfo has it, on the machine that asks."""
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - what the kernel says, as it says it
        folder = next((folder for folder in (Path(path), *Path(path).parents) if self._is_mount(folder)), self.base)
        host = self._host
        return f"{host.seen_as if host is not None and folder == host.folder else folder} /"

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


class _Entries:
    """What ``os.scandir`` gives, told by the world's kernel."""

    def __init__(self, entries: Any, told: Callable[[os.stat_result], os.stat_result]) -> None:
        self._entries = entries
        self._told = told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._entries.close()

    def __iter__(self) -> Iterator[_Entry]:
        # Sorted: the order of a real folder is no part of a run that can be had again.
        return iter([_Entry(entry, self._told) for entry in sorted(self._entries, key=_name)])

    def close(self) -> None:
        """End it."""
        self._entries.close()


class _Entry:
    def __init__(self, entry: Any, told: Callable[[os.stat_result], os.stat_result]) -> None:
        self._entry = entry
        self._told = told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return self._told(self._entry.stat(follow_symlinks=follow_symlinks))


def _name(entry: Any) -> str:
    name: str = entry.name
    return name


def _key(real: os.stat_result) -> Key:
    return real.st_dev, real.st_ino


def _check_there(inode: Inode) -> None:
    number = inode.file_system.error
    if number is not None:
        raise OSError(number, os.strerror(number))


def _check_open(inode: Inode, flags: int) -> None:
    _check_there(inode)
    if flags & _WALKS:
        return
    number = errno.EACCES if inode.denied else inode.file_system.open_error
    if number is not None:
        raise OSError(number, os.strerror(number))


_stat, _fstat, _open, _scandir, _pread = os.stat, os.fstat, os.open, os.scandir, os.pread
_fcntl, _ioctl = fcntl.fcntl, fcntl.ioctl
