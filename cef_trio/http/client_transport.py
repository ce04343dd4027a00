"""A transport of httpx whose connections can be renewed and whose certificates are reloaded.

httpx's own transport supports neither: its pool is private and its TLS context is created once. This one uses
httpcore's pool through public interfaces only. HTTP/1.1, no retries, a proxy only if one is given (``tunnel.py``).

- :meth:`HttpTransport.renew_connections`: one address may lead to several backends, and a kept-alive connection stays
  with its backend even if that is down. Requests that start after a renewal use new connections.
- A new connection reads the certificates again if their file has changed (``tls.py``). The pool's own TLS context
  trusts no certificate, so a connection that used it by mistake would fail.

Cancellation: a connection that is being opened is closed. There is no checkpoint between the arrival of the response's
headers and the return of :meth:`HttpTransport.handle_async_request`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from types import MappingProxyType
from typing import Any, Final, cast

import httpcore
import httpx

from cef_trio.http.proxy import HttpProxy
from cef_trio.http.tls import TrustedCertificates
from cef_trio.http.tunnel import connect_through

_EXCEPTIONS: Final[Mapping[type[Exception], type[httpx.TransportError]]] = MappingProxyType(
    {
        httpcore.TimeoutException: httpx.TimeoutException,
        httpcore.ConnectTimeout: httpx.ConnectTimeout,
        httpcore.ReadTimeout: httpx.ReadTimeout,
        httpcore.WriteTimeout: httpx.WriteTimeout,
        httpcore.PoolTimeout: httpx.PoolTimeout,
        httpcore.NetworkError: httpx.NetworkError,
        httpcore.ConnectError: httpx.ConnectError,
        httpcore.ReadError: httpx.ReadError,
        httpcore.WriteError: httpx.WriteError,
        httpcore.ProxyError: httpx.ProxyError,
        httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
        httpcore.ProtocolError: httpx.ProtocolError,
        httpcore.LocalProtocolError: httpx.LocalProtocolError,
        httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
    }
)
_NO_CERTIFICATES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def http_client(transport: httpx.AsyncBaseTransport, *, timeout_seconds: float | None = None) -> httpx.AsyncClient:
    """Return a client that sends what it is given, and nothing else.

    No proxies and credentials of the environment, no redirects, and no cookies: httpx would keep them for ever, one for
    each path that a load balancer sets one for, although it sends none with requests that are built elsewhere.
    """
    client = httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=timeout_seconds)
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


class HttpTransport(httpx.AsyncBaseTransport):
    """A connection pool for httpx.

    ``trusted`` verifies TLS servers; ``None`` if no connection uses TLS. ``keepalive_seconds`` is how long a connection
    may be idle. ``proxy`` is used for all requests. ``backend`` replaces the real network in tests.
    """

    def __init__(
        self,
        trusted: TrustedCertificates | None,
        *,
        max_connections: int,
        keepalive_seconds: float,
        proxy: HttpProxy | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._backend = _Backend(httpcore.TrioBackend() if backend is None else backend, trusted, proxy)
        self._proxy = proxy
        self._max_connections = max_connections
        self._keepalive_seconds = keepalive_seconds
        self._pool = self._new_pool()
        self._retired: list[httpcore.AsyncConnectionPool] = []

    def renew_connections(self) -> None:
        """Use new connections for all requests that start from now on; requests in flight finish on theirs."""
        if self._pool.connections:
            self._retired.append(self._pool)
            self._pool = self._new_pool()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request.

        Raises:
            httpx.TransportError: no response was received.
        """
        await self._close_idle_retired()
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.extensions.get("target", request.url.raw_path),
        )
        headers, extensions = request.headers.raw, dict(request.extensions)
        if self._proxy is not None and not self._proxy.tunnels:
            extensions["target"] = bytes(url)  # in absolute form
            headers = [*headers, *self._proxy.headers]
        sent = httpcore.Request(
            method=request.method,
            url=url,
            headers=headers,
            content=cast("AsyncIterable[bytes]", request.stream),
            extensions=extensions,
        )
        with _map_errors():
            response = await self._pool.handle_async_request(sent)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(cast("AsyncIterable[bytes]", response.stream)),
            extensions=dict(response.extensions),
        )

    async def aclose(self) -> None:
        """Close all connections without waiting for the peers."""
        for pool in (*self._retired, self._pool):
            await pool.aclose()

    def _new_pool(self) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=_NO_CERTIFICATES,
            max_connections=self._max_connections,
            max_keepalive_connections=self._max_connections,
            keepalive_expiry=self._keepalive_seconds,
            network_backend=self._backend,
        )

    async def _close_idle_retired(self) -> None:
        """Close the connections of before a renewal that no request uses any more."""
        retired = self._retired
        self._retired = [pool for pool in retired if any(not one.is_idle() for one in pool.connections)]
        for pool in retired:
            for connection in tuple(pool.connections):
                if connection.is_idle():
                    await connection.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of a response."""

    def __init__(self, httpcore_stream: AsyncIterable[bytes]) -> None:
        self._httpcore_stream = httpcore_stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _map_errors():
            async for piece in self._httpcore_stream:
                yield piece

    async def aclose(self) -> None:
        if hasattr(self._httpcore_stream, "aclose"):
            await self._httpcore_stream.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    """Opens connections that use the current certificates when TLS starts."""

    def __init__(
        self, backend: httpcore.AsyncNetworkBackend, trusted: TrustedCertificates | None, proxy: HttpProxy | None
    ) -> None:
        self._backend = backend
        self._trusted = trusted
        self._proxy = proxy

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        connect = partial(
            self._backend.connect_tcp, timeout=timeout, local_address=local_address, socket_options=socket_options
        )
        if self._proxy is None:
            stream = await connect(host, port)
        else:
            stream = await connect_through(self._proxy, connect, host, port, timeout)
        return stream if self._trusted is None else _TlsCapableStream(stream, self._trusted)


class _TlsCapableStream(httpcore.AsyncNetworkStream):
    """A TCP connection that uses the current certificates if TLS is started on it."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, trusted: TrustedCertificates) -> None:
        self._stream = stream
        self._trusted = trusted

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,  # the pool's, which trusts no certificate
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            context = await self._trusted.current_context()
            return await self._stream.start_tls(context, server_hostname, timeout)
        except BaseException:
            await self._stream.aclose()  # httpcore would leave the connection open after a cancellation here
            raise

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@contextmanager
def _map_errors() -> Iterator[None]:
    try:
        yield
    except tuple(_EXCEPTIONS) as error:
        ours = next(_EXCEPTIONS[kind] for kind in type(error).__mro__ if kind in _EXCEPTIONS)
        raise ours(str(error)) from error
