"""What the rest of the daemon tells a stream about its file, and how news changes it. Pure.

The watcher, the rescan and the idle checker all write here; the stream's task waits on it (an ``AsyncValue``), so a
thousand writes to a file are one wake-up. News may be late, repeated or wrong, so a state only *proposes*: before a
stream does anything it cannot take back, it looks at the file itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from cef_trio.files import FileStat


class Ending(Enum):
    """Whether, and how, the recording seems to have ended."""

    NOT = "not"
    CLOSED = "closed"
    """Its writer closed it, or nobody had it open when it was found."""
    IDLE = "idle"
    """Nothing was written for ``STREAM_TIMEOUT_SECONDS``."""


@dataclass(frozen=True, slots=True)
class FileState:
    """A stream's file, as far as is known, and whether the daemon is on its way out."""

    path: str
    stat: FileStat
    ending: Ending = Ending.NOT
    suspect: bool = False
    """Something does not fit (gone, replaced, shrunk?): the stream must look for itself."""
    draining: bool = False


def seen(state: FileState, stat: FileStat) -> FileState:
    """News of a look. One that was made before what is known is passed over."""
    if stat.inode == state.stat.inode and _is_older(stat, state.stat):
        return state
    return seen_now(state, stat)


def seen_now(state: FileState, stat: FileStat) -> FileState:
    """It was looked at just now, and no news came meanwhile: that is how it is, whatever its time stamps say."""
    known = state.stat
    if stat.inode != known.inode:
        return replace(state, suspect=True)
    if stat == known:
        return state
    suspect = state.suspect or stat.size_bytes < known.size_bytes
    return replace(state, stat=stat, ending=_ending_after(state, stat), suspect=suspect)


def _ending_after(state: FileState, stat: FileStat) -> Ending:
    """What is left of an ending when the file is seen with another stat.

    Another time and the same size is what ``utime`` leaves, which many tools call after the close (``rsync --inplace``,
    ``shutil.copy2``): no event but this one will tell of an end. So the close still counts. If it was a write, its
    writer has the file open, which is asked after the grace (``processor._has_ended``).
    """
    closed_as_it_is = state.ending is Ending.CLOSED and stat.size_bytes == state.stat.size_bytes
    return Ending.CLOSED if closed_as_it_is else Ending.NOT


def _is_older(stat: FileStat, known: FileStat) -> bool:
    """Whether a look seems to have been made before the known one.

    Writers set the modification time as they like; the time of the last change (``ctime``) is the kernel's alone. It
    goes back only with the kernel's clock. A look that is passed over for that is made up for by the idle checker,
    whose looks are :func:`seen_now`.
    """
    return 0 < stat.ctime_ns < known.ctime_ns and stat.size_bytes <= known.size_bytes


def closed(state: FileState, stat: FileStat) -> FileState:
    """A writer closed it."""
    if stat.inode != state.stat.inode:
        return replace(state, suspect=True)
    shrunk = stat.size_bytes < state.stat.size_bytes
    return replace(state, stat=stat, ending=Ending.CLOSED, suspect=state.suspect or shrunk)


def moved(state: FileState, path: str, stat: FileStat) -> FileState:
    """It has another name now."""
    return replace(seen(state, stat), path=path)


def gone(state: FileState) -> FileState:
    """It seems not to be there any more."""
    return replace(state, suspect=True)


def idle(state: FileState) -> FileState:
    """Nothing was written for a long time."""
    return state if state.ending is not Ending.NOT else replace(state, ending=Ending.IDLE)


def confirmed(state: FileState, path: str, stat: FileStat) -> FileState:
    """The stream looked for itself, at ``path``: this is how it is. News that came meanwhile about a move stays."""
    if stat == state.stat:
        return replace(state, suspect=False)
    if path != state.path:
        return state
    return replace(state, stat=stat, ending=_ending_after(state, stat), suspect=False)


def still_written(state: FileState) -> FileState:
    """It was closed by one writer, but another one has it open: its own close will be told."""
    return replace(state, ending=Ending.NOT)


def draining(state: FileState) -> FileState:
    """The daemon is on its way out: finish what is in flight, start nothing."""
    return replace(state, draining=True)
