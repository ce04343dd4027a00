"""Events of the watcher, and the interface of their listener. Pure.

Events are hints: they may be lost, repeated or late. :class:`Scanned` is the complete state at one moment. A listener
must therefore be correct after a ``Scanned`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cef_trio.files import FileStat


@dataclass(frozen=True, slots=True)
class Seen:
    """A file exists, has grown or has changed."""

    path: str
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Closed:
    """A writer closed the file (``IN_CLOSE_WRITE``). Another writer may still have it open."""

    path: str
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Moved:
    """A file was renamed inside the watch folder; ``WATCH_PATTERNS`` may match either name or neither."""

    old_path: str
    new_path: str
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Gone:
    """A file was deleted, or moved out of the watch folder."""

    path: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """Every matching file in the watch folder, after a complete scan.

    ``unreadable`` holds what could not be read: folders below the watch folder, and single entries. These, and files in
    such folders, may exist although they are missing from ``files``.
    """

    files: Mapping[str, FileStat]
    unreadable: frozenset[str] = frozenset()
    unreadable_entries: Mapping[str, FileStat] = field(default_factory=dict)
    """The entries among them with the names of recordings, with their numbers (``Scan.unreadable_entries``)."""
    links: int = 0
    """How many symbolic links were not followed."""
    began_at: float = field(kw_only=True)
    """``trio.current_time()`` before the first folder was read; later changes may be missing."""


FileEvent = Seen | Closed | Moved | Gone | Scanned


class FileListener(Protocol):
    """Receives events. Synchronous, so that there is no checkpoint between two events."""

    def handle_event(self, event: FileEvent) -> None:
        """Handle an event. Must not block or raise."""
        ...
