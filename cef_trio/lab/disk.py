"""The file system without threads: real files, read inline, with a checkpoint where the real disk has one.

A virtual clock jumps ahead while a worker thread works, since no task can run; so nothing in the laboratory uses one.
A changing call is made by a process that lives: :class:`MortalDisk` has none of a dead one's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TypeVar

import trio

from cef_trio.disk import OpenRecording, open_file_stat, place_of_nearest_folder, refusal, stat_with_birth
from cef_trio.exceptions import AfterUploadError, RecordingChangedError
from cef_trio.file_system import FolderPlace, Origin, inode_generation, origin_of
from cef_trio.lab.mortal import Death, Life
from cef_trio.paths import open_straight
from cef_trio.recording import FileStat

T = TypeVar("T")


class InlineDisk:
    """A :class:`cef_trio.disk.Disk` that never leaves the task."""

    async def stat(self, path: str) -> FileStat | None:
        """See :meth:`cef_trio.disk.Disk.stat`."""
        await trio.lowlevel.checkpoint()
        try:
            return stat_with_birth(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise refusal(f"cannot look at {path!r}", error) from error

    async def place_around(self, path: str, *, within: str = "") -> FolderPlace | None:
        """See :meth:`cef_trio.disk.Disk.place_around`."""
        await trio.lowlevel.checkpoint()
        return place_of_nearest_folder(path, within)

    async def change(self, call: Callable[[], T]) -> T:
        """See :meth:`cef_trio.disk.Disk.change`."""
        await trio.lowlevel.checkpoint()
        return call()

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[OpenRecording]:
        """See :meth:`cef_trio.disk.Disk.open`."""
        await trio.lowlevel.checkpoint()
        try:
            descriptor = open_straight(path, os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RecordingChangedError(f"{path!r} is not there any more") from error
        except OSError as error:
            raise refusal(f"cannot open {path!r}", error) from error
        try:
            yield InlineRecording(descriptor)
        finally:
            os.close(descriptor)


class MortalDisk(InlineDisk):
    """The disk as one process sees it: once that is dead, it changes nothing any more.

    Args:
        life: the process.
        watching: entered around each changing call, by whoever wants to see what it does.
    """

    def __init__(self, life: Life, watching: Callable[[], AbstractContextManager[None]]) -> None:
        self._life = life
        self._watching = watching

    async def change(self, call: Callable[[], T]) -> T:
        """See :meth:`cef_trio.disk.Disk.change`."""
        await trio.lowlevel.checkpoint()
        number = self._life.begins("disk change")
        if self._life.reaches(number, Death.BEFORE):
            raise AfterUploadError("the process is dead")
        with self._watching():
            answer = call()
        if self._life.reaches(number, Death.UNANSWERED):
            raise AfterUploadError("the process is dead")
        self._life.reaches(number, Death.ANSWERED)
        return answer


class InlineRecording:
    """An open file, read inline."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.generation = inode_generation(descriptor)

    async def stat(self) -> FileStat:
        """See :meth:`cef_trio.disk.OpenRecording.stat`."""
        await trio.lowlevel.checkpoint()
        found = open_file_stat(self._descriptor)
        if found is None:
            raise RecordingChangedError("it is not a regular file")
        return found

    async def origin(self) -> Origin:
        """See :meth:`cef_trio.disk.OpenRecording.origin`."""
        await trio.lowlevel.checkpoint()
        return origin_of(self._descriptor)

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """See :meth:`cef_trio.disk.OpenRecording.read`."""
        block = os.pread(self._descriptor, size_bytes, offset)
        await trio.lowlevel.checkpoint()
        return block
