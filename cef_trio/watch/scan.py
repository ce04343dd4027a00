"""Scans the watch folder.

A folder that cannot be read is an error or is listed as unreadable, never treated as empty: an empty folder would mean
that every recording in it was deleted. So is a single entry of a folder (a damaged inode, a stale handle): all others
are read. All calls only read, in worker threads that a cancellation abandons, so a hung
disk does not delay a shutdown (promise P4).

Symbolic links are not followed, even if a link replaces a folder during the scan (``files/nofollow.py``), unless they
lead into ``WATCH_LINK_ROOTS``. What such a link leads to is reported by its real path, and once, however many links
lead to it.

Each folder is read by its own call, and mounts are read concurrently (``files/mounts.py``): a mount that does not
respond is unreadable, and all others are read. Folders that ``WATCH_EXCLUDE`` leaves out are not read.
"""

from __future__ import annotations

import os
import stat as stat_module
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol, TypeVar

import trio

from cef_trio.files import (
    FileStat,
    MountHungError,
    Mounts,
    follow_link,
    is_on,
    open_nofollow,
    regular_file_stat,
    root_of,
    stat_nofollow,
)
from cef_trio.watch.patterns import PathMatcher, WatchScope

T = TypeVar("T")

_NO_NUMBERS: Final = FileStat(0, 0, 0, 0)
EVERYTHING: Final = WatchScope.around(lambda _: True)


@dataclass(frozen=True, slots=True)
class Excluded:
    """How many folders and recordings ``WATCH_EXCLUDE`` leaves out; what is in such a folder is not counted."""

    folders: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class Scan:
    """Result of a scan."""

    root: tuple[int, int]
    """Device and inode of the folder, to detect that it was replaced."""
    files: Mapping[str, FileStat]
    folders: frozenset[str]
    """The folder and all readable folders below it."""
    unreadable: frozenset[str]
    """Folders below it that cannot be read, and the :attr:`unreadable_entries`."""
    excluded: Excluded = Excluded()
    roots: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Device and inode of each watch folder that could be read, where several are watched."""
    links: frozenset[str] = frozenset()
    """Symbolic links that are not followed, except those that ``WATCH_EXCLUDE`` leaves out."""
    mounts: Mapping[str, int] = field(default_factory=dict)
    """The folders that are mount points, with their mount ids."""
    unreadable_entries: Mapping[str, FileStat] = field(default_factory=dict)
    """Entries of readable folders whose status cannot be read: recordings, and what may be a folder.

    Of a stat they have the device and inode number alone, which their folder tells; 0: not told.
    """

    def set_aside(self, top: str) -> Scan:
        """Return the scan with one of several watch folders as an unreadable one."""

        def elsewhere(paths: Iterable[str]) -> frozenset[str]:
            return frozenset(path for path in paths if not is_on(path, top))

        def of_others(found: Mapping[str, T]) -> dict[str, T]:
            return {path: found[path] for path in elsewhere(found)}

        return replace(
            self,
            files=of_others(self.files),
            folders=elsewhere(self.folders),
            unreadable=elsewhere(self.unreadable) | {top},
            roots={folder: self.roots[folder] for folder in self.roots if folder != top},
            links=elsewhere(self.links),
            mounts=of_others(self.mounts),
            unreadable_entries=of_others(self.unreadable_entries),
        )


class FolderReader(Protocol):
    """File system access of the watcher."""

    async def scan(self, folder: str) -> Scan:
        """Read a folder and everything below it; where several are watched, all of them for the first one.

        Raises:
            OSError: the folder itself cannot be read; of several, none can. One that cannot is among the unreadable.
        """
        ...

    async def scan_everything(self, folder: str) -> Scan:
        """As :meth:`scan`, with all other files, and with what ``WATCH_EXCLUDE`` leaves out."""
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
        self._scope = WatchScope.around(matches)
        self._mounts = mounts or Mounts()
        self.on_progress: Callable[[], object] = lambda: None
        """Called while a scan reads: a large folder of a NAS takes minutes."""

    async def scan(self, folder: str) -> Scan:
        """See :meth:`FolderReader.scan`."""
        return await self._scan(folder, self._scope)

    async def scan_everything(self, folder: str) -> Scan:
        """See :meth:`FolderReader.scan_everything`."""
        return await self._scan(folder, EVERYTHING)

    async def _scan(self, folder: str, scope: WatchScope) -> Scan:
        found = _Found(scope.tops(folder))
        async with trio.open_nursery() as mounts:
            for top in found.tops:
                mounts.start_soon(self._read_top, top, scope, found, mounts)
        return found.scan()

    async def _read_top(self, top: str, scope: WatchScope, found: _Found, mounts: trio.Nursery) -> None:
        try:
            found.own[top] = await self._mounts.run(top, lambda: stat_nofollow(top))
        except OSError as error:
            found.cannot_read(top, error)
        else:
            await self._read_mount(top, scope, found, mounts)

    async def _read_mount(self, top: str, scope: WatchScope, found: _Found, mounts: trio.Nursery) -> None:
        """Read a folder and everything below it on the same mount; start a task for each mount below."""
        waiting = [top]
        while waiting:
            current = waiting.pop()
            try:
                read = partial(_read_one, current, scope, points=self._mounts.points)
                one = await self._mounts.run_long(current, read, self.on_progress)
            except NotADirectoryError as error:
                found.cannot_read(current, error)
                if current not in found.tops and scope(current):  # a mount point that is a file
                    await self._read_file(current, found)
                continue
            except OSError as error:
                found.cannot_read(current, error)
                continue
            found.read(current, one, self._mounts.points.get(current))
            for link in one.links:
                if scope.link_roots:
                    mounts.start_soon(self._follow, link, scope, found, mounts)  # its mount may not respond
                else:
                    found.follow(link, None, scope)
            for folder in filter(found.claim, one.folders):
                if folder in self._mounts.points:
                    mounts.start_soon(self._read_mount, folder, scope, found, mounts)
                else:
                    waiting.append(folder)

    async def _read_file(self, path: str, found: _Found) -> None:
        try:
            stat = regular_file_stat(await self._mounts.run(path, lambda: stat_nofollow(path)))
        except OSError as error:
            found.cannot_read(path, error, is_entry=True)
        else:
            if stat is not None:
                found.add(path, stat)

    async def _follow(self, link: _Link, scope: WatchScope, found: _Found, mounts: trio.Nursery) -> None:
        """Read what a link leads to, if it is followed."""
        try:
            followed = await self._mounts.run(link.target, partial(_look_behind, link.path, scope))
        except OSError as error:
            found.cannot_follow(link, error, scope)
            return
        if (folder := found.follow(link, followed, scope)) is not None:
            await self._read_mount(folder, scope, found, mounts)

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


@dataclass(slots=True)
class _OneFolder:
    """What a folder holds, without the folders below it."""

    files: dict[str, FileStat] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    excluded_folders: int = 0
    excluded_files: int = 0
    links: list[_Link] = field(default_factory=list)
    unreadable: dict[str, FileStat] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Link:
    """A symbolic link, and what it names, absolute; other links may be in that path."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class _Followed:
    """What a link leads to: a file with its stat, or a folder without."""

    path: str
    stat: FileStat | None


class _Found:
    """Accumulates a scan."""

    def __init__(self, tops: tuple[str, ...]) -> None:
        self.tops = tops
        self.own: dict[str, os.stat_result] = {}
        """The stat of each top folder that can be read."""
        self._files: dict[str, FileStat] = {}
        self._folders: set[str] = set()
        self._unreadable: set[str] = set()
        self._unreadable_entries: dict[str, FileStat] = {}
        self._excluded = Excluded()
        self._links: set[str] = set()
        self._mounts: dict[str, int] = {}
        self._claimed = set(tops)
        self._refused: dict[str, OSError] = {}
        """Why a top folder cannot be read."""

    def read(self, folder: str, one: _OneFolder, mount_id: int | None = None) -> None:
        self._folders.add(folder)
        if mount_id is not None:
            self._mounts[folder] = mount_id
        self._files.update(one.files)
        self._unreadable_entries.update(one.unreadable)
        before = self._excluded
        self._excluded = Excluded(before.folders + one.excluded_folders, before.files + one.excluded_files)

    def add(self, path: str, stat: FileStat) -> None:
        self._files[path] = stat

    def claim(self, folder: str) -> bool:
        """Return whether a folder is to be read: it was not claimed before, by another link or by its own path."""
        is_new = folder not in self._claimed
        self._claimed.add(folder)
        return is_new

    def follow(self, link: _Link, followed: _Followed | None, scope: WatchScope) -> str | None:
        """Add what a link leads to; return the folder to read, if it is one that was not claimed before."""
        if followed is None:
            if not scope.is_in_roots(link.target):  # what is below it is found by its own path
                self._links.add(link.path)
        elif followed.stat is None:
            if self.claim(followed.path):
                return followed.path
        elif scope(followed.path):
            self._files[followed.path] = followed.stat
        return None

    def cannot_follow(self, link: _Link, error: OSError, scope: WatchScope) -> None:
        """Add what a link into ``WATCH_LINK_ROOTS`` leads to as unreadable, by its real path as far as that is known.

        Any other link is one that is not followed: it leads nowhere, or to a mount elsewhere that does not respond.
        """
        target = os.fsdecode(error.filename or link.target)
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        if is_gone or not (target in scope.link_roots or root_of(target, scope.link_roots)):
            self.follow(link, None, scope)
        else:
            self._unreadable_entries[target] = _NO_NUMBERS

    def cannot_read(self, folder: str, error: OSError, *, is_entry: bool = False) -> None:
        """Add an unreadable folder, or an entry of one.

        One that is gone, is no folder or was replaced by a link is ignored, but for a top folder.
        """
        if folder in self.tops:
            self._refused[folder] = error
            self._unreadable.add(folder)
        elif not isinstance(error, FileNotFoundError | NotADirectoryError):
            if is_entry:
                self._unreadable_entries[folder] = _NO_NUMBERS
            else:
                self._unreadable.add(folder)

    def scan(self) -> Scan:
        """Return the result.

        Raises:
            OSError: no top folder can be read.
        """
        if len(self._refused) == len(self.tops):
            raise next(iter(self._refused.values()))
        roots = {top: (own.st_dev, own.st_ino) for top, own in self.own.items() if top not in self._refused}
        return Scan(
            next(iter(roots.values())),
            self._files,
            frozenset(self._folders),
            frozenset(self._unreadable | self._unreadable_entries.keys()),
            self._excluded,
            roots,
            frozenset(self._links),
            self._mounts,
            self._unreadable_entries,
        )


def scan_now(folder: str, matches: PathMatcher) -> Scan:
    """Read a folder and everything below it. Blocks.

    Raises:
        OSError: the folder itself cannot be read.
    """
    scope = WatchScope.around(matches)
    found = _Found(scope.tops(folder))
    waiting = list(found.tops)
    while waiting:
        current = waiting.pop()
        try:
            if current in found.tops:
                found.own[current] = stat_nofollow(current)
            one = _read_one(current, scope)
        except OSError as error:
            found.cannot_read(current, error)
            continue
        found.read(current, one)
        waiting += filter(found.claim, one.folders)
        for link in one.links:
            try:
                followed = _look_behind(link.path, scope)
            except OSError as error:
                found.cannot_follow(link, error, scope)
                continue
            if (behind := found.follow(link, followed, scope)) is not None:
                waiting.append(behind)
    return found.scan()


def _read_one(
    folder: str, scope: WatchScope, beat: Callable[[], None] = lambda: None, *, points: Collection[str] = ()
) -> _OneFolder:
    found = _OneFolder()
    descriptor = open_nofollow(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                beat()
                path = os.path.join(folder, entry.name)  # noqa: PTH118 - names may hold any byte
                try:
                    # Not called for mount points: is_dir() may need a stat, which asks the server of the mount.
                    if path in points or entry.is_dir(follow_symlinks=False):
                        if scope.excludes_folder(path):
                            found.excluded_folders += 1
                        else:
                            found.folders.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        if not scope(path):
                            found.excluded_files += scope.excludes_recording(path)
                        elif (stat := regular_file_stat(entry.stat(follow_symlinks=False))) is not None:
                            found.files[path] = stat
                    elif entry.is_symlink() and not scope.excludes_file(path) and not scope.excludes_folder(path):
                        with suppress(OSError):  # replaced meanwhile
                            found.links.append(_Link(path, _named_by(entry.name, folder, descriptor)))
                except FileNotFoundError:
                    continue
                except OSError:
                    # Raises if the folder is the trouble, or may not be entered.
                    own = os.stat(os.curdir, dir_fd=descriptor)
                    if scope(path) or not scope.excludes_folder(path):
                        found.unreadable[path] = FileStat(own.st_dev, entry.inode(), 0, 0)
    finally:
        os.close(descriptor)
    return found


def _named_by(name: str, folder: str, descriptor: int) -> str:
    """Return what a link in an open folder names, as an absolute path; nothing is looked up."""
    target = os.readlink(name, dir_fd=descriptor)
    return os.path.normpath(os.path.join(folder, target))  # noqa: PTH118 - names may hold any byte


def _look_behind(link: str, scope: WatchScope) -> _Followed | None:
    """Return what a link leads to; ``None`` if it is not followed, or leads to neither a file nor a folder.

    Raises:
        OSError: it leads nowhere, or the status of what it leads to cannot be read.
    """
    target = follow_link(link, scope.link_roots)
    if target is None or scope.excludes_folder(target):
        return None
    own = stat_nofollow(target)
    stat = regular_file_stat(own)
    return _Followed(target, stat) if stat is not None or stat_module.S_ISDIR(own.st_mode) else None


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
