"""Faults of a simulated world's environment: file systems, mounts, a proxy, Redis.

They have a random generator of their own, so that they do not change a seed's writers and injections. Each fault is
undone in the end, so a recording that is then missing in S3 is a defect of the daemon.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import trio

from cef_trio.checkpoint.states import Status
from cef_trio.lab.file_faults import TAKEN_FOR_ANOTHER_FILE
from cef_trio.lab.filesystem import FileSystem, Leases, Numbers
from cef_trio.lab.proxy import Interference, Rule
from cef_trio.lab.redis_faults import RedisFaults
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scheduler import derived
from cef_trio.settings.after_upload import AfterUploadAction, AfterUploadRule

_MOUNT: Final = "mnt"
FOLDERS: Final = ("", "", "x/", "y/", f"{_MOUNT}/")
"""Folders of the recordings; several recordings may have the same base name."""
_SHARE_WITHOUT: Final = 0.5
"""Share of the worlds without such faults."""
_SHARE_OF_DELETE: Final = 0.3
"""Share of the other, not gentle worlds with ``AFTER_UPLOAD=delete``."""
_SYSTEMS: Final = ("ext4", "ext4", "reused", "nfs", "other-user")


@dataclass(frozen=True, slots=True)
class EnvironmentFaults:
    """The faults of one world."""

    system: str
    folders: tuple[str, ...]
    """The folder of each writer."""
    events: tuple[tuple[float, str, float], ...]
    """(start in seconds, name of the fault, duration in seconds)."""
    deletes: bool
    """Whether ``AFTER_UPLOAD`` is ``delete``."""

    @classmethod
    def of(cls, seed: int, *, gentle: bool, writers: int) -> EnvironmentFaults:
        """Return those of a seed; half of the worlds have none."""
        random = Random(derived(seed, "misfortunes"))  # noqa: S311 - to be repeated, not secret
        if random.random() < _SHARE_WITHOUT:
            return cls("ext4", ("",) * writers, (), deletes=False)
        names = sorted(_GENTLE if gentle else ALL)
        return cls(
            random.choice(_SYSTEMS),
            tuple(random.choice(FOLDERS) for _ in range(writers)),
            tuple(
                (random.uniform(0, 15), random.choice(names), random.uniform(1, 20))
                for _ in range(random.randint(0, 3))
            ),
            deletes=not gentle and random.random() < _SHARE_OF_DELETE,
        )

    @property
    def may_end(self) -> frozenset[Status]:
        """Final statuses of a stream whose file exists."""
        return TAKEN_FOR_ANOTHER_FILE if self.system == "nfs" else frozenset()

    @property
    def affects_redis(self) -> bool:
        """Whether Redis may fail during a shutdown."""
        return any(name.startswith("redis") for _, name, _ in self.events)

    def prepare(self, context: ScenarioContext) -> None:
        """Set up the file systems and settings."""
        _set_properties(context.file_system, self.system)
        context.hits[f"file system: {self.system}"] += 1
        if any(folder.startswith(_MOUNT) for folder in self.folders):
            system = FileSystem("xfs", device=99)
            _set_properties(system, self.system)
            context.world.kernel.make_folder(context.world.folder / _MOUNT, system)
        if self.deletes:
            context.world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)

    async def inject(self, context: ScenarioContext, redis: RedisFaults) -> None:
        """Inject the faults at their times."""
        async with trio.open_nursery() as nursery:
            for at, name, seconds in self.events:
                nursery.start_soon(self._one, context, redis, at, name, seconds)

    async def _one(self, context: ScenarioContext, redis: RedisFaults, at: float, name: str, seconds: float) -> None:
        await trio.sleep(at)
        if name.startswith("mount") and _MOUNT not in {folder.rstrip("/") for folder in self.folders}:
            return
        context.hits[f"world: {name}"] += 1
        async with ALL[name](context, redis):
            await trio.sleep(seconds)


def _set_properties(system: FileSystem, name: str) -> None:
    match name:
        case "reused":
            system.numbers = Numbers.REUSED
        case "nfs":
            system.name, system.leases, system.reports_events, system.generations = "nfs", Leases.NEVER, False, False
        case "other-user":
            system.leases = Leases.NEVER
        case _:
            pass


EnvironmentFault = Callable[[ScenarioContext, RedisFaults], AbstractAsyncContextManager[None]]


def _rule(interference: Interference, operation: str, **options: Any) -> EnvironmentFault:
    @asynccontextmanager
    async def in_force(context: ScenarioContext, _redis: RedisFaults) -> AsyncIterator[None]:
        rule = context.world.proxy.add(Rule(interference, operation, **options))
        yield
        context.world.proxy.remove(rule)

    return in_force


@asynccontextmanager
async def _overflow(context: ScenarioContext, _redis: RedisFaults) -> AsyncIterator[None]:
    context.world.kernel.queues.overflow()
    yield


@asynccontextmanager
async def _no_watches(context: ScenarioContext, _redis: RedisFaults) -> AsyncIterator[None]:
    context.world.kernel.queues.watches_left = 0
    yield
    context.world.kernel.queues.watches_left = None


@asynccontextmanager
async def _skew(context: ScenarioContext, _redis: RedisFaults) -> AsyncIterator[None]:
    context.file_system.skew_ns = 3600 * 10**9
    yield
    context.file_system.skew_ns = 0


@asynccontextmanager
async def _unmounted(context: ScenarioContext, _redis: RedisFaults) -> AsyncIterator[None]:
    folder = context.world.folder / _MOUNT
    if _MOUNT in context.unmounted:
        yield
        return
    context.unmounted[_MOUNT] = trio.Event()
    away = context.world.kernel.unmount(folder)
    yield
    context.world.kernel.remount(folder, away)
    context.unmounted.pop(_MOUNT).set()


@asynccontextmanager
async def _mount_dead(context: ScenarioContext, _redis: RedisFaults) -> AsyncIterator[None]:
    system = context.world.kernel.file_system(context.world.folder / _MOUNT)
    system.error = errno.ENOTCONN
    yield
    system.error = None


@asynccontextmanager
async def _redis_silent(_context: ScenarioContext, redis: RedisFaults) -> AsyncIterator[None]:
    redis.silent.value = True
    yield
    redis.silent.value = False


@asynccontextmanager
async def _redis_read_only(_context: ScenarioContext, redis: RedisFaults) -> AsyncIterator[None]:
    redis.turn_read_only()
    yield
    redis.refusal = ""


@asynccontextmanager
async def _redis_failover(_context: ScenarioContext, redis: RedisFaults) -> AsyncIterator[None]:
    replica = redis.keep()
    await trio.sleep(0.5)
    redis.turn_read_only()
    yield
    redis.fail_over(replica)


_GENTLE: Final[Mapping[str, EnvironmentFault]] = {
    "overflow": _overflow,
    "no watches": _no_watches,
    "future": _skew,
    "mount gone": _unmounted,
    "mount dead": _mount_dead,
    "page 404": _rule(Interference.PAGE, "*", status=404, title="404 Not Found"),
    "page 403": _rule(Interference.PAGE, "*", status=403, title="403 Forbidden"),
    "page 200": _rule(Interference.PAGE, "*", status=200, title="Welcome to nginx!"),
    "stale head": _rule(Interference.STALE, "HeadObject"),
    "redis silent": _redis_silent,
    "redis read-only": _redis_read_only,
}
"""Faults that may only cost time."""
_ROUGH: Final[Mapping[str, EnvironmentFault]] = {
    "late part": _rule(Interference.LATE, "UploadPart", times=1, seconds=4.0),
    "stale uploads": _rule(Interference.STALE, "ListMultipartUploads"),
    "late creation": _rule(Interference.LATE, "CreateMultipartUpload", times=1, seconds=3.0),
    "redis failover": _redis_failover,
}
"""Faults after which parts may be sent again."""
ALL: Final[Mapping[str, EnvironmentFault]] = {**_GENTLE, **_ROUGH}
"""By name; counted as ``world: …``."""
