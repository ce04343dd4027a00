"""An S3 store in this process with scripted responses, for behaviour that no real server shows."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import httpx
import trio

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.resilience import Retrier
from cef_trio.s3.checksums import crc64nvme, crc64nvme_to_base64
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import Addressing, ChecksumMode, CredentialsProvider, PayloadSigning, S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.rate_limiter import RateLimiter
from cef_trio.s3.signing import Credentials
from cef_trio.settings.object_options import ObjectOptions

T = TypeVar("T")

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEXAMPLETOKEN"
CREDENTIALS = Credentials("AKIAIOSFODNN7EXAMPLE", SECRET, TOKEN)
CRC_HEADER = "x-amz-checksum-crc64nvme"


@dataclass(frozen=True)
class Recorded:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    broken_after: bool = False
    """The connection breaks after the body's bytes."""
    reads_body: bool = True
    """Whether the request's body is read before the response."""


Script = Reply | Exception | Callable[[Recorded], Reply] | Callable[[Recorded], Awaitable[Reply]]


class _ReplyBody(httpx.AsyncByteStream):
    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await trio.lowlevel.checkpoint()
        if self._reply.body:
            yield self._reply.body
        if self._reply.broken_after:
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")


class ScriptedStore(httpx.AsyncBaseTransport):
    """Sends its replies in order and records the requests. One request too many, or too few, is an error."""

    def __init__(self, *script: Script) -> None:
        self.script: deque[Script] = deque(script)
        self.requests: list[Recorded] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self.script:
            raise AssertionError(f"unexpected request: {request.method} {request.extensions['target']!r}")
        script = self.script.popleft()
        reads_body = not (isinstance(script, Reply) and not script.reads_body)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = b"".join([block async for block in request.stream]) if reads_body else b""
        recorded = Recorded(
            request.method,
            request.extensions["target"].decode("ascii"),
            {name.lower(): value for name, value in request.headers.items()},
            body,
        )
        self.requests.append(recorded)
        await trio.lowlevel.checkpoint()
        if isinstance(script, Exception):
            raise script
        if not isinstance(script, Reply):
            made = script(recorded)
            script = made if isinstance(made, Reply) else await made
        return httpx.Response(script.status, headers=dict(script.headers), stream=_ReplyBody(script))

    @property
    def played_out(self) -> bool:
        return not self.script


def client_of(
    store: httpx.AsyncBaseTransport,
    *,
    checksum: ChecksumMode = ChecksumMode.AUTO,
    payload_signing: PayloadSigning = PayloadSigning.AUTO,
    addressing: Addressing = Addressing.AUTO,
    endpoint_url: str | None = "http://s3.test:9000",
    region: str = "eu-central-1",
    credentials: CredentialsProvider | None = None,
    retrier: Retrier | None = None,
    now: Callable[[], datetime] = lambda: NOW,
    options: ObjectOptions | None = None,
    rate_limiter: RateLimiter | None = None,
) -> S3Client:
    config = S3Config(
        bucket="recordings",
        credentials=credentials or StaticCredentials(CREDENTIALS),
        region=region,
        endpoint_url=endpoint_url,
        checksum=checksum,
        payload_signing=payload_signing,
        addressing=addressing,
        options=options or ObjectOptions(),
    )
    return S3Client(config, transport=store, now=now, retrier=retrier, rate_limiter=rate_limiter)


def error_reply(status: int, code: str, message: str = "no", *, headers: Mapping[str, str] | None = None) -> Reply:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Reply(status, headers or {}, body.encode())


def part_ack(data: bytes, *, crc: bool = True) -> Reply:
    headers = {"etag": f'"{md5(data)}"', "content-length": "0"}
    if crc:
        headers[CRC_HEADER] = crc64(data)
    return Reply(200, headers)


def created(upload_id: str = "upload-1", *, crc: bool = True) -> Reply:
    headers = {"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "FULL_OBJECT"} if crc else {}
    return Reply(
        200,
        headers,
        f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>".encode(),
    )


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def crc64(data: bytes) -> str:
    return crc64nvme_to_base64(crc64nvme(data))


class Passes:
    """A source whose bytes may differ from one pass to the next; the last pass stays."""

    def __init__(self, *passes: bytes, size_bytes: int | None = None, block_bytes: int = 4) -> None:
        self._passes = list(passes)
        self._size_bytes = len(passes[0]) if size_bytes is None else size_bytes
        self._block_bytes = block_bytes
        self.read_count = 0
        self.open_count = 0
        self.longest_block = 0

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        data = self._passes[min(self.read_count, len(self._passes) - 1)]
        self.read_count += 1
        self.open_count += 1
        try:
            for offset in range(0, len(data), self._block_bytes):
                await trio.lowlevel.checkpoint()
                yield data[offset : offset + self._block_bytes]
        finally:
            self.open_count -= 1


class Repeats:
    """A retrier that repeats transient failures at once, a few times, and records them."""

    def __init__(self, attempts: int = 3) -> None:
        self.attempts = attempts
        self.failures: list[Exception] = []

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        for remaining in reversed(range(self.attempts)):
            try:
                return await attempt()
            except CefMp4ProcessorError as error:
                self.failures.append(error)
                if not error.transient or remaining == 0:
                    raise
        raise AssertionError(operation)


def headers_of(requests: Sequence[Recorded], name: str) -> list[str | None]:
    return [request.headers.get(name) for request in requests]
