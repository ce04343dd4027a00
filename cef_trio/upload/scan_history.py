"""Which scan of the watch folder was the last to be told, and the wait for another one.

News of a rename may come late, or be lost with an event; a scan is the truth. So a file that is not at its path counts
as gone only after a scan that *began* after it was missed: one that was under way then may have read the folder of its
new name before the file was there. A scan that could not read the folder in which the file was says nothing of it, and
while the watch folder is lost there is no scan at all: then the wait goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from trio_util import AsyncValue

from cef_trio.watch import Scanned


@dataclass(frozen=True, slots=True)
class LastScan:
    """The last completed scan."""

    began_at: float = -inf
    """By ``trio.current_time()``."""
    unreadable: frozenset[str] = frozenset()
    """Folders that it could not read."""

    def decides(self, path: str, missed_at: float) -> bool:
        """Whether a file that was missed at ``path`` then, and that no other name was told of since, has none."""
        return self.began_at > missed_at and not any(path.startswith(f"{folder}/") for folder in self.unreadable)


class ScanHistory:
    """The last scan, and whom to ask for the next one."""

    def __init__(self) -> None:
        self.last: AsyncValue[LastScan] = AsyncValue(LastScan())
        self.request_scan: Callable[[], object] | None = None
        """Asks the watcher for a scan; ``None``: nobody scans, so there is none to wait for."""

    def completed(self, scan: Scanned) -> None:
        """Every stream was told of this scan."""
        self.last.value = LastScan(scan.began_at, scan.unreadable)

    async def wait_for_scan(self, path: str, missed_at: float) -> None:
        """Wait until a scan was told that decides about a file that was missed then: for ever, if none can."""
        if self.request_scan is None or self.last.value.decides(path, missed_at):
            return
        self.request_scan()
        await self.last.wait_value(lambda scan: scan.decides(path, missed_at))
