"""Scans the watch folder.

A folder that cannot be read is an error or is listed as unreadable, never treated as empty: an empty folder would mean
that every recording in it was deleted. Symbolic links are not followed, even if a link replaces a folder during the
scan (``files/nofollow.py``). All calls only read, in worker threads that a cancellation abandons, so a hung disk does
not delay a shutdown (promise P4).

Each folder is read by its own call, and mounts are read concurrently (``files/mounts.py``): a mount that does not
respond is unreadable, and all others are read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import trio

from cef_trio.files import FileStat, MountHungError, Mounts, open_nofollow, regular_file_stat, stat_nofollow
from cef_trio.watch.patterns import PathMatcher

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scan:
    """Result of a scan."""

    root: tuple[int, int]
    """Device and inode of the folder, to detect that it was replaced."""
    files: Mapping[str, FileStat]
    folders: frozenset[str]
    """The folder and all readable folders below it."""
    unreadable: frozenset[str]


class FolderReader(Protocol):
    """File system access of the watcher."""

    async def scan(self, folder: str) -> Scan:
        """Read a folder and everything below it.

        Raises:
            OSError: the folder itself cannot be read.
        """
        ...

    async def stats(self, paths: Iterable[str]) -> Mapping[str, FileStat]:
        """Return the stat of each regular file; others, and those that do not respond, are left out."""
        ...

    async def ask(self, folder: str, call: Callable[[], T]) -> T:
        """Make a call that may hang on a folder.

        Raises:
            OSError: raised by the call, or the folder does not respond.
        """
        ...


class ThreadedReader:
    """Reads in worker threads."""

    def __init__(self, matches: PathMatcher, mounts: Mounts | None = None) -> None:
        self._matches = matches
        self._mounts = mounts or Mounts()

    async def scan(self, folder: str) -> Scan:
        """See :meth:`FolderReader.scan`."""
        own = await self._mounts.run(folder, lambda: stat_nofollow(folder))
        found = _Found(folder)
        async with trio.open_nursery() as mounts:
            mounts.start_soon(self._read_mount, folder, found, mounts)
        if found.refused is not None:
            raise found.refused
        return found.scan(own)

    async def _read_mount(self, top: str, found: _Found, mounts: trio.Nursery) -> None:
        """Read a folder and everything below it on the same mount; start a task for each mount below."""
        waiting = [top]
        while waiting:
            current = waiting.pop()
            try:
                read = partial(_read_one, current, self._matches, points=self._mounts.points)
                files, folders = await self._mounts.run_long(current, read)
            except OSError as error:
                found.cannot_read(current, error)
                continue
            found.read(current, files)
            for folder in folders:
                if folder in self._mounts.points:
                    mounts.start_soon(self._read_mount, folder, found, mounts)
                else:
                    waiting.append(folder)

    async def stats(self, paths: Iterable[str]) -> Mapping[str, FileStat]:
        """See :meth:`FolderReader.stats`."""
        by_mount: dict[str, list[str]] = {}
        for path in paths:
            by_mount.setdefault(self._mounts.of(path).point, []).append(path)
        found: dict[str, FileStat] = {}

        async def look(some: list[str]) -> None:
            with suppress(MountHungError):
                found.update(await self._mounts.run_long(some[0], partial(stats_now, some)))

        async with trio.open_nursery() as nursery:
            for some in by_mount.values():
                nursery.start_soon(look, some)
        return found

    async def ask(self, folder: str, call: Callable[[], T]) -> T:
        """See :meth:`FolderReader.ask`."""
        return await self._mounts.run(folder, call)


class _Found:
    """Accumulates a scan."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: dict[str, FileStat] = {}
        self._folders: set[str] = set()
        self._unreadable: set[str] = set()
        self.refused: OSError | None = None
        """Why the folder itself cannot be read."""

    def read(self, folder: str, files: Mapping[str, FileStat]) -> None:
        self._folders.add(folder)
        self._files.update(files)

    def cannot_read(self, folder: str, error: OSError) -> None:
        """Add an unreadable folder; one that is gone or was replaced by a link is ignored."""
        if folder == self._folder:
            self.refused = error
        elif not isinstance(error, FileNotFoundError | NotADirectoryError):
            self._unreadable.add(folder)

    def scan(self, own: os.stat_result) -> Scan:
        """Return the result; ``own`` is the stat of the folder itself."""
        return Scan((own.st_dev, own.st_ino), self._files, frozenset(self._folders), frozenset(self._unreadable))


def scan_now(folder: str, matches: PathMatcher) -> Scan:
    """Read a folder and everything below it. Blocks.

    Raises:
        OSError: the folder itself cannot be read.
    """
    own = stat_nofollow(folder)
    found = _Found(folder)
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            files, folders = _read_one(current, matches)
        except OSError as error:
            found.cannot_read(current, error)
            if found.refused is not None:
                raise
            continue
        found.read(current, files)
        waiting += folders
    return found.scan(own)


def _read_one(
    folder: str, matches: PathMatcher, beat: Callable[[], None] = lambda: None, *, points: Collection[str] = ()
) -> tuple[dict[str, FileStat], list[str]]:
    files: dict[str, FileStat] = {}
    folders: list[str] = []
    descriptor = open_nofollow(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                beat()
                path = os.path.join(folder, entry.name)  # noqa: PTH118 - names may hold any byte
                # Not called for mount points: is_dir() may need a stat, which asks the server of the mount.
                if path in points or entry.is_dir(follow_symlinks=False):
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


def stats_now(paths: Iterable[str], beat: Callable[[], None] = lambda: None) -> dict[str, FileStat]:
    """Return the stat of each regular file; others are left out. Blocks."""
    found: dict[str, FileStat] = {}
    for path in paths:
        beat()
        try:
            stat = regular_file_stat(stat_nofollow(path))
        except OSError:
            continue  # gone or unreadable: the next scan tells which
        if stat is not None:
            found[path] = stat
    return found
