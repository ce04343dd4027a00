"""Whether the object under a key is the expected one: ours, with these bytes.

It is ours only if the stream's id is in its user metadata. Its bytes are proved by its CRC64NVME if the store keeps
one, else by its ETag if the caller expects one (:mod:`cef_trio.s3.etags`). If neither can be compared, or the ETag
differs (stores compute it differently), the object is downloaded and its content compared. An object in an archive
class cannot be downloaded, so its content is unverified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import SingleAttempt
from cef_trio.s3.checksums import Crc64Nvme, crc64nvme_to_base64
from cef_trio.s3.download import Downloader
from cef_trio.s3.errors import ARCHIVED
from cef_trio.s3.model import StoredObject

STREAM_ID_METADATA: Final = "cef-stream-id"
UNREADABLE: Final = "its ETag cannot be compared, and its archive class does not allow reading it"
"""The difference of an object whose bytes remain unknown."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ExpectedObject:
    """An object that S3 may have created although its response was lost."""

    key: str
    stream_id: str
    size_bytes: int
    crc64nvme: int
    etag: str | None
    """The ETag that proves the bytes; ``None`` if none does."""

    async def difference(self, stored: StoredObject, downloader: Downloader) -> str | None:
        """Return why an object is not the expected one; ``None`` if it is.

        Raises:
            S3OperationError: its content was needed and could not be read.
        """
        if stored.metadata.get(STREAM_ID_METADATA) != self.stream_id:
            return "it belongs to another stream"
        return await self.content_difference(stored, downloader)

    async def content_difference(self, stored: StoredObject, downloader: Downloader) -> str | None:
        """Return how an object's content differs from the expected one; ``None`` if it is verified to be equal.

        Raises:
            S3OperationError: its content was needed and could not be read.
        """
        if difference := self.size_difference(stored):
            return difference
        if stored.crc64nvme is not None:
            return self.crc_difference(stored.crc64nvme)
        if self.etag is not None and stored.etag == self.etag:
            return None
        log.warning("s3_object_verified_by_read", key=self.key, etag=stored.etag, expected_etag=self.etag)
        crc = Crc64Nvme()
        try:
            async with downloader.open(self.key, SingleAttempt()) as (_, chunks):
                async for chunk in chunks:
                    crc.update(chunk)
        except S3OperationError as error:
            if error.code != ARCHIVED:
                raise
            return UNREADABLE
        return self.crc_difference(crc.value)

    def size_difference(self, stored: StoredObject) -> str | None:
        """Return how the size differs; ``None`` if it is the same."""
        if stored.size_bytes == self.size_bytes:
            return None
        return f"it has {stored.size_bytes} bytes instead of {self.size_bytes}"

    def crc_difference(self, theirs: int) -> str | None:
        """Return how a CRC64NVME differs; ``None`` if it is the same."""
        if theirs == self.crc64nvme:
            return None
        return f"its CRC64NVME is {crc64nvme_to_base64(theirs)} instead of {crc64nvme_to_base64(self.crc64nvme)}"
