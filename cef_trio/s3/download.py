"""HeadObject and GetObject."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

import httpx
import trio

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import Retrier, stall
from cef_trio.s3.checksums import CHECKSUMS, crc64nvme_from_base64
from cef_trio.s3.errors import UNREADABLE_ANSWER
from cef_trio.s3.etags import is_opaque
from cef_trio.s3.model import ChecksumAlgorithm, StoredObject
from cef_trio.s3.response_origin import NOT_S3_ANSWER
from cef_trio.s3.signing import EMPTY_SHA256
from cef_trio.s3.transport import ResponseMode, S3Request, Transport, lower_names
from cef_trio.s3.xml import unquoted

METADATA: Final = "x-amz-meta-"
_NOT_FOUND: Final = 404
_NO_SUCH_RANGE: Final = 416
"""The response to a range of an empty object."""
_PROGRESS_BYTES: Final = 64 * 1024
"""The bytes that must arrive within each read time-out: a single byte does not restart it."""
_MAX_DIGITS: Final = 20
_WITH_CHECKSUM: Final = {"x-amz-checksum-mode": "ENABLED"}


class Downloader:
    """Reads objects of one bucket."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def head(self, key: str) -> StoredObject | None:
        """Return an object's size, ETag, checksum and metadata; ``None`` if it does not exist.

        Raises:
            S3OperationError: S3 refused, or did not respond.
        """
        request = S3Request(
            "head_object",
            "HEAD",
            EMPTY_SHA256,
            key=key,
            headers=_WITH_CHECKSUM,
            response_mode=ResponseMode.HEADERS,
            of_object=True,
        )
        try:
            response = await self._transport.perform(request)
        except S3OperationError as error:
            if error.status == _NOT_FOUND and error.code != NOT_S3_ANSWER:
                return None
            raise
        stored = _stored(key, response.headers)
        return stored if "content-length" in response.headers else replace(stored, size_bytes=await self._size_of(key))

    async def _size_of(self, key: str) -> int:
        """Ask for an object's size by its first byte: proxies remove Content-Length, as those that compress.

        Raises:
            S3OperationError: S3 refused, did not respond, or does not tell the size.
        """
        request = S3Request(
            "get_object",
            "GET",
            EMPTY_SHA256,
            key=key,
            headers={"range": "bytes=0-0"},
            response_mode=ResponseMode.HEADERS,
            of_object=True,
        )
        try:
            headers = (await self._transport.perform(request)).headers
        except S3OperationError as error:
            if error.status == _NO_SUCH_RANGE and error.code != NOT_S3_ANSWER:
                return 0
            raise
        told = headers.get("content-range", "").rpartition("/")[2] or headers.get("content-length", "")
        size_bytes = _size(told)
        if size_bytes is None:
            text = "neither HeadObject nor GetObject tells the object's size"
            raise self._transport.error(request, UNREADABLE_ANSWER, f"{UNREADABLE_ANSWER}: {text}")
        return size_bytes

    @asynccontextmanager
    async def open(self, key: str, retrier: Retrier) -> AsyncIterator[tuple[StoredObject, AsyncIterator[bytes]]]:
        """Open an object for reading; only the opening is retried.

        Raises:
            S3OperationError: ``NoSuchKey``, S3 refused, or did not respond; while iterating: the transfer stopped.
        """
        request = S3Request("get_object", "GET", EMPTY_SHA256, key=key, headers=_WITH_CHECKSUM, of_object=True)
        response = await retrier.call("get_object", lambda: self._transport.open_checked(request))
        chunks = _Chunks(self._transport, request, response)
        try:
            yield _stored(key, lower_names(response.headers)), chunks
        finally:
            try:
                await chunks.unwind()
            finally:
                await response.aclose()


class _Chunks:
    """A response's content with errors mapped to ``S3OperationError``. Not a generator, so it need not be closed."""

    def __init__(self, transport: Transport, request: S3Request, response: httpx.Response) -> None:
        self._transport = transport
        self._request = request
        self._raw = response.aiter_raw()
        self._left_seconds = transport.read_timeout_seconds
        self._read_bytes = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        began = trio.current_time()
        chunk = None
        with self._transport.map_errors(self._request), trio.move_on_after(self._left_seconds):
            chunk = await anext(self._raw)
        if chunk is None:
            seconds = self._transport.read_timeout_seconds
            raise self._transport.error(
                self._request,
                "ReadTimeout",
                f"ReadTimeout: fewer than {_PROGRESS_BYTES} bytes within {seconds:g} seconds",
            )
        stall.moved()  # an object that is read back to be compared may take long
        self._left_seconds -= trio.current_time() - began
        self._read_bytes += len(chunk)
        if self._read_bytes >= _PROGRESS_BYTES:
            self._left_seconds, self._read_bytes = self._transport.read_timeout_seconds, 0
        return chunk

    async def unwind(self) -> None:
        """Finalise httpx's nested generators.

        Closing the outer one would leave the inner ones to the garbage collector. A cancelled read raises in the
        innermost, which unwinds all of them. Other errors are irrelevant here and ignored.
        """
        with trio.CancelScope() as scope, suppress(httpx.HTTPError, httpx.StreamError):
            scope.cancel()
            async for _ in self._raw:
                pass


def _stored(key: str, headers: Mapping[str, str]) -> StoredObject:
    composite = headers.get("x-amz-checksum-type") == "COMPOSITE"
    crc = headers.get(CHECKSUMS[ChecksumAlgorithm.CRC64NVME].header)
    return StoredObject(
        key=key,
        size_bytes=_size(headers.get("content-length", "")) or 0,
        etag=unquoted(headers.get("etag")) or "",
        crc64nvme=None if composite else crc64nvme_from_base64(crc),
        metadata={name.removeprefix(METADATA): value for name, value in headers.items() if name.startswith(METADATA)},
        opaque_etag=is_opaque(headers),
    )


def _size(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS else None
