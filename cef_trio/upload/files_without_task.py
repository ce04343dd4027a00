"""Which files have no task, what each waits for, and when it is looked up again in Redis. Pure.

At any time a file is either *live* (a task works on it: ``supervisor.py``), *unknown* (its lookup in Redis is pending),
*settled* (nothing to do until it changes), *set aside* (its record cannot be read; it is looked up again periodically),
*held* (another daemon works on its stream; it is looked up again once that has ended, even if it changes), *deferred*
(it has no record at its path, and another daemon of the shared folder is to begin it, or may have begun it at another
path; it is looked up again every few seconds, and begun here if no daemon does), *unrecognized* (its bytes could not be
compared with those of its record, or of a stream that misses its file: that is done apart if it takes long, else by the
next scan) or *below the minimum* (it has no record, and is yet too small or too young to be begun).

A settled file that changes is unknown too, until it is looked up. So is one that is set aside, while it is looked up
again; and one that is held is settled.

Not here: the lookups, the tasks and the leases (``supervisor.py``), and what a record decides (``file_triage.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from math import inf
from typing import NamedTuple

from cef_trio.checkpoint import FAILED, FileIdentity, NewerRecord, Records, Status, StreamMeta, StreamSummary
from cef_trio.files import FileStat, IdentityMatch, may_be
from cef_trio.observability import Waiting
from cef_trio.upload.start_minimum import StartMinimum

_NEWER_SECONDS = 60.0
"""The pause before a file is looked up again whose record is of a newer schema."""
DEFERRED_SECONDS = 3.0
"""How often deferred files are looked up, and the other daemons' reports read at most."""
_HELD_SECONDS = 60.0
"""How often the leases of the streams that other daemons work on are read."""
_REMEMBERED = 10_000
"""How many files that have a record are remembered beside the settled ones."""
_SLOW = "a file is read so slowly that comparing it with what is recorded takes long"


@dataclass(frozen=True, slots=True)
class Recognized:
    """Whether a file is a stream's, as was found apart from its lookup."""

    stream_id: str
    stat: FileStat
    """The file as it was before."""
    match: IdentityMatch

    def is_of(self, stat: FileStat) -> bool:
        """Return whether this is still true of the file: none becomes or ceases to be the stream's by growing."""
        if stat.inode != self.stat.inode:
            return False
        if self.match is IdentityMatch.SAME and stat.size_bytes >= self.stat.size_bytes:
            return True  # a resume compares it again
        return self.match is IdentityMatch.REPLACED or stat == self.stat


@dataclass(frozen=True, slots=True)
class Claimed:
    """Whether a file is that of an open stream that misses its file, as was found apart from its lookup."""

    stream_id: str | None
    stat: FileStat
    """The file as it was before."""
    not_of: frozenset[str]
    """The streams whose file it is not."""

    def is_of(self, stat: FileStat) -> bool:
        """Return whether this is still true of the file (:meth:`Recognized.is_of`)."""
        return stat.inode == self.stat.inode and (self.stream_id is None or stat.size_bytes >= self.stat.size_bytes)


class QueuedRename(NamedTuple):
    """The rename of a file without a task, yet to be recorded."""

    old_path: str
    new_path: str
    stat: FileStat
    """The file at its new path."""
    stream_id: str | None
    """The stream that it is of, if that is known."""


@dataclass(frozen=True, slots=True)
class WaitingFile:
    """A file that has no task, and may get one. Times are ``trio.current_time()``."""

    stat: FileStat
    closed: bool
    since: float
    """When the file was first seen."""
    newer: NewerRecord | None = None
    """Its record, if that is only of a newer schema."""
    again_at: float = 0.0
    """From when a file is looked up again (set aside, deferred, below the minimum) or asked for (held)."""
    begun_here_at: float = inf
    """From when it is begun here, whichever daemon is to begin it."""
    stream_id: str = ""
    """The stream that another daemon works on, of a file that is held, or that may be that stream's."""
    slow: bool = False
    """Whether comparing its bytes with those that were recorded took longer than the others may wait."""
    recognized: Recognized | None = None
    """What was found of an unrecognized file since, by the record at its path."""
    claimed: Claimed | None = None
    """What was found of it since, by the records whose files are missing."""
    uploaded: FileStat | None = None
    """What an unrecognized file was like when its record had it as uploaded, as far as size and times tell."""


class FilesWithoutTask:
    """The files that have no task, by their paths."""

    def __init__(
        self,
        matches: Callable[[str], bool],
        minimum: StartMinimum,
        *,
        now: Callable[[], float],
        utc_now: Callable[[], datetime],
        wake: Callable[[], None],
    ) -> None:
        """``matches``: whether the file at a path is a recording. ``now``: ``trio.current_time``.

        ``wake`` is called when there is something to look up or a rename to record.
        """
        self._matches = matches
        self._minimum = minimum
        self._now = now
        self._utc_now = utc_now
        self._wake = wake
        self.unknown: dict[str, WaitingFile] = {}
        """Those whose lookup is pending, in the order in which they are looked up."""
        self.settled: dict[str, FileStat] = {}
        """The settled files as they were then; one that has changed since had a record."""
        self.renamed: list[QueuedRename] = []
        """Renames of files without a task to record: old path, new path, and the file there."""
        self.lookup_error: str | None = None
        """The error of the last lookup; ``None`` if it succeeded."""
        self.failed: dict[str, tuple[str, Waiting]] = {}
        """Settled files whose streams failed permanently: the stream, since when (``trio.current_time()``) and why."""
        self._set_aside: dict[str, WaitingFile] = {}
        self._held: dict[str, WaitingFile] = {}
        self._deferred: dict[str, WaitingFile] = {}
        self._unrecognized: dict[str, WaitingFile] = {}
        self._below_minimum: dict[str, WaitingFile] = {}
        self._recorded: dict[FileStat, None] = {}
        """The files that were settled, and those whose streams have ended, the latest ones last."""

    # -- observable state ---------------------------------------------------------------------------------------------

    def may_be_pending(self, identity: FileIdentity) -> bool:
        """Return whether the lookup of a file is pending that may be this one, by its numbers.

        Not of one that was looked up in vain before, as its record or its bytes could not be read: the stream's task
        waits for that, and tells (``scan_history.py``).
        """
        new = (one.stat for path, one in self.unknown.items() if path not in self._set_aside)
        return any(may_be(identity, stat) for stat in new)

    @property
    def undecided(self) -> Mapping[str, FileStat]:
        """The files that may be any stream's, renamed, by path: their lookup is pending, or their comparison."""
        return {path: one.stat for path, one in chain(self.unknown.items(), self._unrecognized.items())}

    @property
    def pending_lookups(self) -> tuple[Waiting, ...]:
        """The nonempty files whose lookup is pending, by ``trio.current_time()`` when each was first seen.

        One that may be of another daemon's stream counts only while lookups fail: that daemon reports its stream. One
        that is uploaded, as far as its record and its stat tell, does not count, however long its comparison takes.
        """
        why = self.lookup_error or ""
        unknown = (one for path, one in self.unknown.items() if path not in self._set_aside)
        waiting = chain(unknown, self._deferred.values(), self._unrecognized.values())
        counted = (one for one in waiting if one.stat.size_bytes and one.stat != one.uploaded)
        pending = (one for one in counted if why or not one.stream_id)
        return tuple(Waiting(one.since, one.stat.size_bytes, why or (_SLOW if one.slow else "")) for one in pending)

    @property
    def too_small(self) -> int:
        """The number of files that are smaller than ``WATCH_MIN_SIZE_BYTES`` and not begun."""
        return sum(self._minimum.is_small(one.stat) for one in self._below_minimum.values())

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
    def unverified(self) -> tuple[str, ...]:
        """The paths of those that are not proved to be in S3: of failed, unknown and unreadable streams."""
        return (*self.failed, *self._set_aside, *chain.from_iterable(self._waiting))

    @property
    def held_ids(self) -> frozenset[str]:
        """The streams that other daemons work on, as far as is known."""
        return frozenset(one.stream_id for one in self._held.values())

    @property
    def deferred(self) -> Collection[str]:
        """The paths of the files that other daemons are to begin."""
        return [path for path, one in self._deferred.items() if not one.stream_id]

    @property
    def due_at(self) -> float:
        """When the next file is due that is deferred or below the minimum; infinite if none is."""
        later = chain(self._deferred.values(), self._below_minimum.values())
        return min((one.again_at for one in later), default=inf)

    def has_settled(self, path: str) -> bool:
        """Return whether the file at a path is settled and, as far as is known, still there and unchanged."""
        return path in self.settled and not any(path in files for files in self._waiting)

    def is_settled_one(self, path: str, stat: FileStat) -> bool:
        """Return whether the file at a path is still the settled one, possibly changed, and not one renamed to it."""
        settled = self.settled.get(path)
        return settled is not None and settled.inode == stat.inode

    def was_recorded(self, stat: FileStat) -> bool:
        """Return whether a file is probably one that has a record of an ended stream, if maybe under another name."""
        return stat in self._recorded

    # -- events -------------------------------------------------------------------------------------------------------

    def seen(self, path: str, stat: FileStat, *, closed: bool = False) -> None:
        """Queue the lookup of a file, unless it is settled and unchanged; for one that waits, remember its stat."""
        if self.settled.get(path) == stat or not self._matches(path):
            return
        for one in (self._held, self._below_minimum):
            if path in one and one[path].stat.inode != stat.inode:
                del one[path]  # another file
        if path in self._unrecognized and self._unrecognized[path].stat.inode != stat.inode:
            # Another file, or one with a new number, as on FUSE: it is looked up at once, and its wait goes on.
            self.unknown[path] = self._unrecognized.pop(path)
        waiting = (self._set_aside, self._held, self._deferred, self._unrecognized, self._below_minimum)
        queue = next((one for one in waiting if path in one), self.unknown)
        before = queue.get(path)
        if before is None:
            queue[path] = WaitingFile(stat, closed, self._now())
        else:
            is_closed = closed or (before.closed and before.stat == stat)
            queue[path] = replace(before, stat=stat, closed=is_closed)
        if queue is self._below_minimum and self.begins_in(queue[path]) == 0:  # it has grown
            self.unknown[path] = queue.pop(path)
            queue = self.unknown
        if queue is self.unknown:
            self._wake()

    def moved(self, old_path: str, new_path: str, stat: FileStat, *, has_task: bool) -> bool:
        """Follow a rename; return whether the file was closed. ``has_task``: the path has one, so no lookup is queued.

        A rename does not prolong the wait of a file.
        """
        below = self._below_minimum.get(old_path)
        before = next((files[old_path] for files in (*self._waiting, self._held) if old_path in files), None)
        self.forget(old_path)
        self.queue_rename(old_path, new_path, stat)
        closed = before is not None and before.closed
        if not has_task:
            self.seen(new_path, stat, closed=closed)
        if before is not None and new_path in self.unknown:
            unknown = self.unknown[new_path]
            since = below.since if below is not None and below.stat.inode == stat.inode else unknown.since
            self.unknown[new_path] = replace(unknown, since=since, begun_here_at=before.begun_here_at)
        return closed

    def queue_rename(self, old_path: str, new_path: str, stat: FileStat, stream_id: str | None = None) -> None:
        """Queue the rename of a file without a task; Redis may have a record with the old path.

        ``stream_id``: the stream that it is of, if that is known.
        """
        if self._matches(old_path) and self._matches(new_path):
            self.renamed.append(QueuedRename(old_path, new_path, stat, stream_id))
            self._wake()

    def forget(self, path: str) -> None:
        """Forget a file that is gone."""
        for files in (self.unknown, *self._not_asked):
            files.pop(path, None)

    def forget_missing(self, is_missing: Callable[[str], bool]) -> None:
        """Forget the files that a scan did not find, but unknown ones: those may be younger than the scan."""
        for files in self._not_asked:
            for path in [path for path in files if is_missing(path)]:
                del files[path]

    @property
    def _waiting(self) -> tuple[dict[str, WaitingFile], ...]:
        """The files that may get a task here. A file is in one of them at most."""
        return self.unknown, self._deferred, self._unrecognized, self._below_minimum

    @property
    def _not_asked(self) -> tuple[dict[str, FileStat] | dict[str, tuple[str, Waiting]] | dict[str, WaitingFile], ...]:
        return self.settled, self.failed, self._set_aside, self._held, *self._waiting[1:]

    # -- after a lookup -----------------------------------------------------------------------------------------------

    def still_unknown(self, path: str, asked: Mapping[str, WaitingFile]) -> WaitingFile | None:
        """Return the unknown file at a path after a lookup; ``None`` if the result does not apply to it.

        During the lookup the file may have been deleted or replaced, or a rename to its path may have been queued. Then
        it is looked up again.
        """
        unknown = self.unknown.get(path)
        if unknown is None or unknown.stat.inode != asked[path].stat.inode:
            return None
        return None if any(rename.new_path == path for rename in self.renamed) else unknown

    def settle(self, path: str, known: StreamSummary, *, until_scanned: bool = False) -> None:
        """Settle a file until it changes, or until the next scan, and note a failed stream."""
        stat = self.unknown.pop(path).stat
        if until_scanned:
            self.settled.pop(path, None)
        else:
            self.settled[path] = stat
        self.recorded(stat)
        self.failed.pop(path, None)
        meta = known.meta
        if is_risk(meta):
            # The clock that gave the time may be another host's, or wrong then: no stream has failed in the future.
            ago = max(0.0, (self._utc_now() - meta.last_activity_at_utc).total_seconds())
            why = meta.failure_reason or meta.status.value
            self.failed[path] = meta.stream_id, Waiting(self._now() - ago, stat.size_bytes, why)

    def recorded(self, stat: FileStat) -> None:
        """Remember a file that has a record, so that under another name it is not taken for a new one."""
        self._recorded.pop(stat, None)
        self._recorded[stat] = None
        while len(self._recorded) > len(self.settled) + _REMEMBERED:
            del self._recorded[next(iter(self._recorded))]

    def hold(self, path: str, stream_id: str) -> None:
        """Leave a file to the daemon that works on its stream."""
        unknown = self.unknown.pop(path)
        self.settled[path] = unknown.stat
        self._held[path] = replace(unknown, again_at=self._now() + _HELD_SECONDS, stream_id=stream_id)

    def defer(self, path: str, *, joined_at: float, wait_seconds: float) -> None:
        """Leave a file to the daemon that is to begin it, for a limited time in all; at first until ``joined_at``."""
        now, unknown = self._now(), self.unknown.pop(path)
        if now < joined_at:
            self._deferred[path] = replace(unknown, again_at=joined_at, stream_id="")
            return
        begun_here_at = min(unknown.begun_here_at, now + wait_seconds)
        again_at = min(now + DEFERRED_SECONDS, begun_here_at)
        self._deferred[path] = replace(unknown, again_at=again_at, begun_here_at=begun_here_at, stream_id="")

    def leave(self, path: str, stream_id: str) -> None:
        """Leave a file that may be of a stream to the daemon that works on it, for as long as it does."""
        again_at = self._now() + DEFERRED_SECONDS
        self._deferred[path] = replace(self.unknown.pop(path), again_at=again_at, stream_id=stream_id)

    def leave_unrecognized(self, path: str, *, slow: bool = False, uploaded: FileStat | None = None) -> None:
        """Leave a file whose bytes could not be compared with those of its record, or of streams that miss their file.

        ``slow``: as that takes long. ``uploaded``: see :class:`WaitingFile`.
        """
        unknown = self.unknown.pop(path)
        self._unrecognized[path] = replace(unknown, slow=unknown.slow or slow, uploaded=uploaded)

    def recognize(self, path: str, found: Recognized | Claimed) -> None:
        """Queue the lookup of an unrecognized file with what was found of it, if that is still true."""
        one = self._unrecognized.get(path)
        if one is not None and found.is_of(one.stat):
            del self._unrecognized[path]
            if isinstance(found, Claimed):
                self.unknown[path] = replace(one, claimed=found)
            else:
                self.unknown[path] = replace(one, recognized=found)
            self._wake()

    def wait_to_begin(self, path: str, seconds: float) -> None:
        """Let a file wait that is below the minimum (:meth:`begins_in`)."""
        self._below_minimum[path] = replace(self.unknown.pop(path), again_at=self._now() + seconds)

    def update_set_aside(self, asked: Collection[str], found: Records) -> None:
        """Set aside the files whose records cannot be read, and take back those whose records can."""
        for path in asked:
            if path not in found.unreadable:
                self._set_aside.pop(path, None)
            elif path in self.unknown:
                self.put_aside(path, self.unknown.pop(path), found.newer.get(path))

    def put_aside(self, path: str, waiting: WaitingFile, newer: NewerRecord | None = None) -> None:
        """Set aside a file whose record cannot be read, or is of a newer schema."""
        again_at = self._now() + _NEWER_SECONDS if newer is not None else 0.0
        self._set_aside[path] = replace(waiting, newer=newer, again_at=again_at)

    # -- what may be begun --------------------------------------------------------------------------------------------

    def begun(self, path: str) -> None:
        """Note that the file at a path has a task; it is looked up again when that has ended."""
        for files in (self.settled, self.failed, self._held, self._deferred, self._unrecognized, self._below_minimum):
            files.pop(path, None)

    def waiting_since(self, path: str, stat: FileStat) -> float | None:
        """Return since when this file waits for its lookup, or is set aside; ``None``: it does not."""
        known = (files[path] for files in (self._set_aside, self.unknown, self._unrecognized) if path in files)
        return min((one.since for one in known if one.stat.inode == stat.inode), default=None)

    def begin_here(self, path: str) -> None:
        """Have a file begun by this daemon, if its lookup is pending and shows no record."""
        if path in self.unknown:
            self.unknown[path] = replace(self.unknown[path], begun_here_at=self._now())

    def is_begun_here(self, path: str) -> bool:
        """Return whether an unknown file is to be begun here, whichever daemon would be to begin it."""
        return self.unknown[path].begun_here_at <= self._now()

    def begins_in(self, waiting: WaitingFile) -> float:
        """Return in how many seconds a file may be begun (:meth:`StartMinimum.wait_seconds`)."""
        now = self._now()
        # One whose task has ended here was old enough before.
        seen_for = inf if waiting.begun_here_at <= now else now - waiting.since
        now_ns = int(self._utc_now().timestamp() * 1e9)
        return self._minimum.wait_seconds(waiting.stat, seen_for_seconds=seen_for, now_ns=now_ns)

    def pop_inode(self, inode: tuple[int, int]) -> tuple[str, WaitingFile] | None:
        """Return and remove the file with this inode among those that may get a task; ``None`` if there is none."""
        waiting = chain.from_iterable(files.items() for files in self._waiting)
        found = next(((path, one) for path, one in waiting if one.stat.inode == inode), None)
        if found is not None:
            for files in self._waiting:
                files.pop(found[0], None)
        return found

    # -- what is due again --------------------------------------------------------------------------------------------

    def retry_due(self) -> None:
        """Queue the lookup of the files that have become old enough, and of all deferred ones once one is due.

        Those are divided together.
        """
        now = self._now()
        if any(one.again_at <= now for one in self._deferred.values()):
            self.look_up_deferred()
        for path in [path for path, one in self._below_minimum.items() if one.again_at <= now]:
            self.unknown.setdefault(path, self._below_minimum.pop(path))
            self._wake()

    def look_up_deferred(self) -> None:
        """Queue the lookup of all deferred files, each of which may be the missing file of a stream."""
        if self._deferred:
            self.unknown = {**self._deferred, **self.unknown}
            self._deferred.clear()
            self._wake()

    def look_up_unrecognized(self, compared: Container[str]) -> None:
        """Queue the lookup of the unrecognized files, except those whose bytes are being ``compared``."""
        for path in [path for path in self._unrecognized if path not in compared]:
            self.unknown[path] = self._unrecognized.pop(path)
            self._wake()

    def retry_set_aside(self) -> None:
        """Queue the lookup of the files whose records could not be read; of newer records, once a minute."""
        now = self._now()
        due = {path: one for path, one in self._set_aside.items() if one.again_at <= now}
        self.unknown = {**due, **self.unknown}
        if due:
            self._wake()

    def due_held(self) -> Mapping[str, str]:
        """Return the held files whose leases are to be read, with their streams. Once a minute."""
        now = self._now()
        return {path: one.stream_id for path, one in self._held.items() if one.again_at <= now}

    def retry_held(self, due: Mapping[str, str], free: Container[str], has_task: Container[str]) -> None:
        """Queue the lookup of the held files whose streams are ``free``; ``has_task``: paths that need none."""
        for path, stream_id in due.items():
            held = self._held.get(path)
            if held is None or held.stream_id != stream_id:
                continue  # it changed meanwhile
            if stream_id not in free:
                self._held[path] = replace(held, again_at=self._now() + _HELD_SECONDS)
                continue
            del self._held[path]
            if path not in has_task:
                self.unknown.setdefault(path, WaitingFile(held.stat, held.closed, self._now()))
                self._wake()

    def failed_no_more(self, path: str, stream_id: str) -> None:
        """Forget that the stream of a file failed, if it is still that stream."""
        if path in self.failed and self.failed[path][0] == stream_id:
            del self.failed[path]


def is_risk(meta: StreamMeta) -> bool:
    """Return whether a stream failed, and no operator decided that its file is not to be uploaded."""
    return meta.status in FAILED - {Status.FAILED_ABORTED}
