"""The properties that a file system reports of a file, and which of them are reliable. All calls here block.

Inode numbers, device numbers, leases and time stamps mean different things on different file systems, and the kernel
does not report the difference: FUSE grants a read lease although the writer is on another host, FAT renumbers its
inodes at each mount, device numbers follow the order of mounting. :data:`FILE_SYSTEMS` lists the known file systems;
nothing is assumed of any other.

Sources: statfs(2), statx(2), ioctl_iflags(2), ``FS_IOC_GETFSUUID`` (Linux 6.9), proc_pid_mountinfo(5), and the file
systems' own code for ``f_fsid``: ext4, btrfs, zfs and tmpfs make it from their UUID, xfs and f2fs from the device
number, which is no better than ``st_dev``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cef_trio.exceptions import is_shortage
from cef_trio.files.file_stat import SECOND_NS

_FINE_GRANULARITY_NS: Final = 20_000_000
"""The kernel stamps files with its coarse clock, which ticks 100 to 1000 times a second."""
_COARSE_GRANULARITY_NS: Final = 2 * SECOND_NS + _FINE_GRANULARITY_NS
"""FAT has the coarsest stamps, two seconds; they are rounded from the coarse clock, which lags by its own."""

_FS_IOC_GETVERSION: Final = 0x80087601
_FS_IOC_GETFSUUID: Final = 0x80111500
_AT_EMPTY_PATH: Final = 0x1000
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_STATX_FORCE_SYNC: Final = 0x2000
_STATX_BASIC_STATS: Final = 0x7FF
_STATX_BTIME: Final = 0x800
_NO_STATX: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP})
"""The errors of a kernel, of a container's seccomp filter, or of a file system, without this call."""
_STATX_BYTES: Final = 256
_STATX_BTIME_OFFSET: Final = 80
_MOUNT_POINT: Final = 4
"""Index of the mount point in a line of mountinfo."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A kind of file system and its guarantees."""

    name: str
    local: bool = False
    """Whether every writer is a process of this kernel, so that a granted read lease proves that there is no writer."""
    lasting_inodes: bool = False
    """Whether a file keeps its inode number over unmounts and restarts."""
    own_fsid: bool = False
    """Whether ``f_fsid`` is derived from the file system's UUID, not from its current device number."""
    granularity_ns: int = _COARSE_GRANULARITY_NS
    """Granularity of time stamps: two changes further apart than this have different stamps."""


UNKNOWN: Final = FileSystem("unknown")


def _local(
    name: str, *, own_fsid: bool = False, granularity_ns: int = _FINE_GRANULARITY_NS, lasting: bool = True
) -> FileSystem:
    return FileSystem(name, local=True, lasting_inodes=lasting, own_fsid=own_fsid, granularity_ns=granularity_ns)


FILE_SYSTEMS: Final = {
    0xEF53: _local("ext4", own_fsid=True),  # ext2 and ext3 too: their stamps are whole seconds, see granularity_ns()
    0x58465342: _local("xfs"),
    0x9123683E: _local("btrfs", own_fsid=True),
    0x01021994: _local("tmpfs", own_fsid=True),
    0xF2F52010: _local("f2fs"),
    0x2FC12FC1: _local("zfs", own_fsid=True),
    0xCA451A4E: _local("bcachefs", own_fsid=True),
    0x3153464A: _local("jfs"),
    # A writer through an overlay is counted on the overlay's inode, which is the one that the lease is taken on; the
    # kernel's overlayfs.rst forbids writes to the layers below. Inode numbers depend on the mount options.
    0x794C7630: _local("overlay", lasting=False),
    # Local disks whose inode numbers are assigned at each mount. FAT stamps by two seconds, exFAT by hundredths.
    0x4D44: _local("vfat", lasting=False, granularity_ns=_COARSE_GRANULARITY_NS),
    0x2011BAB0: _local("exfat", lasting=False, granularity_ns=_COARSE_GRANULARITY_NS),
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

RECENT: Final = "uuid:"
"""Prefix of ids that kernels before Linux 6.9 do not report."""
_PASSING: Final = frozenset({"tmpfs", "overlay"})
"""File systems that are made anew at each mount, or with each container."""
_BY_NAME: Final = {system.name: system for system in FILE_SYSTEMS.values()}


def file_system_named(name: str | None) -> FileSystem:
    """Return the file system of that name, as records store it; :data:`UNKNOWN` if there is none."""
    return _BY_NAME.get(name or "", UNKNOWN)


def granularity_ns(system: FileSystem, mtime_ns: int) -> int:
    """Return how old a time stamp must be to prove that nothing was written since, in nanoseconds.

    A stamp of a whole second may come from a file system or a file server without finer stamps.
    """
    return _COARSE_GRANULARITY_NS if mtime_ns % SECOND_NS == 0 else system.granularity_ns


@dataclass(frozen=True, slots=True)
class Origin:
    """Properties of an open file's inode and file system. ``None``: not reported."""

    generation: int | None = None
    """The inode's generation, which differs between files that have the same inode one after the other."""
    birth_ns: int | None = None
    system: FileSystem = UNKNOWN
    fs_id: str | None = None
    """The file system's id: stable over restarts, and unique except for cloned disks."""
    mount: str | None = None
    """The mount point and the mounted root, ``<mount point> <root>``, as in mountinfo."""


@dataclass(frozen=True, slots=True)
class FolderMount:
    """The file system and the mount of a folder."""

    file_dev: int
    fs_id: str | None = None
    mount: str | None = None
    fs_type: str = UNKNOWN.name
    is_local: bool = True
    """Whether the file system belongs to one machine; false for an unknown one."""
    source: str | None = None
    """The mount source: a device, or ``<server>:<folder>``."""


def origin_of(descriptor: int) -> Origin:
    """Return the properties of an open file."""
    system, fsid = statfs(descriptor)
    return Origin(
        inode_generation(descriptor),
        birth_ns(descriptor),
        system,
        _fs_id(descriptor, system, fsid),
        mount_of(descriptor),
    )


def folder_mount_of(folder: int) -> FolderMount:
    """Return the place of an open folder. The UUID is not available from an ``O_PATH`` descriptor."""
    system, fsid = statfs(folder)
    return FolderMount(
        os.fstat(folder).st_dev,
        _fs_id(folder, system, fsid),
        mount_of(folder),
        system.name,
        system.local,
        source_of(folder),
    )


def lasting_id(folder: Path) -> str | None:
    """Return an id of a folder's file system that is unique and lasts, also when the kernel is upgraded.

    It begins with ``RECENT`` if kernels before Linux 6.9 report none. ``None``: the file system has none, or is itself
    made anew at each mount, or with each container.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        system, fsid = statfs(descriptor)
        if system.name in _PASSING:
            return None
        # f_fsid where it comes from the UUID: kernels before 6.9 report no UUID.
        return f"fsid:{fsid.hex()}" if system.own_fsid and any(fsid) else _uuid(descriptor)
    finally:
        os.close(descriptor)


def inode_generation(descriptor: int) -> int | None:
    """Return an open file's inode generation (``FS_IOC_GETVERSION``, ioctl_iflags(2)): ext4, xfs and btrfs have it."""
    buffer = bytearray(8)
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETVERSION, buffer)
    except OSError:
        return None
    return int.from_bytes(buffer[:4], sys.byteorder)


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
    """Return a function of the C library; ``None`` if it is absent, or this is not 64-bit Linux."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_long) != 8:  # noqa: PLR2004 - bytes of a 64-bit long
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


_FSTATFS: Final = _function("fstatfs")
_STATX: Final = _function("statx")


def statfs(descriptor: int) -> tuple[FileSystem, bytes]:
    """Return the file system of an open file, and its ``f_fsid``."""
    buffer = _StatFs()
    if _FSTATFS is None or _FSTATFS(descriptor, ctypes.byref(buffer)) != 0:
        return UNKNOWN, b""
    return FILE_SYSTEMS.get(buffer.f_type & 0xFFFFFFFF, UNKNOWN), bytes(buffer.f_fsid)


def birth_ns(descriptor: int, name: str = "") -> int | None:
    """Return the birth time of an open file, or of ``name`` in an open folder; ``None``: not reported.

    A mount may cache attributes for longer than ``STREAM_TIMEOUT_SECONDS`` (sshfs ``attr_timeout``, NFS ``actimeo``).
    This call asks the file's server, and renews them for the calls of ``os.stat`` and ``os.fstat`` that follow.

    Raises:
        OSError: the server does not respond, or has no such file.
    """
    if _STATX is None:
        return None
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = (_AT_SYMLINK_NOFOLLOW if name else _AT_EMPTY_PATH) | _AT_STATX_FORCE_SYNC
    # FUSE and NFS ask for attributes that are requested, so not for the birth time alone.
    if _STATX(descriptor, os.fsencode(name), flags, _STATX_BASIC_STATS | _STATX_BTIME, buffer) != 0:
        number = ctypes.get_errno()
        if number in _NO_STATX:
            return None
        raise OSError(number, os.strerror(number))
    raw = buffer.raw
    if not int.from_bytes(raw[:4], sys.byteorder) & _STATX_BTIME:
        return None
    at = _STATX_BTIME_OFFSET
    seconds = int.from_bytes(raw[at : at + 8], sys.byteorder, signed=True)
    return (seconds * SECOND_NS + int.from_bytes(raw[at + 8 : at + 12], sys.byteorder)) or None


def look_up_anew(folder: int) -> None:
    """Have the names in an open folder looked up at its server, if it has changed since its mount cached them.

    NFS asks for the attributes of a folder only when those it has cached are old (``acdirmax``, a minute; ``actimeo``).
    Until then a name leads to the file that had it, even to its open handle, whatever file has the name now.

    Raises:
        OSError: the server does not respond, or has no such folder.
    """
    birth_ns(folder)


def _fs_id(descriptor: int, system: FileSystem, fsid: bytes) -> str | None:
    return _uuid(descriptor) or (f"fsid:{fsid.hex()}" if system.own_fsid and any(fsid) else None)


def _uuid(descriptor: int) -> str | None:
    buffer = bytearray(17)  # its length, and up to 16 bytes
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETFSUUID, buffer)
    except OSError:
        return None
    uuid = bytes(buffer[1 : 1 + buffer[0]])
    return f"{RECENT}{uuid.hex()}" if any(uuid) else None


def mount_of(descriptor: int) -> str | None:
    """Return the mount of an open file (see :attr:`Origin.mount`); ``None`` if ``/proc`` does not list it."""
    fields = _mountinfo(descriptor)
    return f"{fields[4]} {fields[3]}" if fields else None


def source_of(descriptor: int) -> str | None:
    """Return the mount source of an open file; ``None`` if ``/proc`` does not list it."""
    fields = _mountinfo(descriptor)
    try:
        return fields[fields.index("-") + 2]  # proc_pid_mountinfo(5): optional fields end with the separator
    except (ValueError, IndexError):
        return None


def _mountinfo(descriptor: int) -> list[str]:
    """Return the fields of the mountinfo line of an open file's mount; empty if ``/proc`` does not list it."""
    try:
        lines_of_fd = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
        mount_id = next(line.split()[1] for line in lines_of_fd if line.startswith("mnt_id:"))
        with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                fields = line.split(" ")
                if fields[0] == mount_id and len(fields) > _MOUNT_POINT:
                    return fields
    except (OSError, StopIteration, IndexError) as error:
        if is_shortage(error):  # another mount than it is would be recorded
            raise
    return []
