"""Mutations that remove a limit, or the reaction to an exhausted one: threads, descriptors, watches, connections."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import trio
from inotify_simple import INotify

from cef_trio.admin import app
from cef_trio.admin.connection_limits import ConnectionLimiter, ConnectionSlot
from cef_trio.daemon.exit_watchdog import ExitWatchdog
from cef_trio.exceptions import FileAccessError
from cef_trio.files import reader
from cef_trio.lab.mutations.model import mutation, replace_in
from cef_trio.media import ffprobe
from cef_trio.observability.log_writer import LineWriter
from cef_trio.resilience import threads
from cef_trio.upload import file_triage
from cef_trio.watch.inotify import translate
from cef_trio.watch.watcher import Watcher


@mutation("in the event loop: log writes", "log-pipe-not-read", "P4", fault=None, kind="11")
def _log_written_in_event_loop(stack: ExitStack) -> None:
    """A log line is written in the event loop, which waits for the reader of the log."""

    def write(self: LineWriter, line: bytes) -> None:
        try:
            os.write(self._descriptor, line)
        except OSError:
            self.lost += 1

    replace_in(stack, LineWriter, "write", write)


@mutation("in the event loop: exit watchdog", "event-loop-hangs", "P4", fault=None, kind="11")
def _exit_watchdog_in_event_loop(stack: ExitStack) -> None:
    """The exit watchdog is a task of the event loop."""

    async def later(watchdog: ExitWatchdog, seconds: float) -> None:
        await trio.sleep(seconds)
        watchdog.exit_now()

    def by_the_loop(self: ExitWatchdog, seconds: float) -> None:
        trio.lowlevel.spawn_system_task(later, self, seconds)

    replace_in(stack, ExitWatchdog, "_exit_within", by_the_loop)


@mutation("unchecked: temporary lack of threads", "no-thread-available", "P6", fault=None, kind="15")
def _missing_thread_is_error(stack: ExitStack) -> None:
    """A call fails if no thread can be started."""

    async def once(start: Callable[[], Awaitable[Any]], _has_begun: object = None) -> Any:
        return await start()

    replace_in(stack, threads, "until_thread", once)


@mutation("unchecked: temporary lack of descriptors", "no-descriptors", "P6", fault=None, kind="15")
def _missing_descriptor_is_permanent(stack: ExitStack) -> None:
    """A file that cannot be opened fails its stream permanently."""

    def final(what: str, error: OSError) -> FileAccessError:
        refused = original(what, error)
        refused.transient = False
        return refused

    original = reader.file_access_error
    replace_in(stack, reader, "file_access_error", final)
    replace_in(stack, file_triage, "COMES_BACK", frozenset())


@mutation("unchecked: lost inotify watches", "inotify-watches-exhausted", "P1", "P6", fault=None, kind="15")
def _lost_watches_ignored(stack: ExitStack) -> None:
    """Events are read although the watches were removed."""

    async def unasked(self: Watcher, inotify: INotify, scope: trio.CancelScope) -> None:
        while True:
            await trio.lowlevel.wait_readable(inotify.fileno())
            watches: Any = self._watches
            changes = translate(list(inotify.read(timeout=0)), watches)
            if not await self._report(changes, await self._stats(changes)):
                scope.cancel()
                return

    replace_in(stack, Watcher, "_read_events", unasked)


@mutation("unbounded: resources of ffprobe", "ffprobe-limits", "P7", fault=None, kind="16")
def _ffprobe_without_limits(stack: ExitStack) -> None:
    """Ffprobe has no limits of memory and time."""

    def left_out(_pid: int, _seconds: float) -> None:
        return None

    replace_in(stack, ffprobe, "_set_limits", left_out)


@mutation("unbounded: number of ffprobe processes", "ffprobe-concurrency", "P7", fault=None, kind="16")
def _ffprobe_without_concurrency_limit(stack: ExitStack) -> None:
    """Any number of ffprobe processes run at once."""

    def unlimited(_of_run: object) -> trio.CapacityLimiter:
        return trio.CapacityLimiter(1000)

    replace_in(stack, ffprobe, "_limiter", unlimited)


@mutation("unbounded: idle admin connections", "idle-clients", "P10", fault=None, kind="16")
def _idle_connection_kept(stack: ExitStack) -> None:
    """An idle connection is not closed for a new one."""

    def never(_self: ConnectionLimiter, _places: object) -> bool:
        return False

    replace_in(stack, ConnectionLimiter, "_evict_idle", never)


@mutation("unbounded: admin connections of one client", "busy-client", "P10", fault=None, kind="16")
def _no_limit_per_client(stack: ExitStack) -> None:
    """One client may use every connection."""
    acquire = ConnectionLimiter.acquire

    def acquire_as_new_client(
        self: ConnectionLimiter, _client: str, leave: Callable[[], None]
    ) -> ConnectionSlot | None:
        return acquire(self, str(len(self._taken)), leave)

    replace_in(stack, ConnectionLimiter, "acquire", acquire_as_new_client)


@mutation("unchecked: cross-site requests", "cross-site-request", "P10", fault=None, kind="16")
def _cross_site_requests_served(stack: ExitStack) -> None:
    """A request from another website is served."""

    def never(_header: object, *, may_be_opened: bool) -> bool:
        del may_be_opened
        return False

    replace_in(stack, app, "is_foreign", never)
