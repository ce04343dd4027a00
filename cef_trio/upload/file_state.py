"""The observed state of a stream's file, and its transitions. Pure.

The watcher, the scans and the idle checker update it; the stream's task waits on it (an ``AsyncValue``), so that many
writes to a file cause one wake-up. Events may be late, repeated or wrong, so the state is only a hint: before an
irreversible step the stream checks the file itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from cef_trio.files import FileStat


class Ending(Enum):
    """Whether, and how, the recording seems to have ended."""

    NOT = "not"
    CLOSED = "closed"
    """Its writer closed it, or no process had it open for writing when it was found."""
    IDLE = "idle"
    """Nothing was written for ``STREAM_TIMEOUT_SECONDS``."""


@dataclass(frozen=True, slots=True)
class FileState:
    """The last known state of a stream's file, and whether the daemon is draining."""

    path: str
    stat: FileStat
    ending: Ending = Ending.NOT
    needs_check: bool = False
    """The file may be gone, replaced or truncated: the stream must check it."""
    draining: bool = False
    guessed_from: FileState | None = None
    """The state before a scan found the file's inode number at another path, which is ``path`` now; ``None``: the path
    is certain. The number may have gone to another file, so the stream compares that one first."""
    number_reused: bool = False
    """Another file has the inode number by now, so it leads to no path any more."""


def seen(state: FileState, stat: FileStat) -> FileState:
    """The file was observed with this stat. An observation older than the known one is ignored."""
    if stat.inode == state.stat.inode and _is_older(stat, state.stat):
        return state
    return seen_now(state, stat)


def seen_now(state: FileState, stat: FileStat) -> FileState:
    """The file was observed with this stat, and no event arrived meanwhile: time stamps are not compared."""
    known = state.stat
    if stat.inode != known.inode:
        return replace(state, needs_check=True)
    if stat == known:
        return state
    needs_check = state.needs_check or stat.size_bytes < known.size_bytes
    return replace(state, stat=stat, ending=_ending_after(state, stat), needs_check=needs_check)


def _ending_after(state: FileState, stat: FileStat) -> Ending:
    """Return the ending after the file was observed with a new stat.

    A new time with the same size is the effect of ``utime``, which many tools call after the close (``rsync
    --inplace``, ``shutil.copy2``), and no later event follows. So the close still counts. If it was a write instead,
    the file still has a writer, which is checked after the grace period (``processor._has_ended``).
    """
    closed_as_it_is = state.ending is Ending.CLOSED and stat.size_bytes == state.stat.size_bytes
    return Ending.CLOSED if closed_as_it_is else Ending.NOT


def _is_older(stat: FileStat, known: FileStat) -> bool:
    """Return whether an observation was probably made before the known one.

    Writers can set the modification time; only the kernel sets the change time (``ctime``), which goes back only with
    the kernel's clock. An observation that is ignored after such a clock step is repeated by the idle checker, which
    uses :func:`seen_now`.
    """
    return 0 < stat.ctime_ns < known.ctime_ns and stat.size_bytes <= known.size_bytes


def closed(state: FileState, stat: FileStat) -> FileState:
    """A writer closed the file."""
    if stat.inode != state.stat.inode:
        return replace(state, needs_check=True)
    shrunk = stat.size_bytes < state.stat.size_bytes
    return replace(state, stat=stat, ending=Ending.CLOSED, needs_check=state.needs_check or shrunk)


def moved(state: FileState, path: str, stat: FileStat) -> FileState:
    """The file was renamed."""
    return replace(seen(state, stat), path=path)


def guessed(state: FileState, path: str, stat: FileStat) -> FileState:
    """A scan found the file's inode number at another path: the file was renamed, or is gone and another one has it."""
    return replace(moved(state, path, stat), needs_check=True, guessed_from=state.guessed_from or state)


def guess_held(state: FileState) -> FileState:
    """The file at the guessed path is the stream's."""
    return replace(state, guessed_from=None)


def guess_failed(state: FileState) -> FileState:
    """The file at the guessed path is another one. The earlier path counts, where the file is probably gone."""
    before = state.guessed_from or state
    return replace(before, needs_check=True, draining=state.draining, number_reused=True)


def gone(state: FileState) -> FileState:
    """The file seems to be missing."""
    return replace(state, needs_check=True)


def idle(state: FileState) -> FileState:
    """Nothing was written for ``STREAM_TIMEOUT_SECONDS``."""
    return state if state.ending is not Ending.NOT else replace(state, ending=Ending.IDLE)


def confirmed(state: FileState, path: str, stat: FileStat) -> FileState:
    """The stream checked the file at ``path``. A rename that arrived meanwhile is kept."""
    if stat == state.stat:
        return replace(state, needs_check=False, number_reused=False)
    if path != state.path:
        return state
    ending = _ending_after(state, stat)
    return replace(state, stat=stat, ending=ending, needs_check=False, number_reused=False)


def still_written(state: FileState) -> FileState:
    """One writer closed the file, but another has it open; its close will be another event."""
    return replace(state, ending=Ending.NOT)


def draining(state: FileState) -> FileState:
    """The daemon is draining: finish what is in flight, start nothing."""
    return replace(state, draining=True)
