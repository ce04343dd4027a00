"""Start the stream of a file without an open stream, unless the file is stored already.

A file that seems new may be a completed recording whose time stamp, inode or name changed (``unchanged_content.py``),
or whose record Redis has lost (``orphan_objects.py``). Nothing is sent before that is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from cef_trio.checkpoint import Checkpoint, Status
from cef_trio.upload import recovery
from cef_trio.upload.copy_from_previous import ContentMatch
from cef_trio.upload.lost_records import LostRecords
from cef_trio.upload.recovery import FileHistory
from cef_trio.upload.services import Services
from cef_trio.upload.session import StreamUpload
from cef_trio.upload.unchanged_content import correct_if_unchanged


class NotStarted(Enum):
    """Why no stream was started."""

    UNCHANGED = "unchanged"
    """The file is stored already, and its record is up to date."""
    DRAINING = "draining"
    """The daemon drains before the check was finished."""


async def start(
    services: Services,
    lost: LostRecords,
    path: str,
    history: FileHistory,
    *,
    on_stream_id: Callable[[str], None],
    draining: Callable[[], bool],
) -> StreamUpload | NotStarted:
    """Start a stream for a file, unless the file is stored already.

    ``on_stream_id`` is called with the stream ID before the record is created.

    Raises:
        RecordingChangedError: the file does not exist.
        RecordingTouchedError: it is stored as far as it was read, and was touched meanwhile.
        PathTakenError, LeaseLostError: another daemon was first.
        S3OperationError, RedisOperationError: S3 or Redis failed.
    """

    async def begin() -> StreamUpload:
        supersedes = has.meta if isinstance(has, Checkpoint) else None
        return await recovery.begin(
            services, lost.uploads, path, on_stream_id=on_stream_id, history=history, supersedes=supersedes
        )

    async with services.stream_slots:
        has = await _compare_with_completed(services, path, history)
        if has is ContentMatch.SAME:
            return NotStarted.UNCHANGED
        if not history.may_be_stored or await services.has_writer(path) is True:
            return await begin()
    await lost.objects.list_unknown(draining)  # without a slot, so that other streams can go on
    if draining():
        return NotStarted.DRAINING
    async with services.stream_slots:
        found = await lost.objects.adopt(path, on_stream_id=on_stream_id, history=history)
        if found is None:
            return await begin()
        return NotStarted.UNCHANGED if found.meta.status is Status.COMPLETED else found


async def _compare_with_completed(services: Services, path: str, history: FileHistory) -> Checkpoint | ContentMatch:
    """Compare the file with the completed streams it may belong to; return the best match."""
    best: Checkpoint | ContentMatch = ContentMatch.NONE
    for stream_id in (history.replaced_stream_id, history.renamed):
        has = await correct_if_unchanged(services, stream_id, path) if stream_id is not None else ContentMatch.NONE
        if has is ContentMatch.SAME:
            return has
        if best is ContentMatch.NONE:
            best = has
    return best
