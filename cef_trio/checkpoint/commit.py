"""One write to a stream's record, as a value: :class:`Commit`, and its effect on a checkpoint. Pure.

``rules.py`` makes a commit from what happened; a store carries it out in one atomic step, or refuses it whole. No value
in it depends on the stored record: numbers are added and raised, not set. So the commits of several parts in flight do
not conflict, and no commit overwrites what it was not made to change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from cef_trio.checkpoint import schema
from cef_trio.checkpoint.model import Checkpoint, PartRecord, StreamMeta, WebhookEvent
from cef_trio.checkpoint.states import HOME, Status, may_follow

DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType(
    {field.name: field.default for field in fields(StreamMeta) if field.default is not MISSING}
)
"""The values of the fields of :class:`StreamMeta` that can be removed."""


@dataclass(frozen=True, slots=True)
class Change:
    """Fields of :class:`StreamMeta` to set; ``None`` removes the field. Never ``stream_id`` or ``status``."""

    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExitState:
    """The state of one stream at shutdown, as :meth:`StreamStore.save_interrupted` writes it."""

    stream_id: str
    status: Status
    at_utc: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A conditional, idempotent write to the record, parts and index entries of one stream.

    It is carried out if the writer's lease is the stream's, the record exists and is not of a newer schema, and
    ``status`` may follow the stored status (``states.TRANSITIONS``). It raises an older record to the current schema.
    Carried out twice it has the effect of once.
    """

    operation: str
    """The method of the store, for errors."""
    status: Status | None = None
    """The status to set, and with it the stream's set (``states.HOME``); ``None`` keeps both."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """As in :class:`Change`."""
    add: Mapping[str, int] = field(default_factory=dict)
    """Numbers to add to fields. Only with ``once``, as adding is not idempotent by itself."""
    raise_next_part_to: int = 1
    """The least value of ``next_part_to_upload`` afterwards."""
    parts: Sequence[PartRecord] = ()
    """Parts to record; they replace parts of the same number."""
    once: bool = False
    """Change nothing if ``parts``, which is one part, is recorded already."""
    keep_to: int | None = None
    """Remove the parts with higher numbers; ``None`` keeps all."""
    new_path: str | None = None
    """The path to set, also in ``streams:by_path``. Not with ``status``."""
    enqueue_webhook: bool = False
    """Add the stream to the webhook outbox. Only with ``status``."""
    event: WebhookEvent | None = None
    """An event to add to the webhook outbox. Only with ``status``."""

    def __post_init__(self) -> None:
        # Each value has one source, so that the stores need not agree on an order.
        raised = {"next_part_to_upload"} if self.raise_next_part_to > 1 else set()
        if (
            (self.add and not self.once)
            or (self.fields.keys() | raised) & self.add.keys()
            or self.fields.keys() & raised
        ):
            raise ValueError(f"not one idempotent write: {self!r}")

    def checkpoint_after(self, before: Checkpoint) -> Checkpoint:
        """Return the checkpoint after this commit.

        Raises:
            ValueError: the status may not follow.
        """
        if self.status is not None and not may_follow(before.meta.status, self.status):
            raise not_allowed(before.meta.stream_id, before.meta.status, self.status)
        if self.once and all(before.parts.get(part.part_number) == part for part in self.parts):
            return before
        stream_set = before.stream_set
        if self.status is not None:
            stream_set = HOME[self.status] or stream_set
        return Checkpoint(self.meta_after(before.meta), stream_set, self._parts_after(before.parts))

    def meta_after(self, meta: StreamMeta) -> StreamMeta:
        """Return the record after this commit, without looking at its conditions."""
        values = {name: DEFAULTS[name] if value is None else value for name, value in self.fields.items()}
        values |= {name: getattr(meta, name) + number for name, number in self.add.items()}
        if self.raise_next_part_to > meta.next_part_to_upload:
            values["next_part_to_upload"] = self.raise_next_part_to
        if self.status is not None:
            values["status"] = self.status
        if self.new_path is not None:
            values["current_path"] = self.new_path
        return replace(meta, **values, schema=schema.CURRENT)

    def _parts_after(self, parts: Mapping[int, PartRecord]) -> Mapping[int, PartRecord]:
        kept = {number: part for number, part in parts.items() if self.keep_to is None or number <= self.keep_to}
        return kept | {part.part_number: part for part in self.parts}


def not_allowed(stream_id: str, current: Status, following: Status) -> ValueError:
    """Return the error for a transition that ``states.TRANSITIONS`` does not allow."""
    return ValueError(f"stream {stream_id}: {following.value!r} may not follow {current.value!r}")
