"""What the recordings' writers do in one watch folder: what a recorder, ``cp``, ``touch`` or a full disk can do to it.

A writer that has a file open keeps it open until it closes it, whatever that is called meanwhile; inotify tells what
it does, where the file system hears of it. The writers do not care whether a daemon lives.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from random import Random

import trio
from inotify_simple import flags

from cef_trio.lab.filesystem import Inode
from cef_trio.lab.journal import Journal, Lane
from cef_trio.lab.kernel import Kernel

_GRAIN = 1000
"""The blocks by which changed bytes are counted: a part of the world's, bytes."""


class Writers:
    """The writers of one folder.

    Args:
        kernel: whose files they write.
        folder: where.
        random: what they write.
        journal: who is told.
    """

    def __init__(self, kernel: Kernel, folder: Path, random: Random, journal: Journal) -> None:
        self.folder = folder
        self.versions: dict[bytes, set[int]] = {}
        """Every content that a recording ever had, and the serials of the files that had it."""
        self.changed_blocks: Counter[int] = Counter()
        """By a file's serial: how many blocks of it were changed, each time counted anew."""
        self._kernel = kernel
        self._random = random
        self._journal = journal

    # -- what is there ------------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Where a file of that name is; ``name`` may have folders in it."""
        return self.folder / name

    def names(self) -> list[str]:
        """The recordings that are there, by their names below the folder."""
        return sorted(str(entry.relative_to(self.folder)) for entry in self.folder.rglob("*.mp4"))

    def content(self, name: str) -> bytes:
        """A recording's bytes."""
        return self.path(name).read_bytes()

    def inode(self, name: str) -> Inode:
        """The file of that name."""
        return self._kernel.inode(self.path(name))

    def is_open(self, name: str) -> bool:
        """Whether a writer has it open."""
        return self.inode(name).writers > 0

    # -- bytes --------------------------------------------------------------------------------------------------------

    def create(self, name: str) -> None:
        """A writer makes an empty file, and keeps it open."""
        self._note(f"create {name}")
        self._open(name)
        self._changed(name)

    def append(self, size_bytes: int, name: str) -> None:
        """A writer appends bytes that nobody else has."""
        self._note(f"append {size_bytes} to {name}")
        self._open(name)
        with self.path(name).open("ab") as file:
            offset = file.tell()
            file.write(self._random.randbytes(size_bytes))
        self._changed(name, offset, size_bytes)

    def patch(self, offset: int, data: bytes, name: str) -> None:
        """A writer writes over what was written before, or fills a hole."""
        self._note(f"patch {name} at {offset}, {len(data)} bytes")
        self._open(name)
        with self.path(name).open("r+b") as file:
            file.seek(offset)
            file.write(data)
        self._changed(name, offset, len(data))

    def truncate(self, size_bytes: int, name: str) -> None:
        """A writer cuts the file off, or sets a size that it has not reached yet: what is behind is a hole."""
        self._note(f"truncate {name} to {size_bytes}")
        self._open(name)
        os.truncate(self.path(name), size_bytes)
        self._changed(name, size_bytes, 0)

    def close(self, name: str) -> None:
        """The writers close the file, if any has it open."""
        inode = self.inode(name) if self.path(name).exists() else None
        if inode is not None and inode.writers:
            self._note(f"close {name}")
            inode.writers = 0
            self._heard(name, flags.CLOSE_WRITE)

    def open_and_close(self, name: str) -> None:
        """Somebody opens the file for writing and closes it, as ``touch`` does, while its writer has it open."""
        self._note(f"touch {name}")
        self._stamped(self.inode(name))
        self._heard(name, flags.CLOSE_WRITE)

    def set_mtime(self, name: str, mtime_ns: int) -> None:
        """Somebody sets its modification time (``utime``, ``rsync -t``)."""
        self._note(f"set the time of {name} to {mtime_ns}")
        inode = self.inode(name)
        inode.mtime_ns = mtime_ns // inode.file_system.granularity_ns * inode.file_system.granularity_ns
        inode.ctime_ns = inode.file_system.stamp(self._kernel.now_ns())
        self._heard(name, flags.ATTRIB)

    def permit(self, name: str, *, permitted: bool) -> None:
        """Somebody sets its mode, so that the daemon may read it, or may not."""
        self._note(f"{'permit' if permitted else 'deny'} {name}")
        inode = self.inode(name)
        inode.denied = not permitted
        inode.ctime_ns = inode.file_system.stamp(self._kernel.now_ns())
        self._heard(name, flags.ATTRIB)

    # -- names --------------------------------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> None:
        """The file gets another name."""
        self._note(f"rename {old} to {new}")
        self.path(old).rename(self.path(new))
        self._kernel.sweep()
        if self.inode(new).file_system.reports_events:
            self._kernel.queues.moved(self.path(old), self.path(new))

    def move(self, old: str, new: str) -> None:
        """The file is moved to another folder, which is made for it."""
        if not self.path(new).parent.exists():
            for folder in reversed(self.path(new).parents):
                if not folder.exists():
                    self._kernel.make_folder(folder)
        self.rename(old, new)

    def copy_over(self, name: str) -> None:
        """A copy with the same bytes and times takes the file's name (``cp -a``, and ``mv``)."""
        before, content = self.inode(name), self.content(name)
        self.replace(0, name, content=content)
        self.inode(name).mtime_ns = before.mtime_ns

    def replace(self, size_bytes: int, name: str, *, content: bytes | None = None) -> None:
        """Another file, made beside it, takes the name."""
        self._note(f"replace {name} by another file of {size_bytes}")
        other = f"{name}.tmp"
        inode = self._kernel.make_file(self.path(other))
        self.path(other).write_bytes(self._random.randbytes(size_bytes) if content is None else content)
        self._stamped(inode)
        self.path(other).rename(self.path(name))
        self._kernel.sweep()
        if inode.file_system.reports_events:
            self._kernel.queues.moved(self.path(other), self.path(name))
        self._version(name, 0, size_bytes)

    def delete(self, name: str) -> None:
        """The file is deleted."""
        self._note(f"delete {name}")
        heard = self.inode(name).file_system.reports_events
        self.path(name).unlink()
        self._kernel.sweep()
        if heard:
            self._kernel.queues.happened(self.path(name), flags.DELETE)

    def rename_folder(self, old: str, new: str) -> None:
        """A folder gets another name."""
        self._note(f"rename the folder {old} to {new}")
        self.path(old).rename(self.path(new))
        self._kernel.queues.moved(self.path(old), self.path(new), is_folder=True)

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _open(self, name: str) -> None:
        path = self.path(name)
        if not path.parent.exists():
            self._kernel.make_folder(path.parent)
        if not path.exists():
            self._kernel.make_file(path)
            self._heard(name, flags.CREATE)
        self.inode(name).writers = 1

    def _changed(self, name: str, offset: int = 0, size_bytes: int = 0) -> None:
        inode = self.inode(name)
        self._stamped(inode)
        inode.written_at = trio.current_time()
        self._heard(name, flags.MODIFY)
        self._version(name, offset, size_bytes)

    def _stamped(self, inode: Inode) -> None:
        inode.mtime_ns = inode.ctime_ns = inode.file_system.stamp(self._kernel.now_ns())

    def _version(self, name: str, offset: int, size_bytes: int) -> None:
        serial = self.inode(name).serial
        self.versions.setdefault(self.content(name), set()).add(serial)
        end = offset + max(size_bytes, 1)
        self.changed_blocks[serial] += (end - 1) // _GRAIN - offset // _GRAIN + 1

    def _heard(self, name: str, mask: int) -> None:
        if self.inode(name).file_system.reports_events:
            self._kernel.queues.happened(self.path(name), mask)

    def _note(self, text: str) -> None:
        self._journal.note(Lane.FILE, text)
