"""Tells a service manager how the daemon stands: systemd's notification protocol, and its watchdog.

The protocol is one datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names (sd_notify(3)). Without
that variable nothing is sent and nothing changes. A message never waits and never raises: a service manager that does
not listen must not harm an upload.

The watchdog (``WATCHDOG_USEC``, sd_watchdog_enabled(3)) is told that all is well at half its time, and only while

- the loop heartbeats, since the beat is a task of it, and
- every task that looks after others has made a turn lately, or is excused (:func:`silent_tasks`).

A missed beat makes systemd kill the daemon and start it anew, which mends a task that hangs and nothing else. So what a
restart cannot mend is an excuse: a Redis that is down, a watched folder that is gone. And the limit is wide: to be
restarted again and again because everything is slow would be worse than the slowness.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import structlog
import trio
from trio_util import periodic

log = structlog.get_logger(__name__)

SILENT_SECONDS: Final = 300.0
"""How long a task may be late, beyond its period, before it is taken for hanging."""
_AGAIN_SECONDS: Final = 1.0
"""How long to wait before READY is reported again that was not taken: without it a start counts as not done."""
_MICROSECONDS: Final = 1_000_000
_MAX_STATUS: Final = 200


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """When a task last made a heartbeat.

    Attributes:
        task: what it is called in the log.
        at: ``trio.current_time()`` of its last heartbeat.
        period_seconds: how often it makes one.
        excused: whether it waits for something that a restart would not bring back.
    """

    task: str
    at: float
    period_seconds: float
    excused: bool = False


def silent_tasks(heartbeats: Iterable[Heartbeat], *, now: float, excused_at: Mapping[str, float]) -> list[str]:
    """The tasks that hang, by name.

    ``excused_at`` says when a task was last seen excused: what it waited for has come back only since then.
    """
    return [
        heartbeat.task
        for heartbeat in heartbeats
        if not heartbeat.excused
        and now - max(heartbeat.at, excused_at.get(heartbeat.task, heartbeat.at))
        > heartbeat.period_seconds + SILENT_SECONDS
    ]


class ServiceNotifier:
    """Whom to tell, and how often; by default nobody."""

    def __init__(self, address: str = "", watchdog_seconds: float | None = None) -> None:
        self._address = address
        self.watchdog_seconds = watchdog_seconds if address else None
        """After so long without a beat the daemon is killed; ``None``: nobody waits for one."""
        self._ready_pending = False
        self._failure_logged = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ServiceNotifier:
        """As the service manager asks. What makes no sense is as good as nothing."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address:
            return cls()
        if address[0] not in "/@" or len(address) == 1:
            log.warning("notify_socket_unusable", address=address)
            return cls()
        return cls(address, _watchdog_seconds(environment))

    def ready(self, status: str) -> bool:
        """The daemon works: whoever waits for the service's start goes on. If not taken, :meth:`watch` repeats it."""
        taken = self._send("READY=1", _status(status))
        self._ready_pending = bool(self._address) and not taken
        return taken

    def stopping(self) -> bool:
        """The daemon is on its way out."""
        return self._send("STOPPING=1", _status("stopping: parts in flight finish, states are saved"))

    def status(self, status: str) -> bool:
        """One line for a person; ``systemctl status`` shows it."""
        return self._send(_status(status))

    def _send(self, *lines: str) -> bool:
        """Send one message; returns whether it was taken. Never waits, never raises."""
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
        """Beat for ever, while no task is silent; returns if nobody waits for it, once READY was taken.

        ``look`` says what turns the tasks made; ``describe`` is the status line that goes with a beat.
        """
        while self._ready_pending:
            await trio.sleep(_AGAIN_SECONDS)
            self.ready(describe())
        if self.watchdog_seconds is None:
            return
        excused_at: dict[str, float] = {}
        reported: list[str] = []
        async with aclosing(periodic(self.watchdog_seconds / 2)) as beats:
            async for _ in beats:
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
    """The watchdog's time; ``None`` if there is none, or if it is another process's."""
    microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (microseconds.isascii() and microseconds.isdecimal() and int(microseconds) > 0):
        return None
    if pid and pid != str(os.getpid()):
        return None
    return int(microseconds) / _MICROSECONDS


def _status(text: str) -> str:
    """A status is one line: a folder's name must not be able to add ``READY=1``."""
    return "STATUS=" + "".join(c if c.isprintable() else "?" for c in text)[:_MAX_STATUS]
