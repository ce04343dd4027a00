"""Apply ``AFTER_UPLOAD=delete|move:DIR`` to recordings whose objects are verified in S3 (promise P8).

The supervisor offers a recording when Redis has it as completed and its file is unchanged: a second after its stream
ended, and at each start. So an action that a crash or a cancellation interrupted is found again, and no other record of
it is needed. Every step may be repeated:

1. Hold the lease of this job for the stream, so that two daemons that share a folder do not copy one recording at once.
2. Read the record again, and ask S3 for the object (one HEAD a recording): since the completion a lifecycle rule or a
   person may have deleted it, and the file would be the only copy.
3. Compare the file and unlink or rename it in one uncancellable call (``disposal.py``). Across file systems, copy it
   first; read the copy back, and rename it to its final name only if its checksum matches.

A failure is logged and tried again with a growing pause; it never fails the stream. A file that differs from what was
verified is kept: the supervisor treats it as a new recording. The record does not change: ``retention.py`` forgets it
once its file is gone.
"""

from __future__ import annotations

import os.path
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final

import structlog
import trio
from trio_util import AsyncBool, wait_any

from cef_trio.checkpoint import StreamMeta
from cef_trio.checkpoint.redis import job_lock_name
from cef_trio.exceptions import AfterUploadError, CefMp4ProcessorError, RecordingChangedError
from cef_trio.files import FileSlice, FileStat, is_below
from cef_trio.postprocess import disposal
from cef_trio.postprocess.after_upload_rules import (
    AfterUploadAction,
    AfterUploadRule,
    VerifiedFile,
    copy_name,
    object_mismatch,
    pause_seconds,
    targets,
    verified_file,
)
from cef_trio.postprocess.copy_file import Copy
from cef_trio.postprocess.rename_file import OtherFileSystemError
from cef_trio.resilience import shielded
from cef_trio.s3 import Crc64Nvme
from cef_trio.upload import HeldLease, Services, hold_lease

log = structlog.get_logger(__name__)

_JOB: Final = "after-upload"
_REMOVE_SECONDS: Final = 1.0


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
    """Delete or move completed recordings, one at a time, so that uploads keep the disk's bandwidth."""

    def __init__(self, services: Services, rule: AfterUploadRule, watch_folder: str) -> None:
        self._services = services
        self._rule = rule
        self._watch_folder = watch_folder
        self._pending: dict[str, _Pending] = {}
        self._in_progress: set[str] = set()
        """Paths with a running task: one, and those that wait for a hung mount."""
        self._changed = AsyncBool(False)

    def offer(self, meta: StreamMeta) -> None:
        """Queue a recording that is completed and whose file looked unchanged."""
        before = self._pending.get(meta.current_path)
        if self._rule.action is AfterUploadAction.KEEP or (before is not None and before.stream_id == meta.stream_id):
            return
        self._pending[meta.current_path] = _Pending(meta.stream_id, trio.current_time())
        self._changed.value = True

    async def run(self) -> None:
        """Run until cancelled. A recording on a hung mount does not delay the others."""
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
        mounts = self._services.mounts
        return mounts.hangs(path) or (
            self._rule.action is AfterUploadAction.MOVE and mounts.hangs(str(self._rule.folder))
        )

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
            async with hold_lease(self._services.store, name, self._services.lease) as lock:
                if lock is not None:
                    following = await self._wait_for_silence(path, pending)
                    if following is None:
                        await self._dispose(pending.stream_id, lock)
                else:  # another daemon does it; try again when its lease would have expired
                    ttl_seconds = self._services.lease.ttl_seconds
                    following = _Pending(pending.stream_id, trio.current_time() + ttl_seconds, pending.failures)
        except (disposal.NotTouchedError, RecordingChangedError) as error:
            log.warning("after_upload_refused", stream_id=pending.stream_id, path=path, reason=str(error))
        except CefMp4ProcessorError as error:
            failures = pending.failures + 1
            pause = pause_seconds(failures)
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
        due_at = trio.current_time() + self._services.rules.silence_seconds
        return _Pending(pending.stream_id, due_at, pending.failures, (found, found.ctime_ns))

    async def _dispose(self, stream_id: str, lock: HeldLease) -> None:
        file = await self._verified(stream_id)
        if self._rule.action is AfterUploadAction.DELETE:
            if await self._services.disk.change(partial(disposal.delete_now, file), path=file.path):
                log.info("recording_deleted_after_upload", stream_id=stream_id, path=file.path)
            return
        moved_to = await self._move(file, lock)
        if moved_to is not None:
            log.info("recording_moved_after_upload", stream_id=stream_id, path=file.path, moved_to=moved_to)

    async def _verified(self, stream_id: str) -> VerifiedFile:
        """Return the file as it was verified, after checking that its object is in S3.

        Raises:
            NotTouchedError: the record, the path or the object is not as expected.
        """
        checkpoint = await self._services.store.load(stream_id)
        file = verified_file(checkpoint)
        if checkpoint is None or file is None:
            raise disposal.NotTouchedError("its record lacks what was verified")
        meta = checkpoint.meta
        if not is_below(file.path, self._watch_folder):
            raise disposal.NotTouchedError("its recorded path is not in the watch folder")
        if meta.s3_bucket != self._services.rules.bucket:
            raise disposal.NotTouchedError(f"its object is in another bucket, {meta.s3_bucket!r}")
        stored = await self._services.s3.head_object(meta.s3_key_prefix)
        why_not = object_mismatch(file, meta.object_etag or "", stored)
        if why_not is not None:
            raise disposal.NotTouchedError(why_not)
        return file

    async def _move(self, file: VerifiedFile, lock: HeldLease) -> str | None:
        names = targets(file, self._watch_folder, self._rule.folder)
        try:
            return await self._services.disk.change(partial(disposal.move_now, file, names), path=file.path)
        except OtherFileSystemError:
            pass
        for name in names:
            if await self._has_verified_bytes(name, file, lock):  # an earlier attempt ended between its last two steps
                break
        else:
            name = await self._copy(file, names, lock)
        await self._services.disk.change(partial(disposal.delete_now, file), path=file.path)
        return name

    async def _copy(self, file: VerifiedFile, names: tuple[str, str], lock: HeldLease) -> str:
        """Copy the file to another file system; return the final path of the complete copy."""
        path = copy_name(names[0], file.stream_id)
        change = partial(self._services.disk.change, path=path)
        copy = await change(partial(Copy, path))
        try:
            await self._write(copy, file, lock)
            await self._compare(path, file, lock)
            return await change(partial(copy.name, names))
        except BaseException:
            with shielded(_REMOVE_SECONDS, saving="copy's removal"):
                await change(copy.discard)
            raise
        finally:
            if not self._services.mounts.hangs(path):  # close() flushes, and would block; the exit closes it too
                copy.close()

    async def _compare(self, path: str, file: VerifiedFile, lock: HeldLease) -> None:
        if not await self._has_verified_bytes(path, file, lock):
            raise AfterUploadError(f"{path!r} is not what was written to it")

    async def _write(self, copy: Copy, file: VerifiedFile, lock: HeldLease) -> None:
        change, crc, offset = partial(self._services.disk.change, path=copy.path), Crc64Nvme(), 0
        async with (
            self._services.disk.open(file.path) as recording,
            aclosing(FileSlice(recording, 0, file.size_bytes).blocks()) as blocks,
        ):
            async for block in blocks:
                crc.update(block)
                await change(partial(copy.write, block, offset))
                offset += len(block)
                await lock.renew_if_due()
        await change(partial(copy.finish, file))
        if crc.value != file.crc64nvme:
            raise disposal.NotTouchedError(
                f"{file.path!r} was left alone: its bytes differ from those that were verified"
            )

    async def _has_verified_bytes(self, path: str, file: VerifiedFile, lock: HeldLease) -> bool:
        """Return whether the file at ``path`` has exactly the verified bytes."""
        crc = Crc64Nvme()
        try:
            # The target folder may contain symlinks, which were followed when the copy was written.
            straight = await self._services.disk.change(partial(_resolve_folder, path), path=path)
            await lock.renew_if_due()
            async with self._services.disk.open(straight) as recording:
                if (await recording.stat()).size_bytes != file.size_bytes:
                    return False
                async with aclosing(FileSlice(recording, 0, file.size_bytes).blocks()) as blocks:
                    async for block in blocks:
                        crc.update(block)
                        await lock.renew_if_due()
        except RecordingChangedError:
            return False
        return crc.value == file.crc64nvme


def _resolve_folder(path: str) -> str:
    """Return the path with the symlinks of its folder resolved. Blocks."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 - a path of any bytes, as it is
