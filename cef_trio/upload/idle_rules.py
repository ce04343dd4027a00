"""Decide whether a stream's file is idle, grew, shrank or is missing. Pure; used by ``idle_checker.py``."""

from __future__ import annotations

from enum import Enum

from cef_trio.files import FileStat


class IdleCheckResult(Enum):
    """The result of the idle check of one stream."""

    FRESH = "fresh"
    IDLE_ALL_SENT = "idle_all_sent"
    IDLE_MORE_ON_DISK = "idle_more_on_disk"
    SHRUNK = "shrunk"
    MISSING = "missing"


def check_idle(
    *, idle_seconds: float, timeout_seconds: float, known: FileStat, found: FileStat | None
) -> IdleCheckResult:
    """Classify a stream by the time since its last event, its last known stat and its stat on disk now."""
    if found is None:
        return IdleCheckResult.MISSING
    if found.inode != known.inode or found.size_bytes < known.size_bytes:
        return IdleCheckResult.SHRUNK if found.inode == known.inode else IdleCheckResult.MISSING
    if found.size_bytes > known.size_bytes or found.mtime_ns != known.mtime_ns:
        return IdleCheckResult.IDLE_MORE_ON_DISK
    return IdleCheckResult.IDLE_ALL_SENT if idle_seconds >= timeout_seconds else IdleCheckResult.FRESH
