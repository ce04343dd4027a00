"""Worlds made of dice: what the writers do, which faults the servers have, when daemons die. The seed is the world.

Half of the worlds are *gentle*: their writers append, rewrite, rename and close, so that each recording must be
uploaded exactly once, and no part twice. In the others files are cut off, deleted, replaced and opened again, and Redis
loses its last second or everything; there the object must still be what the file was, and nothing may be left.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from cef_trio.checkpoint.memory import FaultHook, Snapshot
from cef_trio.checkpoint.memory import Moment as RedisMoment
from cef_trio.checkpoint.states import Status
from cef_trio.lab.faults import FATAL, Blow, Strike
from cef_trio.lab.file_misfortunes import FileMisfortunes
from cef_trio.lab.lingering import lingering
from cef_trio.lab.lives import LifeSettings, Neighbour
from cef_trio.lab.misfortunes import Misfortunes
from cef_trio.lab.redis_faults import RedisFaults
from cef_trio.lab.scenario_context import Stage
from cef_trio.lab.scenarios import Scenario
from cef_trio.lab.scheduler import derived
from cef_trio.lab.world import PART
from cef_trio.s3_endpoint import Fault, Kind, Moment

SIMULATED: Final = "simulated"
"""The name of the scenario that a seed makes."""
_ENDS: Final = frozenset(
    {
        Status.DELETED_LOCALLY,
        Status.ABORTED_NO_PARTS,
        Status.FAILED_FILE_MISSING_ON_RESUME,
        Status.FAILED_FILE_REPLACED,
    }
)
_GENTLE: Final = ("append", "append", "append", "append", "patch", "rename")
_ROUGH: Final = (*_GENTLE, "truncate", "delete", "replace", "close", "pause", "touch")
_PREALLOCATED: Final = 8
"""How many parts a writer reserves at most: holes of a part or two are not told here, and may be sent twice."""
_CALLS: Final = (
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPart",
    "CompleteMultipartUpload",
    "PutObject",
    "ListParts",
)


def simulated(seed: int) -> Scenario:
    """The scenario of a seed."""
    world = _Dice.of(seed)
    unkind = Misfortunes.of(seed, gentle=world.gentle, writers=world.writers)
    files = FileMisfortunes.of(seed, gentle=world.gentle, writers=world.writers)

    lives = LifeSettings.of(seed, gentle=world.gentle)
    redis_works = not (world.stumbles or unkind.strikes_redis or world.loses_redis)
    neighbour = Neighbour.of(seed, redis_works=redis_works and not lives.changing)

    async def before(stage: Stage) -> None:
        for fault in world.faults:
            stage.arm(fault)
        if world.stumbles:
            stage.world.store.fault = world.stumble(stage)
        unkind.prepare(stage)
        files.prepare(stage)
        await neighbour.come(stage)
        await trio.lowlevel.checkpoint()

    async def script(stage: Stage) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(world.writers):
                folder = unkind.folders[number]
                # One name in each folder, as recorders have it: several folders may have the same.
                name = f"{folder}{unkind.folders[:number].count(folder)}.mp4"
                random = Random(derived(seed, "writer", number))
                if files.preallocates[number]:
                    nursery.start_soon(_preallocate, stage, name, random)
                else:
                    nursery.start_soon(_write, stage, name, random, world.gentle, files.moves)
            nursery.start_soon(files.befall, stage)
            nursery.start_soon(neighbour.leave, stage)
            if unkind.events:
                nursery.start_soon(unkind.befall, stage, RedisFaults(stage.world, also=stage.world.store.fault))
            if world.loses_redis:
                nursery.start_soon(_lose, stage, Random(derived(seed, "redis")))

    return Scenario(
        SIMULATED,
        "a world made of dice",
        script,
        before,
        may_end=(frozenset() if world.gentle else _ENDS) | files.may_end | unkind.may_end | lives.may_end,
        starts_over=not world.gentle,
        redis_may_fail=bool(world.stumbles) or unkind.strikes_redis,
        redis_silent=bool(world.stumbles) or unkind.strikes_redis,
        between=lives.between,
        # Where a recording may be taken for another one, it may be sent again.
        cheap=world.gentle
        and not (files.may_end | unkind.may_end)
        and not lives.cuts_otherwise
        and not neighbour.seconds,
        slack_parts=_PREALLOCATED * sum(files.preallocates),
        lingers=lingering(seed),
        goes_on=True,
        max_concurrent_parts=world.parts,
    )


def strikes_of(seed: int) -> tuple[Strike, ...]:
    """What strikes the daemons of a seed's world: up to four of them, one after the other."""
    random = Random(derived(seed, "strikes"))
    strikes = []
    for life in range(1, random.randint(1, 4) + 1):
        blow = random.choice(list(Blow))
        at = random.randint(1, 40 if blow in FATAL and blow is not Blow.KILL else 250)
        strikes.append(Strike(blow, at, life))
        if blow is Blow.DRAIN and random.random() < 0.5:
            strikes.append(Strike(Blow.CANCEL, at + random.randint(1, 30), life))
    return tuple(strikes)


@dataclass(frozen=True, slots=True)
class _Dice:
    """What was thrown for a world as a whole."""

    gentle: bool
    writers: int
    parts: int
    faults: tuple[Fault, ...]
    stumbles: frozenset[int]
    """Numbers of the Redis calls whose answer is lost."""
    loses_redis: bool

    @classmethod
    def of(cls, seed: int) -> _Dice:
        random = Random(derived(seed, "world"))
        gentle = random.random() < 0.5
        return cls(
            gentle=gentle,
            writers=random.randint(1, 3),
            parts=random.randint(1, 4),
            faults=tuple(_fault(random) for _ in range(random.randint(0, 6))),
            stumbles=frozenset(random.sample(range(1, 120), 4)) if random.random() < 0.3 else frozenset(),
            loses_redis=not gentle and random.random() < 0.5,
        )

    def stumble(self, stage: Stage) -> FaultHook:
        """Lose the answers that are to be lost."""
        calls = 0

        async def stumble(operation: str, moment: RedisMoment) -> None:
            nonlocal calls
            if moment is RedisMoment.AFTER and operation != "save_interrupted":
                calls += 1
                if calls in self.stumbles:
                    stage.hits["redis: answer lost"] += 1
                    await trio.sleep(5)

        return stumble


def _fault(random: Random) -> Fault:
    operation, nth = random.choice(_CALLS), random.randint(1, 8)
    times = random.choice((1, 1, 1, 2, 5))
    match random.randint(0, 11):
        case 0:
            return Fault(Kind.ERROR, operation, nth=nth, times=times, code="InternalError")
        case 1:
            return Fault(Kind.ERROR, operation, nth=nth, times=times, code="SlowDown", retry_after="1")
        case 2:
            return Fault(Kind.ERROR, "UploadPart", nth=nth, code="BadDigest")
        case 3:
            return Fault(Kind.RESET, operation, Moment.BEFORE, nth=nth, times=times)
        case 4:
            return Fault(Kind.RESET, "UploadPart", Moment.BODY, nth=nth, after_bytes=random.randint(0, PART))
        case 5:
            return Fault(Kind.RESET, operation, Moment.REPLY, nth=nth, times=times)
        case 6:
            moment = random.choice((Moment.BEFORE, Moment.REPLY))
            return Fault(Kind.ERROR_IN_200, "CompleteMultipartUpload", moment, nth=random.randint(1, 2))
        case 7:
            return Fault(Kind.STALE_PARTS, "ListParts", times=times, count=random.randint(1, 2))
        case 8:
            return Fault(Kind.TRUNCATE, operation, Moment.REPLY, nth=nth, times=times)
        case 9:
            return Fault(Kind.DAMAGE, random.choice(("UploadPart", "UploadPart", "PutObject")), nth=nth, times=times)
        case 10:
            return Fault(Kind.SKEW, nth=nth, times=40, seconds=random.choice((-7200.0, -1000.0, 1000.0, 7200.0)))
        case _:
            return Fault(Kind.SLOW, operation, Moment.REPLY, nth=nth, times=20, seconds=random.uniform(0.1, 3.0))


async def _preallocate(stage: Stage, name: str, random: Random) -> None:
    """A writer that sets the full size first, fills it, and cuts off what is left."""
    await trio.sleep(random.uniform(0, 3))
    await _until_mounted(stage, name)
    size_bytes, filled = random.randint(PART, _PREALLOCATED * PART), 0
    stage.truncate(size_bytes, name)
    stage.hits["writer: preallocate"] += 1
    while filled < size_bytes - PART // 2:
        await trio.sleep(random.expovariate(1.0))
        await _until_mounted(stage, name)
        piece = random.randbytes(min(random.randint(1, 2 * PART), size_bytes - filled))
        stage.patch(filled, piece, name)
        filled += len(piece)
    if filled < size_bytes:
        stage.hits["writer: cut"] += 1
        stage.truncate(filled, name)
    await trio.sleep(random.expovariate(1.0))
    await _until_mounted(stage, name)
    if random.random() < 0.8:
        stage.close(name)


async def _write(stage: Stage, name: str, random: Random, gentle: bool, moves: bool) -> None:
    """One recording's writer; ``moves``: it is moved to another folder when it gets another name."""
    await trio.sleep(random.uniform(0, 3))
    await _until_mounted(stage, name)
    stage.append(random.randint(1, 2 * PART), name)
    closed = False
    for _ in range(random.randint(2, 10)):
        await trio.sleep(random.expovariate(1.0))
        await _until_mounted(stage, name)
        action = _possible(random.choice(_GENTLE if gentle else _ROUGH), stage, name)
        if closed and action in {"append", "patch"}:
            stage.hits["writer: reopen"] += 1
        closed = action == "close" or (closed and action == "pause")
        stage.hits[f"writer: {action}"] += 1
        match action:
            case "patch":
                stage.patch(random.randrange(stage.size_of(name)), random.randbytes(random.randint(1, 20)), name)
            case "rename":
                folder, slash, last = name.rpartition("/")
                new = f"{folder}{slash}r{last}" if not moves else f"{folder}{slash}deep/{last}"
                stage.writers.move(name, new)
                name = new
            case "truncate":
                stage.truncate(random.randrange(stage.size_of(name)), name)
            case "delete":
                stage.delete(name)
            case "replace":
                stage.replace(random.randint(0, 2 * PART), name)
            case "close":
                stage.close(name)
            case "pause":
                await trio.sleep(random.uniform(20, 50))
            case "touch":
                stage.touch(name)
            case _:
                stage.append(random.randint(1, 2 * PART), name)
    await trio.sleep(random.expovariate(1.0))
    await _until_mounted(stage, name)
    if name in stage.names() and random.random() < 0.8:
        stage.close(name)


async def _until_mounted(stage: Stage, name: str) -> None:
    folder = name.partition("/")[0]
    if folder in stage.away:
        await stage.away[folder].wait()


def _possible(action: str, stage: Stage, name: str) -> str:
    """What a writer does that wants that; it appends where there is nothing to do it to."""
    there = name in stage.names()
    match action:
        case "patch" | "truncate":
            possible = there and stage.size_of(name) > 0
        case "rename" | "delete" | "close":
            possible = there
        case "touch":
            possible = not there
        case _:
            possible = True
    return action if possible else "append"


async def _lose(stage: Stage, random: Random) -> None:
    """Redis loses its last second, or everything."""
    store = stage.world.store
    kept: list[Snapshot] = [store.snapshot()]
    for _ in range(random.randint(1, 12)):
        await trio.sleep(1)
        kept = [*kept[-1:], store.snapshot()]
    if random.random() < 0.5:
        stage.hits["redis: everything lost"] += 1
        stage.world.lose_redis()
    else:
        stage.hits["redis: last second lost"] += 1
        stage.world.lose_redis(down_to=kept[-1])
