"""Apply ``AFTER_UPLOAD=delete|move:DIR`` to recordings whose objects are verified in S3 (promise P8).

The supervisor offers a recording when Redis has it as completed and its file is unchanged: a second after its stream
ended, and at each start. So an action that a crash or a cancellation interrupted is found again, and no other record of
it is needed. Every step may be repeated:

1. Hold the lease of this job for the stream, so that two daemons that share a folder do not copy one recording at once.
2. Read the record again, and ask S3 for the object (one HEAD a recording): since the completion a lifecycle rule or a
   person may have deleted it, and the file would be the only copy.
3. Carry out the action (``_ACTIONS``), which compares the file and unlinks or renames it in one uncancellable call
   (``disposal.py``).

A new action is a file beside ``delete.py``, its word in ``settings/after_upload.py``, and its line in ``_ACTIONS``.

A failure is logged and tried again with a growing pause; it never fails the stream. A file that differs from what was
verified is kept: the supervisor treats it as a new recording. The record does not change: ``retention.py`` forgets it
once its file is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final, Protocol

import structlog
import trio
from trio_util import AsyncBool, wait_any

from cef_trio.checkpoint import StreamMeta
from cef_trio.checkpoint.redis import job_lock_name
from cef_trio.exceptions import AfterUploadError, CefMp4ProcessorError, RecordingChangedError
from cef_trio.files import FileStat, inodes_last, is_below
from cef_trio.postprocess.after_upload_rules import BACKOFF, VerifiedFile, object_mismatch, verified_file
from cef_trio.postprocess.delete import Delete
from cef_trio.postprocess.disposal import NotAsVerifiedError
from cef_trio.postprocess.move import Move
from cef_trio.settings import AfterUploadAction, AfterUploadRule
from cef_trio.upload import ContentMatch, HeldLease, Services, correct_if_unchanged, hold_lease

log = structlog.get_logger(__name__)

_JOB: Final = "after-upload"


class Action(Protocol):
    """What ``AFTER_UPLOAD`` does with a recording."""

    async def apply(self, file: VerifiedFile, lease: HeldLease) -> None:
        """Carry it out and log it. If cancelled, it is complete, or can be repeated.

        Raises:
            NotAsVerifiedError, RecordingChangedError: the file is not the one that was verified, and was kept.
            CefMp4ProcessorError: another failure; the action is repeated later.
        """
        ...


_ACTIONS: Final[Mapping[AfterUploadAction, Callable[[Services, str], Action]]] = {
    AfterUploadAction.DELETE: Delete,
    AfterUploadAction.MOVE: Move,
}
"""The actions, made of the services and the folder of the setting. ``keep`` has none."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A recording that is to be deleted or moved."""

    stream_id: str
    due_at: float
    """By ``trio.current_time()``."""
    failures: int = 0
    seen: tuple[FileStat, int] | None = None
    """The file's stat and ctime (ns) when the wait for silence began, where writers cannot be detected."""


class AfterUpload:
    """Applies ``AFTER_UPLOAD`` to completed recordings, one at a time, so that uploads keep the disk's bandwidth."""

    def __init__(self, services: Services, rule: AfterUploadRule) -> None:
        self._services = services
        action = _ACTIONS.get(rule.action)
        self._action = action(services, rule.folder) if action is not None else None
        self._target_folder = rule.folder
        self._pending: dict[str, _Pending] = {}
        self._in_progress: set[str] = set()
        """Paths with a running task: one, and those that wait for a hung mount."""
        self._changed = AsyncBool(False)

    def offer(self, meta: StreamMeta) -> None:
        """Queue a recording that is completed and whose file looked unchanged."""
        before = self._pending.get(meta.current_path)
        if self._action is None or (before is not None and before.stream_id == meta.stream_id):
            return
        self._pending[meta.current_path] = _Pending(meta.stream_id, trio.current_time())
        self._changed.value = True

    async def run(self) -> None:
        """Run until cancelled, or return for ``keep``. A recording on a hung mount does not delay the others."""
        if self._action is None:
            return
        hung = self._services.mounts.hung
        async with trio.open_nursery() as nursery:
            while True:
                self._changed.value = False
                known = hung.value
                for path, pending in self._due():
                    if self._on_hung_mount(path):
                        continue
                    ended = AsyncBool(False)
                    nursery.start_soon(self._attempt_and_notify, path, pending, ended)
                    stuck = partial(hung.wait_value, lambda _, path=path: self._on_hung_mount(path))
                    await wait_any(partial(ended.wait_value, True), stuck)
                soonest = min(
                    (one.due_at for path, one in self._pending.items() if self._may_attempt(path)), default=inf
                )
                with trio.move_on_at(soonest):
                    changed = partial(hung.wait_value, lambda now, known=known: now != known)
                    await wait_any(partial(self._changed.wait_value, True), changed)

    def _due(self) -> list[tuple[str, _Pending]]:
        now = trio.current_time()
        due = [(path, one) for path, one in self._pending.items() if one.due_at <= now and self._may_attempt(path)]
        return sorted(due, key=lambda item: item[1].due_at)

    def _may_attempt(self, path: str) -> bool:
        return path not in self._in_progress and not self._on_hung_mount(path)

    def _on_hung_mount(self, path: str) -> bool:
        mounts, folder = self._services.mounts, self._target_folder
        return mounts.hangs(path) or (folder != "" and mounts.hangs(folder))

    async def _attempt_and_notify(self, path: str, pending: _Pending, ended: AsyncBool) -> None:
        self._in_progress.add(path)
        try:
            await self._attempt(path, pending)
        finally:
            self._in_progress.discard(path)
            self._changed.value = ended.value = True

    async def _attempt(self, path: str, pending: _Pending) -> None:
        """Handle one recording. If cancelled, the action is complete, or the next start repeats it."""
        following = None
        try:
            name = job_lock_name(pending.stream_id, _JOB)
            async with hold_lease(self._services.store, name, self._services.lease) as lease:
                if lease is not None and self._action is not None:
                    following = await self._wait_for_silence(path, pending)
                    if following is None:
                        await self._action.apply(await self._verified(pending.stream_id), lease)
                else:  # another daemon does it; try again when its lease would have expired
                    ttl_seconds = self._services.lease.ttl_seconds
                    following = _Pending(pending.stream_id, trio.current_time() + ttl_seconds, pending.failures)
        except (NotAsVerifiedError, RecordingChangedError) as error:
            log.warning("after_upload_refused", stream_id=pending.stream_id, path=path, reason=str(error))
        except CefMp4ProcessorError as error:
            failures = pending.failures + 1
            pause = BACKOFF.ceiling_seconds(failures)
            following = _Pending(pending.stream_id, trio.current_time() + pause, failures)
            log.warning(
                "after_upload_failed", stream_id=pending.stream_id, path=path, error=str(error), wait_seconds=pause
            )
        except Exception:  # a bug, or a record that no daemon wrote: it must not stop the other recordings (P6)
            log.exception("after_upload_error", stream_id=pending.stream_id, path=path)
        if self._pending.get(path) == pending:  # else the path is another recording's now
            del self._pending[path]
            if following is not None:
                self._pending[path] = following

    async def _wait_for_silence(self, path: str, pending: _Pending) -> _Pending | None:
        """Return when to look again if the file must first be unchanged for a while; ``None``: go on now.

        Where writers cannot be detected (no file leases), only a file without changes counts as finished (P8). The
        silence that ended the recording does not cover the time since, so it is required anew.
        """
        if await self._services.has_writer(path) is not None:
            return None
        found = await self._services.disk.stat(path)
        if found is None or pending.seen == (found, found.ctime_ns):
            return None
        due_at = trio.current_time() + self._services.rules.stream_timeout_seconds
        return _Pending(pending.stream_id, due_at, pending.failures, (found, found.ctime_ns))

    async def _verified(self, stream_id: str) -> VerifiedFile:
        """Return the file as it was verified, after checking that its object is in S3.

        Raises:
            NotAsVerifiedError: the record, the path or the object is not as expected.
            AfterUploadError: S3 denies that it has the object.
        """
        checkpoint = await self._services.store.load(stream_id)
        file = verified_file(checkpoint)
        if checkpoint is None or file is None:
            raise NotAsVerifiedError("its record lacks what was verified")
        meta = checkpoint.meta
        if not is_below(file.path, self._services.rules.root_of(file.path)):
            raise NotAsVerifiedError("its recorded path is not in the watch folder")
        if meta.s3_bucket != self._services.rules.bucket:
            raise NotAsVerifiedError(f"its object is in another bucket, {meta.s3_bucket!r}")
        if await self._correct_inode_number(meta):
            file = verified_file(await self._services.store.load(stream_id)) or file
        stored = await self._services.s3.head_object(meta.s3_key_prefix)
        why_not = object_mismatch(file, meta.object_etag or "", stored)
        if stored is None and why_not is not None:
            raise AfterUploadError(why_not)  # tried again: it may be outdated, or a proxy's (HEAD has no body)
        if why_not is not None:
            raise NotAsVerifiedError(why_not)
        return file

    async def _correct_inode_number(self, meta: StreamMeta) -> bool:
        """Record a new inode number where these are not stable (FAT, sshfs), if the file has all the verified bytes."""
        if inodes_last(meta.identity.fs_type):
            return False
        found = await self._services.disk.stat(meta.current_path)
        if found is None or found.inode == meta.identity.inode:
            return False
        content = await correct_if_unchanged(self._services, meta.stream_id, meta.current_path)
        return content is ContentMatch.SAME
