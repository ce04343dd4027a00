"""Decide whose a stream is; another host's stream is never changed (promise P9). Pure.

Several hosts may share one Redis and one bucket and use the same folder names. A path then leads to several streams,
and names, sizes, device and inode numbers may all be equal. So each record names its owner (``Owner``): the machine,
and the location of its watch folder, which is a file system and a folder of it. Neither is enough alone: a disk moves
to another machine, a machine gets another disk, machines share a folder, and two containers of one machine may use
one name for two folders.

- **OURS**: the same location or, where the location is unknown, the same machine. For a folder that several hosts see
  (NFS, CIFS, …) only the location counts: their daemons share the work by leases.
- **OTHER_OWNER**: another machine and another location. Such a stream is not changed; a file at its path is a new one.
- **PERHAPS**: the evidence differs (a moved or cloned disk, a new disk, another folder of the same disk). Only a file
  that is proved to be the stream's, by its bytes or by its file system's own numbers, makes the stream ours. Without
  that proof it is not changed; a different file at its path does not end it, as it would end one of ours.

A record of an earlier version names no owner. It is ours, unless its file was on another file system than the watch
folder: then it is *perhaps* ours.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from cef_trio.checkpoint import NAMELESS, SHARED, Owner, StreamMeta
from cef_trio.files import FolderMount, unescape_mount_point


class Claim(Enum):
    """Whether this daemon may work on a stream."""

    OURS = "ours"
    PERHAPS = "perhaps"
    """Ours only if a file is proved to be the stream's."""
    OTHER_OWNER = "other_owner"


def claim(meta: StreamMeta, ours: Owner) -> Claim:
    """Return whose a stream is, by its record."""
    return claim_by(meta.owner, meta.identity.fs_id, meta.current_path, ours)


def claim_by(recorded: Owner | None, fs_id: str | None, path: str, ours: Owner) -> Claim:
    """Return whose a stream is, by its recorded owner, and the path and file system of its file."""
    if recorded is None:
        another = not ours.is_shared and _same_system(fs_id, ours.file_system) is False
        return Claim.PERHAPS if another else Claim.OURS
    return compare_owners(recorded, ours, path)


def compare_owners(recorded: Owner, ours: Owner, path: str) -> Claim:
    """Return whose a stream is, by its recorded owner and the path of its file."""
    same_machine = _agree(recorded.machine, ours.machine)
    same_system = _same_system(recorded.file_system, ours.file_system)
    same_place = same_system
    if _agree(_place_of(path, recorded.mount), _place_of(path, ours.mount)) is False:
        same_place = False
    shared = recorded.is_shared and ours.is_shared
    if same_place is True:
        return Claim.PERHAPS if same_machine is False and not shared else Claim.OURS
    if same_place is None:
        if same_machine is not False:
            return Claim.OURS
        return Claim.PERHAPS if shared else Claim.OTHER_OWNER
    return Claim.PERHAPS if same_machine is True or same_system is True or shared else Claim.OTHER_OWNER


def _same_system(recorded: str | None, ours: str | None) -> bool | None:
    """Return whether both are one file system; ``None`` if unknown.

    One server may have two names, and a network source without a server identifies nothing.
    """
    if recorded is None or ours is None:
        return None
    of_net = recorded.startswith(SHARED), ours.startswith(SHARED)
    if all(of_net):
        return True if recorded == ours and names_a_server(ours) else None
    if not any(of_net) and recorded.partition(":")[0] != ours.partition(":")[0]:
        return None  # two forms of the id, from two kernels
    if recorded == ours and ours.startswith(NAMELESS):
        return None  # a device name without an id; every machine has a first disk
    return recorded == ours


def names_a_server(file_system: str) -> bool:
    """Return whether a recorded file system is that of a server (``Owner.file_system``)."""
    source = file_system.partition(" ")[2]
    return ":" in source or source.startswith("//")


def _place_of(path: str, mount: str | None) -> str | None:
    """Return a path within its file system, given its mount; ``None`` if unknown."""
    if mount is None:
        return None
    point, _, root = mount.partition(" ")
    point = unescape_mount_point(point).rstrip("/")
    return root.rstrip("/") + path[len(point) :] if path.startswith(f"{point}/") else None


def share_of(owner: Owner, folder: str) -> str:
    """Return the name of a folder of a network file system, which is the same on all its hosts.

    Empty: the folder is local, or the file system has no name that other hosts use too.
    """
    place = _place_of(f"{folder.rstrip('/')}/-", owner.mount)
    if not owner.is_shared or owner.file_system is None or not names_a_server(owner.file_system) or place is None:
        return ""
    return f"{owner.file_system.removeprefix(SHARED)} {place.removesuffix('/-') or '/'}"


def _agree(recorded: str | None, ours: str | None) -> bool | None:
    return None if recorded is None or ours is None else recorded == ours


def cloned(owner: Owner, system: str) -> Owner:
    """Return the identity of one running system of several that have this one."""
    return replace(owner, machine=f"{owner.machine or ''}+{system}")


def owner_at(place: FolderMount | None, machine: str | None) -> Owner:
    """Return the owner to record for new streams of a watch folder at that location."""
    if place is None:
        return Owner(machine)
    if place.is_local:
        nameless = f"{NAMELESS}{place.source}" if place.source else None
        return Owner(machine, place.fs_id or nameless, place.mount)
    return Owner(machine, f"{SHARED}{place.fs_type} {place.source or ''}".rstrip(), place.mount)
