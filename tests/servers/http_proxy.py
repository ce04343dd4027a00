"""An HTTP proxy: CONNECT, and requests in absolute form. It can ask for a log-in, refuse, be silent and die.

    with http_proxy(login="user:password") as proxy:
        proxy.url_with("user:password")    # for S3_PROXY_URL
        proxy.requests                     # what it was asked for

It passes a request on in origin form, as a real one does, with the headers that it came with, but its own.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import threading
from collections.abc import Iterator

from servers.relay import Relay, pass_on

_HEAD_END = b"\r\n\r\n"
_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n")
_ABSOLUTE = re.compile(rb"http://([^/]+)(/.*)")
_LOGIN = re.compile(rb"\r\nproxy-authorization: basic (\S+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>the proxy</body></html>"


class HttpProxy(Relay):
    """A proxy that leads to any server of the loopback."""

    def __init__(self, login: str = "") -> None:
        super().__init__()
        self._login = base64.b64encode(login.encode()) if login else b""
        self.requests: list[tuple[str, str]] = []
        """Method and target of each."""
        self.heads: list[bytes] = []
        self.refusal: int | None = None
        """The status with which it answers everything itself, with a page."""
        self.is_silent = False
        self.dies_after_bytes: int | None = None
        """It cuts all connections, once, after so many bytes from a client."""
        self._counted = 0
        self._lock_of_count = threading.Lock()

    def url_with(self, login: str = "") -> str:
        """Its URL, with user and password."""
        return self.url.replace("//", f"//{login}@" if login else "//")

    def serve_one(self, client: socket.socket) -> None:
        while head_and_rest := self._head(client):
            head, rest = head_and_rest
            line = _LINE.match(head)
            assert line is not None, head
            self.requests.append((line[1].decode(), line[2].decode()))
            self.heads.append(head)
            if self.is_silent:
                self.ended.wait(60)
                return
            given = _LOGIN.search(head)
            if self._login and (given is None or given[1] != self._login):
                self._refuse(client, 407, head, rest)
                return
            if self.refusal is not None:
                self._refuse(client, self.refusal, head, rest)
                return
            if line[1] == b"CONNECT":
                self._tunnel(client, line[2])
                return
            self._forward(client, head, rest, line)

    def _tunnel(self, client: socket.socket, target: bytes) -> None:
        host, _, port = target.decode().rpartition(":")
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        pass_on(client, (host, int(port)), lets_through=lambda: True, block_bytes=self._block_bytes)

    def _block_bytes(self) -> int:
        self._count(0)
        return 65536

    def _forward(self, client: socket.socket, head: bytes, rest: bytes, line: re.Match[bytes]) -> None:
        target = _ABSOLUTE.fullmatch(line[2])
        assert target is not None, f"{line[2]!r} is not in absolute form"
        host, _, port = target[1].decode().partition(":")
        own = _LOGIN.sub(b"", head.replace(line[2], target[2], 1))
        own = own.replace(_HEAD_END, b"\r\nConnection: close" + _HEAD_END)
        with socket.create_connection((host, int(port or 80))) as server:
            server.sendall(own)
            length = _LENGTH.search(head)
            left = int(length[1]) if length else 0
            while left > 0:
                data = rest or client.recv(65536)
                rest = b""
                if not data:
                    return
                server.sendall(data)
                left -= len(data)
                self._count(len(data))
            while data := server.recv(65536):
                client.sendall(data)
        client.shutdown(socket.SHUT_RDWR)  # "Connection: close" came with the response

    def _count(self, size_bytes: int) -> None:
        with self._lock_of_count:
            self._counted += size_bytes
            if self.dies_after_bytes is not None and self._counted >= self.dies_after_bytes:
                self.dies_after_bytes = None
                threading.Thread(target=self.cut).start()

    def _refuse(self, client: socket.socket, status: int, head: bytes, rest: bytes) -> None:
        length = _LENGTH.search(head)
        left = (int(length[1]) if length else 0) - len(rest)
        while left > 0 and (data := client.recv(min(left, 65536))):
            left -= len(data)
        body = b"" if head.startswith(b"HEAD") else _PAGE
        client.sendall(
            f"HTTP/1.1 {status} No\r\nContent-Type: text/html\r\nContent-Length: {len(_PAGE)}\r\n"
            "Proxy-Authenticate: Basic realm=proxy\r\nConnection: close\r\n\r\n".encode()
            + body
        )

    @staticmethod
    def _head(client: socket.socket) -> tuple[bytes, bytes] | None:
        data = b""
        while _HEAD_END not in data:
            more = client.recv(65536)
            if not more:
                return None
            data += more
        head, end, rest = data.partition(_HEAD_END)
        return head + end, rest


@contextlib.contextmanager
def http_proxy(login: str = "") -> Iterator[HttpProxy]:
    """A proxy; with ``login`` (``user:password``) it asks for that."""
    with HttpProxy(login).running() as proxy:
        yield proxy
