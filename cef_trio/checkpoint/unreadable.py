"""The keys of the store that cannot be read: each is set aside, logged once, counted, and never changed.

A record of an unknown status (a newer version wrote it), with a missing field, or a key that a hand made into another
type is one stream's trouble. Whoever reads many records gets the readable ones, and the others by name
(``store.Records``). This register remembers them for people: metrics, ``status``, ``doctor`` and ``list`` show it. An
entry goes when its key is read again and is well, or gone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_MOST: Final = 10_000
"""More are not kept: who fills Redis with garbage must not fill our memory too (P7)."""
_FORGOTTEN_SECONDS: Final = 3600.0
"""An entry that nobody has met again for so long is dropped: its key may be gone, and no one asks for it any more."""


@dataclass(slots=True)
class _Entry:
    why: str
    stream_id: str | None
    met_at: float


class UnreadableKeys:
    """What could not be read, by key."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def note(self, key: str, why: str | None, *, stream_id: str | None = None) -> None:
        """A key was read: ``why`` it cannot be, or ``None`` if it can (or is not there). Logs a new one, once."""
        if why is None:
            if self._entries:
                self._entries.pop(key, None)
            return
        now = time.monotonic()
        known = self._entries.get(key)
        if known is not None:
            known.why, known.met_at = why, now
        elif len(self._entries) < _MOST:
            self._entries[key] = _Entry(why, stream_id, now)
            log.error("checkpoint_unreadable", key=key, error=why)

    def why_of(self, stream_id: str) -> str | None:
        """Why a key of that stream cannot be read; ``None``: they can, as far as is known."""
        return next((entry.why for entry in self._entries.values() if entry.stream_id == stream_id), None)

    @property
    def known(self) -> Mapping[str, str]:
        """Why, by key, in the order of the keys."""
        self._forget()
        return {key: entry.why for key, entry in sorted(self._entries.items())}

    @property
    def stream_ids(self) -> Collection[str]:
        """The streams that have such a key."""
        return {entry.stream_id for entry in self._entries.values() if entry.stream_id is not None}

    def _forget(self) -> None:
        before = time.monotonic() - _FORGOTTEN_SECONDS
        for key in [key for key, entry in self._entries.items() if entry.met_at < before]:
            del self._entries[key]
