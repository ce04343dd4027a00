"""An in-process checkpoint store for deterministic tests and the laboratory.

It keeps the promises of ``protocols.py``. A call has the same phases as one to Redis, so that a test of a cancellation
or a fault here holds for the Redis store too:

1. ``BEFORE``: nothing was sent. Cancellation is delivered here.
2. ``SENT``: the request was sent. From here on cancellation waits, as it does for a call in a worker thread.
3. The effect, without a checkpoint.
4. ``AFTER``: the reply is on its way. Then the call returns, even into a cancelled scope.

A fault hook is awaited at each phase and may raise or wait. A wait at ``SENT`` or ``AFTER`` of more than
``_RESPONSE_TIMEOUT_SECONDS`` raises the transient error of a frozen server. Values pass through the codec, so this
store accepts only what Redis can store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeVar

import trio

from cef_trio.checkpoint import rules, schema
from cef_trio.checkpoint.commit import Commit, ExitState
from cef_trio.checkpoint.model import Checkpoint, Lease, Owner, PartRecord, StreamMeta, WebhookEvent
from cef_trio.checkpoint.protocols import (
    Beat,
    BeatReply,
    Expired,
    Records,
    StoredReport,
    StoredReports,
    StreamSummary,
    StreamWrites,
    nobody,
)
from cef_trio.checkpoint.redis import Keys, codec
from cef_trio.checkpoint.schema import NewerRecord
from cef_trio.checkpoint.states import ENDED, FAILED, History, Status, StreamSet
from cef_trio.checkpoint.unreadable import UnreadableKeys
from cef_trio.exceptions import RecordUnreadableError, RedisOperationError
from cef_trio.resilience import Retrier, SingleAttempt, shielded

T = TypeVar("T")

_RESPONSE_TIMEOUT_SECONDS: Final = 1.0


class Moment(StrEnum):
    """When a fault hook is awaited."""

    BEFORE = "before"
    SENT = "sent"
    AFTER = "after"


FaultHook = Callable[[str, Moment], Awaitable[None]]
"""Awaited with the operation (the method's name) and the moment; may raise or wait."""


@dataclass(slots=True)
class _Held:
    holder: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """The whole content of the store. Opaque; for :meth:`MemoryCheckpointStore.restore`."""

    streams: Mapping[str, Checkpoint]
    by_path: Mapping[str, str]
    leases: Mapping[str, _Held]
    pending_webhooks: frozenset[str] = frozenset()
    reports: Mapping[str, StoredReport] = field(default_factory=dict)
    schema: int | None = None
    history: Mapping[str, tuple[History, int]] = field(default_factory=dict)
    lease_ends: Mapping[str, int] = field(default_factory=dict)
    abort_requests: frozenset[str] = frozenset()
    events: Mapping[str, bytes] = field(default_factory=dict)


class MemoryCheckpointStore(StreamWrites):
    """A ``CheckpointStore`` in this process. ``clock`` returns seconds, for the leases' TTLs."""

    def __init__(self, *, clock: Callable[[], float] = trio.current_time) -> None:
        self.fault: FaultHook | None = None
        """Awaited at each :class:`Moment` of each operation."""
        self.retrier: Retrier = SingleAttempt()
        self.persistent = False
        """What :meth:`is_persistent` returns."""
        self.unix_clock: Callable[[], float] = clock
        """The store's clock as Unix time, for reports."""
        self._clock = clock
        self._streams: dict[str, Checkpoint] = {}
        self._by_path: dict[str, str] = {}
        self._leases: dict[str, _Held] = {}
        self._pending_webhooks: set[str] = set()
        self._abort_requests: set[str] = set()
        self._events: dict[str, bytes] = {}
        self._reports: dict[str, StoredReport] = {}
        self._history: dict[str, tuple[History, int]] = {}
        """The history of each ended stream, and its time in it."""
        self._lease_ends: dict[str, int] = {}
        """When the lease of each open stream expires or was released, in ms."""
        self.unreadable = UnreadableKeys()
        self._keys = Keys()
        self._unreadable_keys: dict[str, str] = {}
        self._schema: int | None = None

    # ---- for tests: snapshots and faults -----------------------------------------------------------------

    def snapshot(self) -> StoreSnapshot:
        """Return a copy of the whole content."""
        return StoreSnapshot(
            dict(self._streams),
            dict(self._by_path),
            {stream_id: replace(held) for stream_id, held in self._leases.items()},
            frozenset(self._pending_webhooks),
            dict(self._reports),
            self._schema,
            dict(self._history),
            dict(self._lease_ends),
            frozenset(self._abort_requests),
            dict(self._events),
        )

    def restore(self, snapshot: StoreSnapshot) -> None:
        """Replace the content by a snapshot, as a server does that lost its latest writes."""
        self._streams = dict(snapshot.streams)
        self._by_path = dict(snapshot.by_path)
        self._leases = {stream_id: replace(held) for stream_id, held in snapshot.leases.items()}
        self._pending_webhooks = set(snapshot.pending_webhooks)
        self._reports = dict(snapshot.reports)
        self._schema = snapshot.schema
        self._history = dict(snapshot.history)
        self._lease_ends = dict(snapshot.lease_ends)
        self._abort_requests = set(snapshot.abort_requests)
        self._events = dict(snapshot.events)

    def clear(self) -> None:
        """Remove all content, as a server does that lost its data."""
        self.restore(StoreSnapshot({}, {}, {}))

    def corrupt(self, key: str) -> None:
        """Make a key (see ``Keys``) unreadable, as an operator's mistake in ``redis-cli`` does."""
        self._unreadable_keys[key] = f"{key} is of a wrong type"

    def repair(self, key: str) -> None:
        """Undo :meth:`corrupt`."""
        self._unreadable_keys.pop(key, None)

    def set_schema(self, stream_id: str, number: int) -> None:
        """Make a record one of that schema."""
        stream = self._streams[stream_id]
        self._streams[stream_id] = replace(stream, meta=replace(stream.meta, schema=number))

    def note_abort_requests(self, stream_ids: Collection[str]) -> None:
        """Do what :meth:`request_abort` does, at once, for open streams."""
        self._abort_requests |= set(stream_ids)

    def is_other_owners(self, stream_id: str, lease: Lease) -> bool:
        """Return whether the stream is under another lease."""
        return self._holder(stream_id) not in {None, lease.value}

    def is_held(self, stream_id: str) -> bool:
        """Return whether the stream is under a lease."""
        return self._holder(stream_id) is not None

    # ---- CheckpointStore ---------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """See :meth:`StreamStore.ping`."""
        await self._call("ping", lambda: None)

    async def check_writable(self) -> None:
        """See :meth:`StreamStore.check_writable`."""
        await self._call("check_writable", lambda: None)

    async def raise_schema(self) -> int | None:
        """See :meth:`StreamStore.raise_schema`."""

        def effect() -> int | None:
            before = self._schema
            self._schema = max(before or 0, schema.CURRENT)
            return before

        return await self._call("raise_schema", effect)

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
        """See :meth:`StreamStore.create`."""
        meta = replace(
            meta,
            next_part_to_upload=max(meta.next_part_to_upload, rules.next_part_number(parts)),
            schema=schema.CURRENT,
        )
        meta = codec.decode_meta({name.encode(): value for name, value in codec.encode_meta(meta).items()})
        checked = {} if meta.status is Status.COMPLETED else _encodable_parts(parts)

        def effect() -> None:
            holder = self._holder(meta.stream_id)
            if meta.stream_id in self._streams:
                if holder != lease.value:
                    raise rules.lease_lost(meta.stream_id, holder)
                if self._streams[meta.stream_id].meta.original_path != meta.current_path:
                    raise rules.path_taken(meta.stream_id, meta.stream_id)
                return
            if not rules.may_take(holder, lease):
                raise rules.lease_lost(meta.stream_id, holder)
            leads = meta.current_path
            own = _owner_field(leads, meta.owner)
            if own in self._by_path or (
                other_owner_stream_id is not None and self._by_path.get(leads) == other_owner_stream_id
            ):
                leads = own
            there = self._by_path.get(leads)
            if there not in {None, meta.stream_id, replaced_stream_id} and there in self._streams:
                raise rules.path_taken(meta.stream_id, str(there))
            self._streams[meta.stream_id] = Checkpoint(meta, rules.default_set(meta.status), checked)
            self._index(meta.stream_id)
            self._hold(meta.stream_id, lease)
            self._by_path[leads] = meta.stream_id
            self._add_event(event, rules.MAX_STARTS)

        await self._call("create", effect)

    async def acquire(self, stream_id: str, lease: Lease) -> bool:
        """See :meth:`LeaseStore.acquire`."""

        def effect() -> bool:
            self._is_readable(self._keys.lease(stream_id), stream_id)
            if not rules.may_take(self._holder(stream_id), lease):
                return False
            self._hold(stream_id, lease)
            return True

        return await self._call("acquire", effect)

    async def renew(self, stream_ids: Collection[str], lease: Lease) -> frozenset[str]:
        """See :meth:`LeaseStore.renew`."""
        return await self._call("renew", lambda: self._renew(stream_ids, lease))

    def _renew(self, stream_ids: Collection[str], lease: Lease) -> frozenset[str]:
        ours = {stream_id for stream_id in stream_ids if self._holder(stream_id) == lease.value}
        for stream_id in ours:
            self._hold(stream_id, lease)
        return frozenset(stream_ids) - ours

    async def beat(self, beat: Beat) -> BeatReply:
        """See :meth:`HeartbeatStore.beat`."""

        def effect() -> BeatReply:
            return BeatReply(
                lost=self._renew(beat.renewed_ids, beat.lease) if beat.renewed_ids else None,
                expired=self._expired(beat.expired_since_ms, beat.lease.ending_ms)
                if beat.expired_since_ms is not None
                else None,
                reports=self._report(*beat.report) if beat.report is not None else None,
            )

        return await self._call("beat", effect)

    async def release(self, stream_ids: Collection[str], lease: Lease) -> None:
        """See :meth:`LeaseStore.release`."""

        def effect() -> None:
            for stream_id in stream_ids:
                if self._holder(stream_id) == lease.value:
                    self._free(stream_id)

        await self._call("release", effect)

    async def expired(self, since_ms: int, ahead_ms: int = 0) -> Expired:
        """See :meth:`LeaseStore.expired`."""
        return await self._call("expired", lambda: self._expired(since_ms, ahead_ms))

    def _expired(self, since_ms: int, ahead_ms: int) -> Expired:
        now = self._now_ms()
        if not self._is_readable(self._keys.leases):
            return Expired({}, now, frozenset(self._abort_requests))
        ends = {key: end for key, end in self._lease_ends.items() if since_ms <= end <= now + ahead_ms}
        return Expired(ends, now, frozenset(self._abort_requests))

    async def holders(self, stream_ids: Collection[str]) -> Mapping[str, str]:
        """See :meth:`LeaseStore.holders`."""

        def effect() -> Mapping[str, str]:
            odd = {stream_id for stream_id in stream_ids if self._keys.lease(stream_id) in self._unreadable_keys}
            found = {stream_id: self._holder(stream_id) for stream_id in stream_ids if stream_id not in odd}
            return {stream_id: holder for stream_id, holder in found.items() if holder is not None}

        return await self._call("holders", effect)

    async def load(self, stream_id: str) -> Checkpoint | None:
        """See :meth:`StreamStore.load`."""

        def effect() -> Checkpoint | None:
            stream = self._streams.get(stream_id)
            if (why := self._why_newer(stream)) is not None:
                raise RecordUnreadableError("load", why)
            for key in (self._keys.meta(stream_id), self._keys.parts(stream_id)):
                if not self._is_readable(key, stream_id):
                    raise RecordUnreadableError("load", self._unreadable_keys[key])
            return stream

        return await self._call("load", effect)

    async def load_metas(self, stream_ids: Collection[str], *, below: str = "") -> Records:
        """See :meth:`StreamStore.load_metas`."""
        return await self._call("load_metas", lambda: self._read_metas(stream_ids, below=below))

    async def members(self, stream_set: StreamSet) -> frozenset[str]:
        """See :meth:`StreamStore.members`."""

        def effect() -> frozenset[str]:
            if not self._is_readable(self._keys.set(stream_set)):
                return frozenset()
            return frozenset(key for key, stream in self._streams.items() if stream.stream_set is stream_set)

        return await self._call("members", effect)

    async def count(self) -> Mapping[StreamSet, int]:
        """See :meth:`StreamStore.count`."""

        def effect() -> Mapping[StreamSet, int]:
            sets = [stream.stream_set for stream in self._streams.values()]
            readable = [stream_set for stream_set in StreamSet if self._is_readable(self._keys.set(stream_set))]
            return {stream_set: sets.count(stream_set) for stream_set in readable}

        return await self._call("count", effect)

    async def ids_beginning_with(self, beginning: str) -> frozenset[str]:
        """See :meth:`StreamStore.ids_beginning_with`."""

        def effect() -> frozenset[str]:
            whole = {beginning} & self._streams.keys()
            return frozenset(whole or (key for key in self._streams if key.startswith(beginning)))

        return await self._call("ids_beginning_with", effect)

    async def count_ended(self) -> Mapping[History, int]:
        """See :meth:`StreamHistory.count_ended`."""

        def effect() -> Mapping[History, int]:
            histories = [history for history, _ in self._history.values()]
            readable = [history for history in History if self._is_readable(self._keys.history(history))]
            return {history: histories.count(history) for history in readable}

        return await self._call("count_ended", effect)

    async def ended(
        self, history: History, *, since_ms: int = 0, before_ms: int, skip: int = 0, limit: int = 500
    ) -> Sequence[tuple[str, int]]:
        """See :meth:`StreamHistory.ended`."""

        def effect() -> Sequence[tuple[str, int]]:
            within = [(at, key) for key, at in self._times(history).items() if since_ms <= at < before_ms]
            return [(key, at) for at, key in sorted(within)[skip : skip + limit]]

        return await self._call("ended", effect)

    async def latest(self, history: History, limit: int) -> Sequence[str]:
        """See :meth:`StreamHistory.latest`."""

        def effect() -> Sequence[str]:
            times = self._times(history)
            return sorted(times, key=lambda key: (times[key], key), reverse=True)[: max(limit, 0)]

        return await self._call("latest", effect)

    async def date(self, history: History, stream_id: str, at_ms: int) -> None:
        """See :meth:`StreamHistory.date`."""

        def effect() -> None:
            if stream_id in self._times(history):
                self._history[stream_id] = history, at_ms

        await self._call("date", effect)

    async def completed_like(self, inodes: Collection[int], mtimes_ns: Collection[int]) -> frozenset[str]:
        """See :meth:`StreamHistory.completed_like`."""

        def effect() -> frozenset[str]:
            metas = [self._streams[key].meta for key in self._times(History.COMPLETED) if key in self._streams]
            return frozenset(
                meta.stream_id
                for meta in metas
                if meta.identity.file_ino in inodes or (meta.verified_mtime_ns or 0) in mtimes_ns
            )

        return await self._call("completed_like", effect)

    async def mend_history(self) -> int:
        """See :meth:`StreamHistory.mend_history`. These indexes are always whole."""
        return await self._call("mend_history", lambda: 0)

    async def is_persistent(self) -> bool:
        """Return :attr:`persistent`."""
        return await self._call("is_persistent", lambda: self.persistent)

    async def find_by_path(self, paths: Collection[str], *, owner: Callable[[str], str] = nobody) -> Records:
        """See :meth:`StreamStore.find_by_path`."""

        def effect() -> Records:
            found = {path: self._by_path.get(f"{path}\0{owner(path)}") or self._by_path.get(path) for path in paths}
            ids = {path: stream_id for path, stream_id in found.items() if stream_id is not None}
            known = self._read_metas(ids.values())
            why = known.unreadable
            return Records(
                {path: known[stream_id] for path, stream_id in ids.items() if stream_id in known},
                {path: why[stream_id] for path, stream_id in ids.items() if stream_id in why},
                {path: known.newer[stream_id] for path, stream_id in ids.items() if stream_id in known.newer},
            )

        return await self._call("find_by_path", effect)

    async def _commit(self, stream_id: str, lease: Lease, commit: Commit) -> None:
        commit = replace(commit, parts=tuple(_encodable_parts(commit.parts).values()))
        for name, value in commit.fields.items():
            if value is not None:
                codec.encode_field(name, value)

        def effect() -> None:
            stream = self._fenced(stream_id, lease)
            after = commit.checkpoint_after(stream)
            if commit.new_path is not None:
                entry = self._entry_for(stream, commit.new_path)
                self._remove_path_entry(stream)
                self._by_path[entry] = stream_id
            self._streams[stream_id] = after
            if commit.status is not None:
                self._index(stream_id)
                self._add_event(commit.event, rules.MAX_EVENTS)
                if after.meta.status in ENDED or stream.meta.status in FAILED:
                    self._abort_requests.discard(stream_id)
            if commit.enqueue_webhook:
                self._pending_webhooks.add(stream_id)

        await self._call(commit.operation, effect)

    async def save_interrupted(self, exit_states: Sequence[ExitState], lease: Lease) -> frozenset[str]:
        """See :meth:`StreamStore.save_interrupted`."""
        rules.check_exit_states(exit_states)

        def effect() -> frozenset[str]:
            return frozenset(
                exit_state.stream_id for exit_state in exit_states if not self._save_one(exit_state, lease)
            )

        return await self._call("save_interrupted", effect)

    async def pending_webhooks(self) -> frozenset[str]:
        """See :meth:`WebhookOutbox.pending_webhooks`."""

        def effect() -> frozenset[str]:
            return frozenset(self._pending_webhooks) if self._is_readable(self._keys.pending_webhooks) else frozenset()

        return await self._call("pending_webhooks", effect)

    async def is_webhook_pending(self, stream_id: str) -> bool:
        """See :meth:`WebhookOutbox.is_webhook_pending`."""
        return await self._call("is_webhook_pending", lambda: stream_id in self._pending_webhooks)

    async def ack_webhook(self, stream_id: str) -> None:
        """See :meth:`WebhookOutbox.ack_webhook`."""
        await self._call("ack_webhook", lambda: self._pending_webhooks.discard(stream_id))

    async def pending_events(self) -> frozenset[str]:
        """See :meth:`WebhookOutbox.pending_events`."""
        return await self._call("pending_events", lambda: frozenset(self._events))

    async def pending_event(self, event_id: str) -> bytes | None:
        """See :meth:`WebhookOutbox.pending_event`."""
        return await self._call("pending_event", lambda: self._events.get(event_id))

    async def ack_event(self, event_id: str) -> None:
        """See :meth:`WebhookOutbox.ack_event`."""
        await self._call("ack_event", lambda: self._events.pop(event_id, None) and None)

    def _add_event(self, event: WebhookEvent | None, most: int) -> None:
        if event is not None and len(self._events) < most:
            self._events[event.event_id] = event.body

    async def request_abort(self, stream_ids: Collection[str]) -> frozenset[str]:
        """See :meth:`AbortRequests.request_abort`."""

        def effect() -> frozenset[str]:
            streams = {stream_id: self._streams.get(stream_id) for stream_id in stream_ids}
            opened = {key for key, one in streams.items() if one is not None and one.meta.status not in ENDED}
            self._abort_requests |= opened
            return frozenset(opened)

        return await self._call("request_abort", effect)

    async def abort_requests(self) -> frozenset[str]:
        """See :meth:`AbortRequests.abort_requests`."""
        return await self._call("abort_requests", lambda: frozenset(self._abort_requests))

    async def withdraw_aborts(self, stream_ids: Collection[str]) -> None:
        """See :meth:`AbortRequests.withdraw_aborts`."""
        if stream_ids:
            await self._call("withdraw_aborts", lambda: self._abort_requests.difference_update(stream_ids))

    async def report(self, name: str, text: str, *, beginning: str) -> StoredReports:
        """See :meth:`DaemonRegistry.report`."""
        return await self._call("report", lambda: self._report(name, text, beginning))

    def _report(self, name: str, text: str, beginning: str) -> StoredReports:
        now, before = self.unix_clock(), self._reports_of(beginning)
        self._reports.pop(name, None)
        self._reports[name] = StoredReport(text, now)  # the latest is the last
        for old in [key for key, one in self._reports.items() if one.received_at <= now - rules.REPORT_SECONDS]:
            del self._reports[old]
        while len(self._reports) > rules.MAX_REPORTS:
            del self._reports[next(iter(self._reports))]
        return before

    async def reports(self, *, beginning: str = "") -> StoredReports:
        """See :meth:`DaemonRegistry.reports`."""
        return await self._call("reports", lambda: self._reports_of(beginning))

    def _reports_of(self, beginning: str) -> StoredReports:
        found = {name: one for name, one in self._reports.items() if name.startswith(beginning)}
        return StoredReports(found, self.unix_clock())

    async def forget_reports(self, names: Collection[str]) -> None:
        """See :meth:`DaemonRegistry.forget_reports`."""

        def effect() -> None:
            for name in names:
                self._reports.pop(name, None)

        await self._call("forget_reports", effect)

    async def forget(self, stream_id: str) -> None:
        """See :meth:`StreamStore.forget`."""

        def effect() -> None:
            stream = self._streams.get(stream_id)
            self._check_writable("forget", stream_id)
            if stream is not None:
                if stream.meta.status not in ENDED or schema.is_newer(stream.meta.schema):
                    return
                self._remove_path_entry(stream)
                del self._streams[stream_id]
            self._index(stream_id)
            self._leases.pop(stream_id, None)
            self._pending_webhooks.discard(stream_id)
            self._abort_requests.discard(stream_id)

        await self._call("forget", effect)

    # ---- one call, and the steps of the effects ------------------------------------------------

    async def _call(self, operation: str, effect: Callable[[], T]) -> T:
        async def attempt() -> T:
            await trio.lowlevel.checkpoint()
            fault = self.fault
            if fault is None:
                result = effect()
                await trio.lowlevel.cancel_shielded_checkpoint()
                return result
            await fault(operation, Moment.BEFORE)
            with shielded(_RESPONSE_TIMEOUT_SECONDS, saving="checkpoint call in flight"):
                await fault(operation, Moment.SENT)
                result = effect()
                await fault(operation, Moment.AFTER)
                return result
            raise RedisOperationError(operation, f"no answer in {_RESPONSE_TIMEOUT_SECONDS:g} seconds", transient=True)

        return await self.retrier.call(operation, attempt)

    def _is_readable(self, key: str, stream_id: str | None = None) -> bool:
        """Return whether a key can be read, and note it."""
        why = self._unreadable_keys.get(key)
        self.unreadable.note(key, why, stream_id=stream_id)
        return why is None

    def _check_writable(self, operation: str, stream_id: str) -> None:
        why = self._unreadable_keys.get(self._keys.meta(stream_id))
        if why is not None:
            raise RedisOperationError(operation, why)

    def _holder(self, stream_id: str) -> str | None:
        if self._keys.lease(stream_id) in self._unreadable_keys:
            return "wrong type"
        held = self._leases.get(stream_id)
        if held is None:
            return None
        if held.expires_at <= self._clock():
            del self._leases[stream_id]
            return None
        return held.holder

    def _hold(self, stream_id: str, lease: Lease) -> None:
        self._leases[stream_id] = _Held(lease.value, self._clock() + lease.ttl_seconds)
        if stream_id in self._lease_ends:
            self._lease_ends[stream_id] = self._now_ms() + int(lease.ttl_seconds * 1000)

    def _free(self, stream_id: str) -> None:
        self._leases.pop(stream_id, None)
        if stream_id in self._lease_ends:
            self._lease_ends[stream_id] = self._now_ms()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _index(self, stream_id: str) -> None:
        """Put a stream into the indexes of its status, and take it out of all others."""
        stream = self._streams.get(stream_id)
        history = rules.history_of(stream.stream_set, stream.meta) if stream is not None else None
        if stream is None or history is not None:
            self._lease_ends.pop(stream_id, None)
        else:
            self._lease_ends.setdefault(stream_id, self._now_ms())
        if stream is None or history is None:
            self._history.pop(stream_id, None)
        elif self._history.get(stream_id, (None, 0))[0] is not history:
            self._history[stream_id] = history, rules.ended_at_ms(stream.meta)

    def _times(self, history: History) -> dict[str, int]:
        if not self._is_readable(self._keys.history(history)):
            return {}
        return {key: at for key, (its, at) in self._history.items() if its is history}

    def _fenced(self, stream_id: str, lease: Lease) -> Checkpoint:
        holder = self._holder(stream_id)
        if holder != lease.value:
            raise rules.lease_lost(stream_id, holder)
        self._check_writable("write", stream_id)
        if stream_id not in self._streams:
            raise rules.record_gone(stream_id)
        stream = self._streams[stream_id]
        if self._why_newer(stream) is not None:
            raise rules.record_newer("write", self._keys.meta(stream_id), stream.meta.schema)
        return stream

    def _save_one(self, exit_state: ExitState, lease: Lease) -> bool:
        stream = self._streams.get(exit_state.stream_id)
        holder = self._holder(exit_state.stream_id)
        if stream is None or self._keys.meta(exit_state.stream_id) in self._unreadable_keys:
            return False
        after = rules.after_exit(stream.meta, exit_state)
        if holder is None:
            # Saving releases the lease, so a repetition after a lost reply finds the state saved and no lease.
            return after == stream.meta
        if holder != lease.value:
            return False
        self._free(exit_state.stream_id)
        if self._why_newer(stream) is not None:
            return False
        self._streams[exit_state.stream_id] = replace(stream, meta=after)
        return True

    def _read_metas(self, stream_ids: Collection[str], *, below: str = "") -> Records:
        readable: dict[str, StreamSummary] = {}
        unreadable: dict[str, str] = {}
        newer: dict[str, NewerRecord] = {}
        for stream_id in stream_ids:
            stream, key = self._streams.get(stream_id), self._keys.meta(stream_id)
            if below and stream is not None and not stream.meta.current_path.startswith(f"{below.rstrip('/')}/"):
                continue
            if stream is not None and (why := self._why_newer(stream)) is not None:
                unreadable[stream_id] = why
                newer[stream_id] = NewerRecord(
                    schema=str(stream.meta.schema),
                    stream_set=stream.stream_set,
                    current_path=codec.encode_path(stream.meta.current_path),
                    owner=_owner_name(stream.meta.owner),
                    holder=self._holder(stream_id),
                )
            elif not self._is_readable(key, stream_id):
                unreadable[stream_id] = self._unreadable_keys[key]
            elif stream is not None:
                readable[stream_id] = StreamSummary(stream.meta, stream.stream_set)
        return Records(readable, unreadable, newer)

    def _why_newer(self, stream: Checkpoint | None) -> str | None:
        """Return why a record of a newer schema is left alone, and note it; ``None`` if it is not newer."""
        if stream is None or not schema.is_newer(stream.meta.schema):
            return None
        key = self._keys.meta(stream.meta.stream_id)
        if key in self._unreadable_keys:
            return None
        why = schema.why_newer(key, stream.meta.schema)
        self.unreadable.note(key, why, stream_id=stream.meta.stream_id, newer=True)
        return why

    def _entry_for(self, stream: Checkpoint, path: str) -> str:
        """Return the ``streams:by_path`` field for a new path: the plain one, unless it is another owner's."""
        own, there = _owner_field(path, stream.meta.owner), self._streams.get(self._by_path.get(path, ""))
        is_theirs = there is not None and _owner_name(there.meta.owner) != _owner_name(stream.meta.owner)
        return own if own in self._by_path or is_theirs else path

    def _remove_path_entry(self, stream: Checkpoint) -> None:
        path = stream.meta.current_path
        for name in {path, _owner_field(path, stream.meta.owner)}:
            if self._by_path.get(name) == stream.meta.stream_id:
                del self._by_path[name]


def _owner_name(owner: Owner | None) -> str:
    return owner.name if owner is not None else ""


def _owner_field(path: str, owner: Owner | None) -> str:
    """Return the ``streams:by_path`` field of a stream whose path is another owner's too (``codec.path_field``)."""
    return f"{path}\0{name}" if (name := _owner_name(owner)) else path


def _encodable_parts(parts: Sequence[PartRecord]) -> dict[int, PartRecord]:
    return {part.part_number: codec.decode_part(b"%d" % part.part_number, codec.encode_part(part)) for part in parts}
