"""Which file belongs to which stream, and the one place where streams' tasks are started.

File events arrive through :meth:`StreamSupervisor.handle_event`, which is synchronous. Redis is queried in batches by
:meth:`StreamSupervisor.run`: is the file known, complete, or another daemon's? At any time a file is either *live* (a
task works on it), *unknown* (its lookup in Redis is pending) or *settled* (nothing to do until it changes).

Stream tasks run in the daemon's processor nursery. No exception of one task reaches the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Final

import structlog
import trio
from trio_util import AsyncBool, AsyncValue, periodic

from cef_trio.checkpoint import FAILED, Change, KnownPath, Status, StreamMeta
from cef_trio.exceptions import CefMp4ProcessorError, ChunkProcessingError, FileAccessError, RecordingChangedError
from cef_trio.files import FileStat, IdentityMatch, inodes_last, may_be
from cef_trio.observability import Growth, Lag, Waiting, decode_all, lag_of
from cef_trio.upload import bulk_load
from cef_trio.upload import file_state as news
from cef_trio.upload.file_state import Ending, FileState
from cef_trio.upload.file_triage import FileTriage, must_be_recognized, triage
from cef_trio.upload.moved_files import MovedFiles
from cef_trio.upload.orphan_objects import OrphanObjects
from cef_trio.upload.orphan_uploads import OrphanUploads
from cef_trio.upload.processor import Outcome, StreamProcessor
from cef_trio.upload.recognition import is_proved, recognize_at
from cef_trio.upload.services import Services
from cef_trio.upload.start import FileHistory, Sources
from cef_trio.watch import Closed, FileEvent, Gone, Moved, Scanned, Seen

log = structlog.get_logger(__name__)

_BATCH = 500
_RECOGNIZE_SECONDS = 5.0
"""How long one file may keep the others waiting while it is read to see which file it is."""
_LOST_AGAIN_SECONDS = 600.0
"""How long after a search for what Redis may have lost old files that come are taken for new ones."""
_LOSS_SECONDS = 60.0
"""How far apart two such searches are at least, however many signs of a loss there are."""
_PAUSE_SECONDS = 1.0
"""Between two tries to ask a Redis that refuses, and before a stream whose lease was lost is asked about again."""

_NO_HISTORY: Final = FileHistory()


@dataclass(eq=False, slots=True)
class LiveStream:
    """A stream whose task runs."""

    processor: StreamProcessor
    file_state: AsyncValue[FileState]
    changed_at: float
    """``trio.current_time()`` when the file was last known to be another one than before."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    growth: Growth = field(init=False)
    _silent: FileStat = field(init=False)
    """The file as it was at ``changed_at``."""

    def __post_init__(self) -> None:
        self._silent = self.file_state.value.stat
        self.growth = Growth(self.changed_at, self._silent.size_bytes)

    @property
    def path(self) -> str:
        """Where its file is."""
        path: str = self.file_state.value.path
        return path

    def lag(self, now: float) -> Lag:
        """What S3 does not have of its file, holes left out."""
        file_state: FileState = self.file_state.value
        size_bytes, upload = file_state.stat.size_bytes, self.processor.upload
        if upload is None:
            self.growth.saw(now, size_bytes)  # the stream may have looked for itself
            return lag_of(size_bytes, 0, self.growth.oldest())
        acknowledged, holes = upload.acknowledged_bytes, upload.holes
        if holes is None or not holes.are_known(file_state, now):
            self.growth.saw(now, size_bytes)
            self.growth.acknowledged(upload.acknowledged_to)
            return lag_of(size_bytes, acknowledged, self.growth.oldest())
        waiting, end = upload.waiting_before_hole(holes.first_part)
        self.growth.saw(now, end)
        self.growth.acknowledged(upload.acknowledged_to)
        return Lag(waiting, self.growth.oldest(), max(0, size_bytes - acknowledged - waiting))

    def may_be_at(self, stat: FileStat) -> bool:
        """Whether a file that was given another name may be its own: where numbers do not last, the news says so."""
        upload = self.processor.upload
        if self.file_state.value.stat.inode == stat.inode:
            return True
        return upload is not None and not inodes_last(upload.meta.identity.fs_type)

    def is_replaced(self, stat: FileStat) -> bool:
        """Whether another file has its file's name, by its number, where numbers last."""
        upload = self.processor.upload
        if upload is None or not inodes_last(upload.meta.identity.fs_type):
            return False
        return bool(self.file_state.value.stat.inode != stat.inode)

    @property
    def unreadable(self) -> str | None:
        """Why its file cannot be read now; ``None`` if nothing is known against it. None of its bytes gets to S3."""
        error = self.processor.unreadable
        return str(error) if error is not None else None

    def update(self, file_state: FileState) -> None:
        """Take in news."""
        self.processor.retry_read()
        self.file_state.value = file_state
        self.silent_seconds(trio.current_time())
        self.lag(trio.current_time())  # notes when its bytes were first seen

    def silent_seconds(self, now: float) -> float:
        """How long the file has been as it is, whoever saw it so: the stream looks for itself, and tells nobody."""
        stat: FileStat = self.file_state.value.stat
        if stat != self._silent:
            self._silent, self.changed_at = stat, now
        return now - self.changed_at


@dataclass(frozen=True, slots=True)
class _Unknown:
    stat: FileStat
    closed: bool = False
    since: float = field(default_factory=trio.current_time)
    """When it was first seen."""


@dataclass(frozen=True, slots=True)
class _PathStreams:
    """The streams recorded for a path whose file needs a new stream."""

    before: KnownPath | None
    """A stream of ours: of another file, or an ended one."""
    beside: str | None
    """The id of another host's."""


class StreamSupervisor:
    """Starts a task for each stream, and hands it the news of its file."""

    def __init__(self, services: Services, processors: trio.Nursery, matches: Callable[[str], bool]) -> None:
        self._services = services
        self._processors = processors
        self._matches = matches
        self._sources = Sources(OrphanUploads(services), OrphanObjects(services, lambda: self.live_ids))
        self._moved_files = MovedFiles(services)
        self._must_list_uploads = True
        self._may_be_lost_before_ns = int(services.utc_now().timestamp() * 1e9)
        """Redis may have lost the record of a file that was last written before this: before this daemon's life, or
        before a sign of a loss."""
        self._searched_lost_at = -inf
        """When what Redis may have lost was searched for, by ``trio.current_time()``."""
        self._search_lost_at = -inf
        """When it may be searched for again."""
        self._draining = AsyncBool(False)
        self._live: dict[str, LiveStream] = {}
        self._settled: dict[str, FileStat] = {}
        self._unknown: dict[str, _Unknown] = {}
        self._failed_files: dict[str, Waiting] = {}
        """Settled files whose streams failed for good."""
        self.lookup_error: str | None = None
        """Why the files that Redis is to be asked about wait."""
        self.unreadable_folders: dict[str, float] = {}
        """Folders that could not be read at the last scan, and since when, by ``trio.current_time()``."""
        self._set_aside: dict[str, _Unknown] = {}
        """Files whose records cannot be read: looked at again now and then (:meth:`ask_set_aside_again`)."""
        self._renamed: list[tuple[str, str, FileStat]] = []
        self._rechecked_paths: set[str] = set()
        """Paths that a task which ended is to look at after its pause: one look each, however many tasks ended."""
        self._renaming: str | None = None
        """The stream whose new name is being recorded, under a lease that is given back: no task may begin on it."""
        self._work = AsyncBool(False)
        self.on_uploaded: Callable[[StreamMeta], object] = lambda _meta: None
        """Told of each completed recording whose file was seen as it was verified."""

    # -- what others see ----------------------------------------------------------------------------------------------

    @property
    def live(self) -> Iterable[LiveStream]:
        """The streams whose tasks run."""
        return tuple(self._live.values())

    @property
    def live_ids(self) -> frozenset[str]:
        """Their ids, of those that have one by now."""
        return frozenset(live.processor.stream_id for live in self._live.values() if live.processor.stream_id)

    @property
    def pending_lookup_bytes(self) -> int:
        """The sizes of files that Redis is still to be asked about."""
        return sum(unknown.stat.size_bytes for unknown in self._pending_lookups())

    @property
    def pending_lookup_since(self) -> float | None:
        """When the first of those that have bytes was first seen, by ``trio.current_time()``; ``None``: there is none.

        Their age counts from there also once their streams have begun.
        """
        return min((unknown.since for unknown in self._pending_lookups() if unknown.stat.size_bytes), default=None)

    def _pending_lookups(self) -> Iterator[_Unknown]:
        return (unknown for path, unknown in self._unknown.items() if path not in self._set_aside)

    @property
    def pending_lookups(self) -> tuple[Waiting, ...]:
        """The files that Redis is still to be asked about, by ``trio.current_time()``."""
        why = self.lookup_error or ""
        return tuple(
            Waiting(one.since, one.stat.size_bytes, why) for one in self._pending_lookups() if one.stat.size_bytes
        )

    @property
    def set_aside(self) -> tuple[Waiting, ...]:
        """The files whose records cannot be read, by ``trio.current_time()``."""
        return tuple(Waiting(one.since, one.stat.size_bytes, path) for path, one in self._set_aside.items())

    @property
    def failed_files(self) -> tuple[Waiting, ...]:
        """The files whose streams failed for good and that are still there, by Unix time."""
        return tuple(
            one for path, one in self._failed_files.items() if path in self._settled and path not in self._live
        )

    @property
    def unreadable(self) -> Mapping[str, str]:
        """The files that wait for the file system to let them be read, and why it does not."""
        return {live.path: live.unreadable for live in self._live.values() if live.unreadable is not None}

    def drain(self) -> None:
        """Start nothing new; tell every stream to finish what is in flight, save its state and leave."""
        self._draining.value = True
        for live in self._live.values():
            live.update(news.draining(live.file_state.value))

    # -- news ---------------------------------------------------------------------------------------------------------

    def handle_event(self, event: FileEvent) -> None:
        """Take in news of the folder (:class:`~cef_trio.watch.events.FileListener`)."""
        match event:
            case Seen(path, stat):
                self._seen(path, stat)
            case Closed(path, stat):
                self._closed(path, stat)
            case Moved(old_path, new_path, stat):
                self._moved(old_path, new_path, stat)
            case Gone(path):
                self._gone(path)
            case Scanned(files, unreadable):
                self._scanned(files, unreadable)
                self._services.scans.completed(event)  # last: whoever waits for it finds the new names told

    def _seen(self, path: str, stat: FileStat) -> None:
        live = self._live.get(path)
        if live is not None:
            live.update(news.seen(live.file_state.value, stat))
        elif self._settled.get(path) != stat and self._matches(path):
            self._ask_unless_set_aside(path, stat, closed=False)

    def _closed(self, path: str, stat: FileStat) -> None:
        live = self._live.get(path)
        if live is not None:
            live.update(news.closed(live.file_state.value, stat))
        elif self._settled.get(path) != stat and self._matches(path):
            self._ask_unless_set_aside(path, stat, closed=True)

    def _moved(self, old_path: str, new_path: str, stat: FileStat) -> None:
        live = self._live.get(old_path)
        if live is not None and live.may_be_at(stat):
            del self._live[old_path]
            overwritten = self._live.pop(new_path, None)
            if overwritten is not None:
                self._detach(overwritten, new_path)
            self._live[new_path] = live
            live.update(news.moved(live.file_state.value, new_path, stat))
            return
        self._settled.pop(old_path, None)
        self._set_aside.pop(old_path, None)
        unknown = self._unknown.pop(old_path, None)
        self._ask_to_rename(old_path, new_path, stat)
        if unknown is not None and unknown.closed:
            self._closed(new_path, stat)
        else:
            self._seen(new_path, stat)

    def _gone(self, path: str) -> None:
        self._settled.pop(path, None)
        self._set_aside.pop(path, None)
        self._unknown.pop(path, None)
        live = self._live.get(path)
        if live is not None:
            live.update(news.gone(live.file_state.value))

    def _scanned(self, files: Mapping[str, FileStat], unreadable: frozenset[str]) -> None:
        now = trio.current_time()
        self.unreadable_folders = {folder: self.unreadable_folders.get(folder, now) for folder in unreadable}
        self._failed_files = {path: one for path, one in self._failed_files.items() if path in self._settled}

        def is_missing(path: str) -> bool:
            return path not in files and not any(path.startswith(f"{folder}/") for folder in unreadable)

        # Whose file is not there, or another one: it may have another name now, which no stream's own file has.
        missing = {path: live for path, live in self._live.items() if is_missing(path)}
        replaced = {path: live for path, live in self._live.items() if path in files and live.is_replaced(files[path])}
        if missing or replaced:
            has_its_own = self._live.keys() - replaced.keys()
            unclaimed = {stat.inode: path for path, stat in files.items() if path not in has_its_own}
            for path, live in {**missing, **replaced}.items():
                new_path = unclaimed.get(live.file_state.value.stat.inode)
                if new_path is not None:
                    self._moved(path, new_path, files[new_path])
                elif path in missing:
                    self._gone(path)
        for known in (self._settled, self._set_aside):
            for path in [path for path in known if is_missing(path)]:
                del known[path]
        for path, stat in files.items():
            self._seen(path, stat)

    def _detach(self, live: LiveStream, path: str) -> None:
        """Its file's name was taken by another stream's file: it must look for itself, under a key of its own."""
        self._live[f"{path}\0{id(live)}"] = live
        live.update(news.gone(live.file_state.value))

    def _ask_to_rename(self, old_path: str, new_path: str, stat: FileStat) -> None:
        """A file that no task works on has another name: Redis may know it by the old one, asked or not yet asked."""
        if self._matches(old_path) and self._matches(new_path):
            self._renamed.append((old_path, new_path, stat))
            self._work.value = True

    def _ask_unless_set_aside(self, path: str, stat: FileStat, *, closed: bool) -> None:
        """Ask Redis about a file; of one whose record cannot be read only the news is kept, however often it comes."""
        aside = self._set_aside.get(path)
        if aside is None:
            self._ask(path, stat, closed=closed)
        else:
            self._set_aside[path] = _Unknown(stat, closed or (aside.closed and aside.stat == stat), aside.since)

    def ask_set_aside_again(self) -> None:
        """Ask Redis once more about the files whose records could not be read."""
        self._unknown = {**self._set_aside, **self._unknown}
        self._work.value |= bool(self._set_aside)

    def _ask(self, path: str, stat: FileStat, *, closed: bool) -> None:
        before = self._unknown.get(path)
        same = before is not None and before.stat == stat
        since = before.since if before is not None else trio.current_time()
        self._unknown[path] = _Unknown(stat, closed or (same and before is not None and before.closed), since)
        self._work.value = True

    # -- asking Redis -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ask Redis about unknown files and start their streams, for ever."""
        await self._services.look_at_folder()
        while True:
            await self._work.wait_value(True)
            try:
                await self._rename_known()
                await self._resolve_some()
                self.lookup_error = None
            except CefMp4ProcessorError as error:
                if str(error) != self.lookup_error:  # said once, however long it lasts
                    log.warning("path_lookup_failed", error=str(error))
                self.lookup_error = str(error)
                await trio.sleep(_PAUSE_SECONDS)
                await self._services.redis_breaker.wait_up()
                await self._services.s3_breaker.wait_up()
            self._work.value = bool(self._unknown or self._renamed)

    async def _resolve_some(self) -> None:
        asked = dict(islice(self._unknown.items(), _BATCH))
        ownership = self._services.ownership
        found, unreadable = await bulk_load.find_by_path(self._services.store, list(asked), ownership.name)
        known, others = ownership.divide(found)
        self._put_aside(asked, unreadable)
        fresh = []
        for path in asked:
            unknown = self._still_unknown(path, asked)
            if unknown is None:
                continue
            triaged = await self._triage(path, unknown.stat, known.get(path))
            judged, unknown = unknown, self._still_unknown(path, asked)
            if triaged is None or unknown is None or unknown.stat != judged.stat:
                continue  # it was not to be looked at, or there is news of it: asked about again
            if triaged is FileTriage.ANOTHERS:
                others[path] = known.pop(path).meta.stream_id
            if triaged in {FileTriage.NEW, FileTriage.REPLACED, FileTriage.ANOTHERS}:
                fresh.append(path)
            if triaged is FileTriage.SETTLED:
                self._settle(path, known[path])
                await self._record_owner(known[path].meta)
            elif triaged is FileTriage.RESUME:
                self._start(path, self._unknown.pop(path), known[path].meta.stream_id)
            elif triaged is FileTriage.REPLACED:
                self.resume_unattended(known[path], detached=True)
        if fresh:
            await self._begin_all(
                fresh, asked, {path: _PathStreams(known.get(path), others.get(path)) for path in fresh}
            )

    async def _begin_all(
        self, fresh: list[str], asked: Mapping[str, _Unknown], streams: Mapping[str, _PathStreams]
    ) -> None:
        """Start streams for files that Redis does not know, at least not by these names."""
        if any(path in self._settled and streams[path].before is None for path in fresh):
            self._suspect_lost_records()  # Redis knew it
        await self._find_candidates()
        for path in fresh:
            if (unknown := self._still_unknown(path, asked)) is None:
                continue
            stream_id = await self._moved_files.claim(path, unknown.stat)
            if (unknown := self._still_unknown(path, asked)) is not None:
                del self._unknown[path]
                seen = streams[path].before
                old = self._may_be_lost(unknown.stat)
                history = FileHistory(
                    instead_of=seen.meta.stream_id if seen is not None else None,
                    beside=streams[path].beside,
                    renamed=self._moved_files.claim_completed(path, unknown.stat) if old else None,
                    may_be_stored=old,
                )
                self._begin(path, unknown, stream_id, history)

    async def _triage(self, path: str, stat: FileStat, known: KnownPath | None) -> FileTriage | None:
        """What a file means to us; ``None``: it could not be looked at in time, and is left to the next scan."""
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
            return FileTriage.ANOTHERS
        return triage(known, stat, identity_match)

    async def _recognize(self, path: str, stat: FileStat, meta: StreamMeta, *, is_ours: bool) -> IdentityMatch | None:
        store, disk = self._services.store, self._services.disk
        try:
            if not is_ours:
                is_it = not await self._owner_lives(meta) and await is_proved(store, disk, meta, path)
                return IdentityMatch.SAME if is_it else IdentityMatch.REPLACED
            return await recognize_at(store, disk, meta, path)
        except RecordingChangedError:
            return None  # gone since
        except ChunkProcessingError as error:
            if not (isinstance(error, FileAccessError) and error.denied):
                log.warning("recording_check_failed", error=str(error))
                return None
            if not is_ours:
                return IdentityMatch.REPLACED
            return IdentityMatch.SAME if may_be(meta.identity, stat) else IdentityMatch.REPLACED  # what nobody may read

    async def _owner_lives(self, meta: StreamMeta) -> bool:
        """Whether another daemon reports that this owner's streams are its own: then equal bytes prove nothing."""
        reports, _ = decode_all(await self._services.store.reports())
        now, ours = self._services.unix_time(trio.current_time()), self._services.lease.token
        living = {one.owner for one in reports if not (one.stopped or one.is_silent(now) or one.process == ours)}
        return meta.owner is not None and meta.owner.name in living

    def _put_aside(self, asked: Collection[str], unreadable: frozenset[str]) -> None:
        """Leave the files alone whose records cannot be read, until they can."""
        for path in asked:
            if path not in unreadable:
                self._set_aside.pop(path, None)
            elif path in self._unknown:
                self._set_aside[path] = self._unknown.pop(path)

    async def _find_candidates(self) -> None:
        """Before a file is taken for a new one: look for uploads that Redis forgot, and for renamed recordings."""
        if self._must_list_uploads:
            self._must_list_uploads = False  # first: who finds another lease lost meanwhile sets it again
            done = False
            try:
                done = await self._sources.uploads.look(lambda: self.live_ids)
            finally:
                self._must_list_uploads |= not done
        if self._moved_files.due:
            await self._moved_files.look(lambda: self.live_ids)
        old = {path: one.stat for path, one in self._unknown.items() if self._may_be_lost(one.stat)}
        if old and trio.current_time() >= self._search_lost_at:
            await self._moved_files.look_for_completed(old)
            self._sources.objects.want(old)
            self._searched_lost_at = trio.current_time()
            self._search_lost_at = self._searched_lost_at + _LOST_AGAIN_SECONDS

    def _may_be_lost(self, stat: FileStat) -> bool:
        """Whether Redis may have known a file that it does not know."""
        return stat.mtime_ns < self._may_be_lost_before_ns

    def _suspect_lost_records(self) -> None:
        """Redis has lost something, or may have: search for it before a file of until now is taken for a new one."""
        self._must_list_uploads = True
        self._moved_files.request()
        self._may_be_lost_before_ns = int(self._services.utc_now().timestamp() * 1e9) + 1
        self._search_lost_at = min(self._search_lost_at, self._searched_lost_at + _LOSS_SECONDS)

    async def _record_owner(self, meta: StreamMeta) -> None:
        """Note that an ended stream is ours: its file was proved to be here now, and that its owner's disk moved."""
        ownership = self._services.ownership
        if ownership.owner is None or ownership.is_ours(meta):
            return
        store, lease = self._services.store, self._services.lease
        if await store.acquire(meta.stream_id, lease):
            await store.update(meta.stream_id, lease, Change({"owner": ownership.owner}))
            await store.release([meta.stream_id], lease)

    def _settle(self, path: str, known: KnownPath) -> None:
        """Nothing is to be done about that file until it changes, but what follows an upload."""
        self._settled[path] = self._unknown.pop(path).stat
        self._failed_files.pop(path, None)
        meta = known.meta
        if meta.status is Status.COMPLETED:
            self.on_uploaded(meta)
        elif meta.status in FAILED - {Status.FAILED_ABORTED}:  # what a person gave up is not missed
            since, why = meta.last_activity_at_utc.timestamp(), meta.failure_reason or meta.status.value
            self._failed_files[path] = Waiting(since, self._settled[path].size_bytes, why)

    def _still_unknown(self, path: str, asked: Mapping[str, _Unknown]) -> _Unknown | None:
        """What is to be judged at a path that Redis and S3 were asked about; ``None`` if the answer is not about it.

        While they were asked the file may have gone, or another one got its name: then it is asked about anew. So it is
        while Redis is still to be told that a file that it knows has that name now.
        """
        unknown = self._unknown.get(path)
        if unknown is None or unknown.stat.inode != asked[path].stat.inode:
            return None
        return None if any(new_path == path for _, new_path, _ in self._renamed) else unknown

    def _begin(self, path: str, unknown: _Unknown, stream_id: str | None, history: FileHistory) -> None:
        """Start the task of a file that Redis does not know: a new stream's, unless it is a relocated one's."""
        live = next((live for live in self.live if stream_id and live.processor.stream_id == stream_id), None)
        if live is not None:  # the idle checker took it up since it was looked for: this is where its file is
            self._moved(live.path, path, unknown.stat)
        else:
            self._start(path, unknown, stream_id, history)

    async def _rename_known(self) -> None:
        """Tell Redis of new names first: else a file would be asked about by a name that leads to nothing."""
        store = self._services.store
        while self._renamed:
            old_path, new_path, stat = self._renamed[0]
            known, _ = await bulk_load.find_by_path(store, [old_path], self._services.ownership.name)
            meta = known[old_path].meta if old_path in known else None
            if meta is not None and not self._services.ownership.is_ours(meta):
                meta = None  # another host's file has that very name, and perhaps that number (P9)
            if meta is not None and may_be(meta.identity, stat) and meta.stream_id not in self.live_ids:
                self._renaming = meta.stream_id
                try:
                    await self._record_name(meta.stream_id, old_path, new_path)
                except CefMp4ProcessorError as error:
                    if error.transient:
                        raise
                    # Of this one stream: it keeps no other file waiting (P6).
                    log.warning("rename_not_recorded", stream_id=meta.stream_id, path=new_path, error=str(error))
                finally:
                    self._renaming = None
            del self._renamed[0]

    async def _record_name(self, stream_id: str, old_path: str, path: str) -> None:
        store, lease = self._services.store, self._services.lease
        if not await store.acquire(stream_id, lease):
            return
        try:
            # Another daemon may have recorded a newer name before the lease was ours.
            known = await bulk_load.load_metas(store, [stream_id])
            if stream_id in known and known[stream_id].meta.current_path == old_path:
                await store.rename(stream_id, lease, path)
                log.info("known_recording_renamed", stream_id=stream_id, path=path)
        finally:
            await self._services.give_back(stream_id)

    # -- tasks --------------------------------------------------------------------------------------------------------

    def resume_unattended(self, known: KnownPath, *, stat: FileStat | None = None, detached: bool = False) -> None:
        """Start a task for a stream that Redis knows and nobody works on. ``stat``: its file now, if it is there.

        ``detached``: its file's name belongs to another file by now, so news of the name is not for it.
        """
        meta = known.meta
        if self._draining.value or meta.stream_id in self.live_ids or meta.stream_id == self._renaming:
            return  # whoever asks, asks again
        path = meta.current_path
        if stat is None:
            renamed = next(
                (new for new, unknown in self._unknown.items() if unknown.stat.inode == meta.identity.inode), None
            )
            if renamed is not None:
                self._start(renamed, self._unknown.pop(renamed), meta.stream_id)
                return
            if not detached and any(True for _ in self._pending_lookups()):
                return  # one of those files may be its own under a new name, which only its bytes tell
        if path in self._live or detached:
            path = f"{path}\0{meta.stream_id}"
        there = stat or FileStat(meta.identity.file_dev, meta.identity.file_ino, 0, 0)
        self._launch(path, FileState(meta.current_path, there, suspect=stat is None), meta.stream_id)

    def _start(self, path: str, unknown: _Unknown, stream_id: str | None, history: FileHistory = _NO_HISTORY) -> None:
        if self._draining.value or path in self._live or (stream_id is not None and stream_id in self.live_ids):
            return
        ending = Ending.CLOSED if unknown.closed else Ending.NOT
        self._launch(path, FileState(path, unknown.stat, ending), stream_id, history, seen_at=unknown.since)

    def _launch(
        self,
        key: str,
        file_state: FileState,
        stream_id: str | None,
        history: FileHistory = _NO_HISTORY,
        *,
        seen_at: float | None = None,
    ) -> None:
        for settled in (self._settled, self._failed_files):  # it is looked at anew when this task has ended
            settled.pop(file_state.path, None)
        value = AsyncValue(file_state)
        processor = StreamProcessor(self._services, self._sources, value, stream_id, history)
        live = LiveStream(processor, value, trio.current_time())
        if seen_at is not None:
            live.growth = Growth(seen_at, file_state.stat.size_bytes)
        self._live[key] = live
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
            # Its own errors stay in the processor; a bug in the very saving of its end must not end other streams: P6.
            log.exception("stream_task_failed")
            if live.processor.stream_id is not None:
                self._services.exit_saves.unsaved.add(live.processor.stream_id)
        finally:
            lease_lost = outcome in {None, Outcome.LEASE_LOST}
            # Before the file can be taken for a new one: Redis may have lost its memory, and S3 have what it forgot.
            if lease_lost:
                self._suspect_lost_records()
            for key in [key for key, other in self._live.items() if other is live]:
                del self._live[key]
            cancelled = "lease_lost" if live.processor.lease_lost else "cancelled"
            self._services.metrics.stream_ended(outcome.value if outcome is not None else cancelled)
        if outcome in {Outcome.COMPLETED, Outcome.FAILED} and live.processor.stream_id is not None:
            self._services.exit_saves.unsaved.discard(live.processor.stream_id)  # an earlier task's trouble is over
        upload = live.processor.upload
        if upload is not None and upload.meta.current_path != live.path:  # renamed when its task had no more turns
            self._ask_to_rename(upload.meta.current_path, live.path, live.file_state.value.stat)
        if outcome is Outcome.SET_ASIDE:
            file_state = live.file_state.value
            if not file_state.suspect:  # else its file is not at that path
                closed = file_state.ending is not Ending.NOT
                oldest = live.growth.oldest()
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
        """A stream's task ended: whatever is at its path now is asked about like any file, after a pause."""
        try:
            pause = _PAUSE_SECONDS
            if lost_id is not None:
                # Another daemon has it, which takes its time, or Redis lost its memory, which is mended at once.
                known = await bulk_load.load_metas(self._services.store, [lost_id])
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

    # -- leases -------------------------------------------------------------------------------------------------------

    async def renew_leases(self) -> None:
        """Keep the leases of live streams; a stream whose lease is lost is stopped, since it may write nothing more."""
        async with aclosing(periodic(self._services.lease.ttl_seconds / 3)) as rounds:
            async for _ in rounds:
                await self._renew_now()

    async def _renew_now(self) -> None:
        ids = self.live_ids
        if not ids:
            return
        # Of a stream that takes its lease while Redis is asked the answer may speak of the moment before that.
        had_leases = {live for live in self.live if live.processor.upload is not None}
        try:
            lost = await self._services.store.renew(ids, self._services.lease)
        except CefMp4ProcessorError as error:
            log.warning("leases_not_renewed", error=str(error))
            return
        for live in self.live:
            upload = live.processor.upload
            if live in had_leases and upload is not None and upload.stream_id in lost:
                log.warning("lease_lost", stream_id=live.processor.stream_id)
                live.processor.lease_lost = True
                live.scope.cancel()
