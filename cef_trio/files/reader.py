"""Reading recordings without ever stalling the loop, and without a thread for what is in memory already.

A growing recording's bytes are almost always in the page cache: its writer has just put them there. ``preadv2`` with
``RWF_NOWAIT`` (Linux) reads what is cached and refuses to wait for a disk, so hot blocks are read inline, and only what
is cold, or on a file system that cannot say, goes to a worker thread. A hop to a thread for each block costs a third of
the speed (DESIGN 5).

Reads change nothing, so a worker that a hung disk holds is abandoned on cancellation: no disk can hold an exit back
(promise P4). Nor is one waited for without an end: ``mounts.py`` sets its mount aside, and each mount has threads of
its own, so a hung one neither piles threads up (P7) nor takes them from the others. Closing is a worker's job too:
sshfs and its like are asked to flush at each close, and a hung one would stop the loop in the middle of it. What
changes something (``AFTER_UPLOAD``) is never abandoned.

:class:`Disk` is the interface; :class:`KernelDisk` is the real one. The laboratory has one without threads, whose
checkpoints a virtual clock can count.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Final, Protocol, TypeVar
from weakref import WeakKeyDictionary

import trio

from cef_trio.exceptions import FileAccessError, RecordingChangedError
from cef_trio.files.file_stat import FileStat
from cef_trio.files.file_system import FolderPlace, Origin, birth_ns, inode_generation, origin_of, place_of
from cef_trio.files.mounts import Mount, MountHungError, Mounts
from cef_trio.files.nofollow import folder_of, open_straight
from cef_trio.resilience import run_in_thread, shielded, stall

T = TypeVar("T")

BLOCK_BYTES: Final = 512 * 1024
"""The most that is read at once, and so the memory that one part in flight takes."""

_CLOSE_SECONDS: Final = 0.5
"""How long anybody waits for a file to be closed; a hung disk closes it later, or the process's end does."""

_HOT_BLOCK: Final = memoryview(bytearray(BLOCK_BYTES))
"""Where hot blocks are read to before they are copied out: one is enough, since no await lies between the two."""

_EDGE_BYTES: Final = 64
_RWF_NOWAIT: Final[int | None] = getattr(os, "RWF_NOWAIT", None)
_DENIED: Final = {errno.EACCES, errno.EPERM}
_CANNOT_SAY: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class OpenRecording(Protocol):
    """A recording that is open for reading."""

    @property
    def generation(self) -> int | None:
        """The inode's generation: another file that gets the same inode later has another one. ``None``: not told."""
        ...

    async def stat(self) -> FileStat:
        """What the open file is now (``fstat``), whatever its name leads to."""
        ...

    async def origin(self) -> Origin:
        """All else that is told of it: when it was made, and on which file system and mount it is."""
        ...

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """Read at most ``size_bytes`` (up to 512 KiB) at ``offset``; empty at the file's end.

        Raises:
            FileAccessError: the disk refused.
        """
        ...

    async def is_written(self, offset: int, size_bytes: int) -> bool:
        """Whether a piece of the file has been written, as far as its file system tells; true where it does not."""
        ...


class Disk(Protocol):
    """The file system, as far as streams need it."""

    async def stat(self, path: str) -> FileStat | None:
        """The regular file of that name; ``None`` if there is none. No symbolic link in the path is followed.

        Raises:
            FileAccessError: the file system refused to say (that is not the same as "not there").
        """
        ...

    async def place_around(self, path: str, *, within: str = "") -> FolderPlace | None:
        """Where the nearest folder above ``path`` that exists is; ``None`` if it is the root, or not ``within``.

        A file that is gone while its folder is on another mount than it was is not deleted: something is not mounted.
        Nor is one that is gone with the whole watched folder, ``within``, to which it belongs.
        """
        ...

    async def change(self, call: Callable[[], T], *, path: str = "/") -> T:
        """Run a short call that changes something at ``path``. Cancelled before it has begun it changes nothing; once
        it has begun it is waited for, and what it returns or raises is not lost.

        Raises:
            FileAccessError: the path's mount does not answer; nothing was begun.
        """
        ...

    def open(self, path: str) -> AbstractAsyncContextManager[OpenRecording]:
        """Open a recording for reading; no symbolic link in the path is followed.

        Raises:
            RecordingChangedError: there is no regular file of that name (any more).
            FileAccessError: it cannot be opened.
        """
        ...


class Digest(Protocol):
    """A checksum or hash that is updated block by block (``hashlib``, ``s3.checksums``)."""

    def update(self, block: bytes, /) -> object:
        """Add bytes."""
        ...


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes ``offset`` to ``offset + size_bytes`` of an open recording, to be read any number of times."""

    recording: OpenRecording
    offset: int
    size_bytes: int

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """Read the slice from its beginning, in blocks of at most 512 KiB.

        Raises:
            RecordingChangedError: the file ends before the slice does.
            ChunkProcessingError: the disk refused.
        """
        position, end = self.offset, self.offset + self.size_bytes
        while position < end:
            block = await self.recording.read(position, min(BLOCK_BYTES, end - position))
            if not block:
                raise RecordingChangedError(f"the file ends at byte {position}, before byte {end} that it had")
            position += len(block)
            stall.moved()
            yield block

    async def feed(self, *digests: Digest) -> None:
        """Read the slice once and update each of ``digests`` with all its bytes.

        Raises:
            RecordingChangedError: the file ends before the slice does.
            ChunkProcessingError: the disk refused.
        """
        async with aclosing(self.blocks()) as blocks:
            async for block in blocks:
                for digest in digests:
                    digest.update(block)


def refusal(what: str, error: OSError) -> FileAccessError:
    """What the file system refused, and why. None of it is for good: rights are given, mounts come back."""
    return FileAccessError(f"{what}: {error.strerror}", denied=error.errno in _DENIED)


def regular_file_stat(result: os.stat_result) -> FileStat | None:
    """A :class:`FileStat` of ``os.stat``'s answer; ``None`` for anything but a regular file."""
    if not stat_module.S_ISREG(result.st_mode):
        return None
    return FileStat(result.st_dev, result.st_ino, result.st_size, result.st_mtime_ns, result.st_ctime_ns)


def open_file_stat(descriptor: int) -> FileStat | None:
    """A look at an open file, and when it was made; ``None`` for anything but a regular file. Blocks."""
    found = regular_file_stat(os.fstat(descriptor))
    return found and replace(found, birth_ns=birth_ns(descriptor))


def piece_is_written(descriptor: int, offset: int, size_bytes: int) -> bool:
    """Whether a piece of an open file was written to its end, in a file whose size may have been set before its bytes.

    ``SEEK_HOLE`` (lseek(2)) tells holes, by pages. It does not tell reserved space (``fallocate``) that was read
    meanwhile, by the kernel's readahead if by nobody else; and on FUSE, CIFS and older NFS it tells nothing. All of
    these read as zeros. So a piece is not written either if zeros are on both sides of its end and the file's last
    bytes are zeros, or a hole is before them.
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


def place_of_nearest_folder(path: str, within: str = "") -> FolderPlace | None:
    """See :meth:`Disk.place_around`. Blocks."""
    for folder in PurePath(path).parents:
        if within and not folder.is_relative_to(within) and PurePath(path).is_relative_to(within):
            return None
        try:
            descriptor = _open_folder(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            return None if folder == folder.parent else place_of(descriptor)
        finally:
            os.close(descriptor)
    return None


def _open_folder(folder: PurePath) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a folder that may be walked through only
        return os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)


def stat_with_birth(path: str) -> FileStat | None:
    """A look at the regular file of that name, and when it was made. Blocks.

    Raises:
        OSError: as ``os.lstat``.
    """
    with folder_of(path) as (folder, name):
        found = regular_file_stat(os.stat(name, dir_fd=folder, follow_symlinks=False))
        return found and replace(found, birth_ns=birth_ns(folder, name))


class KernelDisk:
    """The real file system."""

    def __init__(self, mounts: Mounts | None = None, *, max_threads: int = 8) -> None:
        """``max_threads`` is each mount's share, where no ``mounts`` are given."""
        self._mounts = mounts or Mounts(max_threads=max_threads)
        self._left_open: WeakKeyDictionary[Mount, deque[_Descriptor]] = WeakKeyDictionary()
        """Files that nobody wants and that no thread of their mount was free to close; any of those may take from it.
        """

    async def stat(self, path: str) -> FileStat | None:
        """See :meth:`Disk.stat`."""
        try:
            return await self._mounts.run(path, lambda: stat_with_birth(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise refusal(f"cannot look at {path!r}", error) from error

    async def place_around(self, path: str, *, within: str = "") -> FolderPlace | None:
        """See :meth:`Disk.place_around`."""
        try:
            return await self._mounts.run(path, lambda: place_of_nearest_folder(path, within))
        except OSError as error:
            raise refusal(f"cannot look at the folder of {path!r}", error) from error

    async def change(self, call: Callable[[], T], *, path: str = "/") -> T:
        """See :meth:`Disk.change`. The one kind of call here that is never abandoned: a file that an abandoned thread
        deletes later would be deleted behind everybody's back.
        """
        try:
            return await self._mounts.change(path, call)
        except MountHungError as error:
            raise refusal(f"cannot change {path!r}", error) from error

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[OpenRecording]:
        """See :meth:`Disk.open`."""
        descriptor = _Descriptor(path)
        try:
            try:
                # O_NONBLOCK: the open of a FIFO that took the recording's name must not wait for its writer.
                await self._mounts.run(path, descriptor.open)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise RecordingChangedError(f"{path!r} is not there any more") from error
            except OSError as error:
                if error.errno in {errno.ELOOP, errno.EMLINK, errno.ENXIO}:
                    raise RecordingChangedError(f"{path!r} is not a regular file any more") from error
                raise refusal(f"cannot open {path!r}", error) from error
            recording = _KernelRecording(descriptor, path, self._mounts)
            await recording.stat()
            yield recording
        finally:
            await self._close(descriptor, self._mounts.of(path))

    async def _close(self, descriptor: _Descriptor, mount: Mount) -> None:
        descriptor.unwanted()
        left_open = self._left_open.setdefault(mount, deque())
        try:
            with shielded(_CLOSE_SECONDS, saving="file's close"):
                close = partial(_close_now, descriptor, left_open)
                # Threads of their own, so that nobody's reading can keep a file open.
                await run_in_thread(close, abandon_on_cancel=True, limiter=mount.closing)
        finally:
            if descriptor.is_open:  # no thread was free in that time: the next one that is closes it too
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
        self._unwanted = False
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        if self._number is None:
            raise RuntimeError("the file is not open")
        return self._number

    @property
    def is_open(self) -> bool:
        """Whether nobody has begun to close it."""
        return self._number is not None

    def open(self) -> None:
        number = open_straight(self._path, os.O_RDONLY | os.O_NONBLOCK)
        self.generation = inode_generation(number)
        with self._lock:
            if not self._unwanted:
                self._number = number
                return
        os.close(number)  # the task was cancelled while a slow disk kept this thread

    def unwanted(self) -> None:
        """Whoever is still opening it is to close it himself."""
        with self._lock:
            self._unwanted = True

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
        # fstat of an open file asks no directory, and on local file systems no disk; a network file system may ask its
        # server, so it is a worker's job too.
        descriptor = self._descriptor
        try:
            found = await self._mounts.run(self._path, lambda: open_file_stat(descriptor))
        except OSError as error:
            raise refusal(f"cannot look at {self._path!r}", error) from error
        if found is None:
            raise RecordingChangedError(f"{self._path!r} is not a regular file")
        return found

    async def origin(self) -> Origin:
        try:
            return await self._mounts.run(self._path, lambda: origin_of(self._descriptor))
        except OSError as error:
            raise refusal(f"cannot look at {self._path!r}", error) from error

    async def read(self, offset: int, size_bytes: int) -> bytes:
        if self._nowait is not None:
            view = _HOT_BLOCK[:size_bytes]
            try:
                count = os.preadv(self._descriptor, [view], offset, self._nowait)
            except BlockingIOError:
                pass  # cold: the disk has to be waited for
            except OSError as error:
                if error.errno not in _CANNOT_SAY:
                    raise self._refused(offset, error) from error
                self._nowait = None  # this file system cannot tell hot from cold
            else:
                block = bytes(view[:count])
                # A checkpoint for each block read inline: fair to the other tasks, and a place to be cancelled at.
                await trio.lowlevel.checkpoint()
                return block
        descriptor = self._descriptor
        try:
            return await self._mounts.run(self._path, lambda: os.pread(descriptor, size_bytes, offset))
        except OSError as error:
            raise self._refused(offset, error) from error

    async def is_written(self, offset: int, size_bytes: int) -> bool:
        descriptor = self._descriptor
        try:
            return await self._mounts.run(self._path, lambda: piece_is_written(descriptor, offset, size_bytes))
        except OSError as error:
            raise self._refused(offset, error) from error

    def _refused(self, offset: int, error: OSError) -> FileAccessError:
        return refusal(f"cannot read {self._path!r} at byte {offset}", error)


async def head_of(recording: OpenRecording, size_bytes: int) -> bytes:
    """The first ``size_bytes`` bytes of a recording, fewer if it is shorter."""
    head = b""
    while len(head) < size_bytes:
        block = await recording.read(len(head), size_bytes - len(head))
        if not block:
            break
        head += block
    return head


__all__: Sequence[str] = (
    "BLOCK_BYTES",
    "Disk",
    "FileSlice",
    "KernelDisk",
    "OpenRecording",
    "head_of",
    "regular_file_stat",
)
