"""Simulated crashes: from a chosen moment on, nothing that a process does has an effect.

Cancelling the tasks is not enough, since a cancelled task may still save its state. So every call to S3, Redis, the
disk and the webhook receiver passes a :class:`Life`, and fails before its effect once the process has crashed.

The acknowledgements of S3 (the headers of a successful response arrived) are recorded here at the transport,
independently of the daemon, and compared with Redis by the invariants.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx
import trio
from trio_util import AsyncBool

from cef_trio.checkpoint.memory import FaultHook, MemoryCheckpointStore, Moment
from cef_trio.checkpoint.unreadable import UnreadableKeys
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.journal import Journal, Lane
from cef_trio.resilience import Retrier
from cef_trio.s3.checksums import CHECKSUMS, from_base64
from cef_trio.s3.etags import is_md5
from cef_trio.s3.model import ChecksumAlgorithm

_FENCED = frozenset(
    {"update", "record_part", "record_put", "adopt_parts", "cut_parts", "start_over", "transition", "rename"}
)
"""Writes of one stream's record, whose first arguments are the stream and the lease."""
_CONNECT_SECONDS = 5.0
"""How long a request to S3 waits for a link that is down."""
_READ_SECONDS = 15.0
"""How long a request in flight waits for its response, while the link is down."""
_ETAG = re.compile(rb"<ETag>(?:&quot;|\")?([^<&\"]+)")
_UPLOAD_ID = re.compile(rb"<UploadId>([^<]+)</UploadId>")


class CrashMoment(StrEnum):
    """The moment of a crash within a call."""

    BEFORE = "before"
    """Before the request is sent."""
    UNANSWERED = "unanswered"
    """After the call took effect, before its response arrives."""
    ANSWERED = "answered"
    """After the response arrived, before it is processed."""


@dataclass(slots=True)
class Life:
    """One process: the calls it makes, and the call in which it crashes."""

    dies_at: tuple[int, CrashMoment] | None = None
    """The number of the call in which it crashes, from 1, and the moment in the call."""
    on_end: Callable[[], None] = lambda: None
    """Called once, at the crash."""
    ended: bool = False
    """Whether it has crashed."""
    calls: list[str] = field(default_factory=list)
    """Its calls so far, in order."""
    open_responses: int = 0
    """Number of S3 responses whose connection is not released."""
    cut_off: AsyncBool = field(default_factory=lambda: AsyncBool(False))
    """While true, its calls to S3 and Redis wait: a stopped process (SIGSTOP), or a partition without time-outs."""
    has_links: bool = False
    """Whether :attr:`redis_down` may become true during a call."""
    redis_down: AsyncBool = field(default_factory=lambda: AsyncBool(False))
    """While true, its calls to Redis have no effect, and time out."""
    s3_down: AsyncBool = field(default_factory=lambda: AsyncBool(False))
    """While true, its requests to S3 time out; the response of one in flight is lost after its effect."""
    writes_without_lease: list[str] = field(default_factory=list)
    """Its writes that the store accepted although another process held the stream's lease."""
    leased: set[str] = field(default_factory=set)
    """The streams whose leases it acquired, so far."""
    keys: set[str] = field(default_factory=set)
    """The keys, and the prefixes of listings, of its requests to S3."""
    on_lease: Callable[[str], None] = lambda _: None
    """Called with each stream whose lease it acquires."""
    on_part: Callable[[str, int], None] = lambda _key, _number: None
    """Called with the key and the number of each part, before it is sent."""

    async def wait_connected(self) -> None:
        """Wait while the process is cut off; not a checkpoint otherwise."""
        if self.cut_off.value:
            await self.cut_off.wait_value(False)

    def end(self) -> None:
        """Crash now."""
        if not self.ended:
            self.ended = True
            self.on_end()

    def begin_call(self, call: str) -> int:
        """Record the start of a call; return its number."""
        self.calls.append(call)
        return len(self.calls)

    def reaches(self, number: int, moment: CrashMoment) -> bool:
        """Crash if that moment of that call is the planned one; return whether the process has crashed."""
        if self.dies_at == (number, moment):
            self.end()
        return self.ended


@dataclass(slots=True)
class Acknowledgements:
    """The acknowledgements of S3 that reached the current daemon."""

    parts: dict[tuple[str, int], str] = field(default_factory=dict)
    """(upload id, part number) → the ETag of the newest acknowledgement."""
    uploads: dict[str, str] = field(default_factory=dict)
    """Upload id → key, of the uploads whose id arrived."""
    unread_upload_ids: list[str] = field(default_factory=list)
    """Keys of created uploads whose response body was not read to its end."""
    objects: dict[str, str] = field(default_factory=dict)
    """Key → ETag of the completed recordings."""
    redis_lost: bool = False
    """Whether Redis has lost data since the daemon started."""

    def forget(self) -> None:
        """Clear all, before the next daemon."""
        self.parts.clear()
        self.uploads.clear()
        self.unread_upload_ids.clear()
        self.objects.clear()
        self.redis_lost = False

    def forget_parts_after(self, upload_id: str, keep_to: int) -> None:
        """Clear the parts after number ``keep_to``, whose records the daemon deleted with the end of the file."""
        self.parts = {where: etag for where, etag in self.parts.items() if where[0] != upload_id or where[1] <= keep_to}

    def record_headers(self, request: httpx.Request, response: httpx.Response) -> None:
        """Record the acknowledgement of a part. One with another checksum than was sent acknowledges something else."""
        query = request.url.params
        if (
            response.is_success
            and request.method == "PUT"
            and "partNumber" in query
            and "etag" in response.headers  # otherwise the response is not from S3
            and not _stored_other_bytes(request, response)
        ):
            where = query["uploadId"], int(query["partNumber"])
            if "x-amz-copy-source" in request.headers:
                self.parts.pop(where, None)  # a copy: acknowledged by its body, and no bytes were sent
            else:
                self.parts[where] = response.headers["etag"].strip('"')

    def record_body(self, request: httpx.Request, body: bytes, *, whole: bool) -> None:
        """Record what a body acknowledges: a copied part, or an upload's id; ``whole``: it was read to its end."""
        query = request.url.params
        if request.method == "PUT" and "partNumber" in query and whole and (copied := _ETAG.search(body)) is not None:
            self.parts[query["uploadId"], int(query["partNumber"])] = copied[1].decode()
        if request.method != "POST" or "uploads" not in request.url.params:
            return
        key = request.url.path.split("/", 2)[2]
        found = _UPLOAD_ID.search(body)
        if whole and found is not None:
            self.uploads[found[1].decode()] = key
        else:
            self.unread_upload_ids.append(key)


def _stored_other_bytes(request: httpx.Request, response: httpx.Response) -> bool:
    etag = response.headers["etag"].strip('"')
    md5 = from_base64(request.headers.get(CHECKSUMS[ChecksumAlgorithm.MD5].header, "")) or b""
    if md5 and is_md5(etag, response.headers) and etag != md5.hex():
        return True
    names = [checksum.header for checksum in CHECKSUMS.values() if checksum.header in response.headers]
    return any(response.headers[name] != request.headers.get(name) for name in names)


class StoreClient(MemoryCheckpointStore):
    """One process's connection to a store: the same content, with a retrier and a link of its own."""

    __slots__ = ("_client_retrier", "_life")

    def __init__(self, store: MemoryCheckpointStore, retrier: Retrier, life: Life) -> None:
        self.__dict__ = store.__dict__
        self._client_retrier, self._life = retrier, life

    @property
    def retrier(self) -> Retrier:  # type: ignore[override]
        """The process's retrier."""
        return self._client_retrier

    @property
    def fault(self) -> FaultHook | None:  # type: ignore[override]
        """The faults of the link and of the store."""
        fault: FaultHook | None = self.__dict__["fault"]
        return self._link_fault if self._life.has_links else fault

    async def _link_fault(self, operation: str, moment: Moment) -> None:
        fault: FaultHook | None = self.__dict__["fault"]
        if fault is not None:
            await fault(operation, moment)
        if moment is not Moment.BEFORE and self._life.redis_down.value:
            await self._life.redis_down.wait_value(False)


class CrashableStore:
    """The checkpoint store of one process; its calls fail after the crash."""

    def __init__(
        self,
        store: MemoryCheckpointStore,
        life: Life,
        journal: Journal,
        acknowledgements: Acknowledgements | None = None,
    ) -> None:
        self._store = store
        self._acknowledgements = acknowledgements
        self._life = life
        self._journal = journal

    @property
    def unreadable(self) -> UnreadableKeys:
        """See ``CheckpointStore``."""
        return self._store.unreadable

    def __getattr__(self, operation: str) -> Callable[..., Awaitable[Any]]:
        method: Callable[..., Awaitable[Any]] = getattr(self._store, operation)
        life = self._life

        async def call(*args: Any, **kwargs: Any) -> Any:
            number = life.begin_call(f"redis {operation}")
            if life.reaches(number, CrashMoment.BEFORE):
                raise RedisOperationError(operation, "the process has crashed")
            with self._journal.call(Lane.REDIS, operation):
                await life.wait_connected()
                result = await method(*args, **kwargs)
                if operation == "cut_parts" and self._acknowledgements is not None:
                    stream_id, _, keep_to = args
                    meta = self._store.snapshot().streams[stream_id].meta
                    self._acknowledgements.forget_parts_after(meta.s3_upload_id or "", keep_to)
                if operation in _FENCED and self._store.is_other_owners(*args[:2]):
                    life.writes_without_lease.append(operation)
                if operation == "create" or (operation == "acquire" and result):
                    stream_id = args[0].stream_id if operation == "create" else args[0]
                    life.leased.add(stream_id)
                    life.on_lease(stream_id)
                await life.wait_connected()
            if life.reaches(number, CrashMoment.UNANSWERED):
                raise RedisOperationError(operation, "the process has crashed")
            life.reaches(number, CrashMoment.ANSWERED)
            return result

        return call


class CrashableTransport(httpx.AsyncBaseTransport):
    """The transport from one process to S3; its requests fail after the crash."""

    def __init__(
        self, transport: httpx.AsyncBaseTransport, life: Life, acknowledgements: Acknowledgements, journal: Journal
    ) -> None:
        self._transport = transport
        self._life = life
        self._acknowledgements = acknowledgements
        self._journal = journal

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass a request on."""
        life, name = self._life, call_name(request)
        number = life.begin_call(f"s3 {name}")
        if life.reaches(number, CrashMoment.BEFORE):
            raise httpx.ConnectError("the process has crashed", request=request)
        query = request.url.params
        key = request.url.path.partition("/recordings")[2].strip("/")
        if key or request.method == "GET":
            life.keys.add(key or query.get("prefix", ""))
        if "partNumber" in query:
            life.on_part(key, int(query["partNumber"]))
        with self._journal.call(Lane.S3, name) as entry:
            await life.wait_connected()
            if not await _comes_up(life.s3_down, _CONNECT_SECONDS):
                raise httpx.ConnectTimeout("the link is down", request=request)
            response = await self._transport.handle_async_request(request)
            if not await _comes_up(life.s3_down, _READ_SECONDS):
                await response.aclose()
                raise httpx.ReadTimeout("the link is down", request=request)
            entry.outcome = str(response.status_code)
        if life.reaches(number, CrashMoment.UNANSWERED):
            await response.aclose()
            raise httpx.ReadError("the process has crashed", request=request)
        self._acknowledgements.record_headers(request, response)
        life.reaches(number, CrashMoment.ANSWERED)
        stream = response.stream
        if isinstance(stream, httpx.AsyncByteStream):
            life.open_responses += 1
            succeeded = response.is_success and "x-amz-request-id" in response.headers
            response.stream = _RecordedBody(stream, request, succeeded, life, self._acknowledgements)
        return response


async def _comes_up(down: AsyncBool, seconds: float) -> bool:
    """Wait until a link is up; return whether it is in time. Not a checkpoint if it is up."""
    if down.value:
        with trio.move_on_after(seconds):
            await down.wait_value(False)
    return not down.value


class _RecordedBody(httpx.AsyncByteStream):
    """A response body. Releasing its connection is a checkpoint, as in httpcore."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        request: httpx.Request,
        succeeded: bool,
        life: Life,
        acknowledgements: Acknowledgements,
    ) -> None:
        self._stream = stream
        self._request = request
        self._succeeded = succeeded
        self._life = life
        self._acknowledgements = acknowledgements
        self._body = b""
        self._open = True
        self._broken = False
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for block in self._stream:
                self._body += block
                yield block
            self._whole = True
        except httpx.HTTPError:
            self._broken = True  # the rest did not arrive, so it acknowledges nothing
            raise

    async def aclose(self) -> None:
        if self._open:
            self._open = False
            self._life.open_responses -= 1
            if self._succeeded and not self._broken and not self._life.ended:
                self._acknowledgements.record_body(self._request, self._body, whole=self._whole)
        await self._stream.aclose()
        await trio.lowlevel.checkpoint()


def call_name(request: httpx.Request) -> str:
    """Return the S3 operation of a request, with its part number: ``UploadPart 2``."""
    query, method = request.url.params, request.method
    key = request.url.path.partition("/recordings")[2].strip("/")
    if "partNumber" in query:
        copy = "Copy" if "x-amz-copy-source" in request.headers else ""
        return f"UploadPart{copy} {query['partNumber']}"
    if "uploadId" in query:
        return {"POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}.get(method, "ListParts")
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    return f"{method.capitalize()}{'Object' if key else 'Bucket'}{' metadata' if key.endswith('.json') else ''}"
