"""Reading the watch folder from end to end: the truth that events only hint at.

A folder that cannot be read is an error, or is named as unreadable, and never "empty": an empty folder would mean that
every recording in it was deleted. Symbolic links are not followed, neither to files nor to folders, nor where a link
takes a folder's place during the scan (``paths.py``). All of this only reads, in a worker thread that a cancellation
abandons: a hung disk holds no exit back (promise P4), and a limiter of its own keeps it from piling up threads (P7).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

from cef_trio.disk import regular_file_stat
from cef_trio.intake.patterns import PathMatcher
from cef_trio.paths import open_straight, stat_straight
from cef_trio.recording import FileStat
from cef_trio.threads import run_in_thread

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scan:
    """A folder as it was read."""

    root: tuple[int, int]
    """Device and inode of the folder itself: another one under its name is another folder."""
    files: Mapping[str, FileStat]
    folders: frozenset[str]
    """The folder and all below it that could be read."""
    unreadable: frozenset[str]


class FolderReader(Protocol):
    """How the watcher reads the file system."""

    async def scan(self, folder: str) -> Scan:
        """Read a folder from end to end.

        Raises:
            OSError: the folder itself cannot be read.
        """
        ...

    async def stats(self, paths: Iterable[str]) -> Mapping[str, FileStat]:
        """Look at these; what is no regular file (any more) is absent."""
        ...


class ThreadedReader:
    """The real one."""

    def __init__(self, matches: PathMatcher, *, max_threads: int = 2) -> None:
        self._matches = matches
        self._threads = trio.CapacityLimiter(max_threads)

    async def scan(self, folder: str) -> Scan:
        """See :meth:`FolderReader.scan`."""
        return await self._in_thread(lambda: scan_now(folder, self._matches))

    async def stats(self, paths: Iterable[str]) -> Mapping[str, FileStat]:
        """See :meth:`FolderReader.stats`."""
        wanted = tuple(paths)
        return await self._in_thread(lambda: stats_now(wanted))

    async def _in_thread(self, read: Callable[[], T]) -> T:
        return await run_in_thread(read, abandon_on_cancel=True, limiter=self._threads)


def scan_now(folder: str, matches: PathMatcher) -> Scan:
    """Read a folder and everything below it. Blocks.

    Raises:
        OSError: the folder itself cannot be read.
    """
    own = stat_straight(folder)
    files: dict[str, FileStat] = {}
    folders: set[str] = set()
    unreadable: set[str] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            found_files, found_folders = _read_one(current, matches)
        except OSError as error:
            if current == folder:
                raise
            if not isinstance(error, FileNotFoundError | NotADirectoryError):  # gone, or a link stands there now
                unreadable.add(current)
            continue
        folders.add(current)
        files.update(found_files)
        waiting += found_folders
    return Scan((own.st_dev, own.st_ino), files, frozenset(folders), frozenset(unreadable))


def _read_one(folder: str, matches: PathMatcher) -> tuple[dict[str, FileStat], list[str]]:
    files: dict[str, FileStat] = {}
    folders: list[str] = []
    descriptor = open_straight(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)  # noqa: PTH118 - names may hold any byte
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_file(follow_symlinks=False) and matches(path):
                    try:
                        found = regular_file_stat(entry.stat(follow_symlinks=False))
                    except FileNotFoundError:
                        continue
                    if found is not None:
                        files[path] = found
    finally:
        os.close(descriptor)
    return files, folders


def stats_now(paths: Iterable[str]) -> dict[str, FileStat]:
    """Look at these; what is no regular file, or cannot be looked at, is absent. Blocks."""
    found: dict[str, FileStat] = {}
    for path in paths:
        try:
            stat = regular_file_stat(stat_straight(path))
        except OSError:
            continue  # gone since, or not to be seen: the next scan says which
        if stat is not None:
            found[path] = stat
    return found
