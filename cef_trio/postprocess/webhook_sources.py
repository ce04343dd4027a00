"""Which webhooks are pending: of completed recordings, and the events of starts and failures.

``webhooks.py`` delivers what a :class:`Source` names. Each source has a receiver of its own, so one that does not
respond delays no other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

import structlog
from trio_util import AsyncBool

from cef_trio.checkpoint import StreamMeta, rules
from cef_trio.exceptions import S3OperationError
from cef_trio.upload import MAX_METADATA_BYTES, STARTED_EVENT, Services, metadata_key, stream_of

log = structlog.get_logger(__name__)

NO_BODY: Final = "NoBody"
"""Our error code for a delivery that never has a body again, and is to be given up. S3's ``NoSuchKey`` is not one: a
stale replica or a proxy's cache says so of an object that was just written."""
_BATCH: Final = 500
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Pending:
    """A pending delivery."""

    key: str
    """What it is pending as; also the name of its lock."""
    delivery_id: str
    stream_id: str
    since_utc: datetime
    """From when ``WEBHOOK_RETRY_HOURS`` count."""
    body: Callable[[], Awaitable[bytes]]
    """Reads the body, for each attempt. Raises ``S3OperationError`` with ``NO_BODY`` if there never is one again."""


class Source(Protocol):
    """Where the pending webhooks of one receiver are recorded."""

    @property
    def enqueued(self) -> AsyncBool:
        """Set when one was added here."""
        ...

    async def pending(self) -> Mapping[str, Pending]:
        """Return the pending deliveries of this watch folder's streams, by key."""
        ...

    async def is_pending(self, key: str) -> bool:
        """Return whether it is pending still; ask after taking its lock."""
        ...

    async def acknowledge(self, key: str) -> None:
        """Remove it: it was delivered, or delivery has ended."""
        ...


class Completions:
    """Completed recordings. The body is the metadata object, byte for byte."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.enqueued = services.webhook_enqueued

    async def pending(self) -> Mapping[str, Pending]:
        """See :meth:`Source.pending`."""
        metas = await _records(self._services, await self._services.store.pending_webhooks())
        ours = {stream_id: meta for stream_id, meta in metas.items() if self._services.is_ours(meta)}
        return {
            key: Pending(key, f"completed_{key}", key, meta.last_activity_at_utc, partial(self._body, meta))
            for key, meta in ours.items()
        }

    async def is_pending(self, key: str) -> bool:
        """See :meth:`Source.is_pending`."""
        return await self._services.store.is_webhook_pending(key)

    async def acknowledge(self, key: str) -> None:
        """See :meth:`Source.acknowledge`."""
        await self._services.store.ack_webhook(key)

    async def _body(self, meta: StreamMeta) -> bytes:
        """Return the metadata object as it is in S3.

        Raises:
            S3OperationError: it cannot be read now; ``NO_BODY`` if it can never be.
        """
        if meta.s3_bucket != self._services.rules.bucket:
            raise S3OperationError("get_object", f"the metadata is in another bucket, {meta.s3_bucket!r}")
        body = await self._services.s3.get_small_object(metadata_key(meta.s3_key_prefix), max_bytes=MAX_METADATA_BYTES)
        if body is None:
            raise S3OperationError("get_object", "the metadata is too large", code=NO_BODY)
        return body


class Events:
    """Events of one kind (``upload/webhook_events.py``), whose bodies are in Redis."""

    def __init__(self, services: Services, kind: str) -> None:
        self._services = services
        self._kind = kind
        self.enqueued = services.event_enqueued[kind]
        self._was_full = False

    async def pending(self) -> Mapping[str, Pending]:
        """See :meth:`Source.pending`. One whose stream was forgotten belongs to whoever finds it."""
        found = {event_id: stream_of(event_id) for event_id in await self._services.store.pending_events()}
        is_full = len(found) >= (rules.MAX_STARTS if self._kind == STARTED_EVENT else rules.MAX_EVENTS)
        if is_full and not self._was_full:
            log.warning("webhook_events_full", pending=len(found))
        self._was_full = is_full
        streams = {event_id: stream_id for event_id, (kind, stream_id) in found.items() if kind == self._kind}
        metas = await _records(self._services, set(streams.values()))
        found_here: dict[str, Pending] = {}
        for event_id, stream_id in streams.items():
            meta = metas.get(stream_id)
            if meta is None or self._services.is_ours(meta):
                body, since = partial(self._body, event_id), self._since(event_id, meta)
                found_here[event_id] = Pending(event_id, event_id, stream_id, since, body)
        return found_here

    async def is_pending(self, key: str) -> bool:
        """See :meth:`Source.is_pending`."""
        return await self._services.store.pending_event(key) is not None

    async def acknowledge(self, key: str) -> None:
        """See :meth:`Source.acknowledge`."""
        await self._services.store.ack_event(key)

    async def _body(self, event_id: str) -> bytes:
        body = await self._services.store.pending_event(event_id)
        if body is None:
            raise S3OperationError("get_object", "the event is not pending any more", code=NO_BODY)
        return body

    def _since(self, event_id: str, meta: StreamMeta | None) -> datetime:
        if self._kind == STARTED_EVENT:
            return meta.started_at_utc if meta is not None else _LONG_AGO
        milliseconds = event_id.rpartition("_")[2]
        is_time = milliseconds.isascii() and milliseconds.isdigit() and len(milliseconds) <= _MOST_DIGITS
        return datetime.fromtimestamp(int(milliseconds) / 1000, UTC) if is_time else _LONG_AGO


_MOST_DIGITS: Final = 14
"""Of a time in milliseconds, up to the year 5138."""


async def _records(services: Services, stream_ids: Collection[str]) -> Mapping[str, StreamMeta]:
    ids = sorted(stream_ids)
    metas: dict[str, StreamMeta] = {}
    for first in range(0, len(ids), _BATCH):
        found = await services.store.load_metas(ids[first : first + _BATCH])
        metas.update((stream_id, known.meta) for stream_id, known in found.items())
    return metas
