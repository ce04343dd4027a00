"""The disk without threads: real files, read inline, with a checkpoint where the real disk has one.

The virtual clock would jump ahead while a worker thread runs, so the laboratory uses none. Changing calls of a crashed
process fail before they take effect (:class:`CrashableDisk`). A simulated kernel (``kernel.py``) handles the system
calls.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import TypeVar

import trio

from cef_trio.exceptions import AfterUploadError, RecordingChangedError
from cef_trio.files.disk_space import Allocation, DiskSpace, allocation_of, disk_space_of
from cef_trio.files.file_stat import FileStat
from cef_trio.files.file_system import FolderMount, Origin, inode_generation, origin_of
from cef_trio.files.nofollow import open_nofollow
from cef_trio.files.reader import (
    OpenRecording,
    access_errors,
    mount_of_nearest_folder,
    open_errors,
    open_file_stat,
    piece_is_written,
    stat_with_birth,
)
from cef_trio.lab.crash_simulation import CrashMoment, Life
from cef_trio.watch.patterns import PathMatcher
from cef_trio.watch.scan import EVERYTHING, Scan, scan_now, stats_now

T = TypeVar("T")


Intercepting = Callable[[], AbstractContextManager[None]]
"""Entered around each block of system calls."""


class InlineDisk:
    """A :class:`cef_trio.files.reader.Disk` without threads."""

    def __init__(
        self,
        intercepting: Intercepting = nullcontext,
        read_seconds: Callable[[], float] = float,
        measure: Callable[[DiskSpace], DiskSpace] = lambda real: real,
    ) -> None:
        self._intercepting = intercepting
        self._read_seconds = read_seconds
        self._measure = measure

    async def stat(self, path: str) -> FileStat | None:
        """See :meth:`cef_trio.files.reader.Disk.stat`."""
        await trio.lowlevel.checkpoint()
        with access_errors(f"cannot look at {path!r}"):
            try:
                with self._intercepting():
                    return stat_with_birth(path)
            except (FileNotFoundError, NotADirectoryError):
                return None

    async def mount_around(self, path: str, *, within: str = "") -> FolderMount | None:
        """See :meth:`cef_trio.files.reader.Disk.mount_around`."""
        await trio.lowlevel.checkpoint()
        with access_errors(f"cannot look at the folder of {path!r}"), self._intercepting():
            return mount_of_nearest_folder(path, within)

    async def space(self, folder: str) -> DiskSpace:
        """See :meth:`cef_trio.files.reader.Disk.space`."""
        await trio.lowlevel.checkpoint()
        with access_errors(f"cannot measure the free space of {folder!r}"), self._intercepting():
            return self._measure(disk_space_of(folder))

    async def allocation(self, path: str) -> Allocation | None:
        """See :meth:`cef_trio.files.reader.Disk.allocation`."""
        await trio.lowlevel.checkpoint()
        with access_errors(f"cannot look at {path!r}"), self._intercepting():
            return allocation_of(path)

    async def change(self, call: Callable[[], T], *, path: str = "/") -> T:
        """See :meth:`cef_trio.files.reader.Disk.change`. Nothing hangs here."""
        del path
        await trio.lowlevel.checkpoint()
        with self._intercepting():
            return call()

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[OpenRecording]:
        """See :meth:`cef_trio.files.reader.Disk.open`."""
        await trio.lowlevel.checkpoint()
        with open_errors(path), self._intercepting():
            descriptor = open_nofollow(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            recording = InlineRecording(descriptor, path, self._intercepting, self._read_seconds)
            recording.stat_now()
            yield recording
        finally:
            os.close(descriptor)


class CrashableDisk(InlineDisk):
    """The disk of one process: changing calls fail once the process has crashed.

    Args:
        life: the process.
        watching: entered around each changing call, to observe its effect.
        answering: entered around each block of system calls.
        read_seconds: how long a read takes.
        measure: the free space to report, from the real one.
    """

    def __init__(
        self,
        life: Life,
        watching: Intercepting,
        intercepting: Intercepting = nullcontext,
        read_seconds: Callable[[], float] = float,
        measure: Callable[[DiskSpace], DiskSpace] = lambda real: real,
    ) -> None:
        super().__init__(intercepting, read_seconds, measure)
        self._life = life
        self._watching = watching

    async def change(self, call: Callable[[], T], *, path: str = "/") -> T:
        """See :meth:`cef_trio.files.reader.Disk.change`. Nothing hangs here."""
        del path
        await trio.lowlevel.checkpoint()
        number = self._life.begin_call("disk change")
        if self._life.reaches(number, CrashMoment.BEFORE):
            raise AfterUploadError("the process has crashed")
        with self._watching(), self._intercepting():
            result = call()
        if self._life.reaches(number, CrashMoment.UNANSWERED):
            raise AfterUploadError("the process has crashed")
        self._life.reaches(number, CrashMoment.ANSWERED)
        return result


class InlineRecording:
    """An open file, read inline."""

    def __init__(
        self,
        descriptor: int,
        path: str,
        intercepting: Intercepting = nullcontext,
        read_seconds: Callable[[], float] = float,
    ) -> None:
        self._descriptor = descriptor
        self._read_seconds = read_seconds
        self._path = path
        self._intercepting = intercepting
        with intercepting():
            self.generation = inode_generation(descriptor)

    async def stat(self) -> FileStat:
        """See :meth:`cef_trio.files.reader.OpenRecording.stat`."""
        await trio.lowlevel.checkpoint()
        return self.stat_now()

    def stat_now(self) -> FileStat:
        """Return the file's status, without a checkpoint."""
        with access_errors(f"cannot look at {self._path!r}"), self._intercepting():
            found = open_file_stat(self._descriptor)
        if found is None:
            raise RecordingChangedError(f"{self._path!r} is not a regular file")
        return found

    async def origin(self) -> Origin:
        """See :meth:`cef_trio.files.reader.OpenRecording.origin`."""
        await trio.lowlevel.checkpoint()
        with access_errors(f"cannot look at {self._path!r}"), self._intercepting():
            return origin_of(self._descriptor)

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """See :meth:`cef_trio.files.reader.OpenRecording.read`."""
        with access_errors(f"cannot read {self._path!r} at byte {offset}"), self._intercepting():
            block = os.pread(self._descriptor, size_bytes, offset)
        await trio.sleep(self._read_seconds())
        return block

    async def is_written(self, offset: int, size_bytes: int) -> bool:
        """See :meth:`cef_trio.files.reader.OpenRecording.is_written`."""
        await trio.lowlevel.checkpoint()
        with access_errors(f"cannot read {self._path!r} at byte {offset}"), self._intercepting():
            return piece_is_written(self._descriptor, offset, size_bytes)


class InlineReader:
    """A :class:`cef_trio.watch.scan.FolderReader` without threads."""

    def __init__(self, matches: PathMatcher, intercepting: Intercepting = nullcontext) -> None:
        self._matches = matches
        self._intercepting = intercepting

    async def scan(self, folder: str) -> Scan:
        """See :meth:`cef_trio.watch.scan.FolderReader.scan`."""
        await trio.lowlevel.checkpoint()
        with self._intercepting():
            return scan_now(folder, self._matches)

    async def scan_everything(self, folder: str) -> Scan:
        """See :meth:`cef_trio.watch.scan.FolderReader.scan_everything`."""
        await trio.lowlevel.checkpoint()
        with self._intercepting():
            return scan_now(folder, EVERYTHING)

    async def stats(self, paths: Iterable[str]) -> Mapping[str, FileStat]:
        """See :meth:`cef_trio.watch.scan.FolderReader.stats`."""
        await trio.lowlevel.checkpoint()
        with self._intercepting():
            return stats_now(sorted(paths))

    async def ask(self, folder: str, call: Callable[[], T]) -> T:
        """See :meth:`cef_trio.watch.scan.FolderReader.ask`."""
        del folder
        await trio.lowlevel.checkpoint()
        return call()
