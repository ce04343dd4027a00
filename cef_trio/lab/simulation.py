"""Random worlds: what the writers do, which faults the servers have, when daemons crash. A seed determines a world.

Half of the worlds are *gentle*: their writers append, rewrite, rename and close, so that each recording must be
uploaded exactly once, and no part twice. In the others files are cut off, deleted, replaced and opened again, and Redis
loses its last second or everything; there the object must still be what the file was, and nothing may be left.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from cef_trio.checkpoint.memory import StoreSnapshot
from cef_trio.checkpoint.states import Status
from cef_trio.lab.changing_settings import ChangingSettings
from cef_trio.lab.environment_faults import EnvironmentFaults
from cef_trio.lab.faults import FATAL, FaultKind, Injection
from cef_trio.lab.file_faults import FileFaults
from cef_trio.lab.lasting_faults import lasting_fault
from cef_trio.lab.redis_faults import RedisFaults, lose_responses
from cef_trio.lab.scenario_context import ScenarioContext
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
"""Maximum size of a preallocated file, in parts. The real file system reports no holes of a part or two; they may be
sent twice."""
_SECOND_DAEMON_SHARE: Final = 0.0
"""Share of the worlds with a second daemon of the folder. Zero: ``fleet_simulation.py`` has several daemons, and the
worlds of one daemon stay what they were."""
_CALLS: Final = (
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPart",
    "CompleteMultipartUpload",
    "PutObject",
    "ListParts",
)


def simulated(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    world = _WorldChoices.of(seed)
    environment = EnvironmentFaults.of(seed, gentle=world.gentle, writers=world.writers)
    files = FileFaults.of(seed, gentle=world.gentle, writers=world.writers)

    settings = ChangingSettings.of(seed, gentle=world.gentle)
    redis_works = not (world.lost_responses or environment.affects_redis or world.loses_redis)
    second_daemon = _SecondDaemon.of(seed, redis_works=redis_works and not settings.changing)

    async def before(context: ScenarioContext) -> None:
        for fault in world.faults:
            context.arm(fault)
        if world.lost_responses:
            context.world.store.fault = lose_responses(world.lost_responses, context.hits)
        environment.prepare(context)
        files.prepare(context)
        await second_daemon.start(context)
        await trio.lowlevel.checkpoint()

    async def script(context: ScenarioContext) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(world.writers):
                folder = environment.folders[number]
                # The same file name in several folders, as recorders write it.
                name = f"{folder}{environment.folders[:number].count(folder)}.mp4"
                random = Random(derived(seed, "writer", number))
                if files.preallocates[number]:
                    nursery.start_soon(_preallocate, context, name, random)
                else:
                    nursery.start_soon(_write, context, name, random, world.gentle, files.moves)
            nursery.start_soon(files.inject, context)
            nursery.start_soon(second_daemon.stop, context)
            if environment.events:
                nursery.start_soon(
                    environment.inject, context, RedisFaults(context.world, then=context.world.store.fault)
                )
            if world.loses_redis:
                nursery.start_soon(_lose_redis, context, Random(derived(seed, "redis")))

    return Scenario(
        SIMULATED,
        "a random world",
        script,
        before,
        may_end=(frozenset() if world.gentle else _ENDS) | files.may_end | environment.may_end | settings.may_end,
        starts_over=not world.gentle,
        redis_may_fail=bool(world.lost_responses) or environment.affects_redis,
        redis_silent=bool(world.lost_responses) or environment.affects_redis,
        between=settings.between,
        # A recording that may be taken for another one may be sent again.
        bounded_bytes=world.gentle
        and not (files.may_end | environment.may_end)
        and not settings.changes_part_sizes
        and not second_daemon.seconds,
        slack_parts=_PREALLOCATED * sum(files.preallocates),
        lasting_fault=lasting_fault(seed),
        script_spans_lives=True,
        max_concurrent_parts=world.parts,
    )


_PROCESS_ENDS: Final = tuple(fault for fault in FaultKind if fault is not FaultKind.ABORT)
"""What ends a daemon. Dice of their own decide about newer faults, so that the worlds of a seed stay what they were."""


def injections_of(seed: int) -> tuple[Injection, ...]:
    """Return the injections of a seed's world, into up to four consecutive daemons."""
    random = Random(derived(seed, "strikes"))
    injections = []
    for life in range(1, random.randint(1, 4) + 1):
        fault = random.choice(_PROCESS_ENDS)
        at = random.randint(1, 40 if fault in FATAL and fault is not FaultKind.KILL else 250)
        injections.append(Injection(fault, at, life))
        if fault is FaultKind.DRAIN and random.random() < 0.5:
            injections.append(Injection(FaultKind.CANCEL, at + random.randint(1, 30), life))
    aborts = Random(derived(seed, "aborts"))
    if aborts.random() < 0.2:
        injections.append(Injection(FaultKind.ABORT, aborts.randint(1, 250), aborts.randint(1, life)))
    return tuple(injections)


@dataclass(frozen=True, slots=True)
class _WorldChoices:
    """The random choices for a world as a whole."""

    gentle: bool
    writers: int
    parts: int
    faults: tuple[Fault, ...]
    lost_responses: frozenset[int]
    """Numbers of the Redis calls whose response is lost."""
    loses_redis: bool

    @classmethod
    def of(cls, seed: int) -> _WorldChoices:
        random = Random(derived(seed, "world"))
        gentle = random.random() < 0.5
        return cls(
            gentle=gentle,
            writers=random.randint(1, 3),
            parts=random.randint(1, 4),
            faults=tuple(_fault(random) for _ in range(random.randint(0, 6))),
            lost_responses=frozenset(random.sample(range(1, 120), 4)) if random.random() < 0.3 else frozenset(),
            loses_redis=not gentle and random.random() < 0.5,
        )


@dataclass(frozen=True, slots=True)
class _SecondDaemon:
    """A second daemon, on another machine, that watches the same folder for a while, without faults."""

    seconds: float
    """How long it runs, from the start of the world; 0: there is none."""

    @classmethod
    def of(cls, seed: int, *, redis_works: bool) -> _SecondDaemon:
        """Return that of a seed; none if Redis has faults, since the second daemon could lose its leases."""
        random = Random(derived(seed, "neighbour"))
        return cls(random.uniform(3, 40) if random.random() < _SECOND_DAEMON_SHARE and redis_works else 0.0)

    async def start(self, context: ScenarioContext) -> None:
        if self.seconds:
            context.hits["daemon: second"] += 1
            context.daemon = await context.start_other()

    async def stop(self, context: ScenarioContext) -> None:
        """Request its shutdown when its time is over."""
        if self.seconds:
            await trio.sleep(self.seconds)
            context.end_other()


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


async def _preallocate(context: ScenarioContext, name: str, random: Random) -> None:
    """Run a writer that preallocates its file, fills it, and truncates the rest."""
    await trio.sleep(random.uniform(0, 3))
    await _until_mounted(context, name)
    size_bytes, filled = random.randint(PART, _PREALLOCATED * PART), 0
    context.truncate(size_bytes, name)
    context.hits["writer: preallocate"] += 1
    while filled < size_bytes - PART // 2:
        await trio.sleep(random.expovariate(1.0))
        await _until_mounted(context, name)
        piece = random.randbytes(min(random.randint(1, 2 * PART), size_bytes - filled))
        context.patch(filled, piece, name)
        filled += len(piece)
    if filled < size_bytes:
        context.hits["writer: cut"] += 1
        context.truncate(filled, name)
    await trio.sleep(random.expovariate(1.0))
    await _until_mounted(context, name)
    if random.random() < 0.8:
        context.close(name)


async def _write(context: ScenarioContext, name: str, random: Random, gentle: bool, moves: bool) -> None:
    """Run the writer of one recording; ``moves``: a rename moves it to another folder."""
    await trio.sleep(random.uniform(0, 3))
    await _until_mounted(context, name)
    context.append(random.randint(1, 2 * PART), name)
    closed = False
    for _ in range(random.randint(2, 10)):
        await trio.sleep(random.expovariate(1.0))
        await _until_mounted(context, name)
        action = _possible(random.choice(_GENTLE if gentle else _ROUGH), context, name)
        if closed and action in {"append", "patch"}:
            context.hits["writer: reopen"] += 1
        closed = action == "close" or (closed and action == "pause")
        context.hits[f"writer: {action}"] += 1
        match action:
            case "patch":
                context.patch(random.randrange(context.size_of(name)), random.randbytes(random.randint(1, 20)), name)
            case "rename":
                folder, slash, last = name.rpartition("/")
                new = f"{folder}{slash}r{last}" if not moves else f"{folder}{slash}deep/{last}"
                context.writers.move(name, new)
                name = new
            case "truncate":
                context.truncate(random.randrange(context.size_of(name)), name)
            case "delete":
                context.delete(name)
            case "replace":
                context.replace(random.randint(0, 2 * PART), name)
            case "close":
                context.close(name)
            case "pause":
                await trio.sleep(random.uniform(20, 50))
            case "touch":
                context.touch(name)
            case _:
                context.append(random.randint(1, 2 * PART), name)
    await trio.sleep(random.expovariate(1.0))
    await _until_mounted(context, name)
    if name in context.names() and random.random() < 0.8:
        context.close(name)


async def _until_mounted(context: ScenarioContext, name: str) -> None:
    folder = name.partition("/")[0]
    if folder in context.unmounted:
        await context.unmounted[folder].wait()


def _possible(action: str, context: ScenarioContext, name: str) -> str:
    """Return the action, or ``append`` where it is not possible."""
    there = name in context.names()
    match action:
        case "patch" | "truncate":
            possible = there and context.size_of(name) > 0
        case "rename" | "delete" | "close":
            possible = there
        case "touch":
            possible = not there
        case _:
            possible = True
    return action if possible else "append"


async def _lose_redis(context: ScenarioContext, random: Random) -> None:
    """Make Redis lose its last second or all its data."""
    store = context.world.store
    kept: list[StoreSnapshot] = [store.snapshot()]
    for _ in range(random.randint(1, 12)):
        await trio.sleep(1)
        kept = [*kept[-1:], store.snapshot()]
    if random.random() < 0.5:
        context.hits["redis: everything lost"] += 1
        context.world.lose_redis()
    else:
        context.hits["redis: last second lost"] += 1
        context.world.lose_redis(down_to=kept[-1])
