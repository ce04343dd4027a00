"""Watches a folder by inotify, where available, and by periodic scans.

Events are hints. A complete scan every ``rescan_seconds`` repairs what they missed: an overflow of the kernel's queue
(which may have hidden the end of a watch, so that all folders are watched anew), files created before their folder was
watched, a host that writes over the network (NFS, CIFS, sshfs), a file that is a mount point. If the kernel gives no
more watches, the folder is polled and the limit to raise is logged. If the folder itself disappears, that is an error,
not an empty folder: no event is sent until it is back.

No thread waits for events and nothing is polled: ``trio.lowlevel.wait_readable`` wakes the one task that reads them.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import structlog
import trio
from trio_util import AsyncBool

from cef_trio.files import FileStat, MountHungError, is_on, root_of
from cef_trio.watch.events import Closed, FileListener, Gone, Moved, Scanned, Seen
from cef_trio.watch.patterns import PathMatcher, WatchScope
from cef_trio.watch.scan import FolderReader, Scan, ThreadedReader

if sys.platform == "linux" or TYPE_CHECKING:
    from inotify_simple import Event, INotify

    from cef_trio.watch.inotify import (
        Change,
        ChangeKind,
        FolderWatches,
        final_paths,
        have_moved_on,
        translate,
        unpaired_moves,
    )

log = structlog.get_logger(__name__)

_POLL_SECONDS: Final = 1.0
"""Interval of scans while the folder cannot be watched or is missing."""
_RENAME_SECONDS: Final = 0.02
"""How long to wait for the second half of a rename; a read may fall between the two halves."""
_RENAMES_IN_A_ROW: Final = 5
"""How often at most later events are waited for, if a renamed file is not at its last name."""
_MAX_LOGGED: Final = 20
"""How many links, or unreadable entries, one event names."""
_MAX_LINKS: Final = 40
"""How many links a path may have, as for the kernel."""
_LIMITS: Final = {
    errno.EMFILE: "fs.inotify.max_user_instances",
    errno.ENOSPC: "fs.inotify.max_user_watches",
    errno.ENOMEM: "fs.inotify.max_user_watches",
}


class Watcher:
    """Watches a folder and everything below it, or several: those of the scope, of which ``folder`` is the first.

    Of several folders, one that cannot be read sets only itself aside: it is unreadable, and is tried by each scan. One
    inotify instance watches all of them, so that a rename from one to another is a rename.
    """

    def __init__(
        self,
        folder: str,
        matches: PathMatcher,
        listener: FileListener,
        *,
        rescan_seconds: float,
        reader: FolderReader | None = None,
        open_inotify: Callable[[], AbstractContextManager[INotify]] | None = None,
        links: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``links``: symbolic links that led to watched folders at the start, and to which."""
        self._folder = folder
        self._scope = WatchScope.around(matches)
        self._listener = listener
        self.rescan_seconds = rescan_seconds
        """Interval of complete scans."""
        self._reader = reader or ThreadedReader(matches)
        self._open_inotify = open_inotify
        self._rescan_wanted = AsyncBool(False)
        self._watches: FolderWatches | None = None
        self._roots: dict[str, tuple[int, int]] = {}
        """Device and inode of each watched folder at the last scan that could read it."""
        self._names: dict[tuple[int, int], str] = {}
        """By device and inode, the watch folder by whose name it was read first."""
        self._same_as: dict[str, str] = {}
        """Watch folders that the last scan set aside, and of which other one each is a second name."""
        self._logged_same_as: dict[str, str] = {}
        """Those of them that were logged."""
        self._mounts: Mapping[str, int] = {}
        """The mount ids of the folders that were mount points at the last scan that could read them."""
        self.last_run = trio.current_time()
        """``trio.current_time()`` of the last successful scan, for the health check."""
        self.read_at = self.last_run
        """``trio.current_time()`` when a scan last read something; one of a large folder takes minutes."""
        self.trouble: tuple[float, str] | None = None
        """``trio.current_time()`` since when the folder cannot be read, and the reason."""
        self._unreadable: frozenset[str] = frozenset()
        self._links: frozenset[str] = frozenset()
        """Symbolic links that the last scan did not follow."""
        self._watch_folder_links = links
        self._led_elsewhere: Mapping[str, str] = {}
        """Those of them that led to another folder at the last scan, and to which."""
        self.last_attempt = self.last_run
        """``trio.current_time()`` of the last scan, failed ones included; for the service manager's watchdog."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled. Reports started after the first complete scan was passed to the listener."""
        started = False

        def has_started() -> None:
            nonlocal started
            if not started:
                started = True
                task_status.started()

        logged = False
        while True:
            try:
                await self._watch_until_lost(has_started)
            except OSError as error:
                self._note_unreadable(str(error))
                if not logged:
                    log.error("watch_folder_unreadable", folder=self._folder, error=str(error))  # noqa: TRY400
                logged = True
            else:
                self._note_unreadable("it was moved, deleted or unmounted")
                log.error("watch_folder_lost", folder=self._folder)
                logged = False
            self.last_attempt = trio.current_time()
            await trio.sleep(_POLL_SECONDS)

    @property
    def mount_points(self) -> tuple[str, ...]:
        """The folders that were mount points at the last scan that could read them."""
        return tuple(self._mounts)

    def rescan(self) -> None:
        """Request a scan; it begins after a running one."""
        self._rescan_wanted.value = True

    def progressed(self) -> None:
        """Note that the running scan reads."""
        self.read_at = trio.current_time()

    def _note_unreadable(self, why: str) -> None:
        self.trouble = (trio.current_time() if self.trouble is None else self.trouble[0], why)

    async def _watch_until_lost(self, has_started: Callable[[], None]) -> None:
        with self._inotify() as inotify:
            self._watches = FolderWatches(inotify, *self._scope.tops(self._folder)) if inotify is not None else None
            self._roots = {}
            await self._rescan()
            has_started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._rescan_for_ever, nursery.cancel_scope)
                if inotify is not None:
                    nursery.start_soon(self._read_events, inotify, nursery.cancel_scope)

    def _inotify(self) -> AbstractContextManager[INotify | None]:
        if sys.platform != "linux":
            return nullcontext(None)
        try:
            return self._open_inotify() if self._open_inotify is not None else INotify(nonblocking=True)
        except OSError as error:
            self._log_limited(error)
            return nullcontext(None)

    def _log_limited(self, error: OSError) -> None:
        limit = _LIMITS.get(error.errno or 0)
        log.warning(
            "watch_limited", polling_seconds=_POLL_SECONDS, error=str(error), hint=f"raise {limit}" if limit else None
        )

    # -- scans --------------------------------------------------------------------------------------------------------

    async def _rescan_for_ever(self, scope: trio.CancelScope) -> None:
        while True:
            seconds = self.rescan_seconds if self._watches is not None else min(_POLL_SECONDS, self.rescan_seconds)
            with trio.move_on_after(seconds):
                await self._rescan_wanted.wait_value(True)
            self._rescan_wanted.value = False
            try:
                await self._rescan()
            except OSError as error:
                self._note_unreadable(str(error))
                log.error("watch_folder_unreadable", folder=self._folder, error=str(error))  # noqa: TRY400
                scope.cancel()

    async def _rescan(self) -> None:
        """Scan the folder, watch new folders, and send ``Scanned``.

        Raises:
            OSError: the folder cannot be read, or was replaced.
        """
        began_at = trio.current_time()
        scan = self._with_each_folder_once(await self._reader.scan(self._folder))
        self._note_roots(scan)
        self._note_mounts(scan)
        if await self._watch_new(scan):
            # Files may have been created before their folder was watched.
            began_at = trio.current_time()
            scan = self._with_each_folder_once(await self._reader.scan(self._folder))
            await self._watch_new(scan)
        leads_elsewhere = await self._leads_elsewhere()
        self.last_run = self.last_attempt = self.read_at = trio.current_time()
        if leads_elsewhere is None:
            self.trouble = None
        else:
            self._note_unreadable(leads_elsewhere)
        self._log_unreadable(scan)
        self._log_links(scan.links)
        self._forget_folders(scan)
        recordings = {
            path: stat for path, stat in scan.unreadable_entries.items() if stat.file_ino and self._scope(path)
        }
        self._listener.handle_event(
            Scanned(scan.files, scan.unreadable, recordings, len(scan.links), began_at=began_at)
        )

    async def _leads_elsewhere(self) -> str | None:
        """Return why new recordings may be missed: the watch folder's own name leads to another folder now.

        The folder that it led to at the start is watched on: paths in it are on record.
        """
        why, elsewhere = None, dict[str, str]()
        for link, folder in self._watch_folder_links.items():
            with suppress(OSError):
                if (now := await self._real_path(link)) != folder:
                    elsewhere[link] = now
                    why = f"{link} leads to {now} now, and {folder} is still watched: restart cef-trio"
        for link, now in elsewhere.items() - self._led_elsewhere.items():  # logged once, not at every scan
            log.error("watch_folder_lost", folder=link, leads_to=now)
        self._led_elsewhere = elsewhere
        return why

    async def _real_path(self, path: str) -> str:
        """Return a path without links, as ``os.path.realpath``; each part is asked for on its own mount.

        A link on a mount that hangs would else set aside the mount of the folder that it leads to.

        Raises:
            OSError: a mount does not respond, or the links are a circle.
        """
        found, links, rest = "", 0, path.split("/")[::-1]
        while rest:
            if (part := rest.pop()) in {"", ".", ".."}:
                found = found.rpartition("/")[0] if part == ".." else found
                continue
            try:
                target = await self._reader.ask(place := f"{found}/{part}", partial(os.readlink, place))
            except MountHungError:
                raise
            except OSError:  # no link, or nothing is there
                found = place
                continue
            if (links := links + 1) > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            found = "" if target.startswith("/") else found
            rest += target.split("/")[::-1]
        return found or "/"

    def _with_each_folder_once(self, scan: Scan) -> Scan:
        """Set aside a watch folder that is another one by its inode: a bind mount that came after the start.

        Each recording would have two paths, and could be uploaded twice. The start refuses it, while both are there.
        The name that was read first stays, as its paths are on record.
        """
        self._same_as = {}
        for top, root in scan.roots.items():
            name = self._names.setdefault(root, top)
            if name != top and scan.roots.get(name) == root:
                self._same_as[top] = name
            else:
                self._names[root] = top
        for top in self._same_as:
            scan = scan.set_aside(top)
        return scan

    def _note_roots(self, scan: Scan) -> None:
        """Note which folders were read.

        Raises:
            FileNotFoundError: the only folder was replaced by another one. Of several, one that was is watched anew.
        """
        roots = scan.roots or {self._folder: scan.root}
        for folder, root in roots.items():
            if self._roots.get(folder, root) == root:
                continue
            if len(self._scope.tops(self._folder)) == 1:
                raise FileNotFoundError(errno.ENOENT, "another folder has its name now", folder)
            log.error("watch_folder_lost", folder=folder)
            if self._watches is not None:
                self._watches.drop(folder)
        self._roots.update(roots)

    def _note_mounts(self, scan: Scan) -> None:
        """Note which folders are mount points. Where that changed, stop watching what had the name before.

        The watch of a folder on which a file system is mounted later reports nothing of it. A bind mount that is gone
        reports what happens at its other place.
        """
        before, mounts = dict(self._mounts), dict(scan.mounts)
        for folder in scan.folders & (before.keys() | mounts.keys()):
            if before.pop(folder, None) != mounts.get(folder) and self._watches is not None:
                self._watches.drop(folder)
        self._mounts = before | mounts

    def _log_unreadable(self, scan: Scan) -> None:
        """Log what cannot be read, once each, and which watch folder is a second name."""
        new = scan.unreadable - self._unreadable
        second_names = dict(self._same_as.items() - self._logged_same_as.items())
        for folder in sorted((new - scan.unreadable_entries.keys()) | second_names.keys()):
            log.warning("folder_unreadable", folder=folder, same_as=second_names.get(folder))
        if entries := sorted(new & scan.unreadable_entries.keys()):
            log.warning("entries_unreadable", entries=len(scan.unreadable_entries), new=entries[:_MAX_LOGGED])
        self._unreadable, self._logged_same_as = scan.unreadable, self._same_as

    def _log_links(self, links: frozenset[str]) -> None:
        """Log links that are not followed, once each."""
        if new := sorted(links - self._links):
            log.warning("links_not_followed", links=len(links), new=new[:_MAX_LOGGED])
        self._links = links

    def _forget_folders(self, scan: Scan) -> None:
        """Stop watching the folders behind links that are gone, and those whose end was not reported."""
        watches = self._watches
        if watches is None:
            return
        sure = watches.sure
        for folder in watches.folders - scan.folders:
            # One that was renamed during the scan is missing in it, by its new name: its watch is sure, and is kept.
            if folder in sure and self._is_watched(folder):
                continue
            if not any(is_on(folder, one) for one in scan.unreadable):
                watches.drop(folder)

    def _is_watched(self, folder: str) -> bool:
        tops = self._scope.tops(self._folder)
        return folder in tops or root_of(folder, tops) is not None

    async def _watch_new(self, scan: Scan) -> bool:
        """Watch new folders, and after an overflow all; return whether there were any."""
        watches = self._watches
        if watches is None:
            return False
        new = scan.folders - watches.sure
        for folder in sorted(new):
            try:
                await self._reader.ask(folder, partial(watches.add, folder))
            except OSError as error:
                if error.errno in _LIMITS:
                    self._log_limited(error)
                    # Poll instead, since events would be incomplete; free the watches for other programs.
                    watches.drop_all()
                    self._watches = None
                    return False
        return bool(new)

    # -- events -------------------------------------------------------------------------------------------------------

    async def _read_events(self, inotify: INotify, scope: trio.CancelScope) -> None:
        while self._watches is not None:
            await trio.lowlevel.wait_readable(inotify.fileno())
            changes = await self._next_changes(inotify)
            stats = await self._stats(changes)
            for _ in range(_RENAMES_IN_A_ROW):
                if not have_moved_on(changes, stats):
                    break
                with trio.move_on_after(_RENAME_SECONDS):
                    await trio.lowlevel.wait_readable(inotify.fileno())
                changes += await self._next_changes(inotify)
                stats = await self._stats(changes)
            if self._watches is None:  # the limit was reached meanwhile: the folder is polled now
                return
            # By the same stats: at a later look, a file that was at its new name may have moved on.
            if not await self._report(changes, stats):
                scope.cancel()
                return

    async def _next_changes(self, inotify: INotify) -> list[Change]:
        events = self._read_now(inotify)
        if unpaired_moves(events):
            with trio.move_on_after(_RENAME_SECONDS):
                await trio.lowlevel.wait_readable(inotify.fileno())
            events += self._read_now(inotify)
        return translate(events, self._watches) if self._watches is not None else []

    async def _stats(self, changes: Iterable[Change]) -> Mapping[str, FileStat]:
        """Return the stat of each file that is at the path of a change."""
        moved = {change.path for change in changes if change.kind is ChangeKind.MOVED}
        seen = {change.path for change in changes if change.kind in {ChangeKind.SEEN, ChangeKind.CLOSED}}
        paths = moved.union(filter(self._scope, seen))
        return await self._reader.stats(paths) if paths else {}

    def _read_now(self, inotify: INotify) -> list[Event]:
        return list(inotify.read(timeout=0))

    async def _report(self, changes: Sequence[Change], stats: Mapping[str, FileStat]) -> bool:
        """Pass changes to the listener; return whether the watch folder still exists."""
        for change, place in zip(changes, final_paths(changes, stats), strict=True):
            stat = stats.get(place) if place is not None else None
            match change.kind:
                case ChangeKind.SEEN if stat is not None:
                    self._listener.handle_event(Seen(change.path, stat))
                case ChangeKind.CLOSED if stat is not None:
                    self._listener.handle_event(Closed(change.path, stat))
                case ChangeKind.MOVED if stat is not None:
                    self._listener.handle_event(Moved(change.old_path, change.path, stat))
                case ChangeKind.GONE:
                    self._listener.handle_event(Gone(change.path))
                case ChangeKind.MOVED:
                    self._listener.handle_event(Gone(change.old_path))
                case ChangeKind.FOLDER_MOVED:
                    await self._report_folder_moved(change)
                case ChangeKind.FOLDER_CAME | ChangeKind.FOLDER_WENT:
                    self._rescan_wanted.value = True
                case ChangeKind.RESCAN:
                    log.warning("watch_overflow", folder=self._folder)
                    self._rescan_wanted.value = True
                case ChangeKind.ROOT_LOST:
                    return False
                case _:
                    pass  # the file is gone already: its own event follows
        return True

    async def _report_folder_moved(self, change: Change) -> None:
        if self._scope.excludes_folder(change.old_path):  # it came from a folder without a watch
            self._rescan_wanted.value = True
            return
        is_excluded = self._scope.excludes_folder(change.path)
        if is_excluded and self._watches is not None:
            self._watches.drop(change.path)
        try:
            # An excluded one is read once: the uploads of the recordings in it go on to their end.
            read = self._reader.scan_everything if is_excluded else self._reader.scan
            scan = await read(change.path)
        except OSError:
            self._rescan_wanted.value = True
            return
        for path, stat in scan.files.items():
            self._listener.handle_event(Moved(change.old_path + path[len(change.path) :], path, stat))
