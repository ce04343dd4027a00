"""Serve the endpoint on a socket (``http/server_connection.py``).

Not by ASGI, which can neither reset a connection nor stop within a body.

One task per connection. Bodies are streamed both ways in blocks of at most 256 KiB. ``100 Continue`` is sent when the
body is read. If a call is refused before its body was read, the rest is read and dropped for a while; otherwise a
client that is still sending would see a broken connection instead of the reply. Cancelling ``serve`` drops all
connections at once.
"""

from __future__ import annotations

import socket
import ssl
import struct
from functools import partial
from typing import Final

import trio

from cef_trio.http import NotHttpError, ServerConnection
from cef_trio.s3_endpoint.endpoint import S3Endpoint
from cef_trio.s3_endpoint.faults import ConnectionDropped
from cef_trio.s3_endpoint.request import EndpointRequest, Headers, Reply

_DISCARD_BYTES: Final = 64 * 1024 * 1024
_DISCARD_SECONDS: Final = 10.0
_MAX_HEADER_BYTES: Final = 64 * 1024
_ABORT: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: closing sends RST


async def serve(
    endpoint: S3Endpoint,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    ssl_context: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. ``url = await nursery.start(serve, endpoint)`` returns the URL once it is listening.

    Args:
        endpoint: the endpoint to serve.
        host: address to listen on.
        port: 0 for any free one.
        ssl_context: for https.
        task_status: gets the URL.

    Raises:
        OSError: the address cannot be listened on.
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    try:
        bound = listeners[0].socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(trio.serve_listeners, partial(_serve_connection, endpoint, ssl_context), listeners)
            )
            task_status.started(f"{'http' if ssl_context is None else 'https'}://{shown}:{bound}")
    finally:
        for listener in listeners:
            listener.socket.close()


async def _send(connection: ServerConnection, reply: Reply) -> bool:
    """Send a reply; return whether the connection can be used again.

    Raises:
        trio.BrokenResourceError: the client closed the connection.
    """
    unread = connection.has_unread_body
    headers = list(reply.headers)
    if reply.status not in (204, 304):
        headers.append(("Content-Length", str(reply.content_length)))
    if unread:
        headers.append(("Connection", "close"))
    await connection.begin(reply.status, headers)
    for block in reply.blocks():
        await connection.data(block)
    if reply.truncate_to is not None:
        return False
    await connection.end()
    if unread:
        await connection.discard(_DISCARD_BYTES, _DISCARD_SECONDS)
    return connection.reusable


async def _serve_connection(endpoint: S3Endpoint, ssl_context: ssl.SSLContext | None, tcp: trio.SocketStream) -> None:
    stream = tcp if ssl_context is None else trio.SSLStream(tcp, ssl_context, server_side=True, https_compatible=True)
    connection = ServerConnection(stream, max_header_bytes=_MAX_HEADER_BYTES)
    try:
        while await _serve_request(endpoint, connection):
            pass
    except ConnectionDropped:
        tcp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    except NotHttpError:
        await connection.refuse(400)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        # The client closed the connection; an incomplete body was not stored.
        pass
    finally:
        tcp.socket.close()


async def _serve_request(endpoint: S3Endpoint, connection: ServerConnection) -> bool:
    asked = await connection.next_request()
    if asked is None:
        return False
    request = EndpointRequest(asked.method, asked.path, asked.query, Headers(asked.headers), connection.body())
    with await endpoint.respond(request) as reply:
        # Dropped after the reply without ``Connection: close``: the client takes it for reusable.
        return await _send(connection, reply) and not reply.drop
