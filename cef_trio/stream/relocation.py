"""Recordings that got another name while no daemon looked.

While a daemon runs, a rename is news that it follows. One that happened while it was away is seen as two things: a
stream whose file is gone, and a file that Redis does not know. The inode tells that they are one (``recovery.resume``
then makes sure, by the inode's generation, the first bytes and the parts). Without that, every part of the recording
would be sent again, though it was recorded and did not change (promise P2).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from cef_trio.checkpoint.states import StreamSet
from cef_trio.checkpoint.store import KnownPath
from cef_trio.exceptions import ChunkProcessingError
from cef_trio.recording import FileStat
from cef_trio.stream import lookup
from cef_trio.stream.after_upload_rules import is_below
from cef_trio.stream.services import Services

log = structlog.get_logger(__name__)


class RelocatedStreams:
    """Open streams whose files are not where they were, by inode, until their files are found."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._by_inode: dict[tuple[int, int], KnownPath] = {}

    async def look(self, live_ids: Callable[[], frozenset[str]]) -> None:
        """Find them anew: those that nobody works on and at whose path there is no such file.

        Raises:
            RedisOperationError: Redis cannot be asked.
            ChunkProcessingError: a folder below the watched one cannot be looked into now. Any other that cannot, and
                one that may not be, is passed over: it is another daemon's, and must not keep our recordings waiting.
        """
        store, watched = self._services.store, self._services.rules.watch_folder
        ids = await store.members(StreamSet.ACTIVE) | await store.members(StreamSet.PENDING_COMPLETION)
        found = {}
        for known in (await lookup.load_metas(store, sorted(ids - live_ids()))).values():
            try:
                there = await self._services.disk.stat(known.meta.current_path)
            except ChunkProcessingError as error:
                if error.transient and (not watched or is_below(known.meta.current_path, watched)):
                    raise
                continue
            if there is None or there.inode != known.meta.identity.inode:
                found[known.meta.identity.inode] = known
        self._by_inode = found

    def claim(self, path: str, stat: FileStat) -> str | None:
        """The id of the stream whose file this is, if there is one; it is handed out once."""
        known = self._by_inode.pop(stat.inode, None)
        if known is None:
            return None
        log.info("relocated_recording_found", stream_id=known.meta.stream_id, was=known.meta.current_path, path=path)
        return known.meta.stream_id
