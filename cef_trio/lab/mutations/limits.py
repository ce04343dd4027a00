"""Mutations that remove a limit, or the reaction to an exhausted one: threads, descriptors, watches, connections."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Final

import trio
from inotify_simple import INotify

from cef_trio.admin import app
from cef_trio.admin.connection_limits import ConnectionLimiter, ConnectionSlot
from cef_trio.daemon.exit_watchdog import ExitWatchdog
from cef_trio.exceptions import FileAccessError
from cef_trio.files import reader
from cef_trio.lab.mutations.model import Mutation, replace_in
from cef_trio.media import ffprobe
from cef_trio.observability.log_writer import LineWriter
from cef_trio.resilience import threads
from cef_trio.upload import file_triage
from cef_trio.watch.inotify import translate
from cef_trio.watch.watcher import Watcher


def _log_written_in_event_loop(stack: ExitStack) -> None:
    def write(self: LineWriter, line: bytes) -> None:
        try:
            os.write(self._descriptor, line)
        except OSError:
            self.lost += 1

    replace_in(stack, LineWriter, "write", write)


def _exit_watchdog_in_event_loop(stack: ExitStack) -> None:
    async def later(watchdog: ExitWatchdog, seconds: float) -> None:
        await trio.sleep(seconds)
        watchdog.exit_now()

    def by_the_loop(self: ExitWatchdog, seconds: float) -> None:
        trio.lowlevel.spawn_system_task(later, self, seconds)

    replace_in(stack, ExitWatchdog, "_exit_within", by_the_loop)


def _missing_thread_is_error(stack: ExitStack) -> None:
    async def once(start: Callable[[], Awaitable[Any]], _has_begun: object = None) -> Any:
        return await start()

    replace_in(stack, threads, "until_thread", once)


def _missing_descriptor_is_permanent(stack: ExitStack) -> None:
    def final(what: str, error: OSError) -> FileAccessError:
        refused = original(what, error)
        refused.transient = False
        return refused

    original = reader.file_access_error
    replace_in(stack, reader, "file_access_error", final)
    replace_in(stack, file_triage, "COMES_BACK", frozenset())


def _lost_watches_ignored(stack: ExitStack) -> None:
    async def unasked(self: Watcher, inotify: INotify, scope: trio.CancelScope) -> None:
        while True:
            await trio.lowlevel.wait_readable(inotify.fileno())
            watches: Any = self._watches
            if not await self._report(translate(list(inotify.read(timeout=0)), watches)):
                scope.cancel()
                return

    replace_in(stack, Watcher, "_read_events", unasked)


def _ffprobe_without_limits(stack: ExitStack) -> None:
    def left_out(_pid: int, _seconds: float) -> None:
        return None

    replace_in(stack, ffprobe, "_set_limits", left_out)


def _ffprobe_without_concurrency_limit(stack: ExitStack) -> None:
    replace_in(stack, ffprobe, "_at_once", trio.CapacityLimiter(1000))


def _idle_connection_kept(stack: ExitStack) -> None:
    def never(_self: ConnectionLimiter, _places: object) -> bool:
        return False

    replace_in(stack, ConnectionLimiter, "_evict_idle", never)


def _no_limit_per_client(stack: ExitStack) -> None:
    acquire = ConnectionLimiter.acquire

    def acquire_as_new_client(
        self: ConnectionLimiter, _client: str, leave: Callable[[], None]
    ) -> ConnectionSlot | None:
        return acquire(self, str(len(self._taken)), leave)

    replace_in(stack, ConnectionLimiter, "acquire", acquire_as_new_client)


def _cross_site_requests_served(stack: ExitStack) -> None:
    def never(_header: object, *, may_be_opened: bool) -> bool:
        del may_be_opened
        return False

    replace_in(stack, app, "is_foreign", never)


MUTATIONS: Final = (
    Mutation(
        "in the event loop: log writes",
        "a log line is written in the event loop, which waits for the reader of the log",
        _log_written_in_event_loop,
        "log-pipe-not-read",
        ("P4",),
        None,
        kind="11",
    ),
    Mutation(
        "in the event loop: exit watchdog",
        "the exit watchdog is a task of the event loop",
        _exit_watchdog_in_event_loop,
        "event-loop-hangs",
        ("P4",),
        None,
        kind="11",
    ),
    Mutation(
        "unchecked: temporary lack of threads",
        "a call fails if no thread can be started",
        _missing_thread_is_error,
        "no-thread-available",
        ("P6",),
        None,
        kind="15",
    ),
    Mutation(
        "unchecked: temporary lack of descriptors",
        "a file that cannot be opened fails its stream permanently",
        _missing_descriptor_is_permanent,
        "no-descriptors",
        ("P6",),
        None,
        kind="15",
    ),
    Mutation(
        "unchecked: lost inotify watches",
        "events are read although the watches were removed",
        _lost_watches_ignored,
        "inotify-watches-exhausted",
        ("P1", "P6"),
        None,
        kind="15",
    ),
    Mutation(
        "unbounded: resources of ffprobe",
        "ffprobe has no limits of memory and time",
        _ffprobe_without_limits,
        "ffprobe-limits",
        ("P7",),
        None,
        kind="16",
    ),
    Mutation(
        "unbounded: number of ffprobe processes",
        "any number of ffprobe processes run at once",
        _ffprobe_without_concurrency_limit,
        "ffprobe-concurrency",
        ("P7",),
        None,
        kind="16",
    ),
    Mutation(
        "unbounded: idle admin connections",
        "an idle connection is not closed for a new one",
        _idle_connection_kept,
        "idle-clients",
        ("P10",),
        None,
        kind="16",
    ),
    Mutation(
        "unbounded: admin connections of one client",
        "one client may use every connection",
        _no_limit_per_client,
        "busy-client",
        ("P10",),
        None,
        kind="16",
    ),
    Mutation(
        "unchecked: cross-site requests",
        "a request from another website is served",
        _cross_site_requests_served,
        "cross-site-request",
        ("P10",),
        None,
        kind="16",
    ),
)
