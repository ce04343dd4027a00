"""Ends the process in time (promise P4) by a thread of its own: it needs neither trio's loop nor Python's main thread.

The daemon leaves in good order by itself (``main.py``). This is for what nobody foresaw: a loop that computes for
ever, or hangs in a call of the kernel that never returns.

- The first signal starts the clock, in the thread that takes the signals. When the time is over the process ends.
- The third signal ends it at once.

The main thread blocks SIGTERM and SIGINT, so the kernel gives them to this thread: a main thread that hangs in the
kernel would be given them, and never take them. Python's own handlers still run in the main thread, when it is free
(``signal.set_wakeup_fd`` tells this thread, which wakes trio). Programs that the daemon starts inherit the blocked
signals; it ends them with SIGKILL.

Where a call in C keeps the interpreter's lock this thread cannot run either. ``faulthandler``'s timer needs no lock,
and ends the process a moment later, with exit code 1.
"""

from __future__ import annotations

import faulthandler
import math
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Self

import structlog
import trio

from cef_trio.exit_codes import ExitCode
from cef_trio.observability import flush

log = structlog.get_logger(__name__)

EXIT_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
"""The signals that ask the daemon to leave."""
OVERDUE_SECONDS: Final = 0.5
"""How long after grace and save the process is ended; P4 allows a second, of which the exit itself takes some."""
_LOG_SECONDS: Final = 0.3
"""How long the last line of the log may take."""
_AGAIN_SECONDS: Final = 1.0


class ExitWatchdog:
    """Counts the signals and the seconds. Before it is started it only keeps the deadline, and ends nothing."""

    def __init__(self, grace_seconds: float, save_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._save_seconds = save_seconds
        self.unsaved: Callable[[], Iterable[str]] = tuple
        """Which streams would be left unsaved; asked from another thread than the loop's."""
        self.deadline = math.inf
        """``time.monotonic()`` by which the process must have ended."""
        self._signals = 0
        self._stopped = False
        self._exit_lock = threading.Lock()
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        """Where the thread waits, and where it is woken."""
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    def start(self, *, block_signals: bool = False) -> None:
        """Start the thread: from now on the process ends in time.

        ``block_signals``: for the main thread of the daemon's process; no server may be started after it.
        """
        self._sockets = socket.socketpair()
        for end in self._sockets:
            end.setblocking(False)  # as set_wakeup_fd wants it
        self._thread = threading.Thread(target=self._run, args=self._sockets[:1], name="exit watchdog", daemon=True)
        while True:
            try:
                self._thread.start()
            except RuntimeError:  # none is to be had now; until there is one, a signal ends the process
                time.sleep(_AGAIN_SECONDS)
            else:
                break
        if block_signals:
            signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_SIGNALS)

    def stop(self) -> None:
        """End the thread, and with it all that was to come."""
        self._stopped = True
        self._notify()
        if self._thread is not None:
            self._thread.join(_AGAIN_SECONDS)
        for end in self._sockets or ():
            end.close()

    @contextmanager
    def running(self, *, block_signals: bool = False) -> Iterator[None]:
        """Started in the block, and stopped after it."""
        self.start(block_signals=block_signals)
        try:
            yield
        finally:
            self.stop()
            if block_signals:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_SIGNALS)

    @contextmanager
    def counting_signals(self) -> Iterator[None]:
        """Count the signals in the thread too. Started, in trio, with a receiver of the signals open."""
        assert self._sockets is not None  # noqa: S101 - it is started
        self._token = trio.lowlevel.current_trio_token()
        previous = signal.set_wakeup_fd(self._sockets[1].fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous, warn_on_full_buffer=False)

    # -- from the loop, or its main thread -----------------------------------------------------------------------------

    def count_signal(self, times: int) -> None:
        """The daemon was asked to leave for that many times."""
        if times == 1:
            self._exit_within(self._grace_seconds + self._save_seconds)
        elif times == 2:  # noqa: PLR2004 - the second one skips the grace
            self._exit_within(self._save_seconds)
        else:
            self.exit_now()

    def exit_now(self) -> None:
        """End the process, and say so if that can be done in time."""
        self._exit(lambda: log.error("shutdown_forced"))

    def _exit_within(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds + OVERDUE_SECONDS
        if deadline < self.deadline:
            self.deadline = deadline
            self._notify()

    def _notify(self) -> None:
        if self._sockets is not None:
            with suppress(OSError):  # full: it is woken anyway
                self._sockets[1].send(b"\0")

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self, woken: socket.socket) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_SIGNALS)
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        armed = math.inf
        with _FaulthandlerTimer() as timer:
            while not self._stopped:
                left = self.deadline - time.monotonic()
                if left <= 0:
                    self._exit(self._log_timeout)
                    return
                if self.deadline < armed:
                    armed = self.deadline
                    timer.exit_after(left + 2 * _LOG_SECONDS)
                if poll.poll(None if left == math.inf else left * 1000 + 1):
                    self._read_signals(woken)

    def _read_signals(self, woken: socket.socket) -> None:
        for number in woken.recv(4096):
            if number in EXIT_SIGNALS:
                self._signals += 1
                self.count_signal(self._signals)
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(_wake_loop, idempotent=True)

    def _log_timeout(self) -> None:
        log.error("shutdown_timeout", streams=sorted(self.unsaved()))

    def _exit(self, log_reason: Callable[[], None]) -> None:
        """End the process; once, whoever comes first."""
        if not self._exit_lock.acquire(blocking=False):
            return

        def write_log() -> None:
            with suppress(Exception):  # sets that the loop changes meanwhile: there is nothing better to do now
                log_reason()
            flush()

        # In another thread, since the one that hangs may hold a lock of the log's.
        logger_thread = threading.Thread(target=write_log, name="last words", daemon=True)
        with suppress(RuntimeError):  # no thread is to be had: the exit code says it
            logger_thread.start()
            logger_thread.join(_LOG_SECONDS)
        os._exit(ExitCode.NOT_SAVED)


class _FaulthandlerTimer:
    """Ends the process even if nobody gives the interpreter's lock back. There is one for a process."""

    def __enter__(self) -> Self:
        # It writes where each thread stands, and could hang in that: the log's reader may be why all of this happens.
        self._devnull = os.open(os.devnull, os.O_WRONLY)
        return self

    def exit_after(self, seconds: float) -> None:
        """End the process after so long; instead of what was said before."""
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._devnull)

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        os.close(self._devnull)


def _wake_loop() -> None:
    """Wake trio, which runs Python's signal handlers."""
