"""PutObject of a recording that is smaller than a part.

- The body is sent only if its CRC64NVME is that of the verified file. So all requests have the same bytes until the
  file is verified again. If the response does not prove the bytes, the object is read back and compared
  (:mod:`cef_trio.s3.upload_body`).
- A repetition first checks with HeadObject whether an earlier attempt took effect although its response was lost: the
  object is ours, and has the size and CRC64NVME (:mod:`cef_trio.s3.expected_object`).
- ``If-None-Match: *`` keeps a request that takes effect late from replacing a newer object of the stream. If another
  object has the key already (412), it is checked, and replaced unless it is the expected one. Stores that refuse the
  condition get none (:mod:`cef_trio.s3.capabilities`); most others ignore it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import structlog

from cef_trio.exceptions import S3OperationError
from cef_trio.s3.capabilities import Capabilities
from cef_trio.s3.download import Downloader
from cef_trio.s3.expected_object import ExpectedObject
from cef_trio.s3.model import ByteSource, StoredObject
from cef_trio.s3.transport import S3Request
from cef_trio.s3.upload_body import BodyUploader, SentBody

OPERATION: Final = "put_recording"
_PRECONDITION_FAILED: Final = 412
_UNLESS_EXISTS: Final = {"if-none-match": "*"}

log = structlog.get_logger(__name__)


class RecordingPut:
    """One PutObject; :meth:`attempt` may be repeated until the outcome is known."""

    def __init__(
        self,
        request: S3Request,
        source: ByteSource,
        expected: ExpectedObject,
        *,
        sender: BodyUploader,
        downloader: Downloader,
        capabilities: Capabilities,
    ) -> None:
        """Prepare the request; ``request`` has no condition."""
        self._request = request
        self._source = source
        self._expected = expected
        self._sender = sender
        self._downloader = downloader
        self._capabilities = capabilities
        self._attempted = False
        self._replaces = False
        """Whether the key has another object, which is to be replaced."""

    async def attempt(self) -> SentBody | StoredObject:
        """Return the acknowledged body, or the object that was compared instead.

        No checkpoint between the arrival of the response's headers and the return, if these prove the bytes.

        Raises:
            RecordingChangedError: the bytes are not the verified ones; S3 stored nothing.
            ChunkProcessingError: from the source.
            S3OperationError: S3 refused, did not respond, or stored something else.
        """
        if self._attempted and (found := await self._find()) is not None:
            return found
        self._attempted = True
        if self._replaces or not self._capabilities.conditional_puts:
            return await self._send(self._request)
        try:
            return await self._send(replace(self._request, headers={**self._request.headers, **_UNLESS_EXISTS}))
        except S3OperationError as error:
            if error.status == _PRECONDITION_FAILED and not error.transient:  # not a proxy's page
                found = await self._find()
                return found if found is not None else await self._send(self._request)
            if not self._capabilities.may_lack_conditions(error):
                raise
            return await self._send_without_condition(error)

    async def _send_without_condition(self, refusal: S3OperationError) -> SentBody | StoredObject:
        try:
            sent = await self._send(self._request)
        except S3OperationError as error:
            raise error if error.transient else refusal from None
        self._capabilities.conditions_missing(refusal)
        return sent

    async def _send(self, request: S3Request) -> SentBody | StoredObject:
        return await self._sender.send_object(request, self._source, crc64nvme=self._expected.crc64nvme)

    async def _find(self) -> StoredObject | None:
        """Return the expected object if S3 has it; note whether another object has the key."""
        try:
            stored, why_not = await find_object(self._expected, self._downloader)
        except S3OperationError as error:
            if error.transient:
                raise
            log.info("s3_object_not_checked", key=self._expected.key, error=str(error))
            return None
        self._replaces = stored is not None
        return stored if why_not is None else None


async def find_object(expected: ExpectedObject, downloader: Downloader) -> tuple[StoredObject | None, str | None]:
    """Return the object under the key, and why it is not the expected one; ``(None, None)`` if there is none.

    Raises:
        S3OperationError: it could not be read.
    """
    stored = await downloader.head(expected.key)
    if stored is None:
        return None, None
    why_not = await expected.difference(stored, downloader)
    if why_not is None:
        log.info("s3_put_confirmed_by_head", key=expected.key)
    else:
        log.info("s3_object_is_another", key=expected.key, why=why_not)
    return stored, why_not
