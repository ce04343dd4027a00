"""What a file system tells of a file, and which of that it really keeps. Asked of the kernel; all of it blocks.

Inode numbers, device numbers, leases and time stamps mean different things on different file systems, and the kernel
answers without saying so: FUSE grants a read lease although the writer is on another host, FAT numbers its inodes anew
at each mount, device numbers are given in the order of mounting. So there is one closed table of the file systems that
are known, and whatever is not in it is trusted with nothing.

Sources: statfs(2), statx(2), ioctl_iflags(2), ``FS_IOC_GETFSUUID`` (Linux 6.9), proc_pid_mountinfo(5), and the file
systems' own code for ``f_fsid``: ext4, btrfs, zfs and tmpfs make it from their UUID, xfs and f2fs from the device
number, which is no better than ``st_dev``.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_SECOND_NS: Final = 1_000_000_000
_FINE_TICK_NS: Final = 20_000_000
"""A kernel stamps with its coarse clock, which ticks 100 to 1000 times a second."""
_COARSE_TICK_NS: Final = 2 * _SECOND_NS + _FINE_TICK_NS
"""FAT's, the coarsest there is; it is rounded from the kernel's clock, which lags by its own tick."""

_FS_IOC_GETVERSION: Final = 0x80087601
_FS_IOC_GETFSUUID: Final = 0x80111500
_AT_EMPTY_PATH: Final = 0x1000
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_STATX_BTIME_OFFSET: Final = 80
_MOUNT_POINT: Final = 4
"""The field of mountinfo."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One kind of file system, and what its answers are worth."""

    name: str
    local: bool = False
    """Whether every writer is a process of this kernel, so that a read lease is evidence that there is none."""
    lasting_inodes: bool = False
    """Whether a file keeps its inode number for as long as it exists, over unmounts and restarts."""
    own_fsid: bool = False
    """Whether ``f_fsid`` belongs to the file system itself, and not to the device number it has today."""
    tick_ns: int = _COARSE_TICK_NS
    """How far apart two changes must be to have different time stamps for certain."""


UNKNOWN: Final = FileSystem("unknown")


def _local(name: str, *, own_fsid: bool = False, tick_ns: int = _FINE_TICK_NS, lasting: bool = True) -> FileSystem:
    return FileSystem(name, local=True, lasting_inodes=lasting, own_fsid=own_fsid, tick_ns=tick_ns)


FILE_SYSTEMS: Final = {
    0xEF53: _local("ext4", own_fsid=True),  # ext2 and ext3 too: their stamps are whole seconds, which tick_ns() sees
    0x58465342: _local("xfs"),
    0x9123683E: _local("btrfs", own_fsid=True),
    0x01021994: _local("tmpfs", own_fsid=True),
    0xF2F52010: _local("f2fs"),
    0x2FC12FC1: _local("zfs", own_fsid=True),
    0xCA451A4E: _local("bcachefs", own_fsid=True),
    0x3153464A: _local("jfs"),
    # Whoever writes through an overlay is counted by its own inode, which is the one that the lease asks; to write to
    # the layers below a mounted overlay is forbidden by the kernel's overlayfs.rst. Its inode numbers may be the upper
    # file system's, or made up, depending on its mount options.
    0x794C7630: _local("overlay", lasting=False),
    # Local disks whose inode numbers are made up at each mount. FAT stamps by two seconds, exFAT by hundredths.
    0x4D44: _local("vfat", lasting=False, tick_ns=_COARSE_TICK_NS),
    0x2011BAB0: _local("exfat", lasting=False, tick_ns=_COARSE_TICK_NS),
    # The writer may be on another host, or on the other side of the mount.
    0x6969: FileSystem("nfs", lasting_inodes=True),
    0x00C36400: FileSystem("ceph", lasting_inodes=True),
    0x65735546: FileSystem("fuse"),  # sshfs, bindfs, rclone, gluster, virtiofs
    0xFF534D42: FileSystem("cifs"),
    0xFE534D42: FileSystem("smb2"),
    0x01021997: FileSystem("9p"),
    0x47504653: FileSystem("gpfs", lasting_inodes=True),
    0x0BD00BD0: FileSystem("lustre", lasting_inodes=True),
    0x01161970: FileSystem("gfs2", lasting_inodes=True),
    0x7461636F: FileSystem("ocfs2", lasting_inodes=True),
}
"""By ``f_type`` of statfs(2). What is not here is :data:`UNKNOWN`."""

_BY_NAME: Final = {system.name: system for system in FILE_SYSTEMS.values()}


def named(name: str | None) -> FileSystem:
    """The file system of that name, as a record keeps it."""
    return _BY_NAME.get(name or "", UNKNOWN)


def tick_ns(system: FileSystem, mtime_ns: int) -> int:
    """How old a time stamp must be before it proves that nothing was written since.

    A stamp of a whole second may come from a file system, or from below it a server, that knows nothing finer.
    """
    return _COARSE_TICK_NS if mtime_ns % _SECOND_NS == 0 else system.tick_ns


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an open file is from: what is told of its inode and its file system. ``None``: it is not told."""

    generation: int | None = None
    """The inode's generation: another file that gets the same inode later has another one."""
    birth_ns: int | None = None
    system: FileSystem = UNKNOWN
    fs_id: str | None = None
    """The file system's own name for itself, the same after a restart and on no other host (but for cloned disks)."""
    mount: str | None = None
    """Where it is mounted, and which folder of it: ``<mount point> <root>``, as mountinfo has them."""


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """On which file system, and on which mount of it, a folder is."""

    file_dev: int
    fs_id: str | None = None
    mount: str | None = None
    fs_type: str = UNKNOWN.name
    is_local: bool = True
    """Whether its file system is one machine's own; not so of what is not known."""
    source: str | None = None
    """What is mounted there: a device, or ``<server>:<folder>``; names that are no file system's own."""


def origin_of(descriptor: int) -> Origin:
    """All that is told of an open file."""
    system, fsid = statfs(descriptor)
    return Origin(
        inode_generation(descriptor),
        birth_ns(descriptor),
        system,
        _fs_id(descriptor, system, fsid),
        mount_of(descriptor),
    )


def place_of(folder: int) -> FolderPlace:
    """Where an open folder is. ``O_PATH`` is not enough to be told the file system's UUID."""
    system, fsid = statfs(folder)
    return FolderPlace(
        os.fstat(folder).st_dev,
        _fs_id(folder, system, fsid),
        mount_of(folder),
        system.name,
        system.local,
        source_of(folder),
    )


def inode_generation(descriptor: int) -> int | None:
    """The generation of an open file's inode (``FS_IOC_GETVERSION``, ioctl_iflags(2)): ext4, xfs and btrfs tell it."""
    answer = bytearray(8)
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETVERSION, answer)
    except OSError:
        return None
    return int.from_bytes(answer[:4], sys.byteorder)


class _StatFs(ctypes.Structure):
    """``struct statfs`` of 64-bit Linux."""

    _fields_ = (
        ("f_type", ctypes.c_long),
        ("f_bsize", ctypes.c_long),
        ("f_blocks", ctypes.c_ulong),
        ("f_bfree", ctypes.c_ulong),
        ("f_bavail", ctypes.c_ulong),
        ("f_files", ctypes.c_ulong),
        ("f_ffree", ctypes.c_ulong),
        ("f_fsid", ctypes.c_int * 2),
        ("f_namelen", ctypes.c_long),
        ("f_frsize", ctypes.c_long),
        ("f_flags", ctypes.c_long),
        ("f_spare", ctypes.c_long * 16),
    )


def _function(name: str) -> Any:
    """A function of the C library; ``None`` where it has no such, or its structures are not those of 64-bit Linux."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_long) != 8:  # noqa: PLR2004 - bytes of a 64-bit long
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


_FSTATFS: Final = _function("fstatfs")
_STATX: Final = _function("statx")


def statfs(descriptor: int) -> tuple[FileSystem, bytes]:
    """The kind of file system on which an open file is, and its ``f_fsid``."""
    answer = _StatFs()
    if _FSTATFS is None or _FSTATFS(descriptor, ctypes.byref(answer)) != 0:
        return UNKNOWN, b""
    return FILE_SYSTEMS.get(answer.f_type & 0xFFFFFFFF, UNKNOWN), bytes(answer.f_fsid)


def birth_ns(descriptor: int, name: str = "") -> int | None:
    """When an open file was made, or, with ``name``, the one of that name in an open folder; ``None``: not told."""
    if _STATX is None:
        return None
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_SYMLINK_NOFOLLOW if name else _AT_EMPTY_PATH
    if _STATX(descriptor, os.fsencode(name), flags, _STATX_BTIME, answer) != 0:
        return None
    raw = answer.raw
    if not int.from_bytes(raw[:4], sys.byteorder) & _STATX_BTIME:
        return None
    at = _STATX_BTIME_OFFSET
    seconds = int.from_bytes(raw[at : at + 8], sys.byteorder, signed=True)
    return (seconds * _SECOND_NS + int.from_bytes(raw[at + 8 : at + 12], sys.byteorder)) or None


def _fs_id(descriptor: int, system: FileSystem, fsid: bytes) -> str | None:
    answer = bytearray(17)  # its length, and up to 16 bytes
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETFSUUID, answer)
    except OSError:
        pass
    else:
        uuid = bytes(answer[1 : 1 + answer[0]])
        if any(uuid):
            return f"uuid:{uuid.hex()}"
    return f"fsid:{fsid.hex()}" if system.own_fsid and any(fsid) else None


def mount_of(descriptor: int) -> str | None:
    """On which mount an open file is; ``None`` where ``/proc`` does not tell."""
    fields = _mountinfo(descriptor)
    return f"{fields[4]} {fields[3]}" if fields else None


def source_of(descriptor: int) -> str | None:
    """What is mounted where an open file is; ``None`` where ``/proc`` does not tell."""
    fields = _mountinfo(descriptor)
    try:
        return fields[fields.index("-") + 2]  # proc_pid_mountinfo(5): optional fields end with the separator
    except (ValueError, IndexError):
        return None


def _mountinfo(descriptor: int) -> list[str]:
    """The line of mountinfo of the mount on which an open file is; empty where ``/proc`` does not tell."""
    try:
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
        mount_id = next(line.split()[1] for line in told if line.startswith("mnt_id:"))
        with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields = line.split(" ")
                if fields[0] == mount_id and len(fields) > _MOUNT_POINT:
                    return fields
    except (OSError, StopIteration, IndexError):
        pass
    return []
