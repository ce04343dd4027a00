"""Connections to Redis whose opening has an end: the name service and every address of a host, within one time-out.

redis-py's own opening has two waits without one: it asks the name service in C (``getaddrinfo``, some 5 to 40 seconds
when no resolver answers), and gives each address of a host the whole ``socket_connect_timeout``. A call to Redis is
never abandoned (``client.py``), so either would hold an exit back (promise P4).

Here the worker thread hands the name back to trio (``trio.from_thread``), which asks for it in a thread that may be
abandoned, since asking changes nothing; a cancellation is delivered while it waits. Nothing was sent by then. The
addresses share what is left of the time-out.

A cluster's connections are made by redis-py alone and keep its limits: a cluster's nodes are told by address.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import trio
from redis.connection import Connection, SSLConnection
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection


class BoundedConnection(Connection):
    """A TCP connection that is open, or has failed, within ``socket_connect_timeout``."""

    socket_connect_timeout: float

    def _connect(self) -> socket.socket:
        # In place of redis-py's; SSLConnection calls it and adds TLS.
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
    """The same, with TLS on top."""


class BoundedSentinelConnection(SentinelManagedConnection, BoundedConnection):
    """The same, to the master that a sentinel names."""


class BoundedSentinelTlsConnection(SentinelManagedSSLConnection, BoundedConnection):
    """The same, with TLS."""


def _resolve(host: str, port: int, seconds: float) -> list[tuple[int, int, int, str, Any]]:
    """A host's addresses. Called in a worker thread of trio's.

    Raises:
        OSError: the name is not known, or nobody said so in time.
        trio.Cancelled: the task that waits for this thread is cancelled; nothing was sent.
    """
    try:
        return trio.from_thread.run(_ask, host, port, seconds)
    except trio.TooSlowError:
        raise TimeoutError(f"the name {host!r} was not resolved within {seconds:g} seconds") from None


async def _ask(host: str, port: int, seconds: float) -> list[Any]:
    with trio.fail_after(seconds):
        return list(await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
