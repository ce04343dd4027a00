"""The checkpoint store in Redis or Valkey.

Every write is one Lua script (``scripts/``), which checks its conditions, then writes all or nothing. Redis runs one
script at a time, so a daemon whose lease has expired cannot write, and a stream is in exactly one set.

``client.py`` handles time-outs and cancellation, ``errors.py`` maps redis-py's exceptions.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import structlog
from redis.exceptions import InvalidResponse, ResponseError

from cef_trio.checkpoint import rules, schema
from cef_trio.checkpoint.commit import Commit, ExitState, not_allowed
from cef_trio.checkpoint.model import Checkpoint, Lease, PartRecord, StreamMeta, WebhookEvent
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
from cef_trio.checkpoint.redis import codec, scripts
from cef_trio.checkpoint.redis.address import RedisAddress, Topology, parse_address
from cef_trio.checkpoint.redis.client import Client, RedisClient, run_script, run_scripts
from cef_trio.checkpoint.redis.errors import is_of_one_key
from cef_trio.checkpoint.redis.indexes import BATCH as _BATCH
from cef_trio.checkpoint.redis.indexes import Indexes
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.legacy import LegacyStreams
from cef_trio.checkpoint.redis.owner_claim import OwnerClaim
from cef_trio.checkpoint.redis.owners import Owners
from cef_trio.checkpoint.redis.scripts import arguments
from cef_trio.checkpoint.redis.scripts.arguments import Argument
from cef_trio.checkpoint.redis.server_info import UNKNOWN_POLICY, ServerInfo, replicas_in
from cef_trio.checkpoint.redis.verifications import Verifications
from cef_trio.checkpoint.schema import NewerRecord
from cef_trio.checkpoint.states import ENDED, History, Status, StreamSet
from cef_trio.checkpoint.unreadable import UnreadableKeys
from cef_trio.exceptions import RecordUnreadableError, RedisOperationError
from cef_trio.resilience import Retrier

K = TypeVar("K")
T = TypeVar("T")
log = structlog.get_logger(__name__)

_PROBE_MILLISECONDS: Final = 60_000
_RENAMES: Final = 5
"""The most attempts of a rename whose new path keeps changing its stream."""
_LEASE_OF_WRONG_TYPE: Final = b"wrong type"
"""The holder that the scripts return for a lease key of a wrong type."""
_MOST_ALIKE: Final = 100
"""The most completed streams with one inode number, or with one modification time, that are proposed."""
_SCANNED: Final = 1000
"""How many members of a set are read at once where all are."""
_OF_ENDED: Final = frozenset({StreamSet.COMPLETED, StreamSet.FAILED})
"""The sets that grow with the history."""
_MAX_DIGITS: Final = 20
"""No time in milliseconds has as many; thousands of them are no ``int`` or ``float`` at all."""
_INDEXED_FIELDS: Final = frozenset({"identity", "verified_mtime_ns"})
"""The fields of a record that ``keys.by_inode`` and ``keys.by_mtime`` are made of."""


_Call = tuple[scripts.Script, list[str], list[Argument]]
"""A script, its keys and its arguments."""


class RedisCheckpointStore(StreamWrites):
    """A ``CheckpointStore`` in Redis. An async context manager; use it inside.

    ``url``, ``key_prefix`` and ``ca_file`` are as the settings; ``owner`` names the namespace (``keys.py``).
    ``socket_timeout_seconds``, positive and finite, limits a connect and a reply, ``connections`` the concurrent calls.
    ``retrier`` is a single attempt by default. ``read_url`` reads ``REDIS_URL`` again after the server has rejected the
    login; it may return ``None``.

    Raises:
        ValueError: the URL is invalid, or a cluster's prefix has no hash tag. No message contains the password.
    """

    def __init__(
        self,
        url: str,
        *,
        key_prefix: str = "",
        owner: str = "",
        ca_file: Path | None = None,
        socket_timeout_seconds: float = 1.0,
        connections: int = 8,
        retrier: Retrier | None = None,
        read_url: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self._read_url = read_url
        self.keys = Keys(key_prefix, owner)
        self.unreadable = UnreadableKeys()
        self._redis = RedisClient(
            parse_address(url),
            home_key=self.keys.by_path,
            ca_file=ca_file,
            socket_timeout_seconds=socket_timeout_seconds,
            connections=connections,
            retrier=retrier,
        )
        self._indexes = Indexes(self._redis, self.keys, self)
        if self.address.topology is Topology.CLUSTER and not self.keys.hash_tag:
            raise ValueError(
                "with a Redis cluster all keys of an owner must be in one slot, by a hash tag: REDIS_KEY_PREFIX must "
                f"not hold an empty one, '{{}}'; it is {key_prefix!r}"
            )

    @property
    def address(self) -> RedisAddress:
        """The server's address; its ``str`` has no password."""
        return self._redis.address

    @property
    def legacy(self) -> LegacyStreams:
        """The streams at the keys of earlier versions."""
        in_cluster = self.address.topology is Topology.CLUSTER
        return LegacyStreams(self._redis, Keys(self.keys.base), self.keys, in_cluster=in_cluster)

    @property
    def owners(self) -> Owners:
        """All owners behind the same key prefix."""
        return Owners(self._redis, self.keys, self.unreadable)

    @property
    def verifications(self) -> Verifications:
        """When the owner's objects were last verified."""
        return Verifications(self._redis, self.keys, self._unless_wrong_type)

    def owner_claim(self, lease: Lease, host: str, *, exclusive: bool) -> OwnerClaim:
        """Return the claim of the owner's name by the running system of a lease (:class:`OwnerClaim`)."""
        return OwnerClaim(self._redis, self.keys, lease, host, exclusive=exclusive)

    def renew_login(self, url: str) -> None:
        """Use the credentials of a URL from now on; ignore a URL of another server.

        Raises:
            ValueError: the URL is invalid.
        """
        address = parse_address(url)
        if address.differs_in_login_only(self.address):
            self._redis.log_in_as(address)
            log.info("credentials_renewed", service="redis")

    def renew_connections(self) -> None:
        """Have later calls open new connections."""
        self._redis.renew_connections()

    async def __aenter__(self) -> Self:
        """Return self; the first call connects, under its own retries."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close the sockets without a checkpoint. A call in progress ends within its time-out."""
        self._redis.close()

    # ---- reading ---------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Send PING to the server that has our keys. A server that cannot save to its disk replies MISCONF."""

        def work(client: Client) -> None:
            if self._redis.command(client, "PING") is not True:
                raise InvalidResponse("to PING")

        await self._redis.call("ping", work)

    async def check_writable(self) -> None:
        """Write the probe key by a script on a new connection, as all writes are made; renew a rejected login first."""
        if self._redis.refused and self._read_url is not None:
            url = await self._read_url()
            try:
                if url is not None:
                    self.renew_login(url)
            except ValueError as error:
                # It stays refused, so that the next check reads the corrected one.
                log.warning("credentials_not_read", error=str(error))
            else:
                self._redis.refused = False
        self._redis.renew_connections()
        await self._redis.call(
            "check_writable",
            lambda client: run_script(
                client, scripts.PROBE, [self.keys.probe, self.keys.absent], [_PROBE_MILLISECONDS]
            ),
        )

    async def info(self) -> ServerInfo:
        """Return the properties of the server."""

        def work(client: Client) -> ServerInfo:
            values = self._redis.command(client, "INFO")
            return ServerInfo(
                product="valkey" if "valkey_version" in values else "redis",
                version=str(values.get("valkey_version", values.get("redis_version", "unknown"))),
                append_only=bool(values.get("aof_enabled")),
                last_save_ok="err" not in (values.get("rdb_last_bgsave_status"), values.get("aof_last_write_status")),
                eviction_policy=str(values.get("maxmemory_policy", UNKNOWN_POLICY)),
                max_memory_bytes=int(values.get("maxmemory", 0)),
                is_replica=values.get("role") == "slave",
                append_fsync=self._setting(client, "appendfsync"),
                save=self._setting(client, "save"),
                used_memory_bytes=int(values.get("used_memory", 0)),
                system_memory_bytes=int(values.get("total_system_memory", 0)),
                replicas=replicas_in(values),
                min_replicas_to_write=_number(self._setting(client, "min-replicas-to-write")),
                min_replicas_max_lag_seconds=_number(self._setting(client, "min-replicas-max-lag")),
            )

        return await self._redis.call("info", work)

    async def load(self, stream_id: str) -> Checkpoint | None:
        """See :meth:`StreamStore.load`."""
        keys = [*self.keys.sets.values(), self.keys.meta(stream_id), self.keys.parts(stream_id)]

        def work(client: Client) -> Checkpoint | None:
            _, [(home, meta, parts)] = run_script(client, scripts.LOAD, keys, ["", stream_id])
            known = self._decode(stream_id, home, meta)
            if isinstance(known, NewerRecord):
                raise RecordUnreadableError("load", schema.why_newer(self.keys.meta(stream_id), known.schema))
            if isinstance(known, str):
                raise RecordUnreadableError("load", known)
            if known is None:
                return None
            return Checkpoint(known.meta, known.stream_set, self._decode_parts(stream_id, parts))

        return await self._redis.call("load", work)

    async def load_metas(self, stream_ids: Collection[str], *, below: str = "") -> Records:
        """See :meth:`StreamStore.load_metas`. One round trip for each 500."""
        return await self._redis.call("load_metas", lambda client: self.known(client, stream_ids, below=below))

    async def members(self, stream_set: StreamSet) -> frozenset[str]:
        """See :meth:`StreamStore.members`. The open streams in one step, the ended ones in a call for each 1,000."""
        key = self.keys.set(stream_set)
        if stream_set not in _OF_ENDED:
            return await self._redis.call("members", lambda client: self._members(client, key))
        # One reply with millions of ids would stop the server for all daemons, and be later than the time-out.
        return await self._redis.call("members", lambda client: frozenset(self._scan(client, "SSCAN", key, "*")))

    async def count(self) -> Mapping[StreamSet, int]:
        """See :meth:`StreamStore.count`."""
        keys = {stream_set: self.keys.set(stream_set) for stream_set in StreamSet}
        return await self._redis.call("count", lambda client: self.sizes(client, "SCARD", keys))

    async def is_persistent(self) -> bool:
        """See :meth:`StreamStore.is_persistent`."""
        return await self._redis.call(
            "is_persistent", lambda client: bool(self._redis.command(client, "INFO", "persistence").get("aof_enabled"))
        )

    async def find_by_path(self, paths: Collection[str], *, owner: Callable[[str], str] = nobody) -> Records:
        """See :meth:`StreamStore.find_by_path`. Two round trips for each 500."""
        owners = {path: owner(path) for path in paths}

        def work(client: Client) -> tuple[Records, bool]:
            are_found: set[str] = set()
            found: dict[str, StreamSummary] = {}
            unreadable: dict[str, str] = {}
            newer: dict[str, NewerRecord] = {}
            for batch in _batches(paths):
                fields = [(path, codec.path_field(path)) for path in batch]
                # The owner's own field comes last, and wins.
                fields += [(path, codec.path_field(path, owners[path])) for path in batch if owners[path]]
                raw = self._ids_at(client, [name for _, name in fields])
                ids = {
                    path: value.decode(errors="replace")
                    for (path, _), value in zip(fields, raw, strict=True)
                    if value is not None
                }
                are_found.update(ids)
                known = self.known(client, set(ids.values()))
                found.update((path, known[stream_id]) for path, stream_id in ids.items() if stream_id in known)
                why = known.unreadable
                unreadable.update((path, why[stream_id]) for path, stream_id in ids.items() if stream_id in why)
                newer.update((path, known.newer[one]) for path, one in ids.items() if one in known.newer)
            missing = any(path not in are_found for path in paths)
            return Records(found, unreadable, newer), missing and self._indexes.are_lost(client)

        records, are_lost = await self._redis.call("find_by_path", work)
        if are_lost:
            await self._indexes.mend()
            records, _ = await self._redis.call("find_by_path", work)
        return records

    async def ids_beginning_with(self, beginning: str) -> frozenset[str]:
        """See :meth:`StreamStore.ids_beginning_with`. One round trip for each 1,000 ids that there are."""
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", beginning) + "*"

        def work(client: Client) -> frozenset[str]:
            if beginning in self.known(client, [beginning]):
                return frozenset({beginning})
            found: set[str] = set()
            for key in self.keys.sets.values():
                found.update(self._scan(client, "SSCAN", key, pattern))
            return frozenset(found)

        return await self._redis.call("ids_beginning_with", work)

    # ---- history ---------------------------------------------------------------------------------------------------

    async def count_ended(self) -> Mapping[History, int]:
        """See :meth:`StreamHistory.count_ended`."""
        keys = {history: self.keys.history(history) for history in History}
        return await self._redis.call("count_ended", lambda client: self.sizes(client, "ZCARD", keys))

    async def ended(
        self, history: History, *, since_ms: int = 0, before_ms: int, skip: int = 0, limit: int = 500
    ) -> Sequence[tuple[str, int]]:
        """See :meth:`StreamHistory.ended`."""
        key, before = self.keys.history(history), f"({before_ms}"

        def work(client: Client) -> Sequence[tuple[str, int]]:
            found = self._unless_wrong_type(
                key, lambda: client.zrangebyscore(key, since_ms, before, start=skip, num=limit, withscores=True)
            )
            return [(raw.decode(errors="replace"), int(score)) for raw, score in found or ()]

        return await self._redis.call("ended", work)

    async def latest(self, history: History, limit: int) -> Sequence[str]:
        """See :meth:`StreamHistory.latest`."""
        if limit <= 0:
            return []
        found = await self._redis.call("latest", lambda client: self.latest_with_times(client, history, 0, limit))
        return [stream_id for stream_id, _ in found]

    def latest_with_times(self, client: Client, history: History, skip: int, limit: int) -> Sequence[tuple[str, float]]:
        """Return streams of a history with their times, the latest first."""
        key = self.keys.history(history)
        found = self._unless_wrong_type(key, lambda: client.zrevrange(key, skip, skip + limit - 1, withscores=True))
        return [(raw.decode(errors="replace"), at_ms) for raw, at_ms in found or ()]

    async def date(self, history: History, stream_id: str, at_ms: int) -> None:
        """See :meth:`StreamHistory.date`."""
        key = self.keys.history(history)
        await self._redis.call(
            "date",
            lambda client: self._unless_wrong_type(key, lambda: client.zadd(key, {stream_id: at_ms}, xx=True)),
        )

    async def completed_like(self, inodes: Collection[int], mtimes_ns: Collection[int]) -> frozenset[str]:
        """See :meth:`StreamHistory.completed_like`. One round trip for each 500 numbers."""
        asked = [(self.keys.by_inode, number) for number in inodes] + [(self.keys.by_mtime, at) for at in mtimes_ns]

        def work(client: Client) -> frozenset[str]:
            found: set[str] = set()
            for start in range(0, len(asked), _BATCH):
                batch = asked[start : start + _BATCH]
                with client.pipeline(transaction=False) as pipeline:
                    for key, number in batch:
                        pipeline.zrangebyscore(key, number, number, start=0, num=_MOST_ALIKE)
                    replies = pipeline.execute(raise_on_error=False)
                for (key, _), reply in zip(batch, replies, strict=True):
                    self._check_type(key, reply)
                    found.update(_text(raw) for raw in (reply if isinstance(reply, list) else ()))
            return frozenset(found)

        return await self._redis.call("completed_like", work)

    async def mend_history(self) -> int:
        """See :meth:`StreamHistory.mend_history`. One call for each 500 streams, so that others come in between."""
        return await self._indexes.mend()

    # ---- leases ----------------------------------------------------------------------------------------------------

    async def acquire(self, stream_id: str, lease: Lease) -> bool:
        """See :meth:`LeaseStore.acquire`."""
        given: list[Argument] = [lease.value, lease.holder, arguments.milliseconds(lease), stream_id]

        def work(client: Client) -> bool:
            key = self.keys.lease(stream_id)
            reply, *holder = run_script(client, scripts.ACQUIRE, [key, self.keys.leases], given)
            odd = holder == [_LEASE_OF_WRONG_TYPE]
            self.unreadable.note(key, f"{key} is of a wrong type" if odd else None, stream_id=stream_id)
            return bool(reply == b"ok")

        return await self._redis.call("acquire", work)

    async def renew(self, stream_ids: Collection[str], lease: Lease) -> frozenset[str]:
        """See :meth:`LeaseStore.renew`. One round trip for each 500."""

        def work(client: Client) -> frozenset[str]:
            lost: set[str] = set()
            for batch in _batches(stream_ids):
                _, positions = run_script(client, *self._renewal(batch, lease))
                lost.update(batch[position - 1] for position in positions)
            return frozenset(lost)

        return await self._redis.call("renew", work)

    async def beat(self, beat: Beat) -> BeatReply:
        """See :meth:`HeartbeatStore.beat`."""
        batches = list(_batches(beat.renewed_ids))
        calls = [self._renewal(batch, beat.lease) for batch in batches]
        if beat.expired_since_ms is not None:
            calls.append(self._question(beat.expired_since_ms, beat.lease.ending_ms))
        # In a cluster the registry may be on another node, which must not delay the rest.
        if beat.report is not None and self.address.topology is not Topology.CLUSTER:
            calls.append(self._report(*beat.report))

        def work(client: Client) -> BeatReply:
            replies = run_scripts(client, calls)
            by_script = {script: reply for (script, _, _), reply in zip(calls, replies, strict=True)}
            renewals, lost = replies[: len(batches)], set[str]()
            for batch, reply in zip(batches, renewals, strict=True):
                if not isinstance(reply, Exception):
                    lost.update(batch[position - 1] for position in reply[1])
            renewed = bool(batches) and not any(isinstance(reply, Exception) for reply in renewals)
            expired, reports = by_script.get(scripts.EXPIRED), by_script.get(scripts.REPORT)
            return BeatReply(
                lost=frozenset(lost) if renewed else None,
                expired=self._expired(client, expired) if isinstance(expired, list) else None,
                reports=self._stored_reports(reports) if isinstance(reports, list) else None,
            )

        return await self._redis.call("beat", work)

    def _renewal(self, batch: Sequence[str], lease: Lease) -> _Call:
        keys = [self.keys.leases, *map(self.keys.lease, batch)]
        return scripts.RENEW, keys, [lease.value, arguments.milliseconds(lease), *batch]

    def _question(self, since_ms: int, ahead_ms: int) -> _Call:
        opened = [self.keys.set(StreamSet.ACTIVE), self.keys.set(StreamSet.PENDING_COMPLETION)]
        return scripts.EXPIRED, [self.keys.leases, *opened, self.keys.abort_requests], [since_ms, ahead_ms]

    def _expired(self, client: Client, reply: Sequence[Any]) -> Expired:
        _, at_ms, ends, strays, aborts = reply
        self._indexes.settle(client, strays)
        key, is_odd = self.keys.leases, isinstance(ends, bytes)
        self.unreadable.note(key, f"{key} is of a wrong type" if is_odd else None)
        ends_ms = {} if is_odd else {_text(one): int(float(end)) for one, end in _pairs(ends).items()}
        return Expired(ends_ms, int(at_ms), frozenset(map(_text, aborts)))

    async def release(self, stream_ids: Collection[str], lease: Lease) -> None:
        """See :meth:`LeaseStore.release`."""

        def work(client: Client) -> None:
            for batch in _batches(stream_ids):
                keys = [self.keys.leases, *map(self.keys.lease, batch)]
                run_script(client, scripts.RELEASE, keys, [lease.value, *batch])

        await self._redis.call("release", work)

    async def expired(self, since_ms: int, ahead_ms: int = 0) -> Expired:
        """See :meth:`LeaseStore.expired`."""
        return await self._redis.call(
            "expired", lambda client: self._expired(client, run_script(client, *self._question(since_ms, ahead_ms)))
        )

    async def holders(self, stream_ids: Collection[str]) -> Mapping[str, str]:
        """See :meth:`LeaseStore.holders`. One round trip for each 500."""

        def work(client: Client) -> Mapping[str, str]:
            found: dict[str, str] = {}
            for batch in _batches(stream_ids):
                raw = client.mget([self.keys.lease(stream_id) for stream_id in batch])
                held = ((key, value) for key, value in zip(batch, raw, strict=True) if value is not None)
                found.update((key, value.decode(errors="replace")) for key, value in held)
            return found

        return await self._redis.call("holders", work)

    # ---- writing ---------------------------------------------------------------------------------------------------

    async def raise_schema(self) -> int | None:
        """See :meth:`StreamStore.raise_schema`."""
        key = self.keys.schema

        def work(client: Client) -> int | None:
            try:
                _, before = run_script(client, scripts.RAISE_SCHEMA, [key], [])
            except ResponseError as error:
                self._check_type(key, error)
                return None
            try:
                found = schema.parse(before.decode(errors="replace")) if before else None
            except ValueError as error:
                self.unreadable.note(key, f"{key} {error}: {before[:80]!r}")
                return None
            self.unreadable.note(key, None)
            return found

        return await self._redis.call("raise_schema", work)

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
        fields = codec.encode_meta(replace(meta, schema=schema.CURRENT))
        fields["next_part_to_upload"] = b"%d" % max(meta.next_part_to_upload, rules.next_part_number(parts))
        keys = [*self._keys_of(meta.stream_id), self.keys.by_path, *self.keys.homes, self.keys.webhook_events]
        before: list[Argument] = [
            lease.value,
            lease.holder,
            arguments.milliseconds(lease),
            meta.stream_id,
            codec.encode_path(meta.current_path),
            arguments.set_number(rules.default_set(meta.status)),
            replaced_stream_id or "",
        ]
        following: list[Argument] = [
            meta.owner.name if meta.owner is not None else "",
            other_owner_stream_id or "",
            *arguments.of_event(event),
            *arguments.of_fields(fields),
            *arguments.of_parts(() if meta.status is Status.COMPLETED else parts),
        ]

        def work(client: Client) -> Sequence[bytes]:
            reply: Sequence[bytes] = run_script(client, scripts.CREATE, keys, [*before, "", *following])
            if reply[0] != b"taken":
                return reply
            # The script needs the record's key of the stream that has the path: that record may be lost.
            there = reply[1].decode(errors="replace")
            again: Sequence[bytes] = run_script(
                client, scripts.CREATE, [*keys, self.keys.meta(there)], [*before, there, *following]
            )
            return again

        self._raise_unless_ok("create", meta.stream_id, await self._redis.call("create", work))

    async def _commit(self, stream_id: str, lease: Lease, commit: Commit) -> None:
        keys = [*self._keys_of(stream_id), self.keys.by_path]
        if commit.status is not None or commit.fields.keys() & _INDEXED_FIELDS:
            keys += [*self.keys.homes, self.keys.pending_webhooks, self.keys.abort_requests]
            keys.append(self.keys.webhook_events)
        given = list(arguments.of_commit(stream_id, lease, commit))

        def work(client: Client) -> Sequence[bytes]:
            reply: Sequence[bytes] = run_script(client, scripts.COMMIT, keys, given)
            for _ in range(_RENAMES):
                if reply[0] != b"taken":
                    break
                # The script needs the record's key of the stream that has the path: that record names its owner.
                there = reply[1].decode(errors="replace")
                again = list(arguments.of_commit(stream_id, lease, commit, there))
                reply = run_script(client, scripts.COMMIT, [*keys, self.keys.meta(there)], again)
            return reply

        def on_readable_record(client: Client) -> Sequence[bytes]:
            try:
                return work(client)
            except ResponseError as error:
                if not is_of_one_key(error):
                    raise
                odd = f"{self.keys.meta(stream_id)} or a key beside it is of a wrong type ({error})"
                raise RecordUnreadableError(commit.operation, odd) from error

        reply = await self._redis.call(commit.operation, on_readable_record)
        self._raise_unless_ok(commit.operation, stream_id, reply, commit.status)

    async def save_interrupted(self, exit_states: Sequence[ExitState], lease: Lease) -> frozenset[str]:
        """See :meth:`StreamStore.save_interrupted`."""
        rules.check_exit_states(exit_states)
        keys = [self.keys.leases]
        keys += [key for exit_state in exit_states for key in self._keys_of(exit_state.stream_id)[:2]]
        given: list[Argument] = [lease.value, Status.S3_COMPLETED.value, arguments.words(rules.INTERRUPTIBLE)]
        for exit_state in exit_states:
            given += [exit_state.status.value, codec.encode_time(exit_state.at_utc), exit_state.stream_id]

        def work(client: Client) -> frozenset[str]:
            _, positions = run_script(client, scripts.SAVE_INTERRUPTED, keys, given)
            return frozenset(exit_states[position - 1].stream_id for position in positions)

        return await self._redis.call("save_interrupted", work)

    async def pending_webhooks(self) -> frozenset[str]:
        """See :meth:`WebhookOutbox.pending_webhooks`."""
        return await self._redis.call(
            "pending_webhooks", lambda client: self._members(client, self.keys.pending_webhooks)
        )

    async def is_webhook_pending(self, stream_id: str) -> bool:
        """See :meth:`WebhookOutbox.is_webhook_pending`."""
        return await self._redis.call(
            "is_webhook_pending", lambda client: bool(client.sismember(self.keys.pending_webhooks, stream_id))
        )

    async def ack_webhook(self, stream_id: str) -> None:
        """See :meth:`WebhookOutbox.ack_webhook`."""
        await self._redis.call("ack_webhook", lambda client: client.srem(self.keys.pending_webhooks, stream_id))

    async def pending_events(self) -> frozenset[str]:
        """See :meth:`WebhookOutbox.pending_events`."""
        key = self.keys.webhook_events

        def work(client: Client) -> frozenset[str]:
            return frozenset(map(_text, self._unless_wrong_type(key, lambda: client.hkeys(key)) or ()))

        return await self._redis.call("pending_events", work)

    async def pending_event(self, event_id: str) -> bytes | None:
        """See :meth:`WebhookOutbox.pending_event`."""

        def work(client: Client) -> bytes | None:
            body: bytes | None = client.hget(self.keys.webhook_events, event_id)
            return body

        return await self._redis.call("pending_event", work)

    async def ack_event(self, event_id: str) -> None:
        """See :meth:`WebhookOutbox.ack_event`."""
        await self._redis.call("ack_event", lambda client: client.hdel(self.keys.webhook_events, event_id))

    async def request_abort(self, stream_ids: Collection[str]) -> frozenset[str]:
        """See :meth:`AbortRequests.request_abort`."""

        def work(client: Client) -> frozenset[str]:
            requested: set[str] = set()
            for batch in _batches(stream_ids):
                keys = [self.keys.abort_requests, *map(self.keys.meta, batch)]
                _, positions = run_script(client, scripts.REQUEST_ABORT, keys, [arguments.words(ENDED), *batch])
                requested.update(batch[position - 1] for position in positions)
            return frozenset(requested)

        return await self._redis.call("request_abort", work)

    async def abort_requests(self) -> frozenset[str]:
        """See :meth:`AbortRequests.abort_requests`."""
        return await self._redis.call("abort_requests", lambda client: self._members(client, self.keys.abort_requests))

    async def withdraw_aborts(self, stream_ids: Collection[str]) -> None:
        """See :meth:`AbortRequests.withdraw_aborts`."""
        if stream_ids:
            await self._redis.call("withdraw_aborts", lambda client: client.srem(self.keys.abort_requests, *stream_ids))

    async def report(self, name: str, text: str, *, beginning: str) -> StoredReports:
        """See :meth:`DaemonRegistry.report`."""
        return await self._redis.call(
            "report", lambda client: self._stored_reports(run_script(client, *self._report(name, text, beginning)))
        )

    def _report(self, name: str, text: str, beginning: str) -> _Call:
        given: list[Argument] = [
            codec.encode_path(name),
            text.encode("utf-8", "surrogateescape"),
            int(rules.REPORT_SECONDS * 1000),
            rules.MAX_REPORTS,
            codec.encode_path(beginning),
        ]
        return scripts.REPORT, self._registry_keys, given

    async def reports(self, *, beginning: str = "") -> StoredReports:
        """See :meth:`DaemonRegistry.reports`."""
        given: list[Argument] = [codec.encode_path(beginning)]
        return await self._redis.call(
            "reports",
            lambda client: self._stored_reports(run_script(client, scripts.REPORTS, self._registry_keys, given)),
        )

    def _stored_reports(self, reply: Sequence[Any]) -> StoredReports:
        _, now, found = reply
        for position, key in enumerate(self._registry_keys, 1):
            self.unreadable.note(key, f"{key} is of a wrong type" if found == position else None)
        reports = {} if isinstance(found, int) else _pairs(found)
        return StoredReports(
            {name.decode(errors="replace"): _stored_report(entry) for name, entry in reports.items()}, int(now) / 1000
        )

    async def forget_reports(self, names: Collection[str]) -> None:
        """See :meth:`DaemonRegistry.forget_reports`."""
        given: list[Argument] = [codec.encode_path(name) for name in names]
        await self._redis.call(
            "forget_reports", lambda client: run_script(client, scripts.FORGET_REPORTS, self._registry_keys, given)
        )

    async def forget(self, stream_id: str) -> None:
        """See :meth:`StreamStore.forget`."""
        keys = [*self._keys_of(stream_id), self.keys.by_path, *self.keys.homes]
        keys += [self.keys.pending_webhooks, self.keys.abort_requests]
        given: list[Argument] = [stream_id, arguments.words(ENDED)]
        await self._redis.call("forget", lambda client: run_script(client, scripts.FORGET, keys, given))

    # ---- steps of the calls ------------------------------------------------------------------

    def _raise_unless_ok(
        self, operation: str, stream_id: str, reply: Sequence[bytes], following: Status | None = None
    ) -> None:
        match reply:
            case [b"ok"]:
                return
            case [b"lost", holder]:
                raise rules.lease_lost(stream_id, holder.decode(errors="replace") or None)
            case [b"newer", raw]:
                key = self.keys.meta(stream_id)
                error = rules.record_newer(operation, key, raw.decode(errors="replace"))
                self.unreadable.note(key, str(error), stream_id=stream_id, newer=True)
                raise error
            case [b"gone"]:
                raise rules.record_gone(stream_id)
            case [b"taken", there]:
                raise rules.path_taken(stream_id, there.decode(errors="replace"))
            case [b"refused", raw] if following is not None:
                try:
                    current = Status(raw.decode())
                except ValueError as error:
                    key = self.keys.meta(stream_id)
                    raise RedisOperationError(operation, f"{key} field 'status' cannot be read: {raw!r}") from error
                raise not_allowed(stream_id, current, following)
        raise RedisOperationError(operation, f"the script replied {reply!r}")

    def _setting(self, client: Client, name: str) -> str | None:
        """Return a setting of the server; ``None`` if CONFIG is not allowed, as on many hosted servers."""
        try:
            reply = self._redis.command(client, "CONFIG GET", name)
        except ResponseError:
            return None
        values = {_text(key): _text(value) for key, value in dict(reply).items()}
        return values.get(name)

    def _keys_of(self, stream_id: str) -> list[str]:
        return [self.keys.lease(stream_id), self.keys.meta(stream_id), self.keys.parts(stream_id)]

    @property
    def _registry_keys(self) -> list[str]:
        return [self.keys.daemons, self.keys.daemons_seen, self.keys.daemons_by_name]

    def _members(self, client: Client, key: str) -> frozenset[str]:
        members = self._unless_wrong_type(key, lambda: client.smembers(key))
        # A member that is not UTF-8 is no stream id; it has no record.
        return frozenset(raw.decode(errors="replace") for raw in members or ())

    def sizes(self, client: Client, command: str, keys: Mapping[K, str]) -> dict[K, int]:
        """Return the sizes of these sets; one of a wrong type is absent."""
        with client.pipeline(transaction=False) as pipeline:
            for key in keys.values():
                pipeline.execute_command(command, key)
            replies = dict(zip(keys, pipeline.execute(raise_on_error=False), strict=True))
        for name, reply in replies.items():
            self._check_type(keys[name], reply)
        return {name: reply for name, reply in replies.items() if isinstance(reply, int)}

    def _scan(self, client: Client, command: str, key: str, pattern: str) -> Iterator[str]:
        """Return the members of a set (SSCAN) that match, in many small calls."""
        cursor: int | None = 0
        while cursor is not None:
            following, members = self.scan_some(client, command, key, cursor=cursor, pattern=pattern)
            yield from map(_text, members)
            cursor = following or None

    def scan_some(
        self, client: Client, command: str, key: str, *, cursor: int, pattern: str = "*", count: int = _SCANNED
    ) -> tuple[int, list[bytes]]:
        """Return the next cursor, 0 at the end, and some members of a set (SSCAN) or sorted set (ZSCAN)."""
        given = (command, key, cursor, "MATCH", pattern, "COUNT", count)
        reply = self._unless_wrong_type(key, partial(client.execute_command, *given))
        if reply is None:
            return 0, []
        return int(reply[0]), [one[0] if isinstance(one, tuple) else one for one in reply[1]]

    def _unless_wrong_type(self, key: str, call: Callable[[], T]) -> T | None:
        """Return the reply; ``None`` if the key is of a wrong type, which is noted."""
        try:
            reply = call()
        except ResponseError as error:
            self._check_type(key, error)
            return None
        self._check_type(key, None)
        return reply

    def _ids_at(self, client: Client, fields: Sequence[bytes]) -> Sequence[bytes | None]:
        key = self.keys.by_path
        try:
            found: list[bytes | None] = client.hmget(key, list(fields))
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            why = f"{key} is of a wrong type, and is to be a hash"
            self.unreadable.note(key, why)
            hint = f"`redis-cli RENAME {key} {key}.broken`, and it is made anew from the records"
            raise RedisOperationError("find_by_path", f"{why}: no file can be looked up; {hint}") from error
        self.unreadable.note(key, None)
        return found

    async def check_types(self) -> None:
        """Note which of the keys that are not of one stream are of a wrong type.

        Raises:
            RedisOperationError: Redis cannot be read.
        """

        def work(client: Client) -> None:
            # Not TYPE, for which the daemon needs no permission.
            read = {"set": client.scard, "zset": client.zcard, "hash": client.hlen, "string": client.get}
            for key, kind in self.keys.types.items():
                self._unless_wrong_type(key, partial(read[kind], key))

        await self._redis.call("check_types", work)

    def _check_type(self, key: str, reply: object) -> None:
        """Note whether that key can be read.

        Raises:
            ResponseError: the reply is an error of another kind.
        """
        if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
            raise reply
        self.unreadable.note(key, f"{key} is of a wrong type" if isinstance(reply, Exception) else None)

    def known(self, client: Client, stream_ids: Collection[str], *, below: str = "") -> Records:
        """Return the records of these streams, in a call: :meth:`load_metas`."""
        beginning = codec.encode_path(f"{below.rstrip('/')}/") if below else b""
        known: dict[str, StreamSummary] = {}
        unreadable: dict[str, str] = {}
        newer: dict[str, NewerRecord] = {}
        for batch in _batches(stream_ids):
            keys = [*self.keys.sets.values(), *(self.keys.meta(stream_id) for stream_id in batch)]
            _, found = run_script(client, scripts.LOAD, keys, [beginning, *batch])
            for stream_id, (home, meta, *_) in zip(batch, found, strict=True):
                one = self._decode(stream_id, home, meta)
                if isinstance(one, NewerRecord):
                    unreadable[stream_id] = schema.why_newer(self.keys.meta(stream_id), one.schema)
                    newer[stream_id] = one
                elif isinstance(one, str):
                    unreadable[stream_id] = one
                elif one is not None:
                    known[stream_id] = one
        if newer:
            holders = client.mget([self.keys.lease(stream_id) for stream_id in newer])
            for stream_id, holder in zip(tuple(newer), holders, strict=True):
                newer[stream_id] = replace(newer[stream_id], holder=holder and holder.decode(errors="replace"))
        return Records(known, unreadable, newer)

    def _decode(
        self, stream_id: str, home: int, raw: bytes | Sequence[bytes]
    ) -> StreamSummary | NewerRecord | str | None:
        """Return the record, or why it cannot be read, or ``None`` if there is none. Note the outcome."""
        key, known, why = self.keys.meta(stream_id), None, None
        newer: NewerRecord | None = None
        if isinstance(raw, bytes):
            why = f"{key} is no hash"
        elif raw:
            try:
                meta = codec.decode_meta(_pairs(raw), of=stream_id)
            except codec.NewerSchemaError as error:
                why = schema.why_newer(key, error.schema)
                newer = codec.of_newer(_pairs(raw), arguments.SETS[home - 1] if home else None)
            except codec.CorruptFieldError as error:
                why = f"{key} {error}"
            else:
                known = StreamSummary(meta, arguments.SETS[home - 1] if home else rules.default_set(meta.status))
        self.unreadable.note(key, why, stream_id=stream_id, newer=newer is not None)
        return known or newer or why

    def _decode_parts(self, stream_id: str, raw: bytes | Sequence[bytes]) -> dict[int, PartRecord]:
        key, why = self.keys.parts(stream_id), None
        parts: list[PartRecord] = []
        if isinstance(raw, bytes):
            why = f"{key} is no hash"
        else:
            try:
                parts = [codec.decode_part(number, value) for number, value in _pairs(raw).items()]
            except codec.CorruptFieldError as error:
                why = f"{key} {error}"
        self.unreadable.note(key, why, stream_id=stream_id)
        if why is not None:
            raise RecordUnreadableError("load", why)
        return {part.part_number: part for part in sorted(parts, key=lambda part: part.part_number)}


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _number(setting: str | None) -> int | None:
    return int(setting) if setting is not None and setting.isdigit() else None


def _stored_report(entry: bytes) -> StoredReport:
    """Decode an entry of the registry; one that no daemon wrote counts as received long ago."""
    milliseconds, _, text = entry.partition(b" ")
    is_time = milliseconds.isdigit() and len(milliseconds) < _MAX_DIGITS
    received_at = int(milliseconds) / 1000 if is_time else 0.0
    return StoredReport(text.decode(errors="replace"), received_at)


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _batches(items: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(items)
    while batch := list(islice(remaining, _BATCH)):
        yield batch
