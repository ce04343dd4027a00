"""The offsets and sizes of a multipart upload's parts. Pure.

S3 allows 1 to 10,000 parts of 5 MiB to 5 GiB each; only the last may be shorter
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html). The length of a recording is unknown when its first
part is sent, so part sizes double every 1,000 parts: with a first size of 5 MiB the 10,000th part ends at 5 TiB, and a
recording of an hour still has small parts. Stores that require equal parts (Cloudflare R2) get equal parts; the largest
file is then 10,000 times the part size.

The mapping ``part number → (offset, size)`` depends only on the plan, so every daemon that reads the plan from the
checkpoint cuts the file at the same offsets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeVar

RecordT = TypeVar("RecordT")

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
MIN_PART_BYTES: Final = 5 * MIB
MAX_PART_BYTES: Final = 5 * GIB
MAX_PARTS: Final = 10_000
PARTS_PER_SIZE: Final = 1_000
"""The number of parts after which the size doubles."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a file: bytes ``offset`` to ``end`` (exclusive)."""

    number: int
    offset: int
    size_bytes: int

    @property
    def end(self) -> int:
        """The offset of the first byte after the part."""
        return self.offset + self.size_bytes


class PartSettings(Protocol):
    """The numbers that determine how a file is split: of a stream's record, or of the settings for new streams."""

    @property
    def part_size(self) -> int:
        """The size of the first part, in bytes."""
        ...

    @property
    def equal_parts(self) -> bool:
        """Whether all parts have that size."""
        ...


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How a file is split into parts: the size of the first part in bytes, and whether all parts have that size."""

    part_size: int
    equal_parts: bool = False

    def __post_init__(self) -> None:
        if self.part_size < 1:
            raise ValueError(f"the part size must be at least one byte, not {self.part_size}")

    @classmethod
    def of(cls, settings: PartSettings) -> Self:
        """Return the plan of a stream's record, or of the settings of new streams."""
        return cls(settings.part_size, equal_parts=settings.equal_parts)

    def part(self, number: int) -> Part:
        """Return the full part with this number (1 to 10,000).

        Raises:
            ValueError: the number is out of range.
        """
        if not 1 <= number <= MAX_PARTS:
            raise ValueError(f"part numbers must be 1 to {MAX_PARTS}, not {number}")
        if self.equal_parts:
            return Part(number, (number - 1) * self.part_size, self.part_size)
        doublings, within = divmod(number - 1, PARTS_PER_SIZE)
        offset = PARTS_PER_SIZE * sum(self._size_after(earlier) for earlier in range(doublings))
        size = self._size_after(doublings)
        return Part(number, offset + within * size, size)

    def _size_after(self, doublings: int) -> int:
        return max(self.part_size, min(self.part_size << doublings, MAX_PART_BYTES))

    @property
    def max_size_bytes(self) -> int:
        """The size of the largest file that fits into the plan."""
        return self.part(MAX_PARTS).end

    def count_full(self, size_bytes: int) -> int:
        """Return the number of full parts in a file of this size (at most 10,000)."""
        return bisect_right(range(1, MAX_PARTS + 1), size_bytes, key=lambda number: self.part(number).end)

    def is_one_put(self, size_bytes: int, *, upload_open: bool) -> bool:
        """Return whether a complete file of this size is stored with one PutObject instead of a multipart upload.

        That is a file smaller than a part, none of which was sent, and an empty file, since no upload can be empty.
        """
        return size_bytes == 0 or (size_bytes < self.part_size and not upload_open)

    def split(self, size_bytes: int) -> Iterator[Part]:
        """Yield all parts of a complete file of this size; the last may be short. An empty file has no parts.

        Raises:
            ValueError: the file does not fit into 10,000 parts.
        """
        if size_bytes > self.max_size_bytes:
            raise ValueError(
                f"{size_bytes} bytes do not fit into {MAX_PARTS} parts that begin with {self.part_size} bytes"
            )
        for number in range(1, MAX_PARTS + 1):
            part = self.split_part(number, size_bytes)
            if part is None:
                return
            yield part

    def pair(self, size_bytes: int, records: Mapping[int, RecordT]) -> Iterator[tuple[Part, RecordT | None]]:
        """Yield each part of a complete file of this size with its record, or ``None`` where there is none."""
        return ((part, records.get(part.number)) for part in self.split(size_bytes))

    def split_part(self, number: int, size_bytes: int) -> Part | None:
        """Return part ``number`` of a complete file of this size, or ``None`` if the file ends before it."""
        part = self.part(number)
        if part.offset >= size_bytes:
            return None
        return Part(number, part.offset, min(part.size_bytes, size_bytes - part.offset))
