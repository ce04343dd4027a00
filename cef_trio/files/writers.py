"""Detecting whether a process has a file open for writing, by a read lease (``fcntl(2)``, ``F_SETLEASE``).

``upload/processor.py`` (``_has_ended``) decides what follows for a stream.

The kernel grants a read lease only on a file that no process has open for writing. The lease is released at once. It
requires ownership of the file or CAP_LEASE, and a file system whose writers are all processes of this kernel
(``file_system.py``): FUSE grants a lease although the writer is on the other side of the mount, and so does a local
file system that this machine exports by NFS (``nfs_server.py``). Otherwise the result is :attr:`WriterState.UNKNOWN`:
then a close is only a hint, and a recording ends after ``STREAM_TIMEOUT_SECONDS`` without a write.

If a writer opens the file while the lease is held, the kernel blocks the writer and signals the holder. The default
signal would kill the daemon, so the lease uses SIGURG, which is ignored by default.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from enum import Enum
from functools import partial
from typing import Final

from cef_trio.files import file_system, nfs_server
from cef_trio.files.mounts import MountHungError, Mounts
from cef_trio.files.nofollow import open_nofollow
from cef_trio.files.reader import file_access_error

_F_SETSIG: Final = getattr(fcntl, "F_SETSIG", 10)
_F_SETLEASE: Final = getattr(fcntl, "F_SETLEASE", 1024)
_F_GETLEASE: Final = getattr(fcntl, "F_GETLEASE", 1025)


class WriterState(Enum):
    """Whether a file has a writer."""

    NONE = "none"
    PRESENT = "present"
    UNKNOWN = "unknown"


async def writer_state(path: str, mounts: Mounts) -> WriterState:
    """Return whether a file has a writer. Runs in a worker thread, which also releases the lease.

    Raises:
        FileAccessError: the file system does not respond; try again later.
    """
    try:
        return await mounts.run(path, partial(writer_state_now, path))
    except MountHungError as error:
        raise file_access_error(f"cannot check for writers of {path!r}", error) from error


def writer_state_now(path: str) -> WriterState:
    """Return whether a file has a writer. Blocks."""
    try:
        descriptor = open_nofollow(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return WriterState.UNKNOWN
    try:
        return take_lease(descriptor)
    finally:
        os.close(descriptor)  # releases the lease


def take_lease(descriptor: int) -> WriterState:
    """Take a read lease on a file that is open read-only; closing the descriptor releases it.

    ``NONE``: the lease is held, and the kernel blocks a new writer, for 45 seconds at most
    (``/proc/sys/fs/lease-break-time``). Otherwise no lease is held.
    """
    if not knows_writers(descriptor):
        return WriterState.UNKNOWN
    try:
        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, _F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return WriterState.PRESENT if error.errno in {errno.EAGAIN, errno.EBUSY} else WriterState.UNKNOWN
    return WriterState.NONE


def knows_writers(descriptor: int) -> bool:
    """Return whether a lease on an open file, or on the files of an open folder, shows their writers. Blocks."""
    return file_system.statfs(descriptor)[0].local and not nfs_server.is_exported(descriptor)


def writer_waits(descriptor: int) -> bool:
    """Return whether a writer is blocked by the lease on this descriptor."""
    return fcntl.fcntl(descriptor, _F_GETLEASE) != fcntl.F_RDLCK
