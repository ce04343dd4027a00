"""Opening and examining a path without following a symbolic link in any of its components.

A user with write access to the watch folder can replace a folder by a link, and the daemon can often read more than
that user. ``O_NOFOLLOW`` covers the last component only. So the path is walked folder by folder, each opened relative
to the one before, and there is no race between check and use. (``openat2`` with ``RESOLVE_NO_SYMLINKS`` would do the
same in one call; Python does not offer it.)

``WATCH_DIR`` and ``WATCH_LINK_ROOTS`` may be links; they are resolved once, at the start. A link in the watch folder is
followed only into one of these roots (:func:`follow_link`), and then by its real path. This is walked like any other,
so what is opened is inside the root, whatever becomes of the link.

``..`` is rejected: no scan produces such a path, so one in Redis was not written by the daemon.

A link as a folder raises ``NotADirectoryError``, as the last component of an open ``ELOOP``. All calls block.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""``O_PATH`` (Linux) needs no permission on the folder but search."""


def open_nofollow(path: str, flags: int) -> int:
    """Open a file or folder; return its descriptor. ``O_NOFOLLOW`` and ``O_CLOEXEC`` are added.

    Raises:
        OSError: as ``os.open``.
    """
    with folder_of(path) as (folder, name):
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


def stat_nofollow(path: str) -> os.stat_result:
    """Return the status of a path as ``os.lstat`` does, without following links in its folders either.

    Raises:
        OSError: as ``os.lstat``.
    """
    with folder_of(path) as (folder, name):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)


@contextmanager
def folder_of(path: str) -> Iterator[tuple[int, str]]:
    """Open the folder of a path; yield its descriptor and the last component (``.`` for the root)."""
    parts = path.split("/")
    if ".." in parts:
        raise OSError(errno.EINVAL, "a path of a recording must not contain '..'", path)
    *folders, name = [part for part in parts if part] or ["."]
    try:
        folder = os.open("/" if path.startswith("/") else ".", _FOLDER)
        try:
            for part in folders:
                inner = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder, name
        finally:
            os.close(folder)
    except OSError as error:
        error.filename = path  # instead of the component
        raise


def is_below(path: str, watch_folder: str) -> bool:
    """Return whether an absolute path, as records store it, is below the watch folder. Lexical; no file is accessed."""
    if not os.path.isabs(path):  # noqa: PTH117 - a path of any bytes, as it is
        return False
    relative = os.path.relpath(path, watch_folder)
    return relative not in {os.curdir, os.pardir} and not relative.startswith("../")


def root_of(path: str, folders: Iterable[str]) -> str | None:
    """Return the innermost of the folders that a path is below; ``None``: none is. Lexical, as :func:`is_below`."""
    return max((folder for folder in folders if is_below(path, folder)), key=len, default=None)


def follow_link(link: str, roots: Iterable[str]) -> str | None:
    """Return the real path of a link's target, if that is below one of the roots, or is one; else ``None``.

    Blocks as long as a mount on the way does not respond. The result must be opened by the functions above.

    Raises:
        OSError: ELOOP; a chain of more links than Python's stack holds, since ``realpath`` calls itself for each.
    """
    try:
        target = os.path.realpath(link)
    except RecursionError as error:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), link) from error
    return target if target in roots or root_of(target, roots) is not None else None
