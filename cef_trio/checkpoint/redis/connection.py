"""Connections to Redis with one time-out for name resolution and for all addresses of the host, and one for a reply.

redis-py resolves names without a time-out (``getaddrinfo``, 5 to 40 seconds if no resolver responds) and gives each
address the whole ``socket_connect_timeout``. A call to Redis is never abandoned (``client.py``), so either could delay
an exit (promise P4).

Here the worker thread has trio resolve the name (``trio.from_thread``) in a thread that may be abandoned; cancellation
is delivered during this wait, before anything is sent. The addresses share the remaining time.

redis-py's time-out of a reply is one of each ``recv``: a proxy that lets through a byte now and then held a call for as
long as it liked, and no outage was told. Here a reply also has :data:`_REPLY_TIMEOUTS` time-outs for each
:data:`_REPLY_BYTES` (:class:`BoundedSocket`). With the default time-out of a second it may come at 5.3 KiB/s, however
large it is. The replies of a pipeline are one.

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
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

_connects_until: Final[ContextVar[float]] = ContextVar("connects_until", default=math.inf)
"""``time.monotonic()`` from which on a call opens no more connections."""

_REPLY_TIMEOUTS: Final = 3
"""More than one: a slow line, or a lost packet, may delay each piece of an honest reply."""
_REPLY_BYTES: Final = 16 * 1024


@contextmanager
def connects_for(seconds: float) -> Iterator[None]:
    """Have connections that this thread opens later than in ``seconds`` fail at once."""
    token = _connects_until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _connects_until.reset(token)


class BoundedSocket:
    """A socket that raises ``TimeoutError`` if the reply to what was sent last comes too slowly.

    It stands in the place of the socket, since redis-py chooses the parser that reads from it: its own, or hiredis.
    """

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._until = -math.inf
        """``time.monotonic()`` at which the next :attr:`_bytes` must be there."""
        self._bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def sendall(self, data: bytes) -> None:
        """Send; what is received from now on is another reply."""
        self._bytes = 0
        self._socket.sendall(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive what is there, at most ``size`` bytes."""
        with self._in_time():
            data = self._socket.recv(size, flags)
        self._bytes -= len(data)
        return data

    def recv_into(self, buffer: bytearray) -> int:
        """Receive what is there into ``buffer``; return how much. hiredis reads so."""
        with self._in_time():
            received = self._socket.recv_into(buffer)
        self._bytes -= received
        return received

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        timeout = self._socket.gettimeout()
        if not timeout:  # the pool looks for stray data, and waits for none
            yield
            return
        now = time.monotonic()
        if self._bytes <= 0:
            self._until, self._bytes = now + _REPLY_TIMEOUTS * timeout, _REPLY_BYTES
        left = self._until - now
        if left <= 0:
            raise TimeoutError("the reply came too slowly")
        self._socket.settimeout(min(left, timeout))
        try:
            yield
        finally:
            self._socket.settimeout(timeout)


class _BoundedReplies(AbstractConnection):
    """A connection whose replies come in time. The first of the base classes: TLS wraps the socket before it does."""

    def _connect(self) -> Any:
        return BoundedSocket(super()._connect())  # type: ignore[no-untyped-call, safe-super]


class _TcpConnection(Connection):
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


class BoundedConnection(_BoundedReplies, _TcpConnection):
    """A TCP connection with all bounds."""


class BoundedTlsConnection(_BoundedReplies, SSLConnection, _TcpConnection):
    """A :class:`BoundedConnection` with TLS."""


class BoundedSentinelConnection(_BoundedReplies, SentinelManagedConnection, _TcpConnection):
    """A :class:`BoundedConnection` to the master that a sentinel names."""


class BoundedSentinelTlsConnection(_BoundedReplies, SentinelManagedSSLConnection, _TcpConnection):
    """A :class:`BoundedSentinelConnection` with TLS."""


class BoundedUnixConnection(_BoundedReplies, UnixDomainSocketConnection):
    """A connection to a unix socket whose replies come in time."""


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
