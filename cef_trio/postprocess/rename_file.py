"""Giving a file another name without ever replacing anything, and what the file system says to that. Blocks.

A name that is taken stays what it is: ``rename(2)`` would replace it, so ``renameat2(2)`` is asked not to. All names
are looked up in open folders; who moves a file for good has the new folder written to its disk (``fsync``).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from cef_trio.exceptions import AfterUploadError

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""How a folder is opened."""
_RENAME_NOREPLACE: Final = 1
_NO_SUCH_RENAME: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


class OtherFileSystemError(AfterUploadError):
    """The target is on another file system: the recording must be copied there."""


def rename(from_folder: int, name: str, to_folder: int, new_name: str) -> bool:
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


@contextmanager
def folder_of(target: str) -> Iterator[tuple[int, str]]:
    """The open folder of a target, which is made if it is not there, and the target's name in it."""
    parent, name = os.path.split(target)
    os.makedirs(parent, exist_ok=True)  # noqa: PTH103 - a path of any bytes, as it is
    folder = os.open(parent, FOLDER)
    try:
        yield folder, name
    finally:
        os.close(folder)


def all_taken(what: str, path: str, names: Sequence[str]) -> AfterUploadError:
    """The error of a file that finds every name taken."""
    return AfterUploadError(f"cannot {what} {path!r}: {' and '.join(map(repr, names))} are taken")


@contextmanager
def map_os_errors(what: str) -> Iterator[None]:
    """The file system's refusal, in words."""
    try:
        yield
    except OSError as error:
        kind = OtherFileSystemError if error.errno == errno.EXDEV else AfterUploadError
        raise kind(f"{what}: {error.strerror}") from error
