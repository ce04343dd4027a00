"""Records to test with, and what a test needs to know of a store beyond its Protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cef_trio.checkpoint.model import FileIdentity, Lease, PartRecord, StreamMeta
from cef_trio.checkpoint.protocols import CheckpointStore

START = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
OURS = Lease("host-a", "token-1", 30.0)
OUR_NEXT_PROCESS = Lease("host-a", "token-2", 30.0)
THEIRS = Lease("host-b", "token-3", 30.0)


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def meta(stream_id: str = "s1", **fields: Any) -> StreamMeta:
    path = fields.pop("path", f"/rec/{stream_id}.mp4")
    values: dict[str, Any] = {
        "stream_id": stream_id,
        "original_path": path,
        "current_path": path,
        "identity": FileIdentity(64769, 1234, 4096, 0xDEADBEEF),
        "s3_bucket": "recordings",
        "s3_key_prefix": f"streams/{stream_id}/file.mp4",
        "part_size": 10 * 1024 * 1024,
        "equal_parts": False,
        "started_at_utc": START,
        "last_activity_at_utc": START,
    }
    return StreamMeta(**(values | fields))


def part(number: int = 1, size: int = 100, *, seconds: float = 1.0, etag: str | None = None) -> PartRecord:
    return PartRecord(number, etag or f"etag-{number}", size, number * 7919, later(seconds))


@dataclass(frozen=True)
class Subject:
    """A store under test, and the hands of the world around it."""

    store: CheckpointStore
    expire: Callable[[str], None]
    """Let the TTL of this stream's lease run out."""
    dump: Callable[[], object]
    """Everything that is kept, comparable."""
    wipe_record: Callable[[str], None]
    """Lose the stream's record but not its lease."""
    corrupt: Callable[[str], None]
    """Make that key one of a wrong type."""
    wait: Callable[[float], None]
    """Let that many seconds pass."""
    repair: Callable[[str], None]
    """Take a key away that was corrupted (in Redis: for good)."""
    set_schema: Callable[[str, int], None]
    """Make a stream's record one of that schema."""
    note_abort_request: Callable[[str], None]
    """Leave a request to abort a stream, as an earlier version does that ends the stream."""
