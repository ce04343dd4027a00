"""Faults of a simulated world's files: weak or wrong file system metadata, time stamps, permissions, preallocation.

They have a random generator of their own, so that they do not change a seed's writers, injections and services. Each
fault is undone in the end, except changes of a file itself: a time stamp, another inode.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from cef_trio.checkpoint.states import Status
from cef_trio.files.file_stat import SECOND_NS
from cef_trio.files.file_system import file_system_named
from cef_trio.lab.filesystem import FileSystem, Leases, Numbers
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scheduler import derived

_SHARE: Final = 0.3
"""Share of the worlds with such faults."""
_HOUR_NS: Final = 3600 * SECOND_NS


@dataclass(frozen=True, slots=True)
class FileFaults:
    """The faults of one world."""

    system: str = ""
    """One of :data:`SYSTEMS`; empty: chosen by ``environment_faults``."""
    events: tuple[tuple[float, str, float], ...] = ()
    """(start in seconds, one of :data:`ALL`, duration in seconds)."""
    preallocates: tuple[bool, ...] = ()
    """Whether each writer preallocates its file and truncates it at the end."""
    moves: bool = False
    """Whether a rename moves the recording to another folder."""
    seed: int = 0

    @classmethod
    def of(cls, seed: int, *, gentle: bool, writers: int) -> FileFaults:
        """Return those of a seed."""
        random = Random(derived(seed, "file systems"))  # noqa: S311 - to be repeated, not secret
        if random.random() >= _SHARE:
            return cls(preallocates=(False,) * writers)
        names = sorted(_GENTLE if gentle else ALL)
        return cls(
            random.choice(("", *SYSTEMS)),
            tuple(
                (random.uniform(1, 20), random.choice(names), random.uniform(1, 15))
                for _ in range(random.randint(0, 4))
            ),
            tuple(random.random() < 0.4 for _ in range(writers)),  # noqa: PLR2004 - a die
            random.random() < 0.3,  # noqa: PLR2004 - a die
            seed,
        )

    @property
    def may_end(self) -> frozenset[Status]:
        """Final statuses of a stream whose file exists."""
        return TAKEN_FOR_ANOTHER_FILE if self.system in _WITHOUT_IDENTITY else frozenset()

    def prepare(self, context: ScenarioContext) -> None:
        """Set up the file systems."""
        if self.system:
            context.hits[f"file system: {self.system}"] += 1
            for system in context.world.kernel.file_systems():
                SYSTEMS[self.system](system)

    async def inject(self, context: ScenarioContext) -> None:
        """Inject the faults at their times."""
        async with trio.open_nursery() as nursery:
            for number, event in enumerate(self.events):
                nursery.start_soon(self._one, context, *event, Random(derived(self.seed, "file event", number)))  # noqa: S311

    async def _one(self, context: ScenarioContext, at: float, name: str, seconds: float, random: Random) -> None:
        await trio.sleep(at)
        async with ALL[name](context, random):
            await trio.sleep(seconds)


# -- kinds of file systems ---------------------------------------------------------------------------------------------


def _fuse(system: FileSystem) -> None:
    """A FUSE mount: it grants leases despite remote writers, and inotify reports nothing."""
    system.name, system.leases, system.reports_events = "fuse", Leases.ALWAYS, False
    system.generations = False


def _fat(system: FileSystem) -> None:
    system.name, system.granularity_ns, system.generations = "vfat", 2 * SECOND_NS, False


def _whole_seconds(system: FileSystem) -> None:
    """Time stamps of ext3, or of a file server below a mount."""
    system.granularity_ns = SECOND_NS


def _reused_without_generation(system: FileSystem) -> None:
    """Inode numbers are reused, and no generation distinguishes the files."""
    system.numbers, system.generations = Numbers.REUSED, False


SYSTEMS: Final[Mapping[str, Callable[[FileSystem], None]]] = {
    "fuse": _fuse,
    "fat": _fat,
    "whole seconds": _whole_seconds,
    "reused, untold": _reused_without_generation,
}
"""By name; counted as ``file system: …``."""
_WITHOUT_IDENTITY: Final = frozenset({"fuse", "fat", "reused, untold"})
TAKEN_FOR_ANOTHER_FILE: Final = frozenset(
    {
        Status.FAILED_FILE_REPLACED,
        Status.FAILED_FILE_MISSING_ON_RESUME,
        Status.ABORTED_NO_PARTS,
        Status.DELETED_LOCALLY,  # its inode number changed before its rename was seen (seed 452): known defect
    }
)
"""Final statuses of a stream whose file exists. Where only the recorded parts distinguish two files, a file without
recorded parts, or whose parts were all overwritten while no daemon ran, is taken for another one and uploaded anew."""


# -- faults of files ---------------------------------------------------------------------------------------------------

FileFault = Callable[[ScenarioContext, Random], AbstractAsyncContextManager[None]]


def _choose(what: str, context: ScenarioContext, random: Random) -> str | None:
    """Return the name of a recording that a fault strikes, and count it; ``None``: there is none."""
    names = context.names()
    if not names:
        return None
    context.hits[f"world: {what}"] += 1
    return random.choice(names)


def _change_one(what: str, change: Callable[[ScenarioContext, str, Random], None]) -> FileFault:
    """Return a fault that changes one of the existing recordings."""

    @asynccontextmanager
    async def applied(context: ScenarioContext, random: Random) -> AsyncIterator[None]:
        name = _choose(what, context, random)
        if name is not None:
            change(context, name, random)
        yield

    return applied


@asynccontextmanager
async def _denied(context: ScenarioContext, random: Random) -> AsyncIterator[None]:
    name = _choose("denied", context, random)
    if name is None:
        yield
        return
    inode = context.writers.inode(name)
    context.writers.permit(name, permitted=False)
    yield
    inode.denied = False  # wherever it is by now
    for name in context.names():
        if context.writers.inode(name) is inode:
            context.writers.permit(name, permitted=True)


@asynccontextmanager
async def _damaged(context: ScenarioContext, random: Random) -> AsyncIterator[None]:
    name = _choose("damaged", context, random)
    if name is None:
        yield
        return
    inode = context.writers.inode(name)
    context.writers.damage(name, damaged=True)
    yield
    inode.damaged = False  # wherever it is by now


def _clock(what: str, skew_ns: int) -> FileFault:
    """Return a fault that shifts the clock of the file system for a while."""

    @asynccontextmanager
    async def shifted(context: ScenarioContext, _random: Random) -> AsyncIterator[None]:
        context.hits[f"world: {what}"] += 1
        context.file_system.skew_ns = skew_ns
        yield
        context.file_system.skew_ns = 0

    return shifted


@asynccontextmanager
async def _renumbered(context: ScenarioContext, _random: Random) -> AsyncIterator[None]:
    """Change every inode number, where the file system does not keep them."""
    if not file_system_named(context.file_system.name).lasting_inodes:
        context.hits["world: renumbered"] += 1
        context.world.kernel.renumber(context.file_system)
    yield


def _mtime_back(context: ScenarioContext, name: str, _random: Random) -> None:
    context.writers.set_mtime(name, context.world.kernel.now_ns() - _HOUR_NS)


def _mtime_ahead(context: ScenarioContext, name: str, _random: Random) -> None:
    context.writers.set_mtime(name, context.world.kernel.now_ns() + _HOUR_NS)


def _touched(context: ScenarioContext, name: str, _random: Random) -> None:
    context.writers.open_and_close(name)


def _copied_over(context: ScenarioContext, name: str, _random: Random) -> None:
    context.writers.copy_over(name)


_GENTLE: Final[Mapping[str, FileFault]] = {
    "damaged": _damaged,
    "denied": _denied,
    "time back": _change_one("time back", _mtime_back),
    "time ahead": _change_one("time ahead", _mtime_ahead),
    "touched": _change_one("touched", _touched),
    "clock behind": _clock("clock behind", -_HOUR_NS),
    "renumbered": _renumbered,
}
"""Faults that may only cost time."""
_ROUGH: Final[Mapping[str, FileFault]] = {"copied over": _change_one("copied over", _copied_over)}
"""Faults that make another file of a recording."""
ALL: Final[Mapping[str, FileFault]] = {**_GENTLE, **_ROUGH}
"""By name; counted as ``world: …``."""
