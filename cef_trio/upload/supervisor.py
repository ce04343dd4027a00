"""Assign files to streams, and start the tasks of streams.

File events arrive through :meth:`StreamSupervisor.handle_event`, which is synchronous. Redis is queried in batches by
:meth:`StreamSupervisor.run`: is the file known, complete, or another daemon's? At any time a file is either *live* (a
task works on it), *unknown* (its lookup in Redis is pending), *settled* (nothing to do until it changes), *set aside*
(its record cannot be read; it is looked up again periodically), *held* (another daemon works on its stream; it is
looked up again once that has ended, even if it changes), *deferred* (it has no record, and another daemon of the
shared folder is to begin it; it is looked up again every few seconds, and begun here if that daemon does not) or
*below the minimum* (it has no record, and is yet too small or too young to be begun).

Stream tasks run in the daemon's processor nursery. No exception of one task reaches the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from math import inf

import structlog
import trio
from trio_util import AsyncBool, AsyncValue

from cef_trio.checkpoint import FAILED, Change, NewerRecord, Records, Status, StreamMeta, StreamSummary, rules
from cef_trio.exceptions import CefMp4ProcessorError, ChunkProcessingError, FileAccessError, RecordingChangedError
from cef_trio.files import FileStat, IdentityMatch, may_be
from cef_trio.observability import FirstSeenTimes, Waiting, read_fleet
from cef_trio.upload import file_state as file_events
from cef_trio.upload.file_state import Ending, FileState
from cef_trio.upload.file_triage import FileTriage, must_be_recognized, triage
from cef_trio.upload.lease_context import hold_lease
from cef_trio.upload.live_stream import LiveStream
from cef_trio.upload.lost_records import LostRecords
from cef_trio.upload.processor import Outcome, StreamProcessor
from cef_trio.upload.recognition import is_proved, recognize_at
from cef_trio.upload.recovery import NO_HISTORY, FileHistory
from cef_trio.upload.services import Services
from cef_trio.upload.work_division import divide, wait_seconds
from cef_trio.watch import Closed, FileEvent, Gone, Moved, Scanned, Seen

log = structlog.get_logger(__name__)

_BATCH = 500
_RECOGNIZE_SECONDS = 5.0
"""The time limit for recognizing one file, so that it does not delay the others."""
_PAUSE_SECONDS = 1.0
"""The pause after a failed lookup, and before the file of an ended task is checked again."""
_NEWER_SECONDS = 60.0
"""The pause before a file is looked up again whose record is of a newer schema."""
_DEFERRED_SECONDS = 3.0
"""How often deferred files are looked up, and the other daemons' reports read at most."""
_JOIN_SECONDS = 2.0
"""How long new files of a shared folder wait after the start, so that daemons that start together see each other."""
_FAILED_SECONDS = 30.0
"""How often the records of failed streams with a file are read."""
_HELD_SECONDS = 60.0
"""How often the leases of the streams that other daemons work on are read."""


@dataclass(frozen=True, slots=True)
class _Unknown:
    stat: FileStat
    closed: bool = False
    since: float = field(default_factory=trio.current_time)
    """``trio.current_time()`` when the file was first seen."""
    newer: NewerRecord | None = None
    """Its record, if that is only of a newer schema."""
    again_at: float = 0.0
    """``trio.current_time()`` from when a file is looked up again (set aside, deferred, below the minimum) or asked for
    (held)."""
    begun_here_at: float = inf
    """``trio.current_time()`` from when it is begun here, whichever daemon is to begin it."""
    stream_id: str = ""
    """The stream of a file that is held."""


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
        self._matches = matches
        self._lost_records = LostRecords(services, lambda: self.live_ids, self._ids_at_their_paths)
        self._draining = AsyncBool(False)
        self._live: dict[str, LiveStream] = {}
        self._settled: dict[str, FileStat] = {}
        self._unknown: dict[str, _Unknown] = {}
        self._failed_files: dict[str, Waiting] = {}
        """Settled files whose streams failed permanently."""
        self._failed_ids: dict[str, str] = {}
        """The streams of these files."""
        self._failed_read_at = trio.current_time()
        """When their records were read, by ``trio.current_time()``."""
        self.lookup_error: str | None = None
        """The error of the last lookup; ``None`` if it succeeded."""
        self.unreadable_folders: dict[str, float] = {}
        """Folders that the last scan could not read, and since when, by ``trio.current_time()``."""
        self.links_not_followed = 0
        """Symbolic links that the last scan did not follow."""
        self._set_aside: dict[str, _Unknown] = {}
        """Files whose records cannot be read; retried periodically (:meth:`retry_set_aside`)."""
        self._held: dict[str, _Unknown] = {}
        """Files whose streams other daemons work on; settled too (:meth:`retry_held`)."""
        self._deferred: dict[str, _Unknown] = {}
        """Files that other daemons of the shared folder are to begin (:meth:`_others_files`)."""
        self._below_minimum: dict[str, _Unknown] = {}
        """Files that are too small or too young to be begun (``start_minimum.py``)."""
        self._joined_at = -inf
        """When the wait after the start is over, by ``trio.current_time()``."""
        self._renamed: list[tuple[str, str, FileStat]] = []
        self._rechecked_paths: set[str] = set()
        """Paths of ended tasks that wait for their recheck: one each, however many tasks ended."""
        self._renaming: str | None = None
        """The stream whose rename is being recorded under a temporary lease; its task must not start meanwhile."""
        self._work = AsyncBool(False)
        self._renewed_at = -inf
        """When the last renewal of the leases began, by ``trio.current_time()``."""

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
    def _waiting(self) -> tuple[dict[str, _Unknown], ...]:
        """The files that have no task here yet, and may get one. A file is in one of them at most."""
        return self._unknown, self._deferred, self._below_minimum

    def _without_task(self) -> Iterator[tuple[str, _Unknown]]:
        return chain.from_iterable(files.items() for files in self._waiting)

    def _pop_without_task(self, path: str) -> _Unknown | None:
        popped = [files.pop(path) for files in self._waiting if path in files]
        return popped[0] if popped else None

    def _pending_lookups(self) -> Iterator[_Unknown]:
        return (unknown for path, unknown in self._unknown.items() if path not in self._set_aside)

    @property
    def pending_lookups(self) -> tuple[Waiting, ...]:
        """The nonempty files whose lookup is pending, by ``trio.current_time()`` when each was first seen."""
        why = self.lookup_error or ""
        pending = chain(self._pending_lookups(), self._deferred.values())
        return tuple(Waiting(one.since, one.stat.size_bytes, why) for one in pending if one.stat.size_bytes)

    @property
    def too_small(self) -> int:
        """The number of files that are smaller than ``WATCH_MIN_SIZE_BYTES`` and not begun."""
        minimum = self._services.rules.minimum
        return sum(minimum.is_small(one.stat) for one in self._below_minimum.values())

    @property
    def too_young(self) -> int:
        """The number of files that are younger than ``WATCH_MIN_AGE_SECONDS`` and not begun."""
        return len(self._below_minimum) - self.too_small

    @property
    def set_aside(self) -> tuple[Waiting, ...]:
        """The files whose records cannot be read, by ``trio.current_time()``."""
        found = ((path, one) for path, one in self._set_aside.items() if one.newer is None)
        return tuple(Waiting(one.since, one.stat.size_bytes, path) for path, one in found)

    @property
    def left_to_newer(self) -> tuple[Waiting, ...]:
        """The files whose records are of a newer schema, and that no daemon works on, by ``trio.current_time()``."""
        return tuple(
            Waiting(one.since, one.stat.size_bytes, path)
            for path, one in self._set_aside.items()
            if one.newer is not None and one.newer.is_waiting
        )

    @property
    def failed_files(self) -> tuple[Waiting, ...]:
        """The existing files whose streams failed permanently, by Unix time."""
        return tuple(
            one for path, one in self._failed_files.items() if path in self._settled and path not in self._live
        )

    @property
    def unverified(self) -> tuple[str, ...]:
        """The paths of recordings that are not proved to be in S3: of live, failed, unknown and unreadable streams."""
        failed = (path for path in self._failed_files if path in self._settled)
        waiting = chain(failed, self._unknown, self._deferred, self._set_aside, self._below_minimum)
        return tuple(dict.fromkeys((*(live.path for live in self._live.values()), *waiting)))

    def has_settled(self, path: str) -> bool:
        """Return whether the file at a path is settled and, as far as is known, still there and unchanged."""
        return path in self._settled and path not in self._unknown

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
                self._services.scans.completed(event)  # last, so that tasks that wait for the scan see the renames

    def _seen(self, path: str, stat: FileStat, *, closed: bool = False) -> None:
        live = self._live.get(path)
        if live is not None:
            event = file_events.closed if closed else file_events.seen
            live.update(event(live.file_state.value, stat))
        elif self._settled.get(path) != stat and self._matches(path):
            self._queue_lookup(path, stat, closed=closed)

    def _moved(self, old_path: str, new_path: str, stat: FileStat) -> None:
        live = self._live.get(old_path)
        if live is not None and live.may_be_at(stat):
            del self._live[old_path]
            overwritten = self._live.pop(new_path, None)
            if overwritten is not None:
                self._detach(overwritten, new_path)
            self._live[new_path] = live
            live.update(file_events.moved(live.file_state.value, new_path, stat))
            return
        self._settled.pop(old_path, None)
        self._set_aside.pop(old_path, None)
        held = self._held.pop(old_path, None)
        below = self._below_minimum.get(old_path)
        unknown = self._pop_without_task(old_path) or held
        self._queue_rename(old_path, new_path, stat)
        self._seen(new_path, stat, closed=unknown is not None and unknown.closed)
        if unknown is not None and new_path in self._unknown:  # a rename does not prolong the wait
            self._unknown[new_path] = replace(self._unknown[new_path], begun_here_at=unknown.begun_here_at)
        if below is not None and new_path in self._unknown and below.stat.inode == stat.inode:
            self._unknown[new_path] = replace(self._unknown[new_path], since=below.since)

    def _gone(self, path: str) -> None:
        self._settled.pop(path, None)
        self._set_aside.pop(path, None)
        self._held.pop(path, None)
        self._pop_without_task(path)
        live = self._live.get(path)
        if live is not None:
            live.update(file_events.gone(live.file_state.value))

    def _scanned(self, files: Mapping[str, FileStat], unreadable: frozenset[str]) -> None:
        now = trio.current_time()
        self.unreadable_folders = {folder: self.unreadable_folders.get(folder, now) for folder in unreadable}
        self._failed_files = {path: one for path, one in self._failed_files.items() if path in self._settled}

        def is_missing(path: str) -> bool:
            return path not in files and not any(path.startswith(f"{folder}/") for folder in unreadable)

        # A missing or replaced file may have been renamed to a path that no other stream's file has.
        missing = {path: live for path, live in self._live.items() if is_missing(path)}
        replaced = {path: live for path, live in self._live.items() if path in files and live.is_replaced(files[path])}
        # So may one whose lookup is pending: its record has the old path.
        pending = {path: unknown.stat for path, unknown in self._unknown.items() if is_missing(path)}
        if missing or replaced or pending:
            has_its_own = self._live.keys() - replaced.keys()
            unclaimed = {
                stat.inode: path
                for path, stat in files.items()
                if path not in has_its_own and not self._is_settled(path, stat)
            }
            stats = {path: live.file_state.value.stat for path, live in {**missing, **replaced}.items()} | pending
            for path, stat in stats.items():
                new_path = unclaimed.get(stat.inode)
                if new_path is not None:
                    self._moved(path, new_path, files[new_path])
                elif path in missing:  # a pending one may be younger than the scan
                    self._gone(path)
        for known in (self._settled, self._set_aside, self._held, self._deferred, self._below_minimum):
            for path in [path for path in known if is_missing(path)]:
                del known[path]
        for path, stat in files.items():
            self._seen(path, stat)

    def _is_settled(self, path: str, stat: FileStat) -> bool:
        """Return whether the file at a path is still the settled one, possibly changed, and not one renamed to it."""
        settled = self._settled.get(path)
        return settled is not None and settled.inode == stat.inode

    def _detach(self, live: LiveStream, path: str) -> None:
        """Keep a stream whose path was taken by another stream's file, under a unique key; it checks its file."""
        self._live[f"{path}\0{id(live)}"] = live
        live.update(file_events.gone(live.file_state.value))

    def _queue_rename(self, old_path: str, new_path: str, stat: FileStat) -> None:
        """Queue the rename of a file without a task; Redis may have a record with the old path."""
        if self._matches(old_path) and self._matches(new_path):
            self._renamed.append((old_path, new_path, stat))
            self._work.value = True

    def _queue_lookup(self, path: str, stat: FileStat, *, closed: bool) -> None:
        """Queue the lookup of a file; for one that is set aside, held, deferred or below the minimum, only remember its
        stat."""
        for one in (self._held, self._below_minimum):
            if path in one and one[path].stat.inode != stat.inode:
                del one[path]  # another file
        waiting = (self._set_aside, self._held, self._deferred, self._below_minimum)
        queue = next((one for one in waiting if path in one), self._unknown)
        before = queue.get(path)
        if before is None:
            queue[path] = _Unknown(stat, closed)
        else:
            is_closed = closed or (before.closed and before.stat == stat)
            queue[path] = replace(before, stat=stat, closed=is_closed)
        if queue is self._below_minimum and self._wait_of(queue[path]) == 0:  # it has grown
            self._unknown[path] = queue.pop(path)
            queue = self._unknown
        self._work.value |= queue is self._unknown

    def retry_set_aside(self) -> None:
        """Queue the lookup of the files whose records could not be read; of newer records, once a minute."""
        now = trio.current_time()
        due = {path: one for path, one in self._set_aside.items() if one.again_at <= now}
        self._unknown = {**due, **self._unknown}
        self._work.value |= bool(due)

    async def retry_held(self) -> None:
        """Queue the lookup of the files that other daemons worked on, where they do so no more. Once a minute.

        A stream that is released or whose lease expires is resumed before that. This finds what else may have happened:
        the stream has ended, maybe failed, or Redis lost it together with the daemon that worked on it.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        now, services = trio.current_time(), self._services
        due = {path: one.stream_id for path, one in self._held.items() if one.again_at <= now}
        if not due:
            return
        holders = await services.store.holders(set(due.values()))
        for path, stream_id in due.items():
            held = self._held.get(path)
            if held is None or held.stream_id != stream_id:
                continue  # it changed meanwhile
            if rules.may_take(holders.get(stream_id), services.lease):
                del self._held[path]
                if path not in self._live:
                    self._unknown.setdefault(path, _Unknown(held.stat, held.closed))
                    self._work.value = True
            else:
                self._held[path] = replace(held, again_at=now + _HELD_SECONDS)

    async def review_failed(self) -> None:
        """Read the failed streams that have a file, now and then: an operator may have let one go, or aborted it.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        now, ids = trio.current_time(), {path: self._failed_ids[path] for path in self._failed_files}
        if not ids or now < self._failed_read_at + _FAILED_SECONDS:
            return
        self._failed_read_at, self._failed_ids = now, ids
        known = await self._services.store.load_metas(set(ids.values()))
        for path, stream_id in ids.items():
            has_failed = stream_id in known.unreadable or (stream_id in known and _is_risk(known[stream_id].meta))
            if not has_failed and self._failed_ids.get(path) == stream_id:
                self._failed_files.pop(path, None)

    # -- lookups ------------------------------------------------------------------------------------------------------

    async def run(self, on_uploaded: Callable[[StreamMeta], object]) -> None:
        """Look up unknown files in Redis and start their streams. Never returns.

        ``on_uploaded`` is called with each completed stream whose file is unchanged since its verification.
        """
        await self._services.determine_owner()
        if self._services.shares_folder:
            self._joined_at = trio.current_time() + _JOIN_SECONDS
        while True:
            later = chain(self._deferred.values(), self._below_minimum.values())
            with trio.move_on_at(min((one.again_at for one in later), default=inf)):
                await self._work.wait_value(True)
            self._retry_deferred()
            self._retry_below_minimum()
            try:
                await self._rename_known()
                await self._resolve_some(on_uploaded)
                self.lookup_error = None
            except CefMp4ProcessorError as error:
                if str(error) != self.lookup_error:  # logged once per error, not per retry
                    log.warning("path_lookup_failed", error=str(error))
                self.lookup_error = str(error)
                await trio.sleep(_PAUSE_SECONDS)
                await self._services.redis_breaker.wait_up()
                await self._services.s3_breaker.wait_up()
            self._work.value = bool(self._unknown or self._renamed)

    async def _resolve_some(self, on_uploaded: Callable[[StreamMeta], object]) -> None:
        asked = dict(islice(self._unknown.items(), _BATCH))
        ownership = self._services.ownership
        found = await self._services.store.find_by_path(list(asked), owner=ownership.name)
        known, others = ownership.divide(found)
        self._update_set_aside(asked, found)
        fresh, recorded = [], {}
        for path in asked:
            unknown = self._still_unknown(path, asked)
            if unknown is None:
                continue
            triaged = await self._triage(path, unknown.stat, known.get(path))
            judged, unknown = unknown, self._still_unknown(path, asked)
            if triaged is None or unknown is None or unknown.stat != judged.stat:
                continue  # it could not be checked, or it changed meanwhile and is looked up again
            if triaged is FileTriage.OTHER_OWNER:
                others[path] = known.pop(path).meta.stream_id
            if triaged in {FileTriage.NEW, FileTriage.REPLACED, FileTriage.OTHER_OWNER}:
                fresh.append(path)
            if triaged is FileTriage.SETTLED:
                self._settle(path, known[path])
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

    async def _resume_free(self, recorded: Mapping[str, str], asked: Mapping[str, _Unknown]) -> None:
        """Start the tasks of files with open streams; a stream that another daemon works on is left to it.

        Its file is then held: the idle checker resumes the stream when its lease has expired or was released.
        """
        services = self._services
        holders = await services.store.holders(recorded.values())
        for path, stream_id in recorded.items():
            unknown = self._still_unknown(path, asked)
            if unknown is None:
                continue
            if rules.may_take(holders.get(stream_id), services.lease):
                self._start(path, self._unknown.pop(path), stream_id)
            else:
                del self._unknown[path]
                self._settled[path] = unknown.stat
                again_at = trio.current_time() + _HELD_SECONDS
                self._held[path] = replace(unknown, again_at=again_at, stream_id=stream_id)
                log.debug("stream_held_elsewhere", stream_id=stream_id, path=path, holder=holders.get(stream_id))

    async def _begin_all(self, fresh: Mapping[str, FileHistory], asked: Mapping[str, _Unknown]) -> None:
        """Start streams for files that Redis has no usable record of at these paths."""
        lost = self._lost_records
        if any(path in self._settled and history.replaced_stream_id is None for path, history in fresh.items()):
            lost.request_search()  # a settled file had a record
        await lost.search(lambda: {path: unknown.stat for path, unknown in self._unknown.items()})
        others_files = await self._others_files([path for path, history in fresh.items() if history == NO_HISTORY])
        for path, history in fresh.items():
            if (unknown := self._still_unknown(path, asked)) is None:
                continue
            stream_id = await lost.moved_files.claim(path, unknown.stat)
            if (unknown := self._still_unknown(path, asked)) is not None:
                del self._unknown[path]
                if stream_id is None and (wait := self._wait_of(unknown)) > 0:
                    self._below_minimum[path] = replace(unknown, again_at=trio.current_time() + wait)
                    log.debug("recording_below_minimum", path=path, size_bytes=unknown.stat.size_bytes, seconds=wait)
                    continue
                if stream_id is None and path in others_files:
                    self._defer(path, unknown, others_files[path])
                    continue
                if lost.may_include(unknown.stat):
                    renamed = lost.moved_files.claim_completed(path, unknown.stat)
                    history = replace(history, renamed=renamed, may_be_stored=True)  # noqa: PLW2901
                self._begin(path, unknown, stream_id, history)

    async def _others_files(self, paths: Collection[str]) -> Mapping[str, str]:
        """Return those of these files without a record that other daemons are to begin, with the daemon (its token).

        A daemon that knows no other one makes no call for this.
        """
        services, ours = self._services, self._services.lease.token
        waiting = [path for path in paths if path in self._unknown and not self._is_begun_here(self._unknown[path])]
        if trio.current_time() < self._joined_at:
            return dict.fromkeys(waiting, "")
        if waiting:
            await self._read_peers()
        waiting = [path for path in waiting if path in self._unknown]  # not renamed or deleted during the await
        peers = services.peers.living(trio.current_time())
        if not waiting or not peers:
            return {}
        may_be_of = {path: self._lost_records.moved_files.may_be_of(self._unknown[path].stat) for path in waiting}
        held = {one.stream_id for one in self._held.values()}
        asked = held.union(*may_be_of.values())
        holders = await services.store.holders(asked) if asked else {}
        processes = {stream_id: holder.rpartition("/")[2] for stream_id, holder in holders.items()}
        loads = Counter({ours: len(self._live), **dict.fromkeys(peers, 0)})
        loads.update(processes[stream_id] for stream_id in held if processes.get(stream_id) in peers)
        names = {path: path.removeprefix(services.rules.root_of(path)) for path in chain(waiting, self._deferred)}
        division = divide(list(names.values()), loads)
        chosen = {path: division[names[path]] for path in waiting}
        # A daemon whose stream misses its file has that file open, and recognizes it by its next scan.
        chosen |= {
            path: processes[stream_id]
            for path, ids in may_be_of.items()
            for stream_id in ids
            if processes.get(stream_id) in peers
        }
        return {path: process for path, process in chosen.items() if process != ours}

    @staticmethod
    def _is_begun_here(unknown: _Unknown) -> bool:
        return unknown.begun_here_at <= trio.current_time()

    async def _read_peers(self) -> None:
        """Read the reports of our owner's daemons, if others may work on this folder and those at hand are old."""
        services, peers, now = self._services, self._services.peers, trio.current_time()
        if now < peers.read_at + _DEFERRED_SECONDS and peers.read_at >= self._joined_at:
            return
        if not peers.living(now) and (not services.shares_folder or peers.read_at >= self._joined_at):
            return  # the reporter finds later ones
        with suppress(CefMp4ProcessorError):  # no upload depends on the registry; in a cluster it has its own node
            fleet = read_fleet(await services.store.reports(beginning=f"{services.owner_name}/"))
            peers.update(fleet, services.work_group, services.lease.token, now)
        peers.read_at = now

    def _defer(self, path: str, unknown: _Unknown, daemon: str) -> None:
        """Leave a file to the daemon that is to begin it, for a limited time in all."""
        now, begun_here_at = trio.current_time(), unknown.begun_here_at
        if now < self._joined_at:
            self._deferred[path] = replace(unknown, again_at=self._joined_at)
            return
        begun_here_at = min(begun_here_at, now + wait_seconds(self._services.rules.rescan_seconds))
        again_at = min(now + _DEFERRED_SECONDS, begun_here_at)
        self._deferred[path] = replace(unknown, again_at=again_at, begun_here_at=begun_here_at)
        log.debug("recording_left_to_another_daemon", path=path, process=daemon)

    def _retry_deferred(self) -> None:
        """Queue the lookup of all deferred files once one is due, so that they are divided together."""
        if any(one.again_at <= trio.current_time() for one in self._deferred.values()):
            self._unknown = {**self._deferred, **self._unknown}
            self._deferred = {}
            self._work.value = True

    def _wait_of(self, unknown: _Unknown) -> float:
        """Return in how many seconds a file may be begun (:meth:`StartMinimum.wait_seconds`)."""
        now_ns = int(self._services.utc_now().timestamp() * 1e9)
        # One whose task has ended here was old enough before.
        seen_for = inf if self._is_begun_here(unknown) else trio.current_time() - unknown.since
        return self._services.rules.minimum.wait_seconds(unknown.stat, seen_for_seconds=seen_for, now_ns=now_ns)

    def _retry_below_minimum(self) -> None:
        """Queue the lookup of the files that have become old enough."""
        now = trio.current_time()
        for path in [path for path, one in self._below_minimum.items() if one.again_at <= now]:
            self._unknown.setdefault(path, self._below_minimum.pop(path))
            self._work.value = True

    async def _triage(self, path: str, stat: FileStat, known: StreamSummary | None) -> FileTriage | None:
        """Decide what to do about a file; ``None`` if it could not be checked in time and is left to the next scan."""
        is_ours = known is None or self._services.ownership.is_ours(known.meta)
        if known is None or (is_ours and not must_be_recognized(known, stat)):
            return triage(known, stat)
        identity_match = None
        with trio.move_on_after(_RECOGNIZE_SECONDS) as scope:
            identity_match = await self._recognize(path, stat, known.meta, is_ours=is_ours)
        if scope.cancelled_caught or identity_match is None:
            self._unknown.pop(path, None)
            return None
        if not is_ours and identity_match is not IdentityMatch.SAME:
            return FileTriage.OTHER_OWNER
        return triage(known, stat, identity_match)

    async def _recognize(self, path: str, stat: FileStat, meta: StreamMeta, *, is_ours: bool) -> IdentityMatch | None:
        try:
            if not is_ours:
                is_it = not await self._owner_lives(meta) and await is_proved(self._services, meta, path)
                return IdentityMatch.SAME if is_it else IdentityMatch.REPLACED
            return await recognize_at(self._services, meta, path)
        except RecordingChangedError:
            return None  # deleted meanwhile
        except ChunkProcessingError as error:
            if not (isinstance(error, FileAccessError) and error.denied):
                log.warning("recording_check_failed", error=str(error))
                return None
            if not is_ours:
                return IdentityMatch.REPLACED
            # The file is not readable: compare its stat only.
            return IdentityMatch.SAME if may_be(meta.identity, stat) else IdentityMatch.REPLACED

    async def _owner_lives(self, meta: StreamMeta) -> bool:
        """Return whether another daemon of the stream's owner is running; then equal bytes prove nothing."""
        fleet = read_fleet(await self._services.store.reports(beginning=f"{self._services.owner_name}/"))
        living = {one.place for one in fleet.living if one.process != self._services.lease.token}
        return meta.owner is not None and meta.owner.name in living

    def _update_set_aside(self, asked: Collection[str], found: Records) -> None:
        """Set aside the files whose records cannot be read, and take back those whose records can."""
        for path in asked:
            if path not in found.unreadable:
                self._set_aside.pop(path, None)
            elif path in self._unknown:
                if path in found.newer:
                    self._leave_to_newer(path, found.newer[path])
                else:
                    self._set_aside[path] = replace(self._unknown.pop(path), newer=None, again_at=0.0)

    def _leave_to_newer(self, path: str, newer: NewerRecord) -> None:
        """Set aside a file whose record is of a newer schema."""
        again_at = trio.current_time() + _NEWER_SECONDS
        self._set_aside[path] = replace(self._unknown.pop(path), newer=newer, again_at=again_at)

    async def _record_owner(self, meta: StreamMeta) -> None:
        """Record this host as the owner of an ended stream, once its file was proved to be on this host."""
        ownership = self._services.ownership
        if ownership.owner is None or ownership.is_ours(meta):
            return
        store, lease = self._services.store, self._services.lease
        async with hold_lease(store, meta.stream_id, lease) as held:
            if held is not None:
                await store.update(meta.stream_id, lease, Change({"owner": ownership.owner}))

    def _settle(self, path: str, known: StreamSummary) -> None:
        """Settle a file until it changes, and note a failed stream."""
        self._settled[path] = self._unknown.pop(path).stat
        self._failed_files.pop(path, None)
        meta = known.meta
        if _is_risk(meta):
            self._failed_ids[path] = meta.stream_id
            since, why = meta.last_activity_at_utc.timestamp(), meta.failure_reason or meta.status.value
            self._failed_files[path] = Waiting(since, self._settled[path].size_bytes, why)

    def _still_unknown(self, path: str, asked: Mapping[str, _Unknown]) -> _Unknown | None:
        """Return the unknown file at a path after a lookup; ``None`` if the result does not apply to it.

        During the lookup the file may have been deleted or replaced, or a rename to its path may have been queued. Then
        it is looked up again.
        """
        unknown = self._unknown.get(path)
        if unknown is None or unknown.stat.inode != asked[path].stat.inode:
            return None
        return None if any(new_path == path for _, new_path, _ in self._renamed) else unknown

    def _begin(self, path: str, unknown: _Unknown, stream_id: str | None, history: FileHistory) -> None:
        """Start the task of a file without a record at its path: of a new stream, or of a renamed file's stream."""
        key = next(
            (key for key, live in self._live.items() if stream_id and live.processor.stream_id == stream_id), None
        )
        if key is not None:  # this is the file of a live stream; by its key, as another stream may have its path
            self._moved(key, path, unknown.stat)
        else:
            self._start(path, unknown, stream_id, history)

    async def _rename_known(self) -> None:
        """Record queued renames before lookups, which go by path."""
        store = self._services.store
        while self._renamed:
            old_path, new_path, stat = self._renamed[0]
            known = await store.find_by_path([old_path, new_path], owner=self._services.ownership.name)
            if old_path in known.newer and new_path in self._unknown:
                self._leave_to_newer(new_path, known.newer[old_path])  # a newer daemon records the new name
            meta = known[old_path].meta if old_path in known else None
            if meta is not None and not self._services.ownership.is_ours(meta):
                meta = None  # another host may have a file with the same path and inode number (P9)
            if self._services.ownership.is_shared and new_path in known and may_be(known[new_path].meta.identity, stat):
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
            del self._renamed[0]

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
        self, known: StreamSummary, *, stat: FileStat | None = None, detached: bool = False, abort: bool = False
    ) -> None:
        """Start a task for a recorded stream without one. ``stat`` is the stat of its file, if it exists.

        ``detached``: another file took its path, so events of the path are not for it. ``abort``: the task only aborts
        the stream, for which its file does not matter.
        """
        meta = known.meta
        if self._draining.value or meta.stream_id in self.live_ids or meta.stream_id == self._renaming:
            return  # the caller repeats the call
        path = meta.current_path
        if stat is None and not abort:
            files = (entry for entry in self._without_task() if entry[1].stat.inode == meta.identity.inode)
            if (renamed := next(files, None)) is not None:
                self._pop_without_task(renamed[0])
                self._start(*renamed, meta.stream_id)
                return
            if not detached and any(True for _ in self._pending_lookups()):
                return  # one of those files may be its own, renamed; only the bytes decide
        if path in self._live or detached:
            path = f"{path}\0{meta.stream_id}"
        there = stat or FileStat(meta.identity.file_dev, meta.identity.file_ino, 0, 0)
        live = self._launch(path, FileState(meta.current_path, there, needs_check=stat is None), meta.stream_id)
        if abort:
            live.processor.request_abort()

    def abort(self, stream_ids: Collection[str]) -> None:
        """Have the tasks of these streams abort them, as an operator requested."""
        for live in self.live:
            if live.processor.stream_id in stream_ids:
                live.processor.request_abort()

    def _start(self, path: str, unknown: _Unknown, stream_id: str | None, history: FileHistory = NO_HISTORY) -> None:
        if self._draining.value or path in self._live or (stream_id is not None and stream_id in self.live_ids):
            return
        ending = Ending.CLOSED if unknown.closed else Ending.NOT
        self._launch(path, FileState(path, unknown.stat, ending), stream_id, history, seen_at=unknown.since)

    def _launch(
        self,
        key: str,
        file_state: FileState,
        stream_id: str | None,
        history: FileHistory = NO_HISTORY,
        *,
        seen_at: float | None = None,
    ) -> LiveStream:
        # Rechecked when this task has ended.
        for settled in (self._settled, self._failed_files, self._held, self._deferred, self._below_minimum):
            settled.pop(file_state.path, None)
        value = AsyncValue(file_state)
        processor = StreamProcessor(self._services, self._lost_records, value, stream_id, history)
        live = LiveStream(processor, value, trio.current_time())
        if seen_at is not None:
            live.first_seen = FirstSeenTimes(seen_at, file_state.stat.size_bytes)
        self._live[key] = live
        self._processors.start_soon(self._run_stream, live)
        return live

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
        upload = live.processor.upload
        if upload is not None and upload.meta.current_path != live.path:  # renamed after the task's last check
            self._queue_rename(upload.meta.current_path, live.path, live.file_state.value.stat)
        if outcome is Outcome.SET_ASIDE:
            file_state = live.file_state.value
            if not file_state.needs_check:  # else the file may not be at that path
                closed = file_state.ending is not Ending.NOT
                oldest = live.first_seen.oldest()
                since = live.changed_at if oldest is None else oldest
                self._set_aside[live.path] = _Unknown(file_state.stat, closed, since)
            return
        if outcome is not Outcome.PARKED and not self._draining.value and live.path not in self._rechecked_paths:
            path = live.path
            self._rechecked_paths.add(path)
            try:
                await self._recheck_path(path, live.processor.stream_id if lease_lost else None)
            finally:
                self._rechecked_paths.discard(path)

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
            if path in self._unknown:  # it was begun here: if its record is lost, it is found again here
                self._unknown[path] = replace(self._unknown[path], begun_here_at=trio.current_time())

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


def _is_risk(meta: StreamMeta) -> bool:
    """Return whether a stream failed, and no operator decided that its file is not to be uploaded."""
    return meta.status in FAILED - {Status.FAILED_ABORTED}
