"""Who is told of completed recordings, in the same process: a webhook's receiver that can be made to fail.

It also bears witness, as ``crash_simulation.py`` does for S3: whom it has answered well, by the headers that arrived.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import httpx
import trio

from cef_trio.lab.crash_simulation import Death, Life
from cef_trio.lab.journal import Journal, Lane

URL = "http://receiver.world.test/recordings"


@dataclass(frozen=True, slots=True)
class Received:
    """One request that came in, and how it was answered."""

    headers: httpx.Headers
    body: bytes
    status: int

    @property
    def stream_id(self) -> str:
        """Whose it was."""
        return str(self.headers["x-cef-trio-stream-id"])


class Receiver:
    """Outlives daemons. ``answers`` are the statuses of its next answers, 0 for none at all; then 204."""

    def __init__(self) -> None:
        self.answers: deque[int] = deque()
        self.retry_after: str | None = None
        """The header of answers that are not good."""
        self.received: list[Received] = []
        self.acknowledged: set[str] = set()
        """Streams of which the daemon that lives has heard that their webhook was taken."""

    async def take(self, request: httpx.Request) -> httpx.Response:
        """Answer a request.

        Raises:
            httpx.ReadError: it does not answer.
        """
        body = await request.aread()
        await trio.lowlevel.checkpoint()
        status = self.answers.popleft() if self.answers else 204
        self.received.append(Received(request.headers, body, status))
        if status == 0:
            raise httpx.ReadError("the receiver is silent", request=request)
        good = httpx.codes.is_success(status)
        headers = {} if good or self.retry_after is None else {"retry-after": self.retry_after}
        return httpx.Response(status, headers=headers, stream=_Unread())


class MortalReceiver(httpx.AsyncBaseTransport):
    """The way to a receiver as one process sees it, until that process is dead."""

    def __init__(self, receiver: Receiver, life: Life, journal: Journal) -> None:
        self._receiver = receiver
        self._life = life
        self._journal = journal

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on."""
        life = self._life
        number = life.begins("webhook")
        if life.reaches(number, Death.BEFORE):
            raise httpx.ConnectError("the process is dead", request=request)
        with self._journal.call(Lane.WEBHOOK, "webhook") as entry:
            response = await self._receiver.take(request)
            entry.outcome = str(response.status_code)
        if life.reaches(number, Death.UNANSWERED):
            raise httpx.ReadError("the process is dead", request=request)
        if response.is_success:
            self._receiver.acknowledged.add(request.headers["x-cef-trio-stream-id"])
        life.reaches(number, Death.ANSWERED)
        return response


class _Unread(httpx.AsyncByteStream):
    """A body that nobody should read. Giving its connection back is a checkpoint, as it is in httpcore."""

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        raise AssertionError("the answer's body was read")
        yield b""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
