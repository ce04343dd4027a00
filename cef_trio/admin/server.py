"""Admin server: HTTP/1.1 in the daemon's nursery; it cannot delay the daemon (promise P4).

Each connection has time limits: to send a request, to read a response, to be idle. The number of connections is limited
(``connection_limits.py``), so that no client keeps others out, least of all health checks: without a response to
``/healthz`` a container is restarted. When cancelled, the server closes every connection at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing, suppress
from typing import Final

import structlog
import trio
from prometheus_client import CollectorRegistry

from cef_trio.admin.app import HEALTH, AdminApp, Response, asked_stream
from cef_trio.admin.connection_limits import ConnectionLimiter, ConnectionSlot, client_of
from cef_trio.admin.page_source import PageSource
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.http import HTTPRequest, NotHttpError, ServerConnection

log = structlog.get_logger(__name__)

MAX_CONNECTIONS: Final = 100
MAX_CONNECTIONS_OF_A_CLIENT: Final = 48
RESERVED_CONNECTIONS: Final = 8
"""Reserved for health when all others are in use."""
REQUEST_SECONDS: Final = 5.0
"""Time limit for receiving the first request of a connection."""
SEND_SECONDS: Final = 10.0
"""Time limit for a client to read one block."""
_IDLE_SECONDS: Final = 75.0
"""Idle time of a connection; longer than Prometheus' usual scrape interval."""
_MAX_HEADER_BYTES: Final = 16 * 1024
_DISCARD_BYTES: Final = 64 * 1024
_DISCARD_SECONDS: Final = 1.0
_ACCEPT_AGAIN_SECONDS: Final = 0.5


class AdminPortError(CefMp4ProcessorError):
    """The admin server cannot listen at ``PROM_HOST:PROM_PORT``."""


async def serve_admin(
    source: PageSource,
    registry: CollectorRegistry,
    host: str,
    port: int,
    *,
    allowed_hosts: Collection[str] = (),
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; then close every connection at once.

    ``nursery.start`` returns the port, which the system chooses if ``port`` is 0.

    Raises:
        AdminPortError: the server cannot listen at the address.
    """
    listeners = await _listen(host, port)
    app = AdminApp(source, registry, allowed_hosts)
    limiter = ConnectionLimiter(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_A_CLIENT, RESERVED_CONNECTIONS)
    try:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(_accept, listener, nursery, app, limiter)
            bound: int = listeners[0].socket.getsockname()[1]
            log.info("admin_server_started", host=host, port=bound)
            task_status.started(bound)
    finally:
        for listener in listeners:
            listener.socket.close()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number is not None and number > 0 else str(error)
        raise AdminPortError(f"PROM_HOST, PROM_PORT: cannot listen at {host} port {port}: {reason}") from error


async def _accept(
    listener: trio.SocketListener, nursery: trio.Nursery, app: AdminApp, limiter: ConnectionLimiter
) -> None:
    refused = False
    while True:
        try:
            accepted = await listener.accept()
        except OSError as error:  # no descriptor or memory available
            if not refused:
                log.warning("admin_connection_refused", error=str(error))
            refused = True
            await trio.sleep(_ACCEPT_AGAIN_SECONDS)
        else:
            refused = False
            nursery.start_soon(_serve_connection, app, limiter, accepted)


async def _serve_connection(app: AdminApp, limiter: ConnectionLimiter, stream: trio.SocketStream) -> None:
    slot = None
    try:
        with trio.CancelScope() as scope, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            slot = limiter.acquire(client_of(str(stream.socket.getpeername()[0])), scope.cancel)
            if slot is not None:
                await _serve_client(app, slot, stream)
    except OSError:
        pass  # closed before it had a slot
    except Exception:  # neither a client nor a bug here may end the daemon
        log.exception("admin_connection_failed")
    finally:
        if slot is not None:
            limiter.release(slot)
        stream.socket.close()


async def _serve_client(app: AdminApp, slot: ConnectionSlot, stream: trio.SocketStream) -> None:
    connection = ServerConnection(_BoundedStream(stream), max_header_bytes=_MAX_HEADER_BYTES)
    seconds = REQUEST_SECONDS
    try:
        while True:
            slot.idle = True
            request = None
            with trio.move_on_after(seconds):
                request = await connection.next_request()
            if request is None:
                return
            slot.idle = False
            response = (_reserved(request) if slot.reserved else None) or _respond(app, request, slot.client)
            await _send(connection, app, slot, request, response)
            if slot.reserved or not connection.reusable:
                return
            seconds = _IDLE_SECONDS
    except NotHttpError as error:
        await connection.refuse(error.status)
        slot.idle = True
        await connection.discard(_DISCARD_BYTES, _DISCARD_SECONDS)


def _respond(app: AdminApp, request: HTTPRequest, client: str) -> Response:
    """Return the response to a request; after a bug in it a 500, since a closed connection has no reason."""
    try:
        return app.respond(request, client)
    except Exception:  # nothing is awaited here
        log.exception("admin_request_failed", path=request.path)
        return Response(b"internal error: see the daemon's log\n", status=500)


def _reserved(request: HTTPRequest) -> Response | None:
    if request.path in HEALTH:
        return None
    return Response(b"too many connections\n", status=503, more_headers=(("retry-after", "10"),))


async def _send(
    connection: ServerConnection, app: AdminApp, slot: ConnectionSlot, request: HTTPRequest, response: Response
) -> None:
    headers = response.headers()
    unread = connection.has_unread_body
    if unread or slot.reserved or response.lasts:
        headers.append(("connection", "close"))
    if response.lasts and request.method == "GET":
        with app.listening(slot.client):
            await connection.begin(response.status, headers)
            await _send_events(connection, app.events(asked_stream(request.query)))
        return
    await connection.begin(response.status, headers)
    if request.method != "HEAD":
        await connection.data(response.body)
    await connection.end()
    if unread:
        slot.idle = True  # the client has its response
        await connection.discard(_DISCARD_BYTES, _DISCARD_SECONDS)


async def _send_events(connection: ServerConnection, events: AsyncGenerator[bytes, None]) -> None:
    """Send events until the client has disconnected; either task that detects it ends the other."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_gone, connection, nursery.cancel_scope)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with aclosing(events):
                async for text in events:
                    await connection.data(text)
        nursery.cancel_scope.cancel()


async def _until_gone(connection: ServerConnection, scope: trio.CancelScope) -> None:
    """Wait until the client has closed its side; discard its data."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await connection.discard(_DISCARD_BYTES, math.inf)
    scope.cancel()


class _BoundedStream(trio.abc.Stream):
    """Stream whose sends have a time limit."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send within ``SEND_SECONDS``.

        Raises:
            trio.BrokenResourceError: the client has disconnected or did not read for ``SEND_SECONDS``.
        """
        with trio.move_on_after(SEND_SECONDS) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError(f"the client read nothing for {SEND_SECONDS} s")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()
