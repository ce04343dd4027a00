"""An ingress in front of a store, which passes bytes on, or answers in its own words: what stands there in the world.

    with ingress(endpoint.url) as door:
        door.answer(404, "text/html", b"<html>…")    # every request, until
        door.pass_on()

``door.url`` is the address to give to a client.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

NGINX = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body><center><h1>{0}</h1></center><hr>nginx</body>\r\n</html>\r\n"
)


class Ingress:
    """Passes connections on, or answers requests itself; switching cuts what is under way."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._answer: bytes | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.answered = 0
        """How many requests it has answered itself."""
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def answer_page(self, status: int) -> None:
        """Answer everything with nginx's page of that status."""
        title = f"{status} {HTTPStatus(status).phrase}"
        self.answer(status, "Content-Type: text/html\r\nServer: nginx\r\n", NGINX.format(title).encode())

    def answer(self, status: int, headers: str, body: bytes) -> None:
        """Answer everything with this."""
        head = f"HTTP/1.1 {status} -\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._answer = head.encode() + body
        self.cut()

    def pass_on(self) -> None:
        self._answer = None

    def cut(self) -> None:
        """Cut every connection."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Take connections until :meth:`close`."""
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _one(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            with self._lock:
                self._open.add(client)
            try:
                answer = self._answer
                if answer is None:
                    self._tunnel(client)
                else:
                    self._say(client, answer)
            finally:
                with self._lock:
                    self._open.discard(client)

    def _tunnel(self, client: socket.socket) -> None:
        with socket.create_connection(self._upstream) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    (server if source is client else client).sendall(data)

    def _say(self, client: socket.socket, answer: bytes) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            data = client.recv(65536)
            if not data:
                return
            request += data
        head, _, body = request.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        rest = (int(length[1]) if length else 0) - len(body)
        while rest > 0 and (data := client.recv(min(rest, 65536))):
            rest -= len(data)
        self.answered += 1
        client.sendall(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith(b"HEAD") else answer)


@contextlib.contextmanager
def ingress(upstream: str) -> Iterator[Ingress]:
    """An ingress in front of that URL's server."""
    door = Ingress(upstream)
    threading.Thread(target=door.serve, daemon=True).start()
    try:
        yield door
    finally:
        door.close()
