"""Recordings that got another name while no daemon looked.

While a daemon runs, a rename is news that it follows. One that happened while it was away is seen as two things: a
stream whose file is gone, and a file that Redis does not know. Its inode's number proposes that they are one, and the
evidence of ``identity.py`` decides. Without that, every part of the recording would be sent again, though it was
recorded and did not change (promise P2).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from cef_trio.checkpoint.states import StreamSet
from cef_trio.checkpoint.store import KnownPath
from cef_trio.exceptions import ChunkProcessingError, RecordingChangedError
from cef_trio.recording import FileStat
from cef_trio.stream import lookup
from cef_trio.stream.after_upload_rules import is_below
from cef_trio.stream.identity import Sameness, may_be
from cef_trio.stream.recognition import recognize
from cef_trio.stream.services import Services

log = structlog.get_logger(__name__)


class RelocatedStreams:
    """Open streams whose files are not where they were, until their files are found."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lost: list[KnownPath] = []

    async def look(self, live_ids: Callable[[], frozenset[str]]) -> None:
        """Find them anew: those that nobody works on and at whose path there is no such file.

        Raises:
            RedisOperationError: Redis cannot be asked.
            ChunkProcessingError: a folder below the watched one cannot be looked into now. Any other that cannot, and
                one that may not be, is passed over: it is another daemon's, and must not keep our recordings waiting.
        """
        store, watched = self._services.store, self._services.rules.watch_folder
        ids = await store.members(StreamSet.ACTIVE) | await store.members(StreamSet.PENDING_COMPLETION)
        found: list[KnownPath] = []
        for known in (await lookup.load_metas(store, sorted(ids - live_ids()))).values():
            try:
                there = await self._services.disk.stat(known.meta.current_path)
            except ChunkProcessingError as error:
                if error.transient and (not watched or is_below(known.meta.current_path, watched)):
                    raise
                continue
            if there is None or not may_be(known.meta.identity, there):
                found.append(known)
        self._lost = found

    async def claim(self, path: str, stat: FileStat) -> str | None:
        """The id of the stream whose file this is, if there is one; it is handed out once.

        Only for certain: the lost stream may be another host's, whose file has the same number by chance.
        """
        for known in [known for known in self._lost if may_be(known.meta.identity, stat)]:
            try:
                if not await self._is_its_file(known, path):
                    continue
            except RecordingChangedError:
                return None
            except ChunkProcessingError:
                continue  # it cannot be looked at now; as a new recording it says so itself
            if known in self._lost:  # nobody else has claimed it while it was looked at
                self._lost.remove(known)
                stream_id, was = known.meta.stream_id, known.meta.current_path
                log.info("relocated_recording_found", stream_id=stream_id, was=was, path=path)
                return stream_id
        return None

    async def _is_its_file(self, known: KnownPath, path: str) -> bool:
        async with self._services.disk.open(path) as recording:
            sameness = await recognize(known.meta, {}, recording)
            if sameness is Sameness.ASK_BYTES:
                checkpoint = await self._services.store.load(known.meta.stream_id)
                sameness = await recognize(known.meta, checkpoint.parts if checkpoint else {}, recording)
        return sameness is Sameness.SAME
