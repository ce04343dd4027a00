"""Calls to file systems that may never answer: each mount has threads of its own, and one that hangs is set aside.

A server that is stopped (FUSE) or gone (a hard NFS mount) leaves its callers in the kernel for as long as it likes. So
a call about a path is waited for ``answer_seconds`` and no longer. Then:

- its thread is left behind, and its mount is set aside: whoever asks about a path on it is refused at once
  (:class:`MountHungError`), and calls on other mounts, which have threads of their own, go on.
- It is asked again in the background by one caller at a time, whose thread asks the server itself (``statfs``, which no
  file system answers from its cache) and then makes the call. So there are never more threads on it than its share.
- It is back when that call, or one of those that were left behind, returns; or when it is mounted anew.
- Where everything but one file answers, only that file is refused, until its own call returns.

Which mount a path is on is read in ``/proc/self/mountinfo``, which asks no mount. What cannot be read there is all one
mount. A call that changes something is never left behind, so it is not bounded here: it is refused before it begins.

A call that takes long but gets on (a big folder) calls ``beat`` as it does; only silence counts.
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

ANSWER_SECONDS: Final = 10.0
"""The default of ``FILE_SYSTEM_TIMEOUT_SECONDS``."""
_MAX_CHANGES: Final = 2
_TABLE_SECONDS: Final = 1.0
"""How old what was read of the mounts may be."""
_ESCAPES: Final = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}
"""What mountinfo writes for a blank, a tab, a line's end and a backslash (proc(5))."""


class MountHungError(OSError):
    """A file system does not answer: nothing is known of what was asked."""

    def __init__(self, what: str, path: str) -> None:
        super().__init__(errno.ETIMEDOUT, f"{what} does not answer", path)


@dataclass(eq=False, slots=True)
class _Call:
    """A call under way."""

    path: str
    mount: Mount
    quiet_since: float
    """By ``trio.current_time()``: when it began, or last got on."""
    bounded: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    probing: bool = False
    """Whether it began while its mount was set aside."""
    begun: bool = False
    """Set in its thread, like ``returned``."""
    returned: bool = False
    left: bool = False
    """Whether nobody waits for it any more."""
    silent: bool = False


@dataclass(eq=False, slots=True, weakref_slot=True)
class Mount:
    """One mount, and what is done on it."""

    point: str
    number: int
    reading: trio.CapacityLimiter
    closing: trio.CapacityLimiter
    changing: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(_MAX_CHANGES))
    calls: set[_Call] = field(default_factory=set)
    hung_since: float | None = None
    """By ``trio.current_time()``; ``None``: it answers, as far as is known."""


def mount_points(mountinfo: str) -> Mapping[str, int]:
    """The mount points and the numbers of what is mounted there, the topmost of several. Pure."""
    found: dict[str, int] = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4 and fields[0].isdigit():  # noqa: PLR2004 - proc(5)
            found[_unescaped(fields[4])] = int(fields[0])
    return found


def _unescaped(name: str) -> str:
    if "\\" in name:
        for escape, character in _ESCAPES.items():  # the backslash last: it begins the others
            name = name.replace(escape, character)
    return name


def mount_point_of(path: str, points: Mapping[str, int]) -> str:
    """The mount point that a path is below, or is. Pure."""
    while path not in points and "/" in path:
        path = path.rpartition("/")[0]
    return path if path in points else "/"


def is_on(path: str, point: str) -> bool:
    """Whether a path is a mount point, or below it. Pure."""
    return path == point or path.startswith(f"{point.rstrip('/')}/")


def _read_mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")


class Mounts:
    """The mounts of this process, and the one way to make a call on them that may never return."""

    def __init__(
        self,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        max_threads: int = 8,
        read_mountinfo: Callable[[], str] = _read_mountinfo,
    ) -> None:
        self.answer_seconds = answer_seconds
        self._max_threads = max_threads
        self._read_mountinfo = read_mountinfo
        self._points: Mapping[str, int] = {}
        self._read_at = -math.inf
        self._mounts: dict[tuple[str, int], Mount] = {}
        self.hung: AsyncValue[Mapping[str, float]] = AsyncValue({})
        """The mount points that do not answer, and since when, by ``trio.current_time()``."""
        self.on_answer: Callable[[], object] = lambda: None
        """Called when a mount answers again."""

    async def run(self, path: str, call: Callable[[], T]) -> T:
        """Make a call about a path that changes nothing, in a thread.

        Raises:
            MountHungError: the path's mount does not answer, or did not in time.
            OSError: as ``call``.
        """
        return await self.run_long(path, lambda _beat: call())

    async def run_long(self, path: str, call: Callable[[Callable[[], None]], T]) -> T:
        """The same, for a call that may take long: it calls its argument each time that it got on."""
        mount = self.of(path)
        one = self._begin(path, mount, mount.reading, bounded=True)
        work = partial(self._in_thread, one, call, trio.lowlevel.current_trio_token())
        try:
            with one.scope:
                return await run_in_thread(work, abandon_on_cancel=True, limiter=mount.reading)
        finally:
            self._leave(one)
        self._found_silent(one)
        raise self._refusal(one.path, mount)

    async def change(self, path: str, call: Callable[[], T]) -> T:
        """Make a call that changes something. Cancelled before it has begun it changes nothing; once it has begun, it
        is waited for, however long it takes: its mount is set aside meanwhile.

        Raises:
            MountHungError: the path's mount does not answer; nothing was begun.
        """
        mount = self.of(path)
        one = self._begin(path, mount, mount.changing, bounded=False)
        work = partial(self._in_thread, one, lambda _beat: call(), trio.lowlevel.current_trio_token())
        try:
            return await run_in_thread(work, limiter=mount.changing)
        finally:
            self._leave(one)

    def of(self, path: str) -> Mount:
        """The mount that a path is on."""
        self._read_table()
        point = mount_point_of(path, self._points)
        number = self._points.get(point, 0)
        found = self._mounts.get((point, number))
        if found is None:
            reading, closing = trio.CapacityLimiter(self._max_threads), trio.CapacityLimiter(self._max_threads)
            found = self._mounts[point, number] = Mount(point, number, reading, closing)
        return found

    def hangs(self, path: str) -> bool:
        """Whether a path is on a mount that does not answer, as far as is known."""
        return any(is_on(path, point) for point in self.hung.value)

    @property
    def points(self) -> Mapping[str, int]:
        """Where something is mounted, and the numbers of those mounts."""
        self._read_table()
        return self._points

    # -- one call -----------------------------------------------------------------------------------------------------

    def _begin(self, path: str, mount: Mount, limiter: trio.CapacityLimiter, *, bounded: bool) -> _Call:
        now = trio.current_time()
        for other in [one for one in mount.calls if one.begun and not one.silent and (one.left or not one.bounded)]:
            if now - other.quiet_since >= self.answer_seconds:
                self._found_silent(other)
        if mount.hung_since is not None:
            asked = any(one.probing for one in mount.calls)
            if asked or not bounded or limiter.available_tokens < 1:
                raise self._refusal(path, mount)
        elif any(one.silent and one.path == path for one in mount.calls):
            raise MountHungError(f"the file system, asked about {path!r},", path)
        one = _Call(path, mount, now, bounded, probing=mount.hung_since is not None)
        mount.calls.add(one)
        return one

    def _in_thread(self, one: _Call, call: Callable[[Callable[[], None]], T], token: trio.lowlevel.TrioToken) -> T:
        one.begun = True
        told_at = time.monotonic()
        _tell(token, self._got_on, one)

        def beat() -> None:
            nonlocal told_at
            if time.monotonic() - told_at > self.answer_seconds / 8:
                told_at = time.monotonic()
                _tell(token, self._got_on, one)

        try:
            if one.probing:
                os.statvfs(one.mount.point)
            return call(beat)
        finally:
            one.returned = True
            if one.left:  # else it is seen by who waits for it
                _tell(token, self._returned, one)

    def _got_on(self, one: _Call) -> None:
        one.quiet_since = trio.current_time()
        if one.bounded:
            one.scope.deadline = one.quiet_since + self.answer_seconds

    def _leave(self, one: _Call) -> None:
        one.left = True  # first: its thread sets `returned`, and then looks at this
        if one.returned or not one.begun:
            self._returned(one)

    def _found_silent(self, one: _Call) -> None:
        mount = one.mount
        one.silent = one in mount.calls
        if not one.silent or mount.hung_since is not None:
            return  # it returned in the last moment, or never began
        mount.hung_since = one.quiet_since
        log.error(
            "mount_hung", mount=mount.point, path=one.path, seconds=round(trio.current_time() - one.quiet_since, 3)
        )
        for other in mount.calls:
            if not other.begun and other.bounded:
                other.scope.cancel()
        self._changed()

    def _returned(self, one: _Call) -> None:
        mount = one.mount
        mount.calls.discard(one)
        if mount.hung_since is not None and one.begun and (one.silent or one.probing):
            seconds = round(trio.current_time() - mount.hung_since, 3)
            mount.hung_since = None
            log.warning("mount_answers", mount=mount.point, seconds=seconds)
            self._changed()
            self.on_answer()

    def _refusal(self, path: str, mount: Mount) -> MountHungError:
        return MountHungError(f"the mount {mount.point!r}", path)

    # -- which there are ----------------------------------------------------------------------------------------------

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
                    self._changed()
                    self.on_answer()

    def _changed(self) -> None:
        self.hung.value = {
            mount.point: mount.hung_since for mount in self._mounts.values() if mount.hung_since is not None
        }


def _tell(token: trio.lowlevel.TrioToken, what: Callable[[_Call], None], one: _Call) -> None:
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(what, one)
