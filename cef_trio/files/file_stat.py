"""What ``stat`` says of a recording. Pure; the smallest thing that intake and streams share."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FileStat:
    """A regular file at one moment."""

    file_dev: int
    file_ino: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int = field(default=0, compare=False)
    """When its inode last changed (mode, owner, name, size); 0 where nobody asked. Not what makes two looks differ."""
    birth_ns: int | None = field(default=None, compare=False)
    """When the file was made; ``None`` where the file system does not tell, or nobody asked (a scan does not)."""

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode: which file it is, whatever it is called."""
        return (self.file_dev, self.file_ino)
