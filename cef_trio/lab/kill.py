"""Real ``kill -9``, again and again: the daemon as a process, a real Valkey, the embedded S3 endpoint over a socket.

Unlike the rest of the laboratory this runs on the real clock, so the seed determines the random choices and not the
interleaving. It covers what a simulated world does not: the kernel, sockets, the start of the interpreter, and servers
that finish a call after its client was killed.

Recordings are written all the time, whether or not a daemon runs. A daemon is killed 0 to 1.5 s after its start: one in
five after the start of the process, the others after its first log event, since on a busy machine the imports alone
take longer. The last daemon runs until everything is completed, and is then stopped by SIGTERM. ``kill_oracle.py``
checks the results.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import StreamSet
from cef_trio.lab.completed_parts import with_parts
from cef_trio.lab.kill_life import daemon_life, environment_for
from cef_trio.lab.kill_oracle import Checkpointed, object_violations, parts_sent_again, uploads_unknown
from cef_trio.lab.kill_recording import GrowingRecording
from cef_trio.local.servers import OWNER_NAME, LocalServers, local_servers
from cef_trio.upload.part_plan import MIB, PartPlan

MAX_LIFE_SECONDS: Final = 1.5
_LAST_LIFE_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.1
_FROM_PROCESS: Final = 0.2
"""Probability that the time until the kill starts with the process, so that the kill often hits the imports."""
_NEW_WHEN_IDLE: Final = 0.5
"""Probability of a new recording if all others are closed; otherwise the daemon may finalize those."""
_NEW_WHEN_BUSY: Final = 0.05


@dataclass(frozen=True, slots=True)
class KillCycle:
    """One killed daemon."""

    number: int
    seconds: float
    """Time from its start (see above) to the kill."""
    last_event: str
    """The last event in its log."""
    recorded: int
    """Number of parts in Redis after the kill."""
    violations: tuple[str, ...]


@dataclass(slots=True)
class KillTally:
    """Counts of a campaign; ``parts`` and ``size_bytes``: acknowledged by S3, repetitions included."""

    cycles: int = 0
    files: int = 0
    parts: int = 0
    size_bytes: int = 0
    file_bytes: int = 0
    patches: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


async def kill_campaign(
    folder: Path, *, cycles: int, seed: int, on_cycle: Callable[[KillCycle], None] = lambda _: None
) -> KillTally:
    """Kill a daemon ``cycles`` times while recordings grow.

    On cancellation the daemon is killed and the servers are stopped; the files remain.

    Args:
        folder: for all files; empty, or does not exist.
        cycles: number of kills, from 0.
        seed: seed of the random choices.
        on_cycle: called after each kill.

    Raises:
        EmbeddedValkeyError: Valkey is not installed or does not start.
        OSError: the folder cannot be written.
    """
    (folder / "watch").mkdir(parents=True)
    async with (
        local_servers(folder / "servers") as servers,
        RedisCheckpointStore(servers.redis_url, owner=OWNER_NAME, socket_timeout_seconds=5.0) as store,
        trio.open_nursery() as nursery,
    ):
        campaign = _Campaign(folder, servers, store, nursery, random.Random(seed))  # noqa: S311 - dice, no secrets
        for number in range(1, cycles + 1):
            on_cycle(await campaign.cycle(number))
        await campaign.last_life()
        return campaign.tally


class _Campaign:
    def __init__(
        self,
        folder: Path,
        servers: LocalServers,
        store: RedisCheckpointStore,
        nursery: trio.Nursery,
        dice: random.Random,
    ) -> None:
        self._folder, self._store, self._nursery, self._dice = folder, store, nursery, dice
        self._endpoint = servers.endpoint
        self._environment = environment_for(folder / "watch", servers)
        self._recordings: list[GrowingRecording] = []
        self._before: list[Checkpointed] = []
        self._since = 0
        self.tally = KillTally()

    async def cycle(self, number: int) -> KillCycle:
        idle = all(each.ended for each in self._recordings)
        if not self._recordings or self._dice.random() < (_NEW_WHEN_IDLE if idle else _NEW_WHEN_BUSY):
            self._begin_recording()
        seconds = self._dice.uniform(0.0, MAX_LIFE_SECONDS)
        async with daemon_life(self._folder, self._environment) as life:
            if self._dice.random() >= _FROM_PROCESS:
                await life.logged("daemon_starting")
            with trio.move_on_after(seconds):
                await life.process.wait()
            ended = life.process.returncode
        found = [] if ended is None else [f"the daemon ended by itself, with exit code {ended}"]
        found += self._sent_again()
        self._before = await self._checkpointed()
        self._since = len(self._endpoint.log.journal)
        event = life.last_event()
        self.tally.cycles += 1
        self.tally.kills[event] += 1
        self.tally.violations += found
        recorded = sum(len(stream.parts) for stream in self._before)
        return KillCycle(number, seconds, event, recorded, tuple(found))

    async def last_life(self) -> None:
        """Run a daemon until everything is completed, stop it, and check the results."""
        found = self.tally.violations
        async with daemon_life(self._folder, self._environment) as life:
            await life.logged("daemon_started")  # before that, SIGTERM has its default action
            with trio.move_on_after(_LAST_LIFE_SECONDS) as waiting:
                while not await self._all_completed():  # noqa: ASYNC110 - Redis has no event for it
                    await trio.sleep(_POLL_SECONDS)
            if waiting.cancelled_caught:
                found.append(f"not everything was completed within {_LAST_LIFE_SECONDS:.0f} s")
            life.process.send_signal(signal.SIGTERM)
            with trio.move_on_after(_STOP_SECONDS):
                await life.process.wait()
            if life.process.returncode != 0:
                found.append(f"the last daemon ended with exit code {life.process.returncode} instead of 0")
        found += self._sent_again()
        await self._check_end()

    def _begin_recording(self) -> None:
        path = self._folder / "watch" / f"recording-{len(self._recordings) + 1:03}.mp4"
        recording = GrowingRecording(path, self._dice.randrange(12 * MIB, 20 * MIB))
        self._recordings.append(recording)
        self._nursery.start_soon(recording.write, random.Random(self._dice.random()))  # noqa: S311

    def _sent_again(self) -> list[str]:
        patches = {each.path: each.patches for each in self._recordings}
        sizes = {each.path: each.size_bytes for each in self._recordings}
        journal = list(self._endpoint.log.journal)
        return list(parts_sent_again(self._before, journal, self._since, patches, sizes))

    async def _checkpointed(self) -> list[Checkpointed]:
        """Return all checkpoints in Redis, also of completed streams, whose parts must not be sent again either."""
        known = []
        for stream_set in StreamSet:
            for stream_id in await self._store.members(stream_set):
                found = await self._store.load(stream_id)
                if found is not None:
                    checkpoint = with_parts(self._endpoint.model, found)
                    meta = checkpoint.meta
                    plan = PartPlan.of(meta)
                    known.append(Checkpointed(meta.s3_key_prefix, Path(meta.current_path), plan, checkpoint.parts))
        return known

    async def _all_completed(self) -> bool:
        counts = await self._store.count()
        return all(each.ended for each in self._recordings) and counts[StreamSet.COMPLETED] >= len(self._recordings)

    async def _check_end(self) -> None:
        tally, model = self.tally, self._endpoint.model
        metas = await self._store.load_metas(await self._store.members(StreamSet.COMPLETED))
        paths = {known.meta.s3_key_prefix: Path(known.meta.current_path) for known in metas.values()}
        if sorted(paths.values()) != [each.path for each in self._recordings]:
            tally.violations.append(f"{len(self._recordings)} files became {len(paths)} completed streams")
        tally.violations += await object_violations(model, paths)
        open_streams = frozenset[str]()
        for stream_set in (StreamSet.ACTIVE, StreamSet.PENDING_COMPLETION):
            open_streams |= await self._store.members(stream_set)
        open_metas = await self._store.load_metas(open_streams)
        tally.violations += uploads_unknown(model, {known.meta.s3_upload_id or "" for known in open_metas.values()})
        acknowledged = [e for e in self._endpoint.log.of("UploadPart") if e.outcome == "200"]
        tally.parts, tally.size_bytes = len(acknowledged), sum(entry.size_bytes for entry in acknowledged)
        tally.files = len(self._recordings)
        tally.file_bytes = sum(each.size_bytes for each in self._recordings)
        tally.patches = sum(len(each.patches) for each in self._recordings)
