"""The writers of recordings in one watch folder: all that recorders, ``cp``, ``mv`` and ``touch`` do to files.

A writer keeps a file open until :meth:`Writers.close`, also when the file is renamed. inotify reports the changes if
the file system reports events. The writers run whether or not a daemon does.
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
"""The size of the blocks in which changed bytes are counted, bytes; equal to a part of the world."""


class Writers:
    """The writers of one folder.

    Args:
        kernel: the world's kernel.
        folder: the watch folder.
        random: source of the written bytes.
        journal: journal of the run.
    """

    def __init__(self, kernel: Kernel, folder: Path, random: Random, journal: Journal) -> None:
        self.folder = folder
        self.host: str | None = None
        """The machine of the writers, whose inotify alone reports their changes; ``None``: every one does."""
        self.versions: dict[bytes, set[int]] = {}
        """Every content that a recording ever had, and the serials of the files that had it."""
        self.changed_blocks: Counter[int] = Counter()
        """By a file's serial: how many blocks of it were changed, each time counted anew."""
        self._kernel = kernel
        self._random = random
        self._journal = journal

    # -- queries ------------------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Return the path of a file; ``name`` is relative to the watch folder."""
        return self.folder / name

    def names(self) -> list[str]:
        """Return the names of the recordings, relative to the watch folder."""
        return sorted(str(entry.relative_to(self.folder)) for entry in self.folder.rglob("*.mp4"))

    def content(self, name: str) -> bytes:
        """Return the bytes of a recording."""
        return self.path(name).read_bytes()

    def inode(self, name: str) -> Inode:
        """Return the inode of a file."""
        return self._kernel.inode(self.path(name))

    # -- bytes --------------------------------------------------------------------------------------------------------

    def create(self, name: str) -> None:
        """Create an empty file, and keep it open."""
        self._note(f"create {name}")
        self._open(name)
        self._changed(name)

    def append(self, size_bytes: int, name: str) -> None:
        """Append random bytes."""
        self._note(f"append {size_bytes} to {name}")
        self._open(name)
        with self.path(name).open("ab") as file:
            offset = file.tell()
            file.write(self._random.randbytes(size_bytes))
        self._changed(name, offset, size_bytes)

    def patch(self, offset: int, data: bytes, name: str) -> None:
        """Overwrite earlier bytes, or fill a hole."""
        self._note(f"patch {name} at {offset}, {len(data)} bytes")
        self._open(name)
        with self.path(name).open("r+b") as file:
            file.seek(offset)
            file.write(data)
        self._changed(name, offset, len(data))

    def truncate(self, size_bytes: int, name: str) -> None:
        """Truncate the file, or extend it by a hole."""
        self._note(f"truncate {name} to {size_bytes}")
        self._open(name)
        os.truncate(self.path(name), size_bytes)
        self._changed(name, size_bytes, 0)

    def close(self, name: str) -> None:
        """Close the file, if a writer has it open."""
        inode = self.inode(name) if self.path(name).exists() else None
        if inode is not None and inode.writers:
            self._note(f"close {name}")
            inode.writers = 0
            self._notify(name, flags.CLOSE_WRITE)

    def open_and_close(self, name: str) -> None:
        """Open the file for writing and close it, as ``touch`` does; its writer keeps it open."""
        self._note(f"touch {name}")
        self._stamped(self.inode(name))
        self._notify(name, flags.CLOSE_WRITE)

    def set_mtime(self, name: str, mtime_ns: int) -> None:
        """Set the modification time, as ``rsync -t`` does."""
        self._note(f"set the time of {name} to {mtime_ns}")
        inode = self.inode(name)
        inode.mtime_ns = mtime_ns // inode.file_system.granularity_ns * inode.file_system.granularity_ns
        inode.ctime_ns = inode.file_system.stamp(self._kernel.now_ns())
        self._notify(name, flags.ATTRIB)

    def permit(self, name: str, *, permitted: bool) -> None:
        """Permit or deny the daemon to read the file."""
        self._note(f"{'permit' if permitted else 'deny'} {name}")
        inode = self.inode(name)
        inode.denied = not permitted
        inode.ctime_ns = inode.file_system.stamp(self._kernel.now_ns())
        self._notify(name, flags.ATTRIB)

    def damage(self, name: str, *, damaged: bool) -> None:
        """Make every call on the file fail, or let a check of the disk repair it."""
        self._note(f"{'damage' if damaged else 'repair'} {name}")
        self.inode(name).damaged = damaged

    # -- names --------------------------------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> None:
        """Rename the file."""
        self._note(f"rename {old} to {new}")
        self.path(old).rename(self.path(new))
        self._kernel.sweep()
        if self.inode(new).file_system.reports_events:
            self._kernel.queues.moved(self.path(old), self.path(new))

    def move(self, old: str, new: str) -> None:
        """Move the file to another folder, which is created."""
        if not self.path(new).parent.exists():
            for folder in reversed(self.path(new).parents):
                if not folder.exists():
                    self._kernel.make_folder(folder)
        self.rename(old, new)

    def copy_over(self, name: str) -> None:
        """Replace the file by a copy with the same bytes and times (``cp -a``, then ``mv``)."""
        before, content = self.inode(name), self.content(name)
        self.replace(0, name, content=content)
        self.inode(name).mtime_ns = before.mtime_ns

    def copy_grown(self, size_bytes: int, name: str) -> None:
        """Replace the file by a copy that is longer by so many bytes (``rsync`` without ``--inplace``)."""
        kept = self.content(name)
        self.replace(size_bytes, name, content=kept + self._random.randbytes(size_bytes), kept_bytes=len(kept))

    def replace(self, size_bytes: int, name: str, *, content: bytes | None = None, kept_bytes: int = 0) -> None:
        """Rename another, new file to this name; ``kept_bytes``: how many of its first bytes are those of the first."""
        self._note(f"replace {name} by another file of {size_bytes}")
        other = f"{name}.tmp"
        inode = self._kernel.make_file(self.path(other))
        self.path(other).write_bytes(self._random.randbytes(size_bytes) if content is None else content)
        self._stamped(inode)
        self.path(other).rename(self.path(name))
        self._kernel.sweep()
        if inode.file_system.reports_events:
            self._kernel.queues.moved(self.path(other), self.path(name))
        self._version(name, kept_bytes, size_bytes)

    def delete(self, name: str) -> None:
        """Delete the file."""
        self._note(f"delete {name}")
        reports_events = self.inode(name).file_system.reports_events
        self.path(name).unlink()
        self._kernel.sweep()
        if reports_events:
            self._kernel.queues.happened(self.path(name), flags.DELETE)

    def rename_folder(self, old: str, new: str) -> None:
        """Rename a folder."""
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
            self._notify(name, flags.CREATE)
        self.inode(name).writers = 1

    def _changed(self, name: str, offset: int = 0, size_bytes: int = 0) -> None:
        inode = self.inode(name)
        self._stamped(inode)
        inode.written_at = trio.current_time()
        self._notify(name, flags.MODIFY)
        self._version(name, offset, size_bytes)

    def _stamped(self, inode: Inode) -> None:
        inode.mtime_ns = inode.ctime_ns = inode.file_system.stamp(self._kernel.now_ns())

    def _version(self, name: str, offset: int, size_bytes: int) -> None:
        serial = self.inode(name).serial
        self.versions.setdefault(self.content(name), set()).add(serial)
        end = offset + max(size_bytes, 1)
        self.changed_blocks[serial] += (end - 1) // _GRAIN - offset // _GRAIN + 1

    def _notify(self, name: str, mask: int) -> None:
        if self.inode(name).file_system.reports_events:
            self._kernel.queues.happened(self.path(name), mask)

    def _note(self, text: str) -> None:
        self._kernel.queues.only_on = self.host
        self._journal.note(Lane.FILE, text)
