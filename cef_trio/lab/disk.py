"""The file system without threads: real files, read inline, with a checkpoint where the real disk has one.

A virtual clock jumps ahead while a worker thread works, since no task can run; so nothing in the laboratory uses one.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cef_trio.disk import OpenRecording, device_of_nearest_folder, inode_generation, refusal, regular_file_stat
from cef_trio.exceptions import RecordingChangedError
from cef_trio.recording import FileStat


class InlineDisk:
    """A :class:`cef_trio.disk.Disk` that never leaves the task."""

    async def stat(self, path: str) -> FileStat | None:
        """See :meth:`cef_trio.disk.Disk.stat`."""
        await trio.lowlevel.checkpoint()
        try:
            return regular_file_stat(os.lstat(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise refusal(f"cannot look at {path!r}", error) from error

    async def device_around(self, path: str, *, within: str = "") -> int | None:
        """See :meth:`cef_trio.disk.Disk.device_around`."""
        await trio.lowlevel.checkpoint()
        return device_of_nearest_folder(path, within)

    @asynccontextmanager
    async def open(self, path: str) -> AsyncIterator[OpenRecording]:
        """See :meth:`cef_trio.disk.Disk.open`."""
        await trio.lowlevel.checkpoint()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RecordingChangedError(f"{path!r} is not there any more") from error
        except OSError as error:
            raise refusal(f"cannot open {path!r}", error) from error
        try:
            yield _InlineRecording(descriptor)
        finally:
            os.close(descriptor)


class _InlineRecording:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.generation = inode_generation(descriptor)

    async def stat(self) -> FileStat:
        await trio.lowlevel.checkpoint()
        found = regular_file_stat(os.fstat(self._descriptor))
        if found is None:
            raise RecordingChangedError("it is not a regular file")
        return found

    async def read(self, offset: int, size_bytes: int) -> bytes:
        block = os.pread(self._descriptor, size_bytes, offset)
        await trio.lowlevel.checkpoint()
        return block
