"""A TCP proxy whose other end can be changed: one address behind which a server fails over, or a backend dies.

    with tcp_proxy(first.port) as proxy:
        proxy.lead_to(second.port)

Connections that are open keep the server that they were opened to, as behind a load balancer or a changed DNS name.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from servers.relay import Relay, pass_on


class TcpProxy(Relay):
    """Passes bytes on to a port of the loopback. ``port`` is where it listens."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        super().__init__(address)
        self._to = port
        self._swallowing = threading.Event()

    def lead_to(self, port: int) -> None:
        """Lead new connections to that port."""
        self._to = port

    def swallow(self) -> None:
        """Pass nothing on any more over the connections that are open now: their backend died without closing them."""
        self._swallowing.set()
        self._swallowing = threading.Event()

    def serve_one(self, client: socket.socket) -> None:
        swallowing = self._swallowing
        pass_on(client, ("127.0.0.1", self._to), lets_through=lambda: not swallowing.is_set())


@contextlib.contextmanager
def tcp_proxy(port: int) -> Iterator[TcpProxy]:
    """A proxy that leads to that port of the loopback."""
    with TcpProxy(port).running() as proxy:
        yield proxy
