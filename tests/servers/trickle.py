"""A proxy that lets bytes through in drops: a server that is slow, but never silent long enough for a time-out."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

_DROP_BYTES = 64
_DROP_SECONDS = 0.05


class Trickle:
    """Passes bytes on in full speed until :meth:`begin`, in drops from then on."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._slow = threading.Event()
        self._closed = threading.Event()
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def begin(self) -> None:
        self._slow.set()

    def serve(self) -> None:
        """Take connections until :meth:`close`."""
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._upstream) as server, contextlib.suppress(OSError):
            while not self._closed.is_set():
                for source in select.select([client, server], [], [], 0.2)[0]:
                    data = source.recv(_DROP_BYTES if self._slow.is_set() else 65536)
                    if not data:
                        return
                    (server if source is client else client).sendall(data)
                    if self._slow.is_set():
                        self._closed.wait(_DROP_SECONDS)  # the drop's pace, which is the fault itself


@contextlib.contextmanager
def trickling(upstream: str) -> Iterator[Trickle]:
    """A proxy of that URL's server."""
    proxy = Trickle(upstream)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()
