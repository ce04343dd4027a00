"""Checks of responses: endless headers and listings, too many elements, bytes after a response.

The real httpx, httpcore and h11 read scripted bytes instead of a socket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

import httpcore
import httpx
import trio

from cef_trio.exceptions import S3OperationError
from cef_trio.lab.checks.model import Check
from cef_trio.lab.proxy import UnreadBody
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.signing import Credentials

_PATIENCE_SECONDS: Final = 600.0
"""Ten times the time-out of a read."""
_OWN: Final = b"HTTP/1.1 %s\r\nx-amz-request-id: 1\r\ncontent-length: 0\r\n\r\n"


@asynccontextmanager
async def _client(transport: httpx.AsyncBaseTransport) -> AsyncIterator[S3Client]:
    config = S3Config(
        bucket="recordings",
        credentials=StaticCredentials(Credentials("key", "secret")),
        endpoint_url="http://s3.check.test",
    )
    async with S3Client(config, transport=transport, now=lambda: datetime(2026, 1, 1, tzinfo=UTC)) as client:
        yield client


class _Backend(httpcore.AsyncNetworkBackend):
    """Connections whose bytes come from a function of the number of the read, from 1."""

    def __init__(self, read: Callable[[int], Awaitable[bytes]]) -> None:
        self._read = read

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        return _Stream(self._read)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, read: Callable[[int], Awaitable[bytes]]) -> None:
        self._read = read
        self._reads = count(1)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del max_bytes, timeout
        await trio.lowlevel.checkpoint()
        return await self._read(next(self._reads))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        del buffer, timeout
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def get_extra_info(self, info: str) -> Any:
        return False if info == "is_readable" else None


def _over(read: Callable[[int], Awaitable[bytes]]) -> httpx.AsyncBaseTransport:
    transport = httpx.AsyncHTTPTransport(verify=False)
    transport._pool = httpcore.AsyncConnectionPool(network_backend=_Backend(read))  # noqa: SLF001 - httpx has no public parameter
    return transport


async def _endless_headers() -> list[str]:
    """A header grows by a byte per second, so no read times out."""

    async def drip(number: int) -> bytes:
        await trio.sleep(1)
        return b"HTTP/1.1 200 OK\r\nx: " if number == 1 else b"y"

    with trio.move_on_after(_PATIENCE_SECONDS) as scope:
        async with _client(_over(drip)) as client:
            try:
                await client.head_bucket()
            except S3OperationError:
                return []
    return [f"P7: a call with endless headers took {_PATIENCE_SECONDS:g} seconds"] * scope.cancelled_caught


async def _bytes_after_response() -> list[str]:
    """The first response of a connection is followed by a second one without a request."""

    async def one_and_a_half(number: int) -> bytes:
        await trio.lowlevel.checkpoint()
        own = _OWN % b"200 OK"
        return own + _OWN % b"404 Not Found" if number == 1 else own

    async with _client(_over(one_and_a_half)) as client:
        try:
            for _ in range(2):
                await client.head_bucket()
        except S3OperationError as error:
            return [f"P2: bytes after a response were taken for the response to the next call: {error.code}"]
    return []


async def _endless_listing() -> list[str]:
    """A listing of uploads returns two markers in turn, endlessly."""
    pages = count()

    async def page(_request: httpx.Request) -> httpx.Response:
        await trio.sleep(1)
        marker = "ab"[next(pages) % 2]
        return _document(
            f"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>{marker}</NextKeyMarker>"
            "</ListMultipartUploadsResult>"
        )

    with trio.move_on_after(_PATIENCE_SECONDS):
        async with _client(httpx.MockTransport(page)) as client:
            try:
                await client.list_multipart_uploads()
            except S3OperationError:
                return []
    return [f"P7: an endless listing was followed for {next(pages)} pages"]


async def _too_many_xml_elements() -> list[str]:
    """A listing of parts has 100,000 unknown elements."""

    async def page(_request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        return _document(f"<ListPartsResult>{'<a/>' * 100_000}</ListPartsResult>")

    async with _client(httpx.MockTransport(page)) as client:
        try:
            await client.list_parts("key", "upload")
        except S3OperationError:
            return []
    return ["P7: a document of 100,000 elements was parsed in the event loop"]


def _document(text: str) -> httpx.Response:
    headers = {"content-type": "application/xml", "x-amz-request-id": "1"}
    return httpx.Response(200, headers=headers, stream=UnreadBody(text.encode()))


CHECKS: Final = (
    Check("endless-headers", "a response has endless headers", _endless_headers),
    Check("bytes-after-response", "a second response follows the first", _bytes_after_response),
    Check("endless-listing", "the markers of a listing repeat", _endless_listing),
    Check("too-many-xml-elements", "a document has 100,000 elements", _too_many_xml_elements),
)
