"""``AFTER_UPLOAD=delete`` and ``MIN_FREE_SPACE``: delete the recording."""

from __future__ import annotations

from functools import partial

import structlog

from cef_trio.observability import FreedBy
from cef_trio.postprocess import disposal
from cef_trio.postprocess.after_upload_rules import VerifiedFile
from cef_trio.upload import HeldLease, Services

log = structlog.get_logger(__name__)


class Delete:
    """Deletes verified recordings."""

    def __init__(self, services: Services, _folder: str) -> None:
        self._disk = services.disk
        self._metrics = services.metrics

    async def apply(self, file: VerifiedFile, _lease: HeldLease, cause: FreedBy) -> bool:
        """See :class:`~cef_trio.postprocess.after_upload.Action`."""
        freed_bytes = await self._disk.change(partial(disposal.delete_now, file), path=file.path)
        if freed_bytes is None:
            return False
        self._metrics.space_freed(freed_bytes, cause)
        log.info(
            "recording_deleted_after_upload",
            stream_id=file.stream_id,
            path=file.path,
            freed_bytes=freed_bytes,
            cause=cause.value,
        )
        return True
