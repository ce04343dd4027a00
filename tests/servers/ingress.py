"""An ingress in front of an S3 store: it passes bytes on, or answers itself, as real ones do.

    with ingress(endpoint.url) as door:
        door.answer(404, "text/html", b"<html>…")    # every request, until
        door.pass_on()

``door.url`` is the address to give to a client.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from http import HTTPStatus

from servers.relay import Relay, address_of, pass_on

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

NGINX = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body><center><h1>{0}</h1></center><hr>nginx</body>\r\n</html>\r\n"
)


class Ingress(Relay):
    """Passes connections on, or answers requests itself; switching cuts what is under way."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = address_of(upstream)
        self._answer: bytes | None = None
        self.answered = 0
        """How many requests it has answered itself."""

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

    def serve_one(self, client: socket.socket) -> None:
        answer = self._answer
        if answer is None:
            pass_on(client, self._upstream)
        else:
            self._say(client, answer)

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
    with Ingress(upstream).running() as door:
        yield door
