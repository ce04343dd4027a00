"""How long to wait until a file's time stamp proves that no byte changed since. Pure.

Two looks with the same size and mtime are taken for two looks at the same bytes. That holds only if a write between
them would have got another stamp, and a stamp has a grain: two seconds on FAT, one on ext3 and on some file servers. So
whoever takes a stamp as proof of what he reads takes it first, waits until its tick is over, and only then reads: what
was written within the tick is read, and what is written later has another stamp, now and at every later look.
"""

from __future__ import annotations

from cef_trio.files.file_stat import FileStat
from cef_trio.files.file_system import FileSystem, tick_ns

_SECOND_NS = 1_000_000_000


def unproved_seconds(system: FileSystem, stat: FileStat, now_ns: int) -> float:
    """How long after a look, which was made at ``now_ns`` by this machine's clock, its stamp proves nothing.

    The clock that stamps is compared with ours only where it is the same one. A server's may be ahead or behind, and
    so may a stamp of the future be: there a whole tick has to go by after the look. It is never longer than that.
    """
    tick = tick_ns(system, stat.mtime_ns)
    age = now_ns - stat.mtime_ns if system.local else 0
    return (tick - max(0, min(age, tick))) / _SECOND_NS
