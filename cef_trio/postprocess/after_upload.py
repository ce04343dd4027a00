"""``AFTER_UPLOAD=delete|move:DIR``: what becomes of a recording that is in S3, and never before it is (promise P8).

There is one way to come here: the supervisor has asked Redis about a file, and it is completed and unchanged. That is
so a second after its stream has ended, and at the next start for whatever a crash or a cancellation left undone; so
nothing has to remember what was begun. Each recording goes the same steps, and any of them may be repeated:

1. The work on its stream is claimed, so that two daemons that share a folder do not copy one recording at once.
2. Its record is read again, and S3 is asked for the object. Between the completion and now may lie a lifecycle rule, a
   person, or months: one HEAD for each recording is a small price for never deleting the only copy.
3. The file is compared and its name taken away, in one call that nothing interrupts (``disposal.py``). Across file
   systems it is copied first, block by block; the copy is read back, and named only if it is what was verified.

What cannot be done is said and tried again, later and later; it never fails the stream, whose work is done. A file that
is not what was verified is left alone: the supervisor sees it as a new recording.

The record stays what it was: a file that is gone is what ``retention.py`` waits for, and the news of our own deletion
finds no stream that it could concern.
"""

from __future__ import annotations

import os.path
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
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
from cef_trio.upload import Services

log = structlog.get_logger(__name__)

_WORK: Final = "after-upload"
_REMOVE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A recording that is to be deleted or moved."""

    stream_id: str
    due_at: float
    """By ``trio.current_time()``."""
    failures: int = 0
    look: tuple[FileStat, int] | None = None
    """How the file was when its silence began, and its ctime, where nobody can tell whether it has a writer."""


class AfterUpload:
    """Does what the rule says, one recording after the other, so that it never takes the disk from the uploads."""

    def __init__(self, services: Services, rule: AfterUploadRule, watch_folder: str) -> None:
        self._services = services
        self._rule = rule
        self._watch_folder = watch_folder
        self._waiting: dict[str, _Waiting] = {}
        self._under_way: set[str] = set()
        """What a task is at: one, and those that wait for a mount that hangs."""
        self._news = AsyncBool(False)

    def offer(self, meta: StreamMeta) -> None:
        """A recording is completed, and its file as it was verified, as far as was seen."""
        before = self._waiting.get(meta.current_path)
        if self._rule.action is AfterUploadAction.KEEP or (before is not None and before.stream_id == meta.stream_id):
            return
        self._waiting[meta.current_path] = _Waiting(meta.stream_id, trio.current_time())
        self._news.value = True

    async def run(self) -> None:
        """Work for ever. What waits for a mount that hangs keeps no other recording waiting."""
        hung = self._services.mounts.hung
        async with trio.open_nursery() as nursery:
            while True:
                self._news.value = False
                known = hung.value
                for path, waiting in self._due():
                    if self._hangs(path):
                        continue
                    ended = AsyncBool(False)
                    nursery.start_soon(self._tried, path, waiting, ended)
                    stuck = partial(hung.wait_value, lambda _, path=path: self._hangs(path))
                    await wait_any(partial(ended.wait_value, True), stuck)
                soonest = min((one.due_at for path, one in self._waiting.items() if self._may_try(path)), default=inf)
                with trio.move_on_at(soonest):
                    changed = partial(hung.wait_value, lambda now, known=known: now != known)
                    await wait_any(partial(self._news.wait_value, True), changed)

    def _due(self) -> list[tuple[str, _Waiting]]:
        now = trio.current_time()
        due = [(path, one) for path, one in self._waiting.items() if one.due_at <= now and self._may_try(path)]
        return sorted(due, key=lambda item: item[1].due_at)

    def _may_try(self, path: str) -> bool:
        return path not in self._under_way and not self._hangs(path)

    def _hangs(self, path: str) -> bool:
        mounts = self._services.mounts
        return mounts.hangs(path) or (
            self._rule.action is AfterUploadAction.MOVE and mounts.hangs(str(self._rule.folder))
        )

    async def _tried(self, path: str, waiting: _Waiting, ended: AsyncBool) -> None:
        self._under_way.add(path)
        try:
            await self._try(path, waiting)
        finally:
            self._under_way.discard(path)
            self._news.value = ended.value = True

    async def _try(self, path: str, waiting: _Waiting) -> None:
        """Do what is asked with one recording. Cancelled, it is done, or it is not and the next start does it."""
        following = None
        try:
            async with self._claimed(waiting.stream_id) as ours:
                if ours is not None:
                    following = await self._wait_for_silence(path, waiting)
                    if following is None:
                        await self._act(waiting.stream_id, ours)
                else:  # another daemon is at it; should that one die, it is ours
                    ttl_seconds = self._services.lease.ttl_seconds
                    following = _Waiting(waiting.stream_id, trio.current_time() + ttl_seconds, waiting.failures)
        except (disposal.NotTouchedError, RecordingChangedError) as error:
            log.warning("after_upload_refused", stream_id=waiting.stream_id, path=path, reason=str(error))
        except CefMp4ProcessorError as error:
            failures = waiting.failures + 1
            pause = pause_seconds(failures)
            following = _Waiting(waiting.stream_id, trio.current_time() + pause, failures)
            log.warning(
                "after_upload_failed", stream_id=waiting.stream_id, path=path, error=str(error), wait_seconds=pause
            )
        except Exception:  # a bug, or a record that no daemon wrote, is this recording's trouble only: P6
            log.exception("after_upload_error", stream_id=waiting.stream_id, path=path)
        if self._waiting.get(path) == waiting:  # else another recording has the name by now
            del self._waiting[path]
            if following is not None:
                self._waiting[path] = following

    async def _wait_for_silence(self, path: str, waiting: _Waiting) -> _Waiting | None:
        """Where nobody can tell whether the file has a writer, only silence can, and it is demanded anew (P8).

        The silence that ended the recording proves nothing about what came after it. ``None``: nothing to wait for.
        """
        if await self._services.has_writer(path) is not None:
            return None
        found = await self._services.disk.stat(path)
        if found is None or waiting.look == (found, found.ctime_ns):
            return None
        due_at = trio.current_time() + self._services.rules.silence_seconds
        return _Waiting(waiting.stream_id, due_at, waiting.failures, (found, found.ctime_ns))

    @asynccontextmanager
    async def _claimed(self, stream_id: str) -> AsyncIterator[_Claim | None]:
        """Claim the work on a stream; ``None``: another daemon does it. A claim that is not given back runs out."""
        store, lease, name = self._services.store, self._services.lease, job_lock_name(stream_id, _WORK)
        if not await store.acquire(name, lease):
            yield None
            return
        yield _Claim(self._services, name)
        await store.release([name], lease)

    async def _act(self, stream_id: str, ours: _Claim) -> None:
        file = await self._proved(stream_id)
        if self._rule.action is AfterUploadAction.DELETE:
            if await self._services.disk.change(partial(disposal.delete_now, file), path=file.path):
                log.info("recording_deleted_after_upload", stream_id=stream_id, path=file.path)
            return
        moved_to = await self._move(file, ours)
        if moved_to is not None:
            log.info("recording_moved_after_upload", stream_id=stream_id, path=file.path, moved_to=moved_to)

    async def _proved(self, stream_id: str) -> VerifiedFile:
        """The file as it was verified, if its object is in S3 as it was completed."""
        checkpoint = await self._services.store.load(stream_id)
        file = verified_file(checkpoint)
        if checkpoint is None or file is None:
            raise disposal.NotTouchedError("its record does not say what was verified")
        meta = checkpoint.meta
        if not is_below(file.path, self._watch_folder):
            raise disposal.NotTouchedError("its record says that it is not in the watch folder")
        if meta.s3_bucket != self._services.rules.bucket:
            raise disposal.NotTouchedError(f"its object is in another bucket, {meta.s3_bucket!r}")
        stored = await self._services.s3.head_object(meta.s3_key_prefix)
        why_not = object_mismatch(file, meta.object_etag or "", stored)
        if why_not is not None:
            raise disposal.NotTouchedError(why_not)
        return file

    async def _move(self, file: VerifiedFile, ours: _Claim) -> str | None:
        names = targets(file, self._watch_folder, self._rule.folder)
        try:
            return await self._services.disk.change(partial(disposal.move_now, file, names), path=file.path)
        except OtherFileSystemError:
            pass
        for name in names:
            if await self._has_its_bytes(name, file, ours):  # an earlier attempt was ended between its last two steps
                break
        else:
            name = await self._copy(file, names, ours)
        await self._services.disk.change(partial(disposal.delete_now, file), path=file.path)
        return name

    async def _copy(self, file: VerifiedFile, names: tuple[str, str], ours: _Claim) -> str:
        """Copy the file to another file system; returns its name there, under which it is whole."""
        path = copy_name(names[0], file.stream_id)
        change = partial(self._services.disk.change, path=path)
        copy = await change(partial(Copy, path))
        try:
            await self._write(copy, file, ours)
            await self._compare(path, file, ours)
            return await change(partial(copy.name, names))
        except BaseException:
            with shielded(_REMOVE_SECONDS, saving="copy's removal"):
                await change(copy.discard)
            raise
        finally:
            if not self._services.mounts.hangs(path):  # what was written goes out now; the process's end closes it too
                copy.close()

    async def _compare(self, path: str, file: VerifiedFile, ours: _Claim) -> None:
        if not await self._has_its_bytes(path, file, ours):
            raise AfterUploadError(f"{path!r} is not what was written to it")

    async def _write(self, copy: Copy, file: VerifiedFile, ours: _Claim) -> None:
        change, crc, offset = partial(self._services.disk.change, path=copy.path), Crc64Nvme(), 0
        async with (
            self._services.disk.open(file.path) as recording,
            aclosing(FileSlice(recording, 0, file.size_bytes).blocks()) as blocks,
        ):
            async for block in blocks:
                crc.update(block)
                await change(partial(copy.write, block, offset))
                offset += len(block)
                await ours.keep()
        await change(partial(copy.finish, file))
        if crc.value != file.crc64nvme:
            raise disposal.NotTouchedError(f"{file.path!r} was left alone: it has other bytes than were verified")

    async def _has_its_bytes(self, path: str, file: VerifiedFile, ours: _Claim) -> bool:
        """Whether what is at that path has the very bytes that were verified."""
        crc = Crc64Nvme()
        try:
            # The folder to move to may be reached by links, which were followed when the copy was written.
            straight = await self._services.disk.change(partial(_without_links, path), path=path)
            await ours.keep()
            async with self._services.disk.open(straight) as recording:
                if (await recording.stat()).size_bytes != file.size_bytes:
                    return False
                async with aclosing(FileSlice(recording, 0, file.size_bytes).blocks()) as blocks:
                    async for block in blocks:
                        crc.update(block)
                        await ours.keep()
        except RecordingChangedError:
            return False
        return crc.value == file.crc64nvme


def _without_links(path: str) -> str:
    """The path with its folders as they really are. Blocks."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 - a path of any bytes, as it is


class _Claim:
    """Work on one stream that is claimed, and kept so while it takes long."""

    def __init__(self, services: Services, name: str) -> None:
        self._services = services
        self._name = name
        self._kept_at = trio.current_time()

    async def keep(self) -> None:
        """Renew the claim if it is time to.

        Raises:
            AfterUploadError: it is another daemon's by now.
        """
        lease = self._services.lease
        if trio.current_time() < self._kept_at + lease.ttl_seconds / 3:
            return
        if await self._services.store.renew([self._name], lease):
            raise AfterUploadError("another daemon has taken the work over")
        self._kept_at = trio.current_time()
