"""A register of the store's keys that cannot be read. Each is logged once, counted, and never changed.

Examples: a record with an unknown status or a missing field, a key of a wrong type. Each affects one stream only: a
bulk read returns the readable records and names the others (``protocols.Records``). Metrics, ``status``, ``doctor`` and
``list`` show the register. An entry is removed when its key is readable again, or is gone.

Records of a newer schema (``schema.py``) are registered apart: nothing is wrong with them, and a newer daemon works on
them. The first is logged, and all are counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_MAX_ENTRIES: Final = 10_000
"""The most entries that are kept, to bound memory (P7)."""
_EXPIRY_SECONDS: Final = 3600.0
"""An entry whose key was not read for this long is removed: the key may be gone."""


@dataclass(slots=True)
class _Entry:
    why: str
    stream_id: str | None
    seen_at: float
    newer: bool


class UnreadableKeys:
    """The reasons why keys cannot be read, by key. Redis's worker threads change it while the event loop reads it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held for a look or a change, never while something is logged."""
        self._entries: dict[str, _Entry] = {}

    def note(self, key: str, why: str | None, *, stream_id: str | None = None, newer: bool = False) -> None:
        """Record the outcome of reading a key: ``why`` it is unreadable, or ``None``. Log a new one once.

        ``newer``: it is a record of a newer schema.
        """
        with self._lock:
            if why is None:
                self._entries.pop(key, None)
                return
            now = time.monotonic()
            known = self._entries.get(key)
            if known is not None and known.newer == newer:
                known.why, known.seen_at = why, now
                return
            if known is None and len(self._entries) >= _MAX_ENTRIES:
                return
            is_first = not any(one.newer for one in self._entries.values()) if newer else False
            self._entries[key] = _Entry(why, stream_id, now, newer)
        if not newer:
            log.error("checkpoint_unreadable", key=key, error=why)
        elif is_first:
            log.warning("records_newer", key=key, reason=why)

    def why_of(self, stream_id: str) -> str | None:
        """Return why a key of the stream cannot be read; ``None``: none is known."""
        return next((entry.why for _, entry in self._all() if entry.stream_id == stream_id), None)

    @property
    def known(self) -> Mapping[str, str]:
        """The reasons by key, sorted by key; without the records of a newer schema."""
        return self._reasons(newer=False)

    @property
    def newer(self) -> Mapping[str, str]:
        """The records of a newer schema: the reasons by key, sorted by key."""
        return self._reasons(newer=True)

    def _reasons(self, *, newer: bool) -> Mapping[str, str]:
        before = time.monotonic() - _EXPIRY_SECONDS
        with self._lock:
            for key in [key for key, entry in self._entries.items() if entry.seen_at < before]:
                del self._entries[key]
        return {key: entry.why for key, entry in sorted(self._all()) if entry.newer is newer}

    @property
    def stream_ids(self) -> Collection[str]:
        """The ids of the streams with an unreadable key; without those of a newer schema."""
        return {one.stream_id for _, one in self._all() if one.stream_id is not None and not one.newer}

    @property
    def newer_ids(self) -> Collection[str]:
        """The ids of the streams whose record is of a newer schema."""
        return {one.stream_id for _, one in self._all() if one.stream_id is not None and one.newer}

    def _all(self) -> Sequence[tuple[str, _Entry]]:
        with self._lock:
            return tuple(self._entries.items())
