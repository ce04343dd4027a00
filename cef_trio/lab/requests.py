"""Count what one recording costs: requests to S3 and calls to Redis, by operation.

A daemon in a world without faults uploads two recordings; another one runs as long with the first one only, and its
calls (start, the first listing) are subtracted. What is left is the second recording's, without the calls of
:data:`PERIODIC`, whose number depends on when a round of a periodic task begins. The counts depend on the number of
parts, not on bytes, so all sizes are divided by :data:`SCALE`: a part of 10 MiB is one of 1,024 bytes, and ten
gibibytes are one mebibyte. The part plan, the doubling of its sizes and everything else is the daemon's own code.

A call to Redis is one round trip: a script or a pipeline. A recording that is written while it is uploaded costs the
same.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from cef_trio.lab.crash_simulation import Life
from cef_trio.lab.journal import logging_into
from cef_trio.lab.scheduler import run_virtual
from cef_trio.lab.world import World, WorldDaemon
from cef_trio.upload.part_plan import GIB, MIB

PART_BYTES: Final = 10 * MIB
"""The part size, the default of ``CHUNK_SIZE_BYTES``."""
SIZES: Final = {"1 MiB": MIB, "100 MiB": 100 * MIB, "10 GiB": 10 * GIB}
SCALE: Final = PART_BYTES // 1024
PERIODIC: Final = frozenset(
    {
        "beat",
        "count",
        "ended",
        "expired",
        "holders",
        "is_persistent",
        "load_metas",
        "members",
        "mend_history",
        "renew",
        "report",
    }
)
"""Calls to Redis that only the daemon's start and its periodic tasks make, for all its recordings at once."""
_SECONDS: Final = 58.0
"""How long a daemon runs: its second listing of open uploads, after one minute, is in none of the two runs."""
_SETTLE_SECONDS: Final = 5.0
_PIECES: Final = 128
_FIRST: Final = "first.mp4"
_SECOND: Final = "second.mp4"
_S3: Final = "s3 "
_REDIS: Final = "redis "


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one recording, by operation."""

    s3: Counter[str]
    redis: Counter[str]
    """Without the calls of :data:`PERIODIC`."""
    more_rounds: Counter[str]
    """Calls of :data:`PERIODIC`: how many more the daemon made than the one without the recording."""


def requests_of(size_bytes: int, *, grows: bool = False) -> Requests:
    """Return the requests of a recording of this size; ``grows``: it is seen while it is written, in many pieces.

    Raises:
        RuntimeError: it was not uploaded.
    """
    calls = _calls(size_bytes, grows=grows)
    calls.subtract(_calls(0, grows=grows))
    found = Counter({call: count for call, count in calls.items() if count > 0})
    redis = _below(found, _REDIS)
    rounds = Counter({name: count for name, count in redis.items() if name in PERIODIC})
    return Requests(_below(found, _S3), redis - rounds, rounds)


def _below(calls: Counter[str], prefix: str) -> Counter[str]:
    return Counter({call.removeprefix(prefix): count for call, count in calls.items() if call.startswith(prefix)})


def _calls(size_bytes: int, *, grows: bool) -> Counter[str]:
    with tempfile.TemporaryDirectory(prefix="cef-lab-") as folder:
        return run_virtual(_run, Path(folder), -(-size_bytes // SCALE), grows, seed=1)


async def _run(folder: Path, size_bytes: int, grows: bool) -> Counter[str]:
    """Run a daemon for a fixed time, with two recordings, the second one of this size unless it is 0; return its calls.

    Raises:
        RuntimeError: one was not uploaded.
    """
    world, life = World(folder), Life()
    world.part_size = PART_BYTES // SCALE
    with logging_into(world.journal):
        await _run_daemon(world, life, size_bytes, grows=grows)
    return Counter(re.sub(r" \d+$", "", call) for call in life.calls)  # UploadPart 7 → UploadPart


async def _run_daemon(world: World, life: Life, size_bytes: int, *, grows: bool) -> None:
    async with world.services(life) as services, trio.open_nursery() as nursery:
        daemon = WorldDaemon(world, services)
        await nursery.start(daemon.run)
        await trio.sleep(_SETTLE_SECONDS)
        await _write(daemon, _FIRST, 2 * world.part_size)
        await trio.sleep(_SETTLE_SECONDS)
        if size_bytes:
            await _write(daemon, _SECOND, size_bytes, pieces=min(_PIECES, size_bytes) if grows else 1)
        with trio.CancelScope(deadline=_SECONDS):
            await trio.sleep_forever()
        names = [_FIRST, _SECOND] if size_bytes else [_FIRST]
        if sorted(world.recordings()) != sorted(world.content(name) for name in names):
            raise RuntimeError("a recording was not uploaded")
        daemon.shutdown.request()


async def _write(daemon: WorldDaemon, name: str, size_bytes: int, *, pieces: int = 1) -> None:
    for number in range(pieces):
        daemon.world.append(size_bytes // pieces + (size_bytes % pieces if number == 0 else 0), name)
        daemon.seen(name)
        if pieces > 1:
            await trio.sleep(0.1)
    daemon.closed(name)
