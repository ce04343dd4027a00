"""File system calls that may hang: each mount has its own threads, and a hung mount fails calls at once.

A stopped FUSE server or an unreachable hard NFS mount blocks its callers in the kernel without limit. So a call waits
at most ``timeout_seconds``. Then:

- Its thread is abandoned and its mount is marked as hung. Further calls on that mount raise :class:`MountHungError` at
  once; other mounts have their own threads and continue.
- One call at a time is let through as a probe: its thread calls ``statfs`` first, which no file system answers from a
  cache. So the threads on a hung mount never exceed its share.
- The mount is no longer hung when the probe or an abandoned call returns, or when the path is mounted again.
- If only one file hangs, only calls on that file are refused, until its own call returns.

The mount of a path is looked up in ``/proc/self/mountinfo``, which accesses no mount. Without it, everything counts as
one mount. A call that changes something is never abandoned, so it has no time limit; on a hung mount it is refused
before it begins.

A long call that makes progress (a big folder) calls ``beat``, which restarts its time limit.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog
import trio
from trio_util import AsyncValue

from cef_trio.resilience import run_in_thread

T = TypeVar("T")
log = structlog.get_logger(__name__)

TIMEOUT_SECONDS: Final = 10.0
"""The default of ``FILE_SYSTEM_TIMEOUT_SECONDS``."""
_MAX_CHANGES: Final = 2
_TABLE_SECONDS: Final = 1.0
"""How long the table of mounts is cached."""
_ESCAPES: Final = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}
"""Escapes of space, tab, newline and backslash in mountinfo (proc(5))."""


class MountHungError(OSError):
    """A file system does not respond; the result of the call is unknown."""

    def __init__(self, what: str, path: str) -> None:
        super().__init__(errno.ETIMEDOUT, f"{what} does not respond", path)


@dataclass(eq=False, slots=True)
class _Call:
    """A call in progress."""

    path: str
    mount: Mount
    last_progress_at: float
    """``trio.current_time()`` of its start or last progress."""
    bounded: bool
    on_progress: Callable[[], object] = lambda: None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    probing: bool = False
    """Whether it began while its mount was hung."""
    begun: bool = False
    """Set in its thread, like ``returned``."""
    returned: bool = False
    abandoned: bool = False
    """Whether its caller no longer waits."""
    silent: bool = False


@dataclass(eq=False, slots=True, weakref_slot=True)
class Mount:
    """A mount, its threads and its calls."""

    point: str
    number: int
    reading: trio.CapacityLimiter
    closing: trio.CapacityLimiter
    changing: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(_MAX_CHANGES))
    calls: set[_Call] = field(default_factory=set)
    hung_since: float | None = None
    """``trio.current_time()``; ``None``: not known to hang."""


def mount_points(mountinfo: str) -> Mapping[str, int]:
    """Return the mount points and their mount ids, of several on one point the topmost. Pure."""
    found: dict[str, int] = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4 and fields[0].isdigit():  # noqa: PLR2004 - proc(5)
            found[unescape_mount_point(fields[4])] = int(fields[0])
    return found


def unescape_mount_point(name: str) -> str:
    """Return a path of mountinfo without its escapes. Pure."""
    if "\\" in name:
        for escape, character in _ESCAPES.items():  # the backslash last: it begins the others
            name = name.replace(escape, character)
    return name


def mount_point_of(path: str, points: Mapping[str, int]) -> str:
    """Return the nearest mount point at or above a path. Pure."""
    while path not in points and "/" in path:
        path = path.rpartition("/")[0]
    return path if path in points else "/"


def is_on(path: str, point: str) -> bool:
    """Return whether a path is a mount point or another place, or below it. Pure."""
    return path == point or path.startswith(f"{point.rstrip('/')}/")


def _read_mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")


class Mounts:
    """The mounts of this process. Run every file system call that may hang through it."""

    def __init__(
        self,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_threads: int = 8,
        read_mountinfo: Callable[[], str] = _read_mountinfo,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self._max_threads = max_threads
        self._read_mountinfo = read_mountinfo
        self._points: Mapping[str, int] = {}
        self._read_at = -math.inf
        self._mounts: dict[tuple[str, int], Mount] = {}
        self.hung: AsyncValue[Mapping[str, float]] = AsyncValue({})
        """The hung mount points, and since when (``trio.current_time()``)."""
        self.on_recovery: Callable[[], object] = lambda: None
        """Called when a mount responds again."""

    async def run(self, path: str, call: Callable[[], T]) -> T:
        """Run a read-only call for a path in a worker thread; it is abandoned on cancellation and after the time limit.

        Raises:
            MountHungError: the path's mount is hung, or did not respond in time.
            OSError: as ``call``.
        """
        return await self.run_long(path, lambda _beat: call())

    async def run_long(
        self, path: str, call: Callable[[Callable[[], None]], T], on_progress: Callable[[], object] = lambda: None
    ) -> T:
        """Like :meth:`run`, for a long call: it calls its argument on each progress, which restarts the time limit.

        ``on_progress`` is called, in the loop, when it begins, and now and then while it has progress.
        """
        mount = self.of(path)
        one = self._begin(path, mount, mount.reading, bounded=True)
        one.on_progress = on_progress
        work = partial(self._in_thread, one, call, trio.lowlevel.current_trio_token())
        try:
            with one.scope:
                return await run_in_thread(work, abandon_on_cancel=True, limiter=mount.reading)
        finally:
            self._stop_waiting(one)
        self._mark_hung(one)
        raise self._hung_error(one.path, mount)

    async def change(self, path: str, call: Callable[[], T]) -> T:
        """Run a call that changes something. Cancelled before it has begun, it changes nothing; once begun, it is never
        abandoned. After ``timeout_seconds`` its mount counts as hung until it returns.

        Raises:
            MountHungError: the path's mount is hung; the call was not begun.
        """
        mount = self.of(path)
        one = self._begin(path, mount, mount.changing, bounded=False)
        work = partial(self._in_thread, one, lambda _beat: call(), trio.lowlevel.current_trio_token())
        try:
            return await run_in_thread(work, limiter=mount.changing)
        finally:
            self._stop_waiting(one)

    def of(self, path: str) -> Mount:
        """Return the mount of a path."""
        self._read_table()
        point = mount_point_of(path, self._points)
        number = self._points.get(point, 0)
        found = self._mounts.get((point, number))
        if found is None:
            reading, closing = trio.CapacityLimiter(self._max_threads), trio.CapacityLimiter(self._max_threads)
            found = self._mounts[point, number] = Mount(point, number, reading, closing)
        return found

    def point_now(self, path: str) -> str:
        """Return the mount point of a path, by a table that is not a second old."""
        self._read_at = -math.inf
        return self.of(path).point

    def hangs(self, path: str) -> bool:
        """Return whether a path is on a mount that is known to hang."""
        return any(is_on(path, point) for point in self.hung.value)

    @property
    def points(self) -> Mapping[str, int]:
        """The mount points and their mount ids."""
        self._read_table()
        return self._points

    # -- one call -----------------------------------------------------------------------------------------------------

    def _begin(self, path: str, mount: Mount, limiter: trio.CapacityLimiter, *, bounded: bool) -> _Call:
        now = trio.current_time()
        unlimited = [one for one in mount.calls if one.begun and not one.silent and (one.abandoned or not one.bounded)]
        for other in unlimited:
            if now - other.last_progress_at >= self.timeout_seconds:
                self._mark_hung(other)
        if mount.hung_since is not None:
            asked = any(one.probing for one in mount.calls)
            if asked or not bounded or limiter.available_tokens < 1:
                raise self._hung_error(path, mount)
        elif any(one.silent and one.path == path for one in mount.calls):
            raise MountHungError(f"the file system of {path!r}", path)
        one = _Call(path, mount, now, bounded, probing=mount.hung_since is not None)
        mount.calls.add(one)
        return one

    def _in_thread(self, one: _Call, call: Callable[[Callable[[], None]], T], token: trio.lowlevel.TrioToken) -> T:
        one.begun = True
        reported_at = time.monotonic()
        _run_in_loop(token, self._on_progress, one)

        def beat() -> None:
            nonlocal reported_at
            if time.monotonic() - reported_at > self.timeout_seconds / 8:
                reported_at = time.monotonic()
                _run_in_loop(token, self._on_progress, one)

        try:
            if one.probing:
                os.statvfs(one.mount.point)
            return call(beat)
        finally:
            one.returned = True
            if one.abandoned:  # otherwise the waiting caller handles it
                _run_in_loop(token, self._on_return, one)

    def _on_progress(self, one: _Call) -> None:
        one.last_progress_at = trio.current_time()
        if one.bounded:
            one.scope.deadline = one.last_progress_at + self.timeout_seconds
        if not one.abandoned:
            one.on_progress()

    def _stop_waiting(self, one: _Call) -> None:
        one.abandoned = True  # set first: the thread sets `returned` and then reads this
        if one.returned or not one.begun:
            self._on_return(one)

    def _mark_hung(self, one: _Call) -> None:
        mount = one.mount
        one.silent = one in mount.calls
        if not one.silent or mount.hung_since is not None:
            return  # it has returned meanwhile, or never began
        mount.hung_since = one.last_progress_at
        log.error(
            "mount_hung", mount=mount.point, path=one.path, seconds=round(trio.current_time() - one.last_progress_at, 3)
        )
        for other in mount.calls:
            if not other.begun and other.bounded:
                other.scope.cancel()
        self._publish_hung()

    def _on_return(self, one: _Call) -> None:
        mount = one.mount
        mount.calls.discard(one)
        if mount.hung_since is not None and one.begun and (one.silent or one.probing):
            seconds = round(trio.current_time() - mount.hung_since, 3)
            mount.hung_since = None
            log.warning("mount_recovered", mount=mount.point, seconds=seconds)
            self._publish_hung()
            self.on_recovery()

    def _hung_error(self, path: str, mount: Mount) -> MountHungError:
        return MountHungError(f"the mount {mount.point!r}", path)

    # -- the table of mounts -------------------------------------------------------------------------------------------

    def _read_table(self) -> None:
        now = trio.current_time()
        if now - self._read_at < _TABLE_SECONDS:
            return
        self._read_at = now
        with suppress(OSError):
            self._points = mount_points(self._read_mountinfo())
        for key, mount in list(self._mounts.items()):
            if self._points.get(key[0], 0) != key[1]:
                del self._mounts[key]
                if mount.hung_since is not None:
                    mount.hung_since = None
                    log.warning("mount_gone", mount=mount.point)
                    self._publish_hung()
                    self.on_recovery()

    def _publish_hung(self) -> None:
        self.hung.value = {
            mount.point: mount.hung_since for mount in self._mounts.values() if mount.hung_since is not None
        }


def _run_in_loop(token: trio.lowlevel.TrioToken, what: Callable[[_Call], None], one: _Call) -> None:
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(what, one)
