"""What the scripts are given in ARGV, from values of the model. Pure; each script's own comment names the order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.model import Lease, PartRecord
from cef_trio.checkpoint.protocols import Change
from cef_trio.checkpoint.redis import codec
from cef_trio.checkpoint.states import HOME, Status, StreamSet

Argument = str | bytes | int

SETS = tuple(StreamSet)
"""The order in which every script gets the four sets; it counts them from 1."""


def set_number(stream_set: StreamSet) -> int:
    """The set's number in ``SETS``, from 1."""
    return SETS.index(stream_set) + 1


def milliseconds(lease: Lease) -> int:
    """The lease's TTL, rounded up: the server takes whole milliseconds, and none less than 1."""
    return max(1, math.ceil(lease.ttl_seconds * 1000))


def words(statuses: Iterable[Status]) -> str:
    """Statuses as one text with a space between and around them, as ``among`` in the prelude expects."""
    return f" {' '.join(sorted(statuses))} "


def of_parts(parts: Iterable[PartRecord]) -> Iterator[Argument]:
    """Part numbers and values."""
    for part in parts:
        yield part.part_number
        yield codec.encode_part(part)


def of_fields(fields: Mapping[str, bytes]) -> Iterator[Argument]:
    """The number of fields, their names and values."""
    yield len(fields)
    for name, value in fields.items():
        yield name
        yield value


def of_change(change: Change) -> Iterator[Argument]:
    """The fields to set, then the names of those to remove.

    Raises:
        ValueError: no store may apply that change, or a value cannot be kept.
    """
    rules.check_change(change)
    fields: dict[str, bytes] = {}
    for name, value in change.fields.items():
        if value is not None:
            fields.update(codec.encode_field(name, value))
    yield from of_fields(fields)
    yield from (name for name, value in change.fields.items() if value is None)


def of_status(status: Status) -> Iterator[Argument]:
    """A status to move to, its set's number (0: where it is), that number if it is nowhere, what it may follow."""
    home = HOME[status]
    yield status.value
    yield 0 if home is None else set_number(home)
    yield set_number(rules.first_home(status))
    yield words(rules.before(status))
