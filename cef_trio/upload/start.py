"""What a file is of which Redis knows no open stream: one that is stored already, or a new recording.

Nothing is sent before that is known, since a file may look new without being it: a completed recording whose time
stamp, inode or name changed (``correction.py``), or whose record Redis has lost (``orphan_objects.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from cef_trio.checkpoint import Checkpoint, Status
from cef_trio.upload import recovery
from cef_trio.upload.correction import correct_if_unchanged
from cef_trio.upload.orphan_objects import OrphanObjects
from cef_trio.upload.orphan_uploads import OrphanUploads
from cef_trio.upload.predecessor import ContentMatch
from cef_trio.upload.services import Services
from cef_trio.upload.session import StreamUpload


@dataclass(frozen=True, slots=True)
class FileHistory:
    """What is known of a file that has no open stream."""

    instead_of: str | None = None
    """The stream that its path led to when it was judged: of another file, or an ended one."""
    beside: str | None = None
    """Or the stream of another host that it led to, which stays."""
    renamed: str | None = None
    """A completed stream whose file is not where it was, and may be this one."""
    may_be_stored: bool = False
    """Whether Redis may have lost the record of it after it was completed."""


class NotStarted(Enum):
    """Why no stream was begun."""

    UNCHANGED = "unchanged"
    """The file is stored: its record says so now."""
    DRAINING = "draining"
    """It could not be found out before the daemon leaves."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where streams of this daemon come from that Redis does not know."""

    uploads: OrphanUploads
    objects: OrphanObjects


async def start(
    services: Services,
    sources: Sources,
    path: str,
    history: FileHistory,
    *,
    named: Callable[[str], None],
    draining: Callable[[], bool],
) -> StreamUpload | NotStarted:
    """Begin a stream for a file, unless it is stored already. ``named`` is told the stream's id before it is recorded.

    Raises:
        RecordingChangedError: the file is not there (any more).
        PathTakenError, LeaseLostError: another daemon was first.
        S3OperationError, RedisOperationError: one of them is away.
    """

    async def begin() -> StreamUpload:
        supersedes = has.meta if isinstance(has, Checkpoint) else None
        return await recovery.begin(
            services,
            sources.uploads,
            path,
            named=named,
            instead_of=history.instead_of,
            beside=history.beside,
            supersedes=supersedes,
        )

    async with services.stream_slots:
        has = await _compare_with_completed(services, path, history)
        if has is ContentMatch.SAME:
            return NotStarted.UNCHANGED
        if not history.may_be_stored or await services.has_writer(path) is True:
            return await begin()
    await sources.objects.look(draining)  # without a slot: other recordings grow meanwhile
    if draining():
        return NotStarted.DRAINING
    async with services.stream_slots:
        found = await sources.objects.adopt(path, named=named, instead_of=history.instead_of, beside=history.beside)
        if found is None:
            return await begin()
        return NotStarted.UNCHANGED if found.meta.status is Status.COMPLETED else found


async def _compare_with_completed(services: Services, path: str, history: FileHistory) -> Checkpoint | ContentMatch:
    """What the file has of the completed streams that it may be of: the best of it."""
    best: Checkpoint | ContentMatch = ContentMatch.NONE
    for stream_id in (history.instead_of, history.renamed):
        has = await correct_if_unchanged(services, stream_id, path) if stream_id is not None else ContentMatch.NONE
        if has is ContentMatch.SAME:
            return has
        if best is ContentMatch.NONE:
            best = has
    return best
