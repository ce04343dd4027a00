"""Translates inotify events to changes of paths. Pure except for the kernel's watches.

A raw event names a watch and a name in its folder; a watch outlives a rename of its folder. :class:`FolderWatches` maps
watches to folders, and :func:`translate` converts a batch of raw events to :class:`Change` objects, in order.

``watcher.py`` handles an overflow of the kernel's queue, its limits, and file systems that report no events.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from inotify_simple import Event, flags

MASK = (
    flags.CREATE
    | flags.MODIFY
    | flags.CLOSE_WRITE
    | flags.ATTRIB
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.DELETE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
    | flags.DONT_FOLLOW
    | flags.EXCL_UNLINK
)


class ChangeKind(Enum):
    """Kind of change."""

    SEEN = "seen"
    CLOSED = "closed"
    GONE = "gone"
    MOVED = "moved"
    FOLDER_CAME = "folder_came"
    FOLDER_MOVED = "folder_moved"
    FOLDER_WENT = "folder_went"
    RESCAN = "rescan"
    ROOT_LOST = "root_lost"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a path; ``old_path`` is set for moves."""

    kind: ChangeKind
    path: str = ""
    old_path: str = ""


class Kernel(Protocol):
    """The two inotify calls."""

    def add_watch(self, path: str, mask: int) -> int:
        """Watch a folder; return the watch descriptor."""
        ...

    def rm_watch(self, wd: int) -> None:
        """Remove a watch."""
        ...


class FolderWatches:
    """Map of watches to folders. :meth:`add` runs in a worker thread, everything else in the trio thread."""

    def __init__(self, kernel: Kernel, root: str, *more_roots: str) -> None:
        self._kernel = kernel
        self.root = root
        self.more_roots = more_roots
        """Other watched folders, which may come and go."""
        self._folders: dict[int, str] = {}
        self._doubted: set[int] = set()
        """Those that were entered before events were lost: the kernel may have dropped them."""
        self._doubts = 0
        """How often events were lost."""
        self._adding = 0
        """How many calls of :meth:`add` are under way."""
        self._dropped_meanwhile: set[int] = set()
        """Watches that the kernel dropped during an :meth:`add`: it may be about to enter one of them."""
        self._lock = threading.Lock()
        """Never held during a kernel call."""

    @property
    def folders(self) -> frozenset[str]:
        """The watched folders."""
        with self._lock:
            return frozenset(self._folders.values())

    @property
    def sure(self) -> frozenset[str]:
        """Those whose watch is not in doubt."""
        with self._lock:
            return frozenset(folder for wd, folder in self._folders.items() if wd not in self._doubted)

    def doubt(self) -> None:
        """Note that events were lost: any watch may be of a folder that was deleted, or has another name now."""
        with self._lock:
            self._doubts += 1
            self._doubted.update(self._folders)

    def folder(self, wd: int) -> str | None:
        """Return the folder of a watch."""
        return self._folders.get(wd)

    def add(self, folder: str) -> None:
        """Watch a folder, in place of another one that had its name. Blocks while its file system looks it up.

        A folder that is watched keeps its watch, and no event is lost.

        Raises:
            OSError: the folder is gone, or the kernel's limit is reached (ENOSPC).
        """
        with self._lock:
            self._adding += 1
            doubts = self._doubts
        others: list[int] = []
        try:
            wd = self._kernel.add_watch(folder, MASK)
            with self._lock:  # in this thread: the first event may be read before the caller resumes
                others = [other for other, name in self._folders.items() if name == folder and other != wd]
                self._remove(others)
                if wd not in self._dropped_meanwhile:
                    self._folders[wd] = folder
                    if doubts == self._doubts:
                        self._doubted.discard(wd)
                    else:
                        self._doubted.add(wd)
        finally:
            with self._lock:
                self._adding -= 1
                if not self._adding:
                    self._dropped_meanwhile.clear()
        self._unwatch(others)

    def forget(self, wd: int) -> None:
        """Remove a watch that the kernel has dropped."""
        with self._lock:
            self._remove([wd])
            if self._adding:
                self._dropped_meanwhile.add(wd)

    def rename(self, old: str, new: str) -> None:
        """Update the watches of a renamed folder and of the folders below it."""
        with self._lock:
            for wd, folder in self._folders.items():
                if folder == old or folder.startswith(f"{old}/"):
                    self._folders[wd] = new + folder[len(old) :]

    def drop(self, folder: str) -> None:
        """Stop watching a folder and the folders below it."""
        with self._lock:
            dropped = [wd for wd, name in self._folders.items() if name == folder or name.startswith(f"{folder}/")]
            self._remove(dropped)
        self._unwatch(dropped)

    def drop_all(self) -> None:
        """Stop watching all folders."""
        with self._lock:
            dropped = list(self._folders)
            self._remove(dropped)
        self._unwatch(dropped)

    def _remove(self, wds: Iterable[int]) -> None:
        for wd in wds:
            self._folders.pop(wd, None)
            self._doubted.discard(wd)

    def _unwatch(self, wds: Iterable[int]) -> None:
        for wd in wds:
            with suppress(OSError):  # deleted meanwhile: the kernel dropped the watch
                self._kernel.rm_watch(wd)


def unpaired_moves(events: Iterable[Event]) -> bool:
    """Return whether a ``MOVED_FROM`` has no ``MOVED_TO`` yet."""
    halves: set[int] = set()
    for event in events:
        if event.mask & flags.MOVED_FROM:
            halves.add(event.cookie)
        elif event.mask & flags.MOVED_TO:
            halves.discard(event.cookie)
    return bool(halves)


def translate(events: Iterable[Event], watches: FolderWatches) -> list[Change]:
    """Translate a batch of raw events; repeated writes to a file become one change."""
    batch = list(events)
    moved_to = {event.cookie: event for event in batch if event.mask & flags.MOVED_TO}
    moved_from = {event.cookie for event in batch if event.mask & flags.MOVED_FROM}
    changes: list[Change] = []
    for event in batch:
        changes += _changes_of(event, watches, moved_to, moved_from)
    return _without_repetition(changes)


def final_paths(changes: Sequence[Change], present: Container[str]) -> list[str | None]:
    """Return for each change where its file is after all of them; ``None``: gone. Only moved files are followed.

    In a swap of two names by a third one, no file is at the third name any more when its first rename is reported.
    ``present``: the paths at which there is a file now. If a rename is followed by its inverse, and both are, the two
    names were exchanged (``RENAME_EXCHANGE``).
    """
    finally_at: dict[str, str | None] = {}  # the file that is at a path at this point: where it is at the end
    found: list[str | None] = []
    following: Change | None = None
    for change in reversed(changes):
        place: str | None = change.path
        if change.kind is ChangeKind.MOVED:
            if following is not None and _are_exchanged(change, following, present):
                finally_at[change.old_path] = change.path
            else:
                place = finally_at.get(change.path, change.path)
                finally_at[change.path], finally_at[change.old_path] = None, place  # it replaces what was there
        elif change.kind is ChangeKind.GONE:
            finally_at[change.path] = None
        found.append(place)
        following = change
    return found[::-1]


def have_moved_on(changes: Sequence[Change], present: Container[str]) -> bool:
    """Return whether a renamed file is not at its last name: it was renamed again or deleted, and events follow."""
    moved = {change.path for change in changes if change.kind is ChangeKind.MOVED}
    return any(place in moved and place not in present for place in final_paths(changes, present))


def _are_exchanged(change: Change, following: Change, present: Container[str]) -> bool:
    is_inverse = following.kind is ChangeKind.MOVED and (following.old_path, following.path) == (
        change.path,
        change.old_path,
    )
    return is_inverse and change.path in present and change.old_path in present


def _changes_of(  # noqa: C901, PLR0911, PLR0912 - one branch per kind of event
    event: Event, watches: FolderWatches, moved_to: Mapping[int, Event], moved_from: set[int]
) -> list[Change]:
    if event.mask & flags.Q_OVERFLOW:
        watches.doubt()
        return [Change(ChangeKind.RESCAN)]
    folder = watches.folder(event.wd)
    if event.mask & (flags.IGNORED | flags.UNMOUNT):
        watches.forget(event.wd)
    if folder is None:
        return []
    if event.mask & (flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.IGNORED):
        if folder in watches.more_roots:
            return [Change(ChangeKind.FOLDER_WENT, folder)]
        return [Change(ChangeKind.ROOT_LOST)] if folder == watches.root else []
    path = f"{folder}/{event.name}"
    if event.mask & flags.MOVED_FROM:
        other = moved_to.get(event.cookie)
        new_folder = watches.folder(other.wd) if other is not None else None
        if other is None or new_folder is None:
            return _removed(event, path, watches)
        new_path = f"{new_folder}/{other.name}"
        if event.mask & flags.ISDIR:
            watches.rename(path, new_path)
            return [Change(ChangeKind.FOLDER_MOVED, new_path, path)]
        return [Change(ChangeKind.MOVED, new_path, path)]
    if event.mask & flags.ISDIR:
        if event.mask & flags.ATTRIB:
            return [Change(ChangeKind.FOLDER_CAME, path)]  # permissions may have changed: rescan it
        if event.mask & flags.MOVED_TO and event.cookie in moved_from:
            return []
        came = event.mask & (flags.CREATE | flags.MOVED_TO)
        return [Change(ChangeKind.FOLDER_CAME, path)] if came else _removed(event, path, watches)
    if event.mask & flags.DELETE:
        return [Change(ChangeKind.GONE, path)]
    if event.mask & flags.CLOSE_WRITE:
        return [Change(ChangeKind.CLOSED, path)]
    if event.mask & flags.MOVED_TO and event.cookie in moved_from:
        return []
    return [Change(ChangeKind.SEEN, path)]


def _removed(event: Event, path: str, watches: FolderWatches) -> list[Change]:
    if not event.mask & flags.ISDIR:
        return [Change(ChangeKind.GONE, path)]
    watches.drop(path)
    return [Change(ChangeKind.FOLDER_WENT, path)]


def _without_repetition(changes: list[Change]) -> list[Change]:
    """Drop a ``SEEN`` that is followed by another change of the same path."""
    kept: list[Change] = []
    later: set[str] = set()
    for change in reversed(changes):
        if change.kind is ChangeKind.SEEN and change.path in later:
            continue
        later.add(change.path)
        kept.append(change)
    return kept[::-1]
