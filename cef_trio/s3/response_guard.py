"""A deadline for a response's headers, and a check for bytes after the response.

httpx's read time-out restarts with every byte, so a server that sends headers byte by byte, or ``100 Continue`` without
end, never exceeds it. Bytes after a response stay in h11's buffer, where the next request on the connection would read
them as its own response. Both are detected through httpcore's ``trace`` extension, which reports every step.

Neither httpx nor httpcore exposes h11's state, so it is reached through their private attributes;
``tests/s3/test_s3_hostile_responses.py`` fails if one of them is renamed.
"""

from __future__ import annotations

from typing import Final, Protocol, cast

import httpx
import trio

_H11_STATE_PATH: Final = ("stream", "_stream", "_httpcore_stream", "_stream", "_connection", "_h11_state")


class Connection(Protocol):
    """The part of ``h11.Connection`` that is used here."""

    trailing_data: tuple[bytes, bool]
    """The bytes after the response, and whether the connection was closed after them."""

    def send_failed(self) -> None:
        """Mark the connection as broken."""


class ResponseGuard:
    """Guards one request. Enter :attr:`scope` around the send and pass :meth:`trace` as httpcore's extension.

    ``seconds`` is the time allowed from the end of the request to the end of the response's headers.
    """

    def __init__(self, seconds: float) -> None:
        self.scope = trio.CancelScope()
        self.response: httpx.Response | None = None
        """Set by the caller once it has arrived."""
        self._seconds = seconds

    async def trace(self, event: str, _info: object) -> None:
        """Handle a trace event of httpcore; no checkpoint."""
        match event:
            case "http11.receive_response_headers.started":
                self.scope.deadline = trio.current_time() + self._seconds
            case "http11.receive_response_headers.complete":
                self.scope.deadline = float("inf")
            case "http11.response_closed.started":
                self._refuse_leftover()

    def _refuse_leftover(self) -> None:
        """Mark a connection as broken if it received more than the response, so that it is not reused."""
        connection = connection_of(self.response)
        if connection is not None and connection.trailing_data[0]:
            connection.send_failed()  # httpcore then closes it


def connection_of(response: httpx.Response | None) -> Connection | None:
    """Return h11's connection of a response; ``None`` if it did not come from the network."""
    found: object = response
    for name in _H11_STATE_PATH:
        found = getattr(found, name, None)
    return cast("Connection | None", found)
