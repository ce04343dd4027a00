"""What befalls a simulated world besides its servers' faults: by its file system, its mounts, a proxy, its Redis.

Thrown apart from the other dice, so that a seed's writers and strikes stay what they are. Whatever is done to the world
is undone in the end: what then stays away is the daemon's fault.
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
from cef_trio.lab.file_misfortunes import TAKEN_FOR_ANOTHER
from cef_trio.lab.filesystem import FileSystem, Leases, Numbers
from cef_trio.lab.proxy import Interference, Rule
from cef_trio.lab.redis_faults import RedisFaults
from cef_trio.lab.scenario_context import Stage
from cef_trio.lab.scheduler import derived
from cef_trio.postprocess.after_upload_rules import AfterUploadAction, AfterUploadRule

_MOUNT: Final = "mnt"
FOLDERS: Final = ("", "", "x/", "y/", f"{_MOUNT}/")
"""Where the recordings are; several may have one base name."""
_KIND: Final = 0.5
_DELETES: Final = 0.3
_SYSTEMS: Final = ("ext4", "ext4", "reused", "nfs", "other-user")


@dataclass(frozen=True, slots=True)
class Misfortunes:
    """What was thrown."""

    system: str
    folders: tuple[str, ...]
    """Of each writer."""
    events: tuple[tuple[float, str, float], ...]
    """(seconds from the beginning, what, for how many seconds)."""
    deletes: bool
    """Whether uploaded recordings are to be deleted."""

    @classmethod
    def of(cls, seed: int, *, gentle: bool, writers: int) -> Misfortunes:
        """Those of a seed; half of the worlds have none."""
        random = Random(derived(seed, "misfortunes"))  # noqa: S311 - to be repeated, not secret
        if random.random() < _KIND:
            return cls("ext4", ("",) * writers, (), deletes=False)
        names = sorted(_GENTLE if gentle else ALL)
        return cls(
            random.choice(_SYSTEMS),
            tuple(random.choice(FOLDERS) for _ in range(writers)),
            tuple(
                (random.uniform(0, 15), random.choice(names), random.uniform(1, 20))
                for _ in range(random.randint(0, 3))
            ),
            deletes=not gentle and random.random() < _DELETES,
        )

    @property
    def may_end(self) -> frozenset[Status]:
        """How a stream may end whose file is there."""
        return TAKEN_FOR_ANOTHER if self.system == "nfs" else frozenset()

    @property
    def strikes_redis(self) -> bool:
        """Whether Redis may be silent, or refuse, when a daemon leaves."""
        return any(name.startswith("redis") for _, name, _ in self.events)

    def prepare(self, stage: Stage) -> None:
        """Make the world so."""
        _turn(stage.file_system, self.system)
        stage.hits[f"file system: {self.system}"] += 1
        if any(folder.startswith(_MOUNT) for folder in self.folders):
            system = FileSystem("xfs", device=99)
            _turn(system, self.system)
            stage.world.kernel.make_folder(stage.world.folder / _MOUNT, system)
        if self.deletes:
            stage.world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)

    async def befall(self, stage: Stage, redis: RedisFaults) -> None:
        """Let it happen."""
        async with trio.open_nursery() as nursery:
            for at, name, seconds in self.events:
                nursery.start_soon(self._one, stage, redis, at, name, seconds)

    async def _one(self, stage: Stage, redis: RedisFaults, at: float, name: str, seconds: float) -> None:
        await trio.sleep(at)
        if name.startswith("mount") and _MOUNT not in {folder.rstrip("/") for folder in self.folders}:
            return
        stage.hits[f"world: {name}"] += 1
        async with ALL[name](stage, redis):
            await trio.sleep(seconds)


def _turn(system: FileSystem, name: str) -> None:
    match name:
        case "reused":
            system.numbers = Numbers.REUSED
        case "nfs":
            system.name, system.leases, system.heard, system.generations = "nfs", Leases.NEVER, False, False
        case "other-user":
            system.leases = Leases.NEVER
        case _:
            pass


Misfortune = Callable[[Stage, RedisFaults], AbstractAsyncContextManager[None]]


def _rule(interference: Interference, operation: str, **options: Any) -> Misfortune:
    @asynccontextmanager
    async def in_force(stage: Stage, _redis: RedisFaults) -> AsyncIterator[None]:
        rule = stage.world.proxy.add(Rule(interference, operation, **options))
        yield
        stage.world.proxy.remove(rule)

    return in_force


@asynccontextmanager
async def _overflow(stage: Stage, _redis: RedisFaults) -> AsyncIterator[None]:
    stage.world.kernel.queues.overflow()
    yield


@asynccontextmanager
async def _no_watches(stage: Stage, _redis: RedisFaults) -> AsyncIterator[None]:
    stage.world.kernel.queues.watches_left = 0
    yield
    stage.world.kernel.queues.watches_left = None


@asynccontextmanager
async def _skew(stage: Stage, _redis: RedisFaults) -> AsyncIterator[None]:
    stage.file_system.skew_ns = 3600 * 10**9
    yield
    stage.file_system.skew_ns = 0


@asynccontextmanager
async def _unmounted(stage: Stage, _redis: RedisFaults) -> AsyncIterator[None]:
    folder = stage.world.folder / _MOUNT
    if _MOUNT in stage.away:
        yield
        return
    stage.away[_MOUNT] = trio.Event()
    away = stage.world.kernel.unmount(folder)
    yield
    stage.world.kernel.remount(folder, away)
    stage.away.pop(_MOUNT).set()


@asynccontextmanager
async def _mount_dead(stage: Stage, _redis: RedisFaults) -> AsyncIterator[None]:
    system = stage.world.kernel.file_system(stage.world.folder / _MOUNT)
    system.error = errno.ENOTCONN
    yield
    system.error = None


@asynccontextmanager
async def _redis_silent(_stage: Stage, redis: RedisFaults) -> AsyncIterator[None]:
    redis.silent.value = True
    yield
    redis.silent.value = False


@asynccontextmanager
async def _redis_read_only(_stage: Stage, redis: RedisFaults) -> AsyncIterator[None]:
    redis.turn_read_only()
    yield
    redis.refusal = ""


@asynccontextmanager
async def _redis_failover(_stage: Stage, redis: RedisFaults) -> AsyncIterator[None]:
    replica = redis.keep()
    await trio.sleep(0.5)
    redis.turn_read_only()
    yield
    redis.fail_over(replica)


_GENTLE: Final[Mapping[str, Misfortune]] = {
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
"""What may cost time, and nothing else."""
_ROUGH: Final[Mapping[str, Misfortune]] = {
    "late part": _rule(Interference.LATE, "UploadPart", times=1, seconds=4.0),
    "stale uploads": _rule(Interference.STALE, "ListMultipartUploads"),
    "late creation": _rule(Interference.LATE, "CreateMultipartUpload", times=1, seconds=3.0),
    "redis failover": _redis_failover,
}
"""What may have parts sent again."""
ALL: Final[Mapping[str, Misfortune]] = {**_GENTLE, **_ROUGH}
"""By name; ``world: …`` counts how often each really happened."""
