"""Apply ``AFTER_UPLOAD=delete|move:DIR`` to recordings whose objects are verified in S3 (promise P8).

The supervisor offers a recording when Redis has it as completed and its file is unchanged: a second after its stream
ended, and at each start. So an action that a crash or a cancellation interrupted is found again, and no other record of
it is needed. With ``AFTER_UPLOAD_KEEP_DAYS`` it is kept until that time has passed since its completion, by the time of
day; with ``MIN_FREE_SPACE`` the oldest kept ones go earlier while the disk is short of space (``free_space.py``), also
with ``AFTER_UPLOAD=keep``. Every step may be repeated:

1. Hold the lease of this job for the stream, so that two daemons that share a folder do not copy one recording at once.
2. Read the record again, and ask S3 for the object (one HEAD a recording): since the completion a lifecycle rule or a
   person may have deleted it, and the file would be the only copy (``verification.py``).
3. Carry out the action (``_ACTIONS``), which compares the file and unlinks or renames it in one uncancellable call
   (``disposal.py``).

A new action is a file beside ``delete.py``, its word in ``settings/after_upload.py``, and its line in ``_ACTIONS``.

A failure is logged and tried again with a growing pause; it never fails the stream. A file that differs from what was
verified is kept: the supervisor treats it as a new recording. The record does not change: ``retention.py`` forgets it
once its file is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Final, Protocol

import structlog
import trio
from trio_util import AsyncBool, wait_any

from cef_trio.checkpoint import StreamMeta, rules
from cef_trio.checkpoint.redis import job_lock_name
from cef_trio.exceptions import CefMp4ProcessorError, RecordingChangedError, is_shortage
from cef_trio.observability import FreedBy
from cef_trio.postprocess.after_upload_rules import BACKOFF, VerifiedFile
from cef_trio.postprocess.delete import Delete
from cef_trio.postprocess.disposal import NotAsVerifiedError
from cef_trio.postprocess.free_space import FreeSpace
from cef_trio.postprocess.free_space_rules import KeptRecording
from cef_trio.postprocess.kept_recordings import KeptRecordings
from cef_trio.postprocess.move import Move
from cef_trio.postprocess.verification import Look, Verification
from cef_trio.resilience import Periodic
from cef_trio.settings import AfterUploadAction, AfterUploadRule
from cef_trio.upload import HeldLease, Services, hold_lease

log = structlog.get_logger(__name__)

_JOB: Final = "after-upload"
_ASK_SECONDS: Final = 10.0
"""How often it is looked whether a move stands still."""
_STILL_SECONDS: Final = 60.0
"""How long a move may be without progress until its folder is asked: to sync a large copy takes a while, too."""
_KEPT_SECONDS: Final = 60.0
"""How often the kept recordings are looked through for those whose time has come."""


class Action(Protocol):
    """What ``AFTER_UPLOAD`` does with a recording."""

    async def apply(self, file: VerifiedFile, lease: HeldLease, cause: FreedBy) -> bool:
        """Carry it out and log it; return false if there is no such file. If cancelled, it is complete, or can be
        repeated.

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
    seen: Look | None = None
    """The file when the wait for silence began, where writers cannot be detected."""
    refusal: str = ""
    """Why the last try failed; empty: there was none."""

    def failed(self, why: str = "") -> _Pending:
        """Return it as it is tried again, after a pause that grows with the failures."""
        pause = BACKOFF.ceiling_seconds(self.failures + 1)
        return _Pending(self.stream_id, trio.current_time() + pause, self.failures + 1, refusal=why)


class _NotedLease(HeldLease):
    """A held lease that notes each time when it is asked to be renewed: after each step of a long action."""

    def __init__(self, lease: HeldLease, note: Callable[[], None]) -> None:
        self._held = lease
        self._note = note

    async def renew_if_due(self) -> None:
        """See :meth:`HeldLease.renew_if_due`."""
        self._note()
        await self._held.renew_if_due()


class AfterUpload:
    """Applies ``AFTER_UPLOAD`` to completed recordings, one at a time, so that uploads keep the disk's bandwidth."""

    def __init__(
        self,
        services: Services,
        rule: AfterUploadRule,
        is_settled: Callable[[str], bool],
        unverified: Callable[[], Iterable[str]],
    ) -> None:
        """``is_settled``: whether the file at a path is as it was offered; ``unverified``: files that S3 lacks."""
        self._services = services
        self._rule = rule
        action = _ACTIONS.get(rule.action)
        self._action = action(services, rule.folder) if action is not None else None
        self._verification = Verification(services)
        self._is_settled = is_settled
        self._pending: dict[str, _Pending] = {}
        self._in_progress: set[str] = set()
        """Paths with a running task: one, those that wait for a hung mount, and one that goes for lack of space."""
        self._progress_at = inf
        """``trio.current_time()`` when an action last began or went on; ``inf``: none has begun."""
        self._changed = AsyncBool(False)
        self._kept = KeptRecordings(is_settled)
        self.free_space = (
            FreeSpace(
                services,
                rule.min_free,
                self._kept,
                self._dispose_early,
                unverified,
                refused=self._refused,
                hangs=self._on_hung_mount,
            )
            if rule.min_free
            else None
        )
        """What keeps ``MIN_FREE_SPACE`` free; ``None``: not set."""

    def offer(self, meta: StreamMeta) -> None:
        """Queue or keep a recording that is completed and whose file looked unchanged."""
        if self._action is None or not self._is_over(rules.ended_at_ms(meta) / 1000):
            if self._action is not None or self.free_space is not None:
                self._kept.add(meta)
        else:
            self._queue(meta.current_path, meta.stream_id)

    def _refused(self) -> Iterable[tuple[str, str]]:
        """Return the paths that could not be handled, and why."""
        return ((path, one.refusal) for path, one in self._pending.items() if one.refusal)

    def _queue(self, path: str, stream_id: str) -> None:
        before = self._pending.get(path)
        if before is None or before.stream_id != stream_id:
            self._pending[path] = _Pending(stream_id, trio.current_time())
            self._changed.value = True

    def _is_over(self, completed_at: float) -> bool:
        """Return whether the time of ``AFTER_UPLOAD_KEEP_DAYS`` is over."""
        keep = self._rule.keep_seconds
        return not keep or self._services.utc_now().timestamp() >= completed_at + keep

    async def run(self) -> None:
        """Run until cancelled, or return if there is nothing to do. A hung mount does not delay other recordings."""
        async with trio.open_nursery() as nursery:
            if self.free_space is not None:
                nursery.start_soon(self.free_space.run)
            if self._rule.folder:
                nursery.start_soon(self._notice_hung_folder)
            if self._action is not None:
                if self._rule.keep_seconds:
                    nursery.start_soon(self._queue_kept)
                await self._run_pending(nursery)

    async def _queue_kept(self) -> None:
        async for _ in Periodic(_KEPT_SECONDS):
            self._kept.drop_unsettled()
            over = [one for one in self._kept if self._is_over(one.completed_at) and one.path not in self._in_progress]
            for one in over:
                self._kept.drop(one)
                self._queue(one.path, one.stream_id)

    async def _notice_hung_folder(self) -> None:
        """Ask the folder to which recordings are moved while a move stands still: a mount counts as hung only once
        another call notices it, and nothing else may use that one."""
        folder = self._rule.folder
        async for _ in Periodic(_ASK_SECONDS):
            stands_still = self._in_progress and trio.current_time() >= self._progress_at + _STILL_SECONDS
            if stands_still or self._services.mounts.hangs(folder):
                with suppress(CefMp4ProcessorError):
                    await self._services.disk.space(folder)

    async def _apply(self, action: Action, file: VerifiedFile, lease: HeldLease, cause: FreedBy) -> bool:
        self._note_progress()
        return await action.apply(file, _NotedLease(lease, self._note_progress), cause)

    def _note_progress(self) -> None:
        self._progress_at = trio.current_time()

    async def _run_pending(self, nursery: trio.Nursery) -> None:
        hung = self._services.mounts.hung
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
            soonest = min((one.due_at for path, one in self._pending.items() if self._may_attempt(path)), default=inf)
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
        mounts, folder = self._services.mounts, self._rule.folder
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
                    look = await self._verification.must_be_silent(path, pending.seen)
                    if look is not None:
                        due_at = trio.current_time() + self._services.rules.stream_timeout_seconds
                        following = replace(pending, due_at=due_at, seen=look)
                    else:
                        file = await self._verification.verified(pending.stream_id)
                        acted = await self._apply(self._action, file, lease, FreedBy.AFTER_UPLOAD)
                        if not acted and self._is_settled(path):  # its disk is not mounted, or the news is on its way
                            following = pending.failed()
                else:  # another daemon does it; try again when its lease would have expired
                    ttl_seconds = self._services.lease.ttl_seconds
                    following = replace(pending, due_at=trio.current_time() + ttl_seconds, seen=None)
        except (NotAsVerifiedError, RecordingChangedError) as error:
            log.warning("after_upload_refused", stream_id=pending.stream_id, path=path, reason=str(error))
        except CefMp4ProcessorError as error:
            following = pending.failed(str(error))
            pause = BACKOFF.ceiling_seconds(following.failures)
            log.warning(
                "after_upload_failed", stream_id=pending.stream_id, path=path, error=str(error), wait_seconds=pause
            )
        except Exception as error:  # a bug, or a record that no daemon wrote: it must not stop the others (P6)
            log.exception("after_upload_error", stream_id=pending.stream_id, path=path)
            following = pending.failed(str(error)) if is_shortage(error) else None
        if self._pending.get(path) == pending:  # else the path is another recording's now
            del self._pending[path]
            if following is not None:
                self._pending[path] = following

    async def _dispose_early(self, recording: KeptRecording, go_on: Callable[[], Awaitable[bool]]) -> bool:
        """See :class:`~cef_trio.postprocess.free_space.Dispose`. If cancelled, it is complete, or can be repeated."""
        if recording.path in self._in_progress or recording.path in self._pending:
            return False
        action = self._action or Delete(self._services, "")
        self._in_progress.add(recording.path)
        try:
            name = job_lock_name(recording.stream_id, _JOB)
            async with hold_lease(self._services.store, name, self._services.lease) as lease:
                if lease is None:
                    return False
                file = await self._verification.verified(recording.stream_id)
                if file.path != recording.path or not await go_on():
                    return False
                acted = await self._apply(action, file, lease, FreedBy.MIN_FREE_SPACE)
            if acted:
                self._kept.drop(recording)
            return acted
        finally:
            self._in_progress.discard(recording.path)
