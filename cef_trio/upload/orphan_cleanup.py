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

What S3 does not abort is told once, and tried again in each round, after all others; a few failures end the round, so
that neither they nor time-outs keep the next listing waiting.
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
_ABORT: Final = "abort_multipart_upload"
_KEPT: Final = frozenset(Status.failed(reason) for reason in KEEPS_ITS_UPLOAD)
_PROBE_SECONDS: Final = 60.0
"""How long an upload at a key of the probe is listed before it is aborted: a probe of another daemon may use it."""
_MAX_LEFT: Final = 1000
"""Number of uploads that are remembered; more can only be listed (P7)."""
_MAX_FAILURES: Final = 20
"""Number of failed aborts that end a round; each may take half a lease."""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An open upload under a stream's key."""

    stream_id: str
    """Empty for one at a key of the probe."""
    key: str
    upload_id: str


class OrphanCleanup:
    """The schedule of the cleanup, and the uploads that S3 did not abort."""

    def __init__(self) -> None:
        self._due_at = -inf
        self._left: dict[OpenUpload, None] = {}
        self._probes: dict[str, float] = {}
        """When the uploads at the keys of the probe that S3 lists were first listed, by their ids."""
        self._young_probes = False
        """Whether some of them were too young to be aborted."""
        self._failed_at: dict[str, float] = {}
        """When S3 last failed to abort an upload, by its id; the latest last."""
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
        self._failed_at.pop(upload.upload_id, None)

    def failed(self, upload: OpenUpload) -> bool:
        """Note that a round could not abort an upload; return whether one had failed before."""
        before = self._failed_at.pop(upload.upload_id, None)
        self._failed_at[upload.upload_id] = trio.current_time()
        if len(self._failed_at) > _MAX_LEFT:
            del self._failed_at[next(iter(self._failed_at))]
        if upload.stream_id:
            self.leave(upload)
        return before is not None

    def failed_at(self, upload: OpenUpload) -> float:
        """Return when a round last failed to abort an upload: those of long ago have the next turn."""
        return self._failed_at.get(upload.upload_id, -inf)

    def ended_probes(self, listed: Iterable[ListedUpload], keys: Collection[str]) -> list[OpenUpload]:
        """Return the uploads at these keys of the probe that no probe uses any more."""
        now, found = trio.current_time(), [upload for upload in listed if upload.key in keys]
        self._probes = {upload.upload_id: self._probes.get(upload.upload_id, now) for upload in found}
        ended = [upload for upload in found if now - self._probes[upload.upload_id] >= _PROBE_SECONDS]
        self._young_probes = len(ended) < len(found)
        return [OpenUpload("", upload.key, upload.upload_id) for upload in ended]

    def request(self) -> None:
        """Make a cleanup due now: a stream's end could not list or abort its uploads."""
        self._due_at = -inf

    def done(self) -> None:
        """Note that a cleanup is done."""
        self._due_at = trio.current_time() + (_PROBE_SECONDS if self._young_probes else PERIOD_SECONDS)


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
    """Abort the orphans that S3 lists or that were left; return false if that should be tried again soon."""
    template, cleanup = services.rules.key_template, services.orphan_cleanup
    listed: Sequence[ListedUpload] | None = ()
    try:
        listed = await services.attempt(_LIST, lambda: services.s3.list_multipart_uploads(template.prefix))
    except S3OperationError as error:
        if error.transient:
            raise
        if not cleanup.refused:
            log.warning("orphan_listing_failed", error=str(error))  # `cef-trio gc` reports it too
        cleanup.refused = True
    else:
        if listed is not None:
            cleanup.refused = False
    if listed is not None:
        ended = cleanup.ended_probes(listed, {template.probe_key, template.probe_recording_key})
        if not await _abort_each(services, ended):
            return False
    # Redis is asked after S3, because a daemon records a stream before it creates its upload.
    uploads = {
        OpenUpload(proposed.stream_id, upload.key, upload.upload_id): None
        for upload in listed or ()
        if (proposed := template.parse(upload.key))
    }
    orphans = await _orphans_among(services, uploads | dict.fromkeys(cleanup.left))
    if listed is None:  # this round is one of many, a minute apart: only what would have its turn without a listing
        orphans = [upload for upload in orphans if cleanup.failed_at(upload) <= trio.current_time() - PERIOD_SECONDS]
    return await _abort_each(services, orphans) and listed is not None


async def _orphans_among(services: Services, uploads: Collection[OpenUpload]) -> list[OpenUpload]:
    if not uploads:
        return []
    known = await services.store.load_metas({upload.stream_id for upload in uploads})
    ours = [u for u in uploads if u.stream_id in known and services.ownership.is_ours(known[u.stream_id].meta)]
    return [upload for upload in ours if is_orphan(known[upload.stream_id].meta, upload.upload_id)]


async def _abort_each(services: Services, uploads: Iterable[OpenUpload]) -> bool:
    """Abort these; return false if S3 is down. One that S3 does not abort keeps no other one.

    False once for each upload: S3 may not answer to its abort alone.
    """
    cleanup, failures = services.orphan_cleanup, 0
    for upload in sorted(uploads, key=cleanup.failed_at):
        try:
            await (_abort(services, upload) if upload.stream_id else _abort_in_time(services, upload))
        except S3OperationError as error:
            failures += 1
            if not cleanup.failed(upload):
                log.warning(
                    "orphan_abort_failed",
                    stream_id=upload.stream_id or None,
                    key=upload.key,
                    upload_id=upload.upload_id,
                    error=str(error),
                )
                if not services.s3_breaker.up.value:
                    return False
            if failures == _MAX_FAILURES:
                break
    return True


async def _abort(services: Services, upload: OpenUpload) -> None:
    """Check again under the stream's lease, so that no task resumes the stream meanwhile, and abort the upload.

    The lease has a holder of its own, so that it excludes this daemon's tasks too.
    """
    store, stream_id = services.store, upload.stream_id
    lease = replace(services.lease, instance=f"{services.lease.instance}/orphan-cleanup")
    acquired_after = trio.current_time()
    async with hold_lease(store, stream_id, lease) as held:
        if held is None:
            return
        try:
            checkpoint = await store.load(stream_id)
        except RecordUnreadableError:
            return  # a stream whose record cannot be read keeps its upload
        if checkpoint is not None and is_orphan(checkpoint.meta, upload.upload_id):
            await _abort_in_time(services, upload, acquired_after)


async def _abort_in_time(services: Services, upload: OpenUpload, since: float | None = None) -> None:
    """Abort an upload within half a lease, which began at ``since`` at the earliest.

    Raises:
        S3OperationError: S3 refused, or it took longer.
    """
    seconds = services.lease.ttl_seconds / 2
    with trio.move_on_at((trio.current_time() if since is None else since) + seconds) as scope:
        await services.s3.abort_multipart_upload(upload.key, upload.upload_id)
    if scope.cancelled_caught:
        raise S3OperationError(_ABORT, f"it was not done within {seconds:g} seconds", transient=True)
    services.orphan_cleanup.aborted(upload)
    log.info("orphan_upload_aborted", stream_id=upload.stream_id or None, key=upload.key, upload_id=upload.upload_id)
