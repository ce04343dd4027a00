"""The part size of a recording with ``CHUNK_SIZE_BYTES=auto``: it follows the rate at which the file is written. Pure.

A part is sent when it is full, so its size decides both the number of requests and how long a byte waits on the disk.
The size is chosen once, when the file has the least that S3 takes as a part (5 MiB); it is recorded before the upload
is created, and ``part_plan.py`` does the rest. It is the largest of:

- what the recording writes in ``part_seconds`` (20): few requests a minute, whatever the rate;
- the default, so that no recording costs more requests than with the default of ``CHUNK_SIZE_BYTES``, but no more than
  it writes in ``longest_seconds`` (60): only there do requests buy a shorter wait;
- the least that S3 takes.

So at a steady rate a byte waits for at most a minute, or for as long as 5 MiB take where that is longer; while the rate
is lower than it was at the beginning, for as much longer. A recording without a write for ``STREAM_TIMEOUT_SECONDS``
ends, so its last bytes do not wait for a full part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from cef_trio.files import SECOND_NS, FileStat
from cef_trio.upload.part_plan import MAX_PARTS, MIB, MIN_PART_BYTES

DEFAULT_PART_BYTES: Final = 10 * MIB
"""The default of ``CHUNK_SIZE_BYTES``, and the part size of a recording whose rate is unknown."""
_LEAST_OBSERVED_NS: Final = 2 * SECOND_NS
"""Time stamps closer to each other show no rate: some file systems keep them to two seconds (FAT), and a writer's first
block may be written at once."""


@dataclass(frozen=True, slots=True)
class AutoPartSize:
    """How the part size follows the rate of a recording. Sizes in bytes."""

    least_bytes: int = MIN_PART_BYTES
    """The part size of a record whose upload has not begun; the size is chosen when the file has as much."""
    most_bytes: int = 64 * MIB
    default_bytes: int = DEFAULT_PART_BYTES
    """Used where the rate is unknown or low, and the least with equal parts, whose number limits the length of a
    recording."""
    unit_bytes: int = MIB
    """The size is a multiple of this."""
    part_seconds: float = 20.0
    """How long a part takes to fill, where that makes it larger than the default."""
    longest_seconds: float = 60.0
    """The longest that a part of the default size may take to fill; it is smaller where it would take longer."""

    def choose(self, rate: float | None, size_bytes: int, *, equal_parts: bool) -> int:
        """Return the part size for a recording that is written at ``rate`` bytes per second (``None``: unknown).

        ``size_bytes`` is the file's present size: it fits into 10,000 parts, also if they are equal.
        """
        wanted = (
            self.default_bytes
            if rate is None
            else int(max(rate * self.part_seconds, min(self.default_bytes, rate * self.longest_seconds)))
        )
        least = max(self.default_bytes, -(-size_bytes // MAX_PARTS)) if equal_parts else self.least_bytes
        units = max(min(wanted, self.most_bytes) // self.unit_bytes, -(-least // self.unit_bytes))
        return units * self.unit_bytes


def known_part_size(setting: int | Literal["auto"]) -> int:
    """Return the part size of ``CHUNK_SIZE_BYTES``; of ``auto`` the one for a recording whose rate is unknown."""
    return DEFAULT_PART_BYTES if setting == "auto" else setting


def write_rate(first: FileStat, latest: FileStat) -> float | None:
    """Return the rate at which a file was written between two observations, in bytes per second; ``None``: unknown.

    By the file's own time stamps: a pause of this daemon, or an outage before the upload begins, does not count.
    Unknown is the rate of a file that was there before, did not grow (a preallocated one), or whose time was set.
    """
    seconds = (latest.mtime_ns - first.mtime_ns) / SECOND_NS
    grown = latest.size_bytes - first.size_bytes
    if first.inode != latest.inode or grown <= 0 or latest.mtime_ns - first.mtime_ns < _LEAST_OBSERVED_NS:
        return None
    return grown / seconds
