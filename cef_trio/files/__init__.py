"""Files on the local disk: opening, reading, identity, and what each file system guarantees.

Promise: no symbolic link is followed but into a listed root, no read blocks the event loop, and a file is identified by
several properties, never by its inode number alone.

Open `nofollow.py` for paths and links; `file_stat.py` for what `stat` returned; `reader.py` for reads, checksums of a
file and file errors; `identity.py` for "is this the same file?"; `file_system.py` for the guarantees of each file
system (inode numbers, leases, time stamps); `time_stamps.py` for when a time stamp proves something; `mounts.py` for
hung mounts; `disk_space.py` for free space; `writers.py` for "does a process have it open for writing?";
`nfs_server.py` for writers that this machine's NFS server serves.
"""

from cef_trio.files import file_system
from cef_trio.files.disk_space import Allocation, DiskSpace, allocation_in
from cef_trio.files.file_stat import SECOND_NS, FileStat
from cef_trio.files.file_system import RECENT, FolderMount, file_system_named, lasting_id, look_up_anew, origin_of
from cef_trio.files.identity import (
    HEAD_BYTES,
    IdentityMatch,
    compare_identity,
    identity_by_stat,
    identity_of,
    inodes_last,
    is_same_file,
    is_same_mount,
    is_verified_file,
    looks_the_same,
    may_be,
    on_another_file_system,
    same_fs_id,
    without_head,
)
from cef_trio.files.mounts import MountHungError, Mounts, is_on, mount_points, unescape_mount_point
from cef_trio.files.nofollow import follow_link, is_below, open_nofollow, root_of, stat_nofollow
from cef_trio.files.reader import Disk, FileSlice, KernelDisk, OpenRecording, head_of, regular_file_stat
from cef_trio.files.time_stamps import granularity_wait_seconds
from cef_trio.files.writers import WriterState, knows_writers, take_lease, writer_state, writer_waits

__all__ = [
    "HEAD_BYTES",
    "RECENT",
    "SECOND_NS",
    "Allocation",
    "Disk",
    "DiskSpace",
    "FileSlice",
    "FileStat",
    "FolderMount",
    "IdentityMatch",
    "KernelDisk",
    "MountHungError",
    "Mounts",
    "OpenRecording",
    "WriterState",
    "allocation_in",
    "compare_identity",
    "file_system",
    "file_system_named",
    "follow_link",
    "granularity_wait_seconds",
    "head_of",
    "identity_by_stat",
    "identity_of",
    "inodes_last",
    "is_below",
    "is_on",
    "is_same_file",
    "is_same_mount",
    "is_verified_file",
    "knows_writers",
    "lasting_id",
    "look_up_anew",
    "looks_the_same",
    "may_be",
    "mount_points",
    "on_another_file_system",
    "open_nofollow",
    "origin_of",
    "regular_file_stat",
    "root_of",
    "same_fs_id",
    "stat_nofollow",
    "take_lease",
    "unescape_mount_point",
    "without_head",
    "writer_state",
    "writer_waits",
]
