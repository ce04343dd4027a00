"""systemd's notification protocol and watchdog.

The protocol is one datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names (sd_notify(3)). Without
that variable nothing is sent. Sending neither waits nor raises, so that a service manager that does not read cannot
delay an upload.

The watchdog (``WATCHDOG_USEC``, sd_watchdog_enabled(3)) is notified at half its interval or sooner, but only while the
trio loop runs and every supervising task has made progress recently or is excused (:func:`silent_tasks`). The status
line, which ``systemctl status`` shows, is the judgement of ``observability/at_risk.py``.

Without a notification systemd restarts the daemon. That repairs a hung task and nothing else, so conditions that a
restart cannot repair are excused: Redis is down, the watch folder is gone. The limit is generous, to avoid repeated
restarts of a system that is merely slow.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from cef_trio.resilience import Periodic
from cef_trio.safe_text import printable

log = structlog.get_logger(__name__)

SILENT_SECONDS: Final = 300.0
"""How much later than its period a task may be before it counts as hung."""
_AGAIN_SECONDS: Final = 1.0
"""Delay before READY is sent again after a failure; without READY the start does not complete."""
_MICROSECONDS: Final = 1_000_000
STATUS_SECONDS: Final = 15.0
"""How old the status line may be, as the daemon's report in Redis."""
_MAX_STATUS: Final = 300


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Last progress of a task."""

    task: str
    at: float
    """``trio.current_time()``."""
    period_seconds: float
    excused: bool = False
    """Whether it waits for something that a restart would not repair."""


def silent_tasks(heartbeats: Iterable[Heartbeat], *, now: float, excused_at: Mapping[str, float]) -> list[str]:
    """Return the names of the hung tasks.

    ``excused_at`` holds when each task was last excused; its interval restarts then.
    """
    return [
        heartbeat.task
        for heartbeat in heartbeats
        if not heartbeat.excused
        and now - max(heartbeat.at, excused_at.get(heartbeat.task, heartbeat.at))
        > heartbeat.period_seconds + SILENT_SECONDS
    ]


class ServiceNotifier:
    """Sends notifications to the service manager; by default there is none."""

    def __init__(self, address: str = "", watchdog_seconds: float | None = None) -> None:
        self._address = address
        self.watchdog_seconds = watchdog_seconds if address else None
        """Interval after which the daemon is restarted without a notification; ``None``: no watchdog."""
        self._ready_pending = False
        self._failure_logged = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ServiceNotifier:
        """Read ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC``; unusable values are ignored."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address:
            return cls()
        if address[0] not in "/@" or len(address) == 1:
            log.warning("notify_socket_unusable", address=address)
            return cls()
        return cls(address, _watchdog_seconds(environment))

    def ready(self, status: str) -> bool:
        """Send READY; if that fails, :meth:`watch` repeats it. Return whether it was sent."""
        taken = self._send("READY=1", _status(status))
        self._ready_pending = bool(self._address) and not taken
        return taken

    def stopping(self) -> bool:
        """Send STOPPING."""
        return self._send("STOPPING=1", _status("stopping: parts in flight finish, states are saved"))

    def status(self, status: str) -> bool:
        """Send a status line, which ``systemctl status`` shows."""
        return self._send(_status(status))

    def _send(self, *lines: str) -> bool:
        """Send one message; return whether that succeeded. Never waits, never raises."""
        if not self._address:
            return False
        # An abstract address begins with a NUL byte, for which '@' stands.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(errors="replace"), address)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the address
            if not self._failure_logged:
                log.warning("service_notification_failed", message=lines[0], error=str(error))
            self._failure_logged = True
            return False
        self._failure_logged = False
        return True

    async def watch(self, take_heartbeats: Callable[[], Iterable[Heartbeat]], describe: Callable[[], str]) -> None:
        """Notify the watchdog, while no task is silent, and keep the status line current, until cancelled.

        ``take_heartbeats`` returns the current heartbeats, ``describe`` the status line. Return at once if there is no
        service manager.
        """
        while self._ready_pending:
            await trio.sleep(_AGAIN_SECONDS)
            self.ready(describe())
        if not self._address:
            return
        excused_at: dict[str, float] = {}
        reported: list[str] = []
        half = self.watchdog_seconds / 2 if self.watchdog_seconds is not None else STATUS_SECONDS
        async for _ in Periodic(min(half, STATUS_SECONDS)):
            if self.watchdog_seconds is None:
                self.status(describe())
                continue
            heartbeats, now = list(take_heartbeats()), trio.current_time()
            excused_at |= {heartbeat.task: now for heartbeat in heartbeats if heartbeat.excused}
            hanging = silent_tasks(heartbeats, now=now, excused_at=excused_at)
            if not hanging:
                self._send("WATCHDOG=1", _status(describe()))
            elif hanging != reported:
                log.error("watchdog_notification_withheld", silent_tasks=hanging)
                self.status(f"silent: {', '.join(hanging)}")
            reported = hanging


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog interval; ``None`` if there is none, or if it is for another process."""
    microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (microseconds.isascii() and microseconds.isdecimal() and int(microseconds) > 0):
        return None
    if pid and pid != str(os.getpid()):
        return None
    return int(microseconds) / _MICROSECONDS


def _status(text: str) -> str:
    """Make a one-line status; a newline in a folder's name must not add a line such as ``READY=1``."""
    return "STATUS=" + printable(text, "?")[:_MAX_STATUS]
