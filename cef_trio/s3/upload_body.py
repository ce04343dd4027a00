"""Send and verify a body: the common part of UploadPart and PutObject.

The first pass measures, the second sends (:mod:`cef_trio.s3.body`). Then the response's headers are compared with what
was sent (:mod:`cef_trio.s3.proof`). The comparison has no checkpoint and does not read the file, so a cancellation
never loses an acknowledged part (promise P2).

If the response proves nothing, an object is read back and compared before it counts as stored
(:meth:`BodyUploader.send_object`). A part cannot be read, so its upload's whole object is compared at its completion
(:mod:`cef_trio.s3.complete`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cef_trio.exceptions import RecordingChangedError, S3OperationError
from cef_trio.s3.body import CheckedBody, Measured, measure
from cef_trio.s3.capabilities import Capabilities, UploadMode
from cef_trio.s3.checksums import CHECKSUMS, to_base64
from cef_trio.s3.download import Downloader
from cef_trio.s3.errors import UNREADABLE_ANSWER
from cef_trio.s3.expected_object import UNREADABLE, ExpectedObject
from cef_trio.s3.model import ByteSource, ChecksumAlgorithm, StoredObject
from cef_trio.s3.proof import Evidence, Proof, evidence_of
from cef_trio.s3.rate_limiter import RateLimiter
from cef_trio.s3.signing import UNSIGNED_PAYLOAD
from cef_trio.s3.transport import Response, ResponseMode, S3Request, Transport
from cef_trio.s3.xml import unquoted
from cef_trio.safe_text import one_line


@dataclass(frozen=True, slots=True)
class SentBody:
    """A body that S3 acknowledged."""

    measured: Measured
    mode: UploadMode
    etag: str
    response: Response
    proved: bool
    """Whether the response proves that S3 has these bytes."""


class BodyUploader:
    """Sends bodies to one bucket, in the mode that the store supports."""

    def __init__(
        self,
        transport: Transport,
        capabilities: Capabilities,
        downloader: Downloader,
        *,
        rate_limiter: RateLimiter,
        kms_requested: bool,
    ) -> None:
        self._transport = transport
        self._downloader = downloader
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

    async def send_object(
        self, request: S3Request, source: ByteSource, *, crc64nvme: int | None = None
    ) -> SentBody | StoredObject:
        """PUT an object as :meth:`send` does; if the response does not prove its bytes, return the object as compared.

        No checkpoint between the arrival of the response's headers and the return, if the response proves the bytes.
        Otherwise the object exists after a cancellation, and is not compared.

        Raises:
            RecordingChangedError, ChunkProcessingError: as :meth:`send`.
            S3OperationError: as :meth:`send`, or the object could not be read; ``ChecksumMismatch`` if it has other
                bytes.
        """
        sent = await self.send(request, source, crc64nvme=crc64nvme)
        if sent.proved:
            return sent
        key = request.key or ""
        expected = ExpectedObject(key, "", sent.measured.size_bytes, sent.measured.crc64nvme, None)
        stored = await self._downloader.head(key)
        if stored is None:
            text = "S3 reported success, but there is no object"
            raise self._error(request, sent.response, "UnknownOutcome", text)
        why_not = await expected.content_difference(stored, self._downloader)
        if why_not is not None:
            text, can_pass = f"the object was not verified: {why_not}", why_not != UNREADABLE
            raise self._error(request, sent.response, "ChecksumMismatch", text, transient=can_pass)
        return stored

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
        etag = unquoted(response.headers.get("etag"))
        if etag is None:
            # S3 has the bytes, and a listing of the parts, or HeadObject, may show its ETag.
            text = "S3 acknowledged the bytes without an ETag, or with an endless one; does a proxy change it?"
            raise self._error(request, response, "MissingETag", text)
        if not etag.isprintable():  # it could not be sent in the XML of the completion
            text = f"S3 acknowledged the bytes with the ETag {one_line(ascii(etag))}"
            raise self._error(request, response, UNREADABLE_ANSWER, text)
        evidence = self._evidence(etag, response, measured)
        if evidence.proof is Proof.DAMAGED:
            raise self._error(request, response, "ChecksumMismatch", evidence.text)
        proved = evidence.proof.is_proved
        if evidence.proof is Proof.CHECKSUM:
            self._capabilities.confirmed(mode.checksum)
        elif evidence.proof is not Proof.CONTRADICTION and mode.checksum is not ChecksumAlgorithm.MD5:
            use_md5 = self._capabilities.not_confirmed(mode.checksum, request.operation)
            if not proved and (use_md5 or ChecksumAlgorithm.MD5 not in measured.digests):
                # Sent again with Content-MD5, which every store checks, or at least compared with the ETag.
                text = f"S3 did not confirm the {mode.checksum}"
                raise self._error(request, response, "ChecksumNotConfirmed", text)
        return SentBody(measured, mode, etag, response, proved)

    def _evidence(self, etag: str, response: Response, measured: Measured) -> Evidence:
        return evidence_of(etag, response.headers, measured.digests, kms_requested=self._kms_requested)

    def _error(
        self, request: S3Request, response: Response, code: str, message: str, *, transient: bool = True
    ) -> S3OperationError:
        return self._transport.error(
            request,
            code,
            f"{code}: {message}",
            transient=transient,
            status=response.status,
            request_id=response.headers.get("x-amz-request-id"),
        )
