"""Deciding whether a file is the one that a stream was created for. Pure; the only place for this decision.

``upload/recognition.py`` gathers the evidence.

A name is no proof: recorders rotate names, and editors replace files. An inode number is none either: the next file may
get it, device numbers change at each boot and repeat on every host, and some file systems renumber files at each mount.
So properties are compared in this order, leaving out those that the file system does not keep (``file_system.py``):

1. The **file system**, by its UUID. On another file system the file is at best a copy.
2. The **inode number**, if it is stable, with its **generation** or **birth time**, which both differ between two files
   that had the same inode one after the other. If inode numbers are not stable, they are ignored.
3. The **first bytes**. They prove little: ffmpeg recordings begin alike, and a writer may change or move them
   (``+faststart``).
4. The **recorded parts** decide the rest (:data:`IdentityMatch.ASK_BYTES`, ``upload/recognition.py``).

The device number counts only if the file system has no id and the machine has not restarted.
"""

from __future__ import annotations

import os
from dataclasses import replace
from enum import Enum
from typing import Final

from cef_trio.checkpoint import FileIdentity
from cef_trio.files.file_stat import FileStat
from cef_trio.files.file_system import FolderMount, Origin, file_system_named

HEAD_BYTES: Final = 4096
"""The most leading bytes that an identity covers."""


class IdentityMatch(Enum):
    """The result of comparing two identities."""

    SAME = "same"
    REPLACED = "replaced"
    ASK_BYTES = "ask_bytes"
    """Undecided: it is the same file if any recorded part still matches its bytes."""


def identity_of(stat: FileStat, origin: Origin, *, head_size_bytes: int, head_crc64nvme: int) -> FileIdentity:
    """Return the identity of an open file."""
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
    """Return the partial identity of a file that cannot be opened."""
    return FileIdentity(stat.file_dev, stat.file_ino, birth_ns=stat.birth_ns)


def compare_identity(recorded: FileIdentity, observed: FileIdentity) -> IdentityMatch:
    """Compare a file on disk with the one that a stream was created for.

    The head of ``observed`` must cover ``recorded.head_size_bytes`` bytes (fewer if the file is shorter).
    """
    if on_another_file_system(recorded, observed):
        return IdentityMatch.ASK_BYTES
    # A shorter beginning proves nothing: all recordings of a camera may begin with the same ``ftyp`` box, or empty.
    same_head = recorded.head_size_bytes == HEAD_BYTES and _same_head(recorded, observed)
    if not inodes_last(observed.fs_type):
        same_birth = recorded.birth_ns is not None and recorded.birth_ns == observed.birth_ns
        return IdentityMatch.SAME if same_birth and same_head else IdentityMatch.ASK_BYTES
    if recorded.file_ino != observed.file_ino:
        return IdentityMatch.REPLACED
    same_generation = _agree(recorded.generation, observed.generation)
    birth_agrees = _agree(recorded.birth_ns, observed.birth_ns)
    if same_generation is False or birth_agrees is False:
        return IdentityMatch.REPLACED
    return IdentityMatch.SAME if same_generation or birth_agrees or same_head else IdentityMatch.ASK_BYTES


def looks_the_same(recorded: FileIdentity, observed: FileIdentity, size_bytes: int) -> bool:
    """Return whether the inode number and all of the first bytes agree: a strong hint where no number is certain.

    ``size_bytes``: of the file, which may be smaller than that.
    """
    return (
        recorded.inode == observed.inode
        and recorded.head_size_bytes == min(HEAD_BYTES, size_bytes)
        and _same_head(recorded, observed)
        and _agree(recorded.birth_ns, observed.birth_ns) is not False
    )


def without_head(identity: FileIdentity) -> FileIdentity:
    """Return an identity of which the first bytes prove nothing."""
    return replace(identity, head_size_bytes=0, head_crc64nvme=0)


def inodes_last(fs_type: str | None) -> bool:
    """Return whether inode numbers are stable there; ``None`` (earlier versions' records) counts as stable."""
    return fs_type is None or file_system_named(fs_type).lasting_inodes


def on_another_file_system(recorded: FileIdentity, observed: FileIdentity) -> bool:
    """Return whether the two are certainly on different file systems (not mounted, or another host's)."""
    if recorded.fs_type is not None and observed.fs_type is not None and recorded.fs_type != observed.fs_type:
        return True
    return _same_fs_id(recorded.fs_id, observed.fs_id) is False


def may_be(recorded: FileIdentity, stat: FileStat) -> bool:
    """Return whether ``stat`` allows it to be the recorded file. Confirm by :func:`compare_identity`."""
    if _agree(recorded.birth_ns, stat.birth_ns) is False and inodes_last(recorded.fs_type):
        return False
    return recorded.file_ino == stat.file_ino or not inodes_last(recorded.fs_type)


def is_same_file(identity: FileIdentity, stat: FileStat, generation: int | None) -> bool:
    """Return whether no number of an open file has changed since this daemon identified it.

    If false, the file may still be the stream's; use :func:`compare_identity`.
    """
    if identity.inode != stat.inode:
        return False
    if _agree(identity.birth_ns, stat.birth_ns) is False:
        return False
    return _agree(identity.generation, generation) is not False


def is_verified_file(identity: FileIdentity, observed: FileIdentity) -> bool:
    """Return whether an open file is certainly the recorded one, so that it may be deleted. Bytes are not considered.

    A changed device number is accepted if the file system has an id that equals the recorded one (another boot).
    """
    if on_another_file_system(identity, observed) or identity.file_ino != observed.file_ino:
        return False
    if _agree(identity.generation, observed.generation) is False or (
        _agree(identity.birth_ns, observed.birth_ns) is False
    ):
        return False
    if identity.file_dev == observed.file_dev:
        return True
    return inodes_last(observed.fs_type) and same_fs_id(identity, observed)


def same_fs_id(recorded: FileIdentity, observed: FileIdentity) -> bool:
    """Return whether the two are certainly on the same file system."""
    return _same_fs_id(recorded.fs_id, observed.fs_id) is True


def is_same_mount(recorded: FileIdentity, place: FolderMount) -> bool:
    """Return whether a folder is on the file system and mount on which the recorded file was.

    Only then does a missing file mean that it was deleted. Another bind mount of the same disk is another place.
    """
    same_mount = _agree(recorded.mount, place.mount)
    if same_mount is False:
        return False
    same_system = _same_fs_id(recorded.fs_id, place.fs_id)
    if same_system is not None:
        return same_system
    if same_mount and os.major(recorded.file_dev) == 0 and os.major(place.file_dev) == 0:
        return True  # device numbers of network mounts are assigned at each mount; the mount point is stable
    return recorded.file_dev == place.file_dev


def _same_head(recorded: FileIdentity, observed: FileIdentity) -> bool:
    return (recorded.head_size_bytes, recorded.head_crc64nvme) == (observed.head_size_bytes, observed.head_crc64nvme)


def _same_fs_id(recorded: str | None, observed: str | None) -> bool | None:
    """``None``: not comparable, because one is missing or of another form (another kernel)."""
    if recorded is None or observed is None or recorded.partition(":")[0] != observed.partition(":")[0]:
        return None
    return recorded == observed


def _agree(recorded: object, observed: object) -> bool | None:
    return None if recorded is None or observed is None else recorded == observed
