"""Rename a file without replacing another one, and map the errors of the file system. Blocks.

``rename(2)`` replaces an existing target, so ``renameat2(2)`` with ``RENAME_NOREPLACE`` is used. Names are looked up in
open folders (``dir_fd``). The caller syncs the new folder (``fsync``) to make a move durable.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from cef_trio.exceptions import AfterUploadError

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""The flags with which a folder is opened."""
_RENAME_NOREPLACE: Final = 1
_NO_SUCH_RENAME: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


class OtherFileSystemError(AfterUploadError):
    """The target is on another file system: the recording must be copied there."""


def rename(from_folder: int, name: str, to_folder: int, new_name: str) -> bool:
    """Rename without replacing; return false if the new name is taken.

    Uses ``renameat2(2)`` with ``RENAME_NOREPLACE``; where the file system does not support it (NFS), ``link(2)`` and
    ``unlink(2)``, which need hard links.

    Raises:
        OSError: EXDEV for another file system, or any other error of the file system.
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
    """Call ``renameat2(2)``, which Python lacks; return its errno, or 0."""
    library = ctypes.CDLL(None, use_errno=True)
    try:
        call = library.renameat2
    except AttributeError:  # a C library from before 2018
        return errno.ENOSYS
    done = call(from_folder, os.fsencode(name), to_folder, os.fsencode(new_name), ctypes.c_uint(_RENAME_NOREPLACE))
    return 0 if done == 0 else ctypes.get_errno()


@contextmanager
def folder_of(target: str) -> Iterator[tuple[int, str]]:
    """Open the folder of a target, creating it if needed; yield its descriptor and the target's name in it."""
    parent, name = os.path.split(target)
    _make_folders(parent)
    folder = os.open(parent, FOLDER)
    try:
        yield folder, name
    finally:
        os.close(folder)


def _make_folders(folder: str) -> None:
    """Make a folder and those above it. ``os.makedirs`` calls itself for each, and they may be nested too deep."""
    missing = []
    while not os.path.isdir(folder):  # noqa: PTH112 - a path of any bytes, as it is
        missing.append(folder)
        folder = os.path.dirname(folder)  # noqa: PTH120 - as above
    for one in reversed(missing):
        with suppress(FileExistsError):  # made meanwhile; what is no folder fails when it is opened
            os.mkdir(one)  # noqa: PTH102 - as above


def all_taken(what: str, path: str, names: Sequence[str]) -> AfterUploadError:
    """Return the error for a file whose possible names are all taken."""
    return AfterUploadError(f"cannot {what} {path!r}: {' and '.join(map(repr, names))} are taken")


@contextmanager
def map_os_errors(what: str) -> Iterator[None]:
    """Map an ``OSError`` to :class:`AfterUploadError`, and EXDEV to :class:`OtherFileSystemError`."""
    try:
        yield
    except OSError as error:
        kind = OtherFileSystemError if error.errno == errno.EXDEV else AfterUploadError
        raise kind(f"{what}: {error.strerror}") from error
