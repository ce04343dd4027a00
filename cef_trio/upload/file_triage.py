"""Decide what to do about a file that has no task: from its stat and its stream in Redis. Pure.

Used by ``supervisor.py`` for each file that it looks up. Not here: which files are looked up at all, and which wait
(``files_without_task.py``), and whether a recording is idle (``idle_rules.py``).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from cef_trio.checkpoint import COMES_BACK, ENDED, Status, StreamMeta, StreamSummary
from cef_trio.files import SECOND_NS, FileStat, IdentityMatch

FILE_WAS_GONE: Final = frozenset(
    {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS, Status.FAILED_FILE_MISSING_ON_RESUME, Status.FAILED_FILE_REPLACED}
)
"""Statuses of streams whose file was gone: a file of that name is a new recording."""


class FileTriage(Enum):
    """What to do about a file."""

    NEW = "new"
    RESUME = "resume"
    REPLACED = "replaced"
    """The path's open stream belongs to another file: that stream ends, and a new one starts."""
    OTHER_OWNER = "other_owner"
    """The path's stream belongs to another host: it is left alone, and a new one starts beside it."""
    SETTLED = "settled"
    """Nothing: the file is uploaded and unchanged, or its stream failed and waits for the operator. If such a stream's
    object is complete (only its metadata failed), or an operator let it go, a changed file gets a new stream."""
    UNREADABLE = "unreadable"
    """As settled, by its stat alone, as the file cannot be read: each scan looks again."""


def must_be_recognized(known: StreamSummary | None, stat: FileStat) -> bool:
    """Return whether the file must be opened first, as its inode number alone would decide.

    A file with the inode number of its open stream need not be: resuming the stream checks the file anyway.
    """
    if known is None or known.meta.status in FILE_WAS_GONE:
        return False
    meta = known.meta
    same_number = meta.identity.file_ino == stat.file_ino
    if meta.status not in ENDED or meta.status in COMES_BACK:
        return not same_number
    if meta.status is Status.COMPLETED:
        return is_uploaded(meta, stat) and not (same_number and _untouched(meta, stat))
    return True


def triage(known: StreamSummary | None, stat: FileStat, identity_match: IdentityMatch | None = None) -> FileTriage:
    """Decide what to do about a file, by the stream recorded for its path, if any.

    ``identity_match`` is the result of recognizing the file, if that was needed (:func:`must_be_recognized`).
    """
    if known is None or known.meta.status in FILE_WAS_GONE:
        return FileTriage.NEW
    meta = known.meta
    is_same = (
        meta.identity.file_ino == stat.file_ino
        if identity_match is None
        else identity_match is not IdentityMatch.REPLACED
    )
    if meta.status not in ENDED:
        return FileTriage.RESUME if is_same else FileTriage.REPLACED
    if not is_same or not _as_let_go(meta, stat):
        return FileTriage.NEW
    if meta.status in COMES_BACK:
        return FileTriage.RESUME  # it may be readable by now; if not, its stream waits (processor.py)
    if meta.status is not Status.COMPLETED and meta.object_etag is None:
        # It may be another recording, which must not wait for ever.
        return FileTriage.UNREADABLE if identity_match is IdentityMatch.ASK_BYTES else FileTriage.SETTLED
    return FileTriage.SETTLED if _as_verified(meta, stat) else FileTriage.NEW


def is_uploaded(meta: StreamMeta, stat: FileStat) -> bool:
    """Return whether a stream has uploaded a file, as far as size and time tell; only the bytes prove it."""
    return meta.status is Status.COMPLETED and _as_verified(meta, stat)


def _untouched(meta: StreamMeta, stat: FileStat) -> bool:
    """Return whether the file's ctime is from before the stream's completion, in whole seconds as on coarse clocks.

    ``cp -p`` and ``rsync -t`` give another file the verified modification time, and it may get the inode number too.
    Its ctime cannot be set.
    """
    completed = meta.completed_at_utc
    return completed is None or stat.ctime_ns < int(completed.timestamp()) * SECOND_NS


def _as_verified(meta: StreamMeta, stat: FileStat) -> bool:
    return (meta.verified_size_bytes, meta.verified_mtime_ns) == (stat.size_bytes, stat.mtime_ns)


def _as_let_go(meta: StreamMeta, stat: FileStat) -> bool:
    """Return whether the file is as it was when an operator let its stream go, if one did and could see it."""
    then = meta.let_go_size_bytes, meta.let_go_mtime_ns
    return then[0] is None or (meta.let_go_size_bytes, meta.let_go_mtime_ns) == (
        stat.size_bytes,
        stat.mtime_ns,
    )
