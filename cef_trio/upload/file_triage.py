"""What a file on disk means to us: judged by what Redis knows of its name, and by how long it has been silent. Pure."""

from __future__ import annotations

from enum import Enum

from cef_trio.checkpoint import COMES_BACK, ENDED, KnownPath, Status, StreamMeta
from cef_trio.files import FileStat, IdentityMatch

_FILE_WAS_GONE = frozenset(
    {
        Status.DELETED_LOCALLY,
        Status.ABORTED_NO_PARTS,
        Status.FAILED_FILE_MISSING_ON_RESUME,
        Status.FAILED_FILE_REPLACED,
    }
)


class FileTriage(Enum):
    """What to do about a file."""

    NEW = "new"
    RESUME = "resume"
    REPLACED = "replaced"
    """A stream of this name is open, but of another file: that stream ends, and a new one begins."""
    ANOTHERS = "anothers"
    """A stream of this name is another host's: a new one begins beside it, and that one is left alone."""
    SETTLED = "settled"
    """Nothing: it is uploaded and unchanged, or failed and waits for a person."""


def must_be_recognized(known: KnownPath | None, stat: FileStat) -> bool:
    """Whether the file has to be opened before it can be judged: its inode number alone would decide.

    A file of an open stream that has the stream's number is not among these: to resume it is to make sure.
    """
    if known is None or known.meta.status in _FILE_WAS_GONE:
        return False
    meta = known.meta
    same_number = meta.identity.file_ino == stat.file_ino
    if meta.status not in ENDED or meta.status in COMES_BACK:
        return not same_number
    if meta.status is Status.COMPLETED:
        return _as_verified(meta, stat) and not same_number
    return True


def triage(known: KnownPath | None, stat: FileStat, identity_match: IdentityMatch | None = None) -> FileTriage:
    """Judge a file by the stream that its path leads to (``None``: to none).

    ``identity_match``: what recognizing the file showed, where that was done (:func:`must_be_recognized`).
    """
    if known is None or known.meta.status in _FILE_WAS_GONE:
        return FileTriage.NEW
    meta = known.meta
    is_same = (
        meta.identity.file_ino == stat.file_ino
        if identity_match is None
        else identity_match is not IdentityMatch.REPLACED
    )
    if meta.status not in ENDED:
        return FileTriage.RESUME if is_same else FileTriage.REPLACED
    if not is_same:
        return FileTriage.NEW
    if meta.status in COMES_BACK:
        return FileTriage.RESUME  # it may be readable by now; as long as it is not, its stream waits (processor.py)
    if meta.status is Status.COMPLETED:
        return FileTriage.SETTLED if _as_verified(meta, stat) else FileTriage.NEW
    return FileTriage.SETTLED


def _as_verified(meta: StreamMeta, stat: FileStat) -> bool:
    return (meta.verified_size_bytes, meta.verified_mtime_ns) == (stat.size_bytes, stat.mtime_ns)


class IdleCheckResult(Enum):
    """What the checker found of one stream."""

    FRESH = "fresh"
    IDLE_ALL_SENT = "idle_all_sent"
    IDLE_MORE_ON_DISK = "idle_more_on_disk"
    SHRUNK = "shrunk"
    MISSING = "missing"


def check_idle(
    *, idle_seconds: float, timeout_seconds: float, known: FileStat, found: FileStat | None
) -> IdleCheckResult:
    """Judge a stream by how long nothing was heard of its file (``known``), and by what is on disk now (``found``)."""
    if found is None:
        return IdleCheckResult.MISSING
    if found.inode != known.inode or found.size_bytes < known.size_bytes:
        return IdleCheckResult.SHRUNK if found.inode == known.inode else IdleCheckResult.MISSING
    if found.size_bytes > known.size_bytes or found.mtime_ns != known.mtime_ns:
        return IdleCheckResult.IDLE_MORE_ON_DISK
    return IdleCheckResult.IDLE_ALL_SENT if idle_seconds >= timeout_seconds else IdleCheckResult.FRESH
