"""Send and verify a body: the common part of UploadPart and PutObject.

The first pass measures, the second sends (:mod:`cef_trio.s3.body`). Then the response's headers are compared with what
was sent: the checksum that S3 repeats, or the ETag if it is the MD5 of the bytes. The comparison has no checkpoint and
does not read the file, so a cancellation never loses an acknowledged part (promise P2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cef_trio.exceptions import RecordingChangedError, S3OperationError
from cef_trio.s3.body import CheckedBody, Measured, measure
from cef_trio.s3.capabilities import Capabilities, UploadMode
from cef_trio.s3.checksums import CHECKSUMS, to_base64
from cef_trio.s3.etags import is_md5
from cef_trio.s3.model import ByteSource, ChecksumAlgorithm
from cef_trio.s3.rate_limiter import RateLimiter
from cef_trio.s3.signing import UNSIGNED_PAYLOAD
from cef_trio.s3.transport import Response, ResponseMode, S3Request, Transport
from cef_trio.s3.xml import unquoted


@dataclass(frozen=True, slots=True)
class SentBody:
    """A body that S3 acknowledged, verified to be what was sent."""

    measured: Measured
    mode: UploadMode
    etag: str
    response: Response


class BodyUploader:
    """Sends bodies to one bucket, in the mode that the store supports."""

    def __init__(
        self, transport: Transport, capabilities: Capabilities, *, rate_limiter: RateLimiter, kms_requested: bool
    ) -> None:
        self._transport = transport
        self._rate_limiter = rate_limiter
        self._kms_requested = kms_requested
        self._capabilities = capabilities

    async def send(
        self,
        request: S3Request,
        source: ByteSource,
        upload: ChecksumAlgorithm | None = None,
        *,
        crc64nvme: int | None = None,
    ) -> SentBody:
        """PUT the source's bytes; once more in another mode if the store seems to lack the first one.

        ``upload`` is the algorithm of the upload that a part belongs to; ``crc64nvme`` is the only CRC64NVME that may
        be sent. No checkpoint between the arrival of the response's headers and the return.

        Raises:
            RecordingChangedError: the bytes changed between the passes, or do not have that CRC64NVME; S3 stored
                nothing.
            ChunkProcessingError: from the source.
            S3OperationError: S3 refused, did not respond, or stored something else.
        """
        negotiation = self._capabilities.negotiate(upload)
        while True:
            try:
                sent = await self._send(request, source, negotiation.mode, crc64nvme)
            except S3OperationError as error:
                negotiation.refused(error)
            else:
                negotiation.accepted()
                return sent

    async def _send(self, request: S3Request, source: ByteSource, mode: UploadMode, crc64nvme: int | None) -> SentBody:
        algorithms = {mode.checksum}
        if mode.signed:
            algorithms.add(ChecksumAlgorithm.SHA256)
        if self._capabilities.needs_md5_too(mode):
            algorithms.add(ChecksumAlgorithm.MD5)
        measured = await measure(source, algorithms)
        if crc64nvme is not None and measured.crc64nvme != crc64nvme:
            changed = RecordingChangedError("the recording's bytes changed after they were verified")
            changed.transient = False  # a repetition would read the same bytes
            raise changed
        checksum = {CHECKSUMS[mode.checksum].header: to_base64(measured.digests[mode.checksum])}
        response = await self._transport.perform(
            replace(
                request,
                payload_hash=measured.digests[ChecksumAlgorithm.SHA256].hex() if mode.signed else UNSIGNED_PAYLOAD,
                headers={**request.headers, **checksum},
                body=CheckedBody(source, measured, self._rate_limiter),
                size_bytes=measured.size_bytes,
                response_mode=ResponseMode.HEADERS,
                of_object=True,
            )
        )
        mismatch = self._mismatch(request.operation, response, measured, mode)
        if mismatch is not None:
            code, message, transient = mismatch
            raise self._transport.error(
                request,
                code,
                f"{code}: {message}",
                transient=transient,
                status=response.status,
                request_id=response.headers.get("x-amz-request-id"),
            )
        return SentBody(measured, mode, unquoted(response.headers.get("etag")) or "", response)

    def _mismatch(
        self, operation: str, response: Response, measured: Measured, mode: UploadMode
    ) -> tuple[str, str, bool] | None:
        """Return why acknowledged bytes may differ from those sent: code, message, transient; ``None`` if verified."""
        etag = unquoted(response.headers.get("etag"))
        if etag is None:
            return "MissingETag", "S3 acknowledged the bytes without an ETag", False
        md5 = measured.digests.get(ChecksumAlgorithm.MD5)
        comparable = md5 is not None and is_md5(etag, response.headers, kms_requested=self._kms_requested)
        if md5 is not None and comparable and etag.lower() != md5.hex():
            return "ChecksumMismatch", f"S3 stored MD5 {etag} instead of {md5.hex()}", True
        if mode.checksum is ChecksumAlgorithm.MD5:
            return None
        ours, theirs = to_base64(measured.digests[mode.checksum]), response.headers.get(CHECKSUMS[mode.checksum].header)
        if theirs is not None and theirs != ours:
            return "ChecksumMismatch", f"S3 stored {mode.checksum} {theirs} instead of {ours}", True
        if mode.checksum is ChecksumAlgorithm.CRC64NVME:
            if theirs is not None:
                self._capabilities.crc_confirmed()
            elif self._capabilities.crc_not_confirmed(operation) and not comparable:
                # Acknowledged but not verified: sent again with Content-MD5, which every store checks.
                return "ChecksumNotConfirmed", "S3 did not confirm the CRC64NVME", True
        return None
