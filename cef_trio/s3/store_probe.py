"""The probe of S3's circuit breaker: whether the store accepts what recordings need.

Each probe uses a new connection and makes one attempt. A write is tested with a small object at a fixed key, which is
deleted again; without the permission to delete, it stays and is overwritten by the next probe. If a multipart upload
failed, one of a few bytes is completed under that key as well, since a policy may refuse these and allow PutObject.
Another one is begun at a key that a recording could have (create, one part of a few bytes, abort), since those keys may
be refused, and the probe's not. The next probe goes on with one that could be neither completed nor aborted, so that
not every probe of an outage leaves one. But the outage may have broken that upload for good, so its error shows nothing
about uploads: a new one decides, every ``_FRESH_SECONDS`` at most. ``upload/orphan_cleanup.py`` aborts what is left.

``AccessDenied`` may be specific to the probe's key, if a policy allows the keys of recordings only. It is then tested
with that upload at a recording's key, and a PutObject there under a condition that no object fulfils; these leave no
object. If both are allowed there is no outage, and a warning about the probe's key is logged once. That PutObject is
not made where the probe's key is accepted: a store that ignores conditions would keep an object like a recording.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import structlog
import trio

from cef_trio.exceptions import S3OperationError
from cef_trio.resilience import ProbeKind, shielded
from cef_trio.s3.body import BytesSource
from cef_trio.s3.capabilities import IF_MATCH
from cef_trio.s3.client import S3Client
from cef_trio.s3.complete import NO_SUCH_UPLOAD
from cef_trio.s3.expected_object import STREAM_ID_METADATA
from cef_trio.s3.model import CreatedUpload, PartToComplete

log = structlog.get_logger(__name__)

_ABORT_SECONDS: Final = 2.0
_FRESH_SECONDS: Final = 30.0
"""How long an upload that was left keeps a new one from being begun: so much later may the end of an outage be seen,
and so often may one be left."""
_CONTENT: Final = b"cef-trio was here\n"
_STREAM_ID: Final = "probe"
_NO_ETAG: Final = "0" * 32
_DENIED: Final = "AccessDenied"


class StoreProbe:
    """Probes one store; an instance is a :data:`~cef_trio.resilience.outage.Probe`."""

    def __init__(self, s3: S3Client, key: str, recording_key: str) -> None:
        """``key`` is the key of the small object; ``recording_key`` is a key that a recording could have."""
        self._s3 = s3
        self._key = key
        self._recording_key = recording_key
        self._may_delete = True
        self._left: dict[str, CreatedUpload] = {}
        """By key, the upload that could not be aborted."""
        self._begun_at: dict[str, float] = {}
        """By key, when an upload was last begun, or S3 was asked for it."""
        self._warned = False

    async def __call__(self, kind: ProbeKind) -> None:
        """Probe the store.

        Raises:
            S3OperationError: S3 refused, or did not respond.
        """
        self._s3.renew_connections()
        if kind is ProbeKind.READ:
            await self._s3.head_bucket()
            return
        try:
            await self._put()
        except S3OperationError as refused:
            if refused.code != _DENIED or not await self._takes_recordings():
                raise
            if not self._warned:
                self._warned = True
                log.warning("probe_key_refused", key=self._key, error=str(refused))
            return
        if kind is ProbeKind.UPLOAD:
            await self._upload(self._key, complete=True)
            await self._delete(self._key)
            await self._upload(self._recording_key, complete=False)

    async def _put(self) -> None:
        headers = self._s3.options.for_recording()
        await self._s3.put_object(self._key, _CONTENT, content_type="text/plain", headers=headers)
        await self._delete(self._key)

    async def _delete(self, key: str) -> None:
        if self._may_delete:
            try:
                await self._s3.delete_object(key)
            except S3OperationError as error:
                self._may_delete = error.transient

    async def _takes_recordings(self) -> bool:
        try:
            await self._upload(self._recording_key, complete=False)
            await self._put_without_effect(self._recording_key)
        except S3OperationError:
            return False
        return True

    async def _put_without_effect(self, key: str) -> None:
        """Ask whether PutObject is allowed, with a condition that no object fulfils: a store refuses it afterwards."""
        headers = {**self._s3.options.for_recording(), IF_MATCH: f'"{_NO_ETAG}"'}
        try:
            await self._s3.put_object(key, _CONTENT, content_type="text/plain", headers=headers)
        except S3OperationError as refused:
            if refused.code == _DENIED or refused.transient:
                raise
        else:
            await self._s3.delete_object(key)  # the store ignores conditions

    async def _upload(self, key: str, *, complete: bool) -> None:
        """Upload a few bytes as a part, and complete the upload or abort it; after an error it is aborted too."""
        left = self._left.get(key)
        if left is not None:
            try:
                await self._send(key, left, complete=complete)
            except S3OperationError as error:
                # If it is gone, its abort took effect, and had no response.
                is_gone = error.code in NO_SUCH_UPLOAD
                if not is_gone and trio.current_time() < self._begun_at[key] + _FRESH_SECONDS:
                    raise
            else:
                return
        created = await self._create(key)
        self._left.pop(key, None)  # the cleanup's from now on; it may be broken, so no later probe may depend on it
        await self._send(key, created, complete=complete)

    async def _send(self, key: str, created: CreatedUpload, *, complete: bool) -> None:
        s3 = self._s3
        try:
            part = await s3.upload_part(key, created.upload_id, 1, BytesSource(_CONTENT), created.checksum)
            if complete:
                sent = PartToComplete(1, part.etag, part.size_bytes, part.crc64nvme, part.checksum)
                await s3.complete_multipart_upload(
                    key, created.upload_id, [sent], checksum=created.checksum, stream_id=_STREAM_ID
                )
                self._forget(key, created)
                return
        except BaseException:
            await self._abort(key, created)
            raise
        await self._abort(key, created)

    async def _create(self, key: str) -> CreatedUpload:
        options = self._s3.options
        self._begun_at[key] = trio.current_time()
        try:
            return await self._s3.create_multipart_upload(
                key,
                metadata={STREAM_ID_METADATA: _STREAM_ID},
                content_type=options.content_type_of(key),
                headers=options.for_recording(),
            )
        except BaseException as error:
            if not isinstance(error, S3OperationError) or error.transient:
                with shielded(_ABORT_SECONDS, saving="probe's abort"):
                    await self._abort_listed(key)  # S3 may have made it
            raise

    async def _abort(self, key: str, created: CreatedUpload) -> None:
        self._left[key] = created
        with shielded(_ABORT_SECONDS, saving="probe's abort"), suppress(S3OperationError):
            await self._s3.abort_multipart_upload(key, created.upload_id)
            self._forget(key, created)

    def _forget(self, key: str, ended: CreatedUpload) -> None:
        if self._left.get(key) is ended:  # not one that was left meanwhile
            del self._left[key]

    async def _abort_listed(self, key: str) -> None:
        """Abort the open uploads of a probe's key, as far as S3 lists them."""
        with suppress(S3OperationError):
            for upload in await self._s3.list_multipart_uploads(key):
                if upload.key == key:
                    await self._s3.abort_multipart_upload(key, upload.upload_id)
