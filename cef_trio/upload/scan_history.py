"""The last scan of the watch folder, and waiting for the next one.

A rename's event may arrive late or be lost; a scan shows what is there. So a missing file counts as gone only after a
scan that *began* after it was missed: an earlier one may have read the folder of the new name before the file was
there. A scan that could not read the file or its folder does not count, and while the watch folder is unavailable there
is no scan, so the wait continues.

A scan counts once those of the files that it found without a known record were looked up, and compared where that is
needed, that may be the missing one: it may have another name, and only its bytes tell. So a file that can never be read
keeps the decision open for the streams alone whose file it may be, by its numbers (``files/identity.py``: ``may_be``),
as renamed recordings are searched for (``missed_renames.py``). So does an entry whose status cannot be read (EIO of a
network file system, a damaged inode), until it can be, or is gone: its folder tells its number. After such a wait one
more scan decides, as the file may have been renamed before it was compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf

import trio
from trio_util import AsyncValue, wait_any

from cef_trio.files import FileStat, is_on
from cef_trio.watch import Scanned


@dataclass(frozen=True, slots=True)
class LastScan:
    """The last completed scan."""

    began_at: float = -inf
    """By ``trio.current_time()``."""
    unreadable: frozenset[str] = frozenset()
    """Folders, and single files, that the scan could not read."""
    undecided: Mapping[str, FileStat] = field(default_factory=dict)
    """The files that were undecided then."""

    def counts_for(self, path: str, missed_at: float) -> bool:
        """Return whether it shows that a file missed at ``path`` since then, with no rename reported, is not there."""
        return self.began_at > missed_at and not any(is_on(path, one) for one in self.unreadable)


class ScanHistory:
    """The last scan, and how to request another one."""

    def __init__(self) -> None:
        self.last: AsyncValue[LastScan] = AsyncValue(LastScan())
        self._undecided: AsyncValue[Mapping[str, FileStat]] = AsyncValue({})
        """The files that may be any stream's now."""
        self._unreadable: Mapping[str, FileStat] = {}
        """The entries that the last scan could not read, which may be any stream's too."""
        self.request_scan: Callable[[], object] | None = None
        """Request a scan of the watcher; ``None``: there is no watcher, so no wait."""

    def completed(self, scan: Scanned, undecided: Mapping[str, FileStat] | None = None) -> None:
        """Note a scan whose events have reached every stream. ``undecided``: the files that may be any stream's."""
        self._unreadable = scan.unreadable_entries
        self.looked_up(undecided or {})
        self.last.value = LastScan(scan.began_at, scan.unreadable, self._undecided.value)

    def looked_up(self, undecided: Mapping[str, FileStat]) -> None:
        """Note that files were looked up. ``undecided``: those that may still be any stream's."""
        self._undecided.value = {**undecided, **self._unreadable}

    async def wait_for_scan(
        self,
        path: str,
        missed_at: float,
        may_be: Callable[[FileStat], bool],
        on_doubt: Callable[[Collection[str]], object],
        in_doubt: Mapping[str, FileStat] | None = None,
    ) -> Mapping[str, FileStat]:
        """Wait until a scan decides whether a file missed at that time is gone, without end if none can.

        ``may_be``: whether a file that the scan found may be the missing one, by its numbers. ``on_doubt`` is called
        with those of which only their comparison will tell. Returns them if another scan ends before they are compared,
        and nothing once it is decided. ``in_doubt``: what was returned the last time.
        """
        if self.request_scan is None:
            return {}
        if not in_doubt:
            scan = await self._scan_after(path, missed_at)
            in_doubt = {found: stat for found, stat in scan.undecided.items() if may_be(stat)}
        while in_doubt:
            if left := await self._until_compared(in_doubt, on_doubt):
                return left
            # One that was renamed meanwhile was not compared: nothing was found at its path. A later scan has it under
            # its new name. Files that others begin meanwhile have other numbers, and keep nothing undecided.
            scan = await self._scan_after(path, trio.current_time())
            renamed = _those_of(in_doubt, scan.undecided)
            in_doubt = {found: stat for found, stat in renamed.items() if found not in in_doubt}
        return {}

    async def _until_compared(
        self, doubted: Mapping[str, FileStat], on_doubt: Callable[[Collection[str]], object]
    ) -> Mapping[str, FileStat]:
        """Wait until these files are compared, or another scan ends; return those that are not compared yet."""
        if left := _those_of(doubted, self._undecided.value):
            on_doubt(left)
            last = self.last.value
            await wait_any(
                partial(self._undecided.wait_value, lambda now: not _those_of(doubted, now)),
                partial(self.last.wait_value, lambda scan: scan is not last),
            )
            left = _those_of(doubted, self._undecided.value)
        return left

    async def _scan_after(self, path: str, missed_at: float) -> LastScan:
        if self.request_scan is not None and not self.last.value.counts_for(path, missed_at):
            self.request_scan()
        scan: LastScan = await self.last.wait_value(lambda scan: scan.counts_for(path, missed_at))
        return scan


def _those_of(doubted: Mapping[str, FileStat], undecided: Mapping[str, FileStat]) -> Mapping[str, FileStat]:
    """Return the undecided files that are among the doubted ones, by their paths or, renamed, by their numbers."""
    numbers = {stat.inode for stat in doubted.values()}
    return {path: stat for path, stat in undecided.items() if path in doubted or stat.inode in numbers}
