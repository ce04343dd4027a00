"""An in-process webhook receiver that can be made to fail.

It records acknowledged webhooks independently of the daemon, as ``crash_simulation.py`` does for S3.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import httpx
import trio

from cef_trio.lab.crash_simulation import CrashMoment, Life
from cef_trio.lab.journal import Journal, Lane

URL = "http://receiver.world.test/recordings"


@dataclass(frozen=True, slots=True)
class Received:
    """A received request and the status of its response."""

    headers: httpx.Headers
    body: bytes
    status: int

    @property
    def stream_id(self) -> str:
        """The stream id of the request."""
        return str(self.headers["x-cef-trio-stream-id"])


class Receiver:
    """The receiver. ``statuses``: of the next responses, 0 for no response; after these, 204."""

    def __init__(self) -> None:
        self.statuses: deque[int] = deque()
        self.retry_after: str | None = None
        """The Retry-After header of responses that are not 2xx."""
        self.received: list[Received] = []
        self.acknowledged: set[str] = set()
        """Streams whose acknowledgement reached the current daemon."""

    async def respond(self, request: httpx.Request) -> httpx.Response:
        """Return the response to a request.

        Raises:
            httpx.ReadError: the next status is 0.
        """
        body = await request.aread()
        await trio.lowlevel.checkpoint()
        status = self.statuses.popleft() if self.statuses else 204
        self.received.append(Received(request.headers, body, status))
        if status == 0:
            raise httpx.ReadError("no response", request=request)
        succeeded = httpx.codes.is_success(status)
        headers = {} if succeeded or self.retry_after is None else {"retry-after": self.retry_after}
        return httpx.Response(status, headers=headers, stream=_UnreadBody())


class CrashableReceiver(httpx.AsyncBaseTransport):
    """The transport from one process to a receiver; calls fail once the process has crashed."""

    def __init__(self, receiver: Receiver, life: Life, journal: Journal) -> None:
        self._receiver = receiver
        self._life = life
        self._journal = journal

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on."""
        life = self._life
        number = life.begin_call("webhook")
        if life.reaches(number, CrashMoment.BEFORE):
            raise httpx.ConnectError("the process has crashed", request=request)
        with self._journal.call(Lane.WEBHOOK, "webhook") as entry:
            response = await self._receiver.respond(request)
            entry.outcome = str(response.status_code)
        if life.reaches(number, CrashMoment.UNANSWERED):
            raise httpx.ReadError("the process has crashed", request=request)
        if response.is_success:
            self._receiver.acknowledged.add(request.headers["x-cef-trio-stream-id"])
        life.reaches(number, CrashMoment.ANSWERED)
        return response


class _UnreadBody(httpx.AsyncByteStream):
    """A body that must not be read. Closing it is a checkpoint, as in httpcore."""

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        raise AssertionError("the response body was read")
        yield b""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
