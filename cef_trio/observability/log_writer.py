"""Writes log lines in a thread of its own, so that a slow reader blocks only that thread.

Lines wait in a bounded queue. If it is full, because the reader stopped or the disk is full, new lines are dropped and
counted. ``on_recovered`` is called with their number when lines can be written again.

The thread writes to the descriptor, not through Python's buffer: at exit the interpreter flushes that buffer, and would
wait for the same reader without a limit, or abort because another thread holds its lock.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_QUEUED_BYTES: Final = 1024 * 1024
_AT_ONCE_BYTES: Final = 64 * 1024
_POLL_SECONDS: Final = 1.0
"""How long to wait for a full non-blocking descriptor."""


class LineWriter:
    """Writes to a descriptor without closing it. Thread-safe. ``on_recovered`` is called in the writing thread."""

    def __init__(
        self,
        descriptor: int,
        *,
        on_recovered: Callable[[int], None] = lambda _: None,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._descriptor = descriptor
        self._on_recovered = on_recovered
        self._max_queued_bytes = max_queued_bytes
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._queued_bytes = 0
        self._writing = 0
        """Lines that were taken from the queue and are not written yet."""
        self._thread: threading.Thread | None = None
        self._unreported = 0
        self._line_incomplete = False
        """Whether the last write ended within a line."""
        self.lost = 0
        """Number of dropped lines."""

    def write(self, line: bytes) -> None:
        """Queue a line, including its newline. Never waits for the descriptor."""
        with self._changed:
            if self._queued_bytes + len(line) > self._max_queued_bytes:
                self._count_lost(1)
                return
            self._lines.append(line)
            self._queued_bytes += len(line)
            self._start_thread()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until all lines are written; return whether they are."""
        with self._changed:
            self._start_thread()
            return self._changed.wait_for(lambda: not self._lines and not self._writing, seconds)

    def _start_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, name="log writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread available: the next line tries again
                return
            self._thread = thread

    def _count_lost(self, lines: int) -> None:
        self.lost += lines
        self._unreported += lines

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # handled by other threads
        while True:
            lines = self._take()
            try:
                self._write_all(b"".join(lines))
            except OSError:  # the reader is gone, or the disk is full
                with self._changed:
                    self._count_lost(len(lines))
                written = False
            else:
                written = True
            with self._changed:
                self._writing = 0
                has_room = self._queued_bytes <= self._max_queued_bytes // 2  # room for the report itself
                unreported, self._unreported = (self._unreported, 0) if written and has_room else (0, self._unreported)
                self._changed.notify_all()
            if unreported:
                self._on_recovered(unreported)

    def _take(self) -> list[bytes]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._lines))
            lines: list[bytes] = []
            size = 0
            while self._lines and (not lines or size + len(self._lines[0]) <= _AT_ONCE_BYTES):
                lines.append(self._lines.popleft())
                size += len(lines[-1])
            self._queued_bytes -= size
            self._writing = len(lines)
            return lines

    def _write_all(self, text: bytes) -> None:
        left = memoryview(b"\n" + text if self._line_incomplete else text)
        while left:
            try:
                count = os.write(self._descriptor, left)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                self._wait_writable()
                continue
            left = left[count:]
            self._line_incomplete = bool(left)

    def _wait_writable(self) -> None:
        # With a limit: not every descriptor supports poll.
        began = time.monotonic()
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        if poll.poll(_POLL_SECONDS * 1000) and time.monotonic() - began < _POLL_SECONDS / 100:
            time.sleep(_POLL_SECONDS / 100)
