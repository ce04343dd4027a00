"""The completed recordings that stay for now: until ``AFTER_UPLOAD_KEEP_DAYS``, or until space is short.

They are in memory only, one small entry for each such file in the folder. At each start the supervisor offers them
again. An entry goes when its file is acted on, or changes or vanishes (``is_settled``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cef_trio.checkpoint import StreamMeta, rules
from cef_trio.postprocess.free_space_rules import KeptRecording


class KeptRecordings:
    """The kept recordings by path."""

    def __init__(self, is_settled: Callable[[str], bool]) -> None:
        """``is_settled``: whether the file at a path is still there, as it was when it was offered."""
        self._is_settled = is_settled
        self._kept: dict[str, KeptRecording] = {}

    def add(self, meta: StreamMeta) -> None:
        """Keep a completed recording."""
        before = self._kept.get(meta.current_path)
        if before is None or before.stream_id != meta.stream_id:
            completed_at = rules.ended_at_ms(meta) / 1000
            self._kept[meta.current_path] = KeptRecording(
                meta.current_path, meta.stream_id, completed_at, meta.identity
            )

    def __iter__(self) -> Iterator[KeptRecording]:
        return iter(self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def put_back(self, recording: KeptRecording) -> None:
        """Replace the entry of that recording, unless the path is another one's now."""
        if self._is_same(recording):
            self._kept[recording.path] = recording

    def drop(self, recording: KeptRecording) -> None:
        """Remove the entry of that recording."""
        if self._is_same(recording):
            del self._kept[recording.path]

    def drop_unsettled(self) -> None:
        """Remove the entries whose file has changed or vanished; it is offered again after its next lookup."""
        self._kept = {path: one for path, one in self._kept.items() if self._is_settled(path)}

    def _is_same(self, recording: KeptRecording) -> bool:
        found = self._kept.get(recording.path)
        return found is not None and found.stream_id == recording.stream_id
