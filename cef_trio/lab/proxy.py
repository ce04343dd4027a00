"""What stands between the daemon and S3: who answers in its place, a request that arrives late, a stale answer.

Each of these is no fault of S3's own (those are ``s3_endpoint/faults.py``): S3 never hears of the request, or hears of
it when its sender is gone, or had answered so a while ago.
"""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import httpx
import trio

Named = Callable[[httpx.Request], str]
"""A request in S3's words (``UploadPart 2``)."""


_ID: Final = {"x-amz-request-id": "0"}
_NO_UPLOADS: Final = (
    b"<ListMultipartUploadsResult><Bucket>recordings</Bucket><IsTruncated>false</IsTruncated>"
    b"</ListMultipartUploadsResult>"
)
_REMEMBERED: Final[Mapping[str, tuple[int, httpx.Headers, bytes]]] = {
    "HeadObject": (404, httpx.Headers({**_ID, "content-length": "0"}), b""),
    "ListMultipartUploads": (200, httpx.Headers({**_ID, "content-type": "application/xml"}), _NO_UPLOADS),
}
"""The calls that may be answered as things stood, and what they answer where nothing is. (Parts that are listed late
are S3's own fault: ``Kind.STALE_PARTS``. The daemon lists no objects.)"""


class Interference(Enum):
    """What happens to a request."""

    PAGE = "page"
    """It is answered by a page of HTML with ``status``; S3 does not hear of it."""
    ANSWER = "answer"
    """It is answered with ``status``, ``headers`` and ``body``, as the store itself answers; S3 does not hear of it."""
    LATE = "late"
    """Its sender hears nothing; S3 takes it ``seconds`` later."""
    STALE = "stale"
    """It is answered as the last request of that kind and address was; if there was none, as if nothing were there."""


@dataclass(eq=False, slots=True)
class Rule:
    """What is done to some requests. ``times``: how many of them; ``None``: all."""

    interference: Interference
    operation: str
    """The first word of the request in S3's words, or ``*``."""
    times: int | None = None
    status: int = 404
    title: str = "404 Not Found"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    seconds: float = 0.0
    hits: int = 0

    def takes(self, name: str) -> bool:
        """Whether it is this request's turn."""
        if self.operation not in {"*", name.partition(" ")[0]} or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


@dataclass(slots=True)
class Proxy:
    """The rules of a world's network, which all of its daemons' requests pass."""

    rules: list[Rule] = field(default_factory=list)
    background: trio.Nursery | None = None
    """Where late requests wait for their time."""
    answers: dict[tuple[str, str], tuple[int, httpx.Headers, bytes]] = field(default_factory=dict)
    """(what was asked, where) → the last answer, of ``_REMEMBERED``."""

    def add(self, rule: Rule) -> Rule:
        """Put a rule in force."""
        self.rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """Take it back."""
        if rule in self.rules:
            self.rules.remove(rule)


class ProxyTransport(httpx.AsyncBaseTransport):
    """The way to S3, past a proxy."""

    def __init__(self, transport: httpx.AsyncBaseTransport, proxy: Proxy, named: Named) -> None:
        self._transport = transport
        self._proxy = proxy
        self._named = named

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on, or do what a rule says."""
        name = self._named(request)
        rule = next((rule for rule in list(self._proxy.rules) if rule.takes(name)), None)
        if rule is None:
            response = await self._transport.handle_async_request(request)
            return response if name not in _REMEMBERED else await self._remembered(request, response, name)
        body = await request.aread()
        match rule.interference:
            case Interference.PAGE:
                await trio.lowlevel.checkpoint()
                return _page(request, rule.status, rule.title)
            case Interference.ANSWER:
                await trio.lowlevel.checkpoint()
                return _answer(request, rule)
            case Interference.LATE:
                if self._proxy.background is not None:
                    self._proxy.background.start_soon(self._later, request, body, rule.seconds)
                await trio.sleep(min(rule.seconds, 0.5))
                raise httpx.ReadError("the connection was reset", request=request)
            case Interference.STALE:
                return await self._stale(request, name)

    async def _later(self, request: httpx.Request, body: bytes, seconds: float) -> None:
        await trio.sleep(seconds)
        again = httpx.Request(request.method, request.url, headers=request.headers, content=body)
        try:
            response = await self._transport.handle_async_request(again)
        except httpx.HTTPError:
            return
        await response.aclose()

    async def _remembered(self, request: httpx.Request, response: httpx.Response, name: str) -> httpx.Response:
        try:
            body = await response.aread()
        finally:
            await response.aclose()
        self._proxy.answers[name, str(request.url)] = response.status_code, response.headers, body
        return httpx.Response(response.status_code, headers=response.headers, stream=_Body(body), request=request)

    async def _stale(self, request: httpx.Request, name: str) -> httpx.Response:
        status, headers, body = self._proxy.answers.get((name, str(request.url)), _REMEMBERED[name])
        await trio.lowlevel.checkpoint()
        return httpx.Response(status, headers=headers, stream=_Body(body), request=request)


def _page(request: httpx.Request, status: int, title: str) -> httpx.Response:
    body = f"<html><head><title>{html.escape(title)}</title></head><body><hr>nginx</body></html>"
    return httpx.Response(
        status,
        headers={"content-type": "text/html", "server": "nginx"},
        stream=_Body(body.encode()),
        request=request,
    )


def _answer(request: httpx.Request, rule: Rule) -> httpx.Response:
    headers = {"content-type": "application/xml", "x-amz-request-id": "0", **rule.headers}
    return httpx.Response(rule.status, headers=headers, stream=_Body(rule.body.encode()), request=request)


class _Body(httpx.AsyncByteStream):
    """An answer's body, that comes over a connection as any other."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await trio.lowlevel.checkpoint()
        yield self._body

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
