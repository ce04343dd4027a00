"""Which bytes are in which part. Pure.

S3's rules (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html): 1 to 10,000 parts, each 5 MiB to 5 GiB,
only the last may be shorter. A recording's length is not known when its first part is sent, so part sizes double every
1,000 parts: with the smallest first size, 5 MiB, the 10,000th part ends at 5 TiB, and a recording of an hour still has
parts of its first size. Stores that insist on equal parts (Cloudflare R2) get them, up to 10,000 times that size.

``part number → (offset, size)`` depends on nothing but the plan, so any daemon that reads the plan from the checkpoint
cuts the file at the same places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
MIN_PART_BYTES: Final = 5 * MIB
MAX_PART_BYTES: Final = 5 * GIB
MAX_PARTS: Final = 10_000
PARTS_PER_SIZE: Final = 1_000
"""After so many parts the size doubles."""


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


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How a file is cut: the first part's size, in bytes, and whether all parts have it."""

    part_size: int
    equal_parts: bool = False

    def __post_init__(self) -> None:
        if self.part_size < 1:
            raise ValueError(f"a part has at least one byte, not {self.part_size}")

    def part(self, number: int) -> Part:
        """The full part of that number (1 to 10,000).

        Raises:
            ValueError: there is no such part.
        """
        if not 1 <= number <= MAX_PARTS:
            raise ValueError(f"part numbers are 1 to {MAX_PARTS}, not {number}")
        if self.equal_parts:
            return Part(number, (number - 1) * self.part_size, self.part_size)
        offset = 0
        before = number - 1
        doublings, within = divmod(before, PARTS_PER_SIZE)
        for doubling in range(doublings):
            offset += PARTS_PER_SIZE * self._size_after(doubling)
        size = self._size_after(doublings)
        return Part(number, offset + within * size, size)

    def _size_after(self, doublings: int) -> int:
        return max(self.part_size, min(self.part_size << doublings, MAX_PART_BYTES))

    @property
    def max_size_bytes(self) -> int:
        """The largest file that fits."""
        return self.part(MAX_PARTS).end

    def count_full(self, size_bytes: int) -> int:
        """How many parts are full in a file of that size (at most 10,000)."""
        if size_bytes >= self.max_size_bytes:
            return MAX_PARTS
        low, high = 0, MAX_PARTS
        while low < high:  # the last number whose part ends within the file
            middle = (low + high + 1) // 2
            if self.part(middle).end <= size_bytes:
                low = middle
            else:
                high = middle - 1
        return low

    def cut(self, size_bytes: int) -> Iterator[Part]:
        """All parts of a finished file of that size, the last one short if it must be; none for an empty file.

        Raises:
            ValueError: the file does not fit into 10,000 parts.
        """
        if size_bytes > self.max_size_bytes:
            raise ValueError(
                f"{size_bytes} bytes do not fit into {MAX_PARTS} parts that begin with {self.part_size} bytes"
            )
        full = self.count_full(size_bytes)
        end = 0
        for number in range(1, full + 1):
            part = self.part(number)
            end = part.end
            yield part
        if end < size_bytes:
            yield Part(full + 1, end, size_bytes - end)

    def cut_part(self, number: int, size_bytes: int) -> Part | None:
        """Part ``number`` of a finished file of that size; ``None`` if the file ends before it."""
        part = self.part(number)
        if part.offset >= size_bytes:
            return None
        return Part(number, part.offset, min(part.size_bytes, size_bytes - part.offset))
