"""The endpoint behind a socket: HTTP/1.1 by h11 on trio's streams.

h11 directly and not hypercorn, whose ASGI has no way to reset a connection or to stop in the middle of a body with
everything before it delivered: exactly what the faults need. It is also one layer less for every block.

One task per connection. Bodies are streamed both ways in blocks of at most 256 KiB. A client that asks ``Expect:
100-continue`` is told to go on when its body is wanted, and not before. If a call is refused before its body was read,
the rest is read and thrown away for a while, because a client that is still sending would otherwise see a broken
connection instead of the reply. Cancelling ``serve`` drops every connection at once; nothing half-done stays.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
from collections.abc import AsyncGenerator
from functools import partial
from typing import Final

import h11
import trio

from cef_trio.local.s3.endpoint import S3Endpoint
from cef_trio.local.s3.faults import ConnectionDropped
from cef_trio.local.s3.request import BLOCK_BYTES, Headers, Reply, Request

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
    """Serve until cancelled. ``url = await nursery.start(serve, endpoint)`` gives the URL once it is listening.

    Args:
        endpoint: who answers.
        host: address to listen on.
        port: 0 for any free one.
        ssl_context: for https.
        task_status: told the URL.

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


class _Connection:
    """One client's connection: h11's state machine and the stream it belongs to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEADER_BYTES)

    async def next_request(self) -> Request | None:
        """The next request; ``None`` when the client has gone.

        Raises:
            h11.RemoteProtocolError: it is not HTTP.
            trio.BrokenResourceError: the connection broke.
        """
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        path, _, query = event.target.decode("ascii").partition("?")
        headers = [(name.decode("ascii"), value.decode("utf-8", "replace")) for name, value in event.headers]
        return Request(event.method.decode("ascii"), path, query, Headers(headers), self._body())

    async def send(self, reply: Reply) -> bool:
        """Send a reply; whether the connection can be used again.

        Raises:
            trio.BrokenResourceError: the client has gone.
        """
        unread = not self._is_read()
        headers = [(name.encode("ascii"), value.encode("utf-8")) for name, value in reply.headers]
        if reply.status not in (204, 304):
            headers.append((b"Content-Length", str(reply.content_length).encode()))
        if unread:
            headers.append((b"Connection", b"close"))
        # botocore takes a status line without a reason for no reply at all while it waits for 100 Continue.
        head = h11.Response(status_code=reply.status, headers=headers, reason=_reason(reply.status))
        await self._send_events(head)
        for block in reply.blocks():
            await self._send_events(h11.Data(data=block))
        if reply.truncate_to is not None:
            return False
        await self._send_events(h11.EndOfMessage())
        if unread:
            await self._discard()
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def refuse(self, status: int) -> None:
        """Answer what is not HTTP, where that is still possible."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [(b"Connection", b"close"), (b"Content-Length", b"0")]
            with contextlib.suppress(trio.BrokenResourceError):
                await self._send_events(
                    h11.Response(status_code=status, headers=headers, reason=_reason(status)), h11.EndOfMessage()
                )

    def _is_read(self) -> bool:
        # An empty body, which nobody reads, is over at once; h11 says so when asked.
        if self._http.their_state is h11.SEND_BODY and not self._http.they_are_waiting_for_100_continue:
            return isinstance(self._http.next_event(), h11.EndOfMessage)
        return self._http.their_state is not h11.SEND_BODY

    async def _body(self) -> AsyncGenerator[bytes, None]:
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            await self._send_events(go_on)
        while self._http.their_state is h11.SEND_BODY:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif not isinstance(event, h11.EndOfMessage):
                raise trio.BrokenResourceError("the client left in the middle of a body")

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(bytes(await self._stream.receive_some(BLOCK_BYTES)))
            elif event is h11.PAUSED or isinstance(event, h11.Event):
                return event

    async def _send_events(self, *events: h11.Event) -> None:
        await self._stream.send_all(b"".join(self._http.send(event) or b"" for event in events))

    async def _discard(self) -> None:
        seen = 0
        with trio.move_on_after(_DISCARD_SECONDS):
            while seen < _DISCARD_BYTES and (block := await self._stream.receive_some(BLOCK_BYTES)):
                seen += len(block)


async def _serve_connection(endpoint: S3Endpoint, ssl_context: ssl.SSLContext | None, tcp: trio.SocketStream) -> None:
    stream = tcp if ssl_context is None else trio.SSLStream(tcp, ssl_context, server_side=True, https_compatible=True)
    connection = _Connection(stream)
    try:
        while await _serve_request(endpoint, connection):
            pass
    except ConnectionDropped:
        tcp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        await connection.refuse(400)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        # The client has gone; whatever it had not finished sending was never stored.
        pass
    finally:
        tcp.socket.close()


async def _serve_request(endpoint: S3Endpoint, connection: _Connection) -> bool:
    request = await connection.next_request()
    if request is None:
        return False
    with await endpoint.respond(request) as reply:
        # Dropped after the reply means without a word: the client will believe that it can be used again.
        return await connection.send(reply) and not reply.drop


def _reason(status: int) -> bytes:
    return http.client.responses.get(status, "Unknown").encode("ascii")
