"""Is the file that is there now the one that the stream began with? Pure.

A name proves nothing: recorders rotate names and editors replace files. The inode says which file it is while the file
system lives, and its generation tells two files apart that had it one after the other (ext4 gives a deleted file's
inode to the next one). Where generations are not told, and after a restart, when device numbers may have changed, the
first bytes have a say as well. The first bytes alone prove nothing either: every ffmpeg recording begins alike, and
a writer may patch or shift them (``+faststart``). Where inode and first bytes disagree, the recorded parts decide.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from cef_trio.checkpoint.model import FileIdentity

HEAD_BYTES: Final = 4096
"""How many of the first bytes an identity remembers at most."""


class Sameness(Enum):
    """Whether two identities are one file."""

    SAME = "same"
    REPLACED = "replaced"
    ASK_BYTES = "ask_bytes"
    """The recorded parts decide: the same file if any of them still has its bytes."""


def compare(recorded: FileIdentity, observed: FileIdentity) -> Sameness:
    """Judge a file on disk against the one a stream began with.

    ``observed`` must have its head taken over ``recorded.head_size_bytes`` bytes (fewer if the file has fewer).
    """
    if recorded.file_ino != observed.file_ino:
        return Sameness.REPLACED
    if recorded.generation is not None and observed.generation is not None:
        return Sameness.SAME if recorded.generation == observed.generation else Sameness.REPLACED
    same_head = (
        recorded.head_size_bytes == observed.head_size_bytes and recorded.head_crc64nvme == observed.head_crc64nvme
    )
    if same_head and (recorded.head_size_bytes > 0 or recorded.file_dev == observed.file_dev):
        return Sameness.SAME
    return Sameness.ASK_BYTES
