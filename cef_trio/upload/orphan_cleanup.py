"""Abort orphaned uploads: open under an ended stream's key, though nothing will continue them (promise P5).

If the response to CreateMultipartUpload is lost, an upload without a record stays open under its stream's key. The end
of the stream looks for it, but does not wait if S3 cannot list (``best_effort.py``); the request may also take effect
later, or after its daemon ended. So the open uploads are listed periodically, and those of ended streams are aborted.
An upload whose stream Redis does not know is kept: it may belong to another program or host (P9), or be adopted
(``orphan_uploads.py``). ``cef-trio gc`` handles these.

Uploads that S3 did not abort when a stream wanted that are remembered by their ids, for as long as this process lives:
a store that does not list uploads tells nobody of them.

A daemon that is killed while it probes S3 leaves the probe's upload, which no record names. It is aborted when it has
been listed for longer than a probe takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Final

import structlog
import trio

from cef_trio.checkpoint import ENDED, Status, StreamMeta
from cef_trio.exceptions import CefMp4ProcessorError, RecordUnreadableError, S3OperationError
from cef_trio.resilience import PAUSE_SECONDS
from cef_trio.s3 import ListedUpload
from cef_trio.upload.failures import KEEPS_ITS_UPLOAD
from cef_trio.upload.lease_context import hold_lease

if TYPE_CHECKING:
    from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

PERIOD_SECONDS: Final = 600.0
"""The pause between two cleanups, if none is requested."""
_LIST: Final = "list_multipart_uploads"
_KEPT: Final = frozenset(Status.failed(reason) for reason in KEEPS_ITS_UPLOAD)
_PROBE_SECONDS: Final = 60.0
"""How long an upload at a key of the probe is listed before it is aborted: a probe of another daemon may use it."""
_MAX_LEFT: Final = 1000
"""Number of uploads that are remembered; more can only be listed (P7)."""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An open upload under a stream's key."""

    stream_id: str
    key: str
    upload_id: str


class OrphanCleanup:
    """The schedule of the cleanup, and the uploads that S3 did not abort."""

    def __init__(self) -> None:
        self._due_at = -inf
        self._left: dict[OpenUpload, None] = {}
        self._probes: dict[str, float] = {}
        """When the uploads at the keys of the probe that S3 lists were first listed, by their ids."""
        self.refused = False
        """Whether S3 refused the last listing."""

    @property
    def due(self) -> bool:
        """Whether the next cleanup is due."""
        return trio.current_time() >= self._due_at

    @property
    def left(self) -> tuple[OpenUpload, ...]:
        """The uploads that S3 did not abort, oldest first. Those of streams that have not ended may be in use."""
        return tuple(self._left)

    def leave(self, upload: OpenUpload) -> None:
        """Remember an upload that S3 did not abort."""
        self._left.setdefault(upload)
        if len(self._left) > _MAX_LEFT:
            del self._left[next(iter(self._left))]

    def aborted(self, upload: OpenUpload) -> None:
        """Forget an upload that S3 has aborted."""
        self._left.pop(upload, None)

    def ended_probes(self, listed: Iterable[ListedUpload], keys: Collection[str]) -> list[ListedUpload]:
        """Return the uploads at these keys of the probe that no probe uses any more."""
        now, found = trio.current_time(), [upload for upload in listed if upload.key in keys]
        self._probes = {upload.upload_id: self._probes.get(upload.upload_id, now) for upload in found}
        return [upload for upload in found if now - self._probes[upload.upload_id] >= _PROBE_SECONDS]

    def request(self) -> None:
        """Make a cleanup due now: a stream's end could not list or abort its uploads."""
        self._due_at = -inf

    def done(self) -> None:
        """Note that a cleanup is done."""
        self._due_at = trio.current_time() + (_PROBE_SECONDS if self._probes else PERIOD_SECONDS)


def is_orphan(meta: StreamMeta, upload_id: str) -> bool:
    """Return whether an open upload under that stream's key is orphaned. Pure."""
    if meta.status not in ENDED:
        return False
    return not (meta.status in _KEPT and meta.s3_upload_id in {None, upload_id})  # `cef-trio retry` goes on with it


async def abort_orphan_uploads(services: Services, allowed: Callable[[], bool]) -> None:
    """Abort orphaned uploads periodically. Errors are logged; after an outage the cleanup is tried again soon.

    ``allowed``: whether the owner's name is ours; else the uploads may be those of another host.
    """
    while True:
        await trio.sleep(PAUSE_SECONDS)
        if not services.orphan_cleanup.due or not allowed():
            continue
        try:
            if await _abort_all(services):
                services.orphan_cleanup.done()
        except CefMp4ProcessorError as error:
            log.warning("orphan_abort_failed", error=str(error))


async def _abort_all(services: Services) -> bool:
    """Abort the orphans that were left or that S3 lists; return false if listing should be tried again soon."""
    template, cleanup = services.rules.key_template, services.orphan_cleanup
    await _abort_orphans_among(services, cleanup.left)
    try:
        uploads = await services.attempt(_LIST, lambda: services.s3.list_multipart_uploads(template.prefix))
    except S3OperationError as error:
        if error.transient:
            raise
        if not cleanup.refused:
            log.warning("orphan_listing_failed", error=str(error))  # `cef-trio gc` reports it too
        cleanup.refused = True
        return True
    if uploads is None:
        return False
    cleanup.refused = False
    for upload in cleanup.ended_probes(uploads, {template.probe_key, template.probe_recording_key}):
        try:
            await services.s3.abort_multipart_upload(upload.key, upload.upload_id)
        except S3OperationError as error:
            log.warning("orphan_abort_failed", key=upload.key, upload_id=upload.upload_id, error=str(error))
        else:
            log.info("orphan_upload_aborted", key=upload.key, upload_id=upload.upload_id)
    # Redis is asked after S3, because a daemon records a stream before it creates its upload.
    await _abort_orphans_among(
        services,
        [
            OpenUpload(proposed.stream_id, upload.key, upload.upload_id)
            for upload in uploads
            if (proposed := template.parse(upload.key))
        ],
    )
    return True


async def _abort_orphans_among(services: Services, uploads: Sequence[OpenUpload]) -> None:
    """Abort those that are orphans. One that S3 does not abort keeps no other one.

    Raises:
        S3OperationError: S3 is down. Raised once for each upload: S3 may not answer to its abort alone.
    """
    if not uploads:
        return
    known = await services.store.load_metas({upload.stream_id for upload in uploads})
    for upload in uploads:
        if upload.stream_id not in known or not services.ownership.is_ours(known[upload.stream_id].meta):
            continue
        if is_orphan(known[upload.stream_id].meta, upload.upload_id):
            was_left = upload in services.orphan_cleanup.left
            try:
                await _abort(services, upload)
            except S3OperationError as error:
                services.orphan_cleanup.leave(upload)
                if not services.s3_breaker.up.value and not was_left:
                    raise
                log.warning(
                    "orphan_abort_failed",
                    stream_id=upload.stream_id,
                    key=upload.key,
                    upload_id=upload.upload_id,
                    error=str(error),
                )


async def _abort(services: Services, upload: OpenUpload) -> None:
    """Check again under the stream's lease, so that no task resumes the stream meanwhile, and abort the upload.

    The lease has a holder of its own, so that it excludes this daemon's tasks too.
    """
    store, stream_id = services.store, upload.stream_id
    lease = replace(services.lease, instance=f"{services.lease.instance}/orphan-cleanup")
    abort_before = trio.current_time() + lease.ttl_seconds / 2
    async with hold_lease(store, stream_id, lease) as held:
        if held is None:
            return
        try:
            checkpoint = await store.load(stream_id)
        except RecordUnreadableError:
            return  # a stream whose record cannot be read keeps its upload
        if checkpoint is None or not is_orphan(checkpoint.meta, upload.upload_id):
            return
        with trio.move_on_at(abort_before) as scope:
            await services.s3.abort_multipart_upload(upload.key, upload.upload_id)
        if not scope.cancelled_caught:
            services.orphan_cleanup.aborted(upload)
            log.info("orphan_upload_aborted", stream_id=stream_id, key=upload.key, upload_id=upload.upload_id)
