"""Search for what Redis has no record of, before a file counts as new: uploads, objects and renamed recordings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf
from typing import Final

import trio

from cef_trio.files import SECOND_NS, FileStat
from cef_trio.upload.missed_renames import MovedFiles
from cef_trio.upload.orphan_objects import OrphanObjects
from cef_trio.upload.orphan_uploads import OrphanUploads
from cef_trio.upload.services import Services

_AGAIN_SECONDS: Final = 600.0
"""The minimum time between searches for completed recordings whose records Redis lost, without signs of a loss."""
_AHEAD_NS: Final = 60 * SECOND_NS
"""How far a file server's clock may be ahead without each of its new files being searched for."""
_AFTER_LOSS_SECONDS: Final = 60.0
"""The minimum time between two such searches after signs of a loss."""


class LostRecords:
    """What Redis may have lost, and when it was last searched for."""

    def __init__(
        self,
        services: Services,
        live_ids: Callable[[], frozenset[str]],
        ids_at_their_paths: Callable[[], frozenset[str]],
    ) -> None:
        """``ids_at_their_paths``: the live streams whose files need not be searched for."""
        self.uploads = OrphanUploads(services)
        self.objects = OrphanObjects(services, live_ids)
        self.moved_files = MovedFiles(services)
        self._utc_now = services.utc_now
        self._ownership = services.ownership
        self._live_ids = live_ids
        self._ids_at_their_paths = ids_at_their_paths
        self._must_list_uploads = True
        self._lost_before_ns = self._now_ns()
        """Redis may have lost the records of files modified before this time: the start of the daemon, or the last sign
        of a loss. In nanoseconds of Unix time."""
        self._searched_at = -inf
        """The time of the last search for completed recordings, by ``trio.current_time()``."""
        self._search_at = -inf
        """The earliest time of the next one."""

    def may_include(self, stat: FileStat) -> bool:
        """Return whether Redis may have lost the record of a file with this stat.

        Programs set the mtime (``rsync -t``, a camera with another clock), but not the ctime. If both are in the
        future, the clock of a file server is ahead, and it is unknown since when the file has been there.
        """
        changed_ns = min(stat.mtime_ns, stat.ctime_ns or stat.mtime_ns)
        return changed_ns < self._lost_before_ns or changed_ns > self._now_ns() + _AHEAD_NS

    def _now_ns(self) -> int:
        return int(self._utc_now().timestamp() * SECOND_NS)

    def request_search(self) -> None:
        """Search again before any file modified until now is treated as new: there is a sign of a loss."""
        self._must_list_uploads = True
        self.moved_files.request()
        self._lost_before_ns = self._now_ns() + 1
        self._search_at = min(self._search_at, self._searched_at + _AFTER_LOSS_SECONDS)

    def _searched_for(self, stats: Iterable[FileStat]) -> frozenset[int]:
        """Return the inode numbers whose streams are to be searched for, though no event tells of a rename.

        In a shared folder all: another host's daemon may not have recorded a rename yet, of which no event came here.
        """
        return frozenset(stat.file_ino for stat in stats) if self._ownership.shares_any else frozenset()

    async def search(
        self,
        unknown: Callable[[], Mapping[str, FileStat]],
        misplaced: Collection[int],
        recorded: Callable[[FileStat], bool],
    ) -> None:
        """Search for what the unknown files may belong to, as far as it is due.

        ``misplaced``: the inode numbers of unknown files that are those of live streams. ``recorded``: whether a
        file probably has a record under another name. Both are searched for at once: no rename of theirs was seen.

        Raises:
            RedisOperationError, S3OperationError: Redis or S3 is unavailable.
        """
        if self._must_list_uploads:
            self._must_list_uploads = False  # first, so that a lease lost meanwhile sets it again
            done = False
            try:
                done = await self.uploads.list_unknown(self._live_ids)
            finally:
                self._must_list_uploads |= not done
        if self.moved_files.due:
            await self.moved_files.find_missing(self._ids_at_their_paths)
        elif numbers := self._searched_for(unknown().values()) | frozenset(misplaced):
            await self.moved_files.find_missing(self._ids_at_their_paths, numbers)
        old = {path: stat for path, stat in unknown().items() if self.may_include(stat)}
        is_due = bool(old) and trio.current_time() >= self._search_at
        renamed = {path: stat for path, stat in unknown().items() if recorded(stat)}
        if is_due or renamed:
            await self.moved_files.find_completed(old | renamed)
        if is_due:
            self.objects.request(old)
            self._searched_at = trio.current_time()
            self._search_at = self._searched_at + _AGAIN_SECONDS
