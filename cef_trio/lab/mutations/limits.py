"""What may run out, or be taken by strangers: the loop's time, threads, descriptors, watches, places (11, 15, 16)."""

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
from cef_trio.lab import disk as lab_disk
from cef_trio.lab.mutations.model import Mutation, replace_in
from cef_trio.media import ffprobe
from cef_trio.observability.log_writer import LineWriter
from cef_trio.resilience import threads
from cef_trio.upload import file_triage
from cef_trio.watch.inotify import translate
from cef_trio.watch.watcher import Watcher


def _log_written_at_once(stack: ExitStack) -> None:
    """Kind 11: whoever logs writes the line."""

    def write(self: LineWriter, line: bytes) -> None:
        try:
            os.write(self._descriptor, line)
        except OSError:
            self.lost += 1

    replace_in(stack, LineWriter, "write", write)


def _last_resort_is_a_task(stack: ExitStack) -> None:
    """Kind 11: the exit's time is counted by the loop."""

    async def later(watchdog: ExitWatchdog, seconds: float) -> None:
        await trio.sleep(seconds)
        watchdog.exit_now()

    def by_the_loop(self: ExitWatchdog, seconds: float) -> None:
        trio.lowlevel.spawn_system_task(later, self, seconds)

    replace_in(stack, ExitWatchdog, "_exit_within", by_the_loop)


def _no_thread_is_the_end(stack: ExitStack) -> None:
    """Kind 15: a call that gets no thread has failed."""

    async def once(start: Callable[[], Awaitable[Any]], _has_begun: object = None) -> Any:
        return await start()

    replace_in(stack, threads, "until_thread", once)


def _no_descriptor_is_for_good(stack: ExitStack) -> None:
    """Kind 15: a file that cannot be opened now never can be."""

    def final(what: str, error: OSError) -> FileAccessError:
        refused = disk_refusal(what, error)
        refused.transient = False
        return refused

    disk_refusal = reader.refusal
    replace_in(stack, reader, "refusal", final)
    replace_in(stack, lab_disk, "refusal", final)
    replace_in(stack, file_triage, "COMES_BACK", frozenset())


def _no_watch_is_the_end(stack: ExitStack) -> None:
    """Kind 15: that the watches were given up meanwhile is not asked when events are read."""

    async def unasked(self: Watcher, inotify: INotify, scope: trio.CancelScope) -> None:
        while True:
            await trio.lowlevel.wait_readable(inotify.fileno())
            watches: Any = self._watches
            if not await self._report(translate(list(inotify.read(timeout=0)), watches)):
                scope.cancel()
                return

    replace_in(stack, Watcher, "_read_events", unasked)


def _probe_unlimited(stack: ExitStack) -> None:
    """Kind 16: ffprobe takes what a recording claims to need."""

    def left_out(_pid: int, _seconds: float) -> None:
        return None

    replace_in(stack, ffprobe, "_set_limits", left_out)


def _all_probes_at_once(stack: ExitStack) -> None:
    """Kind 16: as many probes run as recordings end."""
    replace_in(stack, ffprobe, "_at_once", trio.CapacityLimiter(1000))


def _silence_keeps_its_place(stack: ExitStack) -> None:
    """Kind 16: a connection that says nothing has its place for as long as it likes."""

    def never(_self: ConnectionLimiter, _places: object) -> bool:
        return False

    replace_in(stack, ConnectionLimiter, "_evict_idle", never)


def _no_share(stack: ExitStack) -> None:
    """Kind 16: one client may have all the places."""
    acquire = ConnectionLimiter.acquire

    def anybody(self: ConnectionLimiter, _client: str, leave: Callable[[], None]) -> ConnectionSlot | None:
        return acquire(self, str(len(self._taken)), leave)

    replace_in(stack, ConnectionLimiter, "acquire", anybody)


def _any_website_asks(stack: ExitStack) -> None:
    """Kind 16: whoever had the browser ask is answered."""

    def never(_header: object, *, may_be_opened: bool) -> bool:
        del may_be_opened
        return False

    replace_in(stack, app, "is_foreign", never)


MUTATIONS: Final = (
    Mutation(
        "in the event loop: log writes",
        "whoever logs writes, and waits for the log's reader",
        _log_written_at_once,
        "log-pipe-not-read",
        ("P4",),
        None,
        kind="11",
    ),
    Mutation(
        "in the event loop: exit watchdog",
        "the exit's time is counted by a task",
        _last_resort_is_a_task,
        "event-loop-hangs",
        ("P4",),
        None,
        kind="11",
    ),
    Mutation(
        "unchecked: temporary lack of threads",
        "a call that gets no thread has failed",
        _no_thread_is_the_end,
        "no-thread-available",
        ("P6",),
        None,
        kind="15",
    ),
    Mutation(
        "unchecked: temporary lack of descriptors",
        "a file that cannot be opened now has failed for good",
        _no_descriptor_is_for_good,
        "no-descriptors",
        ("P6",),
        None,
        kind="15",
    ),
    Mutation(
        "unchecked: lost inotify watches",
        "events are read as those of watches that were given up",
        _no_watch_is_the_end,
        "inotify-watches-exhausted",
        ("P1", "P6"),
        None,
        kind="15",
    ),
    Mutation(
        "unbounded: resources of ffprobe",
        "ffprobe takes what a recording claims to need",
        _probe_unlimited,
        "ffprobe-limits",
        ("P7",),
        None,
        kind="16",
    ),
    Mutation(
        "unbounded: number of ffprobe processes",
        "as many probes run at once as recordings end",
        _all_probes_at_once,
        "ffprobe-concurrency",
        ("P7",),
        None,
        kind="16",
    ),
    Mutation(
        "unbounded: idle admin connections",
        "a connection without a request keeps its place",
        _silence_keeps_its_place,
        "idle-clients",
        ("P10",),
        None,
        kind="16",
    ),
    Mutation(
        "unbounded: admin connections of one client",
        "one client may have every place",
        _no_share,
        "busy-client",
        ("P10",),
        None,
        kind="16",
    ),
    Mutation(
        "unchecked: cross-site requests",
        "a browser's request is answered whoever had it made",
        _any_website_asks,
        "cross-site-request",
        ("P10",),
        None,
        kind="16",
    ),
)
