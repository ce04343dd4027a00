"""Connections to Redis with one time-out for name resolution and for all addresses of the host.

redis-py resolves names without a time-out (``getaddrinfo``, 5 to 40 seconds if no resolver responds) and gives each
address the whole ``socket_connect_timeout``. A call to Redis is never abandoned (``client.py``), so either could delay
an exit (promise P4).

Here the worker thread has trio resolve the name (``trio.from_thread``) in a thread that may be abandoned; cancellation
is delivered during this wait, before anything is sent. The addresses share the remaining time.

A call to a cluster that connects to one node after another does so for a limited time (:func:`connects_for`).
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import trio
from redis.connection import Connection, SSLConnection
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

_connects_until: Final[ContextVar[float]] = ContextVar("connects_until", default=math.inf)
"""``time.monotonic()`` from which on a call opens no more connections."""


@contextmanager
def connects_for(seconds: float) -> Iterator[None]:
    """Have connections that this thread opens later than in ``seconds`` fail at once."""
    token = _connects_until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _connects_until.reset(token)


class BoundedConnection(Connection):
    """A TCP connection that opens or fails within ``socket_connect_timeout``."""

    socket_connect_timeout: float

    def _connect(self) -> socket.socket:
        # In place of redis-py's; SSLConnection calls it and adds TLS.
        if time.monotonic() > _connects_until.get():
            raise TimeoutError("other nodes did not answer in time")
        deadline = time.monotonic() + self.socket_connect_timeout
        failure: OSError = OSError(f"{self.host!r} has no address")
        for family, kind, protocol, _, address in _resolve(self.host, self.port, self.socket_connect_timeout):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                return self._open(socket.socket(family, kind, protocol), address, left)
            except OSError as error:
                failure = error
        raise failure

    def _open(self, opened: socket.socket, address: Any, seconds: float) -> socket.socket:
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.socket_keepalive:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in self.socket_keepalive_options.items():
                    opened.setsockopt(socket.IPPROTO_TCP, name, value)
            opened.settimeout(seconds)
            opened.connect(address)
            opened.settimeout(self.socket_timeout)
        except BaseException:
            opened.close()
            raise
        return opened


class BoundedTlsConnection(SSLConnection, BoundedConnection):
    """A :class:`BoundedConnection` with TLS."""


class BoundedSentinelConnection(SentinelManagedConnection, BoundedConnection):
    """A :class:`BoundedConnection` to the master that a sentinel names."""


class BoundedSentinelTlsConnection(SentinelManagedSSLConnection, BoundedConnection):
    """A :class:`BoundedSentinelConnection` with TLS."""


def _resolve(host: str, port: int, seconds: float) -> list[tuple[int, int, int, str, Any]]:
    """Return the addresses of a host. Call it in a worker thread of trio.

    Raises:
        OSError: the name is unknown or none, or was not resolved in time.
        trio.Cancelled: the task that waits for this thread was cancelled; nothing was sent.
    """
    try:
        return trio.from_thread.run(_resolve_in_trio, host, port, seconds)
    except trio.TooSlowError:
        raise TimeoutError(f"the name {host!r} was not resolved within {seconds:g} seconds") from None
    except UnicodeError as error:  # as a ValueError it would count as a reply that is not one of Redis
        raise OSError(f"{host!r} is no host name ({error})") from error


async def _resolve_in_trio(host: str, port: int, seconds: float) -> list[Any]:
    with trio.fail_after(seconds):
        return list(await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
