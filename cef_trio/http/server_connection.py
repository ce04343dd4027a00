"""The server side of HTTP/1.1: h11 on a trio stream. HTTP/2, upgrades and WebSockets are not supported.

A connection serves one request after the other. Malformed input raises :class:`NotHttpError` with the status to respond
with; h11's own exceptions do not leave this module. There are no time-outs here: callers cancel.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import h11
import trio
from h11 import Event as HttpEvent

from cef_trio.exceptions import CefMp4ProcessorError

_BLOCK_BYTES: Final = 256 * 1024
_ABSOLUTE_FORM: Final = re.compile(r"https?://([^/?]+)(.*)", re.IGNORECASE)
"""As clients of a proxy send it; its host counts, whatever the header is.
https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2"""


class NotHttpError(CefMp4ProcessorError):
    """The client sent something that is not HTTP/1.1; ``status`` is the status to respond with."""

    def __init__(self, status: int) -> None:
        super().__init__(f"not an HTTP/1.1 request (status {status})")
        self.status = status


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """The head of a request, as received; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """Return the first header of that name."""
        return next((value for other, value in self.headers if other == name), None)


class ServerConnection:
    """The connection of one client: a stream and h11's state machine."""

    def __init__(self, stream: trio.abc.Stream, *, max_header_bytes: int) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=max_header_bytes)

    async def next_request(self) -> HTTPRequest | None:
        """Return the next request; ``None`` when the client has closed the connection.

        Raises:
            NotHttpError: the input is not HTTP/1.1.
            trio.BrokenResourceError: the connection broke.
        """
        if self.reusable:
            self._http.start_next_cycle()
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        target = event.target.decode("ascii")
        headers = tuple((name.decode("ascii"), value.decode("utf-8", "replace")) for name, value in event.headers)
        if absolute := _ABSOLUTE_FORM.fullmatch(target):
            host, target = absolute.groups()
            target = target if target.startswith("/") else f"/{target}"
            headers = (("host", host), *(header for header in headers if header[0] != "host"))
        path, _, query = target.partition("?")
        return HTTPRequest(event.method.decode("ascii"), path, query, headers)

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Yield the request's body. Sends ``100 Continue`` first if the client waits for it.

        Raises:
            NotHttpError: the body is malformed.
            trio.BrokenResourceError: the client closed the connection before the end of the body.
        """
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
        while self._http.their_state is h11.SEND_BODY:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif not isinstance(event, h11.EndOfMessage):
                raise trio.BrokenResourceError("the client closed the connection within a body")

    @property
    def has_unread_body(self) -> bool:
        """Whether some of the request's body has not been read."""
        # An empty body has ended already, but h11 reports that only through its next event.
        if self._http.their_state is h11.SEND_BODY and not self._http.they_are_waiting_for_100_continue:
            with _map_protocol_errors():
                return not isinstance(self._http.next_event(), h11.EndOfMessage)
        return self._http.their_state is h11.SEND_BODY

    @property
    def reusable(self) -> bool:
        """Whether request and response are complete and another request may follow."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def begin(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Send the head of a response.

        Raises:
            trio.BrokenResourceError: the client has closed the connection.
        """
        # While botocore waits for 100 Continue it ignores a status line without a reason phrase.
        reason = http.client.responses.get(status, "Unknown").encode("ascii")
        encoded = [(name.encode("ascii"), value.encode("utf-8")) for name, value in headers]
        await self._send(h11.Response(status_code=status, headers=encoded, reason=reason))

    async def data(self, block: bytes) -> None:
        """Send some of the response's body."""
        await self._send(h11.Data(data=block))

    async def end(self) -> None:
        """End the response."""
        await self._send(h11.EndOfMessage())

    async def refuse(self, status: int) -> None:
        """Respond to malformed input, unless a response has begun already."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            with suppress(trio.BrokenResourceError):
                await self.begin(status, [("Connection", "close"), ("Content-Length", "0")])
                await self.end()

    async def discard(self, max_bytes: int, seconds: float) -> None:
        """Read and drop input up to these limits; an immediate close would reset the connection."""
        seen = 0
        with trio.move_on_after(seconds):
            while seen < max_bytes and (block := await self._stream.receive_some(_BLOCK_BYTES)):
                seen += len(block)

    async def _next_event(self) -> HttpEvent | type[h11.PAUSED]:
        while True:
            with _map_protocol_errors():
                event = self._http.next_event()
            if event is h11.NEED_DATA:
                received = bytes(await self._stream.receive_some(_BLOCK_BYTES))
                with _map_protocol_errors():
                    self._http.receive_data(received)
            elif event is h11.PAUSED or isinstance(event, HttpEvent):
                return event

    async def _send(self, event: HttpEvent) -> None:
        with _map_protocol_errors():
            text = self._http.send(event) or b""
        await self._stream.send_all(text)


@contextmanager
def _map_protocol_errors() -> Iterator[None]:
    try:
        yield
    except h11.ProtocolError as error:
        raise NotHttpError(error.error_status_hint) from error
