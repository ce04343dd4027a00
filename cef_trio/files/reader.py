"""Reading recordings without blocking the event loop, and without a thread for cached data.

A growing recording's bytes are almost always in the page cache, because they were just written. ``preadv2`` with
``RWF_NOWAIT`` (Linux) reads cached data and fails instead of waiting for a disk. So cached blocks are read inline; only
other blocks, and file systems without ``RWF_NOWAIT``, need a worker thread. A thread for every block costs a third of
the throughput.

Reads change nothing, so a worker blocked by a hung disk is abandoned on cancellation and cannot delay an exit (promise
P4). ``mounts.py`` bounds the time and the threads (P7) of each mount. Files are closed in a worker thread too: sshfs
flushes at each close, and a hung one would block the loop.

:class:`Disk` is the interface, :class:`KernelDisk` the implementation for the real file system. The laboratory has one
without threads, for its virtual clock.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Final, Protocol, TypeVar
from weakref import WeakKeyDictionary

import trio

from cef_trio.exceptions import FileAccessError, RecordingChangedError
from cef_trio.files.disk_space import Allocation, DiskSpace, allocation_of, disk_space_of
from cef_trio.files.file_stat import FileStat
from cef_trio.files.file_system import FolderMount, Origin, birth_ns, folder_mount_of, inode_generation, origin_of
from cef_trio.files.mounts import Mount, MountHungError, Mounts
from cef_trio.files.nofollow import folder_of, open_nofollow
from cef_trio.resilience import run_in_thread, shielded, stall

T = TypeVar("T")

BLOCK_BYTES: Final = 512 * 1024
"""The largest read, and so the memory that one part in flight takes."""

_CLOSE_SECONDS: Final = 0.5
"""How long to wait for a file to be closed. On a hung disk it is closed later, or at the process's end."""

_CACHED_BLOCK: Final = memoryview(bytearray(BLOCK_BYTES))
"""Buffer for cached blocks before they are copied. One is enough: there is no await between read and copy."""

_EDGE_BYTES: Final = 64
_RWF_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)
_DENIED: Final = {errno.EACCES, errno.EPERM}
_NOT_REGULAR: Final = {errno.ELOOP, errno.EMLINK, errno.ENXIO}
"""Errors of opening a symbolic link (``EMLINK`` on FreeBSD) or a socket."""
_NOWAIT_UNSUPPORTED: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class OpenRecording(Protocol):
    """A recording open for reading."""

    @property
    def generation(self) -> int | None:
        """The inode's generation (see :class:`Origin`); ``None``: not reported."""
        ...

    async def stat(self) -> FileStat:
        """Return the status of the open file (``fstat``), whatever file has its name now."""
        ...

    async def origin(self) -> Origin:
        """Return its birth time, file system and mount."""
        ...

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """Read at most ``size_bytes`` (up to 512 KiB) at ``offset``; return ``b""`` at the end of the file.

        Raises:
            FileAccessError: the read failed.
        """
        ...

    async def is_written(self, offset: int, size_bytes: int) -> bool:
        """Return whether a range of the file has been written; true if the file system does not report it."""
        ...


class Disk(Protocol):
    """The file system operations that streams use."""

    async def stat(self, path: str) -> FileStat | None:
        """Return the status of the regular file at ``path``; ``None`` if there is none. Follows no link.

        Raises:
            FileAccessError: the file system failed; whether the file exists is unknown.
        """
        ...

    async def mount_around(self, path: str, *, within: str = "") -> FolderMount | None:
        """Return the place of the nearest existing folder above ``path``; ``None`` if it is the root or not ``within``.

        This distinguishes a deleted file from one that is not mounted: if the folder is on another mount than before,
        or the whole watch folder (``within``) is gone, a missing file was not deleted.
        """
        ...

    async def space(self, folder: str) -> DiskSpace:
        """Return the free space of the file system of a folder.

        Raises:
            FileAccessError: the folder cannot be opened.
        """
        ...

    async def allocation(self, path: str) -> Allocation | None:
        """Return what the regular file at ``path`` occupies; ``None`` if there is none. Follows no link.

        Raises:
            FileAccessError: the file system failed.
        """
        ...

    async def change(self, call: Callable[[], T], *, path: str = "/") -> T:
        """Run a short call that changes something at ``path``. Cancelled before it has begun, it changes nothing; once
        begun, it is never abandoned, and its result is returned.

        Raises:
            FileAccessError: the path's mount is hung; the call was not begun.
        """
        ...

    def open(self, path: str) -> AbstractAsyncContextManager[OpenRecording]:
        """Open a recording for reading. Symbolic links are not followed.

        Raises:
            RecordingChangedError: there is no regular file at ``path``.
            FileAccessError: it cannot be opened.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes ``offset`` to ``offset + size_bytes`` of an open recording. It can be read any number of times."""

    recording: OpenRecording
    offset: int
    size_bytes: int

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """Yield the slice from its beginning, in blocks of at most 512 KiB.

        Raises:
            RecordingChangedError: the file ends before the slice does.
            ChunkProcessingError: a read failed.
        """
        position, end = self.offset, self.offset + self.size_bytes
        while position < end:
            block = await self.recording.read(position, min(BLOCK_BYTES, end - position))
            if not block:
                raise RecordingChangedError(f"the file ends at byte {position}, but had {end} bytes")
            position += len(block)
            stall.moved()
            yield block

    async def feed(
        self, *sinks: Callable[[bytes], object], then: Callable[[bytes], Awaitable[object]] | None = None
    ) -> None:
        """Read the slice once, and call each of ``sinks`` and then ``then`` with each block.

        Example: ``await FileSlice(recording, 0, size_bytes).feed(crc.update)``.

        Raises:
            RecordingChangedError, ChunkProcessingError: as :meth:`blocks`.
        """
        async with aclosing(self.blocks()) as blocks:
            async for block in blocks:
                for sink in sinks:
                    sink(block)
                if then is not None:
                    await then(block)


def file_access_error(what: str, error: OSError) -> FileAccessError:
    """Return the error for a failed file system call. Always transient: permissions and mounts can be restored."""
    return FileAccessError(f"{what}: {error.strerror}", denied=error.errno in _DENIED)


@contextmanager
def access_errors(what: str) -> Iterator[None]:
    """Raise the :func:`file_access_error` of a failed file system call in the block; ``what`` names the operation."""
    try:
        yield
    except OSError as error:
        raise file_access_error(what, error) from error


@contextmanager
def open_errors(path: str) -> Iterator[None]:
    """Raise the error of :meth:`Disk.open` for a failed ``open`` of ``path`` in the block."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordingChangedError(f"{path!r} does not exist") from error
    except OSError as error:
        if error.errno in _NOT_REGULAR:
            raise RecordingChangedError(f"{path!r} is not a regular file") from error
        raise file_access_error(f"cannot open {path!r}", error) from error


def regular_file_stat(result: os.stat_result) -> FileStat | None:
    """Return the :class:`FileStat` of an ``os.stat`` result; ``None`` unless it is a regular file."""
    if not stat_module.S_ISREG(result.st_mode):
        return None
    return FileStat(result.st_dev, result.st_ino, result.st_size, result.st_mtime_ns, result.st_ctime_ns)


def open_file_stat(descriptor: int) -> FileStat | None:
    """Return the status of an open file, with its birth time; ``None`` unless it is a regular file. Blocks."""
    born = birth_ns(descriptor)  # first: it renews what a mount caches
    found = regular_file_stat(os.fstat(descriptor))
    return found and replace(found, birth_ns=born)


def piece_is_written(descriptor: int, offset: int, size_bytes: int) -> bool:
    """Return whether a range of an open file is written, for a file whose size may be set before its bytes. Blocks.

    ``SEEK_HOLE`` (lseek(2)) reports holes by pages. It does not report reserved space (``fallocate``) that was read
    since, for example by the kernel's readahead, and on FUSE, CIFS and older NFS it reports nothing. All of these read
    as zeros. So a range also counts as not written if there are zeros on both sides of its end and the file ends with
    zeros or has a hole after the range.
    """
    end = offset + size_bytes
    file_bytes = os.fstat(descriptor).st_size
    try:
        hole = os.lseek(descriptor, offset, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        hole = file_bytes
    if hole < end:
        return False
    before = min(size_bytes, _EDGE_BYTES)
    if any(os.pread(descriptor, before + _EDGE_BYTES, end - before)):
        return True
    return hole >= file_bytes and any(os.pread(descriptor, _EDGE_BYTES, max(0, file_bytes - _EDGE_BYTES)))


def mount_of_nearest_folder(path: str, within: str = "") -> FolderMount | None:
    """See :meth:`Disk.mount_around`. Blocks."""
    for folder in PurePath(path).parents:
        if within and not folder.is_relative_to(within) and PurePath(path).is_relative_to(within):
            return None
        try:
            descriptor = _open_folder(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            return None if folder == folder.parent else folder_mount_of(descriptor)
        finally:
            os.close(descriptor)
    return None


def _open_folder(folder: PurePath) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a folder that may be walked through only
        return os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)


def stat_with_birth(path: str) -> FileStat | None:
    """Return the status of the regular file at ``path``, with its birth time. Blocks.

    Raises:
        OSError: as ``os.lstat``.
    """
    with folder_of(path) as (folder, name):
        born = birth_ns(folder, name)  # first: it renews what a mount caches
        found = regular_file_stat(os.stat(name, dir_fd=folder, follow_symlinks=False))
        return found and replace(found, birth_ns=born)


class KernelDisk:
    """The real file system."""

    def __init__(self, mounts: Mounts | None = None) -> None:
        self._mounts = mounts or Mounts()
        self._left_open: WeakKeyDictionary[Mount, deque[_Descriptor]] = WeakKeyDictionary()
        """Unused files that could not be closed yet for lack of a free thread; the mount's next closing thread does."""

    async def stat(self, path: str) -> FileStat | None:
        """See :meth:`Disk.stat`."""
        with access_errors(f"cannot look at {path!r}"):
            try:
                return await self._mounts.run(path, lambda: stat_with_birth(path))
            except (FileNotFoundError, NotADirectoryError):
                return None

    async def mount_around(self, path: str, *, within: str = "") -> FolderMount | None:
        """See :meth:`Disk.mount_around`."""
        with access_errors(f"cannot look at the folder of {path!r}"):
            return await self._mounts.run(path, lambda: mount_of_nearest_folder(path, within))

    async def space(self, folder: str) -> DiskSpace:
        """See :meth:`Disk.space`."""
        with access_errors(f"cannot measure the free space of {folder!r}"):
            return await self._mounts.run(folder, lambda: disk_space_of(folder))

    async def allocation(self, path: str) -> Allocation | None:
        """See :meth:`Disk.allocation`."""
        with access_errors(f"cannot look at {path!r}"):
            return await self._mounts.run(path, lambda: allocation_of(path))

    async def change(self, call: Callable[[], T], *, path: str = "/") -> T:
        """See :meth:`Disk.change`. Never abandoned, because an abandoned thread could delete a file at a later time."""
        try:
            return await self._mounts.change(path, call)
        except MountHungError as error:
            raise file_access_error(f"cannot change {path!r}", error) from error

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[OpenRecording]:
        """See :meth:`Disk.open`."""
        descriptor = _Descriptor(path)
        try:
            with open_errors(path):
                # O_NONBLOCK: the open of a FIFO that took the recording's name must not wait for its writer.
                await self._mounts.run(path, descriptor.open)
            recording = _KernelRecording(descriptor, path, self._mounts)
            await recording.stat()
            yield recording
        finally:
            await self._close(descriptor, self._mounts.of(path))

    async def _close(self, descriptor: _Descriptor, mount: Mount) -> None:
        descriptor.close_after_open()
        left_open = self._left_open.setdefault(mount, deque())
        try:
            with shielded(_CLOSE_SECONDS, saving="file's close"):
                close = partial(_close_now, descriptor, left_open)
                # Separate threads, so that blocked reads cannot keep a file open.
                await run_in_thread(close, abandon_on_cancel=True, limiter=mount.closing)
        finally:
            if descriptor.is_open:  # no thread was free: the next closing thread closes it
                left_open.append(descriptor)


def _close_now(descriptor: _Descriptor, left_open: deque[_Descriptor]) -> None:
    descriptor.close()
    with suppress(IndexError):
        while True:
            left_open.popleft().close()


class _Descriptor:
    """A file descriptor that is closed exactly once, even if its opener was abandoned in a worker thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._number: int | None = None
        self.generation: int | None = None
        self._discarded = False
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        if self._number is None:
            raise RuntimeError("the file is not open")
        return self._number

    @property
    def is_open(self) -> bool:
        return self._number is not None

    def open(self) -> None:
        number = open_nofollow(self._path, os.O_RDONLY | os.O_NONBLOCK)
        self.generation = inode_generation(number)
        with self._lock:
            if not self._discarded:
                self._number = number
                return
        os.close(number)  # the task was cancelled while a slow disk kept this thread

    def close_after_open(self) -> None:
        """Have a thread that is still opening it close it again."""
        with self._lock:
            self._discarded = True

    def close(self) -> None:
        with self._lock:
            number, self._number = self._number, None
        if number is not None:
            os.close(number)


class _KernelRecording:
    def __init__(self, descriptor: _Descriptor, path: str, mounts: Mounts) -> None:
        self._descriptor = descriptor.number
        self.generation = descriptor.generation
        self._path = path
        self._mounts = mounts
        self._nowait = _RWF_NOWAIT

    async def stat(self) -> FileStat:
        # fstat needs no disk on a local file system, but a network file system may ask its server: use a worker.
        descriptor = self._descriptor
        with access_errors(f"cannot look at {self._path!r}"):
            found = await self._mounts.run(self._path, lambda: open_file_stat(descriptor))
        if found is None:
            raise RecordingChangedError(f"{self._path!r} is not a regular file")
        return found

    async def origin(self) -> Origin:
        with access_errors(f"cannot look at {self._path!r}"):
            return await self._mounts.run(self._path, lambda: origin_of(self._descriptor))

    async def read(self, offset: int, size_bytes: int) -> bytes:
        if self._nowait is not None:
            view = _CACHED_BLOCK[:size_bytes]
            try:
                count = os.preadv(self._descriptor, [view], offset, self._nowait)
            except BlockingIOError:
                pass  # not cached: read it in a worker
            except OSError as error:
                if error.errno not in _NOWAIT_UNSUPPORTED:
                    raise file_access_error(self._reading_at(offset), error) from error
                self._nowait = None  # this file system does not support RWF_NOWAIT
            else:
                block = bytes(view[:count])
                # A checkpoint for each inline block, so that other tasks run and cancellation is delivered.
                await trio.lowlevel.checkpoint()
                return block
        descriptor = self._descriptor
        with access_errors(self._reading_at(offset)):
            return await self._mounts.run(self._path, lambda: os.pread(descriptor, size_bytes, offset))

    async def is_written(self, offset: int, size_bytes: int) -> bool:
        descriptor = self._descriptor
        with access_errors(self._reading_at(offset)):
            return await self._mounts.run(self._path, lambda: piece_is_written(descriptor, offset, size_bytes))

    def _reading_at(self, offset: int) -> str:
        return f"cannot read {self._path!r} at byte {offset}"


async def head_of(recording: OpenRecording, size_bytes: int) -> bytes:
    """Return the first ``size_bytes`` bytes of a recording, fewer if it is shorter."""
    head = b""
    while len(head) < size_bytes:
        block = await recording.read(len(head), size_bytes - len(head))
        if not block:
            break
        head += block
    return head
