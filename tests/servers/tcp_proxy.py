"""A TCP proxy whose other end can be changed: one address behind which a server fails over, or a backend dies.

    with tcp_proxy(first.port) as proxy:
        proxy.lead_to(second.port)

Connections that are open keep the server that they were opened to, as behind a load balancer or a changed DNS name.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator


class TcpProxy:
    """Passes bytes on. ``port`` is where it listens, on the loopback."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._closed = threading.Event()
        self._swallowing = threading.Event()
        self._threads: list[threading.Thread] = []
        self.port = int(self._listening.getsockname()[1])
        self.opened = 0

    def lead_to(self, port: int) -> None:
        """Lead new connections to that port."""
        self._to = port

    def swallow(self) -> None:
        """Pass nothing on any more over the connections that are open now: their backend is dead without a word."""
        self._swallowing.set()
        self._swallowing = threading.Event()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.opened += 1
            thread = threading.Thread(target=self._pass_on, args=(connection, self._swallowing), daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        self._closed.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(5)

    def _pass_on(self, client: socket.socket, swallowing: threading.Event) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as server:
            while not self._closed.is_set():
                for source in select.select([client, server], [], [], 0.1)[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if not swallowing.is_set():
                        (server if source is client else client).sendall(data)


@contextlib.contextmanager
def tcp_proxy(port: int) -> Iterator[TcpProxy]:
    """A proxy that leads to that port of the loopback."""
    proxy = TcpProxy(port)
    serving = threading.Thread(target=proxy.serve, daemon=True)
    serving.start()
    try:
        yield proxy
    finally:
        proxy.close()
        serving.join(5)
