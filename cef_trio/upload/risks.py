"""Collect the state of bytes that do not get to S3; ``observability/at_risk.py`` judges it.

Metrics, readiness, the status page and the report that ``status`` and ``doctor`` read all use it (promise P10). It
never awaits, so it returns while Redis and S3 do not respond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final, Protocol

import trio

from cef_trio.files import is_on
from cef_trio.observability import Facts, Judgement, Reason, Risk, UploadProgress, Waiting, find_risks, judge
from cef_trio.resilience import CircuitBreaker
from cef_trio.upload.file_state import Ending, FileState
from cef_trio.upload.live_stream import LiveStream
from cef_trio.upload.services import Services
from cef_trio.upload.supervisor import StreamSupervisor

_MISSED_SCANS: Final = 3
_MISSED_ROUNDS: Final = 3
_IGNORED_FOLDERS: Final = frozenset({"lost+found"})
"""Every ext4 file system has one that only root can read."""
_MAX_TEXT: Final = 500
_MAX_LISTED: Final = 5


class WatchedFolder(Protocol):
    """The attributes of the watcher that are read here."""

    last_run: float
    """``trio.current_time()`` of the last scan."""
    read_at: float
    """``trio.current_time()`` when a scan last ended, or read something."""
    rescan_seconds: float
    trouble: tuple[float, str] | None
    """Since when the folder cannot be read, by ``trio.current_time()``, and why."""


class PeriodicTask(Protocol):
    """The attributes of the idle checker that are read here."""

    last_run: float
    """``trio.current_time()`` when its last round began."""
    period_seconds: float


@dataclass(eq=False, slots=True)
class RiskObserver:
    """Returns what is at risk now; times are Unix time."""

    services: Services
    supervisor: StreamSupervisor
    is_leaving: Callable[[], bool] = lambda: False
    redact: Callable[[str], str] = str
    """Removes secrets from texts of S3, Redis and the file system."""
    watcher: WatchedFolder | None = None
    checker: PeriodicTask | None = None
    not_started: Waiting | None = None
    """What the start waits for, other than Redis and S3; ``since`` by ``trio.current_time()``."""
    disk_short: Callable[[], tuple[Waiting, ...]] = tuple
    """Returns the disks that stay short of ``MIN_FREE_SPACE``; ``since`` by ``trio.current_time()``."""
    starting: bool = True
    """Whether the watch folder was not scanned yet."""

    def judgement(self) -> Judgement:
        """Return whether all is safe now."""
        down = tuple(one.service for one in self._breakers().values() if one.outage is not None)
        return judge(self(), down, starting=self.starting, stopping=self.is_leaving())

    def __call__(self) -> tuple[Risk, ...]:
        """Return the current risks; none during a shutdown."""
        if self.is_leaving():
            return ()
        risks = find_risks(self._facts(), trio.current_time())
        return tuple(
            replace(risk, since=round(self.services.unix_time(risk.since), 1), why=self._redacted(risk.why))
            for risk in risks
        )

    def _redacted(self, why: str) -> str:
        text = self.redact(why)
        return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"

    def _facts(self) -> Facts:
        live, now = tuple(self.supervisor.live), trio.current_time()
        queues = self.services.part_slots.available_tokens < 1 or self.services.rate_limiter.rate > 0
        idle = {one for one in live if one.processor.progress.waiting and _changing(one) is None}
        busy = [one for one in live if one not in idle]
        hung = self._hung_mounts()
        refused = [one for one in busy if one.unreadable is not None]
        waiting = {
            one: Waiting(one.processor.progress.last_progress_at, _missing_bytes(one, now), one.unreadable or "")
            for one in refused
        }
        on_hung = [one for one in refused if any(is_on(one.path, point) for point in hung)]
        growing = [(one, size_bytes) for one in live if one in idle and (size_bytes := _missing_bytes(one, now)) > 0]
        hung_since = {one: since for one, _ in growing for point, since in hung.items() if is_on(one.path, point)}
        return Facts(
            outages=self._outages(),
            uploads=tuple(_upload(one, now, queues=queues) for one in busy if one.unreadable is None),
            growing=tuple(
                Waiting(one.processor.progress.last_progress_at, size_bytes)
                for one, size_bytes in growing
                if one not in hung_since
            ),
            last_progress_at=max((one.processor.progress.last_progress_at for one in live), default=-float("inf")),
            not_looked_up=self.supervisor.files.pending_lookups,
            failed=self.supervisor.failed_files,
            unreadable_files=tuple(waiting[one] for one in refused if one not in on_hung),
            hung_mounts=(
                *(Waiting(since, why=_describe_mount(point, live)) for point, since in hung.items()),
                *(replace(waiting[one], why="") for one in on_hung),
                *(Waiting(hung_since[one], size_bytes) for one, size_bytes in growing if one in hung_since),
            ),
            unreadable_records=self.supervisor.files.set_aside,
            newer_records=self.supervisor.files.left_to_newer,
            unreadable_folders=tuple(
                Waiting(since, why=folder)
                for folder, since in self.supervisor.unreadable_folders.items()
                if PurePath(folder).name not in _IGNORED_FOLDERS and not any(is_on(folder, point) for point in hung)
            ),
            folder_lost=self._folder_lost(now),
            not_started=self.not_started,
            checker_silent=self._checker_silent(now),
            disk_short=self.disk_short(),
        )

    def _outages(self) -> Mapping[Reason, Waiting]:
        return {
            reason: Waiting(breaker.outage.since, why=breaker.outage.error)
            for reason, breaker in self._breakers().items()
            if breaker.outage is not None
        }

    def _breakers(self) -> Mapping[Reason, CircuitBreaker]:
        return {Reason.S3_DOWN: self.services.s3_breaker, Reason.REDIS_DOWN: self.services.redis_breaker}

    def _hung_mounts(self) -> Mapping[str, float]:
        """Return the hung mounts in, or of, the watch folder, and since when."""
        folders = self.services.rules.folders
        hung = self.services.mounts.hung.value.items()
        return {
            point: since
            for point, since in hung
            if any(is_on(point, folder) or is_on(folder, point) for folder in folders)
        }

    def _folder_lost(self, now: float) -> Waiting | None:
        watcher = self.watcher
        if watcher is None:
            return None
        if watcher.trouble is not None:
            since, why = watcher.trouble
            return Waiting(since, why=why)
        overdue = watcher.read_at + _MISSED_SCANS * watcher.rescan_seconds
        return Waiting(overdue, why="a scan stands still") if now > overdue else None

    def _checker_silent(self, now: float) -> Waiting | None:
        redis = self.services.redis_breaker
        if self.checker is None or redis.outage is not None:
            return None
        due_at = max(self.checker.last_run, redis.up_since) + _MISSED_ROUNDS * self.checker.period_seconds
        return Waiting(due_at) if now > due_at else None


def _describe_mount(point: str, live: Iterable[LiveStream]) -> str:
    """Return a mount and the open recordings on it, as text."""
    paths = sorted(one.path for one in live if is_on(one.path, point))
    more = f" and {len(paths) - _MAX_LISTED} more" if len(paths) > _MAX_LISTED else ""
    return f"{point} ({', '.join(paths[:_MAX_LISTED])}{more})" if paths else point


def _upload(live: LiveStream, now: float, *, queues: bool) -> UploadProgress:
    processor, changing = live.processor, _changing(live)
    lag, progress_at, trouble = live.lag(now), processor.progress.last_progress_at, processor.progress.trouble
    if changing is not None:  # whatever the other parts do, this one does not get to S3
        number, since = changing
        progress_at = min(progress_at, since)
        trouble = trouble or f"part {number} of {live.path!r} changes all the time; it is sent when that ends"
    file_state: FileState = live.file_state.value
    if processor.changing.since is not None and file_state.ending is not Ending.NOT:
        progress_at = min(progress_at, processor.changing.since)  # also while changed parts are sent
        trouble = trouble or f"{live.path!r} has ended, and is changed all the time; it is completed when that ends"
    return UploadProgress(
        last_progress_at=progress_at,
        size_bytes=_missing_bytes(live, now),
        lags=lag.size_bytes + lag.unwritten_bytes > 0,
        queues=queues or not processor.working,
        trouble=trouble,
    )


def _changing(live: LiveStream) -> tuple[int, float] | None:
    """Return a part that is left out because it changes, and since when. The end of the recording sends it."""
    file_state: FileState = live.file_state.value
    upload = live.processor.upload
    return upload.changing.first if upload is not None and file_state.ending is Ending.NOT else None


def _missing_bytes(live: LiveStream, now: float) -> int:
    """Return the bytes that S3 lacks; for an ended recording all of them, since there is no object yet."""
    file_state: FileState = live.file_state.value
    return live.lag(now).size_bytes if file_state.ending is Ending.NOT else file_state.stat.size_bytes
