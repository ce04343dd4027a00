"""Recordings that got another name while no daemon looked.

While a daemon runs, a rename is news that it follows. One that happened while it was away is seen as two things: a
stream whose file is gone, and a file that Redis does not know. The inode tells that they are one (``recovery.resume``
then makes sure, by the inode's generation, the first bytes and the parts). Without that, every part of the recording
would be sent again, though it was recorded and did not change (promise P2).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

import structlog
import trio

from cef_trio.checkpoint.states import StreamSet
from cef_trio.checkpoint.store import KnownPath
from cef_trio.exceptions import ChunkProcessingError, FileAccessError
from cef_trio.recording import FileStat
from cef_trio.stream import lookup
from cef_trio.stream.after_upload_rules import is_below
from cef_trio.stream.services import Services

log = structlog.get_logger(__name__)

_FOLDER_SECONDS: Final = 2.0
"""How long one look may take; what takes longer hangs."""
_LOOK_SECONDS: Final = 10.0
"""How long all of them may take."""
_AGAIN_SECONDS: Final = 30.0
_SAID: Final = 5


class RelocatedStreams:
    """Open streams whose files are not where they were, by inode, until their files are found."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._by_inode: dict[tuple[int, int], KnownPath] = {}
        self._look_at = -inf
        """When they are to be looked for, by ``trio.current_time()``."""

    @property
    def due(self) -> bool:
        """Whether they are to be looked for before a file is taken for a new one."""
        return trio.current_time() >= self._look_at

    def again(self) -> None:
        """Look for them before the next file is taken for a new one."""
        self._look_at = -inf

    async def look(self, live_ids: Callable[[], frozenset[str]]) -> None:
        """Find them anew: those that nobody works on and at whose path there is no such file.

        A folder that cannot be looked into now (a mount that is dead, or hangs) keeps no other recording waiting: its
        streams are passed over, and looked for again half a minute later. Should the file of one of them have been
        renamed while no daemon looked, and be found before that, it is uploaded under its new name from the beginning.

        Raises:
            RedisOperationError: Redis cannot be asked.
        """
        store = self._services.store
        self._look_at = inf  # first: whoever finds another lease lost meanwhile asks again
        try:
            ids = await store.members(StreamSet.ACTIVE) | await store.members(StreamSet.PENDING_COMPLETION)
            metas = await lookup.load_metas(store, sorted(ids - live_ids()))
        except BaseException:
            self.again()
            raise
        found, dark = {}, set[str]()
        ends_at = trio.current_time() + _LOOK_SECONDS
        for known in metas.values():
            path = known.meta.current_path
            folder = path.rpartition("/")[0]
            if folder in dark or not self._is_ours(path):
                continue  # of another folder, whose file system may give other files the same numbers (P9)
            try:
                with trio.move_on_at(min(ends_at, trio.current_time() + _FOLDER_SECONDS)) as scope:
                    there = await self._services.disk.stat(path)
            except ChunkProcessingError as error:
                denied = isinstance(error, FileAccessError) and error.denied
                if not denied:
                    dark.add(folder)
                continue
            if scope.cancelled_caught:
                dark.add(folder)
            elif there is None or there.inode != known.meta.identity.inode:
                found[known.meta.identity.inode] = known
        self._by_inode = found
        if dark:
            self._look_at = min(self._look_at, trio.current_time() + _AGAIN_SECONDS)
            log.warning("folders_not_looked_into", folders=sorted(dark)[:_SAID], asked_again_seconds=_AGAIN_SECONDS)

    def _is_ours(self, path: str) -> bool:
        watched = self._services.rules.watch_folder
        return not watched or is_below(path, watched)

    def claim(self, path: str, stat: FileStat) -> str | None:
        """The id of the stream whose file this is, if there is one; it is handed out once."""
        known = self._by_inode.pop(stat.inode, None)
        if known is None:
            return None
        log.info("relocated_recording_found", stream_id=known.meta.stream_id, was=known.meta.current_path, path=path)
        return known.meta.stream_id
