"""How long to wait until a file's time stamp proves that no byte changed since. Pure.

A file with the same size and mtime as before is taken to have the same bytes. That holds only if a write in between
would have changed the stamp, whose granularity may be two seconds (FAT) or one (ext3, some file servers). So take the
stamp first, wait until its granularity has passed (``upload/finalize.py``), then read: writes until then are read, and
later ones change the stamp.
"""

from __future__ import annotations

from cef_trio.files.file_stat import SECOND_NS, FileStat
from cef_trio.files.file_system import FileSystem, granularity_ns


def granularity_wait_seconds(system: FileSystem, stat: FileStat, now_ns: int) -> float:
    """Return how many seconds after ``now_ns``, the time of ``stat``, a write can still leave the stamp unchanged:
    the granularity of the stamps at most.

    The stamp's age counts only on a local file system, where the clocks are the same. For a file server's clock, or a
    stamp in the future, it is the whole granularity.
    """
    granularity = granularity_ns(system, stat.mtime_ns)
    age = now_ns - stat.mtime_ns if system.local else 0
    return (granularity - max(0, min(age, granularity))) / SECOND_NS
