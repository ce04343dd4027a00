"""Connect through an HTTP proxy: a tunnel by CONNECT (RFC 9110 section 9.3.6), or a connection to the proxy itself.

A proxy that cannot be reached, refuses, or does not speak HTTP raises ``httpcore.ProxyError``, which names it and,
where it is known, what to do.

httpcore's own proxies are not used: a request's ``target`` extension would replace the target of their CONNECT, and a
cancellation between CONNECT and TLS would leave the connection, and its place in the pool, open for ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

import h11
import httpcore
import trio

from cef_trio.http.proxy import HttpProxy

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


async def connect_through(
    proxy: HttpProxy,
    connect_tcp: Callable[[str, int], Awaitable[httpcore.AsyncNetworkStream]],
    host: str,
    port: int,
    timeout: float | None,
) -> httpcore.AsyncNetworkStream:
    """Return a connection to the proxy or, if it tunnels, through it to the server. Closed if cancelled.

    Raises:
        httpcore.ProxyError: the proxy cannot be reached, refuses, or took longer than ``timeout`` seconds.
    """
    with trio.move_on_after(float("inf") if timeout is None else timeout):
        try:
            stream = await connect_tcp(proxy.host, proxy.port)
        except (httpcore.NetworkError, httpcore.TimeoutException) as error:
            raise _error(proxy, f"cannot be reached: {error or type(error).__name__}") from error
        if not proxy.tunnels:
            return stream
        try:
            await _open_tunnel(proxy, stream, host, port, timeout)
        except BaseException:
            await stream.aclose()
            raise
        return stream
    raise _error(proxy, f"did not respond within {timeout:g} seconds")


async def _open_tunnel(
    proxy: HttpProxy, stream: httpcore.AsyncNetworkStream, host: str, port: int, timeout: float | None
) -> None:
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    connection = h11.Connection(h11.CLIENT)
    headers = [(b"Host", server.encode("ascii")), *proxy.headers]
    request = h11.Request(method=b"CONNECT", target=server, headers=headers)
    try:
        sent = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
        await stream.write(sent, timeout)
        response = await _response(connection, stream, timeout)
    except (h11.ProtocolError, httpcore.NetworkError, httpcore.TimeoutException) as error:
        raise _error(proxy, f"gave no answer to CONNECT {server}: {error or type(error).__name__}") from error
    if response.status_code not in _OK:
        reason = response.reason.decode("ascii", "replace")
        cause = _CAUSES.get(response.status_code, "").format(setting=proxy.setting)
        text = f"refused CONNECT {server} with HTTP {response.status_code} {reason}".rstrip()
        raise _error(proxy, f"{text}; {cause}" if cause else text)
    if connection.trailing_data[0]:
        raise _error(proxy, f"sent more than its answer to CONNECT {server}")


async def _response(
    connection: h11.Connection, stream: httpcore.AsyncNetworkStream, timeout: float | None
) -> h11.Response:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            return event
        if event is h11.NEED_DATA:
            data = await stream.read(_READ_BYTES, timeout)
            if not data:
                raise h11.RemoteProtocolError("it closed the connection")
            connection.receive_data(data)
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("it closed the connection")


def _error(proxy: HttpProxy, what: str) -> httpcore.ProxyError:
    return httpcore.ProxyError(f"the proxy {proxy.name} of {proxy.setting} {what}")
