"""Bytes on their way to S3 and the proof that they arrived: what UploadPart and PutObject have in common.

Pass one measures, pass two sends (:mod:`cef_trio.s3.body`), one answer's headers say everything. Then S3's words are
compared with what was sent: the checksum it repeats, or the ETag where that is the MD5 of the bytes. None of the
comparing waits for anything, so an acknowledged part is never lost to a cancellation (promise P2), nor does it need the
file once more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cef_trio.exceptions import S3OperationError
from cef_trio.s3.body import CheckedBody, Measured, measure
from cef_trio.s3.capabilities import Capabilities, UploadMode
from cef_trio.s3.checksums import HEADERS, to_base64
from cef_trio.s3.errors import describe
from cef_trio.s3.etags import is_md5
from cef_trio.s3.model import ByteSource, ChecksumAlgorithm
from cef_trio.s3.rate_limiter import RateLimiter
from cef_trio.s3.signing import UNSIGNED_PAYLOAD
from cef_trio.s3.transport import Request, Response, ResponseMode, Transport
from cef_trio.s3.xml import unquoted

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes that S3 acknowledged and that are proved to be ours."""

    measured: Measured
    etag: str
    answer: Response


class BodyUploader:
    """Sends bodies to one bucket, the way that its store understands."""

    def __init__(
        self, exchange: Transport, negotiation: Capabilities, *, bucket: str, pacer: RateLimiter, kms_asked: bool
    ) -> None:
        self._exchange = exchange
        self._pacer = pacer
        self._kms_asked = kms_asked
        self._negotiation = negotiation
        self._bucket = bucket

    async def negotiated(
        self, attempt: Callable[[UploadMode], Awaitable[T]], upload: ChecksumAlgorithm | None, *, with_body: bool
    ) -> T:
        """Make an attempt the preferred way and, if that is refused for what it is, the other way.

        No checkpoint but the attempt's own.
        """
        way = self._negotiation.way(upload)
        try:
            result = await attempt(way)
        except S3OperationError as error:
            refusal = error
            alternative = self._negotiation.alternative(way, error, with_body=with_body)
            if alternative is None:
                raise
        else:
            if with_body:
                self._negotiation.accepted_body(way)
            return result
        try:
            result = await attempt(alternative)
        except S3OperationError as error:
            if error.transient:
                raise  # an outage says nothing about either way
            raise refusal from error  # refused either way: the first refusal says what is wrong
        self._negotiation.settle(way, alternative, refusal)
        return result

    async def send(
        self,
        operation: str,
        key: str,
        source: ByteSource,
        way: UploadMode,
        *,
        query: tuple[tuple[str, str], ...] = (),
        headers: Mapping[str, str] | None = None,
        part_number: int | None = None,
    ) -> Sent:
        """PUT the source's bytes. No checkpoint between the arrival of S3's headers and the return.

        Raises:
            RecordingChangedError: the bytes changed between the passes; S3 stored nothing.
            ChunkProcessingError: from the source.
            S3OperationError: S3 refused, did not answer, or stored something else.
        """
        algorithms = {way.checksum}
        if way.signed:
            algorithms.add(ChecksumAlgorithm.SHA256)
        if self._negotiation.needs_md5_too(way):
            algorithms.add(ChecksumAlgorithm.MD5)
        measured = await measure(source, algorithms)
        answer = await self._exchange.perform(
            Request(
                operation,
                "PUT",
                measured.digests[ChecksumAlgorithm.SHA256].hex() if way.signed else UNSIGNED_PAYLOAD,
                key=key,
                query=query,
                headers={**(headers or {}), HEADERS[way.checksum]: to_base64(measured.digests[way.checksum])},
                body=CheckedBody(source, measured, self._pacer),
                size_bytes=measured.size_bytes,
                part_number=part_number,
                reading=ResponseMode.HEADERS,
                of_object=True,
            )
        )
        doubt = self._mark_suspect(operation, answer, measured, way)
        if doubt is not None:
            code, message, transient = doubt
            raise S3OperationError(
                operation,
                f"{code}: {message}" + describe(self._bucket, key, part_number),
                transient=transient,
                code=code,
                status=answer.status,
                request_id=answer.headers.get("x-amz-request-id"),
                bucket=self._bucket,
                key=key,
                part_number=part_number,
            )
        return Sent(measured, unquoted(answer.headers.get("etag")) or "", answer)

    def _mark_suspect(
        self, operation: str, answer: Response, measured: Measured, way: UploadMode
    ) -> tuple[str, str, bool] | None:
        """Why acknowledged bytes may not be ours (code, words, whether sending again helps); ``None`` if proved."""
        etag = unquoted(answer.headers.get("etag"))
        if etag is None:
            return "MissingETag", "S3 acknowledged the bytes without an ETag", False
        md5 = measured.digests.get(ChecksumAlgorithm.MD5)
        comparable = md5 is not None and is_md5(etag, answer.headers, kms_asked=self._kms_asked)
        if md5 is not None and comparable and etag.lower() != md5.hex():
            return "ChecksumMismatch", f"S3 stored MD5 {etag}, sent was {md5.hex()}", True
        if way.checksum is ChecksumAlgorithm.MD5:
            return None
        ours, theirs = to_base64(measured.digests[way.checksum]), answer.headers.get(HEADERS[way.checksum])
        if theirs is not None and theirs != ours:
            return "ChecksumMismatch", f"S3 stored {way.checksum} {theirs}, sent was {ours}", True
        if way.checksum is ChecksumAlgorithm.CRC64NVME:
            if theirs is not None:
                self._negotiation.crc_confirmed()
            elif self._negotiation.crc_not_confirmed(operation) and not comparable:
                # Acknowledged, but proved by nothing: sent again with a Content-MD5, which S3 has always checked.
                return "ChecksumNotConfirmed", "S3 did not confirm the CRC64NVME", True
        return None
