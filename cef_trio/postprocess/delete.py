"""``AFTER_UPLOAD=delete``: delete the recording."""

from __future__ import annotations

from functools import partial

import structlog

from cef_trio.postprocess import disposal
from cef_trio.postprocess.after_upload_rules import VerifiedFile
from cef_trio.upload import HeldLease, Services

log = structlog.get_logger(__name__)


class Delete:
    """Deletes verified recordings."""

    def __init__(self, services: Services, _folder: str) -> None:
        self._disk = services.disk

    async def apply(self, file: VerifiedFile, _lease: HeldLease) -> None:
        """See :class:`~cef_trio.postprocess.after_upload.Action`."""
        if await self._disk.change(partial(disposal.delete_now, file), path=file.path):
            log.info("recording_deleted_after_upload", stream_id=file.stream_id, path=file.path)
