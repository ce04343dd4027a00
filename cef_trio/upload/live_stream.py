"""A stream with a running task: its file as events report it, its lag, and its idle time.

The lag that the status page, the metrics and the daemon's report show is computed here (:meth:`LiveStream.lag`), by
``observability/lag.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio
from trio_util import AsyncValue

from cef_trio.files import FileStat, inodes_last
from cef_trio.observability import FirstSeenTimes, Lag, lag_of
from cef_trio.upload.file_state import FileState
from cef_trio.upload.processor import StreamProcessor


@dataclass(eq=False, slots=True)
class LiveStream:
    """A stream with a running task."""

    processor: StreamProcessor
    file_state: AsyncValue[FileState]
    changed_at: float
    """``trio.current_time()`` of the last observed change of the file."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    first_seen: FirstSeenTimes = field(init=False)
    _last_stat: FileStat = field(init=False)
    """The file as it was at ``changed_at``."""

    def __post_init__(self) -> None:
        self._last_stat = self.file_state.value.stat
        self.first_seen = FirstSeenTimes(self.changed_at, self._last_stat.size_bytes)

    @property
    def path(self) -> str:
        """The path of its file."""
        path: str = self.file_state.value.path
        return path

    def lag(self, now: float) -> Lag:
        """Return the lag of the stream: the bytes of its file that S3 does not have, without holes."""
        file_state: FileState = self.file_state.value
        size_bytes, upload = file_state.stat.size_bytes, self.processor.upload
        if upload is None:
            self.first_seen.record(now, size_bytes)  # the stream may have checked the file itself
            return lag_of(size_bytes, 0, self.first_seen.oldest())
        acknowledged, holes = upload.acknowledged_bytes, upload.holes
        if holes is None or not holes.are_known(file_state, now):
            self.first_seen.record(now, size_bytes)
            self.first_seen.acknowledged(upload.acknowledged_to)
            return lag_of(size_bytes, acknowledged, self.first_seen.oldest())
        waiting, end = upload.waiting_before_hole(holes.first_part)
        self.first_seen.record(now, end)
        self.first_seen.acknowledged(upload.acknowledged_to)
        return Lag(waiting, self.first_seen.oldest(), max(0, size_bytes - acknowledged - waiting))

    def has_inode(self, stat: FileStat) -> bool:
        """Return whether the file was last seen with this device and inode number."""
        return bool(self.file_state.value.stat.inode == stat.inode)

    def may_be_at(self, stat: FileStat) -> bool:
        """Return whether a renamed file may be this stream's; where inode numbers are unstable, trust the event."""
        upload = self.processor.upload
        if self.has_inode(stat):
            return True
        return upload is not None and not inodes_last(upload.meta.identity.fs_type)

    def is_replaced(self, stat: FileStat) -> bool:
        """Return whether another file may have taken the path, by its inode number."""
        return self.processor.upload is not None and not self.has_inode(stat)

    @property
    def unreadable(self) -> str | None:
        """Why the file cannot be read at present; ``None`` if it can, as far as is known."""
        error = self.processor.unreadable
        return str(error) if error is not None else None

    def update(self, file_state: FileState) -> None:
        """Update the state of the file."""
        self.processor.retry_read()
        self.file_state.value = file_state
        self.idle_seconds()
        self.lag(trio.current_time())  # records when the bytes were first seen

    def idle_seconds(self) -> float:
        """Return the time since the file last changed, in seconds; the stream's own checks count too."""
        stat, now = self.file_state.value.stat, trio.current_time()
        if stat != self._last_stat:
            self._last_stat, self.changed_at = stat, now
        return now - self.changed_at
