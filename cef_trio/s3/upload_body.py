"""Send and verify a body: the common part of UploadPart and PutObject.

The first pass measures, the second sends (:mod:`cef_trio.s3.body`). Then the response's headers are compared with what
was sent: the checksum that S3 repeats, or the ETag if it is the MD5 of the bytes. The comparison has no checkpoint and
does not read the file, so a cancellation never loses an acknowledged part (promise P2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cef_trio.exceptions import S3OperationError
from cef_trio.s3.body import CheckedBody, Measured, measure
from cef_trio.s3.capabilities import Capabilities, UploadMode
from cef_trio.s3.checksums import CHECKSUMS, to_base64
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
    """A body that S3 acknowledged, verified to be what was sent."""

    measured: Measured
    etag: str
    response: Response


class BodyUploader:
    """Sends bodies to one bucket, in the mode that the store supports."""

    def __init__(
        self,
        transport: Transport,
        capabilities: Capabilities,
        *,
        bucket: str,
        rate_limiter: RateLimiter,
        kms_asked: bool,
    ) -> None:
        self._transport = transport
        self._rate_limiter = rate_limiter
        self._kms_asked = kms_asked
        self._capabilities = capabilities
        self._bucket = bucket

    async def with_fallback(
        self, attempt: Callable[[UploadMode], Awaitable[T]], upload: ChecksumAlgorithm | None, *, with_body: bool
    ) -> T:
        """Run an attempt in the current mode and, if the store seems to lack that mode, in the alternative one.

        No checkpoint besides the attempt's own.
        """
        mode = self._capabilities.mode(upload)
        try:
            result = await attempt(mode)
        except S3OperationError as error:
            refusal = error
            alternative = self._capabilities.alternative(mode, error, with_body=with_body)
            if alternative is None:
                raise
        else:
            if with_body:
                self._capabilities.accepted_body(mode)
            return result
        try:
            result = await attempt(alternative)
        except S3OperationError as error:
            if error.transient:
                raise  # an outage tells nothing about either mode
            raise refusal from error  # refused in both modes: the first error has the cause
        self._capabilities.settle(mode, alternative, refusal)
        return result

    async def send(
        self,
        operation: str,
        key: str,
        source: ByteSource,
        mode: UploadMode,
        *,
        query: tuple[tuple[str, str], ...] = (),
        headers: Mapping[str, str] | None = None,
        part_number: int | None = None,
    ) -> Sent:
        """PUT the source's bytes. No checkpoint between the arrival of the response's headers and the return.

        Raises:
            RecordingChangedError: the bytes changed between the passes; S3 stored nothing.
            ChunkProcessingError: from the source.
            S3OperationError: S3 refused, did not respond, or stored something else.
        """
        algorithms = {mode.checksum}
        if mode.signed:
            algorithms.add(ChecksumAlgorithm.SHA256)
        if self._capabilities.needs_md5_too(mode):
            algorithms.add(ChecksumAlgorithm.MD5)
        measured = await measure(source, algorithms)
        response = await self._transport.perform(
            Request(
                operation,
                "PUT",
                measured.digests[ChecksumAlgorithm.SHA256].hex() if mode.signed else UNSIGNED_PAYLOAD,
                key=key,
                query=query,
                headers={
                    **(headers or {}),
                    CHECKSUMS[mode.checksum].header: to_base64(measured.digests[mode.checksum]),
                },
                body=CheckedBody(source, measured, self._rate_limiter),
                size_bytes=measured.size_bytes,
                part_number=part_number,
                response_mode=ResponseMode.HEADERS,
                of_object=True,
            )
        )
        mismatch = self._mismatch(operation, response, measured, mode)
        if mismatch is not None:
            code, message, transient = mismatch
            raise S3OperationError(
                operation,
                f"{code}: {message}" + describe(self._bucket, key, part_number),
                transient=transient,
                code=code,
                status=response.status,
                request_id=response.headers.get("x-amz-request-id"),
                bucket=self._bucket,
                key=key,
                part_number=part_number,
            )
        return Sent(measured, unquoted(response.headers.get("etag")) or "", response)

    def _mismatch(
        self, operation: str, response: Response, measured: Measured, mode: UploadMode
    ) -> tuple[str, str, bool] | None:
        """Return why acknowledged bytes may differ from those sent: code, message, transient; ``None`` if verified."""
        etag = unquoted(response.headers.get("etag"))
        if etag is None:
            return "MissingETag", "S3 acknowledged the bytes without an ETag", False
        md5 = measured.digests.get(ChecksumAlgorithm.MD5)
        comparable = md5 is not None and is_md5(etag, response.headers, kms_asked=self._kms_asked)
        if md5 is not None and comparable and etag.lower() != md5.hex():
            return "ChecksumMismatch", f"S3 stored MD5 {etag}, sent was {md5.hex()}", True
        if mode.checksum is ChecksumAlgorithm.MD5:
            return None
        ours, theirs = to_base64(measured.digests[mode.checksum]), response.headers.get(CHECKSUMS[mode.checksum].header)
        if theirs is not None and theirs != ours:
            return "ChecksumMismatch", f"S3 stored {mode.checksum} {theirs}, sent was {ours}", True
        if mode.checksum is ChecksumAlgorithm.CRC64NVME:
            if theirs is not None:
                self._capabilities.crc_confirmed()
            elif self._capabilities.crc_not_confirmed(operation) and not comparable:
                # Acknowledged but not verified: sent again with Content-MD5, which every store checks.
                return "ChecksumNotConfirmed", "S3 did not confirm the CRC64NVME", True
        return None
