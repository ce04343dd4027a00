"""The watcher on a real folder, and a listener that records its events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio_util import AsyncValue
from waiting import WAIT_SECONDS

from cef_trio.watch.events import FileEvent, Scanned
from cef_trio.watch.patterns import matcher
from cef_trio.watch.scan import ThreadedReader
from cef_trio.watch.watcher import Watcher

MATCHES = matcher(["*.mp4"])


class Listener:
    """A listener that records events and lets a test wait for them."""

    watcher: Watcher

    def __init__(self) -> None:
        self.events = AsyncValue[tuple[FileEvent, ...]](())

    def handle_event(self, event: FileEvent) -> None:
        self.events.value = (*self.events.value, event)

    async def wait_for(self, wanted: Callable[[FileEvent], bool]) -> FileEvent:
        """Wait for such an event; return the first."""
        with trio.fail_after(WAIT_SECONDS):
            await self.events.wait_value(lambda events: any(map(wanted, events)))
        found: FileEvent = next(filter(wanted, self.events.value))
        return found

    def forget(self) -> None:
        self.events.value = ()

    @property
    def scans(self) -> list[Scanned]:
        return [event for event in self.events.value if isinstance(event, Scanned)]


@asynccontextmanager
async def watching(
    folder: Path, *, rescan_seconds: float = 3600, reader: ThreadedReader | None = None
) -> AsyncIterator[Listener]:
    listener = Listener()
    watcher = Watcher(str(folder), MATCHES, listener, rescan_seconds=rescan_seconds, reader=reader)
    listener.watcher = watcher
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run)
        yield listener
        nursery.cancel_scope.cancel()


def of(path: Path, *kinds: type) -> Callable[[FileEvent], bool]:
    return lambda event: isinstance(event, kinds) and getattr(event, "path", None) == str(path)
