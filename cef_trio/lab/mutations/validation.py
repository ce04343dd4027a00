"""Mutations that remove a check of a response, an object, a file or a lease."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

import trio

from cef_trio.checkpoint.memory import MemoryCheckpointStore
from cef_trio.checkpoint.model import Lease
from cef_trio.files.file_stat import FileStat
from cef_trio.files.reader import OpenRecording
from cef_trio.lab.disk import InlineRecording
from cef_trio.lab.faults import FaultKind
from cef_trio.lab.mutations.model import Mutation, replace_in
from cef_trio.postprocess import disposal
from cef_trio.s3 import complete
from cef_trio.s3.model import StoredObject
from cef_trio.s3.upload_body import BodyUploader
from cef_trio.s3.xml import CompleteResult, XmlError, parse_complete_result
from cef_trio.upload import finalize, processor, recovery, services
from cef_trio.upload.part_plan import Part
from cef_trio.upload.send_parts import send_all
from cef_trio.upload.services import Services
from cef_trio.upload.session import StreamUpload


def _error_in_200_ignored(stack: ExitStack) -> None:
    parse = parse_complete_result

    def parse_any(body: bytes) -> CompleteResult:
        try:
            return parse(body)
        except XmlError:
            return CompleteResult("0" * 32, None)

    async def taken(self: complete.Completion, result: CompleteResult, _answer: object) -> StoredObject:
        await trio.lowlevel.checkpoint()
        return StoredObject(self._key, self._size_bytes, result.etag or "", result.crc64nvme, {})

    replace_in(stack, complete, "parse_complete_result", parse_any)
    replace_in(stack, complete.Completion, "_verified", taken)


def _part_checksum_ignored(stack: ExitStack) -> None:
    def believed(_self: object, *_: object) -> None:
        return None

    replace_in(stack, BodyUploader, "_mismatch", believed)


def _every_object_is_own(stack: ExitStack) -> None:
    async def no_difference(_self: object, _stored: object) -> None:
        await trio.lowlevel.checkpoint()

    replace_in(stack, complete.Completion, "_difference", no_difference)


def _recorded_parts_not_compared(stack: ExitStack) -> None:
    def never(upload: StreamUpload, part: Any) -> bool:
        return part.part_number not in upload.parts

    replace_in(stack, recovery, "_contradicts", never)


def _list_parts_ignored(stack: ExitStack) -> None:
    def never(_upload: StreamUpload, _part: object) -> bool:
        return False

    replace_in(stack, recovery, "_contradicts", never)


def _lost_response_is_failure(stack: ExitStack) -> None:
    async def gone(_self: object, error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    replace_in(stack, complete.Completion, "_own_object_or_raise", gone)

    async def never(_services: object, _upload: object) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    replace_in(stack, recovery, "_was_completed", never)


def _not_verified(stack: ExitStack) -> None:
    async def only_missing(
        services: Services, upload: StreamUpload, recording: OpenRecording, size_bytes: int, leaving: Callable[[], bool]
    ) -> bool:
        await upload.ensure_open()

        async def missing() -> AsyncGenerator[Part, None]:
            for part in upload.plan.cut(size_bytes):
                record = upload.parts.get(part.number)
                if record is None or record.size_bytes != part.size_bytes:
                    yield part

        return await send_all(services, upload, recording, missing(), stop=leaving)

    replace_in(stack, finalize, "_send_changed_parts", only_missing)


def _every_file_is_same(stack: ExitStack) -> None:
    def same(*_: object) -> bool:
        return True

    replace_in(stack, processor, "is_same_file", same)


def _changes_during_verification_ignored(stack: ExitStack) -> None:
    """Ignore the file's modification time during a verification pass and after it."""
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


def _time_stamp_trusted_at_once(stack: ExitStack) -> None:
    """Trust an unchanged time stamp at once, within its granularity."""

    def at_once(*_: object) -> float:
        return 0.0

    replace_in(stack, services, "granularity_wait_seconds", at_once)


def _lease_not_checked(stack: ExitStack) -> None:
    """Accept writes without the stream's lease."""
    fenced = MemoryCheckpointStore._fenced  # noqa: SLF001 - a mutation replaces private functions

    def unfenced(self: MemoryCheckpointStore, stream_id: str, lease: Lease) -> Any:
        return self._streams.get(stream_id) or fenced(self, stream_id, lease)

    replace_in(stack, MemoryCheckpointStore, "_fenced", unfenced)


def _deleted_without_check(stack: ExitStack) -> None:
    def never(*_: object) -> None:
        return None

    replace_in(stack, disposal, "file_mismatch", never)


MUTATIONS: Final = (
    Mutation(
        "unchecked: error in a 200 response",
        "the status of CompleteMultipartUpload is trusted, and its body ignored",
        _error_in_200_ignored,
        "error-in-200",
        ("P1", "P6"),
    ),
    Mutation(
        "unchecked: checksum of a stored part",
        "the checksum in S3's response is not compared with that of the sent part",
        _part_checksum_ignored,
        "damaged-part",
        ("P6",),
    ),
    Mutation(
        "unchecked: owner of an object",
        "any object under the key is taken for the stream's",
        _every_object_is_own,
        "foreign-object",
        ("P1",),
    ),
    Mutation(
        "unchecked: parts listed by S3",
        "the parts that S3 lists are not compared with the records",
        _recorded_parts_not_compared,
        "patch-reverted",
        ("P6",),
        FaultKind.DIE_UNANSWERED,
    ),
    Mutation(
        "unchecked: completion with a lost response",
        "NoSuchUpload after a lost response is taken for a lost upload",
        _lost_response_is_failure,
        "transient-errors",
        ("P2", "P6"),
    ),
    Mutation(
        "unchecked: bytes of sent parts",
        "sent parts are not read again before the completion",
        _not_verified,
        "rewrites",
        ("P1",),
    ),
    Mutation(
        "unchecked: identity of the file",
        "any file under the recording's name is taken for the recording",
        _every_file_is_same,
        "replaced-without-event",
        ("P1",),
    ),
    Mutation(
        "unchecked: changes during verification",
        "changes of the file during its verification are not detected",
        _changes_during_verification_ignored,
        "patched-during-verification",
        ("P1", "P2"),
    ),
    Mutation(
        "unchecked: age of a time stamp",
        "a time stamp is trusted within the granularity of its file system",
        _time_stamp_trusted_at_once,
        "same-mtime",
        ("P1", "P6"),
        kind="3",
    ),
    Mutation(
        "unchecked: lease of a write",
        "writes are accepted without the stream's lease",
        _lease_not_checked,
        "partition",
        ("P3",),
    ),
    Mutation(
        "unchecked: file before deletion",
        "a completed recording is deleted without a check of its file",
        _deleted_without_check,
        "deleted-after-upload",
        ("P8",),
        None,
    ),
)

VARIANTS: Final = (
    Mutation(
        "naive: no ListParts on resume",
        "the parts in S3 are not listed on resume",
        _list_parts_ignored,
        "patch-reverted",
        ("P6",),
        FaultKind.DIE_UNANSWERED,
    ),
)
