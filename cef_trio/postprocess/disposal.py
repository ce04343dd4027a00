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

How names are given without replacing anything is ``rename_file.py``; copies to another file system are
``copy_file.py``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cef_trio.exceptions import AfterUploadError
from cef_trio.files import WriterState, identity_of, origin_of, regular_file_stat, take_lease, writer_waits
from cef_trio.postprocess.after_upload_rules import VerifiedFile, file_mismatch
from cef_trio.postprocess.rename_file import FOLDER, all_taken, folder_of, map_os_errors, rename

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class NotTouchedError(AfterUploadError):
    """File or object are not what was verified: the file was left alone, and rightly."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A file that is open, is the verified one, and has no writer as far as can be known."""

    folder: int
    """The descriptor of the folder in which it is."""
    name: str
    descriptor: int
    """Its own."""
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
            folder = os.open(parent, FOLDER)
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
        _check(file, descriptor)
        if not _leads_to(folder, name, descriptor):  # any more
            raise NotTouchedError(f"{file.path!r} was left alone: another file took its name just now")

        def check_unwritten() -> None:
            if lease is WriterState.NONE and writer_waits(descriptor):
                raise AfterUploadError(f"{file.path!r} was left alone: somebody opens it for writing")

        yield _Held(folder, name, descriptor, check_unwritten)
    finally:
        for number in (descriptor, folder):
            if number >= 0:
                os.close(number)  # which gives the lease back


def _check(file: VerifiedFile, descriptor: int) -> None:
    found = regular_file_stat(os.fstat(descriptor))
    if found is None:
        why: str | None = "it is no regular file any more"
    else:
        observed = identity_of(found, origin_of(descriptor), head_size_bytes=0, head_crc64nvme=0)
        why = file_mismatch(file, found, observed)
    if why is not None:
        raise NotTouchedError(f"{file.path!r} was left alone: {why}")


def delete_now(file: VerifiedFile) -> bool:
    """Delete the file, if it is the one that was verified and nobody writes to it; false if it was gone already.

    Raises:
        NotTouchedError: it is not.
        AfterUploadError: somebody does, or the file system refused.
    """
    with map_os_errors(f"cannot delete {file.path!r}"), _held(file) as held:
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
    with map_os_errors(f"cannot move {file.path!r}"), _held(file) as held:
        if held is None:
            return None
        for target in targets:
            with folder_of(target) as (folder, name):
                if _moved(file, held, folder, name):
                    os.fsync(folder)
                    return target
    raise all_taken("move", file.path, targets)


def _moved(file: VerifiedFile, held: _Held, folder: int, name: str) -> bool:
    """Whether the file has that name now, and no other; false: the name is another file's."""
    if held.is_at(folder, name):
        raise AfterUploadError(f"cannot move {file.path!r}: it would be moved to where it is")
    if _leads_to(folder, name, held.descriptor):
        held.unlink()
        return True
    held.check_unwritten()
    if not rename(held.folder, held.name, folder, name):
        return False
    if not _leads_to(folder, name, held.descriptor):
        # What had the name in the last moment was not our file: it gets its name back.
        rename(folder, name, held.folder, held.name)
        raise NotTouchedError(f"{file.path!r} was left alone: another file took its name just now")
    return True


def _leads_to(folder: int, name: str, descriptor: int) -> bool:
    """Whether a name is an open file's: both are looked at now, so that the numbers they have now decide."""
    try:
        return os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False
