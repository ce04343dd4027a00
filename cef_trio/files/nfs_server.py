"""Whether this machine's own NFS server may write to a file. All calls here block, but on no other file system.

A client of NFS version 3 opens no file on the server. ``nfsd`` keeps a file open for some seconds after a write, and
closes it at once when anybody takes a lease (``nfsd_file_lease_notifier_call`` in ``fs/nfsd/filecache.c``), so that
the kernel grants a read lease while the client records. Below an exported folder a lease therefore proves nothing
(``writers.py``).

``nfsd`` serves if ``/proc/fs/nfsd/threads`` (nfsd(7), readable by root only) is not 0. ``/var/lib/nfs/etab``
(exportfs(8)) has what it exports. Exports are compared by path, and by the place in their file system, since a folder
is often exported at a bind mount.

Both are of one network namespace. A server in another one (the host's, if the daemon is in a container, or one in a
container) shows only in the number of users of the kernel's module ``nfsd``: each namespace that serves has mounted a
``/proc/fs/nfsd`` of its own, which counts as one. What it exports is unknown, so no lease is believed.

A running server counts as more than its mount: ``rpc.mountd`` has files of the module open, and in older kernels each
thread is a user. So beside a server of our own that exports nothing, no lease is believed: its users cannot be told
from another one's. If ours exports another folder, one in another namespace is not seen. Nor is it if ``nfsd`` is built
into the kernel, or was started without that mount (by netlink, since Linux 6.10), nor one that is no ``nfsd`` (unfs3).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cef_trio.exceptions import is_shortage
from cef_trio.files.mounts import is_on, unescape_mount_point

_THREADS: Final = Path("/proc/fs/nfsd/threads")
_EXPORTS: Final = Path("/var/lib/nfs/etab")
_USERS: Final = Path("/sys/module/nfsd/refcnt")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2})")


def is_exported(descriptor: int) -> bool:
    """Return whether an NFS server of this machine may write to an open file or folder."""
    try:
        if _THREADS.read_text().split() in ([], ["0"]):
            return _is_used(by_us=1)
    except PermissionError:
        pass  # only root may read it; what is exported tells enough
    except OSError as error:
        return is_shortage(error) or _is_used(by_us=0)
    try:
        exports = exported_folders(_EXPORTS.read_text(errors="surrogateescape"))
        mountinfo = _MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return True  # it serves, and it is not known what
    if not exports:
        return _is_used(by_us=1)
    path = os.fspath(Path(f"/proc/self/fd/{descriptor}").readlink())
    return is_in_exports(path, exports, mountinfo)


def _is_used(*, by_us: int) -> bool:
    """Return whether ``nfsd`` has more users than ``by_us``, so that a server may run in another network namespace.

    More may be our own server's; then the answer is true as well.
    """
    try:
        return int(_USERS.read_text()) > by_us
    except (OSError, ValueError) as error:  # it is not loaded, or does not count; or nothing can be opened now
        return is_shortage(error)


def is_in_exports(path: str, exports: Iterable[str], mountinfo: str) -> bool:
    """Return whether a path is in one of the exported folders, whatever mount leads there. Pure."""
    mounts = list(_mounts_in(mountinfo))
    own = _place_of(path, mounts)
    for folder in exports:
        if is_on(path, folder):
            return True
        there = _place_of(folder, mounts)
        if own is not None and there is not None and own.device == there.device and is_on(own.path, there.path):
            return True
    return False


def exported_folders(etab: str) -> list[str]:
    """Return the folders in the text of ``etab`` that clients may write to. Pure.

    A line is ``<folder> <client>(<options>)``; blanks and other characters of the folder are octal escapes.
    """
    found = dict[str, None]()
    for line in etab.splitlines():
        folder, _, client = line.partition("\t")
        options = client.partition("(")[2].rstrip(") ").split(",")
        if folder.startswith("/") and "ro" not in options:
            found[_unescaped(folder)] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class _Place:
    """A file system, by its device, and a path in it."""

    device: str
    path: str


def _mounts_in(mountinfo: str) -> Iterator[tuple[str, _Place]]:
    """Return the mount points, the latest first, each with what is mounted there (proc_pid_mountinfo(5))."""
    for line in reversed(mountinfo.splitlines()):
        _, _, device, root, point, *_ = line.split(" ")
        yield unescape_mount_point(point), _Place(device, unescape_mount_point(root))


def _place_of(path: str, mounts: Iterable[tuple[str, _Place]]) -> _Place | None:
    """Return the place of a path, by the innermost mount point that it is at or below; of equal ones, the latest."""
    point, mounted = max(
        ((point, place) for point, place in mounts if is_on(path, point)),
        key=lambda one: len(one[0]),
        default=("", None),
    )
    if mounted is None:
        return None
    return _Place(mounted.device, f"{mounted.path.rstrip('/')}/{path[len(point) :].lstrip('/')}".rstrip("/") or "/")


def _unescaped(text: str) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), os.fsencode(text)))
