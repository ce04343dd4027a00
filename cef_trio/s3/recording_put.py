"""PutObject of a recording that is smaller than a part.

- The body is sent only if its CRC64NVME is that of the verified file. So all requests have the same bytes until the
  file is verified again. If the response does not prove the bytes, the object is read back and compared
  (:mod:`cef_trio.s3.upload_body`).
- A repetition first checks with HeadObject whether an earlier attempt took effect although its response was lost: the
  object is ours, and has the size and CRC64NVME (:mod:`cef_trio.s3.expected_object`).
- ``If-None-Match: *`` keeps a request that takes effect late from replacing a newer object of the stream. If another
  object has the key already (412), it is checked, and replaced unless it is the expected one, by a request with
  ``If-Match`` and its ETag, which cannot replace a newer one either. Stores that refuse a condition do not get it any
  more (:mod:`cef_trio.s3.capabilities`); others may ignore it. An object that cannot be read (403) is replaced without
  a condition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import structlog

from cef_trio.exceptions import S3OperationError
from cef_trio.s3.capabilities import IF_MATCH, IF_NONE_MATCH, Capabilities
from cef_trio.s3.download import Downloader
from cef_trio.s3.expected_object import ExpectedObject
from cef_trio.s3.fence import Fence, ask
from cef_trio.s3.model import ByteSource, StoredObject
from cef_trio.s3.transport import S3Request
from cef_trio.s3.upload_body import BodyUploader, SentBody

OPERATION: Final = "put_recording"
_PRECONDITION_FAILED: Final = 412
_NOT_FOUND: Final = 404

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Condition:
    """The header that lets S3 store an object only if its key has what was last seen."""

    header: str
    value: str

    def failed_with(self, error: S3OperationError) -> bool:
        """Whether an error means that the key has something else; a proxy's page does not."""
        if error.transient:
            return False
        # Without any object If-Match is an error 404.
        return error.status == _PRECONDITION_FAILED or (self.header == IF_MATCH and error.status == _NOT_FOUND)


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
        fence: Fence | None = None,
    ) -> None:
        """Prepare the request; ``request`` has no condition."""
        self._request = request
        self._source = source
        self._expected = expected
        self._sender = sender
        self._downloader = downloader
        self._capabilities = capabilities
        self._fence = fence
        self._attempted = False
        self._replaced: StoredObject | None = None
        """Another object that has the key, and is to be replaced."""

    async def attempt(self) -> SentBody | StoredObject:
        """Return the acknowledged body, or the object that was compared instead.

        No checkpoint between the arrival of the response's headers and the return, if these prove the bytes.

        Raises:
            RecordingChangedError: the bytes are not the verified ones; S3 stored nothing.
            ChunkProcessingError: from the source.
            S3OperationError: S3 refused, did not respond, or stored something else; transient if another request
                changed the object meanwhile.
            FenceError: the fence has failed; nothing was sent after that.
        """
        if self._attempted and (found := await self._find()) is not None:
            return found
        self._attempted = True
        condition = self._condition()
        try:
            return await self._send(condition)
        except S3OperationError as error:
            if condition is None or not condition.failed_with(error):
                return await self._fall_back(condition, error)
            conflict = error
        if (found := await self._find()) is not None:
            return found
        return await self._replace(condition, conflict)

    async def _replace(self, failed: Condition, conflict: S3OperationError) -> SentBody | StoredObject:
        """Replace the object because of which a condition failed."""
        if self._replaced is None and failed.header == IF_NONE_MATCH:
            return await self._send(None)  # S3 has an object, and does not show it
        condition = self._condition()
        if condition == failed:  # nothing changed, so the store cannot compare that ETag
            return await self._send_without(condition, conflict)
        try:
            return await self._send(condition)
        except S3OperationError as error:
            if condition is not None and condition.failed_with(error):
                error.transient = True  # another request changed the object meanwhile; the next attempt looks again
                raise
            return await self._fall_back(condition, error)

    def _condition(self) -> Condition | None:
        """Return the condition under which the key has what was last seen; ``None`` if the store has no such one."""
        etag = self._replaced.etag if self._replaced is not None else None
        if etag is None:
            condition = Condition(IF_NONE_MATCH, "*")
        elif etag.isascii() and etag.isprintable() and etag:
            condition = Condition(IF_MATCH, f'"{etag}"')
        else:
            return None
        return condition if self._capabilities.has_condition(condition.header) else None

    async def _fall_back(self, condition: Condition | None, error: S3OperationError) -> SentBody | StoredObject:
        """Send without a condition that the store may not support.

        Raises:
            S3OperationError: that error, if it has another cause.
        """
        if condition is None or not self._capabilities.may_lack_condition(condition.header, error):
            raise error
        return await self._send_without(condition, error)

    async def _send_without(self, condition: Condition, refusal: S3OperationError) -> SentBody | StoredObject:
        try:
            sent = await self._send(None)
        except S3OperationError as error:
            raise error if error.transient else refusal from None
        self._capabilities.condition_missing(condition.header, refusal)
        return sent

    async def _send(self, condition: Condition | None) -> SentBody | StoredObject:
        await ask(self._fence)
        headers = {condition.header: condition.value} if condition is not None else {}
        request = replace(self._request, headers={**self._request.headers, **headers})
        return await self._sender.send_object(request, self._source, crc64nvme=self._expected.crc64nvme)

    async def _find(self) -> StoredObject | None:
        """Return the expected object if S3 has it; note whether another object has the key."""
        try:
            stored, why_not = await find_object(self._expected, self._downloader)
        except S3OperationError as error:
            if error.transient:
                raise
            log.info("s3_object_not_checked", key=self._expected.key, error=str(error))
            self._replaced = None
            return None
        self._replaced = stored if why_not is not None else None
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
