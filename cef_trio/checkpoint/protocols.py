"""The interface of the checkpoint store, and what every implementation promises.

Two implementations (``store.py``, ``memory.py``) pass the same conformance tests. Rules for all of them:

- Every method is one atomic step: all of it happened, or none.
- Every method may be repeated with the same arguments: a reply lost on the way is safe to repeat.
- Every write names the lease it is made under. If the stream's lease is not that one (another daemon's, expired, or
  gone with Redis's memory), nothing is written and :class:`~cef_trio.exceptions.LeaseLostError` is raised.
- On cancellation a call either happened or did not; the Redis one waits for its answer (at most its socket timeout)
  before Cancelled is raised, so that the next call never meets the last one's reply.
- A key that cannot be read (a record that no daemon wrote, a key of another type) is one stream's trouble: reading many
  sets it aside by name (:class:`Records`, :attr:`CheckpointStore.unreadable`), and nothing is written to it.
- Failures are :class:`~cef_trio.exceptions.RedisOperationError`, ``transient`` saying whether a retry can help.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from cef_trio.checkpoint.model import Checkpoint, Lease, PartRecord, StreamMeta
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.checkpoint.unreadable import UnreadableKeys


@dataclass(frozen=True, slots=True)
class Saving:
    """One stream's state on the way out: what :meth:`CheckpointStore.save_interrupted` writes."""

    stream_id: str
    status: Status
    at_utc: datetime


@dataclass(frozen=True, slots=True)
class KnownPath:
    """What ``streams:by_path`` leads to: enough to tell whether a file on disk is done, open or failed."""

    meta: StreamMeta
    stream_set: StreamSet


@dataclass(frozen=True, slots=True, eq=False)
class Records(Mapping[str, KnownPath]):
    """Records that were asked for by name: a mapping of those that exist and can be read, and why others cannot."""

    readable: Mapping[str, KnownPath] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> KnownPath:
        return self.readable[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.readable)

    def __len__(self) -> int:
        return len(self.readable)


@dataclass(frozen=True, slots=True)
class Change:
    """Fields of :class:`StreamMeta` to set; ``None`` removes the field. Never ``stream_id`` or ``status``."""

    fields: Mapping[str, Any] = field(default_factory=dict)


class CheckpointStore(Protocol):
    """Where checkpoints are kept."""

    @property
    def unreadable(self) -> UnreadableKeys:
        """The keys that could not be read."""
        ...

    async def ping(self) -> None:
        """Reach the store, or raise."""
        ...

    async def prove(self) -> None:
        """Write something of no meaning, in the way all else is written, or raise: a read proves nothing of writes."""
        ...

    async def create(
        self,
        meta: StreamMeta,
        lease: Lease,
        parts: Sequence[PartRecord] = (),
        *,
        instead_of: str | None = None,
        beside: str | None = None,
    ) -> None:
        """Begin a stream: record, ``streams:by_path``, set, lease, and the parts already adopted, in one step.

        ``streams:by_path`` of its path leads to this stream from now on. It may have led to nothing, to a stream whose
        record is lost, or to ``instead_of``: the stream that the caller saw there when it judged the file. If it leads
        to ``beside``, a stream of another owner, that stays, and a field beside it leads to this stream. Repeating it
        with the same stream id and path under the same lease changes nothing once the record exists.

        Raises:
            LeaseLostError: a stream of this id exists under another daemon's lease.
            PathTakenError: the path leads to another stream than the caller saw, or a stream of this id was begun for
                another path.
        """
        ...

    async def acquire(self, stream_id: str, lease: Lease) -> bool:
        """Take the stream's lease if it is free, ours, or an earlier process's of our instance. Sets its TTL."""
        ...

    async def renew(self, stream_ids: Collection[str], lease: Lease) -> frozenset[str]:
        """Set the TTL of these leases anew in one round trip; returns those that are no longer ours."""
        ...

    async def release(self, stream_ids: Collection[str], lease: Lease) -> None:
        """Give these leases up where they are ours."""
        ...

    async def holders(self, stream_ids: Collection[str]) -> Mapping[str, str]:
        """Whose these leases are (``Lease.value``); those that nobody holds are absent. For people: it may change at
        once, so a decision asks :meth:`acquire` instead.
        """
        ...

    async def load(self, stream_id: str) -> Checkpoint | None:
        """All that is known of the stream; ``None`` if nothing is.

        Raises:
            RecordUnreadableError: its record or its parts cannot be read.
        """
        ...

    async def load_metas(self, stream_ids: Collection[str]) -> Records:
        """The records (without parts) of those streams that exist, in as few round trips as can be."""
        ...

    async def members(self, stream_set: StreamSet) -> frozenset[str]:
        """The ids of the streams in that set; none if its key is of a wrong type, which is noted."""
        ...

    async def count(self) -> Mapping[StreamSet, int]:
        """How many streams each set has; one whose key is of a wrong type is absent. The sets are not read."""
        ...

    async def is_persistent(self) -> bool:
        """Whether the store writes what it acknowledges to an append-only file."""
        ...

    async def find_by_path(self, paths: Collection[str], *, owner: str = "") -> Records:
        """What is known of these paths; unknown ones are absent. In as few round trips as can be.

        Where streams of several owners have one path, that of the owner of this name (``Owner.name``) is told, or, if
        it has none there, the first one's.
        """
        ...

    async def update(self, stream_id: str, lease: Lease, change: Change) -> None:
        """Set or remove fields of the record."""
        ...

    async def record_part(self, stream_id: str, lease: Lease, part: PartRecord, *, rewritten: bool = False) -> None:
        """Record a part that S3 acknowledged, replacing an earlier record of the same number.

        Adds its size to ``total_bytes_sent``, raises ``next_part_to_upload`` past it, sets ``last_activity_at_utc``;
        if ``rewritten``, counts it in ``parts_rewritten`` and ``bytes_rewritten``. Repeating the very same record (same
        etag, size, crc and time) counts nothing twice.
        """
        ...

    async def adopt_parts(self, stream_id: str, lease: Lease, parts: Sequence[PartRecord]) -> None:
        """Record parts found in S3 whose bytes were compared with the file's; nothing counts as sent."""
        ...

    async def cut_parts(self, stream_id: str, lease: Lease, keep_to: int) -> None:
        """Forget the parts with higher numbers than ``keep_to``: the file was cut off before them. The upload stays.

        Whatever was verified was another file: ``next_part_to_upload`` is ``keep_to + 1``, the verification is gone.
        """
        ...

    async def start_over(self, stream_id: str, lease: Lease, change: Change) -> None:
        """Forget the upload and all its parts (``next_part_to_upload`` is 1 again); the status is active.

        Applies ``change`` in the same step (part size, identity, counters).
        """
        ...

    async def transition(
        self, stream_id: str, lease: Lease, status: Status, change: Change, *, enqueue_webhook: bool = False
    ) -> None:
        """Put the stream into ``status`` and its set (``states.HOME``), and apply ``change``, in one step.

        ``enqueue_webhook``: in that same step, note that its webhook is to be delivered (:meth:`pending_webhooks`), so
        that no crash can lie between the two.

        Raises:
            ValueError: ``states.TRANSITIONS`` does not allow it (a bug of the caller, not of the store's state).
        """
        ...

    async def rename(self, stream_id: str, lease: Lease, new_path: str) -> None:
        """The stream's file has another name now: ``original_path`` stays what it was, ``current_path`` and
        ``streams:by_path`` follow. The old path's entry goes if it still leads to this stream.
        """
        ...

    async def save_interrupted(self, savings: Sequence[Saving], lease: Lease) -> frozenset[str]:
        """Write the way many streams' tasks ended, and release their leases, in one round trip.

        A stream in ``s3_completed`` keeps that status (it says exactly where to go on). Returns the ids that could not
        be saved because their lease is not ours; raises if the store cannot be reached.
        """
        ...

    async def pending_webhooks(self) -> frozenset[str]:
        """The ids of the streams whose webhook is owed."""
        ...

    async def is_webhook_pending(self, stream_id: str) -> bool:
        """Whether the stream's webhook is owed: asked again once the delivery is claimed."""
        ...

    async def ack_webhook(self, stream_id: str) -> None:
        """The stream's webhook was delivered, or is given up: it is owed no more.

        The one write that names no lease: what was delivered is delivered, whoever says so, and a stream that is
        completed never comes to owe again.
        """
        ...

    async def report(self, instance: str, text: str) -> None:
        """Keep how a daemon says that it stands, in place of what it said before. For people only."""
        ...

    async def reports(self) -> Mapping[str, str]:
        """What each daemon reported last, by its instance."""
        ...

    async def forget_reports(self, instances: Collection[str]) -> None:
        """Drop the reports of daemons that have long been gone."""
        ...

    async def forget(self, stream_id: str) -> None:
        """Remove an ended stream and every key of it (pruning), its owed webhook too; an open one is left alone."""
        ...
