"""Assign files to streams, and start the tasks of streams.

File events arrive through :meth:`StreamSupervisor.handle_event`, which is synchronous. Redis is queried in batches by
:meth:`StreamSupervisor.run`: is the file known, complete, or another daemon's? A file is either *live* (a task works on
it), or among the files without a task (``files_without_task.py``).

Stream tasks run in the daemon's processor nursery. No exception of one task reaches the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import inf

import structlog
import trio
from trio_util import AsyncBool, AsyncValue

from cef_trio.checkpoint import Change, Status, StreamMeta, StreamSummary
from cef_trio.exceptions import CefMp4ProcessorError, RecordUnreadableError
from cef_trio.files import FileStat, IdentityMatch, is_on, may_be
from cef_trio.observability import FirstSeenTimes, Waiting, read_fleet
from cef_trio.upload import file_state as file_events
from cef_trio.upload.file_state import Ending, FileState
from cef_trio.upload.file_triage import FILE_WAS_GONE, FileTriage, is_uploaded, must_be_recognized, triage
from cef_trio.upload.files_without_task import (
    DEFERRED_SECONDS,
    Claimed,
    FilesWithoutTask,
    Recognized,
    WaitingFile,
    is_risk,
)
from cef_trio.upload.lease_context import hold_lease
from cef_trio.upload.live_stream import LiveStream
from cef_trio.upload.lost_records import LostRecords
from cef_trio.upload.processor import Outcome, StreamProcessor
from cef_trio.upload.recognition import recognize_found
from cef_trio.upload.recovery import NO_HISTORY, FileHistory
from cef_trio.upload.services import Services
from cef_trio.upload.work_division import begun_by_others, wait_seconds
from cef_trio.watch import Closed, FileEvent, Gone, Moved, Scanned, Seen

log = structlog.get_logger(__name__)

_BATCH = 500
_RECOGNIZE_SECONDS = 5.0
"""How long the others wait for the recognition of one file; one that takes longer is recognized beside the lookups."""
_PAUSE_SECONDS = 1.0
"""The pause after a failed lookup, and before the file of an ended task is checked again."""
_JOIN_SECONDS = 2.0
"""How long new files of a shared folder wait after the start, so that daemons that start together see each other."""
_FAILED_SECONDS = 30.0
"""How often the records of failed streams with a file are read."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """The renewal of the live streams' leases."""

    began_at: float
    """``trio.current_time()``."""
    stream_ids: frozenset[str]
    had_leases: frozenset[LiveStream]
    """The streams that had their lease when it began."""


class StreamSupervisor:
    """Starts a task for each stream, and passes file events to it."""

    def __init__(self, services: Services, processors: trio.Nursery, matches: Callable[[str], bool]) -> None:
        self._services = services
        self._processors = processors
        self._lost_records = LostRecords(services, lambda: self.live_ids, self._ids_at_their_paths)
        self._draining = AsyncBool(False)
        self._live: dict[str, LiveStream] = {}
        self.files = FilesWithoutTask(
            matches, services.rules.minimum, now=trio.current_time, utc_now=services.utc_now, wake=self._wake
        )
        self._failed_read_at = trio.current_time()
        """When the records of failed files were read, by ``trio.current_time()``."""
        self.unreadable_folders: dict[str, float] = {}
        """Folders that the last scan could not read, and since when, by ``trio.current_time()``."""
        self.links_not_followed = 0
        """Symbolic links that the last scan did not follow."""
        self._joined_at = -inf
        """When the wait after the start is over, by ``trio.current_time()``."""
        self._to_abort: Collection[str] = frozenset()
        """The streams that an operator wants aborted, as was last read."""
        self._slow: dict[str, tuple[StreamMeta | None, FileStat]] = {}
        """The files that are recognized beside the lookups, in their order, with the streams of their paths; ``None``:
        they are compared with those that miss their file."""
        self._is_any_slow = AsyncBool(False)
        self._rechecked_paths: set[str] = set()
        """Paths of ended tasks that wait for their recheck: one each, however many tasks ended."""
        self._renaming: str | None = None
        """The stream whose rename is being recorded under a temporary lease; its task must not start meanwhile."""
        self._devices_below: set[int] = set()
        """The devices of files that were looked for in vain among those of the watch folders."""
        self._work = AsyncBool(False)
        self._renewed_at = -inf
        """When the last renewal of the leases began, by ``trio.current_time()``."""

    def _wake(self) -> None:
        self._work.value = True

    # -- observable state ---------------------------------------------------------------------------------------------

    @property
    def live(self) -> Iterable[LiveStream]:
        """The streams with running tasks."""
        return tuple(self._live.values())

    @property
    def live_ids(self) -> frozenset[str]:
        """The IDs of the live streams that have one."""
        return frozenset(live.processor.stream_id for live in self._live.values() if live.processor.stream_id)

    def _ids_at_their_paths(self) -> frozenset[str]:
        """Return the IDs of the live streams whose file is at its path, as far as is known."""
        live = (live for live in self._live.values() if not live.file_state.value.needs_check)
        return frozenset(one.processor.stream_id for one in live if one.processor.stream_id)

    @property
    def failed_files(self) -> tuple[Waiting, ...]:
        """The existing files whose streams failed permanently, by ``trio.current_time()``."""
        return tuple(failed for path, (_, failed) in self.files.failed.items() if path not in self._live)

    @property
    def unverified(self) -> tuple[str, ...]:
        """The paths of recordings that are not proved to be in S3: of live, failed, unknown and unreadable streams."""
        return tuple(dict.fromkeys((*(live.path for live in self._live.values()), *self.files.unverified)))

    @property
    def unreadable(self) -> Mapping[str, str]:
        """The files that cannot be read at present, with the reasons."""
        return {live.path: live.unreadable for live in self._live.values() if live.unreadable is not None}

    def drain(self) -> None:
        """Start no new streams; have each stream finish what is in flight, save its state and end."""
        self._draining.value = True
        for live in self._live.values():
            live.update(file_events.draining(live.file_state.value))

    # -- events -------------------------------------------------------------------------------------------------------

    def handle_event(self, event: FileEvent) -> None:
        """Handle a file event (:class:`~cef_trio.watch.events.FileListener`)."""
        match event:
            case Seen(path, stat):
                self._seen(path, stat)
            case Closed(path, stat):
                self._seen(path, stat, closed=True)
            case Moved(old_path, new_path, stat):
                self._moved(old_path, new_path, stat)
            case Gone(path):
                self._gone(path)
            case Scanned(files, unreadable):
                self._scanned(files, unreadable)
                self.links_not_followed = event.links
                self.files.look_up_deferred()
                self.files.look_up_unrecognized(self._slow)
                # Last, so that tasks that wait for the scan see the renames.
                self._services.scans.completed(event, self.files.undecided)

    def _seen(self, path: str, stat: FileStat, *, closed: bool = False) -> None:
        live = self._live.get(path)
        if live is not None:
            event = file_events.closed if closed else file_events.seen
            live.update(event(live.file_state.value, stat))
        else:
            self.files.seen(path, stat, closed=closed)

    def _moved(self, old_path: str, new_path: str, stat: FileStat, *, guessed: bool = False) -> None:
        """Follow a rename. ``guessed``: only an equal inode number tells of it."""
        key = self._key_of(old_path, stat)
        if key is not None:
            self._move_live(key, new_path, stat, guessed=guessed)
            return
        has_task = new_path in self._live
        was_closed = self.files.moved(old_path, new_path, stat, has_task=has_task)
        if has_task:
            self._seen(new_path, stat, closed=was_closed)

    def _key_of(self, path: str, stat: FileStat) -> str | None:
        """Return the key of the live stream that this file, renamed from this path, may be of.

        In an exchange of two names, the other file was reported at this path before.
        """
        detached = (key for key, live in self._live.items() if key.startswith(f"{path}\0") and live.has_inode(stat))
        live = self._live.get(path)
        if live is not None and live.has_inode(stat):
            return path
        return next(detached, path if live is not None and live.may_be_at(stat) else None)

    def _move_live(self, key: str, new_path: str, stat: FileStat, *, guessed: bool = False) -> None:
        """Follow the rename of a live stream's file; ``key``: its earlier path, or what replaced that."""
        live = self._live.pop(key)
        overwritten = self._live.pop(new_path, None)
        if overwritten is not None:
            self._detach(overwritten, new_path)
        self._live[new_path] = live
        event = file_events.guessed if guessed else file_events.moved
        live.update(event(live.file_state.value, new_path, stat))

    def _put_back(self, live: LiveStream) -> None:
        """Undo a guess that failed: the other file is looked up, and the stream checks its own path."""
        guess = live.file_state.value
        key = next(key for key, other in self._live.items() if other is live)
        del self._live[key]
        live.update(file_events.guess_failed(guess))
        if live.path in self._live:
            self._live[f"{live.path}\0{id(live)}"] = live
        else:
            self._live[live.path] = live
            self.files.forget(live.path)
        if key == guess.path:  # else another stream has that path by now
            self._seen(guess.path, guess.stat, closed=guess.ending is Ending.CLOSED)

    def _gone(self, path: str) -> None:
        self.files.forget(path)
        live = self._live.get(path)
        if live is not None:
            live.update(file_events.gone(live.file_state.value))

    def _scanned(self, files: Mapping[str, FileStat], unreadable: frozenset[str]) -> None:
        now = trio.current_time()
        self.unreadable_folders = {folder: self.unreadable_folders.get(folder, now) for folder in unreadable}

        def is_missing(path: str) -> bool:
            return path not in files and not any(is_on(path, one) for one in unreadable)

        # A missing or replaced file may have been renamed to a path that no other stream's file has.
        missing = {path: live for path, live in self._live.items() if is_missing(path)}
        replaced = {path: live for path, live in self._live.items() if path in files and live.is_replaced(files[path])}
        # So may one whose lookup is pending: its record has the old path.
        pending = {path: unknown.stat for path, unknown in self.files.unknown.items() if is_missing(path)}
        if missing or replaced or pending:
            has_its_own = self._live.keys() - replaced.keys()
            unclaimed = {
                stat.inode: path
                for path, stat in files.items()
                if path not in has_its_own and not self.files.is_settled_one(path, stat)
            }
            stats = {path: live.file_state.value.stat for path, live in {**missing, **replaced}.items()} | pending
            for path, stat in stats.items():
                live = self._live.get(path)
                leads = live is None or not live.file_state.value.number_reused
                new_path = unclaimed.get(stat.inode) if leads else None
                if new_path is not None:
                    self._moved(path, new_path, files[new_path], guessed=True)
                elif path in missing:  # a pending one may be younger than the scan
                    self._gone(path)
        self.files.forget_missing(is_missing)
        for path, stat in files.items():
            self._seen(path, stat)

    def _detach(self, live: LiveStream, path: str) -> None:
        """Keep a stream whose path was taken by another stream's file, under a unique key; it checks its file."""
        self._live[f"{path}\0{id(live)}"] = live
        live.update(file_events.gone(live.file_state.value))

    async def retry_held(self) -> None:
        """Queue the lookup of the files that other daemons worked on, where they do so no more. Once a minute.

        A stream that is released or whose lease expires is resumed before that. This finds what else may have happened:
        the stream has ended, maybe failed, or Redis lost it together with the daemon that worked on it.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        due, services = self.files.due_held(), self._services
        if not due:
            return
        holders = await services.store.holders(set(due.values()))
        free = {stream_id for stream_id in due.values() if services.may_take(holders.get(stream_id))}
        self.files.retry_held(due, free, self._live)

    async def review_failed(self) -> None:
        """Read the failed streams that have a file, now and then: an operator may have let one go, or aborted it.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        now, ids = trio.current_time(), {path: stream_id for path, (stream_id, _) in self.files.failed.items()}
        if not ids or now < self._failed_read_at + _FAILED_SECONDS:
            return
        self._failed_read_at = now
        known = await self._services.store.load_metas(set(ids.values()))
        for path, stream_id in ids.items():
            has_failed = stream_id in known.unreadable or (stream_id in known and is_risk(known[stream_id].meta))
            if not has_failed:
                self.files.failed_no_more(path, stream_id)

    # -- lookups ------------------------------------------------------------------------------------------------------

    async def run(self, on_uploaded: Callable[[StreamMeta], object]) -> None:
        """Look up unknown files in Redis and start their streams. Never returns.

        ``on_uploaded`` is called with each completed stream whose file is unchanged since its verification.
        """
        await self._know_owner()
        if self._services.shares_folder:
            self._joined_at = trio.current_time() + _JOIN_SECONDS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._recognize_slow)
            await self._look_up(on_uploaded)

    async def _know_owner(self) -> None:
        """Look where the watch folders are. While that of the first one cannot be told, as its mount stalls, wait.

        Records are looked up under the name of that place: without it, others' are found, or none. Of several folders
        one that hangs holds up the others for as long as a lease; until it responds, no stream is certainly ours.
        """
        services, until = self._services, trio.current_time() + self._services.lease.ttl_seconds
        await services.determine_owner()
        while services.ownership.owner is None and trio.current_time() < until:
            await trio.sleep(_PAUSE_SECONDS)
            await services.determine_owner()

    async def _look_up(self, on_uploaded: Callable[[StreamMeta], object]) -> None:
        while True:
            with trio.move_on_at(self.files.due_at):
                await self._work.wait_value(True)
            self.files.retry_due()
            try:
                await self._rename_known()
                await self._resolve_some(on_uploaded)
                self._services.scans.looked_up(self.files.undecided)
                self.files.lookup_error = None
            except CefMp4ProcessorError as error:
                if str(error) != self.files.lookup_error:  # logged once per error, not per retry
                    log.warning("path_lookup_failed", error=str(error))
                self.files.lookup_error = str(error)
                await trio.sleep(_PAUSE_SECONDS)
                await self._services.redis_breaker.wait_up()
                await self._services.s3_breaker.wait_up()
            self._work.value = bool(self.files.unknown or self.files.renamed)

    async def _resolve_some(self, on_uploaded: Callable[[StreamMeta], object]) -> None:
        asked = dict(islice(self.files.unknown.items(), _BATCH))
        ownership = self._services.ownership
        await self._know_places_of(asked.values())
        found = await self._services.store.find_by_path(list(asked), owner=ownership.name_at)
        known, others = ownership.divide(found)
        self.files.update_set_aside(asked, found)
        fresh, recorded = [], {}
        for path in asked:
            unknown = self.files.still_unknown(path, asked)
            if unknown is None:
                continue
            triaged = await self._triage(path, unknown, known.get(path))
            judged, unknown = unknown, self.files.still_unknown(path, asked)
            if triaged is None or unknown is None or unknown.stat != judged.stat:
                continue  # it could not be checked, or it changed meanwhile and is looked up again
            if triaged is FileTriage.OTHER_OWNER:
                others[path] = known.pop(path).meta.stream_id
            if triaged in {FileTriage.NEW, FileTriage.REPLACED, FileTriage.OTHER_OWNER}:
                fresh.append(path)
            if triaged in {FileTriage.SETTLED, FileTriage.UNREADABLE}:
                self.files.settle(path, known[path], until_scanned=triaged is FileTriage.UNREADABLE)
                if known[path].meta.status is Status.COMPLETED:
                    on_uploaded(known[path].meta)
                await self._record_owner(known[path].meta)
            elif triaged is FileTriage.RESUME:
                recorded[path] = known[path].meta.stream_id
            elif triaged is FileTriage.REPLACED:
                self.resume_without_task(known[path], detached=True)
        if recorded:
            await self._resume_free(recorded, asked)
        if fresh:
            replaced = {path: known[path].meta.stream_id if path in known else None for path in fresh}
            await self._begin_all({path: FileHistory(replaced[path], others.get(path)) for path in fresh}, asked)

    async def _know_places_of(self, files: Iterable[WaitingFile]) -> None:
        """Look where the watch folders are, if a file is on a file system that was mounted since.

        Hosts may share that one; their recordings would count as new ones. A device that is no folder's then (a mount
        or a subvolume below one) is not asked for again here, as the idle checker asks all the time.
        """
        knows = self._services.ownership.knows_device
        unknown = {one.stat.file_dev for one in files if not knows(one.stat.file_dev)} - self._devices_below
        if unknown:
            await self._services.determine_owner()
            self._devices_below.update(device for device in unknown if not knows(device))

    async def _resume_free(self, recorded: Mapping[str, str], asked: Mapping[str, WaitingFile]) -> None:
        """Start the tasks of files with open streams; a stream that another daemon works on is left to it.

        Its file is then held: the idle checker resumes the stream when its lease has expired or was released.
        """
        services = self._services
        holders = await services.store.holders(recorded.values())
        self._to_abort = await services.store.abort_requests()
        for path, stream_id in recorded.items():
            if self.files.still_unknown(path, asked) is None:
                continue
            if services.may_take(holders.get(stream_id)):
                self._start(path, self.files.unknown.pop(path), stream_id)
            else:
                self.files.hold(path, stream_id)
                log.debug("stream_held_elsewhere", stream_id=stream_id, path=path, holder=holders.get(stream_id))

    async def _begin_all(self, fresh: Mapping[str, FileHistory], asked: Mapping[str, WaitingFile]) -> None:
        """Start streams for files that Redis has no usable record of at these paths."""
        lost = self._lost_records
        if any(path in self.files.settled and history.replaced_stream_id is None for path, history in fresh.items()):
            lost.request_search()  # a settled file had a record
        others_files = await self._others_files([path for path, history in fresh.items() if history == NO_HISTORY])
        # Not for what another daemon is to begin: it searches for that, and all open streams are read for it.
        await lost.search(
            lambda: {path: one.stat for path, one in self.files.unknown.items() if path not in others_files},
            self._misplaced(fresh),
            self.files.was_recorded,
        )
        begun_elsewhere = await self._begun_elsewhere(fresh)
        for path, history in fresh.items():
            if (unknown := self.files.still_unknown(path, asked)) is None:
                continue
            stream_id = None
            with trio.move_on_after(_RECOGNIZE_SECONDS) as scope:
                stream_id = await lost.moved_files.claim(path, unknown.stat, unknown.claimed)
            if scope.cancelled_caught:
                if self.files.still_unknown(path, asked) is not None:
                    self._compare_apart(path, unknown)
                continue
            held_id = begun_elsewhere.get(path) if stream_id is None else await self._held_elsewhere(stream_id)
            if (unknown := self.files.still_unknown(path, asked)) is not None:
                if held_id is not None:
                    self.files.leave(path, held_id)
                    log.debug("recording_may_be_of_another_daemon", path=path, stream_id=held_id)
                    continue
                if stream_id is None and (wait := self.files.begins_in(unknown)) > 0:
                    self.files.wait_to_begin(path, wait)
                    log.debug("recording_below_minimum", path=path, size_bytes=unknown.stat.size_bytes, seconds=wait)
                    continue
                if stream_id is None and path in others_files:
                    limit = wait_seconds(self._services.rules.rescan_seconds)
                    self.files.defer(path, joined_at=self._joined_at, wait_seconds=limit)
                    if others_files[path]:
                        log.debug("recording_left_to_another_daemon", path=path, process=others_files[path])
                    continue
                del self.files.unknown[path]
                may_be_lost = lost.may_include(unknown.stat)
                if may_be_lost or self.files.was_recorded(unknown.stat):
                    renamed = lost.moved_files.claim_completed(path, unknown.stat)
                    history = replace(history, renamed=renamed, may_be_stored=may_be_lost)  # noqa: PLW2901
                self._begin(path, unknown, stream_id, history)

    def _misplaced(self, paths: Collection[str]) -> frozenset[int]:
        """Return the inode numbers of those of these files that are live streams' too, whose tasks check their files.

        Such a file was renamed, though no event told so: through a name that is no recording's, out of the folder and
        back, by link(2) and unlink(2), or in a folder that was renamed at once.
        """
        numbers = {one.stat.file_ino for path in paths if (one := self.files.unknown.get(path)) is not None}
        found = [live for live in self._live.values() if live.file_state.value.stat.file_ino in numbers]
        for live in found:
            live.update(file_events.gone(live.file_state.value))
        return frozenset(live.file_state.value.stat.file_ino for live in found)

    async def _begun_elsewhere(self, paths: Collection[str]) -> Mapping[str, str]:
        """Return those of these files that may be of a stream that another daemon works on, with that stream.

        Such a stream misses its file, and this one has its inode number. Its daemon recognizes the file by its next
        scan, and records the new path when it can. Begun here too, the file would be uploaded twice (P2).
        """
        missed = self._lost_records.moved_files
        may_be_of = {path: missed.may_be_of(one.stat) for path in paths if (one := self.files.unknown.get(path))}
        asked = frozenset[str]().union(*may_be_of.values())
        if not asked:
            return {}
        holders = await self._services.store.holders(asked)
        taken = {one for one in asked if not self._services.may_take(holders.get(one))}
        return {path: min(ids & taken) for path, ids in may_be_of.items() if ids & taken}

    async def _held_elsewhere(self, stream_id: str) -> str | None:
        """Return the stream of a renamed file if another daemon works on it, or did so until its crash, else ``None``.

        That daemon records the new path. If it is dead, the file is looked up again when its lease ends.
        """
        holder = (await self._services.store.holders([stream_id])).get(stream_id)
        if self._services.may_take(holder):
            return None
        self._lost_records.moved_files.request()  # the file is its own still, and was claimed
        return stream_id

    async def _others_files(self, paths: Collection[str]) -> Mapping[str, str]:
        """Return those of these files without a record that other daemons are to begin, with the daemon (its token).

        A daemon that knows no other one makes no call for this.
        """
        services, files = self._services, self.files
        waiting = [path for path in paths if path in files.unknown and not files.is_begun_here(path)]
        if services.shares_folder:  # what this host has for itself beside it is not for others to begin
            waiting = [path for path in waiting if services.ownership.is_shared_at(path)]
        if trio.current_time() < self._joined_at:
            return dict.fromkeys(waiting, "")
        if waiting:
            await self.read_peers()
        waiting = [path for path in waiting if path in files.unknown]  # not renamed or deleted during the await
        peers = services.peers.living(trio.current_time())
        if not waiting or not peers:
            return {}
        held = files.held_ids
        holders = await services.store.holders(held) if held else {}
        return begun_by_others(
            waiting,
            {path: path.removeprefix(services.rules.root_of(path)) for path in chain(waiting, files.deferred)},
            process=services.lease.token,
            streams=len(self._live),
            peers=peers,
            held_by=[holder.rpartition("/")[2] for holder in holders.values()],
            takes_files=services.s3_breaker.outage is None,
        )

    async def read_peers(self) -> None:
        """Read the reports of our owner's daemons, if others may work on this folder and those at hand are old."""
        services, peers, now = self._services, self._services.peers, trio.current_time()
        if now < peers.read_at + DEFERRED_SECONDS and peers.read_at >= self._joined_at:
            return
        if not peers.living(now) and (not services.shares_folder or peers.read_at >= self._joined_at):
            return  # the reporter finds later ones
        with suppress(CefMp4ProcessorError):  # no upload depends on the registry; in a cluster it has its own node
            fleet = read_fleet(await services.store.reports(beginning=f"{services.owner_name}/"))
            peers.update(fleet, services.work_group, services.lease.token, now)
        peers.read_at = now

    async def _triage(self, path: str, asked: WaitingFile, known: StreamSummary | None) -> FileTriage | None:
        """Decide what to do about a file; ``None`` if it could not be checked: then it waits, or is set aside."""
        stat, is_ours = asked.stat, known is None or self._services.ownership.is_ours(known.meta)
        if known is None or (is_ours and not must_be_recognized(known, stat)):
            return triage(known, stat)
        identity_match, found = None, asked.recognized
        if found is not None and found.stream_id == known.meta.stream_id and found.is_of(stat):
            identity_match = found.match
        else:
            identity_match = await self._recognize(path, asked, known.meta, is_ours=is_ours)
        if identity_match is None:
            return None
        if not is_ours and identity_match is not IdentityMatch.SAME:
            return FileTriage.OTHER_OWNER
        return triage(known, stat, identity_match)

    async def _recognize(
        self, path: str, asked: WaitingFile, meta: StreamMeta, *, is_ours: bool
    ) -> IdentityMatch | None:
        """Return whether a file is the stream's; ``None`` if that could not be checked, and the file waits."""
        identity_match = None
        try:
            with trio.move_on_after(_RECOGNIZE_SECONDS) as scope:
                identity_match = await recognize_found(self._services, meta, path, asked.stat, is_ours=is_ours)
        except RecordUnreadableError:
            # Its parts, which the lookup did not read. No other recording waits for them (P6).
            if self.files.still_unknown(path, {path: asked}) is not None:
                self.files.put_aside(path, self.files.unknown.pop(path))
            return None
        if identity_match is None and self.files.still_unknown(path, {path: asked}) is not None:
            uploaded = asked.stat if is_uploaded(meta, asked.stat) else None
            if scope.cancelled_caught:
                self._compare_apart(path, asked, meta, uploaded=uploaded)
            else:
                self.files.leave_unrecognized(path, uploaded=uploaded)
        return identity_match

    def _compare_apart(
        self, path: str, asked: WaitingFile, meta: StreamMeta | None = None, *, uploaded: FileStat | None = None
    ) -> None:
        """Leave a file whose comparison takes longer than the others may wait, and have it compared beside the lookups.

        ``meta``: the stream of its path; by default it is compared with those that miss their file.
        """
        # In an outage it is not the file that is slow: the parts of the records cannot be loaded.
        slow = self._services.s3_breaker.up.value and self._services.redis_breaker.up.value
        self.files.leave_unrecognized(path, slow=slow, uploaded=uploaded)
        if slow and not asked.slow:
            log.info("recording_compared_slowly", path=path, stream_id=meta.stream_id if meta is not None else None)
        self._slow[path] = meta, asked.stat
        self._is_any_slow.value = True

    async def _recognize_slow(self) -> None:
        """Recognize the files that take longer than the others may wait, one after the other. Never returns."""
        while True:
            await self._is_any_slow.wait_value(True)
            path, (meta, stat) = next(iter(self._slow.items()))
            found = None
            try:
                found = await self._compare(path, meta, stat)
            except CefMp4ProcessorError as error:  # of its record, or an outage: its next lookup, after a scan, tells
                log.warning("recording_check_failed", error=str(error))
            if self._slow[path] == (meta, stat):
                del self._slow[path]  # else it was replaced meanwhile, and the other file is next
            if found is not None:
                self.files.recognize(path, found)
            self._is_any_slow.value = bool(self._slow)

    async def _compare(self, path: str, meta: StreamMeta | None, stat: FileStat) -> Recognized | Claimed | None:
        if meta is None:
            return await self._lost_records.moved_files.compare(path, stat)
        is_ours = self._services.ownership.is_ours(meta)
        identity_match = await recognize_found(self._services, meta, path, stat, is_ours=is_ours)
        return Recognized(meta.stream_id, stat, identity_match) if identity_match is not None else None

    async def _record_owner(self, meta: StreamMeta) -> None:
        """Record this host as the owner of an ended stream, once its file was proved to be on this host."""
        ownership = self._services.ownership
        owner = ownership.owner_of(meta.current_path)
        if owner is None or ownership.is_ours(meta):
            return
        store, lease = self._services.store, self._services.lease
        async with hold_lease(store, meta.stream_id, lease) as held:
            if held is not None:
                await store.update(meta.stream_id, lease, Change({"owner": owner}))

    def _begin(self, path: str, unknown: WaitingFile, stream_id: str | None, history: FileHistory) -> None:
        """Start the task of a file without a record at its path: of a new stream, or of a renamed file's stream."""
        key = next(
            (key for key, live in self._live.items() if stream_id and live.processor.stream_id == stream_id), None
        )
        if key is not None:
            # This is the file of a live stream, whose numbers may be those of another host. By its key, as another
            # stream may have its path.
            self._move_live(key, path, unknown.stat)
            if unknown.closed:
                self._seen(path, unknown.stat, closed=True)
        else:
            self._start(path, unknown, stream_id, history)

    async def _rename_known(self) -> None:
        """Record queued renames before lookups, which go by path."""
        store, ownership = self._services.store, self._services.ownership
        while self.files.renamed:
            old_path, new_path, stat, stream_id = self.files.renamed[0]
            known = await store.find_by_path([old_path, new_path], owner=ownership.name_at)
            if old_path in known.newer and new_path in self.files.unknown:
                # A newer daemon records the new name.
                self.files.put_aside(new_path, self.files.unknown.pop(new_path), known.newer[old_path])
            meta = known[old_path].meta if old_path in known else None
            if stream_id is not None and (meta is None or meta.stream_id != stream_id):
                # Another stream may have its old path by now: of a file that is there.
                found = (await store.load_metas([stream_id])).get(stream_id)
                meta = found.meta if found is not None and found.meta.current_path == old_path else None
            elif meta is None or not may_be(meta.identity, stat):
                meta = await self._completed_at(old_path, stat)
            if meta is not None and not ownership.is_ours(meta):
                meta = None  # another host may have a file with the same path and inode number (P9)
            taken = known[new_path].meta if new_path in known else None
            if taken is not None and may_be(taken.identity, stat) and ownership.is_shared_at(new_path):
                meta = None  # another host's daemon has a stream for the file at its new path, maybe a later one
            if meta is not None and may_be(meta.identity, stat) and meta.stream_id not in self.live_ids:
                self._renaming = meta.stream_id
                try:
                    await self._record_name(meta.stream_id, old_path, new_path)
                except CefMp4ProcessorError as error:
                    if error.transient:
                        raise
                    # A permanent error of one stream must not block the others (P6).
                    log.warning("rename_not_recorded", stream_id=meta.stream_id, path=new_path, error=str(error))
                finally:
                    self._renaming = None
            del self.files.renamed[0]

    async def _completed_at(self, path: str, stat: FileStat) -> StreamMeta | None:
        """Return this file's completed stream if this is its path on record, though another stream has it by now.

        Names are swapped by a third name, or exchanged at once. By path, Redis knows the last stream only.
        """
        store = self._services.store
        ids = await store.completed_like({stat.file_ino}, {stat.mtime_ns})
        known = (await store.load_metas(ids)).values() if ids else ()
        fitting = (one.meta for one in known if one.meta.current_path == path and may_be(one.meta.identity, stat))
        return next(fitting, None)

    async def _record_name(self, stream_id: str, old_path: str, path: str) -> None:
        store, lease = self._services.store, self._services.lease
        if not await store.acquire(stream_id, lease):
            # Another daemon has the stream, or had it until its crash: the file at the new path is not new.
            self._lost_records.moved_files.request()
            return
        try:
            # Another daemon may have recorded a newer path before this one got the lease.
            known = await store.load_metas([stream_id])
            if stream_id in known and known[stream_id].meta.current_path == old_path:
                await store.rename(stream_id, lease, path)
                log.info("known_recording_renamed", stream_id=stream_id, path=path)
        finally:
            await self._services.park_stream(stream_id)

    # -- tasks --------------------------------------------------------------------------------------------------------

    def resume_without_task(
        self, known: StreamSummary, *, stat: FileStat | None = None, detached: bool = False
    ) -> None:
        """Start a task for a recorded stream without one. ``stat`` is the stat of its file, if it exists.

        ``detached``: another file took its path, so events of the path are not for it. The file of a stream that is to
        be aborted does not matter.
        """
        meta = known.meta
        if self._draining.value or meta.stream_id in self.live_ids or meta.stream_id == self._renaming:
            return  # the caller repeats the call
        path = meta.current_path
        if stat is None and meta.stream_id not in self._to_abort:
            if (renamed := self.files.pop_inode(meta.identity.inode)) is not None:
                self._start(*renamed, meta.stream_id, guessed_from=meta.current_path)
                return
            if not detached and self.files.may_be_pending(meta.identity):
                return  # one of those files may be its own, renamed; only the bytes decide
        if path in self._live or detached:
            path = f"{path}\0{meta.stream_id}"
        there = stat or FileStat(meta.identity.file_dev, meta.identity.file_ino, 0, 0)
        self._launch(path, FileState(meta.current_path, there, needs_check=stat is None), meta.stream_id)

    def abort(self, stream_ids: Collection[str]) -> None:
        """Have the tasks of these streams abort them, also those that start later: all that an operator wants aborted.

        A task that is started is one that only aborts its stream (``_launch``). Else it would resume the stream, and
        send again what an earlier process has aborted in S3 already (P2).
        """
        self._to_abort = stream_ids
        for live in self.live:
            if live.processor.stream_id in stream_ids:
                live.processor.request_abort()

    def _start(
        self,
        path: str,
        unknown: WaitingFile,
        stream_id: str | None,
        history: FileHistory = NO_HISTORY,
        *,
        guessed_from: str | None = None,
    ) -> None:
        """Start the task of a file. ``guessed_from``: its stream's path, if only its inode number speaks for it."""
        if self._draining.value or path in self._live or (stream_id is not None and stream_id in self.live_ids):
            return
        ending = Ending.CLOSED if unknown.closed else Ending.NOT
        state = FileState(path, unknown.stat, ending)
        if guessed_from is not None:
            state = file_events.guessed(replace(state, path=guessed_from), path, unknown.stat)
        self._launch(path, state, stream_id, history, seen_at=unknown.since)

    def _launch(
        self,
        key: str,
        file_state: FileState,
        stream_id: str | None,
        history: FileHistory = NO_HISTORY,
        *,
        seen_at: float | None = None,
    ) -> None:
        if seen_at is None:  # resumed by its lease: how long its file has been waiting is not to be lost (P10)
            seen_at = self.files.waiting_since(file_state.path, file_state.stat)
        self.files.begun(file_state.path)
        value = AsyncValue(file_state)
        processor = StreamProcessor(
            self._services, self._lost_records, value, stream_id, history, on_guess_failed=lambda: self._put_back(live)
        )
        live = LiveStream(processor, value, trio.current_time())
        if seen_at is not None:
            live.first_seen = FirstSeenTimes(seen_at, file_state.stat.size_bytes)
        self._live[key] = live
        if stream_id in self._to_abort:
            processor.request_abort()
        self._processors.start_soon(self._run_stream, live)

    async def _run_stream(self, live: LiveStream) -> None:
        structlog.contextvars.bind_contextvars(file=live.path)
        if live.processor.stream_id is not None:
            structlog.contextvars.bind_contextvars(stream_id=live.processor.stream_id)
        outcome = None
        try:
            with live.scope:
                outcome = await live.processor.run()
        except Exception:
            # The processor handles its errors; a bug in saving its end must not end other streams (P6).
            log.exception("stream_task_failed")
            if live.processor.stream_id is not None:
                self._services.shutdown_flush.unsaved.add(live.processor.stream_id)
        finally:
            lease_lost = outcome in {None, Outcome.LEASE_LOST}
            # Redis may have lost its data: search before the file is treated as new.
            if lease_lost:
                self._lost_records.request_search()
            for key in [key for key, other in self._live.items() if other is live]:
                del self._live[key]
            cancelled = "lease_lost" if live.processor.lease_lost else "cancelled"
            self._services.metrics.stream_ended(outcome.value if outcome is not None else cancelled)
        if outcome in {Outcome.COMPLETED, Outcome.FAILED} and live.processor.stream_id is not None:
            # Saved now, unlike by an earlier task.
            self._services.shutdown_flush.unsaved.discard(live.processor.stream_id)
            self.files.recorded(live.file_state.value.stat)  # under a name that is no recording's it is not looked up
        self._queue_late_rename(live)
        if outcome is Outcome.SET_ASIDE:
            file_state = live.file_state.value
            if not file_state.needs_check:  # else the file may not be at that path
                closed = file_state.ending is not Ending.NOT
                oldest = live.first_seen.oldest()
                since = live.changed_at if oldest is None else oldest
                self.files.put_aside(live.path, WaitingFile(file_state.stat, closed, since))
            return
        if outcome is not Outcome.PARKED and not self._draining.value and live.path not in self._rechecked_paths:
            path = live.path
            self._rechecked_paths.add(path)
            try:
                await self._recheck_path(path, live.processor.stream_id if lease_lost else None)
            finally:
                self._rechecked_paths.discard(path)

    def _queue_late_rename(self, live: LiveStream) -> None:
        """Queue the rename of an ended task's file after its last check, unless the file is not the stream's."""
        upload, file_state = live.processor.upload, live.file_state.value
        if upload is None or file_state.guessed_from is not None or upload.meta.status in FILE_WAS_GONE:
            return
        if upload.meta.current_path != live.path:
            self.files.queue_rename(upload.meta.current_path, live.path, file_state.stat, upload.stream_id)

    async def _recheck_path(self, path: str, lost_id: str | None) -> None:
        """Look up the file at the path of an ended task, after a pause."""
        try:
            pause = _PAUSE_SECONDS
            if lost_id is not None:
                # If the record exists, another daemon has the lease. If not, Redis lost its data: recover at once.
                known = await self._services.store.load_metas([lost_id])
                pause = self._services.lease.ttl_seconds / 3 if known else _PAUSE_SECONDS
            with trio.move_on_after(pause):
                await self._draining.wait_value(True)
                return
            stat = await self._services.disk.stat(path)
        except CefMp4ProcessorError as error:
            log.warning("recording_check_failed", error=str(error))
            return
        if stat is not None:
            self._seen(path, stat)
            self.files.begin_here(path)  # it was begun here: if its record is lost, it is found again here

    # -- leases -------------------------------------------------------------------------------------------------------

    async def renew_leases(self) -> None:
        """Renew the leases of live streams; cancel streams whose leases are lost.

        A heartbeat (``heartbeat.py``) may renew them earlier. A third of their TTL later they are renewed in any case.
        """
        while True:
            due_at = self._renewed_at + self._services.lease.ttl_seconds / 3
            if trio.current_time() < due_at:
                await trio.sleep_until(due_at)
            else:
                await self._renew_now()

    def due_renewal(self, within_seconds: float) -> Renewal | None:
        """Return the renewal that is due within that time; ``None`` if none is."""
        now, period = trio.current_time(), self._services.lease.ttl_seconds / 3
        if not self.live_ids or now < self._renewed_at + period - within_seconds:
            return None
        # For a stream that acquires its lease during the call, the result may be from before that.
        had_leases = frozenset(live for live in self.live if live.processor.upload is not None)
        return Renewal(now, self.live_ids, had_leases)

    def renewed(self, renewal: Renewal, lost: Collection[str]) -> None:
        """Note a renewal; cancel the streams whose leases are lost."""
        self._renewed_at = renewal.began_at
        for live in self.live:
            upload = live.processor.upload
            if live in renewal.had_leases and upload is not None and upload.stream_id in lost:
                log.warning("lease_lost", stream_id=live.processor.stream_id)
                live.processor.lease_lost = True
                live.scope.cancel()

    async def _renew_now(self) -> None:
        renewal = self.due_renewal(inf)
        self._renewed_at = trio.current_time()
        if renewal is None:
            return
        try:
            lost = await self._services.store.renew(renewal.stream_ids, self._services.lease)
        except CefMp4ProcessorError as error:
            log.warning("leases_not_renewed", error=str(error))
        else:
            self.renewed(renewal, lost)
