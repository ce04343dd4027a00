"""Opening and looking at a path without following any symbolic link in it, be it the last component or a folder.

Whoever may write to the watch folder may put a link where a folder was a moment ago, and the daemon often may read
more than they. ``O_NOFOLLOW`` guards the last component only; so the path is walked folder by folder, each opened
relative to the one before it, none through a link. There is no moment between a check and a use: what was opened is
what was walked to. (``openat2`` with ``RESOLVE_NO_SYMLINKS`` would do the same in one call; Python has none.)

``WATCH_DIR`` may be a link: it is resolved once, at the start, and the paths below it begin with where it led to.

``..`` is refused too: no scan makes such a path, so one that comes from a record in Redis was written by a stranger.

A link in the way is ``NotADirectoryError``, as if a file stood there; as the last component, to be opened, ``ELOOP``.
All of this blocks for as long as the file system takes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""``O_PATH`` (Linux) asks for no more than walking through does: the right to search the folder."""


def open_straight(path: str, flags: int) -> int:
    """Open a file or folder for reading; returns its descriptor. ``O_NOFOLLOW`` and ``O_CLOEXEC`` are added.

    Raises:
        OSError: as ``os.open``.
    """
    with folder_of(path) as (folder, name):
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


def stat_straight(path: str) -> os.stat_result:
    """Look at what has that name; a link is looked at itself.

    Raises:
        OSError: as ``os.lstat``.
    """
    with folder_of(path) as (folder, name):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)


@contextmanager
def folder_of(path: str) -> Iterator[tuple[int, str]]:
    """The folder of a path, open, and the name in it (``.`` for the root folder). Errors are given the whole path."""
    parts = path.split("/")
    if ".." in parts:
        raise OSError(errno.EINVAL, "a path with '..' in it is none of a recording", path)
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
        error.filename = path
        raise


def is_below(path: str, watch_folder: str) -> bool:
    """Whether a path, as a record has it, leads to a file in the watch folder."""
    if not os.path.isabs(path):  # noqa: PTH117 - a path of any bytes, as it is
        return False
    relative = os.path.relpath(path, watch_folder)
    return relative not in {os.curdir, os.pardir} and not relative.startswith("../")
