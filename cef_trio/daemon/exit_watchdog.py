"""Ends the process by the shutdown deadline (promise P4) from a thread of its own.

The daemon normally exits by itself (``main.py``). This thread covers a trio loop that computes without end or blocks in
a system call: it needs neither the loop nor Python's main thread.

- The first signal starts the deadline. At the deadline the process ends.
- The third signal ends the process at once.

The main thread blocks SIGTERM and SIGINT, so the kernel delivers them to this thread; a main thread that is blocked in
the kernel could not handle them. Python's own handlers still run in the main thread: ``signal.set_wakeup_fd`` wakes
this thread, which wakes trio. Child processes inherit the blocked signals; the daemon ends them with SIGKILL.

Once everything is saved and closed (:meth:`ExitWatchdog.finished`), whatever ends the process ends it with the daemon's
own exit code; :meth:`ExitWatchdog.exit` then ends it without the interpreter's teardown, which has nothing left to save
and can take longer than is left on a starved machine.

If a C call keeps the interpreter's lock, this thread cannot run. The timer of ``faulthandler`` does not need the lock
and ends the process a moment later, with exit code 1. It is set with the deadline, before the loop is woken: what it
then does may keep the lock.
"""

from __future__ import annotations

import faulthandler
import math
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog
import trio

from cef_trio.exit_codes import ExitCode
from cef_trio.observability import flush

log = structlog.get_logger(__name__)

EXIT_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
"""The signals that start a shutdown."""
OVERDUE_SECONDS: Final = 0.5
"""Delay after grace and save before the process is ended; P4 allows one second, part of which the exit takes."""
_LOG_SECONDS: Final = 0.3
"""Time limit for writing the last log line."""
_AGAIN_SECONDS: Final = 1.0
_MOST_POLL_MS: Final = 24 * 3_600_000
"""poll(2) takes less than 25 days; the wait is repeated."""


class ExitWatchdog:
    """Counts signals and enforces the deadline. Until it is started, it only records the deadline."""

    def __init__(self, grace_seconds: float, save_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._save_seconds = save_seconds
        self.unsaved: Callable[[], Iterable[str]] = tuple
        """Returns the ids of streams that are not saved yet; called from the watchdog's thread."""
        self.deadline = math.inf
        """``time.monotonic()`` at which the process is ended."""
        self._exit_code: ExitCode | None = None
        """The exit code of a daemon that has finished."""
        self._signals = 0
        self._stopped = False
        self._exit_lock = threading.Lock()
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        """The thread waits on the first and is woken through the second."""
        self._thread: threading.Thread | None = None
        self._timer: _FaulthandlerTimer | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    def start(self, *, block_signals: bool = False) -> None:
        """Start the thread.

        ``block_signals`` blocks SIGTERM and SIGINT in the calling thread, which must be the main thread. Start no child
        server after it.
        """
        self._sockets = socket.socketpair()
        for end in self._sockets:
            end.setblocking(False)  # required by set_wakeup_fd
        self._timer = _FaulthandlerTimer()
        self._thread = threading.Thread(target=self._run, args=self._sockets[:1], name="exit watchdog", daemon=True)
        while True:
            try:
                self._thread.start()
            except RuntimeError:  # no thread available; until then a signal ends the process
                time.sleep(_AGAIN_SECONDS)
            else:
                break
        if block_signals:
            signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_SIGNALS)

    def stop(self) -> None:
        """End the thread; the deadline is no longer enforced."""
        self._stopped = True
        self._notify()
        if self._thread is not None:
            self._thread.join(_AGAIN_SECONDS)
        for end in self._sockets or ():
            end.close()
        if self._timer is not None:
            self._timer.close()

    @contextmanager
    def running(self, *, block_signals: bool = False) -> Iterator[None]:
        """Run the thread during the block."""
        self.start(block_signals=block_signals)
        try:
            yield
        finally:
            self.stop()
            if block_signals:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_SIGNALS)

    @contextmanager
    def counting_signals(self) -> Iterator[None]:
        """Count signals in the thread. Call it after :meth:`start`, in trio, with a signal receiver open."""
        assert self._sockets is not None  # noqa: S101 - started
        self._token = trio.lowlevel.current_trio_token()
        previous = signal.set_wakeup_fd(self._sockets[1].fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous, warn_on_full_buffer=False)

    # -- from the loop, or its main thread -----------------------------------------------------------------------------

    def count_signal(self, times: int) -> None:
        """Set the deadline after the ``times``-th signal: grace and save, save alone, or now."""
        if times == 1:
            self._exit_within(self._grace_seconds + self._save_seconds)
        elif times == 2:  # noqa: PLR2004 - the second one skips the grace
            self._exit_within(self._save_seconds)
        else:
            self.exit_now()

    def exit_now(self) -> None:
        """End the process now; log it if that takes less than ``_LOG_SECONDS``."""
        self._exit(lambda: log.error("shutdown_forced"))

    def finished(self, code: ExitCode) -> None:
        """Note that everything is saved and closed: from now on the process ends with ``code``, at the latest soon."""
        self._exit_code = code
        self.deadline = min(self.deadline, time.monotonic() + _AGAIN_SECONDS)
        if self._timer is not None:
            self._timer.cancel()  # its exit code is 1
        self._notify()

    def exit(self, code: ExitCode) -> None:
        """End the process of a daemon that has finished, after its last lines of log were written, or soon."""
        self.finished(code)
        flush()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed, or its reader has gone
                stream.flush()
        os._exit(code)

    def _exit_within(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds + OVERDUE_SECONDS
        if deadline < self.deadline and self._exit_code is None:
            self.deadline = deadline
            if self._timer is not None:
                self._timer.exit_after(seconds + OVERDUE_SECONDS + 2 * _LOG_SECONDS)
            self._notify()

    def _notify(self) -> None:
        if self._sockets is not None:
            with suppress(OSError):  # full: the thread wakes anyway
                self._sockets[1].send(b"\0")

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self, woken: socket.socket) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_SIGNALS)
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        while not self._stopped:
            left = self.deadline - time.monotonic()
            if left <= 0:
                self._exit(lambda: log.error("shutdown_timeout", streams=sorted(self.unsaved())))
                return
            if poll.poll(None if left == math.inf else min(left * 1000 + 1, _MOST_POLL_MS)):
                self._read_signals(woken)

    def _read_signals(self, woken: socket.socket) -> None:
        for number in woken.recv(4096):
            if number in EXIT_SIGNALS:
                self._signals += 1
                self.count_signal(self._signals)
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(_wake_loop, idempotent=True)

    def _exit(self, log_reason: Callable[[], None]) -> None:
        """End the process. Later calls return at once."""
        if not self._exit_lock.acquire(blocking=False):
            return

        def write_log() -> None:
            if self._exit_code is None:
                with suppress(Exception):  # the loop may change the sets concurrently
                    log_reason()
            flush()

        # In a separate thread, since a hung thread may hold a lock of the log.
        logger_thread = threading.Thread(target=write_log, name="last log line", daemon=True)
        with suppress(RuntimeError):  # no thread available: the exit code remains
            logger_thread.start()
            logger_thread.join(_LOG_SECONDS)
        os._exit(ExitCode.NOT_SAVED if self._exit_code is None else self._exit_code)


class _FaulthandlerTimer:
    """Timer that needs no interpreter lock (``faulthandler``); one per process."""

    def __init__(self) -> None:
        # faulthandler writes a traceback first. On standard error that could block, if the log's reader is what hangs.
        self._devnull = os.open(os.devnull, os.O_WRONLY)

    def exit_after(self, seconds: float) -> None:
        """End the process after ``seconds``; replaces an earlier timer."""
        with suppress(RuntimeError):  # no thread available for it: the watchdog's own thread remains
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._devnull)

    def cancel(self) -> None:
        """Cancel the timer."""
        faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """Cancel the timer, and close what it writes to."""
        self.cancel()
        os.close(self._devnull)


def _wake_loop() -> None:
    """Do nothing: waking trio is enough to run Python's signal handlers."""
