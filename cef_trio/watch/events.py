"""What the watcher tells, as values, and to whom. Pure.

Events are hints and may be lost, repeated or late; :class:`Scanned` is the truth as it stood at one moment. A listener
must therefore be right after a ``Scanned`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cef_trio.files import FileStat


@dataclass(frozen=True, slots=True)
class Seen:
    """A file is there, or has grown or changed."""

    path: str
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Closed:
    """A writer closed the file (``IN_CLOSE_WRITE``). Another writer may still have it open."""

    path: str
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Moved:
    """A file got another name inside the watch folder; ``WATCH_PATTERNS`` may match either name or neither."""

    old_path: str
    new_path: str
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Gone:
    """A file was deleted, or moved out of the watch folder."""

    path: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """Every matching file in the watch folder, read from end to end without an error.

    ``unreadable`` names folders below the watch folder that could not be read: nothing is known of files in them, and
    their absence from ``files`` means nothing.
    """

    files: Mapping[str, FileStat]
    unreadable: frozenset[str] = frozenset()
    began_at: float = field(kw_only=True)
    """By ``trio.current_time()``, before the first folder was read: of what happened since, it may know only half."""


FileEvent = Seen | Closed | Moved | Gone | Scanned


class FileListener(Protocol):
    """Who is told. Synchronous on purpose: an event is taken in at once, with no checkpoint between two of them."""

    def handle_event(self, event: FileEvent) -> None:
        """Take the event in. Never blocks, never raises for anything the file system does."""
        ...
