"""A register of the store's keys that cannot be read. Each is logged once, counted, and never changed.

Examples: a record with an unknown status (written by a newer version) or a missing field, a key of a wrong type. Each
affects one stream only: a bulk read returns the readable records and names the others (``protocols.Records``). Metrics,
``status``, ``doctor`` and ``list`` show the register. An entry is removed when its key is readable again, or is gone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
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


class UnreadableKeys:
    """The reasons why keys cannot be read, by key."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def note(self, key: str, why: str | None, *, stream_id: str | None = None) -> None:
        """Record the outcome of reading a key: ``why`` it is unreadable, or ``None``. Log a new one once."""
        if why is None:
            if self._entries:
                self._entries.pop(key, None)
            return
        now = time.monotonic()
        known = self._entries.get(key)
        if known is not None:
            known.why, known.seen_at = why, now
        elif len(self._entries) < _MAX_ENTRIES:
            self._entries[key] = _Entry(why, stream_id, now)
            log.error("checkpoint_unreadable", key=key, error=why)

    def why_of(self, stream_id: str) -> str | None:
        """Return why a key of the stream cannot be read; ``None``: none is known."""
        return next((entry.why for entry in self._entries.values() if entry.stream_id == stream_id), None)

    @property
    def known(self) -> Mapping[str, str]:
        """The reasons by key, sorted by key."""
        before = time.monotonic() - _EXPIRY_SECONDS
        for key in [key for key, entry in self._entries.items() if entry.seen_at < before]:
            del self._entries[key]
        return {key: entry.why for key, entry in sorted(self._entries.items())}

    @property
    def stream_ids(self) -> Collection[str]:
        """The ids of the streams with an unreadable key."""
        return {entry.stream_id for entry in self._entries.values() if entry.stream_id is not None}
