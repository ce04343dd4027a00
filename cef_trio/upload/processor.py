"""A stream's task: performs the actions of ``next_action``, from the first byte to the metadata.

Guarantees, whatever is raised at whichever await:

- The end of the task is recorded in Redis (promise P3): completed, failed with a reason, parked
  (``interrupted_shutdown``) or cancelled (``interrupted_cancelled``). The final saves are shielded and bounded.
- No error ends another stream's task: only ``Cancelled`` leaves this one. A transient error does not end the stream: it
  waits without a slot until the outage is over, and resumes through ``recovery.resume`` like a restarted daemon.
- A file that cannot be read (permissions, disk errors) does not end the stream either. It is retried at each event of
  the file (a change of its mode is one), at each scan, and with back-off.
- It holds a slot of ``MAX_CONCURRENT_STREAMS`` only while it works, and releases it between parts if others wait.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from math import inf
from typing import Any, Final, TypeGuard

import structlog
import trio
from trio_util import AsyncBool, AsyncValue, wait_any

from cef_trio.checkpoint import ENDED, FAILED, SENTENCES, ExitState, FailureReason, FileIdentity, Status, StreamMeta
from cef_trio.exceptions import (
    CefMp4ProcessorError,
    ChunkProcessingError,
    FileAccessError,
    LeaseLostError,
    OutdatedError,
    RecordingChangedError,
    RecordingTouchedError,
    RecordUnreadableError,
    S3OperationError,
    StreamEndedError,
)
from cef_trio.files import HEAD_BYTES, FileStat, IdentityMatch, OpenRecording, is_same_file, may_be
from cef_trio.resilience import Progress, shielded
from cef_trio.upload import recovery, webhook_events
from cef_trio.upload.bucket_change import bucket_changed, endpoint_changed
from cef_trio.upload.changing_parts import ChangingRecording
from cef_trio.upload.failures import (
    KEEPS_ITS_UPLOAD,
    StreamFailedError,
    aborted_because,
    ends_stream,
    is_lost_in_s3,
    is_permission_denied,
    is_rejected_by_s3,
    reason_of_error,
    shortage_of,
)
from cef_trio.upload.file_state import Ending, FileState, closed, confirmed, gone, guess_held, still_written
from cef_trio.upload.finalize import finish, verify_and_complete
from cef_trio.upload.lost_records import LostRecords
from cef_trio.upload.next_action import Action, FileCheck, check_file, next_action
from cef_trio.upload.part_plan import Part
from cef_trio.upload.part_size import write_rate
from cef_trio.upload.recognition import identify, is_found_at, recognize
from cef_trio.upload.recovery import FileHistory
from cef_trio.upload.repeated_errors import DOUBTED_COMPLETIONS, LOST_COMPLETIONS, CallKey, Doubt, RepeatedErrors
from cef_trio.upload.send_parts import send_all
from cef_trio.upload.services import Services
from cef_trio.upload.session import StreamUpload
from cef_trio.upload.sparse_file_lag import Holes
from cef_trio.upload.start_stream import NotStarted, start

log = structlog.get_logger(__name__)

_MAX_UNWRITTEN: Final = 16
"""After this many holes the rest of a file is not searched until it changes."""
_UNWRITTEN_PAUSE_SECONDS: Final = 1.0
_TOUCHED_SECONDS: Final = 20.0
"""The longest pause before a recording that is touched all the time is compared again: else it seems stuck (P10)."""
_GONE_GRACE_SECONDS: Final = 0.5
"""How long to wait for the rename event of a missing file before a scan decides."""
_MAX_HOLD_SECONDS: Final = 3600.0
"""The longest pause before a recording is sent again as a whole, because a quota has no room for all of it."""
_MISPLACED: Final = frozenset({FailureReason.FILE_MISSING_ON_RESUME, FailureReason.FILE_REPLACED})


class Outcome(Enum):
    """How a stream's task ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    PARKED = "parked"
    LEASE_LOST = "lease_lost"
    SET_ASIDE = "set_aside"
    """Its record cannot be read: it is left unchanged, and retried periodically."""
    FILE_MISSING = "file_missing"
    """The file was missing before its stream was started."""
    UNCHANGED = "unchanged"
    """The file is stored already, with the same bytes: no stream was started."""


class StreamProcessor:
    """One stream's task. ``file_state`` is shared with the supervisor, which updates it on events."""

    def __init__(
        self,
        services: Services,
        lost_records: LostRecords,
        file_state: AsyncValue[FileState],
        stream_id: str | None,
        history: FileHistory,
        *,
        on_guess_failed: Callable[[], None],
    ) -> None:
        """``history`` matters only for a file without a stream (``stream_id`` is ``None``).

        ``on_guess_failed`` is called when the file at a guessed path is not the stream's: its path is to be set back.
        """
        self.file_state = file_state
        self._on_guess_failed = on_guess_failed
        self._first_stat: FileStat = file_state.value.stat
        self.stream_id = stream_id
        self.working = False
        """Whether the task holds a stream slot."""
        self.upload: StreamUpload | None = None
        self._services = services
        self._lost_records = lost_records
        self._history = history
        self.progress = Progress()
        self.lease_lost = False
        """Whether the stream's lease is lost; then nothing may be saved."""
        self._logged_error: BaseException | None = None
        """The final error that was logged already."""
        self._failed_at: datetime | None = None
        """When it was; recording it may be repeated, and is one failure all the same."""
        self.unreadable: FileAccessError | None = None
        """Why the file cannot be read at present, if it cannot."""
        self._file_changed = AsyncBool(False)
        """Set by an event of a file that could not be read."""
        self._attempts = 0
        self._mismatches = 0
        """How often the open file was not the stream's, since the last successful work on it."""
        self._repeated_errors = RepeatedErrors()
        self._doubt = Doubt.NOTHING
        """What S3's errors make doubtful, and is not reconciled yet."""
        self._over_quota: S3OperationError | None = None
        """A quota's refusal of the completion. Some stores (Garage) abort the upload then."""
        self._no_room: S3OperationError | None = None
        """The same, once the upload is gone: every byte is to be sent again."""
        self._sent_in_vain = 0
        """How often that was so."""
        self._refused_at = -inf
        self.changing = ChangingRecording(services.rules.retry.ceiling_seconds)
        self._finalizing_since: float | None = None
        self._unless_aborted = trio.CancelScope()
        """Around all that the task does until an operator wants the stream aborted."""

    @property
    def retrying(self) -> bool:
        """Whether the task is recovering from an error or waiting to."""
        return self._attempts > 0

    def retry_read(self) -> None:
        """Retry a file that could not be read, after an event of it."""
        if self.unreadable is not None:
            self._file_changed.value = True

    def request_abort(self) -> None:
        """Stop the work on the stream, abort its upload and end it, as an operator requested. May be repeated.

        A stream that is complete by then stays completed.
        """
        if not self._unless_aborted.cancel_called:
            log.info("abort_requested", stream_id=self.stream_id)
            self._unless_aborted.cancel()

    async def run(self) -> Outcome:
        """Process the stream to its end.

        Raises:
            trio.Cancelled: after the status ``interrupted_cancelled`` was saved, or ``save_seconds`` were over.
        """
        self.progress.enter()
        try:
            return await self._run()
        except BaseException:  # Cancelled, or a group of them from the nursery of the parts in flight
            with shielded(self._services.rules.save_seconds, saving="interrupted state"):
                await self._save_exit(Status.INTERRUPTED_CANCELLED)
            raise

    async def _run(self) -> Outcome:
        with self._unless_aborted:
            return await self._run_to_its_end()
        return await self._retry_until_recorded(self._abort)

    async def _run_to_its_end(self) -> Outcome:
        while True:
            try:
                return await self._process()
            except (LeaseLostError, RecordUnreadableError) as error:
                return await self._end_without_record(error)
            except CefMp4ProcessorError as error:
                if self._is_undecided(error):
                    return await self._park()
                final = error if ends_stream(error) else self._repeated_too_often(error)
                if final is not None:
                    return await self._retry_until_recorded(lambda final=final: self._fail(final))  # type: ignore[misc]
                self._doubt = max(self._doubt, self._doubt_after(error))
                await self._wait_to_retry(error)
            except Exception as error:  # noqa: BLE001 - a bug ends its own stream only (P6); _fail logs it
                if (shortage := shortage_of(error)) is None:
                    return await self._retry_until_recorded(lambda error=error: self._fail(error))  # type: ignore[misc]
                await self._wait_to_retry(shortage)
            if self.file_state.value.draining:
                return await self._park()

    def _doubt_after(self, error: CefMp4ProcessorError) -> Doubt:
        """Return what an error makes doubtful; count it, if it is a completion that fails though S3 works."""
        if is_lost_in_s3(error):
            return Doubt.CONTRADICTED
        if self.upload is None or not self._services.s3_breaker.up.value:
            return Doubt.NOTHING
        meta = self.upload.meta
        times = self._repeated_errors.count_completion(error, self._subject())
        if times == DOUBTED_COMPLETIONS:
            log.warning("completion_failing", key=meta.s3_key_prefix, times=times, error=str(error))
        if times == LOST_COMPLETIONS * 2**meta.uploads_restarted:
            return Doubt.UPLOAD
        return Doubt.PARTS if times >= DOUBTED_COMPLETIONS else Doubt.NOTHING

    def _subject(self) -> CallKey:
        """Return the stream's state, for which errors are counted."""
        meta = self.upload.meta if self.upload is not None else None
        return (meta.s3_upload_id, meta.verified_size_bytes, meta.verified_mtime_ns) if meta is not None else ()

    def _repeated_too_often(self, error: CefMp4ProcessorError) -> StreamFailedError | None:
        """Count the error; return the final error if it was repeated too often, else ``None``."""
        why = self._repeated_errors.count(error, self._subject())
        if why is None:
            return None
        final = StreamFailedError(reason_of_error(error), f"{error}; {why}")
        final.__cause__ = error
        return final

    async def _end_without_record(self, error: LeaseLostError | RecordUnreadableError) -> Outcome:
        """End the task without changing the record: another daemon has the lease, or the record is unreadable."""
        if isinstance(error, OutdatedError):
            return await self._outdated(error)
        if isinstance(error, LeaseLostError):
            log.warning("lease_lost", error=str(error))
            return Outcome.LEASE_LOST
        if self.stream_id is not None:
            with suppress(CefMp4ProcessorError):  # the lease expires anyway
                await self._services.store.release([self.stream_id], self._services.lease)
        return Outcome.SET_ASIDE

    async def _outdated(self, error: OutdatedError) -> Outcome:
        log.info("file_check_outdated", reason=str(error))
        if not isinstance(error, StreamEndedError):
            await self._park()  # releases the lease and saves that no task works on the stream (P3)
            return Outcome.LEASE_LOST
        if self.upload is None:
            return Outcome.LEASE_LOST
        # This task ended the stream: the last write succeeded, and its reply was lost.
        return Outcome.COMPLETED if error.completed else Outcome.FAILED

    async def _process(self) -> Outcome:  # noqa: C901 - one branch an action
        upload = await self._start_or_resume()
        if isinstance(upload, Outcome):
            return upload
        self.upload = upload.with_marks_of(self.upload)
        self.unreadable = None
        await self._mark_closed_if_unwritten()
        while True:
            file_state = self.file_state.value
            action = next_action(upload.known, file_state)
            match action:
                case Action.PARK:
                    return await self._park()
                case Action.WAIT:
                    await self._wait_for_file(upload)
                case Action.COMPARE:
                    await self._compare(upload.meta)
                case Action.RENAME:
                    await upload.rename(file_state.path)
                    log.info("recording_renamed", path=file_state.path)
                case Action.CHECK_FILE:
                    if await self._check_file(upload):
                        return Outcome.FAILED
                case Action.UPLOAD:
                    await self._with_recording(upload, self._send_ready)
                    await self._pause_unless_ended(upload)
                case Action.FINALIZE:
                    await self._pause_if_changing(upload)
                    if await self._has_ended(file_state):
                        self._services.advice.ended(upload.stream_id, file_state.ending)
                        await self._with_recording(upload, self._verify_and_complete)
                case Action.WRITE_METADATA:
                    began = self._finalizing_began()
                    async with self._services.stream_slots:
                        await finish(self._services, upload, (file_state.guessed_from or file_state).path)
                    self._services.metrics.finalized(trio.current_time() - began)
                    return Outcome.COMPLETED
            self._step_done()

    async def _pause_if_changing(self, upload: StreamUpload) -> None:
        """Wait for the next verification of a recording that was changed during the last one, or for another action."""
        known = upload.known
        with trio.move_on_at(self.changing.verify_at):
            await self.file_state.wait_value(lambda now: next_action(known, now) is not Action.FINALIZE)

    def _step_done(self) -> None:
        self._attempts, self.unreadable = 0, None
        if not self._mismatches:  # else neither the attempt nor the check after it got anything to S3
            self.progress.progressed()
            self._repeated_errors.progressed()

    async def _wait_for_file(self, upload: StreamUpload) -> None:
        """Wait until the file's state asks for something, or a part that changes all the time is to be looked at."""
        known = upload.known
        upload.forget_settled(self.file_state.value.stat.size_bytes)  # else their look would be due for ever
        self.progress.mark_waiting()
        with trio.move_on_at(upload.changing.look_at) as until_look:
            await self.file_state.wait_value(lambda now: next_action(known, now) is not Action.WAIT)
        if until_look.cancelled_caught:
            upload.nothing_ready_at = None
        self.progress.mark_working()

    async def _start_or_resume(self) -> StreamUpload | Outcome:
        if self.stream_id is not None:
            return await self._resume(self.stream_id)
        self.file_state.value = guess_held(self.file_state.value)  # any file may be the one of a stream to be begun
        path = self.file_state.value.path
        try:
            started = await start(
                self._services,
                self._lost_records,
                path,
                self._history,
                on_stream_id=self._set_stream_id,
                draining=self._is_draining,
            )
        except RecordingChangedError as error:
            log.info("file_missing", reason=str(error))
            return Outcome.FILE_MISSING
        match started:
            case NotStarted.UNCHANGED:
                return Outcome.UNCHANGED
            case NotStarted.DRAINING:
                return await self._park()
            case StreamUpload():
                return started

    async def _resume(self, stream_id: str) -> StreamUpload:
        scanned_for: str | None = None
        in_doubt: Mapping[str, FileStat] = {}
        while True:
            if self.file_state.value.guessed_from is not None:
                found = await self._services.store.load_metas([stream_id])
                if stream_id in found and found[stream_id].meta.object_etag is None:  # else no file is needed
                    await self._compare(found[stream_id].meta)
                    continue
            path = self.file_state.value.path
            try:
                async with self._services.stream_slots:
                    over_quota = self._over_quota is not None
                    upload = await recovery.resume(
                        self._services, stream_id, path, doubt=self._doubt, over_quota=over_quota
                    )
                    self._doubt = Doubt.NOTHING
            except StreamFailedError as error:
                if error.reason not in _MISPLACED or path == scanned_for:
                    raise
                missed_at = trio.current_time()
                known = (await self._services.store.load_metas([stream_id])).get(stream_id)
                identity = known.meta.identity if known is not None else None
                in_doubt = await self._until_scanned(path, missed_at, identity, in_doubt)
                if self._is_draining():
                    raise
                # At another path, which a scan may only propose, nothing was decided.
                scanned_for = None if in_doubt or self.file_state.value.path != path else path
            else:
                self._hold_if_in_vain(upload)
                return upload

    def _hold_if_in_vain(self, upload: StreamUpload) -> None:
        """Raise a quota's refusal again if its upload is gone, so that the stream waits before it sends every byte.

        Unless the quota had no room for the probe's few bytes either: then the outage was waited for, and is over.
        """
        refused = self._over_quota
        if refused is None or upload.meta.s3_upload_id is not None:
            return
        self._over_quota = None
        if upload.meta.object_etag is not None or self._services.s3_breaker.recovered_at > self._refused_at:
            return
        self._no_room, self._sent_in_vain, self.upload = refused, self._sent_in_vain + 1, upload
        raise refused

    async def _compare(self, meta: StreamMeta) -> None:
        """Compare the file at a path that only its inode number led to: the rename is followed, or never was one."""
        guess = self.file_state.value
        try:
            is_its = await is_found_at(self._services, meta, guess.path)
        except RecordingChangedError:
            is_its = False
        if self.file_state.value.path != guess.path:
            return  # renamed again meanwhile: that one is compared
        if is_its:
            self.file_state.value = guess_held(self.file_state.value)
        else:
            log.info("file_number_reused", path=guess.path)
            self._on_guess_failed()

    def _is_undecided(self, error: CefMp4ProcessorError) -> bool:
        """Return whether the file seems missing while the daemon drains; the next start decides, after a scan."""
        return self._is_draining() and isinstance(error, StreamFailedError) and error.reason in _MISPLACED

    async def _until_scanned(
        self, path: str, missed_at: float, identity: FileIdentity | None, in_doubt: Mapping[str, FileStat]
    ) -> Mapping[str, FileStat]:
        """Wait until it is known whether a missing file was renamed.

        Returns after a rename event, after a scan that began after ``missed_at``, or when the daemon drains. Returns
        the files that may be the missing one, by its ``identity``, and cannot be compared yet: then the missing one is
        to be looked for at its path again, and nothing else is known. This is told meanwhile (P10). ``in_doubt``: what
        was returned the last time.
        """
        moved_on = partial(self.file_state.wait_value, lambda now: now.path != path or now.draining)
        with trio.move_on_after(_GONE_GRACE_SECONDS):  # a rename event is cheaper than a scan
            await moved_on()
            return {}
        left: Mapping[str, FileStat] = {}

        def is_possible(stat: FileStat) -> bool:
            return identity is None or may_be(identity, stat)

        def tell(others: Collection[str]) -> None:
            why = f"{path!r} is missing, and {min(others)!r} may be it, which was not compared yet"
            self.progress.failed(ChunkProcessingError(why, transient=True))

        async def scanned() -> None:
            nonlocal left
            left = await self._services.scans.wait_for_scan(path, missed_at, is_possible, tell, in_doubt)

        await wait_any(moved_on, scanned)
        return left

    def _set_stream_id(self, stream_id: str) -> None:
        self.stream_id = stream_id
        structlog.contextvars.bind_contextvars(stream_id=stream_id)

    async def _with_recording(
        self, upload: StreamUpload, work: Callable[[StreamUpload, OpenRecording], Awaitable[bool]]
    ) -> None:
        """Do some work on the open file, with a slot. If the file is not the stream's, mark it for a check instead.

        ``work`` returns false if it only left out what could not be read as the same bytes twice.
        """
        async with self._services.stream_slots:
            self.working = True
            try:
                async with self._services.disk.open(self.file_state.value.path) as recording:
                    if not is_same_file(upload.meta.identity, await recording.stat(), recording.generation):
                        self._mark_for_check()
                        return
                    if await work(upload, recording):
                        self._mismatches = 0
            except RecordingChangedError as error:
                log.info("recording_changed_during_read", reason=str(error))
                self.progress.failed(error)
                self._mark_for_check()
            finally:
                self.working = False

    def _mark_for_check(self) -> None:
        self._mismatches += 1
        self.file_state.value = gone(self.file_state.value)

    async def _send_ready(self, upload: StreamUpload, recording: OpenRecording) -> bool:
        """Send the full parts, several at once, until none is left or other streams wait for the slot."""
        stat = self.file_state.value.stat
        await upload.choose_part_size(write_rate(self._first_stat, stat), stat.size_bytes)
        if upload.first_missing > upload.plan.count_full(stat.size_bytes):
            return True  # the chosen size is larger than the file
        await upload.ensure_open()
        ready = self._ready(upload, recording)
        sent = await send_all(self._services, upload, recording, ready, stop=self._is_draining)
        if sent:
            self._over_quota = None  # the store has not aborted the upload: if it is gone later, it is lost
        return sent or not upload.changing

    async def _ready(self, upload: StreamUpload, recording: OpenRecording) -> AsyncGenerator[Part, None]:
        """Yield the full parts to send, without those that would be sent twice.

        These are holes of a preallocated file, and parts that change while they are sent.
        """
        turn = int(self._services.part_slots.total_tokens)
        sent = 0
        upload.unwritten.clear()
        seen = self.file_state.value.stat
        while part := upload.next_to_send(self.file_state.value.stat.size_bytes):
            if sent >= turn and self._services.stream_slots.statistics().tasks_waiting:
                return
            if not await recording.is_written(part.offset, part.size_bytes):
                if not upload.unwritten:
                    upload.holes = Holes(part.number, seen, trio.current_time())
                upload.unwritten.add(part.number)
                if len(upload.unwritten) < _MAX_UNWRITTEN:
                    continue
                break
            if not await upload.changing.is_quiet(recording, part):
                continue
            yield part
            sent += 1
        upload.forget_settled(self.file_state.value.stat.size_bytes)
        if upload.unwritten or upload.changing:
            upload.nothing_ready_at = seen
        if not upload.unwritten:
            upload.holes = None

    async def _pause_unless_ended(self, upload: StreamUpload) -> None:
        """Wait a second if parts are left out, so that they are not searched for at each write."""
        if (upload.unwritten or upload.changing) and self.file_state.value.ending is Ending.NOT:
            with trio.move_on_after(_UNWRITTEN_PAUSE_SECONDS):
                await self.file_state.wait_value(
                    lambda now: now.ending is not Ending.NOT or now.draining or now.needs_check
                )

    def _is_draining(self) -> bool:
        draining: bool = self.file_state.value.draining
        return draining

    async def _check_file(self, upload: StreamUpload) -> bool:
        """Check the file; return whether that ended the stream."""
        if self._mismatches > 1:  # stat and open disagree; do not loop without a pause
            await self._pause(self._services.rules.retry.ceiling_seconds(self._mismatches - 1))
        path, identity = self.file_state.value.path, upload.meta.identity
        check = await self._check_file_once(upload)
        in_doubt: Mapping[str, FileStat] = {}
        is_known = False
        while check in {FileCheck.GONE, FileCheck.REPLACED} and not is_known:
            # It may have been renamed, and the event is not here yet.
            in_doubt = await self._until_scanned(path, trio.current_time(), identity, in_doubt)
            if self.file_state.value.draining or self.file_state.value.guessed_from is not None:
                return False
            is_known = not in_doubt and self.file_state.value.path == path  # else a rename came, and no scan decided
            path = self.file_state.value.path
            check = await self._check_file_once(upload)
        match check:
            case FileCheck.SAME:
                if upload.meta.identity != identity:
                    await self._mark_closed_if_unwritten()  # a copy that was complete when it took the name
                return False
            case FileCheck.SHRUNK:
                covered, size = upload.covered_bytes, self.file_state.value.stat.size_bytes
                kept = await upload.truncate(size)
                log.warning("recording_truncated", covered_bytes=covered, size_bytes=size, parts_kept=kept)
                return False
            case FileCheck.REPLACED:
                raise StreamFailedError(FailureReason.FILE_REPLACED, "another file took the recording's name")
            case FileCheck.GONE:
                await recovery.check_mounted(self._services, upload.meta, self.file_state.value.path)
                return await self._end_deleted(upload)

    async def _check_file_once(self, upload: StreamUpload) -> FileCheck:
        path = self.file_state.value.path
        stat, is_ours = None, False
        try:
            async with self._services.disk.open(path) as recording:
                stat = await recording.stat()
                is_ours = await self._is_ours(upload, recording, stat)
        except RecordingChangedError:
            stat = None  # there is no file
        check = check_file(stat, is_ours=is_ours, covered_bytes=upload.covered_bytes)
        if stat is not None and check in {FileCheck.SAME, FileCheck.SHRUNK}:
            self.file_state.value = confirmed(self.file_state.value, path, stat)
        return check

    async def _is_ours(self, upload: StreamUpload, recording: OpenRecording, stat: FileStat) -> bool:
        """Return whether an open file is the stream's; record its new identity if only its numbers changed."""
        if is_same_file(upload.meta.identity, stat, recording.generation):
            return True
        if await recognize(upload.meta, upload.parts, recording) is IdentityMatch.REPLACED:
            await recovery.check_same_file_system(recording, upload.meta.identity, self.file_state.value.path)
            return False
        await upload.update(identity=await identify(recording, stat, HEAD_BYTES))
        return True

    async def _end_deleted(self, upload: StreamUpload) -> bool:
        log.warning("recording_deleted", parts=len(upload.parts))
        status = Status.DELETED_LOCALLY if upload.parts else Status.ABORTED_NO_PARTS
        says, left = "The recording was deleted before its upload was complete.", await self._leave(upload)
        await upload.transition(status, failure_reason=f"{says} {left}".rstrip())
        await self._services.store.release([upload.stream_id], self._services.lease)
        self._services.metrics.stream_failed(status.value)
        return True

    async def _leave(self, upload: StreamUpload, *, keep_upload: bool = False) -> str:
        """Abort the upload of a stream that ends without an object; return what is left in S3 all the same, and why."""
        if not keep_upload and (left := await upload.abort_or_leave()):
            return left
        with suppress(S3OperationError):  # the end of the stream does not wait for S3
            return await upload.left_object()
        return ""

    async def _mark_closed_if_unwritten(self) -> None:
        """Mark a file without a writer as closed: no close event follows for a file that was there before."""
        file_state = self.file_state.value
        if file_state.ending is not Ending.NOT:
            return
        has_writer = await self._services.has_writer(file_state.path)
        if has_writer is False and self.file_state.value == file_state:
            self.file_state.value = closed(file_state, file_state.stat)

    async def _has_ended(self, file_state: FileState) -> bool:
        """Return whether a recording that seems to have ended has: after the grace period, with no writer left."""
        if file_state.ending is Ending.IDLE:
            return True
        with trio.move_on_after(self._services.rules.close_grace_seconds):
            await self.file_state.wait_value(lambda now: now != file_state)
            return False
        if await self._services.has_writer(file_state.path) is not False:
            # Another writer has it open; or writers are unknown, and only the idle timeout ends the recording.
            if self.file_state.value == file_state:
                self.file_state.value = still_written(file_state)
            return False
        unchanged: bool = self.file_state.value == file_state
        return unchanged

    async def _verify_and_complete(self, upload: StreamUpload, recording: OpenRecording) -> bool:
        file_state = self.file_state.value
        if file_state.ending is Ending.IDLE and (stat := await recording.stat()) != file_state.stat:
            # The attributes were cached by the mount (sshfs, NFS); opening the file revalidated them.
            self.file_state.value = confirmed(self.file_state.value, file_state.path, stat)
            return True
        self._finalizing_began()
        after = await verify_and_complete(
            self._services, upload, recording, draining=self._is_draining, pause=self._pause_unless_draining
        )
        if after is not None:  # still being written
            self._finalizing_since = None
            self.changing.changed(after.size_bytes)
            self.file_state.value = confirmed(self.file_state.value, self.file_state.value.path, after)
        return True

    def _finalizing_began(self) -> float:
        if self._finalizing_since is None:
            self._finalizing_since = trio.current_time()
        return self._finalizing_since

    async def _park(self) -> Outcome:
        with shielded(self._services.rules.save_seconds, saving="parked state"):
            await self._save_exit(Status.INTERRUPTED_SHUTDOWN)
        return Outcome.PARKED

    async def _save_exit(self, status: Status) -> None:
        if self.stream_id is not None and not self.lease_lost:
            await self._services.shutdown_flush.save(ExitState(self.stream_id, status, self._services.utc_now()))

    async def _wait_to_retry(self, error: CefMp4ProcessorError) -> None:
        """Wait without a slot until a retry makes sense; return at once when the daemon drains."""
        self.unreadable = error if isinstance(error, FileAccessError) else None
        self._file_changed.value = False
        self._attempts += 1
        self.progress.failed(error)
        seconds = self._retry_seconds(error)
        if _is_completion_over_quota(error) and error is not self._no_room:
            self._over_quota, self._refused_at = error, trio.current_time()
        log.warning("stream_retrying", error=str(error), wait_seconds=seconds, attempt=self._attempts)
        upload = self.upload
        if upload is not None and self._services.redis_breaker.up.value:
            retry_at = self._services.utc_now() + timedelta(seconds=seconds)
            try:
                await upload.transition(
                    Status.RETRYING, retry_at_utc=retry_at, retry_attempts=self._attempts, failure_reason=str(error)
                )
            except (CefMp4ProcessorError, ValueError) as unsaved:
                # Informational only. A lost lease or another problem recurs on resume; so does that the stream has
                # ended (ValueError): its last write took effect, and failed all the same.
                log.warning("retry_not_recorded", error=str(unsaved))
        await self._pause(seconds)
        await wait_any(self._until_draining, self._until_services_up)

    def _retry_seconds(self, error: CefMp4ProcessorError) -> float:
        """Return how long to wait after an error."""
        retry = self._services.rules.retry
        if error is self._no_room:
            return replace(retry, initial_seconds=retry.max_seconds, max_seconds=_MAX_HOLD_SECONDS).ceiling_seconds(
                self._sent_in_vain
            )
        seconds = retry.ceiling_seconds(self._attempts)
        return min(seconds, _TOUCHED_SECONDS) if isinstance(error, RecordingTouchedError) else seconds

    async def _until_services_up(self) -> None:
        await self._services.s3_breaker.wait_up()
        await self._services.redis_breaker.wait_up()

    async def _pause(self, seconds: float) -> None:
        """Wait until the time is over, an unreadable file has an event, or the daemon drains."""
        least = trio.current_time() + min(seconds, self._services.rules.retry.initial_seconds)
        with trio.move_on_after(seconds):
            await wait_any(self._until_draining, partial(self._file_changed.wait_value, True))
        with trio.move_on_at(least):  # a growing file has events all the time
            await self._until_draining()

    async def _pause_unless_draining(self, seconds: float) -> None:
        """Wait until the time is over or the daemon drains."""
        with trio.move_on_after(seconds):
            await self._until_draining()

    async def _until_draining(self) -> None:
        await self.file_state.wait_value(lambda now: now.draining)

    async def _retry_until_recorded(self, end: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """End the stream; retry until the end is recorded."""
        while True:
            try:
                return await end()
            except (LeaseLostError, RecordUnreadableError) as error:
                return await self._end_without_record(error)
            except CefMp4ProcessorError as error:
                if not error.transient and not is_permission_denied(error):
                    log.error("failure_not_recorded", error=str(error))  # noqa: TRY400 - the message of Redis is enough
                    return Outcome.FAILED
                await self._wait_to_retry(error)
            except Exception as error:  # a bug here must not end other streams (P6)
                if (shortage := shortage_of(error)) is None:
                    log.exception("failure_not_recorded")
                    return Outcome.FAILED
                await self._wait_to_retry(shortage)
            if self.file_state.value.draining:
                return await self._park()

    async def _finish_without_file(self) -> bool:
        """Complete the stream if its file is gone or replaced, but its object was stored; return whether it was."""
        checkpoint = await self._services.store.load(self.stream_id) if self.stream_id is not None else None
        if checkpoint is None:
            return False
        if checkpoint.meta.status is Status.COMPLETED:
            return True  # repeated, as the reply was lost
        # From Redis: in memory there may be parts of later bytes, whose record failed, beside what was verified.
        self.upload = StreamUpload(self._services, checkpoint)
        if not await recovery.is_stored(self._services, self.upload):
            return False
        async with self._services.stream_slots:
            await finish(self._services, self.upload, None)
        return True

    async def _fail(self, error: BaseException) -> Outcome:
        """Record that the stream failed. Safe to repeat; the error is logged once, before anything can fail."""
        reason = reason_of_error(error)
        if reason in _MISPLACED:
            try:
                if await self._finish_without_file():
                    return Outcome.COMPLETED
            except CefMp4ProcessorError as refused:
                if not (ends_stream(refused) or is_rejected_by_s3(refused)):
                    raise
                error, reason = refused, reason_of_error(refused)
        if self._logged_error is not error:
            self._logged_error, self._failed_at = error, self._services.utc_now()
            log.error("stream_failed", reason=reason.value, error=str(error), exc_info=error)
        upload = self.upload
        if upload is None and self.stream_id is not None:
            checkpoint = await self._services.store.load(self.stream_id)
            upload = StreamUpload(self._services, checkpoint) if checkpoint else None
        if upload is None:
            upload = self.upload = await recovery.record_refused(
                self._services, self.file_state.value, on_stream_id=self._set_stream_id, history=self._history
            )
        left = await self._leave(upload, keep_upload=reason in KEEPS_ITS_UPLOAD)
        event = None
        if self._services.failure_webhook is not None:
            event = webhook_events.failed(upload.meta, reason, error, self._failed_at or self._services.utc_now())
        says = f"{SENTENCES[reason]} {error}{f'. {left}' if left else ''}"
        await upload.transition(Status.failed(reason), failure_reason=says, event=event)
        if event is not None:
            self._services.event_enqueued[webhook_events.FAILED_EVENT].value = True
        await self._services.store.release([upload.stream_id], self._services.lease)
        self._services.metrics.stream_failed(reason.value)  # last, as everything above may be repeated
        return Outcome.FAILED

    async def _abort(self) -> Outcome:
        """Abort the stream for an operator, after its work was cancelled, at whichever await. Safe to repeat.

        The record in Redis counts: what was cancelled may have changed the one in memory only, or have ended the
        stream. S3 may have completed the object, as the request was under way: then the object is recorded, and stays.
        """
        services, stream_id = self._services, self.stream_id
        if stream_id is None or not await services.store.acquire(stream_id, services.lease):
            raise LeaseLostError(f"stream {stream_id} is not ours to abort")
        checkpoint = await services.store.load(stream_id)
        if checkpoint is None:
            raise LeaseLostError(f"the record of stream {stream_id} is gone from Redis")
        if checkpoint.meta.status in ENDED - FAILED:
            await services.store.release([stream_id], services.lease)
            return Outcome.COMPLETED if checkpoint.meta.status is Status.COMPLETED else Outcome.FAILED
        in_memory, upload = self.upload, StreamUpload(services, checkpoint)
        self.upload = upload
        if in_memory is not None and in_memory.meta.s3_upload_id not in {None, upload.meta.s3_upload_id}:
            made = in_memory.meta  # S3 has made it, and its record was cancelled
            await upload.update(s3_upload_id=made.s3_upload_id, checksum_algorithm=made.checksum_algorithm)
        left = await self._abort_upload(upload)
        fields: dict[str, Any] = {} if left else {"s3_upload_id": None}
        if not left and upload.meta.object_etag is None:
            fields["checksum_algorithm"] = None
        reason = f"{aborted_because(upload.meta)}{f' {left}' if left else ''}"
        await upload.transition(Status.FAILED_ABORTED, failure_reason=reason, retry_at_utc=None, **fields)
        await services.store.release([stream_id], services.lease)
        services.metrics.stream_failed(FailureReason.ABORTED.value)
        log.warning("stream_aborted", parts=len(upload.parts), reason=reason)
        return Outcome.FAILED

    async def _abort_upload(self, upload: StreamUpload) -> str:
        """Abort what S3 has of a stream, unless its object is complete; return what is left in S3, and why.

        An operator wants it gone from S3, so it is left only if S3 refuses the abort for good.
        """
        meta = upload.meta
        if meta.object_etag is not None:
            return ""
        if bucket_changed(self._services, meta) or endpoint_changed(self._services, meta):
            return "Its upload is where S3_BUCKET_NAME and S3_ENDPOINT_URL do not lead any more."
        try:
            await upload.abort()
        except S3OperationError as error:
            if error.transient:
                raise
            return f"Its upload is left in S3: {error}"
        return "" if await recovery.is_stored(self._services, upload) else await upload.left_object()


def _is_completion_over_quota(error: CefMp4ProcessorError) -> TypeGuard[S3OperationError]:
    """Return whether a quota refused to complete an upload: some stores abort it then."""
    return isinstance(error, S3OperationError) and error.over_quota and error.operation == "complete_multipart_upload"
