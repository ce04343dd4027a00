"""Whether an object is what it should be: what was read of it against everything that is on record of it. Pure.

Each witness (the checkpoint, S3's own checksum, the metadata JSON, the file) is one line: it agrees, it disagrees, or
it has nothing to say. A file that is gone, as it may be, says nothing. The object is proved if nobody disagrees and
somebody agrees.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cef_trio.checkpoint import Checkpoint
from cef_trio.s3 import combine_crc64nvme, crc64nvme_from_base64, crc64nvme_to_base64
from cef_trio.upload import PartPlan


@dataclass(frozen=True, slots=True)
class Content:
    """How long something is, and the CRC64NVME of all its bytes; ``None`` where that is not on record."""

    size_bytes: int | None
    crc64nvme: int | None

    def __str__(self) -> str:
        said = [] if self.size_bytes is None else [f"{self.size_bytes} bytes"]
        return ", ".join([*said, *([] if self.crc64nvme is None else [crc64nvme_to_base64(self.crc64nvme)])])


@dataclass(frozen=True, slots=True)
class Witness:
    """``agrees`` is ``None`` if the witness has nothing to say."""

    name: str
    agrees: bool | None
    says: str


def compare(name: str, read: Content, recorded: Content) -> Witness:
    """Hold what was read against what a witness has on record."""
    pairs = [(read.size_bytes, recorded.size_bytes), (read.crc64nvme, recorded.crc64nvme)]
    known = [(found, expected) for found, expected in pairs if expected is not None]
    if not known:
        return Witness(name, None, "has no size and no checksum on record")
    if all(found == expected for found, expected in known):
        return Witness(name, True, f"the same: {recorded}")
    return Witness(name, False, f"DIFFERENT: {recorded}")


def recorded_content(checkpoint: Checkpoint) -> Content:
    """What the checkpoint says of the object: its verified size, and the checksum that its parts add up to."""
    meta = checkpoint.meta
    size = meta.verified_size_bytes
    if size is None:
        return Content(None, meta.object_crc64nvme)
    cut = [(part.number, part.size_bytes) for part in PartPlan(meta.part_size, meta.equal_parts).cut(size)]
    records = [checkpoint.parts.get(number) for number, _ in cut]
    whole = [
        (record.crc64nvme, record.size_bytes)
        for record, (_, part_size) in zip(records, cut, strict=True)
        if record is not None and record.size_bytes == part_size
    ]
    crc = combine_crc64nvme(whole) if len(whole) == len(cut) else meta.object_crc64nvme
    return Content(size, crc)


def metadata_content(document: bytes, stream_id: str) -> Content | str:
    """What the metadata JSON says of the object; as text, why it cannot be believed."""
    try:
        loaded = json.loads(document)
    except (ValueError, RecursionError):
        return "is no JSON"
    if not isinstance(loaded, Mapping) or loaded.get("stream_id") != stream_id:
        return "is not of this stream"
    size, value = loaded.get("total_size_bytes"), _checksum(loaded.get("checksum"))
    if not isinstance(size, int) or value is None:
        return "has no size or no CRC64NVME"
    return Content(size, value)


def _checksum(entry: Any) -> int | None:
    if not isinstance(entry, Mapping) or entry.get("algorithm") != "crc64nvme":
        return None
    return crc64nvme_from_base64(str(entry.get("value")))


def is_proved(witnesses: Iterable[Witness]) -> bool:
    """Whether they prove the object: nobody disagrees, and somebody agrees."""
    said = {witness.agrees for witness in witnesses}
    return True in said and False not in said
