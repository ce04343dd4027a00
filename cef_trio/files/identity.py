"""Is the file that is there now the one that the stream began with? Pure, and the one place where that is judged.

A name proves nothing: recorders rotate names and editors replace files. Nor does a number: an inode is given to the
next file, device numbers are those of today's boot and the same on every host, and some file systems number their files
anew at each mount. So evidence has ranks, and what a file system does not really keep is not counted
(``file_system.py`` has the table):

1. The **file system** itself, by its UUID. On another one it is at best a copy.
2. The **inode**, where numbers last, with its **generation** or its **birth time**: two files that had one inode after
   the other differ in both. Where numbers do not last, another number says nothing, and the same one neither.
3. The **first bytes**. They prove little: every ffmpeg recording begins alike, and a writer may patch or shift them
   (``+faststart``).
4. The **recorded parts** decide what all of that does not (:data:`IdentityMatch.ASK_BYTES`, ``recognition.py``).

The device number has a say only where a file system has no name of its own and the machine has not been started again.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import Final

from cef_trio.checkpoint import FileIdentity
from cef_trio.files.file_stat import FileStat
from cef_trio.files.file_system import FolderPlace, Origin, named

HEAD_BYTES: Final = 4096
"""How many of the first bytes an identity remembers at most."""


class IdentityMatch(Enum):
    """Whether two identities are one file."""

    SAME = "same"
    REPLACED = "replaced"
    ASK_BYTES = "ask_bytes"
    """The recorded parts decide: the same file if any of them still has its bytes."""


def identity_of(stat: FileStat, origin: Origin, *, head_size_bytes: int, head_crc64nvme: int) -> FileIdentity:
    """All the evidence of an open file."""
    return FileIdentity(
        stat.file_dev,
        stat.file_ino,
        head_size_bytes,
        head_crc64nvme,
        generation=origin.generation,
        birth_ns=origin.birth_ns,
        fs_type=origin.system.name,
        fs_id=origin.fs_id,
        mount=origin.mount,
    )


def identity_by_stat(stat: FileStat) -> FileIdentity:
    """What evidence there is of a file that cannot be opened."""
    return FileIdentity(stat.file_dev, stat.file_ino, birth_ns=stat.birth_ns)


def compare(recorded: FileIdentity, observed: FileIdentity) -> IdentityMatch:  # noqa: PLR0911 - one return a rank
    """Judge a file on disk against the one a stream began with.

    ``observed`` must have its head taken over ``recorded.head_size_bytes`` bytes (fewer if the file has fewer).
    """
    if on_another_file_system(recorded, observed):
        return IdentityMatch.ASK_BYTES
    if not inodes_last(observed.fs_type):
        same_birth = recorded.birth_ns is not None and recorded.birth_ns == observed.birth_ns
        return IdentityMatch.SAME if same_birth and _same_head(recorded, observed) else IdentityMatch.ASK_BYTES
    if recorded.file_ino != observed.file_ino:
        return IdentityMatch.REPLACED
    same_generation = _agree(recorded.generation, observed.generation)
    same_birth_told = _agree(recorded.birth_ns, observed.birth_ns)
    if same_generation is False or same_birth_told is False:
        return IdentityMatch.REPLACED
    if same_generation or same_birth_told:
        return IdentityMatch.SAME
    if _same_head(recorded, observed) and (recorded.head_size_bytes > 0 or recorded.file_dev == observed.file_dev):
        return IdentityMatch.SAME
    return IdentityMatch.ASK_BYTES


def inodes_last(fs_type: str | None) -> bool:
    """Whether a file of that file system keeps its inode number. Records of earlier versions do not name theirs."""
    return fs_type is None or named(fs_type).lasting_inodes


def on_another_file_system(recorded: FileIdentity, observed: FileIdentity) -> bool:
    """Whether it is certain that they are on two: the record's may not be mounted, or be another host's."""
    if recorded.fs_type is not None and observed.fs_type is not None and recorded.fs_type != observed.fs_type:
        return True
    return _same_fs_id(recorded.fs_id, observed.fs_id) is False


def may_be(recorded: FileIdentity, stat: FileStat) -> bool:
    """Whether a look alone lets a file be the recorded one: a proposal, for which an open file is to be asked."""
    if _agree(recorded.birth_ns, stat.birth_ns) is False and inodes_last(recorded.fs_type):
        return False
    return recorded.file_ino == stat.file_ino or not inodes_last(recorded.fs_type)


def is_same_file(identity: FileIdentity, stat: FileStat, generation: int | None) -> bool:
    """Whether an open file still is the one that this daemon has identified: no number of it has changed.

    Not an identification: what answers no here may be the stream's file all the same, and is to be asked.
    """
    if identity.inode != stat.inode:
        return False
    if _agree(identity.birth_ns, stat.birth_ns) is False:
        return False
    return _agree(identity.generation, generation) is not False


def is_verified_file(identity: FileIdentity, observed: FileIdentity) -> bool:
    """Whether an open file is the recorded one by evidence that is good enough to delete it: no sample of bytes.

    Another device number is that of another boot if the file system has a name of its own, and it is the recorded one.
    """
    if on_another_file_system(identity, observed) or identity.file_ino != observed.file_ino:
        return False
    if _agree(identity.generation, observed.generation) is False or (
        _agree(identity.birth_ns, observed.birth_ns) is False
    ):
        return False
    if identity.file_dev == observed.file_dev:
        return True
    return inodes_last(observed.fs_type) and _same_fs_id(identity.fs_id, observed.fs_id) is True


def same_fs_id(recorded: FileIdentity, observed: FileIdentity) -> bool:
    """Whether they are on one file system for certain."""
    return _same_fs_id(recorded.fs_id, observed.fs_id) is True


def is_same_place(recorded: FileIdentity, place: FolderPlace) -> bool:
    """Whether a folder is on the file system, and on the mount of it, on which a file was.

    Only there can it be said that the file is gone. Another bind mount of the same disk is another place.
    """
    same_mount = _agree(recorded.mount, place.mount)
    if same_mount is False:
        return False
    same_system = _same_fs_id(recorded.fs_id, place.fs_id)
    if same_system is not None:
        return same_system
    if same_mount and os.major(recorded.file_dev) == 0 and os.major(place.file_dev) == 0:
        return True  # numbers of network mounts and their like are made up at each mount; where it is mounted is not
    return recorded.file_dev == place.file_dev


def _same_head(recorded: FileIdentity, observed: FileIdentity) -> bool:
    return (recorded.head_size_bytes, recorded.head_crc64nvme) == (observed.head_size_bytes, observed.head_crc64nvme)


def _same_fs_id(recorded: str | None, observed: str | None) -> bool | None:
    """``None`` where they cannot be compared: not told, or told in two ways (another kernel)."""
    if recorded is None or observed is None or recorded.partition(":")[0] != observed.partition(":")[0]:
        return None
    return recorded == observed


def _agree(recorded: object, observed: object) -> bool | None:
    return None if recorded is None or observed is None else recorded == observed
