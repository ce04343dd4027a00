"""``AFTER_UPLOAD`` and ``MIN_FREE_SPACE`` as values. Pure.

`postprocess/after_upload.py` and `postprocess/free_space.py` carry them out.
"""

from __future__ import annotations

import os.path
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cef_trio.settings.values import size_in_bytes

MOST_WANTED_PERCENT: Final = 90
"""The largest share of a file system that may be wanted free: more would delete nearly every recording at once."""
_LEAST_WANTED_BYTES: Final = 1 << 20
"""The smallest size that may be wanted free: a smaller one is a number whose unit was forgotten."""


class AfterUploadAction(StrEnum):
    """What is done with a recording whose object is verified."""

    KEEP = "keep"
    DELETE = "delete"
    MOVE = "move"


@dataclass(frozen=True, slots=True)
class MinFreeSpace:
    """How much of a file system is to be free, in bytes or as a percentage of its size; neither: nothing is done."""

    size_bytes: int = 0
    percent: float = 0.0

    def wanted_bytes(self, total_bytes: int) -> int:
        """Return how many bytes of a file system of that size are to be free."""
        return self.size_bytes + int(total_bytes * self.percent / 100)

    def __bool__(self) -> bool:
        """Return whether anything is wanted."""
        return bool(self.size_bytes or self.percent)

    def __str__(self) -> str:
        """Return the text of the setting."""
        return f"{self.percent:g}%" if self.percent else str(self.size_bytes)


ANY_FREE_SPACE: Final = MinFreeSpace()


@dataclass(frozen=True, slots=True)
class AfterUploadRule:
    """An action and, for ``move``, the absolute folder to move to; when it acts."""

    action: AfterUploadAction
    folder: str = ""
    keep_seconds: float = 0.0
    """How long after its completion a recording is kept."""
    min_free: MinFreeSpace = ANY_FREE_SPACE
    """While less is free, the oldest recordings are deleted (or moved) before that time."""

    def __str__(self) -> str:
        """Return the text of the setting."""
        return f"{self.action}:{self.folder}" if self.folder else self.action.value


KEEP_RECORDING: Final = AfterUploadRule(AfterUploadAction.KEEP)


def parse_after_upload(value: object) -> object:
    """Parse ``keep``, ``delete`` or ``move:DIR``, and normalize the folder.

    Raises:
        ValueError: with what the setting takes.
    """
    if not isinstance(value, str):
        return value
    word, colon, folder = value.partition(":")
    word = word.strip().lower()
    if word == AfterUploadAction.MOVE:
        if "\0" in folder or not os.path.isabs(folder):  # noqa: PTH117 - the text, as it stands
            raise ValueError("takes move:DIR with an absolute folder, such as move:/srv/archive")
        return AfterUploadRule(AfterUploadAction.MOVE, os.path.normpath(folder))
    if colon or word not in set(AfterUploadAction):
        raise ValueError("takes keep, delete or move:DIR, such as move:/srv/archive")
    return AfterUploadRule(AfterUploadAction(word))


def parse_min_free_space(value: object) -> object:
    """Parse a size such as ``20GiB``, or a percentage such as ``10%``.

    Raises:
        ValueError: with what the setting takes.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    wanted: MinFreeSpace | None = None
    with suppress(ValueError):
        if text.endswith("%"):
            percent = float(text.removesuffix("%"))
            wanted = MinFreeSpace(percent=percent) if 0 < percent <= MOST_WANTED_PERCENT else None
        else:
            size = size_in_bytes(text)
            wanted = MinFreeSpace(size) if isinstance(size, int) and (not size or size >= _LEAST_WANTED_BYTES) else None
    if wanted is None:
        raise ValueError(
            f"takes a size of at least 1MiB, such as 20GiB, or a percentage of the disk up to {MOST_WANTED_PERCENT}%"
        )
    return wanted
