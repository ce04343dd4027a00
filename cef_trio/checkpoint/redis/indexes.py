"""Make the indexes of streams anew from the records, whatever Redis lost of them.

Redis may evict or lose any key, and each key holds a whole index. What is lost is noticed without reading an index:

- ``streams:by_path`` has a field with the number of streams in the four sets (``codec.COUNT_FIELD``), which each script
  keeps that creates or removes a stream. If the sets have another number of members, a set was lost; if there is no
  such field, ``streams:by_path`` was. Then all records are found by SCAN.
- The indexes of the streams of a set have as many members as the set.

A walk is many small calls, one after another, so that neither the server nor this process is busy with it for long, and
what it needs of memory does not grow with the number of streams. Nothing is read while nothing is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, Final, Protocol, TypeVar

import structlog
import trio

from cef_trio.checkpoint.protocols import Records
from cef_trio.checkpoint.redis import codec, scripts
from cef_trio.checkpoint.redis.client import Client, RedisClient, run_script
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.scripts import arguments
from cef_trio.checkpoint.redis.scripts.arguments import Argument
from cef_trio.checkpoint.states import History, StreamSet
from cef_trio.exceptions import RedisOperationError

K = TypeVar("K")
T = TypeVar("T")
log = structlog.get_logger(__name__)

BATCH: Final = 500
"""Streams per script call, which blocks the server for some milliseconds."""
_SETTLED: Final = 100
"""Streams per script call that writes the sets and indexes of each."""
_OVERLAP: Final = 100
_SCANNED: Final = 1000
"""How many keys of the server are looked at in one call."""


class Reader(Protocol):
    """What the indexes need of the store."""

    def sizes(self, client: Client, command: str, keys: Mapping[K, str]) -> dict[K, int]:
        """Return the sizes of sets; one of a wrong type is absent."""
        ...

    def scan_some(self, client: Client, command: str, key: str, *, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """Return the next cursor, 0 at the end, and some members."""
        ...

    def known(self, client: Client, stream_ids: Collection[str]) -> Records:
        """Return the records of these streams."""
        ...

    def latest_with_times(self, client: Client, history: History, skip: int, limit: int) -> Sequence[tuple[str, float]]:
        """Return streams with their times, the latest first."""
        ...


class Indexes:
    """The indexes of one namespace."""

    def __init__(self, redis: RedisClient, keys: Keys, reader: Reader) -> None:
        self._redis = redis
        self._keys = keys
        self._reader = reader
        self._one_at_a_time = trio.Lock()
        self._unmendable: tuple[int, ...] = ()
        """The sizes of sets and indexes that differed after they were mended: they are not walked again."""

    async def mend(self) -> int:
        """Make anew what is lost; return how many streams were looked at.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        async with self._one_at_a_time:
            lost, sizes = await self._call(lambda client: (self.are_lost(client), self._differing(client)))
            found = 0
            if lost:
                found += await self._settle_recorded()
                sizes = await self._call(self._differing)
            found += await self._settle_indexed(sizes)
            added = await self._lead_paths() if lost else 0
            if lost or found:
                await self._call(partial(self._count, store=True))
        if found:
            log.warning("history_mended", streams=found)
        if added:
            log.warning("path_index_rebuilt", key=self._keys.by_path, streams=added)
        return found

    def are_lost(self, client: Client) -> bool:
        """Return whether a set or the index of paths was lost."""
        known, there = self._count(client)
        return known is None or known != there

    def settle(self, client: Client, stream_ids: Sequence[bytes]) -> None:
        """Have streams in their sets and indexes, and in no other; those without a record in none."""
        for start in range(0, len(stream_ids), _SETTLED):
            batch = stream_ids[start : start + _SETTLED]
            keys: list[Any] = [*self._keys.homes, *map(self._meta, batch)]
            run_script(client, scripts.INDEX, keys, [*arguments.statuses_by_set(), *batch])

    def _meta(self, stream_id: bytes) -> bytes:
        return self._keys.meta("\0").encode().replace(b"\0", stream_id)

    def _count(self, client: Client, *, store: bool = False) -> tuple[int | None, int]:
        """Return the number of streams by the field of the index of paths, and by the sets."""
        keys = [self._keys.by_path, *self._keys.sets.values()]
        reply = run_script(client, scripts.COUNT_STREAMS, keys, [codec.COUNT_FIELD, int(store)])
        known, there = reply[1], int(reply[2])
        if known == b"WRONGTYPE":
            return there, there  # it is named, and never replaced
        return (int(known) if known is not None and known.isdigit() else None), there

    async def _call(self, work: Callable[[Client], T]) -> T:
        return await self._redis.call("mend_history", work)

    # ---- sets, and the indexes of their streams --------------------------------------------------------------------

    async def _settle_recorded(self) -> int:
        """Find all records of the namespace, and put their streams into their sets and indexes."""
        beginning, end = self._keys.meta("\0").encode().split(b"\0")
        pattern = b"".join(b"\\" + one if one in b"*?[]\\" else one for one in _bytes_of(beginning)) + b"*" + end
        cursor, number = b"0", 0

        def work(client: Client) -> tuple[bytes, int]:
            _, following, found = run_script(client, scripts.SCAN, [self._keys.by_path], [cursor, pattern, _SCANNED])
            ids = [key[len(beginning) : len(key) - len(end)] for key in found]
            self.settle(client, ids)
            return following, len(ids)

        try:
            while True:
                cursor, some = await self._call(work)
                number += some
                if cursor == b"0":
                    break
        except RedisOperationError as error:
            if not error.rejected:
                raise
            log.warning("records_not_scanned", error=str(error))  # the user may not SCAN: the sets and indexes remain
        return number

    async def _settle_indexed(self, sizes: tuple[int, ...]) -> int:
        """Bring the indexes into line with the sets, if their sizes differ (:meth:`_differing`)."""
        found = 0
        if sizes == self._unmendable:
            return 0
        for command, keys in (("SSCAN", self._ended), ("ZSCAN", self._of_ended)):  # what is missing, what is too much
            if not sizes:
                break
            for key in keys:
                cursor: int | None = 0
                while cursor is not None:
                    work = partial(self._settle_some, command=command, key=key, cursor=cursor)
                    cursor, number = await self._call(work)
                    found += number
            sizes = await self._call(self._differing)
        self._unmendable = sizes
        return found

    @property
    def _ended(self) -> list[str]:
        return [self._keys.set(StreamSet.COMPLETED), self._keys.set(StreamSet.FAILED)]

    @property
    def _of_ended(self) -> list[str]:
        return [*map(self._keys.history, History), self._keys.by_inode, self._keys.by_mtime]

    def _differing(self, client: Client) -> tuple[int, ...]:
        """Return the sizes of the sets and indexes if they differ; empty if not, or if one is of a wrong type."""
        of_sets = self._reader.sizes(client, "SCARD", {key: key for key in self._ended})
        of_indexes = self._reader.sizes(client, "ZCARD", {key: key for key in self._of_ended})
        if len(of_sets) < len(self._ended) or len(of_indexes) < len(self._of_ended):
            return ()
        completed, failed = of_sets.values()
        by_time, failures, deleted, *by_file = of_indexes.values()
        if (by_time, failures + deleted, *by_file) == (completed, failed, completed, completed):
            return ()
        return (*of_sets.values(), *of_indexes.values())

    def _settle_some(self, client: Client, *, command: str, key: str, cursor: int) -> tuple[int | None, int]:
        """Settle some members of a set or index; return the next cursor, ``None`` at the end, and their number."""
        following, members = self._reader.scan_some(client, command, key, cursor=cursor, count=BATCH)
        self.settle(client, members)
        return following or None, len(members)

    # ---- paths -----------------------------------------------------------------------------------------------------

    async def _lead_paths(self) -> int:
        """Lead the paths of all streams to them; return how many entries are new. Entries that exist are kept.

        Of two streams with one path the open one is indexed, else the one that ended last: the first that is written.
        """
        newer: list[tuple[bytes, str, str]] = []
        added = await self._lead_members((StreamSet.ACTIVE, StreamSet.PENDING_COMPLETION), newer)
        pages = {history: _Page() for history in History}
        while True:
            for history, page in pages.items():
                if not page.streams and not page.is_last:
                    await self._call(partial(self._turn, history=history, page=page))
            latest: list[str] = []
            while all(page.streams or page.is_last for page in pages.values()) and len(latest) < BATCH:
                page = max(pages.values(), key=lambda one: one.streams[0][1] if one.streams else -inf)
                if not page.streams:
                    break
                latest.append(page.streams.popleft()[0])
            if not latest:
                break
            added += await self._call(partial(self._lead, ids=latest, newer=newer))
        if sum(page.skip for page in pages.values()) < sum((await self._call(self._sizes_of_ended)).values()):
            added += await self._lead_members((StreamSet.COMPLETED, StreamSet.FAILED), newer)  # an index cannot be read
        # Last, so that the entry of a record that can be read wins: a newer one is only to be found and left alone.
        for start in range(0, len(newer), BATCH):
            added += await self._call(partial(self._write, entries=newer[start : start + BATCH]))
        return added

    def _sizes_of_ended(self, client: Client) -> dict[StreamSet, int]:
        sets = (StreamSet.COMPLETED, StreamSet.FAILED)
        return self._reader.sizes(client, "SCARD", {one: self._keys.set(one) for one in sets})

    def _turn(self, client: Client, *, history: History, page: _Page) -> None:
        """Read the next page of a history, a little before the end of the last one, in case streams were removed."""
        skip = max(0, page.skip - _OVERLAP)
        found = self._reader.latest_with_times(client, history, skip, BATCH)
        page.is_last = len(found) < BATCH
        page.skip = skip + len(found)
        page.streams.extend(found)

    async def _lead_members(self, sets: Sequence[StreamSet], newer: list[tuple[bytes, str, str]]) -> int:
        added = 0
        for stream_set in sets:
            cursor = 0

            def work(client: Client, key: str = self._keys.set(stream_set)) -> tuple[int, int]:
                following, members = self._reader.scan_some(client, "SSCAN", key, cursor=cursor, count=BATCH)  # noqa: B023
                ids = [raw.decode(errors="replace") for raw in members]
                return following, sum(
                    self._lead(client, ids=ids[start : start + BATCH], newer=newer)
                    for start in range(0, len(ids), BATCH)
                )

            while True:
                cursor, number = await self._call(work)
                added += number
                if not cursor:
                    break
        return added

    def _lead(self, client: Client, *, ids: Sequence[str], newer: list[tuple[bytes, str, str]]) -> int:
        known = self._reader.known(client, ids)
        metas = [known[stream_id].meta for stream_id in ids if stream_id in known]
        newer += [
            (one.current_path, one.owner, stream_id)
            for stream_id, one in known.newer.items()
            if one.current_path is not None
        ]
        return self._write(
            client,
            entries=[
                (
                    codec.encode_path(meta.current_path),
                    meta.owner.name if meta.owner is not None else "",
                    meta.stream_id,
                )
                for meta in metas
            ],
        )

    def _write(self, client: Client, *, entries: Sequence[tuple[bytes, str, str]]) -> int:
        """Write entries of path, owner and stream; where a stream of another owner has the path, beside it."""
        if not entries:
            return 0
        paths = [path for path, _, _ in entries]
        there = {
            path: raw.decode(errors="replace")
            for path, raw in zip(paths, client.hmget(self._keys.by_path, paths), strict=True)
            if raw is not None
        }
        records = self._reader.known(client, set(there.values())) if there else Records({}, {}, {})
        owners: dict[str, str] = {}
        for stream_id, summary in records.items():
            owners[stream_id] = summary.meta.owner.name if summary.meta.owner is not None else ""
        for stream_id, one in records.newer.items():
            owners[stream_id] = one.owner
        pairs: list[Argument] = []
        for path, owner, stream_id in entries:
            other = there.get(path)
            if other is None:
                there[path], owners[stream_id] = stream_id, owner
                pairs += [path, stream_id]
            elif other != stream_id and owner and owners.get(other, owner) != owner:
                pairs += [codec.beside(path, owner), stream_id]
        return int(run_script(client, scripts.INDEX_PATHS, [self._keys.by_path], pairs)[1]) if pairs else 0


@dataclass(slots=True)
class _Page:
    """What was read of a history, the latest first."""

    streams: deque[tuple[str, float]] = field(default_factory=deque)
    skip: int = 0
    is_last: bool = False


def _bytes_of(text: bytes) -> Iterator[bytes]:
    return (text[i : i + 1] for i in range(len(text)))
