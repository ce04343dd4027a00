"""Copy one recording to another file system, and rename the copy when complete. Blocks; run by ``Disk.change``."""

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
        """Copy the file's times and permissions, and sync the copy to disk.

        Its pages are dropped from the page cache, so that the comparison reads what the disk has.

        Raises:
            AfterUploadError: the file system refused, for instance because writing back failed.
        """
        with map_os_errors(f"cannot finish {self.path!r}"):
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
