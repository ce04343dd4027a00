"""Properties of the Redis server that ``cef-trio doctor`` judges. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UNKNOWN_POLICY: Final = "unknown"
"""The eviction policy where it cannot be read."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Properties of the server for ``cef-trio doctor``."""

    product: str
    """``redis`` or ``valkey``."""
    version: str
    append_only: bool
    """Whether every write reaches an append-only file: without it a crash loses more than the last second."""
    last_save_ok: bool
    eviction_policy: str
    """Any other than ``noeviction`` may evict checkpoints when memory runs short; or ``UNKNOWN_POLICY``."""
    max_memory_bytes: int
    """0: no limit."""
    is_replica: bool
    append_fsync: str | None
    """``always``, ``everysec`` or ``no``; ``None`` where CONFIG is not allowed."""
    save: str | None
    """When it saves snapshots (``3600 1 300 100``, empty for never); ``None`` where CONFIG is not allowed."""
