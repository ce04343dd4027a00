"""Says which setting would have saved what a recorder's ways have cost: once in a daemon's life for each cause.

Nothing depends on it. What costs is done as ever, since nobody can know beforehand that a recorder will go on after its
close; afterwards the value that would have held the recording together is known.
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil
from typing import Final

import structlog

from cef_trio.checkpoint import StreamMeta
from cef_trio.files import FileStat
from cef_trio.upload.file_state import Ending

log = structlog.get_logger(__name__)

_LONGEST_PAUSE_SECONDS: Final = 600.0
"""Who goes on later than this meant another recording; to wait so long for all others is no help."""
_REMEMBERED: Final = 1000
_OF_PATTERNS: Final = "a pattern that recordings match only when they are whole"


def pause_setting(ending: Ending, pause_seconds: float) -> tuple[str, int] | None:
    """Which setting, with which value, would have waited for a writer that went on after such a pause. Pure.

    ``None``: none, within reason.
    """
    if not 0 < pause_seconds <= _LONGEST_PAUSE_SECONDS or ending is Ending.NOT:
        return None
    setting = "CLOSE_GRACE_SECONDS" if ending is Ending.CLOSED else "STREAM_TIMEOUT_SECONDS"
    return setting, ceil(pause_seconds) + 1


def was_sent_twice(meta: StreamMeta) -> bool:
    """Whether half of a recording or more changed after it was sent: it was filled or moved at its end. Pure."""
    return meta.parts_rewritten > 1 and meta.bytes_rewritten * 2 >= (meta.verified_size_bytes or 0)


class Advice:
    """What was advised, and how streams ended that may turn out to have ended too early."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._endings: OrderedDict[str, Ending] = OrderedDict()

    def ended(self, stream_id: str, ending: Ending) -> None:
        """A recording was taken for ended, for that reason."""
        self._endings[stream_id] = ending
        while len(self._endings) > _REMEMBERED:
            self._endings.popitem(last=False)

    def goes_on(self, completed: StreamMeta, stat: FileStat) -> None:
        """A completed recording was written to again."""
        pause_seconds = (stat.mtime_ns - (completed.verified_mtime_ns or 0)) / 1e9
        found = pause_setting(self._endings.get(completed.stream_id, Ending.NOT), pause_seconds)
        if found is not None:
            self._give("it was written to again after its end", *found)

    def completed(self, meta: StreamMeta) -> None:
        """A recording is completed."""
        if was_sent_twice(meta):
            self._give("most of it changed after it was sent", "WATCH_PATTERNS", _OF_PATTERNS)

    def _give(self, cause: str, setting: str, value: int | str) -> None:
        if setting not in self._given:
            self._given.add(setting)
            log.warning("setting_would_help", cause=cause, setting=setting, value=value)
