"""Delete or move one uploaded recording: which system calls, in which order. Blocks; run by ``Disk.change``.

The file must not be written between the last check and its deletion. So it is opened, and a read lease is taken
(``fcntl(2)``, ``F_SETLEASE``: granted only if no process has the file open for writing; a later writer is delayed). The
open file is compared with what was verified, and only then unlinked, after a last check for a waiting writer. Names are
looked up in the open folder (``dir_fd``), so a folder that is replaced by a symlink meanwhile is not followed.

Without leases (network file systems; files of other users without CAP_LEASE) only the comparison protects the file.
``docs/operations.md`` has the writers that are not noticed then. Linux has no call that unlinks a name only if it still
refers to a given file, so a file that takes the name in the microseconds after the comparison is deleted instead; on a
network file system in the time of some requests to its server.

``rename_file.py`` renames without replacing; ``copy_file.py`` copies to another file system.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cef_trio.exceptions import AfterUploadError
from cef_trio.files import (
    WriterState,
    allocation_in,
    identity_of,
    look_up_anew,
    origin_of,
    regular_file_stat,
    take_lease,
    writer_waits,
)
from cef_trio.postprocess.after_upload_rules import VerifiedFile, file_mismatch
from cef_trio.postprocess.rename_file import FOLDER, all_taken, folder_of, map_os_errors, rename

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class NotAsVerifiedError(AfterUploadError):
    """The file or its object differs from what was verified, so the file was kept."""


@dataclass(frozen=True, slots=True)
class _OpenFile:
    """The verified file, open, without a writer as far as the kernel reports one."""

    folder: int
    """The descriptor of its folder."""
    name: str
    descriptor: int
    """The descriptor of the file."""
    check_unwritten: Callable[[], None]
    """Raises if a process waits to open the file for writing."""

    def is_at(self, folder: int, name: str) -> bool:
        """Return whether ``name`` in ``folder`` is this very path, however its file system was reached.

        Another file system that shows the same folder has other numbers; nothing is renamed to that one (EXDEV).
        """
        return name == self.name and os.path.samestat(os.fstat(folder), os.fstat(self.folder))

    def unlink(self) -> None:
        """Unlink the file."""
        os.unlink(self.name, dir_fd=self.folder)


@contextmanager
def _open_verified(file: VerifiedFile) -> Iterator[_OpenFile | None]:
    """Open the file under a read lease and compare it; yield ``None`` if there is no file of that name.

    Raises:
        NotAsVerifiedError: it is not the file that was verified.
        AfterUploadError: a process has it open for writing.
        OSError: the file system refused.
    """
    parent, name = os.path.split(file.path)
    folder = descriptor = -1
    try:
        try:
            folder = os.open(parent, FOLDER)
            descriptor = os.open(name, _READ, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            descriptor = -1
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EMLINK, errno.ENXIO}:
                raise NotAsVerifiedError(f"{file.path!r} was left alone: it is no regular file any more") from error
            raise
        if descriptor < 0:
            yield None
            return
        lease = take_lease(descriptor)
        if lease is WriterState.PRESENT:
            raise AfterUploadError(f"{file.path!r} was left alone: a process has it open for writing")
        _check(file, descriptor)
        if not _refers_to(folder, name, descriptor):  # any more
            raise NotAsVerifiedError(f"{file.path!r} was left alone: another file took its name just now")

        def check_unwritten() -> None:
            if lease is WriterState.NONE and writer_waits(descriptor):
                raise AfterUploadError(f"{file.path!r} was left alone: a process opens it for writing")

        yield _OpenFile(folder, name, descriptor, check_unwritten)
    finally:
        for number in (descriptor, folder):
            if number >= 0:
                os.close(number)  # which gives the lease back


def _check(file: VerifiedFile, descriptor: int) -> None:
    origin = origin_of(descriptor)  # first: it renews what a mount caches
    found = regular_file_stat(os.fstat(descriptor))
    if found is None:
        why: str | None = "it is no regular file any more"
    else:
        observed = identity_of(found, origin, head_size_bytes=0, head_crc64nvme=0)
        why = file_mismatch(file, found, observed)
    if why is not None:
        raise NotAsVerifiedError(f"{file.path!r} was left alone: {why}")


def delete_now(file: VerifiedFile) -> int | None:
    """Delete the file if it is the verified one and has no writer.

    Returns:
        How many bytes that frees, as far as is known (0 if it has another name); ``None`` if it did not exist.

    Raises:
        NotAsVerifiedError: it is not the file that was verified.
        AfterUploadError: it has a writer, or the file system refused.
    """
    with map_os_errors(f"cannot delete {file.path!r}"), _open_verified(file) as opened:
        if opened is None:
            return None
        opened.check_unwritten()
        freed_bytes = allocation_in(os.fstat(opened.descriptor)).freed_bytes
        opened.unlink()
        return freed_bytes


def move_now(file: VerifiedFile, targets: Sequence[str]) -> str | None:
    """Rename the file to the first free path of ``targets`` and return it; ``None`` if the file did not exist.

    A target that already is this file (a move that was killed between ``link`` and ``unlink``) counts as done.

    Raises:
        NotAsVerifiedError: it is not the file that was verified.
        OtherFileSystemError: the target is on another file system.
        AfterUploadError: it has a writer, every target is taken, or the file system refused.
    """
    with map_os_errors(f"cannot move {file.path!r}"), _open_verified(file) as opened:
        if opened is None:
            return None
        for target in targets:
            with folder_of(target) as (folder, name):
                if _rename_to(file, opened, folder, name):
                    os.fsync(folder)
                    return target
    raise all_taken("move", file.path, targets)


def _rename_to(file: VerifiedFile, opened: _OpenFile, folder: int, name: str) -> bool:
    """Rename the file; return false if another file has that name."""
    is_it = _refers_to(folder, name, opened.descriptor)
    # With one link the other name is no second one, but a mount of this one.
    if opened.is_at(folder, name) or (is_it and os.fstat(opened.descriptor).st_nlink == 1):
        raise AfterUploadError(f"cannot move {file.path!r}: the target is its own path")
    if is_it:
        opened.unlink()
        return True
    opened.check_unwritten()
    if not rename(opened.folder, opened.name, folder, name):
        return False
    if not _refers_to(folder, name, opened.descriptor):
        # The name referred to another file at the last moment: rename that one back.
        rename(folder, name, opened.folder, opened.name)
        raise NotAsVerifiedError(f"{file.path!r} was left alone: another file took its name just now")
    return True


def _refers_to(folder: int, name: str, descriptor: int) -> bool:
    """Return whether a name refers to the open file, by device and inode as both are now."""
    look_up_anew(folder)  # a server unlinks and renames by name, whichever file its client believes to have it
    try:
        return os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False
