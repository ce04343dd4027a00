"""A proxy between the daemon and S3 that responds in place of S3, delays requests, or returns stale responses.

Faults of S3 itself are in ``s3_endpoint/faults.py``.
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
"""Returns the S3 operation of a request (``UploadPart 2``)."""


_ID: Final = {"x-amz-request-id": "0"}
_NO_UPLOADS: Final = (
    b"<ListMultipartUploadsResult><Bucket>recordings</Bucket><IsTruncated>false</IsTruncated>"
    b"</ListMultipartUploadsResult>"
)
_REMEMBERED: Final[Mapping[str, tuple[int, httpx.Headers, bytes]]] = {
    "HeadObject": (404, httpx.Headers({**_ID, "content-length": "0"}), b""),
    "ListMultipartUploads": (200, httpx.Headers({**_ID, "content-type": "application/xml"}), _NO_UPLOADS),
}
"""The calls that may get a stale response, and the response if there was no earlier one. (For stale lists of parts use
the fault ``Kind.STALE_PARTS`` of S3.)"""


class Interference(Enum):
    """What the proxy does with a request."""

    PAGE = "page"
    """Return an HTML page with ``status``; S3 does not receive the request."""
    ANSWER = "answer"
    """Return ``status``, ``headers`` and ``body`` in the form of S3; S3 does not receive the request."""
    LATE = "late"
    """Reset the connection, and forward the request ``seconds`` later."""
    STALE = "stale"
    """Return the response to the last request with that operation and URL, or that nothing exists."""


@dataclass(eq=False, slots=True)
class Rule:
    """What is done with which requests; ``times``: the first so many of them; ``None``: all."""

    interference: Interference
    operation: str
    """The S3 operation, without a part number, or ``*``."""
    times: int | None = None
    status: int = 404
    title: str = "404 Not Found"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    seconds: float = 0.0
    hits: int = 0

    def takes(self, name: str) -> bool:
        """Return whether the rule applies to a request, and count it."""
        if self.operation not in {"*", name.partition(" ")[0]} or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


@dataclass(slots=True)
class Proxy:
    """The rules for the requests of all daemons of a world."""

    rules: list[Rule] = field(default_factory=list)
    background: trio.Nursery | None = None
    """The nursery in which late requests wait."""
    responses: dict[tuple[str, str], tuple[int, httpx.Headers, bytes]] = field(default_factory=dict)
    """(operation, URL) → the last response; only of operations in ``_REMEMBERED``."""

    def add(self, rule: Rule) -> Rule:
        """Apply a rule until it is removed."""
        self.rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """Remove a rule."""
        if rule in self.rules:
            self.rules.remove(rule)


class ProxyTransport(httpx.AsyncBaseTransport):
    """The transport to S3 through a proxy."""

    def __init__(self, transport: httpx.AsyncBaseTransport, proxy: Proxy, named: Named) -> None:
        self._transport = transport
        self._proxy = proxy
        self._named = named

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Forward a request, or apply the first rule that takes it."""
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
                return _page_response(request, rule)
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
        self._proxy.responses[name, str(request.url)] = response.status_code, response.headers, body
        return httpx.Response(response.status_code, headers=response.headers, stream=UnreadBody(body), request=request)

    async def _stale(self, request: httpx.Request, name: str) -> httpx.Response:
        status, headers, body = self._proxy.responses.get((name, str(request.url)), _REMEMBERED[name])
        await trio.lowlevel.checkpoint()
        return httpx.Response(status, headers=headers, stream=UnreadBody(body), request=request)


def _page(request: httpx.Request, status: int, title: str) -> httpx.Response:
    body = f"<html><head><title>{html.escape(title)}</title></head><body><hr>nginx</body></html>"
    return httpx.Response(
        status,
        headers={"content-type": "text/html", "server": "nginx"},
        stream=UnreadBody(body.encode()),
        request=request,
    )


def _page_response(request: httpx.Request, rule: Rule) -> httpx.Response:
    headers = {"content-type": "application/xml", "x-amz-request-id": "0", **rule.headers}
    return httpx.Response(rule.status, headers=headers, stream=UnreadBody(rule.body.encode()), request=request)


class UnreadBody(httpx.AsyncByteStream):
    """A response body that is not read yet; httpx reads one that is given as bytes at once."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await trio.lowlevel.checkpoint()
        yield self._body

    async def aclose(self) -> None:
        """Release the connection: a checkpoint, as in httpcore."""
        await trio.lowlevel.checkpoint()
