"""The result of ``stat`` for a recording. Pure; shared by the watcher and the streams."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

SECOND_NS: Final = 1_000_000_000
"""One second in the unit of time stamps."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """A regular file at one moment."""

    file_dev: int
    file_ino: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int = field(default=0, compare=False)
    """When the inode last changed (mode, owner, name, size); 0: not read. Not compared."""
    birth_ns: int | None = field(default=None, compare=False)
    """When the file was created; ``None``: not reported, or not read (a scan does not). Not compared."""

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode number, which do not depend on the name."""
        return (self.file_dev, self.file_ino)
