"""Log which setting would have avoided repeated work, once for each cause in a daemon's life.

Only advice: nothing depends on it. That a recorder goes on writing after a close cannot be known beforehand; afterwards
the value that would have kept the recording together is known.
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

_MAX_PAUSE_SECONDS: Final = 600.0
"""A longer pause means another recording; waiting that long for every recording would not help."""
_MAX_ENDINGS: Final = 1000
_PATTERN_ADVICE: Final = "a pattern that recordings match only when they are whole"


def pause_setting(ending: Ending, pause_seconds: float) -> tuple[str, int] | None:
    """Return the setting and value that would have waited for a writer that paused this long. Pure.

    ``None`` if the pause is longer than any reasonable value.
    """
    if not 0 < pause_seconds <= _MAX_PAUSE_SECONDS or ending is Ending.NOT:
        return None
    setting = "CLOSE_GRACE_SECONDS" if ending is Ending.CLOSED else "STREAM_TIMEOUT_SECONDS"
    return setting, ceil(pause_seconds) + 1


def was_sent_twice(meta: StreamMeta) -> bool:
    """Return whether half of a recording or more changed after it was sent, as with a rewrite at its end. Pure."""
    return meta.parts_rewritten > 1 and meta.bytes_rewritten * 2 >= (meta.verified_size_bytes or 0)


class Advice:
    """What was advised, and how recent streams ended, in case one ended too early."""

    def __init__(self) -> None:
        self._advised: set[str] = set()
        self._endings: OrderedDict[str, Ending] = OrderedDict()

    def ended(self, stream_id: str, ending: Ending) -> None:
        """Note why a recording counted as ended."""
        self._endings[stream_id] = ending
        while len(self._endings) > _MAX_ENDINGS:
            self._endings.popitem(last=False)

    def resumed(self, completed: StreamMeta, stat: FileStat) -> None:
        """Advise after a completed recording was written to again."""
        pause_seconds = (stat.mtime_ns - (completed.verified_mtime_ns or 0)) / 1e9
        found = pause_setting(self._endings.get(completed.stream_id, Ending.NOT), pause_seconds)
        if found is not None:
            self._advise("it was written to again after its end", *found)

    def completed(self, meta: StreamMeta) -> None:
        """Advise after a recording was completed, if most of it was sent twice."""
        if was_sent_twice(meta):
            self._advise("most of it changed after it was sent", "WATCH_PATTERNS", _PATTERN_ADVICE)

    def _advise(self, cause: str, setting: str, value: int | str) -> None:
        if setting not in self._advised:
            self._advised.add(setting)
            log.warning("setting_would_help", cause=cause, setting=setting, value=value)
