"""The S3 client: one bucket's objects and multipart uploads, each method one attempt that a retrier may repeat.

What it promises beyond the calls themselves:

- **P2.** :meth:`S3Client.upload_part` has no checkpoint at which a cancellation could lose an ETag that was read from
  the socket (:mod:`cef_trio.s3.transport`).
- **P1, P8.** Every object is proved by what S3 responds, or it is read back and compared: PutObject in
  :mod:`cef_trio.s3.upload_body`, CompleteMultipartUpload in :mod:`cef_trio.s3.complete`. A response of 200 proves
  nothing.
- **P7.** Memory is one block of 512 KiB for each body in flight, however large the part (:mod:`cef_trio.s3.body`).
- Errors are :class:`S3OperationError`, or :class:`RecordingChangedError` and :class:`ChunkProcessingError` of a source;
  they contain no secrets.

Required permissions: s3:PutObject, s3:GetObject, s3:AbortMultipartUpload, s3:ListMultipartUploadParts on the objects,
s3:ListBucket and s3:ListBucketMultipartUploads on the bucket; s3:CreateBucket, s3:DeleteObject and
s3:GetLifecycleConfiguration only for the operations of that name. Object options need more: tags
s3:PutObjectTagging, an ACL s3:PutObjectAcl, KMS kms:GenerateDataKey and kms:Decrypt on the key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Self, TypeVar
from urllib.parse import quote

import httpx

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import Retrier, SingleAttempt
from cef_trio.s3.body import BytesSource
from cef_trio.s3.capabilities import Capabilities
from cef_trio.s3.checksums import CHECKSUMS, crc64nvme_from_base64, to_base64
from cef_trio.s3.complete import NO_SUCH_UPLOAD, Completion
from cef_trio.s3.config import S3Config
from cef_trio.s3.download import METADATA, Downloader
from cef_trio.s3.errors import UNREADABLE_ANSWER
from cef_trio.s3.expected_object import STREAM_ID_METADATA, ExpectedObject
from cef_trio.s3.fence import Fence, ask, errors_of_the_fence
from cef_trio.s3.model import (
    AbortRule,
    ByteSource,
    ChecksumAlgorithm,
    CopiedPart,
    CreatedUpload,
    ListedPart,
    ListedUpload,
    ObjectRange,
    ObjectsPage,
    PartToComplete,
    StoredObject,
    UploadedPart,
)
from cef_trio.s3.rate_limiter import RateLimiter
from cef_trio.s3.recording_put import OPERATION as PUT_RECORDING
from cef_trio.s3.recording_put import RecordingPut, find_object
from cef_trio.s3.signing import EMPTY_SHA256, UNSIGNED_PAYLOAD
from cef_trio.s3.transport import Response, ResponseMode, S3Request, Transport, sha256_hex
from cef_trio.s3.upload_body import BodyUploader, SentBody
from cef_trio.s3.xml import (
    XmlError,
    create_bucket_configuration,
    parse_abort_rules,
    parse_copied_part,
    parse_objects,
    parse_parts,
    parse_upload_id,
    parse_uploads,
)
from cef_trio.safe_text import one_line
from cef_trio.settings import DEFAULT_CONTENT_TYPE, ObjectOptions

T = TypeVar("T")

_MAX_LISTED_UPLOADS: Final = 100_000
_MAX_PAGES: Final = 10_000
"""Limits of a listing: one that exceeds them is endless, and is aborted before it fills the memory (P7)."""


class S3Client:
    """A client of one bucket. Use it inside ``async with``; any number of tasks may share it."""

    def __init__(
        self,
        config: S3Config,
        *,
        retrier: Retrier | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rate_limiter: RateLimiter | None = None,
    ) -> None:
        """Prepare the client; sends nothing.

        By default each call is one attempt, and bodies have no rate limit. ``transport`` replaces the network in tests;
        only ``request.extensions["target"]`` is right for keys with ``.`` or ``..`` as a whole segment. ``now`` returns
        the local time, with a time zone.

        Raises:
            ValueError: the endpoint or the bucket's name is invalid, or ``ca_file`` contains no certificates.
        """
        self._config = config
        self._retrier: Retrier = retrier if retrier is not None else SingleAttempt()
        self._transport = Transport(config, transport=transport, now=now)
        self._capabilities = Capabilities(config.checksum, config.payload_signing)
        self._downloader = Downloader(self._transport)
        self._sender = BodyUploader(
            self._transport,
            self._capabilities,
            self._downloader,
            rate_limiter=rate_limiter if rate_limiter is not None else RateLimiter(),
            kms_requested=config.options.requests_kms,
        )

    @property
    def options(self) -> ObjectOptions:
        """The configured headers and content type of new objects."""
        return self._config.options

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    # Multipart uploads

    async def create_multipart_upload(
        self,
        key: str,
        *,
        metadata: Mapping[str, str],
        content_type: str = DEFAULT_CONTENT_TYPE,
        headers: Mapping[str, str] | None = None,
    ) -> CreatedUpload:
        """Create a multipart upload.

        ``metadata`` is ASCII, names without ``x-amz-meta-``; ``headers`` are further ``x-amz-*`` ones
        (:meth:`ObjectOptions.for_recording`).

        Cancellation: once the response's headers have arrived, the upload id is read in a shield of one second and
        returned without a further checkpoint. Before that, or if the body takes longer, the id is lost; a listing finds
        the upload.

        Raises:
            S3OperationError: S3 refused, or did not respond.
            ValueError: metadata that is not valid in a header.
        """
        given = {"content-type": content_type, **_metadata_headers(metadata), **(headers or {})}
        attempts = 0

        async def attempt() -> CreatedUpload:
            nonlocal attempts
            attempts += 1
            return await self._create(key, given)

        created = await self._retrier.call("create_multipart_upload", attempt)
        return replace(created, repeated=attempts > 1)

    async def upload_part(
        self, key: str, upload_id: str, part_number: int, source: ByteSource, checksum: ChecksumAlgorithm
    ) -> UploadedPart:
        """Read the source twice and send it as a part (number 1 to 10,000), verified by the upload's checksum.

        Cancellation (promise P2): ``Cancelled`` is raised only if the response's headers were not completely read from
        the socket; otherwise the part is returned, without a checkpoint in between. After ``Cancelled`` S3 may have
        stored the part; :meth:`list_parts` shows it. One exception with TLS: if a record that arrives with the headers
        requests a key update, the reply to it is a checkpoint before they are read.

        Raises:
            RecordingChangedError: the bytes changed between the passes; S3 stored nothing.
            ChunkProcessingError: from the source.
            S3OperationError: S3 refused (``NoSuchUpload``, …), did not respond, or what it stored is not what was sent.
        """
        query = (("partNumber", str(part_number)), ("uploadId", upload_id))
        request = S3Request("upload_part", "PUT", UNSIGNED_PAYLOAD, key=key, query=query, part_number=part_number)

        async def attempt() -> SentBody:
            with _missing_upload():
                return await self._sender.send(request, source, checksum)

        sent = await self._retrier.call("upload_part", attempt)
        # No checkpoint from the response's headers to the return.
        self._capabilities.part_acknowledged(proved=sent.proved)
        used = sent.mode.checksum
        return UploadedPart(
            part_number=part_number,
            size_bytes=sent.measured.size_bytes,
            etag=sent.etag,
            crc64nvme=sent.measured.crc64nvme,
            checksum=to_base64(sent.measured.digests[used]) if CHECKSUMS[used].is_composite else None,
        )

    async def upload_part_copy(self, key: str, upload_id: str, part_number: int, source: ObjectRange) -> CopiedPart:
        """Copy a range of an object as a part, if the object still has that ETag. Not retried
        (``wiring.S3_NOT_RETRIED``), since what cannot be copied can be sent. The caller compares the result with the
        expected content.

        Cancellation: the part may have been copied; :meth:`list_parts` shows it.

        Raises:
            S3OperationError: S3 refused (``NotImplemented``, ``PreconditionFailed``, …), or its response is malformed.
        """
        named = quote(f"/{self._config.bucket}/{source.key}", safe="/-_.~")
        last = source.offset + source.size_bytes - 1
        request = S3Request(
            "upload_part_copy",
            "PUT",
            EMPTY_SHA256,
            key=key,
            query=(("partNumber", str(part_number)), ("uploadId", upload_id)),
            headers={
                "x-amz-copy-source": named,
                "x-amz-copy-source-range": f"bytes={source.offset}-{last}",
                "x-amz-copy-source-if-match": f'"{source.etag}"',
            },
            part_number=part_number,
            read_timeout_seconds=self._config.complete_timeout_seconds,
            response_mode=ResponseMode.SHIELDED,  # the body has the part's ETag
        )
        response = await self._retrier.call(request.operation, lambda: self._transport.perform(request))
        return self._parsed(request, response, parse_copied_part)

    async def list_parts(self, key: str, upload_id: str) -> list[ListedPart]:
        """Return all parts of an open upload, in order of their numbers.

        Raises:
            S3OperationError: ``NoSuchUpload`` if it is not open, or S3 refused, or did not respond.
        """
        parts: dict[int, ListedPart] = {}
        marker: str | None = "0"
        while marker is not None:
            query = [("uploadId", upload_id)] + ([("part-number-marker", marker)] if marker != "0" else [])
            request = S3Request("list_parts", "GET", EMPTY_SHA256, key=key, query=tuple(query))
            page = await self._page(request, parse_parts)
            # Keyed by number (at most 10,000), so that a repeated page adds nothing.
            parts.update((part.part_number, part) for part in page.parts)
            if page.next_marker is not None and int(page.next_marker) <= int(marker):
                raise self._endless(request, page.next_marker)
            marker = page.next_marker
        return [parts[number] for number in sorted(parts)]

    async def list_multipart_uploads(self, prefix: str = "") -> list[ListedUpload]:
        """Return all open uploads whose keys begin with ``prefix``.

        Raises:
            S3OperationError: S3 refused, or did not respond.
        """
        uploads: list[ListedUpload] = []
        markers: tuple[str, str] | None = ("", "")
        seen = {markers}
        while markers is not None:
            query = [("uploads", ""), ("encoding-type", "url")]
            query += [("prefix", prefix)] if prefix else []
            query += [("key-marker", markers[0])] if markers[0] else []
            query += [("upload-id-marker", markers[1])] if markers[1] else []
            request = S3Request("list_multipart_uploads", "GET", EMPTY_SHA256, query=tuple(query))
            try:
                page = await self._page(request, parse_uploads)
            except S3OperationError as error:
                if error.code == "NoSuchUpload":  # rclone's response if there are none
                    return uploads
                raise
            uploads += page.uploads
            markers = page.next_markers
            if markers in seen or len(uploads) > _MAX_LISTED_UPLOADS or len(seen) > _MAX_PAGES:
                raise self._endless(request, markers)
            if markers is not None:
                seen.add(markers)
        return uploads

    async def complete_multipart_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[PartToComplete],
        *,
        checksum: ChecksumAlgorithm,
        stream_id: str,
    ) -> StoredObject:
        """Complete an upload and verify the object.

        Safe to repeat, even after a success: if the upload is gone, or the response was lost or malformed, the object
        is checked. It is accepted only if its metadata ``cef-stream-id`` is ``stream_id`` and its size and checksum are
        those of the parts. ``metadata`` of the result is empty unless the object was checked.

        Cancellation: the outcome is unknown; call again.

        Raises:
            S3OperationError: S3 refused; ``NoSuchUpload`` if the upload is gone and there is no such object;
                ``ChecksumMismatch`` (permanent) if S3 holds other bytes than were sent.
            ValueError: no parts.
        """
        completion = Completion(
            self._transport,
            bucket=self._config.bucket,
            key=key,
            upload_id=upload_id,
            parts=parts,
            checksum=self._capabilities.checksum(checksum),
            stream_id=stream_id,
            read_timeout_seconds=self._config.complete_timeout_seconds,
            downloader=self._downloader,
            capabilities=self._capabilities,
            kms_requested=self._config.options.requests_kms,
        )
        return await self._retrier.call("complete_multipart_upload", completion.attempt)

    async def abort_multipart_upload(self, key: str, upload_id: str, *, fence: Fence | None = None) -> None:
        """Abort an upload and delete its parts; succeeds if it is gone already.

        A part in flight may be stored after this: wait for parts first, and abort again if :meth:`list_parts` still
        finds the upload. ``fence`` is awaited before each request; what it raises is raised, and nothing is sent.

        Raises:
            S3OperationError: S3 refused, or did not respond.
        """
        request = S3Request(
            "abort_multipart_upload",
            "DELETE",
            EMPTY_SHA256,
            key=key,
            query=(("uploadId", upload_id),),
            response_mode=ResponseMode.HEADERS,
        )
        with errors_of_the_fence():
            await self._perform_unless(request, NO_SUCH_UPLOAD, fence)

    # Objects

    async def put_object(
        self,
        key: str,
        content: bytes | ByteSource,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> StoredObject:
        """Store an object in one request (up to 5 GiB). If the response does not prove its bytes, it is read back.

        Cancellation: as :meth:`upload_part`.

        Raises:
            RecordingChangedError, ChunkProcessingError: from the source.
            S3OperationError: S3 refused, did not respond, or what it stored is not what was sent.
            ValueError: metadata that is not valid in a header.
        """
        source = BytesSource(content) if isinstance(content, bytes) else content
        given = {"content-type": content_type, **_metadata_headers(metadata or {}), **(headers or {})}
        request = S3Request("put_object", "PUT", UNSIGNED_PAYLOAD, key=key, headers=given)
        sent = await self._retrier.call("put_object", lambda: self._sender.send_object(request, source))
        return _stored(key, sent, metadata or {})

    async def put_recording(
        self,
        key: str,
        source: ByteSource,
        *,
        crc64nvme: int,
        stream_id: str,
        content_type: str = DEFAULT_CONTENT_TYPE,
        headers: Mapping[str, str] | None = None,
        fence: Fence | None = None,
    ) -> StoredObject:
        """Store a whole recording in one request (:mod:`cef_trio.s3.recording_put`); the key has the stream's id.

        Safe to repeat, even after a success. ``crc64nvme`` is that of the verified file. ``fence`` is awaited before
        each attempt to store it (the same body in another checksum mode is no new one); what it raises is raised, and
        nothing is sent. Cancellation: as :meth:`upload_part`; :meth:`find_recording` shows whether S3 has the object.

        Raises:
            RecordingChangedError: the source does not have that CRC64NVME; nothing was stored.
            ChunkProcessingError: from the source.
            S3OperationError: S3 refused, did not respond, or what it stored is not what was sent.
        """
        metadata = {STREAM_ID_METADATA: stream_id}
        given = {"content-type": content_type, **_metadata_headers(metadata), **(headers or {})}
        put = RecordingPut(
            S3Request(PUT_RECORDING, "PUT", UNSIGNED_PAYLOAD, key=key, headers=given),
            source,
            ExpectedObject(key, stream_id, source.size_bytes, crc64nvme, None),
            sender=self._sender,
            downloader=self._downloader,
            capabilities=self._capabilities,
            fence=fence,
        )
        with errors_of_the_fence():
            sent = await self._retrier.call(PUT_RECORDING, put.attempt)
        return _stored(key, sent, metadata)

    async def find_recording(self, key: str, *, size_bytes: int, crc64nvme: int, stream_id: str) -> StoredObject | None:
        """Return the object of an earlier :meth:`put_recording`; ``None`` if there is none with these bytes.

        Raises:
            S3OperationError: S3 refused, or did not respond.
        """
        expected = ExpectedObject(key, stream_id, size_bytes, crc64nvme, None)
        found, why_not = await self._retrier.call("head_object", lambda: find_object(expected, self._downloader))
        return found if why_not is None else None

    async def head_object(self, key: str) -> StoredObject | None:
        """Return an object's size, ETag, checksum and metadata; ``None`` if it does not exist.

        Raises:
            S3OperationError: S3 refused (``AccessDenied`` for a missing object without s3:ListBucket), or
                did not respond.
        """
        return await self._retrier.call("head_object", lambda: self._downloader.head(key))

    async def list_objects(self, prefix: str, token: str | None = None) -> ObjectsPage:
        """Return a page of the objects whose keys begin with ``prefix`` (ListObjectsV2); the next one by its token.

        Raises:
            S3OperationError: S3 refused, or did not respond; ``EndlessListing``: the next page is the same.
        """
        query = [("list-type", "2"), ("encoding-type", "url")]
        query += [("prefix", prefix)] if prefix else []
        query += [("continuation-token", token)] if token is not None else []
        request = S3Request("list_objects", "GET", EMPTY_SHA256, query=tuple(query))
        page = await self._page(request, parse_objects)
        if token is not None and page.next_token == token:
            raise self._endless(request, token)
        return page

    @asynccontextmanager
    async def get_object(self, key: str) -> AsyncIterator[tuple[StoredObject, AsyncIterator[bytes]]]:
        """Read an object: its properties, and its content as it arrives. Only the opening is retried.

        Raises:
            S3OperationError: ``NoSuchKey``, S3 refused, or did not respond; while iterating: the transfer stopped.
        """
        async with self._downloader.open(key, self._retrier) as opened:
            yield opened

    async def get_small_object(self, key: str, *, max_bytes: int) -> bytes | None:
        """Return an object's content; ``None`` if it is larger than ``max_bytes``.

        Raises:
            S3OperationError: as :meth:`get_object`.
        """
        content = bytearray()
        async with self.get_object(key) as (_, blocks):
            async for block in blocks:
                content += block
                if len(content) > max_bytes:
                    return None
        return bytes(content)

    async def delete_object(self, key: str) -> None:
        """Delete an object; succeeds if it does not exist.

        Raises:
            S3OperationError: S3 refused, or did not respond.
        """
        request = S3Request("delete_object", "DELETE", EMPTY_SHA256, key=key, response_mode=ResponseMode.HEADERS)
        await self._retrier.call("delete_object", lambda: self._transport.perform(request))

    # The bucket

    async def head_bucket(self) -> None:
        """Check that the bucket exists and can be accessed.

        Raises:
            S3OperationError: ``NoSuchBucket``, ``AccessDenied``, wrong region, or no response.
        """
        request = S3Request("head_bucket", "HEAD", EMPTY_SHA256, response_mode=ResponseMode.HEADERS)
        await self._retrier.call("head_bucket", lambda: self._transport.perform(request))

    def renew_connections(self) -> None:
        """Use new connections for all requests that start from now on."""
        self._transport.renew_connections()

    async def abort_rules(self) -> list[AbortRule]:
        """Return the bucket's lifecycle rules that abort open uploads; needs s3:GetLifecycleConfiguration.

        Raises:
            S3OperationError: S3 refused (``NotImplemented``: the store does not support them), or did not respond.
        """
        request = S3Request("get_bucket_lifecycle", "GET", EMPTY_SHA256, query=(("lifecycle", ""),))
        try:
            return await self._page(request, parse_abort_rules)
        except S3OperationError as error:
            if error.code == "NoSuchLifecycleConfiguration":
                return []
            raise

    async def create_bucket(self) -> None:
        """Create the bucket; succeeds if this account owns it already.

        Raises:
            S3OperationError: S3 refused, or did not respond.
        """
        # Only AWS requires a location; other stores refuse unknown regions.
        body = create_bucket_configuration(self._config.region) if self._config.endpoint_url is None else b""
        request = S3Request("create_bucket", "PUT", sha256_hex(body), body=body, response_mode=ResponseMode.HEADERS)
        await self._perform_unless(request, {"BucketAlreadyOwnedByYou"})

    async def _perform_unless(self, request: S3Request, done: AbstractSet[str], fence: Fence | None = None) -> None:
        """Perform a request; an error with a code in ``done`` shows that it was performed before."""

        async def attempt() -> None:
            await ask(fence)
            try:
                await self._transport.perform(request)
            except S3OperationError as error:
                if error.code not in done:
                    raise

        await self._retrier.call(request.operation, attempt)

    # One attempt of each

    async def _create(self, key: str, headers: Mapping[str, str]) -> CreatedUpload:
        negotiation = self._capabilities.negotiate(signed=True)
        while True:
            asked = negotiation.mode.checksum
            request = S3Request(
                "create_multipart_upload",
                "POST",
                EMPTY_SHA256,
                key=key,
                query=(("uploads", ""),),
                headers={**headers, **_creation_headers(asked)},
                response_mode=ResponseMode.SHIELDED,
            )
            try:
                response = await self._transport.perform(request)
                upload_id = self._parsed(request, response, parse_upload_id)
            except S3OperationError as error:
                negotiation.refused(error)
                continue
            if asked is ChecksumAlgorithm.CRC64NVME and (
                response.headers.get("x-amz-checksum-algorithm", "").upper() != "CRC64NVME"
            ):
                self._capabilities.not_confirmed(asked, "CreateMultipartUpload")
                asked = self._capabilities.checksum(asked)
            negotiation.accepted()
            return CreatedUpload(upload_id, asked)

    async def _page(self, request: S3Request, parse: Callable[[bytes], T]) -> T:
        async def attempt() -> T:
            with _missing_upload(of_upload=request.key is not None):
                response = await self._transport.perform(request)
            return self._parsed(request, response, parse)

        return await self._retrier.call(request.operation, attempt)

    def _parsed(self, request: S3Request, response: Response, parse: Callable[[bytes], T]) -> T:
        try:
            return parse(response.body)
        except XmlError as error:
            if (reported := self._transport.error_within(request, response.headers, response.body)) is not None:
                raise reported from error
            text = f"the response (HTTP {response.status}) is not S3's: {error}"
            raise self._transport.error(request, UNREADABLE_ANSWER, text, status=response.status) from error

    def _endless(self, request: S3Request, at: object) -> S3OperationError:
        text = f"EndlessListing: the listing has no end or repeats itself, at {one_line(str(at))}"
        return self._transport.error(request, "EndlessListing", text, transient=False)


def _stored(key: str, sent: SentBody | StoredObject, metadata: Mapping[str, str]) -> StoredObject:
    """Return the object of an acknowledged PutObject, unless it was asked for already."""
    if isinstance(sent, StoredObject):
        return sent
    return StoredObject(
        key=key,
        size_bytes=sent.measured.size_bytes,
        etag=sent.etag,
        crc64nvme=crc64nvme_from_base64(sent.response.headers.get(CHECKSUMS[ChecksumAlgorithm.CRC64NVME].header)),
        metadata={name.lower(): value for name, value in metadata.items()},
    )


@contextmanager
def _missing_upload(*, of_upload: bool = True) -> Iterator[None]:
    """Change ``NoSuchKey`` to ``NoSuchUpload``: Ceph uses it for a missing upload."""
    try:
        yield
    except S3OperationError as error:
        if of_upload and error.code == "NoSuchKey":
            error.code = "NoSuchUpload"
        raise


def _creation_headers(checksum: ChecksumAlgorithm) -> dict[str, str]:
    object_type = CHECKSUMS[checksum].object_type
    if object_type is None:
        return {}
    return {"x-amz-checksum-algorithm": checksum.value.upper(), "x-amz-checksum-type": object_type}


def _metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    for name, value in metadata.items():
        # S3 collapses runs of spaces and returns other characters encoded, so values that would change are refused.
        if not (name.isascii() and name.replace("-", "").replace("_", "").isalnum()):
            raise ValueError(f"metadata name {name!r} is not letters, digits, hyphens and underscores")
        if not (value.isascii() and value.isprintable() and value == " ".join(value.split())):
            raise ValueError(f"metadata {name!r} is not printable ASCII with single spaces")
    return {f"{METADATA}{name.lower()}": value for name, value in metadata.items()}
