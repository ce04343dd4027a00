"""Find recordings that were renamed while no daemon watched.

A running daemon follows renames by events (``supervisor.py``: ``_moved``). A rename that it missed appears as a stream
whose file is missing and a file that Redis does not know. An equal inode number proposes that they belong together, and
the evidence of ``files/identity.py`` decides. Else every part of an unchanged recording would be sent again (promise
P2).

A completed recording is also proposed by size and modification time, which a move to another file system keeps; the
comparison of all its bytes decides (``unchanged_content.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from math import inf
from typing import Final

import structlog
import trio

from cef_trio.checkpoint import StreamMeta, StreamSet, StreamSummary
from cef_trio.exceptions import ChunkProcessingError, FileAccessError, RecordingChangedError, RecordUnreadableError
from cef_trio.files import FileStat, IdentityMatch, inodes_last, may_be
from cef_trio.upload.files_without_task import Claimed
from cef_trio.upload.recognition import is_found_at, match_at
from cef_trio.upload.services import Services

log = structlog.get_logger(__name__)

_FOLDER_SECONDS: Final = 2.0
"""Time limit of one ``stat``."""
_FOLDERS_SECONDS: Final = 10.0
"""Time limit of all of them."""
_COMPARE_SECONDS: Final = 5.0
"""Time limit of comparing one file; one that takes longer counts as the stream's."""
_RETRY_SECONDS: Final = 30.0
_MAX_LOGGED: Final = 5


class MovedFiles:
    """Streams whose files are missing, until they are found under other names."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lost: list[StreamSummary] = []
        self._completed: list[StreamMeta] = []
        """Completed streams whose missing file may be one of the new files."""
        self._due_at = -inf
        """When :meth:`find_missing` is due, by ``trio.current_time()``."""

    @property
    def due(self) -> bool:
        """Whether :meth:`find_missing` must run before a file counts as new."""
        return trio.current_time() >= self._due_at

    def request(self) -> None:
        """Make :meth:`find_missing` due before the next file counts as new."""
        self._due_at = -inf

    async def find_missing(
        self, ids_at_their_paths: Callable[[], frozenset[str]], numbers: Collection[int] | None = None
    ) -> None:
        """Find the open streams whose file is not at its path, except those of which it is known to be.

        ``numbers``: look only at the streams of files with these inode numbers, and of file systems where inode
        numbers do not last: there each host may have another one.

        Streams whose file or folder cannot be read now (a damaged file, a dead or hung mount) are skipped, so that they
        delay no other recording, and looked for again after 30 s. If such a file was renamed and is found before that,
        it is uploaded from the beginning under its new name.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        store = self._services.store
        if numbers is None:
            self._due_at = inf  # first, so that a request() made during the awaits below is kept
        try:
            ids = await store.members(StreamSet.ACTIVE) | await store.members(StreamSet.PENDING_COMPLETION)
            asked_ids = sorted(ids - ids_at_their_paths())
            metas = (await store.load_metas(asked_ids, below=self._services.watched)).values()
        except BaseException:
            self.request()
            raise
        asked = [known for known in metas if numbers is None or _has_one_of(known, numbers)]
        lost, unavailable = await self._without_file(asked, lambda meta, stat: may_be(meta.identity, stat))
        if numbers is not None:
            found = [known for known in asked if known not in lost]
            lost += [known for known in found if await self._is_replaced(known.meta, numbers)]
            lost += [known for known in self._lost if not _has_one_of(known, numbers)]
        self._lost = lost
        if unavailable:
            self._due_at = min(self._due_at, trio.current_time() + _RETRY_SECONDS)
            log.warning(
                "places_unavailable", paths=sorted(unavailable)[:_MAX_LOGGED], asked_again_seconds=_RETRY_SECONDS
            )

    async def _is_replaced(self, meta: StreamMeta, numbers: Collection[int]) -> bool:
        """Return whether a file whose number is at another path too has another one's bytes at its own path.

        Where numbers do not last, the number there proves nothing: a mount's cache may be behind (FUSE, for a second).
        """
        identity = meta.identity
        if identity.file_ino not in numbers or inodes_last(identity.fs_type) or not self._services.is_ours(meta):
            return False
        with suppress(RecordingChangedError, RecordUnreadableError, ChunkProcessingError):
            with trio.move_on_after(_COMPARE_SECONDS):
                return await match_at(self._services, meta, meta.current_path) is IdentityMatch.REPLACED
        return False

    async def find_completed(self, files: Mapping[str, FileStat]) -> None:
        """Find the completed streams whose missing file may be one of these files, which Redis does not know.

        Streams whose file or folder cannot be read now are skipped: such a recording is uploaded again.

        Raises:
            RedisOperationError: Redis is unavailable.
        """
        store = self._services.store
        numbers = {stat.file_ino for stat in files.values()}
        stamps = {(stat.size_bytes, stat.mtime_ns) for stat in files.values()}
        proposed: list[StreamSummary] = []
        ids = await store.completed_like(numbers, {mtime_ns for _, mtime_ns in stamps})
        for known in (await store.load_metas(sorted(ids))).values():
            meta, found_stat = known.meta, files.get(known.meta.current_path)
            if meta.identity.file_ino not in numbers and _stamp(meta) not in stamps:
                continue
            if found_stat is None or not _is_as_verified(meta, found_stat):
                proposed.append(known)
        missing, _ = await self._without_file(proposed, _is_as_verified)
        self._completed = [known.meta for known in missing]

    def claim_completed(self, path: str, stat: FileStat) -> str | None:
        """Return the id of a completed stream that may be this file's, preferably by inode number."""
        fitting = [meta for meta in self._completed if meta.current_path != path and _is_proposed(meta, stat)]
        if not fitting:
            return None
        best = max(fitting, key=lambda meta: meta.identity.file_ino == stat.file_ino)
        self._completed.remove(best)
        return best.stream_id

    async def _without_file(
        self, streams: Iterable[StreamSummary], is_its_file: Callable[[StreamMeta, FileStat], bool]
    ) -> tuple[list[StreamSummary], set[str]]:
        """Return this daemon's streams whose file is not at its path, and the folders and files that cannot be read."""
        found, unavailable = list[StreamSummary](), set[str]()
        ends_at = trio.current_time() + _FOLDERS_SECONDS
        for known in streams:
            path = known.meta.current_path
            folder = path.rpartition("/")[0]
            if folder in unavailable or not self._services.is_ours(known.meta):
                continue  # of another folder or host, where equal inode numbers mean nothing (P9)
            try:
                with trio.move_on_at(min(ends_at, trio.current_time() + _FOLDER_SECONDS)) as scope:
                    found_stat = await self._services.disk.stat(path)
            except ChunkProcessingError as error:
                if not (isinstance(error, FileAccessError) and error.denied):
                    unavailable.add(path if await self._can_be_read(folder, ends_at) else folder)
                continue
            if scope.cancelled_caught:
                unavailable.add(folder)
            elif found_stat is None or not is_its_file(known.meta, found_stat):
                found.append(known)
        return found, unavailable

    async def _can_be_read(self, folder: str, ends_at: float) -> bool:
        """Return whether a folder responds, so that an error of a file in it is of that file alone."""
        with trio.move_on_at(min(ends_at, trio.current_time() + _FOLDER_SECONDS)), suppress(ChunkProcessingError):
            await self._services.disk.stat(folder)
            return True
        return False

    def may_be_of(self, stat: FileStat) -> frozenset[str]:
        """Return the ids of the open streams that miss a file of this inode number, and may have been renamed to it."""
        return frozenset(
            known.meta.stream_id
            for known in self._lost
            if known.meta.identity.file_ino == stat.file_ino and may_be(known.meta.identity, stat)
        )

    async def claim(self, path: str, stat: FileStat, found: Claimed | None = None) -> str | None:
        """Return the id of the open stream whose file this is, or ``None``; each id is returned once.

        ``found``: what :meth:`compare` found; only streams that miss their file since are compared then. Cancelled, it
        claims nothing.
        """
        candidates, known = self._candidates(stat), None
        if found is not None and found.is_of(stat):
            known = next((one for one in candidates if one.meta.stream_id == found.stream_id), None)
            candidates = [one for one in candidates if one.meta.stream_id not in found.not_of]
        if known is None:
            known = await self._owner_of(path, candidates)
        if known is None:
            return None
        stream_id, was = known.meta.stream_id, known.meta.current_path
        self._lost = [one for one in self._lost if one.meta.stream_id != stream_id]
        log.info("moved_recording_found", stream_id=stream_id, was=was, path=path)
        return stream_id

    async def compare(self, path: str, stat: FileStat) -> Claimed:
        """Find the open stream whose file this is, however long that takes; :meth:`claim` returns it.

        Raises:
            RedisOperationError, S3OperationError: the parts could not be loaded.
        """
        candidates = self._candidates(stat)
        known = await self._owner_of(path, candidates)
        if known is not None:
            return Claimed(known.meta.stream_id, stat, frozenset())
        return Claimed(None, stat, frozenset(one.meta.stream_id for one in candidates))

    def _candidates(self, stat: FileStat) -> list[StreamSummary]:
        return [known for known in self._lost if may_be(known.meta.identity, stat)]

    async def _owner_of(self, path: str, candidates: Iterable[StreamSummary]) -> StreamSummary | None:
        """Return that of these streams whose file this is. That must be certain: equal numbers may be a coincidence."""
        for known in candidates:
            try:
                if not await is_found_at(self._services, known.meta, path):
                    continue
            except RecordingChangedError:
                return None
            except RecordUnreadableError:
                continue  # its parts: nothing proves that this is its file, and a new one does not wait for them (P6)
            except ChunkProcessingError as error:
                denied = isinstance(error, FileAccessError) and error.denied
                if not (denied and inodes_last(known.meta.identity.fs_type)):
                    continue  # unreadable now; its own task, as a new recording, logs that
                # The inode number of a missing file: most likely the same file. Its task checks it when it becomes
                # readable; a new stream would send all of it again.
            return known
        return None


def _has_one_of(known: StreamSummary, numbers: Collection[int]) -> bool:
    """Return whether the file of a stream may have one of these inode numbers."""
    identity = known.meta.identity
    return identity.file_ino in numbers or not inodes_last(identity.fs_type)


def _stamp(meta: StreamMeta) -> tuple[int | None, int | None]:
    return meta.verified_size_bytes, meta.verified_mtime_ns


def _is_proposed(meta: StreamMeta, stat: FileStat) -> bool:
    same_number = meta.identity.file_ino == stat.file_ino and may_be(meta.identity, stat)
    return same_number or _is_as_verified(meta, stat)


def _is_as_verified(meta: StreamMeta, stat: FileStat) -> bool:
    return _stamp(meta) == (stat.size_bytes, stat.mtime_ns)
