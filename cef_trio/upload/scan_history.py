"""The last scan of the watch folder, and waiting for the next one.

A rename's event may arrive late or be lost; a scan shows what is there. So a missing file counts as gone only after a
scan that *began* after it was missed: an earlier one may have read the folder of the new name before the file was
there. A scan that could not read the file or its folder does not count, and while the watch folder is unavailable there
is no scan, so the wait continues.

A scan counts once the files that it found without a known record were looked up, and compared where that is needed: the
missing file may be one of them, under another name, by its bytes alone. Inode and device numbers do not tell, where
another host's daemon recorded them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf

from trio_util import AsyncValue

from cef_trio.files import is_on
from cef_trio.watch import Scanned


@dataclass(frozen=True, slots=True)
class LastScan:
    """The last completed scan."""

    began_at: float = -inf
    """By ``trio.current_time()``."""
    unreadable: frozenset[str] = frozenset()
    """Folders, and single files, that the scan could not read."""

    def decides(self, path: str, missed_at: float) -> bool:
        """Return whether a file missed at ``path`` since then, with no rename reported, counts as gone."""
        return self.began_at > missed_at and not any(is_on(path, one) for one in self.unreadable)


class ScanHistory:
    """The last scan, and how to request another one."""

    def __init__(self) -> None:
        self.last: AsyncValue[LastScan] = AsyncValue(LastScan())
        self._undecided: list[tuple[LastScan, frozenset[str]]] = []
        """Later scans, at most two, and the files that they found and that were undecided then."""
        self.request_scan: Callable[[], object] | None = None
        """Request a scan of the watcher; ``None``: there is no watcher, so no wait."""

    def completed(self, scan: Scanned, undecided: Collection[str] = ()) -> None:
        """Note a scan whose events have reached every stream. ``undecided``: the files that may be any stream's."""
        del self._undecided[1:]  # the first one is decided first, the latest one decides most
        self._undecided.append((LastScan(scan.began_at, scan.unreadable), frozenset(undecided)))
        self.looked_up(undecided)

    def looked_up(self, undecided: Collection[str]) -> None:
        """Note that files were looked up. ``undecided``: those that may still be any stream's."""
        pending = frozenset(undecided)
        while self._undecided and not self._undecided[0][1] & pending:
            self.last.value, _ = self._undecided.pop(0)

    async def wait_for_scan(self, path: str, missed_at: float) -> None:
        """Wait until a scan decides whether a file missed at that time is gone; without end if none can."""
        if self.request_scan is None or self.last.value.decides(path, missed_at):
            return
        self.request_scan()
        await self.last.wait_value(lambda scan: scan.decides(path, missed_at))
