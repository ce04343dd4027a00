"""Properties of the Redis server that ``cef-trio doctor`` judges. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

UNKNOWN_POLICY: Final = "unknown"
"""The eviction policy where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as its primary sees it."""

    address: str
    online: bool
    """Whether it has caught up once, and follows."""
    lag_seconds: int
    """Time since its last acknowledgement, which it sends each second."""


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
    used_memory_bytes: int = 0
    system_memory_bytes: int = 0
    """Of its machine; 0: unknown."""
    replicas: tuple[Replica, ...] = ()
    min_replicas_to_write: int | None = None
    """How many replicas must follow, or it refuses writes; ``None`` where CONFIG is not allowed."""
    min_replicas_max_lag_seconds: int | None = None


def replicas_in(info: Mapping[str, Any]) -> tuple[Replica, ...]:
    """Return the replicas in a parsed reply to INFO (https://redis.io/docs/latest/commands/info/). Pure."""
    found = []
    for name, value in info.items():
        if re.fullmatch(r"slave\d+", name) and isinstance(value, Mapping):
            address = f"{value.get('ip', '?')}:{value.get('port', '?')}"
            found.append(Replica(address, value.get("state") == "online", int(value.get("lag", 0))))
    return tuple(found)
