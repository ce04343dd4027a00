"""Whether an MP4 file was cut off, by its boxes: each begins with its length (ISO/IEC 14496-12, section 4.2).

ffprobe does not tell: where the index comes first (``+faststart``), or is in fragments, it describes a file whose end
is missing as if it were whole. Only the headers of the outermost boxes are read, so the cost does not grow with their
content.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import Final

_MOST_BOXES: Final = 200_000
"""So many are looked at; a day of fragments of a second has 172,800."""
_SHORT_HEADER: Final = 8
_LONG_HEADER: Final = 16
_TO_THE_END: Final = 0
_LENGTH_FOLLOWS: Final = 1


def why_truncated(path: str) -> str | None:
    """Return a sentence if the file ends within a box; ``None`` if it does not, or that cannot be told.

    Blocks; run it in a worker thread. It only reads, so it may be abandoned.

    Raises:
        OSError: the file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        return _walk(descriptor, found.st_size) if stat.S_ISREG(found.st_mode) else None
    finally:
        os.close(descriptor)


def _walk(descriptor: int, size_bytes: int) -> str | None:  # noqa: PLR0911 - it is a table
    offset = 0
    for _ in range(_MOST_BOXES):
        if offset == size_bytes:
            return None
        header = os.pread(descriptor, _LONG_HEADER, offset)
        if len(header) < _SHORT_HEADER:
            return f"it is cut off: its last {size_bytes - offset} bytes are no whole box"
        length, kind = struct.unpack_from(">I4s", header)
        if length == _TO_THE_END or not _is_name(kind):
            return None  # the last box, whatever its length; or bytes that players skip
        if length == _LENGTH_FOLLOWS:
            if len(header) < _LONG_HEADER:
                return f"it is cut off within the length of its last box, {kind.decode('latin-1')!r}"
            (length,) = struct.unpack_from(">Q", header, _SHORT_HEADER)
        if length < _SHORT_HEADER:
            return None
        if offset + length > size_bytes:
            missing = offset + length - size_bytes
            return f"it is cut off: {missing} bytes of its last box, {kind.decode('latin-1')!r}, are missing"
        offset += length
    return None


def _is_name(kind: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in kind)  # noqa: PLR2004 - printable ASCII
