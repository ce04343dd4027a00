"""Simulated inotify: the world's writers report events, which the daemon's real watcher reads.

The descriptor of an instance is an ``eventfd``, so the watcher waits for it as for a real one. A watch stays on its
folder when that is renamed, as in the kernel.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from inotify_simple import Event, flags

from cef_trio.lab.filesystem import Key


class KernelQueues:
    """The inotify instances of a world."""

    def __init__(self) -> None:
        self._queues: list[Queue] = []
        self._cookie = 0
        self.watches_left: int | None = None
        """How many watches may still be added (``fs.inotify.max_user_watches``); ``None``: no limit."""
        self.drops_events = False
        """While true, events are dropped."""
        self.only_on: str | None = None
        """The only machine that sees the events of a network file system, that of the writer; ``None``: all do."""

    def open(self, real: Callable[[str], str] = str, host: str = "") -> Queue:
        """Open an instance; ``real``: returns the real path of a path in the process, ``host``: its machine."""
        queue = Queue(self, real, host)
        self._queues.append(queue)
        return queue

    def close(self, queue: Queue) -> None:
        """Close an instance."""
        if queue in self._queues:
            self._queues.remove(queue)

    def happened(self, path: Path, mask: int, cookie: int = 0) -> None:
        """Queue an event of a file or folder."""
        if self.drops_events:
            return
        for queue in list(self._queues):
            if self.only_on in {None, queue.host}:
                queue.add(path, mask, cookie)

    def moved(self, old: Path, new: Path, *, is_folder: bool = False) -> None:
        """Queue the two events of a rename."""
        self._cookie += 1
        extra = flags.ISDIR if is_folder else 0
        self.happened(old, flags.MOVED_FROM | extra, self._cookie)
        self.happened(new, flags.MOVED_TO | extra, self._cookie)

    def folder_created(self, path: Path) -> None:
        """Queue the event of a new folder."""
        self.happened(path, flags.CREATE | flags.ISDIR)

    def unmounted(self, path: Path) -> None:
        """Remove the watches below an unmounted folder, and queue their events."""
        for queue in list(self._queues):
            queue.unmounted(path)

    def overflow(self) -> None:
        """Overflow every queue: its events are lost, and ``IN_Q_OVERFLOW`` is queued."""
        for queue in self._queues:
            queue.overflow()


class Queue:
    """One instance: the part of :class:`inotify_simple.INotify` that the watcher uses."""

    def __init__(self, kernel: KernelQueues, real: Callable[[str], str], host: str) -> None:
        self.host = host
        self._kernel = kernel
        self._real = real
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watches: dict[Key, tuple[int, int]] = {}
        self._events: list[Event] = []
        self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """See ``INotify.close``."""
        self._kernel.close(self)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def fileno(self) -> int:
        """See ``INotify.fileno``."""
        return self._descriptor

    def add_watch(self, path: str, mask: int) -> int:
        """See ``INotify.add_watch``."""
        key = _key_of(Path(self._real(path)))
        if key is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if key not in self._watches:
            left = self._kernel.watches_left
            if left is not None:
                if left <= 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
                self._kernel.watches_left = left - 1
            self._made += 1
            self._watches[key] = self._made, mask
        return self._watches[key][0]

    def rm_watch(self, wd: int) -> None:
        """See ``INotify.rm_watch``."""
        for key in [key for key, (number, _) in self._watches.items() if number == wd]:
            del self._watches[key]
            self._put(Event(wd, flags.IGNORED, 0, ""))
            return
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def read(self, timeout: int | None = None, read_delay: int | None = None) -> list[Event]:
        """See ``INotify.read``."""
        del timeout, read_delay  # the watcher waits for the descriptor
        events, self._events = self._events, []
        if events:
            os.eventfd_read(self._descriptor)
        return events

    def add(self, path: Path, mask: int, cookie: int) -> None:
        """Queue an event if its folder is watched."""
        key = _key_of(path.parent)
        watch = self._watches.get(key) if key is not None else None
        if watch is not None and watch[1] & mask:
            self._put(Event(watch[0], mask, cookie, path.name))

    def unmounted(self, path: Path) -> None:
        """Remove the watches below an unmounted folder, and queue their events."""
        for key, (number, _) in list(self._watches.items()):
            if key in _keys_below(path):
                del self._watches[key]
                self._put(Event(number, flags.UNMOUNT, 0, ""))
                self._put(Event(number, flags.IGNORED, 0, ""))

    def overflow(self) -> None:
        """Lose the queued events."""
        self._events.clear()
        self._put(Event(-1, flags.Q_OVERFLOW, 0, ""))

    def _put(self, event: Event) -> None:
        if not self._events or self._events[-1] != event:  # the kernel merges equal events, too
            self._events.append(event)
        os.eventfd_write(self._descriptor, 1)


def _key_of(folder: Path) -> Key | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _keys_below(folder: Path) -> set[Key]:
    found = (_key_of(each) for each in (folder, *folder.rglob("*")) if each.is_dir())
    return {key for key in found if key is not None}
