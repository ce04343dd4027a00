"""An answer ends: its headers in a bounded time, and with its last byte.

httpx's time-outs count silence, so a server that sends a header byte by byte, or ``100 Continue`` for ever, is never
silent. And bytes that stand behind an answer stay in h11's buffer, where the next call on the connection takes them for
its own answer. Both are watched through httpcore's ``trace`` extension, which names each step of an exchange.

h11's state is reached through the attributes of httpx and httpcore that lead to it, since neither offers it;
``tests/s3/test_s3_hostile_answers.py`` fails if one of them is renamed.
"""

from __future__ import annotations

from typing import Final, Protocol, cast

import httpx
import trio

_WAY_TO_H11: Final = ("stream", "_stream", "_httpcore_stream", "_stream", "_connection", "_h11_state")


class Connection(Protocol):
    """What is asked of h11's connection."""

    trailing_data: tuple[bytes, bool]
    """What came behind the answer."""

    def send_failed(self) -> None:
        """Take the connection for broken."""


class ResponseGuard:
    """Watches one exchange. :attr:`scope` is entered round the sending; ``trace`` goes into its extensions.

    Args:
        seconds: from the end of the request to the end of the answer's headers.
    """

    def __init__(self, seconds: float) -> None:
        self.scope = trio.CancelScope()
        self.response: httpx.Response | None = None
        """To be set when it is there."""
        self._seconds = seconds

    async def trace(self, event: str, _info: object) -> None:
        """Take part in a step; no checkpoint."""
        match event:
            case "http11.receive_response_headers.started":
                self.scope.deadline = trio.current_time() + self._seconds
            case "http11.receive_response_headers.complete":
                self.scope.deadline = float("inf")
            case "http11.response_closed.started":
                self._refuse_leftover()

    def _refuse_leftover(self) -> None:
        """Keep a connection from being used again on which more came than the answer."""
        connection = connection_of(self.response)
        if connection is not None and connection.trailing_data[0]:
            connection.send_failed()  # httpcore closes what is not done


def connection_of(response: httpx.Response | None) -> Connection | None:
    """The state of the HTTP/1.1 connection of an answer; ``None`` for one that came over no network."""
    found: object = response
    for name in _WAY_TO_H11:
        found = getattr(found, name, None)
    return cast("Connection | None", found)
