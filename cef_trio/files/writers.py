"""Does anybody have a file open for writing? Asked by a read lease (``fcntl(2)``, ``F_SETLEASE``).

The kernel grants a read lease only on a file that no process has open for writing, so asking for one, and giving it
back at once, is the question. It needs to be our own file or CAP_LEASE, and a file system of which every writer is a
process of this kernel (``file_system.py`` has the closed list): FUSE and its like grant a lease although the writer is
on the other side of the mount. Otherwise the answer is :attr:`WriterState.UNKNOWN`, which is not "no": then a close is
a hint, and only ``STREAM_TIMEOUT_SECONDS`` of silence is an end.

A writer that opens the file in the microseconds while we hold the lease is made to wait by the kernel, which signals
us; its default signal would kill the daemon, so the lease is given SIGURG first, which is ignored by default.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from enum import Enum
from functools import partial
from typing import Final

from cef_trio.files import file_system
from cef_trio.files.mounts import MountHungError, Mounts
from cef_trio.files.nofollow import open_straight
from cef_trio.files.reader import refusal

_F_SETSIG: Final = getattr(fcntl, "F_SETSIG", 10)
_F_SETLEASE: Final = getattr(fcntl, "F_SETLEASE", 1024)
_F_GETLEASE: Final = getattr(fcntl, "F_GETLEASE", 1025)


class WriterState(Enum):
    """Whether a file has a writer."""

    NONE = "none"
    PRESENT = "present"
    UNKNOWN = "unknown"


async def writer_state(path: str, mounts: Mounts) -> WriterState:
    """Ask, in a worker thread: a hung disk must not stall the loop. The thread gives its lease back by itself.

    Raises:
        FileAccessError: the file system does not answer. It is asked again; "not known" would be taken for an answer.
    """
    try:
        return await mounts.run(path, partial(writer_state_now, path))
    except MountHungError as error:
        raise refusal(f"cannot ask who writes to {path!r}", error) from error


def writer_state_now(path: str) -> WriterState:
    """Ask. Blocks for as long as the file system takes to open a file."""
    try:
        descriptor = open_straight(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return WriterState.UNKNOWN
    try:
        return take_lease(descriptor)
    finally:
        os.close(descriptor)  # which gives the lease back


def take_lease(descriptor: int) -> WriterState:
    """Take a read lease on a file that is open read-only; it is given back when the descriptor is closed.

    ``NONE``: it is taken, and a writer that comes now is kept waiting by the kernel, for 45 seconds at most
    (``/proc/sys/fs/lease-break-time``). Otherwise there is no lease.
    """
    if not file_system.statfs(descriptor)[0].local:
        return WriterState.UNKNOWN
    try:
        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, _F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return WriterState.PRESENT if error.errno in {errno.EAGAIN, errno.EBUSY} else WriterState.UNKNOWN
    return WriterState.NONE


def writer_waits(descriptor: int) -> bool:
    """Whether a writer has come since the lease on this descriptor was taken, and is kept waiting by it."""
    return fcntl.fcntl(descriptor, _F_GETLEASE) != fcntl.F_RDLCK
