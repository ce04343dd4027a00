"""Records of streams that tests put into a store, or leave in it, for commands and daemons to find."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import trio

from cef_trio.checkpoint.model import FileIdentity, Lease, PartRecord, StreamMeta
from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import World

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAEMON = Lease("a-daemon", "its-token", 30.0)
PART = 5 * 1024 * 1024


def stream_id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def a_stream(number: int = 1, path: str = "/rec/a.mp4", **fields: Any) -> StreamMeta:
    meta = StreamMeta(
        stream_id=stream_id(number),
        original_path=path,
        current_path=path,
        identity=FileIdentity(1, number),
        s3_bucket="recordings",
        s3_key_prefix=f"streams/{stream_id(number)}/a.mp4",
        part_size=PART,
        equal_parts=False,
        started_at_utc=NOW - timedelta(minutes=10),
        last_activity_at_utc=NOW - timedelta(seconds=10),
        status=Status.ACTIVE,
    )
    return replace(meta, **fields)


def a_part(number: int = 1, size_bytes: int = PART, seconds_ago: float = 10.0) -> PartRecord:
    return PartRecord(number, f"{number:032x}", size_bytes, number, NOW - timedelta(seconds=seconds_ago))


async def two_parts(world: World) -> str:
    """Leave a recording with two parts, whose daemon has ended; return its stream's id."""
    world.stream_timeout_seconds = 1e6
    world.append(2 * world.part_size)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
    [known] = world.known()
    return known.meta.stream_id
