"""Mutations that remove a check of a response, an object, a file or a lease."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import trio

from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Lease
from cef_trio.files.file_stat import FileStat
from cef_trio.files.reader import OpenRecording
from cef_trio.lab.disk import InlineRecording
from cef_trio.lab.faults import FaultKind
from cef_trio.lab.mutations.model import mutation, replace_in
from cef_trio.postprocess import disposal
from cef_trio.postprocess.free_space_rules import Round
from cef_trio.s3 import complete
from cef_trio.s3.expected_object import ExpectedObject
from cef_trio.s3.model import StoredObject
from cef_trio.s3.proof import Evidence, Proof
from cef_trio.s3.recording_put import RecordingPut
from cef_trio.s3.upload_body import BodyUploader, SentBody
from cef_trio.s3.xml import CompleteResult, XmlError, parse_complete_result
from cef_trio.upload import finalize, processor, recovery, services
from cef_trio.upload.part_plan import Part
from cef_trio.upload.send_parts import send_all
from cef_trio.upload.services import Services
from cef_trio.upload.session import StreamUpload


@mutation("unchecked: error in a 200 response", "error-in-200", "P1", "P6")
def _error_in_200_ignored(stack: ExitStack) -> None:
    """The status of CompleteMultipartUpload is trusted, and its body ignored."""
    parse = parse_complete_result

    def parse_any(body: bytes) -> CompleteResult:
        try:
            return parse(body)
        except XmlError:
            return CompleteResult("0" * 32, None)

    async def taken(self: complete.Completion, result: CompleteResult, _answer: object) -> StoredObject:
        await trio.lowlevel.checkpoint()
        return StoredObject(self._key, self._expected.size_bytes, result.etag or "", result.crc64nvme, {})

    replace_in(stack, complete, "parse_complete_result", parse_any)
    replace_in(stack, complete.Completion, "_verified", taken)


@mutation("unchecked: checksum of a stored part", "damaged-part", "P6")
def _part_checksum_ignored(stack: ExitStack) -> None:
    """The checksum in S3's response is not compared with that of the sent part."""

    def believed(_self: object, *_: object) -> Evidence:
        return Evidence(Proof.CHECKSUM)

    replace_in(stack, BodyUploader, "_evidence", believed)


@mutation("unchecked: checksum of a stored recording", "small-damaged", "P1")
def _recording_checksum_ignored(stack: ExitStack) -> None:
    """The checksum in S3's response to PutObject is not compared with that of the sent recording."""
    _part_checksum_ignored.apply(stack)


@mutation("unchecked: bytes of a put recording", "small-changed", "P1", fault=None)
def _put_bytes_not_compared(stack: ExitStack) -> None:
    """A recording is sent by PutObject although its bytes are not the verified ones."""
    send = BodyUploader.send

    async def any_bytes(self: BodyUploader, *args: Any, crc64nvme: int | None = None, **kwargs: Any) -> SentBody:
        return await send(self, *args, **kwargs)

    replace_in(stack, BodyUploader, "send", any_bytes)


@mutation("unchecked: object that a late PutObject replaces", "late-put", "P1", fault=None)
def _put_unconditional(stack: ExitStack) -> None:
    """A recording is sent without ``If-None-Match``."""

    def never(_self: object) -> None:
        return None

    replace_in(stack, RecordingPut, "_condition", never)


@mutation("unchecked: PutObject with a lost response", "small-grown", "P5", fault=None)
def _put_not_found(stack: ExitStack) -> None:
    """After a crash the object of an unrecorded PutObject is not looked for."""

    async def never(_self: StreamUpload) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, StreamUpload, "find_put", never)


@mutation("unchecked: owner of an object", "foreign-object", "P1")
def _every_object_is_own(stack: ExitStack) -> None:
    """Any object under the key is taken for the stream's."""

    async def no_difference(_self: object, _stored: object, _downloader: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, ExpectedObject, "difference", no_difference)


@mutation("unchecked: parts listed by S3", "patch-reverted", "P6", fault=FaultKind.DIE_UNANSWERED)
def _recorded_parts_not_compared(stack: ExitStack) -> None:
    """The parts that S3 lists are not compared with the records."""

    def never(upload: StreamUpload, part: Any) -> bool:
        return part.part_number not in upload.parts

    replace_in(stack, recovery, "_contradicts", never)


@mutation("naive: no ListParts on resume", "patch-reverted", "P6", fault=FaultKind.DIE_UNANSWERED)
def _list_parts_ignored(stack: ExitStack) -> None:
    """The parts in S3 are not listed on resume."""

    def never(_upload: StreamUpload, _part: object) -> bool:
        return False

    replace_in(stack, recovery, "_contradicts", never)


@mutation("unchecked: completion with a lost response", "transient-errors", "P2", "P6")
def _lost_response_is_failure(stack: ExitStack) -> None:
    """NoSuchUpload after a lost response is taken for a lost upload."""

    async def gone(_self: object, error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    replace_in(stack, complete.Completion, "_own_object_or_raise", gone)

    async def never(_services: object, _upload: object) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    replace_in(stack, recovery, "_was_completed", never)


@mutation("unchecked: bytes of sent parts", "rewrites", "P1")
def _not_verified(stack: ExitStack) -> None:
    """Sent parts are not read again before the completion."""

    async def only_missing(
        services: Services, upload: StreamUpload, recording: OpenRecording, size_bytes: int, leaving: Callable[[], bool]
    ) -> bool:
        await upload.ensure_open()

        async def missing() -> AsyncGenerator[Part, None]:
            for part in upload.plan.split(size_bytes):
                record = upload.parts.get(part.number)
                if record is None or record.size_bytes != part.size_bytes:
                    yield part

        return await send_all(services, upload, recording, missing(), stop=leaving)

    replace_in(stack, finalize, "_send_changed_parts", only_missing)


@mutation("unchecked: identity of the file", "replaced-without-event", "P1", fault=None)
def _every_file_is_same(stack: ExitStack) -> None:
    """Any file under the recording's name is taken for the recording."""

    def same(*_: object) -> bool:
        return True

    replace_in(stack, processor, "is_same_file", same)


@mutation("unchecked: changes during verification", "patched-during-verification", "P1", "P2")
def _changes_during_verification_ignored(stack: ExitStack) -> None:
    """Changes of the file during its verification are not detected."""
    stat, complete = InlineRecording.stat, StreamUpload.complete
    newest = 0

    async def without_time(self: InlineRecording) -> FileStat:
        nonlocal newest
        found = await stat(self)
        newest = found.mtime_ns
        return replace(found, mtime_ns=0)

    async def as_of_now(self: StreamUpload, size_bytes: int, _mtime_ns: int) -> StoredObject:
        return await complete(self, size_bytes, newest)

    replace_in(stack, InlineRecording, "stat", without_time)
    replace_in(stack, StreamUpload, "complete", as_of_now)


@mutation("unchecked: age of a time stamp", "same-mtime", "P1", "P6", kind="3")
def _time_stamp_trusted_at_once(stack: ExitStack) -> None:
    """A time stamp is trusted within the granularity of its file system."""

    def at_once(*_: object) -> float:
        return 0.0

    replace_in(stack, services, "granularity_wait_seconds", at_once)


@mutation("unchecked: lease of a write", "partition", "P3")
def _lease_not_checked(stack: ExitStack) -> None:
    """Writes are accepted without the stream's lease."""
    fenced = MemoryCheckpointStore._fenced  # noqa: SLF001 - a mutation replaces private functions

    def unfenced(self: MemoryCheckpointStore, stream_id: str, lease: Lease) -> Any:
        return self._streams.get(stream_id) or fenced(self, stream_id, lease)

    replace_in(stack, MemoryCheckpointStore, "_fenced", unfenced)


@mutation("unchecked: file before space is made", "short-of-space", "P8", fault=None)
def _space_made_without_check(stack: ExitStack) -> None:
    """While the disk is short of space, completed recordings are deleted without a check of their files."""
    _deleted_without_check.apply(stack)


@mutation("unbounded: deletions that free nothing", "space-not-freed", "P7", fault=None)
def _deletions_go_on(stack: ExitStack) -> None:
    """While the disk is short of space, recordings are deleted although that frees nothing."""

    def always(_self: object) -> bool:
        return True

    replace_in(stack, Round, "may_go_on", property(always))


@mutation("unchecked: file before deletion", "deleted-after-upload", "P8", fault=None)
def _deleted_without_check(stack: ExitStack) -> None:
    """A completed recording is deleted without a check of its file."""

    def never(*_: object) -> None:
        return None

    replace_in(stack, disposal, "file_mismatch", never)
