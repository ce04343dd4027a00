"""Copy one recording to another file system, and rename the copy when complete. Blocks; run by ``Disk.change``.

Two file systems may show one file (mergerfs and its branch, Unraid's ``/mnt/user`` and ``/mnt/cache``, two mounts by
FUSE, NFS or CIFS), with different devices and inodes. So no number, and no equal bytes, prove that a file at the target
is a copy: it may be the recording itself. A copy carries a mark (an extended attribute) instead, which the recording
lacks, and nothing is copied to a folder that is seen in a watch folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Final

from cef_trio.exceptions import AfterUploadError
from cef_trio.files import is_below, root_of
from cef_trio.postprocess.after_upload_rules import VerifiedFile
from cef_trio.postprocess.rename_file import all_taken, folder_of, map_os_errors, rename

_COPY: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_PRIVATE: Final = 0o600
_PERMISSIONS: Final = 0o777
_MARK: Final = "user.cef-trio.copy"
"""The extended attribute of a copy: the stream's id."""


class Copy:
    """A copy that is written under a temporary name; :meth:`name` or :meth:`discard` ends it.

    It is locked meanwhile (``flock(2)``), so that of two daemons that share a folder only one writes to it. What a
    killed daemon left is overwritten.
    """

    def __init__(self, path: str) -> None:
        """Create or truncate the copy.

        Raises:
            AfterUploadError: another process writes it, or the file system refused.
        """
        self.path = path
        with map_os_errors(f"cannot write {path!r}"), folder_of(path) as (folder, name):
            self._descriptor = os.open(name, _COPY, _PRIVATE, dir_fd=folder)
            try:
                self._lock()
                if os.fstat(self._descriptor).st_nlink > 1:  # killed while link(2) named it: whole, and not to be cut
                    self.close()
                    os.unlink(name, dir_fd=folder)
                    self._descriptor = os.open(name, _COPY | os.O_EXCL, _PRIVATE, dir_fd=folder)
                    self._lock()
                os.ftruncate(self._descriptor, 0)
            except BaseException:
                self.close()
                raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AfterUploadError(f"cannot write {self.path!r}: another daemon does") from error
        except OSError:  # a file system without locks: the lease in Redis remains
            return

    def check_elsewhere(self, file: VerifiedFile, folders: Sequence[str]) -> None:
        """Check that the copy is not seen in one of the watch folders, to which its folder would lead by another mount.

        It would be uploaded as a recording there; and in a union of folders, deleting the recording would delete a copy
        of its name too. A mount that shows a folder leads to it by the end of its path, so that is looked for in each
        watch folder, and in each folder between it and the recording.

        Raises:
            AfterUploadError: it is seen there; call :meth:`discard`.
        """
        parent, name = os.path.split(self.path)
        parts = os.path.realpath(parent).strip("/").split("/")
        ends = ["/".join(parts[at:]) for at in range(len(parts) + 1)]
        for folder, end in product([*_folders_of(file.path, folders), *folders], ends):
            place = os.path.join(folder, end) if end else folder  # noqa: PTH118 - paths of any bytes
            seen = os.path.join(place, name)  # noqa: PTH118
            with map_os_errors(f"cannot look for {seen!r}"):
                if not _is_there(seen) or not _is_inside(place, folder):
                    continue
            with suppress(OSError):  # one that an earlier attempt left there would be taken for it at each try
                os.unlink(seen)  # noqa: PTH108
            raise AfterUploadError(
                f"cannot move {file.path!r} to {parent!r}: that is the watched folder {place!r}, seen through another "
                "mount; use a folder outside"
            )

    def write(self, block: bytes, offset: int) -> None:
        """Write a block.

        Raises:
            AfterUploadError: the file system refused, or is full.
        """
        with map_os_errors(f"cannot write {self.path!r}"):
            written = 0
            while written < len(block):
                written += os.pwrite(self._descriptor, block[written:], offset + written)

    def finish(self, file: VerifiedFile) -> None:
        """Mark the copy, copy the file's times and permissions, and sync the copy to disk.

        Its pages are dropped from the page cache, so that the comparison reads what the disk has.

        Raises:
            AfterUploadError: the file system refused, for instance because writing back failed.
        """
        with map_os_errors(f"cannot finish {self.path!r}"):
            # Before the permissions, which may forbid it; a file system without such attributes refuses it.
            with suppress(OSError):
                os.setxattr(self._descriptor, _MARK, file.stream_id.encode())
            with suppress(PermissionError):  # a file system without permissions
                os.fchmod(self._descriptor, Path(file.path).lstat().st_mode & _PERMISSIONS)
            os.utime(self._descriptor, ns=(file.mtime_ns, file.mtime_ns))
            os.fsync(self._descriptor)
            with suppress(OSError):  # only advice
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def name(self, targets: Sequence[str]) -> str:
        """Rename the copy to the first free path of ``targets``, sync the folder, and return that path.

        Raises:
            AfterUploadError: every path is taken, or the file system refused; call :meth:`discard`.
        """
        with map_os_errors(f"cannot rename {self.path!r}"):
            for target in targets:
                with folder_of(target) as (folder, name):
                    if rename(folder, os.path.split(self.path)[1], folder, name):
                        os.fsync(folder)
                        self.close()
                        return target
        raise all_taken("rename", self.path, targets)

    def discard(self) -> None:
        """Delete the copy; errors are ignored."""
        with suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108 - a path of any bytes, as it is
        self.close()

    def close(self) -> None:
        """Close the descriptor, unless it is closed already."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def is_other_entry(path: str, file: VerifiedFile) -> bool:
    """Return whether deleting the recording certainly leaves the file at ``path``, whatever mounts lead to both.

    It does if their names differ, as two names of one folder; or if that file is marked as the recording's copy and the
    recording is not marked (it is, if it was moved back). Without such attributes the second cannot be known.
    """
    if os.path.basename(path) != os.path.basename(file.path):  # noqa: PTH119 - paths of any bytes
        return True
    return _mark_of(path) == file.stream_id.encode() and _mark_of(file.path) == b""


def _mark_of(path: str) -> bytes | None:
    """Return the mark of a file; empty if it has none, ``None`` if that is not known."""
    try:
        return os.getxattr(path, _MARK, follow_symlinks=False)
    except OSError as error:
        return b"" if error.errno == errno.ENODATA else None


def _folders_of(path: str, folders: Sequence[str]) -> Iterator[str]:
    """Return the folder of a recording, and each one above it up to its watch folder."""
    folder, root = os.path.dirname(path), root_of(path, folders)  # noqa: PTH120 - paths of any bytes
    yield folder
    while root is not None and is_below(folder, root):
        folder = os.path.dirname(folder)  # noqa: PTH120
        yield folder


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_inside(place: str, folder: str) -> bool:
    """Return whether no symlink leads from a watch folder out of it: the watcher would not follow that."""
    real = os.path.realpath(folder)
    return os.path.commonpath([os.path.realpath(place), real]) == real
