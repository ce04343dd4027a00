"""A relay between a client and a server: takes connections, a thread for each, and passes bytes on, or damages them.

class Half(Relay):
    def serve_one(self, client): ...

with Half().running() as half:
    url = half.url
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Self

_BLOCK_BYTES = 65536


class Relay(ABC):
    """Listens, by default on the loopback. When it ends, so do its connections and their threads."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._listening = socket.create_server((address, 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.ended = threading.Event()
        self.opened = 0
        """How many connections it has taken."""
        self.port = int(self._listening.getsockname()[1])
        self.url = f"http://{address}:{self.port}"

    @abstractmethod
    def serve_one(self, client: socket.socket) -> None:
        """Serve a connection to its end; an ``OSError`` is one."""

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Take connections until the block is left."""
        accepting = threading.Thread(target=self._accept, daemon=True)
        accepting.start()
        try:
            yield self
        finally:
            self.ended.set()
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self.cut()
            for thread in (accepting, *self._threads):
                thread.join(5)

    def cut(self) -> None:
        """Cut every connection."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.opened += 1
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            with self._lock:
                self._open.add(client)
            try:
                self.serve_one(client)
            finally:
                with self._lock:
                    self._open.discard(client)


def pass_on(
    client: socket.socket,
    upstream: tuple[str, int],
    *,
    block_bytes: Callable[[], int] = lambda: _BLOCK_BYTES,
    lets_through: Callable[[], bool] = lambda: True,
) -> None:
    """Pass bytes on, both ways, until one side ends: blocks of that size, each of them only if it is let through."""
    with socket.create_connection(upstream) as server:
        while True:
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(block_bytes())
                if not data:
                    return
                if lets_through():
                    (server if source is client else client).sendall(data)


def address_of(url: str) -> tuple[str, int]:
    """The host and port of a server."""
    host, _, port = url.rpartition("://")[2].rstrip("/").partition(":")
    return host, int(port or 80)
