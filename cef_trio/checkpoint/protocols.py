"""The interface of a checkpoint store, and the promises that every implementation keeps.

:class:`CheckpointStore` is the sum of small interfaces: :class:`StreamStore` for records and parts,
:class:`StreamHistory` for ended streams by time, :class:`LeaseStore` for leases, :class:`WebhookOutbox` for webhooks
not yet delivered, :class:`AbortRequests` for streams that an operator wants aborted, :class:`DaemonRegistry` for the
daemons of the fleet, :class:`HeartbeatStore` for periodic calls in one round trip. Depend on the smallest that is
enough.

Two implementations (``redis/store.py``, ``memory.py``) pass the same conformance tests. Rules for both:

- Every method is one atomic step: all of it happened, or none.
- Every method may be repeated with the same arguments, so a lost reply is safe to retry.
- Every write to a stream names the lease under which it is made. If the stream's lease is another one, or has expired,
  nothing is written and :class:`~cef_trio.exceptions.LeaseLostError` is raised.
- On cancellation a call either happened or did not. The Redis store waits for the reply (at most the socket timeout)
  before it raises Cancelled, so no connection carries the reply of an earlier call.
- A key that cannot be read (a malformed record, one of a newer schema, a key of another type) affects one stream only:
  bulk reads leave it out and name it (:class:`Records`, :attr:`StreamStore.unreadable`). Nothing is written to it.
- Failures are :class:`~cef_trio.exceptions.RedisOperationError`; ``transient`` tells whether a retry can help.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.commit import Change, Commit, ExitState
from cef_trio.checkpoint.model import Checkpoint, Lease, PartRecord, StreamMeta, WebhookEvent
from cef_trio.checkpoint.schema import NewerRecord
from cef_trio.checkpoint.states import History, Status, StreamSet
from cef_trio.checkpoint.unreadable import UnreadableKeys


def nobody(path: str) -> str:
    """Name no owner (:meth:`StreamStore.find_by_path`)."""
    return ""


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """A stream without its parts: enough to tell whether a file is completed, open or failed."""

    meta: StreamMeta
    stream_set: StreamSet


@dataclass(frozen=True, slots=True, eq=False)
class Records(Mapping[str, StreamSummary]):
    """The result of a bulk read: a mapping of the readable records; ``unreadable`` has the reason for each other.

    ``newer`` has those of the unreadable ones that are only of a newer schema.
    """

    readable: Mapping[str, StreamSummary] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    newer: Mapping[str, NewerRecord] = field(default_factory=dict)

    def __getitem__(self, name: str) -> StreamSummary:
        return self.readable[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.readable)

    def __len__(self) -> int:
        return len(self.readable)


@dataclass(frozen=True, slots=True)
class Expired:
    """Open streams whose leases expired or were released, and when the store looked, in ms by its own clock."""

    ends_ms: Mapping[str, int]
    """When their leases ended, and when those end that do so in the time that was asked for, if not renewed before."""
    at_ms: int
    abort_requests: frozenset[str] = frozenset()
    """See :meth:`AbortRequests.abort_requests`."""

    @property
    def stream_ids(self) -> frozenset[str]:
        """The streams whose leases have ended."""
        return frozenset(stream_id for stream_id, end in self.ends_ms.items() if end <= self.at_ms)


class StreamWrites(Protocol):
    """The writes under a stream's lease. Each is one :class:`Commit` of ``rules.py``, which the store carries out."""

    async def _commit(self, stream_id: str, lease: Lease, commit: Commit) -> None:
        """Carry out a commit in one step.

        Raises:
            LeaseLostError: the stream's lease is another one, or its record does not exist.
            RecordUnreadableError: the record is of a newer schema.
            ValueError: the status may not follow the stored one.
        """
        ...

    async def update(self, stream_id: str, lease: Lease, change: Change) -> None:
        """Set or remove fields of the record."""
        await self._commit(stream_id, lease, rules.update(change))

    async def record_part(self, stream_id: str, lease: Lease, part: PartRecord, *, rewritten: bool = False) -> None:
        """Record a part that S3 acknowledged, replacing an earlier record of the same number.

        Adds its size to ``total_bytes_sent``, raises ``next_part_to_upload`` past it, sets ``last_activity_at_utc``;
        if ``rewritten``, counts it in ``parts_rewritten`` and ``bytes_rewritten``. Repeating an identical record (same
        etag, size, CRC and time) counts nothing twice.
        """
        await self._commit(stream_id, lease, rules.record_part(part, rewritten=rewritten))

    async def adopt_parts(self, stream_id: str, lease: Lease, parts: Sequence[PartRecord]) -> None:
        """Record parts found in S3 whose bytes match the file. They do not count as sent."""
        await self._commit(stream_id, lease, rules.adopt_parts(parts))

    async def cut_parts(self, stream_id: str, lease: Lease, keep_to: int) -> None:
        """Remove the parts with numbers above ``keep_to``, because the file was truncated. The upload stays.

        Sets ``next_part_to_upload`` to ``keep_to + 1`` and removes the verification.
        """
        await self._commit(stream_id, lease, rules.cut_parts(keep_to))

    async def start_over(self, stream_id: str, lease: Lease, change: Change) -> None:
        """Remove the upload and all its parts, reset ``next_part_to_upload`` to 1, set the status to active.

        Applies ``change`` in the same step (part size, identity, counters).
        """
        await self._commit(stream_id, lease, rules.start_over(change))

    async def transition(
        self,
        stream_id: str,
        lease: Lease,
        status: Status,
        change: Change,
        *,
        enqueue_webhook: bool = False,
        event: WebhookEvent | None = None,
    ) -> None:
        """Move the stream to ``status`` and to the set of that status (``states.HOME``), and apply ``change``.

        ``enqueue_webhook``: add the stream to the :class:`WebhookOutbox` in the same step, so that no crash can come
        between the two; ``event``: add this event to it.

        Raises:
            ValueError: ``states.TRANSITIONS`` does not allow it: a bug of the caller, or Redis has lost writes.
        """
        await self._commit(
            stream_id, lease, rules.transition(status, change, enqueue_webhook=enqueue_webhook, event=event)
        )

    async def record_put(self, stream_id: str, lease: Lease, part: PartRecord, change: Change) -> None:
        """Move the stream to ``s3_completed``, apply ``change``, and record the object's only part, which was sent.

        Repeating it with an identical part changes nothing.

        Raises:
            ValueError: ``states.TRANSITIONS`` does not allow it: a bug of the caller, or Redis has lost writes.
        """
        await self._commit(stream_id, lease, rules.record_put(part, change))

    async def rename(self, stream_id: str, lease: Lease, new_path: str) -> None:
        """Set ``current_path`` and the ``streams:by_path`` entry to a new path; ``original_path`` stays.

        The entry of the old path is removed if it still refers to this stream.
        """
        await self._commit(stream_id, lease, rules.rename(new_path))


class StreamStore(StreamWrites, Protocol):
    """Records of streams and their parts."""

    @property
    def unreadable(self) -> UnreadableKeys:
        """The keys that could not be read."""
        ...

    async def ping(self) -> None:
        """Check that the store can be reached; raise if not."""
        ...

    async def check_writable(self) -> None:
        """Write a probe key the way all other writes are made; raise if that fails. A read does not prove writes."""
        ...

    async def is_persistent(self) -> bool:
        """Return whether the store writes what it acknowledges to an append-only file."""
        ...

    async def raise_schema(self) -> int | None:
        """Raise the namespace's schema to ``schema.CURRENT`` if it is older or absent.

        Returns:
            The schema before; ``None`` if there was none, or it could not be read.
        """
        ...

    async def create(
        self,
        meta: StreamMeta,
        lease: Lease,
        parts: Sequence[PartRecord] = (),
        *,
        replaced_stream_id: str | None = None,
        other_owner_stream_id: str | None = None,
        event: WebhookEvent | None = None,
    ) -> None:
        """Create a stream in one step: record, ``streams:by_path`` entry, set, lease, and the parts already adopted.

        Repeating it with the same stream id and path under the same lease changes nothing once the record exists.

        Args:
            meta: the record.
            lease: taken for the stream in the same step.
            parts: parts that S3 already has.
            replaced_stream_id: the stream that the caller found at the path; its ``streams:by_path`` entry is replaced.
                An entry whose record is lost is replaced too.
            other_owner_stream_id: a stream of another owner at the same path. Both have an entry then.
            event: added to the :class:`WebhookOutbox` in the same step.

        Raises:
            LeaseLostError: a stream of this id exists under another daemon's lease.
            PathTakenError: the path belongs to another stream than ``replaced_stream_id``, or a stream of this id
                exists for another path.
        """
        ...

    async def load(self, stream_id: str) -> Checkpoint | None:
        """Return the whole checkpoint of a stream; ``None`` if there is none.

        Raises:
            RecordUnreadableError: its record or its parts cannot be read.
        """
        ...

    async def load_metas(self, stream_ids: Collection[str], *, below: str = "") -> Records:
        """Return the existing records (without parts) of these streams, in as few round trips as possible.

        ``below``: only those whose current path is below this folder, which costs less than reading the others.
        """
        ...

    async def members(self, stream_set: StreamSet) -> frozenset[str]:
        """Return the ids of the streams in a set. If its key has a wrong type: none, and the key is noted.

        The sets of ended streams are not read in one step: one that comes or goes meanwhile may be missing.
        """
        ...

    async def ids_beginning_with(self, beginning: str) -> frozenset[str]:
        """Return the stream of that id, or else all whose ids begin with it. For commands: reads all ids."""
        ...

    async def count(self) -> Mapping[StreamSet, int]:
        """Return the size of each set without reading it; a set whose key has a wrong type is absent."""
        ...

    async def find_by_path(self, paths: Collection[str], *, owner: Callable[[str], str] = nobody) -> Records:
        """Return the streams of these paths, in as few round trips as possible; unknown paths are absent.

        If streams of several owners share a path, return that of ``owner`` (which gives the ``Owner.name`` for a path),
        else the first one's.
        """
        ...

    async def save_interrupted(self, exit_states: Sequence[ExitState], lease: Lease) -> frozenset[str]:
        """Save the final states of many streams and release their leases, in one round trip.

        A stream in ``s3_completed`` keeps that status, which already names the next step.

        Returns:
            The ids of the streams that were not saved: they are under another lease, or of a newer schema.

        Raises:
            RedisOperationError: the store cannot be reached.
        """
        ...

    async def forget(self, stream_id: str) -> None:
        """Remove an ended stream with all its keys and its pending webhook. An open stream is left unchanged."""
        ...


class StreamHistory(Protocol):
    """Indexes of ended streams, so that no cost grows with their number. Each write of a stream keeps them."""

    async def count_ended(self) -> Mapping[History, int]:
        """Return the number of streams in each history without reading it; one whose key has a wrong type is absent."""
        ...

    async def ended(
        self, history: History, *, since_ms: int = 0, before_ms: int, skip: int = 0, limit: int = 500
    ) -> Sequence[tuple[str, int]]:
        """Return streams that ended from ``since_ms`` on and before ``before_ms``, the earliest first.

        Times are milliseconds of Unix time (``rules.ended_at_ms``). ``skip`` leaves out that many at the beginning.
        """
        ...

    async def latest(self, history: History, limit: int) -> Sequence[str]:
        """Return the ids of the streams that ended last, the latest first."""
        ...

    async def date(self, history: History, stream_id: str, at_ms: int) -> None:
        """Change the time of a stream in the history; nothing if it is not there."""
        ...

    async def completed_like(self, inodes: Collection[int], mtimes_ns: Collection[int]) -> frozenset[str]:
        """Return the ids of completed streams with a file of one of these inode numbers or modification times.

        Only a proposal: a few may have neither, and of very many with the same number some are left out.
        """
        ...

    async def mend_history(self) -> int:
        """Make anew from the records what is lost of the sets and indexes; return how many streams were looked at.

        They are lost if a key was deleted or evicted, and are not whole after an upgrade. A stream that is in no set
        goes back into that of its status, one without a record leaves them. May take minutes for millions of streams.
        """
        ...


class LeaseStore(Protocol):
    """Leases with a TTL: which daemon may write a stream's record, or do a job (``keys.job_lock_name``)."""

    async def acquire(self, stream_id: str, lease: Lease) -> bool:
        """Take the lease if it is free, ours, or that of an earlier process of our instance; set its TTL."""
        ...

    async def renew(self, stream_ids: Collection[str], lease: Lease) -> frozenset[str]:
        """Reset the TTL of these leases in one round trip; return those that are no longer ours."""
        ...

    async def release(self, stream_ids: Collection[str], lease: Lease) -> None:
        """Release those of these leases that are ours."""
        ...

    async def holders(self, stream_ids: Collection[str]) -> Mapping[str, str]:
        """Return the holders (``Lease.value``) of these leases; free ones are absent.

        For display only: it may change at once, so decide by :meth:`acquire`.
        """
        ...

    async def expired(self, since_ms: int, ahead_ms: int = 0) -> Expired:
        """Return the open streams whose lease expired or was released since ``since_ms``, and has no holder now.

        Also those whose lease ends within ``ahead_ms``: pass :attr:`Lease.ending_ms`, as each held lease that comes so
        near to its end is one of them.

        A hint, which costs what it returns. Pass ``at_ms`` of the last call, less a margin for servers whose clocks
        differ; 0: all open streams without a lease.
        """
        ...


class WebhookOutbox(Protocol):
    """Completed streams whose webhook is not yet delivered, and events of others. ``StreamStore`` adds to it.

    It keeps ``rules.MAX_EVENTS`` events, of starts ``rules.MAX_STARTS``; one that does not fit is dropped.
    """

    async def pending_webhooks(self) -> frozenset[str]:
        """Return the ids of the streams with a pending webhook."""
        ...

    async def is_webhook_pending(self, stream_id: str) -> bool:
        """Return whether the stream's webhook is pending. Ask again after taking the delivery's job lock."""
        ...

    async def ack_webhook(self, stream_id: str) -> None:
        """Remove the stream from the outbox: its webhook was delivered, or delivery has ended.

        This write names no lease: a completed stream never enters the outbox again, so removing it is always right.
        """
        ...

    async def pending_events(self) -> frozenset[str]:
        """Return the ids of the pending events."""
        ...

    async def pending_event(self, event_id: str) -> bytes | None:
        """Return the body of an event; ``None`` if it is not pending. Ask after taking the delivery's job lock."""
        ...

    async def ack_event(self, event_id: str) -> None:
        """Remove an event: it was delivered, or delivery has ended."""
        ...


class AbortRequests(Protocol):
    """Open streams that an operator wants aborted, though daemons work on them. Daemons read them with each beat.

    The step that ends a stream, or retries it, removes its request; so no request outlives what it was made for.
    """

    async def request_abort(self, stream_ids: Collection[str]) -> frozenset[str]:
        """Request that these streams be aborted; return those that are open, for which the request is recorded."""
        ...

    async def abort_requests(self) -> frozenset[str]:
        """Return the ids of the streams that are to be aborted."""
        ...

    async def withdraw_aborts(self, stream_ids: Collection[str]) -> None:
        """Remove these requests: an earlier version has ended the streams, or their records are gone."""
        ...


@dataclass(frozen=True, slots=True)
class StoredReport:
    """A daemon's last report."""

    text: str
    received_at: float
    """When the store received it: Unix time by the store's clock, so that silence is judged by one clock."""


@dataclass(frozen=True, slots=True)
class StoredReports:
    """The whole registry."""

    reports: Mapping[str, StoredReport]
    """By name."""
    now: float
    """The store's clock when it was read, as Unix time."""


class DaemonRegistry(Protocol):
    """The last report of each daemon, of all owners; for commands and pages. No upload depends on it.

    The store adds its own time to each report. It drops reports that are older than ``rules.REPORT_SECONDS``, and the
    oldest beyond ``rules.MAX_REPORTS``.
    """

    async def report(self, name: str, text: str, *, beginning: str) -> StoredReports:
        """Store a daemon's report; return the last ones, before it, whose names begin so. Costs what it returns."""
        ...

    async def reports(self, *, beginning: str = "") -> StoredReports:
        """Return the last report of each daemon, or of those whose names begin so."""
        ...

    async def forget_reports(self, names: Collection[str]) -> None:
        """Remove the reports of these names."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Periodic calls of a daemon that are due together, by their arguments; ``None``, or no id: not due."""

    lease: Lease
    renewed_ids: Collection[str] = ()
    """For :meth:`LeaseStore.renew`."""
    expired_since_ms: int | None = None
    """For :meth:`LeaseStore.expired`, ahead by :attr:`Lease.ending_ms`."""
    report: tuple[str, str, str] | None = None
    """Name, text and beginning, for :meth:`DaemonRegistry.report`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatReply:
    """The result of each call of a :class:`Beat`; ``None``: it was not due, was not made, or has failed."""

    lost: frozenset[str] | None = None
    expired: Expired | None = None
    reports: StoredReports | None = None


class HeartbeatStore(Protocol):
    """The periodic calls of a daemon in one round trip."""

    async def beat(self, beat: Beat) -> BeatReply:
        """Make these calls in one round trip, the renewal first. Each fails for itself: repeat it by its own method.

        Raises:
            RedisOperationError: the store cannot be reached; each of them may have happened.
        """
        ...


class CheckpointStore(
    StreamStore, StreamHistory, LeaseStore, WebhookOutbox, AbortRequests, DaemonRegistry, HeartbeatStore, Protocol
):
    """Everything that a daemon keeps in its store."""
