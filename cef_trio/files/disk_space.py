"""How much of a file system is free, and how much a file occupies. All calls block.

``f_bavail`` counts: what an unprivileged process may still use. Quotas of users do not show in it; those of projects
(xfs, ext4) do, where the folder has one.
"""

from __future__ import annotations

import os
import stat as stat_module
from dataclasses import dataclass

from cef_trio.files.file_system import FolderMount, folder_mount_of
from cef_trio.files.nofollow import stat_nofollow

_SECTOR_BYTES = 512
"""The unit of ``st_blocks``, whatever the file system's block size."""


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The space of the file system of a folder."""

    total_bytes: int
    """0 if the file system does not report it, as some FUSE file systems do not."""
    free_bytes: int
    place: FolderMount
    """Where the folder was when it was measured: another mount, if its disk is not mounted."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a file occupies."""

    size_bytes: int
    """Less than its length if it is sparse or compressed. Shared extents (reflinks, snapshots) count too."""
    links: int
    """The number of its names; only the removal of the last one frees its space."""

    @property
    def freed_bytes(self) -> int:
        """What the removal of one name frees, as far as can be known before."""
        return self.size_bytes if self.links == 1 else 0


def disk_space_of(folder: str) -> DiskSpace:
    """Measure the file system of a folder. Its mount is read from the same open folder.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstatvfs(descriptor)
        return DiskSpace(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, folder_mount_of(descriptor))
    finally:
        os.close(descriptor)


def allocation_of(path: str) -> Allocation | None:
    """Return what the regular file at a path occupies; ``None`` if there is none. Follows no link.

    Raises:
        OSError: as ``os.lstat``.
    """
    try:
        found = stat_nofollow(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return allocation_in(found) if stat_module.S_ISREG(found.st_mode) else None


def allocation_in(found: os.stat_result) -> Allocation:
    """Return what a file occupies, by its status."""
    return Allocation(found.st_blocks * _SECTOR_BYTES, found.st_nlink)
