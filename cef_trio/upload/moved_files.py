"""Recordings that got another name while no daemon looked.

While a daemon runs, a rename is news that it follows. One that happened while it was away is seen as two things: a
stream whose file is gone, and a file that Redis does not know. Its inode's number proposes that they are one, and the
evidence of ``identity.py`` decides. Without that, every part of the recording would be sent again, though it was
recorded and did not change (promise P2).

A completed recording is also proposed by its size and time stamp, which a move to another file system keeps; all of its
bytes decide (``correction.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import KnownPath, StreamMeta, StreamSet
from cef_trio.exceptions import ChunkProcessingError, FileAccessError, RecordingChangedError
from cef_trio.files import FileStat, IdentityMatch, inodes_last, may_be
from cef_trio.upload import bulk_load
from cef_trio.upload.recognition import recognize
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

_FOLDER_SECONDS: Final = 2.0
"""How long one look may take; what takes longer hangs."""
_LOOK_SECONDS: Final = 10.0
"""How long all of them may take."""
_AGAIN_SECONDS: Final = 30.0
_SAID: Final = 5
_BATCH: Final = 500


class MovedFiles:
    """Streams whose files are not where they were, until their files are found."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lost: list[KnownPath] = []
        self._completed: list[StreamMeta] = []
        """Completed streams of which a file that is asked about may be the one that is missing."""
        self._look_at = -inf
        """When they are to be looked for, by ``trio.current_time()``."""

    @property
    def due(self) -> bool:
        """Whether they are to be looked for before a file is taken for a new one."""
        return trio.current_time() >= self._look_at

    def request(self) -> None:
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
            metas = await bulk_load.load_metas(store, sorted(ids - live_ids()))
        except BaseException:
            self.request()
            raise
        self._lost, dark = await self._without_file(metas.values(), lambda meta, stat: may_be(meta.identity, stat))
        if dark:
            self._look_at = min(self._look_at, trio.current_time() + _AGAIN_SECONDS)
            log.warning("folders_unavailable", folders=sorted(dark)[:_SAID], asked_again_seconds=_AGAIN_SECONDS)

    async def look_for_completed(self, files: Mapping[str, FileStat]) -> None:
        """Find the completed streams whose files are missing and may be among these, which Redis does not know.

        Those of a folder that cannot be looked into now are passed over: such a recording is uploaded once more.

        Raises:
            RedisOperationError: Redis cannot be asked.
        """
        store = self._services.store
        numbers = {stat.file_ino for stat in files.values()}
        stamps = {(stat.size_bytes, stat.mtime_ns) for stat in files.values()}
        proposed: list[KnownPath] = []
        ids = sorted(await store.members(StreamSet.COMPLETED))
        for start in range(0, len(ids), _BATCH):  # of a long history only what may fit is kept
            for known in (await bulk_load.load_metas(store, ids[start : start + _BATCH])).values():
                meta, there = known.meta, files.get(known.meta.current_path)
                if meta.identity.file_ino not in numbers and _stamp(meta) not in stamps:
                    continue
                if there is None or not _is_as_verified(meta, there):
                    proposed.append(known)
        missing, _ = await self._without_file(proposed, _is_as_verified)
        self._completed = [known.meta for known in missing]

    def claim_completed(self, path: str, stat: FileStat) -> str | None:
        """The id of a completed stream that this file may be of, by its number or, better than none, by its stamp."""
        fitting = [meta for meta in self._completed if meta.current_path != path and _is_proposed(meta, stat)]
        if not fitting:
            return None
        best = max(fitting, key=lambda meta: meta.identity.file_ino == stat.file_ino)
        self._completed.remove(best)
        return best.stream_id

    async def _without_file(
        self, streams: Iterable[KnownPath], is_it: Callable[[StreamMeta, FileStat], bool]
    ) -> tuple[list[KnownPath], set[str]]:
        """Those of our folder whose file is not at their path; and the folders that could not be looked into."""
        found, dark = list[KnownPath](), set[str]()
        ends_at = trio.current_time() + _LOOK_SECONDS
        for known in streams:
            path = known.meta.current_path
            folder = path.rpartition("/")[0]
            if folder in dark or not self._services.is_ours(known.meta):
                continue  # of another folder or host, whose file systems may give other files the same numbers (P9)
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
            elif there is None or not is_it(known.meta, there):
                found.append(known)
        return found, dark

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
            except ChunkProcessingError as error:
                denied = isinstance(error, FileAccessError) and error.denied
                if not (denied and inodes_last(known.meta.identity.fs_type)):
                    continue  # it cannot be looked at now; as a new recording it says so itself
                # Its number is that of a file that is not at its place: most likely it is that one, and its task looks
                # at it when it may be read. A new stream would send all of it again.
            if known in self._lost:  # nobody else has claimed it while it was looked at
                self._lost.remove(known)
                stream_id, was = known.meta.stream_id, known.meta.current_path
                log.info("moved_recording_found", stream_id=stream_id, was=was, path=path)
                return stream_id
        return None

    async def _is_its_file(self, known: KnownPath, path: str) -> bool:
        async with self._services.disk.open(path) as recording:
            sameness = await recognize(known.meta, {}, recording)
            if sameness is IdentityMatch.ASK_BYTES:
                checkpoint = await self._services.store.load(known.meta.stream_id)
                sameness = await recognize(known.meta, checkpoint.parts if checkpoint else {}, recording)
        return sameness is IdentityMatch.SAME


def _stamp(meta: StreamMeta) -> tuple[int | None, int | None]:
    return meta.verified_size_bytes, meta.verified_mtime_ns


def _is_proposed(meta: StreamMeta, stat: FileStat) -> bool:
    same_number = meta.identity.file_ino == stat.file_ino and may_be(meta.identity, stat)
    return same_number or _is_as_verified(meta, stat)


def _is_as_verified(meta: StreamMeta, stat: FileStat) -> bool:
    return _stamp(meta) == (stat.size_bytes, stat.mtime_ns)
