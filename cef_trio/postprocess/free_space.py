"""Carry out ``MIN_FREE_SPACE``: while a disk is short of space, let the oldest verified recordings go (P7, P8).

Every ten seconds the free space of each watched file system is measured: that of the watch folder, and of each one
below it that has kept recordings. Of one that is short, the oldest recordings are deleted (with ``AFTER_UPLOAD=move``:
moved) by the same checks as at the end of ``AFTER_UPLOAD_KEEP_DAYS``, one after another; ``free_space_rules.py``
decides how many. A recording that is not completed, or whose object is not in S3 at that moment, stays in any case.

The measured folder must be on the mount on which the recording was, or is (``is_same_mount``): if its disk is not
mounted, the folder below is another disk, whose free space means nothing. Names that free nothing (hard links) are left
out.

If a disk stays short because nothing more can go, that is a risk (promise P10) and an event, with the reason and the
recordings that are not in S3. A recording that was refused (a folder that may not be written, a process that has it
open) is kept with the reason: until it goes, what hinders it is why the disk stays short, not that none is left. That
holds also while others must be unchanged for a while before they are tried: those will be refused just so.

A call that hangs with its mount is never abandoned (``files/mounts.py``), but no other file system waits for it. One
that stays short because the folder of ``AFTER_UPLOAD=move`` hangs is a risk with that reason.

Daemons that share the folder take turns by a lease.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import structlog
import trio
from trio_util import AsyncBool, move_on_when, wait_any

from cef_trio.checkpoint.redis import job_lock_name
from cef_trio.exceptions import (
    AfterUploadError,
    CefMp4ProcessorError,
    FileAccessError,
    RecordingChangedError,
    RecordUnreadableError,
    S3OperationError,
)
from cef_trio.files import DiskSpace, FolderMount, is_below, is_same_mount
from cef_trio.observability import Waiting
from cef_trio.postprocess.after_upload_rules import BACKOFF
from cef_trio.postprocess.disposal import NotAsVerifiedError
from cef_trio.postprocess.free_space_rules import (
    FUTILE_SECONDS,
    PERIOD_SECONDS,
    SETTLE_SECONDS,
    KeptRecording,
    Round,
    SpaceState,
    judge_space,
    oldest_first,
    why_short,
)
from cef_trio.postprocess.kept_recordings import KeptRecordings
from cef_trio.postprocess.verification import Look, Verification
from cef_trio.resilience import Periodic
from cef_trio.settings import MinFreeSpace
from cef_trio.upload import HeldLease, Services, hold_lease

log = structlog.get_logger(__name__)

_JOB: Final = "free-space"
_OBSTACLES: Final = {
    "s3": "S3 cannot be asked for the objects of the recordings",
    "redis": "Redis cannot be asked for the records of the recordings",
}
_MOVE_HANGS: Final = "the folder of AFTER_UPLOAD=move does not respond"
_MEASURE_SECONDS: Final = 1.0
"""How often a file system is measured after deletions that have freed nothing yet."""
_ABSENT_SECONDS: Final = 60.0
"""How often a recording is looked for that is not on the file system where it should be: each look opens its file."""

_Places = Mapping[str, FolderMount]
"""The folders of one file system where recordings are, and the mount of each when it was measured."""


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _devices(places: _Places) -> set[int]:
    return {place.file_dev for place in places.values()}


class Dispose(Protocol):
    """Deletes or moves a recording early."""

    async def __call__(self, recording: KeptRecording, go_on: Callable[[], Awaitable[bool]]) -> bool:
        """Do it, if ``go_on`` returns true after the checks; return whether it was done.

        Raises:
            NotAsVerifiedError, RecordingChangedError: the recording is not the one that was verified.
            CefMp4ProcessorError: another failure.
        """
        ...


@dataclass(eq=False, slots=True)
class _FileSystem:
    """What is known of a watched file system."""

    folders: tuple[str, ...] = ()
    """The folders at which it was measured."""
    can_be_kept: bool = False
    """Whether it was measured, and ``MIN_FREE_SPACE`` is not too much for it."""
    proven: bool = False
    """Whether deleting has freed space there."""
    paused_until: float = float("-inf")
    """By ``trio.current_time()``, after a round that freed nothing."""
    short: bool = False
    """Whether its last measurement was short of what is wanted."""
    missing_bytes: int = 0
    stuck_since: float | None = None
    """Since when it is short and nothing may go, by ``trio.current_time()``."""
    why: str = ""
    obstacle: str = ""
    """What hindered the last round, other than that nothing is left."""
    unknown: bool = False
    refuses: bool = False
    """Whether recordings were refused there since the last one went."""


class FreeSpace:
    """Keeps ``MIN_FREE_SPACE`` free on the watched file systems."""

    def __init__(
        self,
        services: Services,
        rule: MinFreeSpace,
        kept: KeptRecordings,
        dispose: Dispose,
        unverified: Callable[[], Iterable[str]],
        *,
        refused: Callable[[], Iterable[tuple[str, str]]] = tuple,
        hangs: Callable[[str], bool] = lambda _path: False,
    ) -> None:
        """``unverified``: the paths of recordings that are not in S3.

        ``refused``: the paths of those whose time is over, which are not kept any more but could not be deleted, and
        why. ``hangs``: whether a path, or the folder to which recordings are moved, is on a mount that hangs.
        """
        self._services = services
        self._rule = rule
        self._kept = kept
        self._dispose = dispose
        self._unverified = unverified
        self._refused = refused
        self._hangs = hangs
        self._verification = Verification(services)
        self._systems: dict[str, _FileSystem] = {}
        """By the folder where each is measured."""
        self._checks: dict[str, AsyncBool] = {}
        """The running checks by that folder; each is true once it has ended."""
        self._measured_at: Mapping[str, str] = {}
        """Where to measure what is in a folder with kept recordings."""
        self._looks: dict[str, tuple[float, Look]] = {}
        """Files without detectable writers: when each was looked at first, and how it was."""

    @property
    def missing_bytes(self) -> Mapping[str, int]:
        """How many bytes are missing in each folder where that is measured; without those that cannot be kept free."""
        systems = self._systems.values()
        return {folder: one.missing_bytes for one in systems if one.can_be_kept for folder in one.folders}

    @property
    def stuck(self) -> tuple[Waiting, ...]:
        """The file systems that stay short of space, by ``trio.current_time()``."""
        return tuple(
            Waiting(one.stuck_since, why=f"{folder}: {one.why}")
            for folder, one in self._systems.items()
            if one.stuck_since is not None
        )

    async def run(self) -> None:
        """Check every ten seconds. Never returns."""
        async with trio.open_nursery() as nursery:
            async for _ in Periodic(PERIOD_SECONDS):
                self._kept.drop_unsettled()
                kept = {one.path for one in self._kept}
                self._looks = {path: look for path, look in self._looks.items() if path in kept}
                self._measured_at = self._find_folders()
                groups = await self._file_systems()
                self._systems = {folder: self._systems.get(folder, _FileSystem()) for folder in groups}
                for folder, places in groups.items():
                    self._systems[folder].folders = tuple(places)
                    await self._check_or_report(nursery, folder, places)

    async def _check_or_report(self, nursery: trio.Nursery, folder: str, places: _Places) -> None:
        """Check a file system; if a mount hangs, leave the check behind, and report why the file system stays short."""
        system = self._systems[folder]
        if folder not in self._checks and not self._hangs(folder):
            self._checks[folder] = AsyncBool(False)
            nursery.start_soon(self._check_and_notify, folder, system, places)
        ended = self._checks.get(folder)
        if ended is not None:
            hung = self._services.mounts.hung
            await wait_any(partial(ended.wait_value, True), partial(hung.wait_value, lambda _: self._hangs(folder)))
            if ended.value:
                return
        if not self._services.mounts.hangs(folder):  # that one is a risk of its own
            system.obstacle = _MOVE_HANGS
            with suppress(CefMp4ProcessorError):
                await self._measure(folder, system)
            self._report(folder, system, acted=False)

    async def _check_and_notify(self, folder: str, system: _FileSystem, places: _Places) -> None:
        try:
            await self._check(folder, system, places)
        finally:
            self._checks.pop(folder).value = True

    async def _file_systems(self) -> Mapping[str, _Places]:
        """Return the watched file systems that respond, each by the first folder where it is measured."""
        groups: dict[str, dict[str, FolderMount]] = {}
        for folder in dict.fromkeys([*self._services.rules.watch_folders, *self._measured_at.values()]):
            if self._services.mounts.hangs(folder):
                continue
            try:
                place = (await self._services.disk.space(folder)).place
            except CefMp4ProcessorError:
                groups[folder] = {}  # it is measured again, and its error reported
                continue
            same = (first for first, places in groups.items() if place.file_dev in _devices(places))
            groups.setdefault(next(same, folder), {})[folder] = place
        return groups

    def _find_folders(self) -> Mapping[str, str]:
        """Return where to measure each folder with kept recordings: at its watch folder, or at a mount point below it.

        Not for each recording: there are many more, and the files of a folder are on one file system, as disks are
        mounted at folders. A file that is a mount point itself counts as its folder's; it cannot be unlinked (EBUSY).
        """
        one_of_each = {_parent(one.path): one.path for one in self._kept}
        return {parent: self._where_to_measure(path) for parent, path in one_of_each.items()}

    def _where_to_measure(self, path: str) -> str:
        watched, point = self._services.rules.root_of(path), self._services.mounts.of(_parent(path)).point
        return point if is_below(point, watched) else watched

    # -- one file system -----------------------------------------------------------------------------------------------

    async def _check(self, folder: str, system: _FileSystem, places: _Places) -> None:
        """Measure a file system, and make space if it is short. No failure reaches the caller."""
        system.obstacle, acted = "", False
        try:
            if await self._measure(folder, system) is not None and trio.current_time() >= system.paused_until:
                # An outage would hold the calls, and nobody would learn that the disk stays short.
                async with (
                    move_on_when(self._services.s3_breaker.up.wait_value, False),
                    move_on_when(self._services.redis_breaker.up.wait_value, False),
                ):
                    try:
                        acted = await self._take_turn(folder, system, places)
                    except CefMp4ProcessorError as error:  # in here: these are nurseries, and would group it
                        system.obstacle = str(error)
                down = [one for one in (self._services.s3_breaker, self._services.redis_breaker) if not one.up.value]
                system.obstacle = system.obstacle or _OBSTACLES.get(down[0].service, "") if down else system.obstacle
        except CefMp4ProcessorError as error:
            system.obstacle = str(error)
        except Exception as error:  # a bug must not end the daemon's uploads (P6)
            log.exception("free_space_error", folder=folder)
            system.obstacle = repr(error)
        self._report(folder, system, acted=acted)

    async def _take_turn(self, folder: str, system: _FileSystem, places: _Places) -> bool:
        """Make space, unless another daemon of this folder does it now; return whether recordings went or will go."""
        name = job_lock_name(self._services.work_group or "folder", _JOB)
        async with hold_lease(self._services.store, name, self._services.lease) as lease:
            return lease is None or await self._make_space(folder, system, places, lease)

    async def _measure(self, folder: str, system: _FileSystem) -> DiskSpace | None:
        """Measure and judge; return the space if it is short and may be made free."""
        space = await self._services.disk.space(folder)
        state, system.missing_bytes = judge_space(self._rule, space.total_bytes, space.free_bytes)
        was_short, system.short = system.short, state in {SpaceState.SHORT, SpaceState.TOO_MUCH_WANTED}
        system.can_be_kept = state in {SpaceState.ENOUGH, SpaceState.SHORT}
        free, total = space.free_bytes, space.total_bytes
        if system.short and not was_short:
            wanted = self._rule.wanted_bytes(space.total_bytes)
            log.warning(
                "disk_space_short",
                folder=folder,
                free_bytes=free,
                total_bytes=total,
                wanted_bytes=wanted,
                recordings=len(self._kept),
            )
        elif was_short and not system.short:
            log.info("disk_space_regained", folder=folder, free_bytes=free, total_bytes=total)
            system.paused_until, system.refuses = float("-inf"), False
        if state in {SpaceState.TOO_MUCH_WANTED, SpaceState.UNKNOWN}:
            system.obstacle = state.value
        if state is SpaceState.UNKNOWN and not system.unknown:
            log.warning("disk_space_unknown", folder=folder, free_bytes=free, total_bytes=total)
        system.unknown = state is SpaceState.UNKNOWN
        return space if state is SpaceState.SHORT else None

    async def _make_space(self, folder: str, system: _FileSystem, places: _Places, lease: HeldLease) -> bool:
        """Let recordings go until enough is free, as far as the rules allow; return whether one went or will."""
        space = await self._measure(folder, system)
        if space is None:
            return True  # another daemon has made space
        now_round = Round(system.missing_bytes, space.free_bytes, system.proven)

        async def still_short() -> bool:
            found = await self._measure(folder, system)
            if found is not None:
                now_round.measured(found.free_bytes)
            return found is not None

        for recording in oldest_first(self._kept, trio.current_time()):
            if not now_round.may_go_on:
                break
            place = self._place_of(recording, places)
            if place is None:
                continue
            await lease.renew_if_due()
            if not await self._is_there(recording, place):  # as while its disk is not mounted
                again_at = trio.current_time() + _ABSENT_SECONDS
                self._kept.put_back(replace(recording, again_at=again_at))
                continue
            now_round.looked_at += 1
            await self._let_go(recording, now_round, still_short)
            if not await still_short():
                break
        if now_round.deleted_bytes:
            await self._settle(folder, system, now_round, lease)
            system.refuses = False
            return True
        system.refuses = system.refuses or now_round.any_refused
        if now_round.waited_bytes and not system.refuses:
            return True
        # Those that were refused wait for their next try, so this round may have tried none.
        system.obstacle = await self._refusal(places)
        return bool(now_round.waited_bytes and not system.obstacle)

    async def _refusal(self, places: _Places) -> str:
        """Return why the oldest recording that was refused on a file system was; empty: none was, or it is gone."""
        for one in oldest_first((one for one in self._kept if one.refusal), math.inf):
            place = self._place_of(one, places)
            if place is not None and await self._is_there(one, place):
                return one.refusal
        return next((why for path, why in self._refused() if self._where_to_measure(path) in places), "")

    def _place_of(self, recording: KeptRecording, places: _Places) -> FolderMount | None:
        """Return where a recording's folder was measured; ``None``: not on this file system."""
        return places.get(self._measured_at.get(_parent(recording.path), ""))

    async def _is_there(self, recording: KeptRecording, place: FolderMount) -> bool:
        """Return whether a recording is on the measured file system, by its record or by the file itself.

        It may have been copied to another disk, or its disk may have another number now. Then all its bytes are
        compared before it goes (``verification.py``).
        """
        if is_same_mount(recording.identity, place):
            return True
        try:
            return is_same_mount(await self._verification.numbers_at(recording.path), place)
        except (RecordingChangedError, FileAccessError):
            return False

    async def _let_go(
        self, recording: KeptRecording, now_round: Round, still_short: Callable[[], Awaitable[bool]]
    ) -> None:
        """Delete or move one recording if all checks pass.

        Raises:
            S3OperationError, RedisOperationError: they cannot be asked, so no other recording can be checked either.
        """
        s3_up = self._services.s3_breaker.up
        try:
            allocation = await self._services.disk.allocation(recording.path)
            if allocation is None or not allocation.freed_bytes:
                return  # gone, not mounted, or it frees nothing
            if await self._must_wait(recording):
                now_round.waited_bytes += allocation.freed_bytes
            elif await self._dispose(recording, still_short):
                now_round.deleted(allocation.freed_bytes)
        except (NotAsVerifiedError, RecordingChangedError) as error:
            self._kept.drop(recording)
            log.warning("after_upload_refused", stream_id=recording.stream_id, path=recording.path, reason=str(error))
        except (AfterUploadError, FileAccessError, RecordUnreadableError, S3OperationError) as error:
            if isinstance(error, S3OperationError) and not s3_up.value:
                raise
            now_round.refused(by_s3=isinstance(error, S3OperationError))
            # This recording's own: S3 may refuse one key alone (a policy, or a missing object without s3:ListBucket).
            failures = recording.failures + 1
            pause = BACKOFF.ceiling_seconds(failures)
            again_at = trio.current_time() + pause
            self._kept.put_back(replace(recording, again_at=again_at, failures=failures, refusal=str(error)))
            log.warning(
                "after_upload_failed",
                stream_id=recording.stream_id,
                path=recording.path,
                error=str(error),
                wait_seconds=pause,
            )

    async def _must_wait(self, recording: KeptRecording) -> bool:
        """Return whether the file must first be unchanged for ``STREAM_TIMEOUT_SECONDS``: its writers are unknown."""
        now = trio.current_time()
        since, before = self._looks.get(recording.path, (now, None))
        if before is not None and now < since + self._services.rules.stream_timeout_seconds:
            return True
        found = await self._verification.must_be_silent(recording.path, before)
        if found is None:
            self._looks.pop(recording.path, None)
            return False
        self._looks[recording.path] = now, found
        return True

    async def _settle(self, folder: str, system: _FileSystem, now_round: Round, lease: HeldLease) -> None:
        """Wait until the deletions show in the free space, at most ``SETTLE_SECONDS``; note whether they did."""
        until = trio.current_time() + SETTLE_SECONDS
        async for _ in Periodic(_MEASURE_SECONDS):
            found = await self._measure(folder, system)
            if found is None:
                now_round.freed = True
                break
            now_round.measured(found.free_bytes)
            if now_round.freed or trio.current_time() >= until:
                break
            await lease.renew_if_due()
        system.proven = now_round.freed
        if not now_round.freed:
            system.paused_until = trio.current_time() + FUTILE_SECONDS
            log.warning(
                "disk_space_not_freed",
                folder=folder,
                deleted_bytes=now_round.deleted_bytes,
                wait_seconds=FUTILE_SECONDS,
            )

    def _report(self, folder: str, system: _FileSystem, *, acted: bool) -> None:
        """Note whether the file system stays short although nothing may go; log that once for each reason."""
        if not system.short or acted:
            system.stuck_since, system.why = None, ""
            return
        unverified = list(self._unverified())
        paused = trio.current_time() < system.paused_until
        why = why_short(obstacle=system.obstacle, paused=paused, unverified=unverified)
        if system.stuck_since is None:
            system.stuck_since = trio.current_time()
        if why != system.why:
            log.warning(
                "disk_space_cannot_be_freed",
                folder=folder,
                missing_bytes=system.missing_bytes,
                reason=why,
                unverified=len(unverified),
            )
        system.why = why
