"""Stray uploads: open under an ended stream's key, though nothing will go on with them (promise P5).

An upload whose creation was answered to nobody lies under its stream's key. The end of the stream looks for it, and
does not wait for that (``best_effort.py``); and a creation may take effect after that look, or after the daemon that
asked for it. So the open uploads are listed now and then, for as long as a daemon lives, and those of ended streams are
aborted. What belongs to a stream that Redis does not know is not touched: it may be another program's, another host's
(P9), or be adopted (``orphan_uploads.py``); ``cef-trio gc`` is for these.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

import structlog
import trio

from cef_trio.checkpoint import ENDED, Status, StreamMeta
from cef_trio.exceptions import CefMp4ProcessorError, RecordUnreadableError, S3OperationError
from cef_trio.resilience import PAUSE_SECONDS
from cef_trio.s3 import ListedUpload
from cef_trio.upload import bulk_load
from cef_trio.upload.failures import KEEPS_ITS_UPLOAD

if TYPE_CHECKING:
    from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 600.0
"""Between two looks, if nothing is known to be left."""
_LIST: Final = "list_multipart_uploads"
_KEPT: Final = frozenset(Status.failed(reason) for reason in KEEPS_ITS_UPLOAD)


class OrphanCleanup:
    """When strays are looked for next."""

    def __init__(self) -> None:
        self._look_at = -inf
        self.refused = False
        """Whether S3 refused to list them when it was asked last."""

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return trio.current_time() >= self._look_at

    def request(self) -> None:
        """Some could not be looked for just now: the next turn looks."""
        self._look_at = -inf

    def done(self) -> None:
        """The look is done."""
        self._look_at = trio.current_time() + PERIOD_SECONDS


def is_orphan(meta: StreamMeta, upload_id: str) -> bool:
    """Whether nothing goes on with an upload under that stream's key. Pure."""
    if meta.status not in ENDED:
        return False
    return not (meta.status in _KEPT and meta.s3_upload_id in {None, upload_id})  # `cef-trio retry` goes on with it


async def abort_orphan_uploads(services: Services) -> None:
    """Look for strays, now and then, for ever; S3's and Redis's trouble is waited out."""
    while True:
        await trio.sleep(PAUSE_SECONDS)
        if not services.orphan_cleanup.due:
            continue
        try:
            if await _abort_all(services):
                services.orphan_cleanup.done()
        except CefMp4ProcessorError as error:
            log.warning("orphan_abort_failed", error=str(error))


async def _abort_all(services: Services) -> bool:
    """Abort the strays that S3 lists; returns whether it could be asked, or never can be."""
    template, cleanup = services.rules.key_template, services.orphan_cleanup
    try:
        uploads = await services.attempt(_LIST, lambda: services.s3.list_multipart_uploads(template.prefix))
    except S3OperationError as error:
        if error.transient:
            raise
        if not cleanup.refused:
            log.warning("orphan_listing_failed", error=str(error))  # not allowed to list: `cef-trio gc` says so too
        cleanup.refused = True
        return True
    if uploads is None:
        return False
    cleanup.refused = False
    found = [(upload, proposed.stream_id) for upload in uploads if (proposed := template.parse(upload.key))]
    # Asked after S3: a daemon records a stream before it opens its upload.
    known = await bulk_load.load_metas(services.store, {stream_id for _, stream_id in found})
    for upload, stream_id in found:
        if stream_id not in known or not services.ownership.is_ours(known[stream_id].meta):
            continue
        if is_orphan(known[stream_id].meta, upload.upload_id):
            await _abort(services, upload, stream_id)
    return True


async def _abort(services: Services, upload: ListedUpload, stream_id: str) -> None:
    """Judge it again under its stream's lease, so that nobody takes the stream up meanwhile, and abort it.

    The lease is no stream's task's, not even this daemon's. If this ends early, it runs out by itself.
    """
    store = services.store
    lease = replace(services.lease, instance=f"{services.lease.instance}/orphan-cleanup")
    ours_until = trio.current_time() + lease.ttl_seconds / 2
    if not await store.acquire(stream_id, lease):
        return
    try:
        checkpoint = await store.load(stream_id)
    except RecordUnreadableError:
        checkpoint = None  # a record that cannot be read keeps its upload
    if checkpoint is not None and is_orphan(checkpoint.meta, upload.upload_id):
        with trio.move_on_at(ours_until) as scope:
            await services.s3.abort_multipart_upload(upload.key, upload.upload_id)
        if not scope.cancelled_caught:
            log.info("orphan_upload_aborted", stream_id=stream_id, key=upload.key, upload_id=upload.upload_id)
    await store.release([stream_id], lease)
