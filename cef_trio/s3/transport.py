"""Send one signed request and read its response; the only caller of httpx for S3.

One table maps httpx's exceptions to :class:`S3OperationError`. Redirects are not followed (S3 redirects for a wrong
region), proxies (but ``S3_PROXY_URL``) and ``.netrc`` of the environment are ignored, and the protocol is HTTP/1.1. The
request target is passed to httpcore through the ``target`` extension, since ``httpx.URL`` would resolve ``..`` in the
signed path.

**Cancellation.** After the last byte of a response's headers has been read from the socket, neither httpcore nor httpx
has a checkpoint at which a cancellation could be raised before ``send(stream=True)`` returns. A response whose headers
suffice (``ResponseMode.HEADERS``) is therefore never lost: either ``Cancelled`` is raised before the headers are read,
or :meth:`Transport.perform` returns. The connection is released in a shield with a time limit. With
``ResponseMode.SHIELDED`` a short body is read in that shield too. With ``ResponseMode.OPEN`` a cancellation may lose
the response, so the request must be safe to repeat.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

import httpx
import trio

from cef_trio import __version__
from cef_trio.exceptions import S3OperationError
from cef_trio.http import HttpTransport, http_client, tls
from cef_trio.resilience import shielded, shielded_at_first, stall
from cef_trio.s3.address import bucket_address
from cef_trio.s3.body import CheckedBody, SmallBody
from cef_trio.s3.clock import ServerClock
from cef_trio.s3.config import S3Config
from cef_trio.s3.errors import (
    MAX_ERROR_BYTES,
    UNREADABLE_ANSWER,
    describe,
    error_from_response,
    may_affect_all,
    parse_error_body,
)
from cef_trio.s3.httpx_errors import PROXY_ERROR, map_httpx_errors
from cef_trio.s3.response_guard import ResponseGuard
from cef_trio.s3.response_origin import ResponseOrigin, is_document, is_html
from cef_trio.s3.signing import Credentials, encode_query, sign
from cef_trio.safe_text import one_line

RELEASE_SECONDS: Final = 1.0
"""How long releasing a connection, or reading a response that must not be lost, may delay a cancellation."""
ERROR_BODY_SECONDS: Final = 10.0
MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024
_BODY_TIMEOUTS: Final = 2
"""The longest time for a body, in read time-outs: that of Complete arrives slowly while S3 works."""
_KEEPALIVE_SECONDS: Final = 20.0  # S3 closes idle connections soon after
_EXPIRED_CREDENTIALS: Final = frozenset({"ExpiredToken", "InvalidToken"})
_UNAUTHORIZED: Final = frozenset({401, 403})
_OK: Final = 200
_BAD_REQUEST: Final = 400
"""Also the status of refused keys, as with ``TokenRefreshRequired``."""
_CODING: Final = "content-encoding"
_ZLIB_CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
_ANY_ZLIB: Final = 32 + zlib.MAX_WBITS
"""Recognizes the header of either format."""


class ResponseMode(Enum):
    """How the body of a successful response is read."""

    HEADERS = "headers"
    """Only the headers are needed; the connection is released in a shield."""
    SHIELDED = "shielded"
    """The body is short and must not be lost: a cancellation is delayed while it is read, up to a limit."""
    OPEN = "open"
    """The body is read without a shield; the request is safe to repeat."""


@dataclass(frozen=True, slots=True)
class S3Request:
    """A request to send. ``key`` is ``None`` for the bucket itself; ``payload_hash`` is the hash of ``body``."""

    operation: str
    method: str
    payload_hash: str
    key: str | None = None
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | CheckedBody = b""
    size_bytes: int = 0
    """Of a :class:`CheckedBody`, or of the object that the request completes."""
    part_number: int | None = None
    response_mode: ResponseMode = ResponseMode.OPEN
    read_timeout_seconds: float | None = None
    of_object: bool = False
    """Whether it is about an object's or part's content, so that S3 sends an ETag."""


@dataclass(frozen=True, slots=True)
class Response:
    """A successful response (2xx). Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Sends requests to one bucket: addressing, signing, clock correction, connections, error mapping."""

    def __init__(
        self, config: S3Config, *, transport: httpx.AsyncBaseTransport | None, now: Callable[[], datetime]
    ) -> None:
        self._config = config
        self._address = bucket_address(
            config.bucket, region=config.region, endpoint_url=config.endpoint_url, addressing=config.addressing
        )
        self._clock = ServerClock(now)
        self._transport = transport if transport is not None else network_transport(config)
        self._origin = ResponseOrigin()
        self._signed_with: Credentials | None = None
        """The credentials of the last request."""
        self._via = config.proxy.via if config.proxy is not None else ""
        self._http = http_client(self._transport)

    async def close(self) -> None:
        """Close all connections without waiting for the peers."""
        await self._http.aclose()

    @property
    def read_timeout_seconds(self) -> float:
        """The read time-out in seconds."""
        return self._config.read_timeout_seconds

    def renew_connections(self) -> None:
        """Use new connections, with the host name resolved again, for all requests that start from now on."""
        if isinstance(self._transport, HttpTransport):
            self._transport.renew_connections()

    async def perform(self, request: S3Request) -> Response:
        """Send a request and read its response according to ``request.response_mode``.

        Raises:
            S3OperationError: no response, or one that is not 2xx; a response of 2xx whose headers suffice, if its body
                is an error (a body that the caller reads: :meth:`error_within`).
            RecordingChangedError, ChunkProcessingError: from the body.
        """
        response = await self.open(request)
        # No checkpoint from the arrival of the headers to the shield.
        headers = lower_names(response.headers)
        if request.response_mode is ResponseMode.HEADERS:
            page: list[bytes] = []
            with shielded(RELEASE_SECONDS, saving="part acknowledgement"):
                page = await _release(response, request.body)
            begun = decoded(headers, b"".join(page)) or b""
            if "etag" not in headers and (error := self.error_within(request, headers, begun)) is not None:
                raise error
            self._check_origin(request, response.status_code, headers, begun)
            return Response(response.status_code, headers, b"")
        if request.response_mode is ResponseMode.SHIELDED:
            body = await shielded_at_first(lambda: self._read(response, request), RELEASE_SECONDS, saving="upload id")
        else:
            body = await self._read(response, request)
        self._check_origin(request, response.status_code, headers, body)
        return Response(response.status_code, headers, body)

    async def open(self, request: S3Request) -> httpx.Response:
        """Send a request; return a 2xx response with its body unread, to be closed by the caller.

        No checkpoint between the arrival of the headers of a 2xx response and the return.

        Raises:
            S3OperationError: no response, or one that is not 2xx.
            RecordingChangedError, ChunkProcessingError: from the body.
        """
        credentials = self._signed_with = await self._config.credentials.get()
        offset = self._clock.offset
        path, query = self._address.path(request.key), encode_query(request.query)
        headers = {"host": self._address.host, **request.headers}
        headers |= sign(
            method=request.method,
            path=path,
            query=query,
            headers=headers,
            payload_hash=request.payload_hash,
            credentials=credentials,
            region=self._config.region,
            now=self._clock.now(),
        )
        # Not signed: proxies may change them, and S3 does not require it.
        headers |= {"user-agent": f"cef-trio/{__version__}", "accept": "*/*", "accept-encoding": "identity"}
        if request.method in {"PUT", "POST"}:
            headers["content-length"] = str(
                request.size_bytes if isinstance(request.body, CheckedBody) else len(request.body)
            )
        target = f"{path}?{query}" if query else path
        guard = ResponseGuard(self._read_timeout_seconds(request))
        response = None
        try:
            with self.map_errors(request), guard.scope:
                http_request = httpx.Request(
                    request.method,
                    httpx.URL(f"{self._address.origin}{target}"),
                    headers=headers,
                    stream=request.body if isinstance(request.body, CheckedBody) else SmallBody(request.body),
                    extensions={
                        "timeout": self._timeout(request).as_dict(),
                        "target": target.encode("ascii"),
                        "trace": guard.trace,
                    },
                )
                stall.requested(request.operation)
                response = await self._http.send(http_request, stream=True)
        except BaseException as error:
            if isinstance(request.body, CheckedBody):
                await request.body.aclose()
            if isinstance(error, S3OperationError):  # other connections may lead to the same dead backend
                self.renew_connections()
            raise
        if response is None:
            if isinstance(request.body, CheckedBody):
                await request.body.aclose()
            self.renew_connections()
            seconds = self._read_timeout_seconds(request)
            raise self.error(
                request, "ReadTimeout", f"ReadTimeout: the response headers did not end within {seconds:g} seconds"
            )
        guard.response = response
        if response.is_success:
            return response
        raise await self._read_error(request, response, offset, credentials)

    async def open_checked(self, request: S3Request) -> httpx.Response:
        """Like :meth:`open`, for a response with an object's content; checks that it is from the store.

        Raises:
            S3OperationError: as :meth:`open`; ``NotS3Answer``.
        """
        response = await self.open(request)
        try:
            self._check_origin(request, response.status_code, lower_names(response.headers), b"")
        except S3OperationError:
            await response.aclose()
            raise
        return response

    def error(
        self,
        request: S3Request,
        code: str,
        message: str,
        *,
        transient: bool = True,
        status: int | None = None,
        request_id: str | None = None,
    ) -> S3OperationError:
        """Return an error of this request; bucket, key and part are appended to the message."""
        return S3OperationError(
            request.operation,
            message + describe(self._config.bucket, request.key, request.part_number),
            transient=transient,
            code=code,
            status=status,
            request_id=request_id,
            bucket=self._config.bucket,
            key=request.key,
            part_number=request.part_number,
        )

    def error_within(self, request: S3Request, headers: Mapping[str, str], body: bytes) -> S3OperationError | None:
        """Return the error that S3 reports in the body of a success; ``None`` if it reports none."""
        if parse_error_body(body).code is None:
            return None
        if self._signed_with is not None:
            body = redact(self._signed_with, body)
        return self.error_in(request, _OK, headers, body, part_of_200=True)

    def map_errors(self, request: S3Request, status: int | None = None) -> AbstractContextManager[None]:
        """Return a context that maps httpx's exceptions; also for reading the body of :meth:`open`."""
        return map_httpx_errors(
            lambda code, text, transient: self.error(
                request, code, text + (self._via if code != PROXY_ERROR else ""), transient=transient, status=status
            )
        )

    def _check_origin(self, request: S3Request, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Raise ``NotS3Answer`` for a successful response that is not from the store."""
        expected = request.response_mode is not ResponseMode.HEADERS and not request.of_object
        document = expected and is_document(headers, body)
        self._origin.observe(request.method, headers, is_document=document)
        if self._origin.foreign_success(
            request.method, status, headers, body, of_object=request.of_object, document_expected=expected
        ):
            raise self.error_in(request, status, headers, body, foreign=True)

    async def _read(self, response: httpx.Response, request: S3Request) -> bytes:
        chunks: list[bytes] = []
        size_bytes = 0
        limit = _BODY_TIMEOUTS * self._read_timeout_seconds(request)
        with trio.move_on_after(limit) as scope:
            try:
                with self.map_errors(request, response.status_code):
                    async for chunk in response.aiter_raw():
                        size_bytes += len(chunk)
                        if size_bytes > MAX_RESPONSE_BYTES:
                            scope.cancel()  # unlike a break, an exception at the next read unwinds httpx's generators
                        else:
                            chunks.append(chunk)
            finally:
                await response.aclose()
        if size_bytes > MAX_RESPONSE_BYTES:
            why = f"it has more than {MAX_RESPONSE_BYTES} bytes"
        elif scope.cancelled_caught:
            why = f"its body did not end within {limit:g} seconds"
        else:
            headers = lower_names(response.headers)
            if (body := decoded(headers, b"".join(chunks))) is not None:
                return body
            why = f"its body is encoded as {one_line(headers[_CODING])!r}, which was not asked for"
        status = response.status_code
        text = f"the response (HTTP {status}) cannot be read: {why}"
        raise self.error(request, UNREADABLE_ANSWER, text, status=status)

    def _read_timeout_seconds(self, request: S3Request) -> float:
        return request.read_timeout_seconds or self._config.read_timeout_seconds

    async def _read_error(
        self, request: S3Request, response: httpx.Response, offset: timedelta, credentials: Credentials
    ) -> S3OperationError:
        chunks: list[bytes] = []
        kept = 0
        whole = False
        # Read to the end, so that httpx's generators finish, but only the beginning is kept.
        try:
            with suppress(httpx.HTTPError, httpx.StreamError), trio.move_on_after(ERROR_BODY_SECONDS):
                try:
                    async for chunk in response.aiter_raw():
                        if kept < MAX_ERROR_BYTES:
                            chunks.append(chunk)
                            kept += len(chunk)
                    whole = True
                finally:
                    await response.aclose()
        finally:
            if isinstance(request.body, CheckedBody):  # S3 may have responded before the end of the body
                await request.body.aclose()
        headers = lower_names(response.headers)
        plain = decoded(headers, b"".join(chunks))
        body = redact(credentials, plain or b"")
        error = self._error_from(request, response.status_code, headers, body, cut_off=not whole or plain is None)
        if error.code == "AccessDenied" and not chunks and self._clock.is_skewed(headers.get("date"), offset):
            # A response to HEAD has no error code, but S3 refuses every request with such a clock difference.
            error.code = "RequestTimeTooSkewed"
        if error.code == "RequestTimeTooSkewed":
            error.transient = self._clock.correct(headers.get("date"), offset)
        elif error.code in _EXPIRED_CREDENTIALS:
            error.transient = self._config.credentials.rejected()
        elif error.status in _UNAUTHORIZED or (error.status == _BAD_REQUEST and error.rejected):
            self._config.credentials.rejected()  # replaced keys are refused with various codes, or without one
        error.rejected = may_affect_all(error)
        return error

    def _error_from(
        self, request: S3Request, status: int, headers: Mapping[str, str], body: bytes, *, cut_off: bool
    ) -> S3OperationError:
        named = parse_error_body(body).code is not None
        self._origin.observe(request.method, headers, is_document=named)
        if named:
            self._origin.observe_error_document()
        unknown = not named and (not cut_off or is_html(headers, body))
        foreign = unknown and self._origin.foreign_error(request.method, status, headers, body)
        return self.error_in(request, status, headers, body, foreign=foreign, cut_off=cut_off)

    def error_in(
        self,
        request: S3Request,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        foreign: bool = False,
        cut_off: bool = False,
        part_of_200: bool = False,
    ) -> S3OperationError:
        """Return the error in a response (:func:`error_from_response`)."""
        return error_from_response(
            request.operation,
            status=status,
            headers=headers,
            body=body,
            now=self._clock.now(),
            bucket=self._config.bucket,
            key=request.key,
            part_number=request.part_number,
            size_bytes=request.size_bytes,
            foreign=foreign,
            cut_off=cut_off,
            part_of_200=part_of_200,
            via=self._via,
        )

    def _timeout(self, request: S3Request) -> httpx.Timeout:
        return httpx.Timeout(
            connect=self._config.connect_timeout_seconds,
            read=self._read_timeout_seconds(request),
            write=self._config.write_timeout_seconds,
            pool=None,  # the request that holds a connection has time-outs of its own
        )


async def _release(response: httpx.Response, body: bytes | CheckedBody) -> list[bytes]:
    """Read the rest of the response and release the connection; return the beginning of the body."""
    page: list[bytes] = []
    try:
        with suppress(httpx.HTTPError, httpx.StreamError):
            async for chunk in response.aiter_raw():
                if not page:
                    page.append(chunk[:MAX_ERROR_BYTES])
        return page
    finally:
        await response.aclose()
        if isinstance(body, CheckedBody):
            await body.aclose()


def decoded(headers: Mapping[str, str], body: bytes) -> bytes | None:
    """Return a document, or its beginning, as the store made it: proxies compress responses although we refuse that.

    ``None`` if it is encoded otherwise, or too large.
    """
    coding = headers.get(_CODING, "").strip().lower()
    if not body or coding in {"", "identity"}:
        return body
    if coding not in _ZLIB_CODINGS:
        return None
    try:
        plain = zlib.decompressobj(wbits=_ANY_ZLIB).decompress(body, MAX_RESPONSE_BYTES + 1)
    except zlib.error:
        return None
    return plain if len(plain) <= MAX_RESPONSE_BYTES else None


def redact(credentials: Credentials, body: bytes) -> bytes:
    """Replace credentials in a response by ``***``: some stores quote the request, and messages are logged.

    Done here because the credentials of AWS's chain are in no setting.
    """
    values = (credentials.access_key_id, credentials.secret_access_key, credentials.session_token)
    for value in sorted(filter(None, values), key=len, reverse=True):
        for form in {value, escape(value), quote(value, safe="")}:
            body = body.replace(form.encode(), b"***")
    return body


def lower_names(headers: httpx.Headers) -> dict[str, str]:
    """Return headers with their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}


def network_transport(config: S3Config) -> HttpTransport:
    """Return a transport over the network.

    Raises:
        ValueError: ``ca_file`` contains no certificates.
    """
    return HttpTransport(
        tls.TrustedCertificates("S3_CA_FILE", config.ca_file),
        max_connections=config.max_connections,
        keepalive_seconds=_KEEPALIVE_SECONDS,
        proxy=config.proxy,
    )


def sha256_hex(body: bytes) -> str:
    """Return the payload hash of a body in memory."""
    return hashlib.sha256(body).hexdigest()
