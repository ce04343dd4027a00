"""CompleteMultipartUpload, including its known pitfalls.

- S3 sends status 200 before it has finished, then white space to keep the connection alive, and possibly ``<Error>``.
- The response may be missing, cut off or not from S3, although the object was created.
- A repetition after a success gets ``NoSuchUpload`` (AWS after a while, Ceph, MinIO) or 200 (AWS, Swift).
- Ceph may respond with an empty ``<ETag/>``.

The object is verified by the response's CRC64NVME, by the checksum of the parts' checksums, or by the ETag that S3
computes from the parts' ETags, if each part was proved when it was sent (:mod:`cef_trio.s3.proof`). Otherwise it is
compared (:mod:`cef_trio.s3.expected_object`), by the CRC64NVME that S3 keeps or by its content: so it is where the
store ignores checksums and its ETags are opaque (KMS), since a success response proves no byte.

If the response does not state the outcome, the object is compared, too: it belongs to this upload only if the stream's
id is in its user metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog

from cef_trio.exceptions import S3OperationError
from cef_trio.s3.capabilities import Capabilities
from cef_trio.s3.checksums import (
    CHECKSUMS,
    FULL_OBJECT,
    combine_crc64nvme,
    composite_checksum,
    crc64nvme_to_base64,
)
from cef_trio.s3.download import Downloader
from cef_trio.s3.etags import is_opaque, multipart_etag
from cef_trio.s3.expected_object import ExpectedObject
from cef_trio.s3.model import ChecksumAlgorithm, PartToComplete, StoredObject
from cef_trio.s3.transport import Response, S3Request, Transport, sha256_hex
from cef_trio.s3.xml import CompleteResult, XmlError, complete_multipart_upload, parse_complete_result

_OPERATION: Final = "complete_multipart_upload"
_OK: Final = 200
_MULTIPLE_CHOICES: Final = 300
NO_SUCH_UPLOAD: Final = frozenset({"NoSuchUpload", "NoSuchKey"})
"""The codes for an upload that is not open; the second is Ceph's."""

log = structlog.get_logger(__name__)


class Completion:
    """The completion of one upload; :meth:`attempt` may be repeated until the outcome is known."""

    def __init__(
        self,
        transport: Transport,
        *,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[PartToComplete],
        checksum: ChecksumAlgorithm,
        stream_id: str,
        read_timeout_seconds: float,
        downloader: Downloader,
        capabilities: Capabilities,
        kms_requested: bool = False,
    ) -> None:
        """Prepare the request; ``downloader`` reads the object if the response does not suffice.

        Raises:
            ValueError: no parts.
        """
        if not parts:
            raise ValueError("an upload without parts cannot be completed")
        ordered = sorted(parts, key=lambda part: part.part_number)
        self._transport = transport
        self._bucket = bucket
        self._key = key
        self._downloader = downloader
        self._capabilities = capabilities
        self._kms_requested = kms_requested
        self._composite = (
            composite_checksum(checksum, (part.checksum for part in ordered))
            if CHECKSUMS[checksum].is_composite
            else None
        )
        self._expected = ExpectedObject(
            key,
            stream_id,
            sum(part.size_bytes for part in ordered),
            combine_crc64nvme((part.crc64nvme, part.size_bytes) for part in ordered),
            multipart_etag([part.etag for part in ordered]),
        )
        body = complete_multipart_upload(ordered, checksum)
        headers = {"content-type": "application/xml"}
        if (object_type := CHECKSUMS[checksum].object_type) is not None:
            headers["x-amz-checksum-type"] = object_type
        if object_type == FULL_OBJECT:
            headers[CHECKSUMS[checksum].header] = crc64nvme_to_base64(self._expected.crc64nvme)
            headers["x-amz-mp-object-size"] = str(self._expected.size_bytes)
        self._request = S3Request(
            _OPERATION,
            "POST",
            sha256_hex(body),
            key=key,
            query=(("uploadId", upload_id),),
            headers=headers,
            body=body,
            size_bytes=self._expected.size_bytes,
            read_timeout_seconds=read_timeout_seconds,
        )

    async def attempt(self) -> StoredObject:
        """Complete the upload and verify the object. See :meth:`S3Client.complete_multipart_upload`."""
        try:
            response = await self._transport.perform(self._request)
        except S3OperationError as error:
            # An error with a 2xx status: the response was cut off, so the upload may be complete.
            if error.code in NO_SUCH_UPLOAD or (error.status is not None and error.status < _MULTIPLE_CHOICES):
                return await self._own_object_or_raise(error)
            raise
        try:
            result = parse_complete_result(response.body)
        except XmlError as error:
            raise_instead = self._error_in(response, error)
            if raise_instead.code in NO_SUCH_UPLOAD or raise_instead.code == "UnknownOutcome":
                return await self._own_object_or_raise(raise_instead)
            raise raise_instead from error
        return await self._verified(result, response)

    def _error_in(self, response: Response, reason: XmlError) -> S3OperationError:
        """Return the error in a response with status 200; ``UnknownOutcome`` if it is unreadable."""
        reported = self._transport.error_within(self._request, response.headers, response.body)
        return reported or self._error(
            "UnknownOutcome", f"the response does not state the outcome: {reason}", transient=True
        )

    async def _own_object_or_raise(self, error: S3OperationError) -> StoredObject:
        """Return the object if it belongs to this upload; raise the original error otherwise."""
        stored = await self._downloader.head(self._key)
        expected = self._expected_object(opaque_etags=stored is not None and stored.opaque_etag)
        why_not = "there is no object" if stored is None else await expected.difference(stored, self._downloader)
        if stored is not None and why_not is None:
            log.info("s3_completion_confirmed_by_head", key=self._key, instead_of=error.code)
            return stored
        raise S3OperationError(
            _OPERATION,
            f"{error.message}; the object was checked: {why_not}",
            transient=error.transient,
            code="NoSuchUpload" if error.code in NO_SUCH_UPLOAD else error.code,
            status=error.status,
            request_id=error.request_id,
            bucket=self._bucket,
            key=self._key,
        ) from error

    async def _verified(self, result: CompleteResult, response: Response) -> StoredObject:
        """Return the object of a success response once its content is verified."""
        etag, size_bytes = result.etag, self._expected.size_bytes
        expected = self._expected_object(opaque_etags=is_opaque(response.headers))
        if result.crc64nvme is not None and etag is not None:
            stored = StoredObject(self._key, size_bytes, etag, result.crc64nvme, {})
            difference = expected.crc_difference(result.crc64nvme)
        elif etag is not None and (
            etag == expected.etag or (result.composite is not None and result.composite == self._composite)
        ):
            return StoredObject(self._key, size_bytes, etag, None, {})
        else:
            found = await self._downloader.head(self._key)
            if found is None:
                raise self._error("UnknownOutcome", "S3 reported success, but there is no object", transient=True)
            stored = found
            difference = await expected.content_difference(stored, self._downloader)
        if difference is not None:
            raise self._error("ChecksumMismatch", f"the object differs from its parts: {difference}", transient=False)
        return stored

    def _expected_object(self, *, opaque_etags: bool) -> ExpectedObject:
        """Return the expected object; without an ETag, if those of its parts prove nothing."""
        if self._capabilities.proves_parts(opaque_etags=opaque_etags or self._kms_requested):
            return self._expected
        return replace(self._expected, etag=None)

    def _error(self, code: str, message: str, *, transient: bool) -> S3OperationError:
        return self._transport.error(self._request, code, message, transient=transient, status=_OK)
