"""A copy of one recording on another file system, from its first block to its name. Blocks; run by ``Disk.change``."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cef_trio.exceptions import AfterUploadError
from cef_trio.postprocess.after_upload_rules import VerifiedFile
from cef_trio.postprocess.rename_file import all_taken, folder_of, map_os_errors, rename

_COPY: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_PRIVATE: Final = 0o600
_PERMISSIONS: Final = 0o777


class Copy:
    """A copy that is being written, under a name that is nobody's yet; :meth:`name` or :meth:`discard` ends it.

    It is locked meanwhile (``flock(2)``), so that of two daemons that share a folder only one writes to it, however
    long it takes; whatever a killed one left of it is written over.
    """

    def __init__(self, path: str) -> None:
        """Open the copy, empty.

        Raises:
            AfterUploadError: another process writes it, or the file system refused.
        """
        self.path = path
        with map_os_errors(f"cannot write {path!r}"), folder_of(path) as (folder, name):
            self._descriptor = os.open(name, _COPY, _PRIVATE, dir_fd=folder)
            try:
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
        except OSError:  # a file system without locks: then the claim must do
            return

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
        """Give it the file's times and permissions, and have all of it on its disk.

        The page cache is told to let go of it, so that who compares it then reads what the disk has.

        Raises:
            AfterUploadError: the file system refused; for one, the disk did not take what was written.
        """
        with map_os_errors(f"cannot finish {self.path!r}"):
            with suppress(PermissionError):  # of a file system that has none
                os.fchmod(self._descriptor, Path(file.path).lstat().st_mode & _PERMISSIONS)
            os.utime(self._descriptor, ns=(file.mtime_ns, file.mtime_ns))
            os.fsync(self._descriptor)
            with suppress(OSError):  # advice, no more
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def name(self, targets: Sequence[str]) -> str:
        """Give it the first name of ``targets`` that is free, for good; returns that.

        Raises:
            AfterUploadError: every name is taken, or the file system refused; it is still to be discarded.
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
        """Remove it, as far as the file system lets us."""
        with suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108 - a path of any bytes, as it is
        self.close()

    def close(self) -> None:
        """Close it, if neither :meth:`name` nor :meth:`discard` came to that."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
