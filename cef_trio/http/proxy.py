"""An HTTP proxy between a client and its server: ``S3_PROXY_URL`` and ``WEBHOOK_PROXY_URL``.

For ``https`` the proxy is asked for a tunnel (CONNECT, RFC 9110 section 9.3.6), in which TLS is spoken with the server:
the proxy sees the server's name and the amount of bytes. For plain ``http`` it is sent the request in absolute form
(RFC 9112 section 3.2.2). What is signed, and the ``Host`` header, are the same with and without a proxy.

A proxy that cannot be reached, refuses, or does not speak HTTP raises ``httpcore.ProxyError``, which names it and,
where it is known, what to do. Messages have its host and port, never its user and password.

httpcore's own proxies are not used: a request's ``target`` extension would replace the target of their CONNECT, and a
cancellation between CONNECT and TLS would leave the connection, and its place in the pool, open for ever.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote, urlsplit

import h11
import httpcore
import trio

_DEFAULT_PORT: Final = 80
_READ_BYTES: Final = 4096
_OK: Final = range(200, 300)
_CAUSES: Final[Mapping[int, str]] = MappingProxyType(
    {
        403: "it does not allow this server",
        407: "it requires a log-in: set its user and password in {setting}, as http://user:password@host:port",
        502: "it cannot reach the server",
        503: "it cannot reach the server, or is overloaded",
        504: "it got no response from the server in time",
    }
)


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """A proxy, and how it is used for one server."""

    setting: str
    """The name of the setting, for messages."""
    host: str
    port: int
    tunnels: bool
    """Whether the server is reached by CONNECT; else its requests are sent to the proxy."""
    authorization: bytes | None = field(default=None, repr=False)
    """The value of ``Proxy-Authorization``."""

    @classmethod
    def of_url(cls, url: str | None, *, setting: str, tls: bool) -> HttpProxy | None:
        """Return the proxy of a setting, ``http://[user:password@]host[:port]``; ``None`` if it is not set.

        ``tls``: whether the server is reached by ``https``.
        """
        if url is None:
            return None
        parts = urlsplit(url)
        user_and_password = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        authorization = b"Basic " + base64.b64encode(user_and_password.encode()) if "@" in parts.netloc else None
        return cls(setting, parts.hostname or "", parts.port or _DEFAULT_PORT, tls, authorization)

    @property
    def name(self) -> str:
        """Its host and port."""
        return f"{self._host_in_url}:{self.port}"

    @property
    def _host_in_url(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def via(self) -> str:
        """The end of a message about a request that went through it."""
        return f" (through the proxy {self.name} of {self.setting})"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that it needs with a request in absolute form, or with CONNECT."""
        return [] if self.authorization is None else [(b"Proxy-Authorization", self.authorization)]

    async def connect(
        self,
        connect_tcp: Callable[[str, int], Awaitable[httpcore.AsyncNetworkStream]],
        host: str,
        port: int,
        timeout: float | None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a connection to the proxy or, with :attr:`tunnels`, through it to the server. Closed if cancelled.

        Raises:
            httpcore.ProxyError: the proxy cannot be reached, refuses, or took longer than ``timeout`` seconds.
        """
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            try:
                stream = await connect_tcp(self.host, self.port)
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                raise self._error(f"cannot be reached: {error or type(error).__name__}") from error
            if not self.tunnels:
                return stream
            try:
                await self._open_tunnel(stream, host, port, timeout)
            except BaseException:
                await stream.aclose()
                raise
            return stream
        raise self._error(f"did not respond within {timeout:g} seconds")

    async def _open_tunnel(
        self, stream: httpcore.AsyncNetworkStream, host: str, port: int, timeout: float | None
    ) -> None:
        server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        connection = h11.Connection(h11.CLIENT)
        request = h11.Request(
            method=b"CONNECT", target=server, headers=[(b"Host", server.encode("ascii")), *self.headers]
        )
        try:
            sent = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
            await stream.write(sent, timeout)
            response = await self._response(connection, stream, timeout)
        except (h11.ProtocolError, httpcore.NetworkError, httpcore.TimeoutException) as error:
            raise self._error(f"gave no answer to CONNECT {server}: {error or type(error).__name__}") from error
        if response.status_code not in _OK:
            reason = response.reason.decode("ascii", "replace")
            cause = _CAUSES.get(response.status_code, "").format(setting=self.setting)
            text = f"refused CONNECT {server} with HTTP {response.status_code} {reason}".rstrip()
            raise self._error(f"{text}; {cause}" if cause else text)
        if connection.trailing_data[0]:
            raise self._error(f"sent more than its answer to CONNECT {server}")

    @staticmethod
    async def _response(
        connection: h11.Connection, stream: httpcore.AsyncNetworkStream, timeout: float | None
    ) -> h11.Response:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.read(_READ_BYTES, timeout))
            elif not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("it closed the connection")

    def _error(self, what: str) -> httpcore.ProxyError:
        return httpcore.ProxyError(f"the proxy {self.name} of {self.setting} {what}")
