"""Deleting and moving one uploaded recording: what the kernel is asked, in which order. Blocks; run by ``Disk.change``.

Between the last look at a file and its deletion nobody may write to it. So the file is opened, a read lease is taken
(``fcntl(2)``, ``F_SETLEASE``: the kernel grants it only where nobody has the file open for writing, and keeps a writer
waiting that comes later), the open file is held against what was verified, and only then its name is taken away; in the
last moment before that it is asked whether a writer waits. Names are looked up in the open folder (``dir_fd``), so a
folder that is swapped for a link meanwhile leads nowhere else.

Where there are no leases (network file systems; other people's files, without CAP_LEASE) the comparison is all there
is: a writer that opens the file in the microseconds between it and the deletion, or that holds it open and is silent
for longer than the daemon waits, is not seen. Nor has Linux a call that deletes a name only if it still leads to the
given file: one that another process renames to it in these microseconds is taken for ours. ``docs/operations.md`` says
so.

Nothing is ever replaced: a name that is taken stays what it is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cef_trio.disk import inode_generation, regular_file_stat
from cef_trio.exceptions import AfterUploadError
from cef_trio.intake.writers import WriterState, take_lease, writer_waits
from cef_trio.stream.after_upload_rules import VerifiedFile, why_not_the_file

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_COPY: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_PRIVATE: Final = 0o600
_PERMISSIONS: Final = 0o777
_RENAME_NOREPLACE: Final = 1
_NO_SUCH_RENAME: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


class NotTouchedError(AfterUploadError):
    """File or object are not what was verified: the file was left alone, and rightly."""


class OtherFileSystemError(AfterUploadError):
    """The target is on another file system: the recording must be copied there."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A file that is open, is the verified one, and has no writer as far as can be known."""

    folder: int
    """The descriptor of the folder in which it is."""
    name: str
    check_unwritten: Callable[[], None]
    """Raises if a writer has come meanwhile."""

    def is_at(self, folder: int, name: str) -> bool:
        """Whether that is its very name, by whatever path the folder was opened."""
        return name == self.name and os.path.samestat(os.fstat(folder), os.fstat(self.folder))

    def unlink(self) -> None:
        """Take its name away."""
        os.unlink(self.name, dir_fd=self.folder)


@contextmanager
def _held(file: VerifiedFile) -> Iterator[_Held | None]:
    """Hold the file so that nobody writes to it; ``None``: there is nothing of that name.

    Raises:
        NotTouchedError: it is not the file that was verified.
        AfterUploadError: somebody has it open for writing.
        OSError: the file system refused.
    """
    parent, name = os.path.split(file.path)
    folder = descriptor = -1
    try:
        try:
            folder = os.open(parent, _FOLDER)
            descriptor = os.open(name, _READ, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            descriptor = -1
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EMLINK, errno.ENXIO}:
                raise NotTouchedError(f"{file.path!r} was left alone: it is no regular file any more") from error
            raise
        if descriptor < 0:
            yield None
            return
        lease = take_lease(descriptor)
        if lease is WriterState.PRESENT:
            raise AfterUploadError(f"{file.path!r} was left alone: somebody has it open for writing")
        _check(file, os.fstat(descriptor), inode_generation(descriptor))
        # The name may have come to lead elsewhere since it was opened.
        _check(file, os.stat(name, dir_fd=folder, follow_symlinks=False), None)

        def check_unwritten() -> None:
            if lease is WriterState.NONE and writer_waits(descriptor):
                raise AfterUploadError(f"{file.path!r} was left alone: somebody opens it for writing")

        yield _Held(folder, name, check_unwritten)
    finally:
        for number in (descriptor, folder):
            if number >= 0:
                os.close(number)  # which gives the lease back


def _check(file: VerifiedFile, result: os.stat_result, generation: int | None) -> None:
    found = regular_file_stat(result)
    why = "it is no regular file any more" if found is None else why_not_the_file(file, found, generation)
    if why is not None:
        raise NotTouchedError(f"{file.path!r} was left alone: {why}")


def delete_now(file: VerifiedFile) -> bool:
    """Delete the file, if it is the one that was verified and nobody writes to it; false if it was gone already.

    Raises:
        NotTouchedError: it is not.
        AfterUploadError: somebody does, or the file system refused.
    """
    with _said(f"cannot delete {file.path!r}"), _held(file) as held:
        if held is None:
            return False
        held.check_unwritten()
        held.unlink()
        return True


def move_now(file: VerifiedFile, targets: Sequence[str]) -> str | None:
    """Rename the file to the first of ``targets`` that is free, and say to which; ``None`` if it was gone already.

    A target that is this very file already (a move that was killed halfway) counts as done.

    Raises:
        NotTouchedError: it is not the file that was verified.
        OtherFileSystemError: the target is on another file system.
        AfterUploadError: somebody writes to it, every target is taken, or the file system refused.
    """
    with _said(f"cannot move {file.path!r}"), _held(file) as held:
        if held is None:
            return None
        for target in targets:
            with _folder_of(target) as (folder, name):
                if _moved(file, held, folder, name):
                    os.fsync(folder)
                    return target
    raise _all_taken("move", file.path, targets)


def _moved(file: VerifiedFile, held: _Held, folder: int, name: str) -> bool:
    """Whether the file has that name now, and no other; false: the name is another file's."""
    if held.is_at(folder, name):
        raise AfterUploadError(f"cannot move {file.path!r}: it would be moved to where it is")
    if _leads_to(folder, name, file):
        held.unlink()
        return True
    held.check_unwritten()
    if not _rename(held.folder, held.name, folder, name):
        return False
    if not _leads_to(folder, name, file):
        # What had the name in the last moment was not our file: it gets its name back.
        _rename(folder, name, held.folder, held.name)
        raise NotTouchedError(f"{file.path!r} was left alone: another file took its name just now")
    return True


@contextmanager
def _folder_of(target: str) -> Iterator[tuple[int, str]]:
    """The open folder of a target, which is made if it is not there, and the target's name in it."""
    parent, name = os.path.split(target)
    os.makedirs(parent, exist_ok=True)  # noqa: PTH103 - a path of any bytes, as it is
    folder = os.open(parent, _FOLDER)
    try:
        yield folder, name
    finally:
        os.close(folder)


def _leads_to(folder: int, name: str, file: VerifiedFile) -> bool:
    try:
        found = regular_file_stat(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False
    return found is not None and found.inode == file.identity.inode


def _all_taken(what: str, path: str, names: Sequence[str]) -> AfterUploadError:
    return AfterUploadError(f"cannot {what} {path!r}: {' and '.join(map(repr, names))} are taken")


# -- without replacing -------------------------------------------------------------------------------------------------


def _rename(from_folder: int, name: str, to_folder: int, new_name: str) -> bool:
    """Rename, without ever replacing anything; false if the new name is taken.

    ``renameat2(2)`` with ``RENAME_NOREPLACE``; where the file system has none (NFS) a second name, and then the first
    one taken away, which needs hard links.

    Raises:
        OSError: EXDEV is another file system; whatever else the file system said.
    """
    number = _renameat2(from_folder, name, to_folder, new_name)
    if number in _NO_SUCH_RENAME:
        try:
            os.link(name, new_name, src_dir_fd=from_folder, dst_dir_fd=to_folder, follow_symlinks=False)
        except FileExistsError:
            return False
        os.unlink(name, dir_fd=from_folder)
        return True
    if number == errno.EEXIST:
        return False
    if number:
        raise OSError(number, os.strerror(number))
    return True


def _renameat2(from_folder: int, name: str, to_folder: int, new_name: str) -> int:
    """The system call, which Python does not have; returns its errno, 0 if it worked."""
    library = ctypes.CDLL(None, use_errno=True)
    try:
        call = library.renameat2
    except AttributeError:  # a C library from before 2018
        return errno.ENOSYS
    done = call(from_folder, os.fsencode(name), to_folder, os.fsencode(new_name), ctypes.c_uint(_RENAME_NOREPLACE))
    return 0 if done == 0 else ctypes.get_errno()


# -- a copy on another file system ------------------------------------------------------------------------------------


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
        self._path = path
        with _said(f"cannot write {path!r}"), _folder_of(path) as (folder, name):
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
            raise AfterUploadError(f"cannot write {self._path!r}: another daemon does") from error
        except OSError:  # a file system without locks: then the claim must do
            return

    def write(self, block: bytes, offset: int) -> None:
        """Write a block.

        Raises:
            AfterUploadError: the file system refused, or is full.
        """
        with _said(f"cannot write {self._path!r}"):
            written = 0
            while written < len(block):
                written += os.pwrite(self._descriptor, block[written:], offset + written)

    def finish(self, file: VerifiedFile) -> None:
        """Give it the file's times and permissions, and have all of it on its disk.

        The page cache is told to let go of it, so that who compares it then reads what the disk has.

        Raises:
            AfterUploadError: the file system refused; for one, the disk did not take what was written.
        """
        with _said(f"cannot finish {self._path!r}"):
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
        with _said(f"cannot rename {self._path!r}"):
            for target in targets:
                with _folder_of(target) as (folder, name):
                    if _rename(folder, os.path.split(self._path)[1], folder, name):
                        os.fsync(folder)
                        self.close()
                        return target
        raise _all_taken("rename", self._path, targets)

    def discard(self) -> None:
        """Remove it, as far as the file system lets us."""
        with suppress(OSError):
            os.unlink(self._path)  # noqa: PTH108 - a path of any bytes, as it is
        self.close()

    def close(self) -> None:
        """Close it, if neither :meth:`name` nor :meth:`discard` came to that."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """The file system's refusal, in words."""
    try:
        yield
    except OSError as error:
        kind = OtherFileSystemError if error.errno == errno.EXDEV else AfterUploadError
        raise kind(f"{what}: {error.strerror}") from error
