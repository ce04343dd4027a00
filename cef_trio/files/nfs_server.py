"""Whether this machine's own NFS server may write to a file. All calls here block.

A client of NFS version 3 opens no file on the server. ``nfsd`` keeps a file open for some seconds after a write, and
closes it at once when anybody takes a lease (``nfsd_file_lease_notifier_call`` in ``fs/nfsd/filecache.c``), so that
the kernel grants a read lease while the client records. Below an exported folder a lease therefore proves nothing
(``writers.py``).

``nfsd`` serves if ``/proc/fs/nfsd/threads`` (nfsd(7)) is not 0. ``/var/lib/nfs/etab`` (exportfs(8)) has what it
exports. A container sees both only if they are mounted into it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cef_trio.files.nofollow import is_below

_THREADS: Final = Path("/proc/fs/nfsd/threads")
_EXPORTS: Final = Path("/var/lib/nfs/etab")


def is_exported(descriptor: int) -> bool:
    """Return whether an NFS server of this machine may write to an open file or folder."""
    try:
        if _THREADS.read_text().split() in ([], ["0"]):
            return False
    except OSError:
        return False
    try:
        exports = exported_folders(_EXPORTS.read_text(errors="surrogateescape"))
    except OSError:
        return True  # it serves, and it is not known what
    path = os.fspath(Path(f"/proc/self/fd/{descriptor}").readlink())
    return is_in(path, map(os.path.realpath, exports))


def is_in(path: str, folders: Iterable[str]) -> bool:
    """Return whether a path is one of these folders or below one. Pure."""
    return any(path == folder or is_below(path, folder) for folder in folders)


def exported_folders(etab: str) -> list[str]:
    """Return the folders in the text of ``etab`` that clients may write to. Pure.

    A line is ``<folder> <client>(<options>)``; blanks and other characters of the folder are octal escapes.
    """
    found = dict[str, None]()
    for line in etab.splitlines():
        folder, _, client = line.partition("\t")
        options = client.partition("(")[2].rstrip(") ").split(",")
        if folder.startswith("/") and "ro" not in options:
            found[_unescaped(folder)] = None
    return list(found)


def _unescaped(text: str) -> str:
    first, *rest = text.split("\\")
    decoded = [os.fsencode(first)]
    for part in rest:
        digits = part[:3]
        is_escape = len(digits) == 3 and all(digit in "01234567" for digit in digits) and int(digits, 8) < 256  # noqa: PLR2004
        decoded.append(bytes([int(digits, 8)]) + os.fsencode(part[3:]) if is_escape else os.fsencode("\\" + part))
    return os.fsdecode(b"".join(decoded))
