"""Compare an object's content with every record of it. Pure.

Each comparison (with the checkpoint, S3's own checksum, the metadata JSON, the file) agrees, disagrees, or has no
result, as with a file that was deleted. The object is proven if at least one comparison agrees and none disagrees.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cef_trio.checkpoint import Checkpoint
from cef_trio.s3 import combine_crc64nvme, crc64nvme_from_base64, crc64nvme_to_base64
from cef_trio.upload import PartPlan

NOT_READ: Final = "not read"
"""The name of the comparison that says why an object cannot be read at present; that is no difference."""


@dataclass(frozen=True, slots=True)
class Content:
    """A size in bytes and the CRC64NVME of all the bytes; ``None`` for a value that is not on record."""

    size_bytes: int | None
    crc64nvme: int | None

    def __str__(self) -> str:
        values = [] if self.size_bytes is None else [f"{self.size_bytes} bytes"]
        return ", ".join([*values, *([] if self.crc64nvme is None else [crc64nvme_to_base64(self.crc64nvme)])])


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison; ``agrees`` is ``None`` if it has no result."""

    name: str
    agrees: bool | None
    says: str

    def __str__(self) -> str:
        return f"{self.name}: {self.says}" if self.name == NOT_READ else f"{self.name} {self.says}"


def compare_checksums(name: str, read: Content, recorded: Content) -> Comparison:
    """Compare what was read with a record."""
    pairs = [(read.size_bytes, recorded.size_bytes), (read.crc64nvme, recorded.crc64nvme)]
    known = [(found, expected) for found, expected in pairs if expected is not None]
    if not known:
        return Comparison(name, None, "has no size and no checksum on record")
    if all(found == expected for found, expected in known):
        if recorded.crc64nvme is None:  # an equal size proves no byte
            return Comparison(name, None, f"the same size, and no checksum on record: {recorded}")
        return Comparison(name, True, f"the same: {recorded}")
    return Comparison(name, False, f"DIFFERENT: {recorded}")


def recorded_content(checkpoint: Checkpoint) -> Content:
    """Return the verified size in the checkpoint, and the checksum combined from its parts."""
    meta = checkpoint.meta
    size = meta.verified_size_bytes
    if size is None:
        return Content(None, meta.object_crc64nvme)
    parts = [(part.number, part.size_bytes) for part in PartPlan.of(meta).split(size)]
    records = [checkpoint.parts.get(number) for number, _ in parts]
    whole = [
        (record.crc64nvme, record.size_bytes)
        for record, (_, part_size) in zip(records, parts, strict=True)
        if record is not None and record.size_bytes == part_size
    ]
    crc = combine_crc64nvme(whole) if len(whole) == len(parts) else meta.object_crc64nvme
    return Content(size, crc)


def metadata_content(document: bytes, stream_id: str) -> Content | str:
    """Return the size and checksum in the metadata JSON, or, as text, why it is not usable."""
    try:
        loaded = json.loads(document)
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(loaded, Mapping) or loaded.get("stream_id") != stream_id:
        return "belongs to another stream"
    size, checksum = loaded.get("total_size_bytes"), loaded.get("checksum", "missing")
    value = _checksum(checksum)
    if not isinstance(size, int) or (value is None and checksum is not None):  # null: Redis had lost parts
        return "has no size or no CRC64NVME"
    return Content(size, value)


def _checksum(entry: Any) -> int | None:
    if not isinstance(entry, Mapping) or entry.get("algorithm") != "crc64nvme":
        return None
    return crc64nvme_from_base64(str(entry.get("value")))


def is_proven(comparisons: Iterable[Comparison]) -> bool:
    """Return whether at least one comparison agrees and none disagrees."""
    results = {comparison.agrees for comparison in comparisons}
    return True in results and False not in results
