"""The endpoint inside an httpx client: no socket, no thread, only trio's checkpoints.

For deterministic tests: under ``trio.testing.MockClock`` only faults and the caller's own waits take time. A dropped
connection is ``httpx.ReadError``, a reply cut short ``httpx.RemoteProtocolError``, a reply that
does not come within the request's read timeout ``httpx.ReadTimeout`` (the time starts anew with every block of the
request's body that is read, as it does on a socket) - the same exceptions that httpx raises over a socket.

Cancelling the request, or its timeout, cancels the endpoint's work at its next checkpoint, as if the client's
connection broke at that moment. The call has then taken effect completely or not at all.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import trio

from cef_trio.s3_endpoint.endpoint import S3Endpoint
from cef_trio.s3_endpoint.faults import ConnectionDropped
from cef_trio.s3_endpoint.request import EndpointRequest, Headers, Reply


class InProcessTransport(httpx.AsyncBaseTransport):
    """Serves a client's requests by an endpoint: ``httpx.AsyncClient(transport=InProcessTransport(endpoint))``."""

    def __init__(self, endpoint: S3Endpoint) -> None:
        self._endpoint = endpoint

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve a request.

        Raises:
            httpx.ReadError: the connection was dropped.
            httpx.ReadTimeout: no reply came in time.
        """
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise TypeError("this transport is for AsyncClient")
        seconds = request.extensions.get("timeout", {}).get("read")
        limit = math.inf if seconds is None else float(seconds)
        reply: Reply | None = None
        with trio.move_on_after(limit) as waiting:
            try:
                reply = await self._endpoint.respond(_request_of(request, request.stream, waiting, limit))
            except ConnectionDropped as error:
                raise httpx.ReadError("the connection was reset", request=request) from error
        if reply is None:
            raise httpx.ReadTimeout(f"no reply within {limit} s", request=request)
        length = [] if reply.status in (204, 304) else [("Content-Length", str(reply.content_length))]
        return httpx.Response(
            reply.status,
            headers=httpx.Headers(
                [(name.encode("ascii"), value.encode("utf-8")) for name, value in reply.headers + length]
            ),
            stream=_ReplyStream(reply, request),
            extensions={"http_version": b"HTTP/1.1"},
        )


class _ReplyStream(httpx.AsyncByteStream):
    def __init__(self, reply: Reply, request: httpx.Request) -> None:
        self._reply = reply
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self._reply.blocks():
            await trio.lowlevel.checkpoint()
            yield block
        if self._reply.truncate_to is not None:
            raise httpx.RemoteProtocolError(
                "peer closed connection without sending complete message body", request=self._request
            )

    async def aclose(self) -> None:
        self._reply.close()


def _request_of(
    request: httpx.Request, stream: httpx.AsyncByteStream, waiting: trio.CancelScope, limit: float
) -> EndpointRequest:
    async def body() -> AsyncGenerator[bytes, None]:
        blocks = stream.__aiter__()
        try:
            async for block in blocks:
                waiting.deadline = trio.current_time() + limit
                await trio.lowlevel.checkpoint()
                yield block
            waiting.deadline = trio.current_time() + limit
        finally:
            # httpx's own streams are generators; those of callers may be other iterators.
            if isinstance(blocks, AsyncGenerator):
                await blocks.aclose()

    path, _, query = request.url.raw_path.decode("ascii").partition("?")
    headers = [(name.decode("ascii"), value.decode("utf-8")) for name, value in request.headers.raw]
    return EndpointRequest(request.method, path, query, Headers(headers), body())
