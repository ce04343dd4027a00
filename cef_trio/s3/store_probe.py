"""Proves that a store takes what recordings need: what S3's circuit breaker asks.

A write is proved by a small object at a fixed key (:meth:`S3Client.probe`). Where that alone is denied, it may be that
key's own: a policy that names the keys of recordings does not name it. So an ``AccessDenied`` is checked by what an
upload does, at a key as a recording has: an upload is opened, given a part of a few bytes, and aborted. It leaves no
object. If that is let through, nothing strikes all, and it is said once that the probe's key is to be allowed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import structlog

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import Need, shielded
from cef_trio.s3.body import BytesSource
from cef_trio.s3.client import S3Client

log = structlog.get_logger(__name__)

_ABORT_SECONDS: Final = 2.0
_CONTENT: Final = b"cef-trio was here\n"


class StoreProbe:
    """Asks one store; an instance is a :data:`~cef_trio.resilience.outage.Probe`."""

    def __init__(self, s3: S3Client, key: str, recording_key: str) -> None:
        """``key`` is where the small object is put; ``recording_key`` is one as a recording may have."""
        self._s3 = s3
        self._key = key
        self._recording_key = recording_key
        self._said = False

    async def __call__(self, need: Need) -> None:
        """Prove it.

        Raises:
            S3OperationError: S3 refused, or did not answer.
        """
        try:
            await self._s3.probe(need, self._key)
        except S3OperationError as refused:
            if refused.code != "AccessDenied" or need is Need.READ or not await self._takes_uploads():
                raise
            if not self._said:
                self._said = True
                log.warning("probe_key_refused", key=self._key, error=str(refused))

    async def _takes_uploads(self) -> bool:
        s3 = self._s3
        options = s3.options
        try:
            created = await s3.create_multipart_upload(
                self._recording_key, metadata={}, content_type=options.content_type, headers=options.for_recording()
            )
            try:
                await s3.upload_part(self._recording_key, created.upload_id, 1, BytesSource(_CONTENT), created.checksum)
            finally:
                with shielded(_ABORT_SECONDS, saving="probe's abort"), suppress(S3OperationError):
                    await s3.abort_multipart_upload(self._recording_key, created.upload_id)
        except S3OperationError:
            return False
        return True
