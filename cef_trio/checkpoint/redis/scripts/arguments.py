"""The scripts' ARGV from values of the model, in the order of each script's first comment. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.commit import Commit
from cef_trio.checkpoint.model import Lease, PartRecord, WebhookEvent
from cef_trio.checkpoint.redis import codec
from cef_trio.checkpoint.states import HOME, Status, StreamSet

Argument = str | bytes | int

SETS = tuple(StreamSet)
"""The order of the four sets in KEYS; scripts number them from 1."""


def set_number(stream_set: StreamSet) -> int:
    """Return the set's number in ``SETS``, from 1."""
    return SETS.index(stream_set) + 1


def milliseconds(lease: Lease) -> int:
    """Return the lease's TTL, rounded up to whole milliseconds; at least 1."""
    return max(1, math.ceil(lease.ttl_seconds * 1000))


def words(statuses: Iterable[Status]) -> str:
    """Return statuses as one text with a space between and around them, as ``among`` in the prelude expects."""
    return f" {' '.join(sorted(statuses))} "


def statuses_by_set() -> Iterator[str]:
    """Return the statuses of the streams of each set whose set is lost, in the order of ``SETS``."""
    for stream_set in SETS:
        yield words(status for status in Status if rules.default_set(status) is stream_set)


def of_parts(parts: Iterable[PartRecord]) -> Iterator[Argument]:
    """Return the number of parts, their numbers and values."""
    return _of_pairs({part.part_number: codec.encode_part(part) for part in parts})


def of_fields(fields: Mapping[str, bytes]) -> Iterator[Argument]:
    """Return the number of fields, their names and values."""
    return _of_pairs(fields)


def of_event(event: WebhookEvent | None) -> Iterator[Argument]:
    """Return the id and body of an event; empty if there is none."""
    yield event.event_id if event is not None else ""
    yield event.body if event is not None else ""


def of_commit(stream_id: str, lease: Lease, commit: Commit, there: str = "") -> Iterator[Argument]:
    """Return the arguments of ``commit.lua``; ``there``: the stream at the new path.

    Raises:
        ValueError: a value cannot be stored.
    """
    status = commit.status
    home = HOME[status] if status is not None else None
    encoded = [codec.encode_field(name, value) for name, value in commit.fields.items() if value is not None]
    yield lease.value
    yield stream_id
    yield status or ""
    yield 0 if home is None else set_number(home)
    yield 0 if status is None else set_number(rules.default_set(status))
    yield "" if status is None else words(rules.predecessors_of(status))
    yield commit.raise_next_part_to
    yield int(commit.once)
    yield "" if commit.keep_to is None else commit.keep_to
    yield int(commit.enqueue_webhook)
    yield "" if commit.new_path is None else codec.encode_path(commit.new_path)
    yield there
    yield from of_event(commit.event)
    yield from _of_pairs({name: value for fields in encoded for name, value in fields.items()})
    yield from _of_pairs(commit.add)
    yield from of_parts(commit.parts)
    yield from (name for name, value in commit.fields.items() if value is None)


def _of_pairs(pairs: Mapping[Any, Argument]) -> Iterator[Argument]:
    yield len(pairs)
    for name, value in pairs.items():
        yield name
        yield value
