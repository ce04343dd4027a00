"""What the service manager is told: the protocol of sd_notify, in both directions that we need.

One datagram a message, to the socket that ``NOTIFY_SOCKET`` names (https://www.freedesktop.org/software/systemd/man/sd_notify.html):
``READY=1`` when the folder is watched, ``STOPPING=1`` at the first signal, ``WATCHDOG=1`` at half of ``WATCHDOG_USEC``
for as long as the daemon's tasks turn. Without ``NOTIFY_SOCKET`` nothing happens at all.

It must never harm the daemon: a send never blocks, no error leaves this module, and a message that could not be sent
is one line in the log. The watchdog's judgement (:func:`silent`) is pure. It asks the tasks, not only the loop: a loop
that turns while the watcher hangs is a daemon that uploads nothing new.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

log = structlog.get_logger(__name__)

_AGAIN_SECONDS: Final = 1.0
"""How long to wait before READY is said again, when it could not be sent: without it a start counts as failed."""


def _never() -> bool:
    return False


@dataclass(eq=False, slots=True)
class Turning:
    """A task that should turn: ``last_turn`` tells when it last did, ``trio.current_time()``.

    While ``excused`` says so, and for ``limit_seconds`` after that, its silence means nothing: it waits for a service
    that is away, which no restart brings back.
    """

    name: str
    last_turn: Callable[[], float]
    limit_seconds: float
    excused: Callable[[], bool] = _never
    excused_at: float = field(default=float("-inf"), init=False)


def silent(tasks: Iterable[Turning], now: float) -> list[str]:
    """Names of the tasks that did not turn for longer than their limit."""
    found = []
    for task in tasks:
        if task.excused():
            task.excused_at = now
        if now - max(task.last_turn(), task.excused_at) > task.limit_seconds:
            found.append(task.name)
    return found


class ServiceManager:
    """Who started us, if it wants to be told; else every method does nothing."""

    def __init__(self, address: str | None, *, beat_seconds: float | None = None) -> None:
        self._address = address
        self.beat_seconds = beat_seconds if address else None
        """How often the watchdog wants to hear of us; ``None``: never."""
        self._said_failure = False

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, pid: int | None = None
    ) -> ServiceManager:
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``; nonsense in them counts as unset."""
        environment = os.environ if environment is None else environment
        address = environment.get("NOTIFY_SOCKET") or None
        if address is not None and (len(address) == 1 or address[0] not in "/@"):
            log.warning("service_manager_unknown", address=address)  # vsock: of a virtual machine, for one
            address = None
        watched = environment.get("WATCHDOG_PID") or None
        usec = environment.get("WATCHDOG_USEC") or ""
        ours = watched is None or watched == str(os.getpid() if pid is None else pid)
        wanted = ours and usec.isascii() and usec.isdecimal() and int(usec) > 0
        return cls(address, beat_seconds=int(usec) / 1e6 / 2 if wanted else None)

    async def attend(self, tasks: Iterable[Turning]) -> None:
        """Say that we are ready, then keep the watchdog content for as long as ``tasks`` turn. Ends when cancelled.

        A task that turns again is believed again.
        """
        tasks = tuple(tasks)
        while not self._tell("READY=1\nSTATUS=watching"):  # noqa: ASYNC110 - nobody in this process could set an event
            await trio.sleep(_AGAIN_SECONDS)
        if self.beat_seconds is None:
            return
        said: list[str] = []
        while True:
            names = silent(tasks, trio.current_time())
            if not names:
                self._tell("WATCHDOG=1")
            elif names != said:
                log.error("watchdog_withheld", silent=names)
            said = names
            await trio.sleep(self.beat_seconds)

    def stopping(self) -> None:
        """Say that the exit has begun."""
        self._tell("STOPPING=1\nSTATUS=finishing the parts in flight, saving states")

    def _tell(self, message: str) -> bool:
        """Send a message; whether it is settled (sent, or nobody to be told)."""
        if self._address is None:
            return True
        # '@' is how the abstract namespace is written; on the wire it is a zero byte.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(message.encode(), address)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            if not self._said_failure:
                log.warning("service_manager_not_told", address=self._address, error=str(error))
            self._said_failure = True
            return False
        self._said_failure = False
        return True
