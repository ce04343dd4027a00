"""The schema of records and namespaces: the versions, what changed in each, what may be read and written. Pure.

Each record has the field ``schema``, and each namespace the key ``<namespace>schema``. A record without the field is of
schema 1, as all were before the field existed. The rules:

- Every schema up to :data:`CURRENT` is read.
- A new record is of :data:`CURRENT`. A write to an older record raises its field to :data:`CURRENT` in the same atomic
  step. A record that is not written keeps its schema: there is no conversion of its own that could be interrupted.
- A *newer* record is left alone: not decoded, not written by any script, not looked at again all the time. A file whose
  path leads to one is set aside, and gets no second stream. ``unreadable.py`` counts them.
- The daemon raises the namespace's key at its start. If the key is newer, the daemon logs that, and goes on with the
  records that it knows.

An optional field that older versions may ignore needs no new schema. Anything else does: a field with another meaning,
a status, a key that must be kept in step. Then add it to :data:`CHANGES`, and store checkpoints of it
(``tests/checkpoint/schemas``).

Older versions rely on what every schema keeps: the names of all keys, the field ``schema`` (a decimal number), the
fields ``owner`` and ``current_path`` and their form, the four sets, and the lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cef_trio.checkpoint.states import StreamSet

FIELD: Final = "schema"

CHANGES: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "Every record without the field. Fields were added from time to time: a record may lack any optional one.",
        2: (
            "The field 'schema'. The keys are behind the owner's name. A completed stream has no parts hash, as its "
            "metadata JSON has the parts. Ended streams are indexed by time, completed ones by inode number and "
            "modification time, leases by expiry."
        ),
    }
)
"""What changed in each schema, from the first on."""

CURRENT: Final = max(CHANGES)
"""The schema that this version writes."""


@dataclass(frozen=True, slots=True)
class NewerRecord:
    """What this version may use of a record of a newer schema: what every schema keeps."""

    schema: str
    """As stored."""
    stream_set: StreamSet | None
    current_path: bytes | None = None
    owner: str = ""
    holder: str | None = None
    """The lease's value; ``None``: no daemon works on the stream."""

    @property
    def is_waiting(self) -> bool:
        """Whether the stream is not at its end, and no daemon works on it: its bytes do not get to S3."""
        return self.holder is None and self.stream_set not in {StreamSet.COMPLETED, StreamSet.FAILED}


def is_newer(schema: int) -> bool:
    """Return whether a record or namespace of that schema may be neither read nor written."""
    return schema > CURRENT


def why_newer(key: str, schema: str | int) -> str:
    """Return a sentence about a key of a newer schema."""
    return f"{key} is of schema {schema}, of a newer version; this version knows {CURRENT} at most"


def parse(text: str) -> int:
    """Return the schema that a field or key holds.

    Raises:
        ValueError: it is not a decimal number of at least 1.
    """
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise ValueError("is no schema, a number from 1 on")
    return int(text)
