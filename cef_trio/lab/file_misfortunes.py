"""What befalls a simulated world's files: file systems that tell little or lie, time stamps, rights, preallocation.

Thrown apart from the other dice, so that a seed's writers, strikes and services stay what they are. Whatever is done to
the world is undone in the end, but for what stays with a file: a time stamp, another inode.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from cef_trio.checkpoint.states import Status
from cef_trio.files.file_system import named
from cef_trio.lab.filesystem import FileSystem, Leases, Numbers
from cef_trio.lab.scenario_context import Stage
from cef_trio.lab.scheduler import derived

_SHARE: Final = 0.3
"""Of the worlds; the others have none of these."""
_SECOND_NS: Final = 10**9
_HOUR_NS: Final = 3600 * _SECOND_NS


@dataclass(frozen=True, slots=True)
class FileMisfortunes:
    """What was thrown."""

    system: str = ""
    """One of :data:`SYSTEMS`; empty: as the other dice have it."""
    events: tuple[tuple[float, str, float], ...] = ()
    """(seconds from the beginning, one of :data:`ALL`, for how many seconds)."""
    preallocates: tuple[bool, ...] = ()
    """Whether each writer sets the full size first, fills it, and cuts the rest off."""
    moves: bool = False
    """Whether a recording that gets another name gets another folder, too."""
    seed: int = 0

    @classmethod
    def of(cls, seed: int, *, gentle: bool, writers: int) -> FileMisfortunes:
        """Those of a seed."""
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
        """How a stream may end whose file is there."""
        return TAKEN_FOR_ANOTHER if self.system in _NAMELESS else frozenset()

    def prepare(self, stage: Stage) -> None:
        """Make the world's file systems so."""
        if self.system:
            stage.hits[f"file system: {self.system}"] += 1
            for system in stage.world.kernel.file_systems():
                SYSTEMS[self.system](system)

    async def befall(self, stage: Stage) -> None:
        """Let it happen."""
        async with trio.open_nursery() as nursery:
            for number, event in enumerate(self.events):
                nursery.start_soon(self._one, stage, *event, Random(derived(self.seed, "file event", number)))  # noqa: S311

    async def _one(self, stage: Stage, at: float, name: str, seconds: float, random: Random) -> None:
        await trio.sleep(at)
        async with ALL[name](stage, random):
            await trio.sleep(seconds)


# -- what a file system keeps and tells --------------------------------------------------------------------------------


def _lying(system: FileSystem) -> None:
    """A FUSE mount: it grants a lease whoever writes on the other side, and inotify hears of nothing."""
    system.name, system.leases, system.heard = "fuse", Leases.ALWAYS, False
    system.generations = False


def _fat(system: FileSystem) -> None:
    system.name, system.tick_ns, system.generations = "vfat", 2 * _SECOND_NS, False


def _whole_seconds(system: FileSystem) -> None:
    """As ext3 has them, or a file server below a mount."""
    system.tick_ns = _SECOND_NS


def _untold(system: FileSystem) -> None:
    """A number is the next file's, and no generation tells them apart."""
    system.numbers, system.generations = Numbers.REUSED, False


SYSTEMS: Final[Mapping[str, Callable[[FileSystem], None]]] = {
    "fuse": _lying,
    "fat": _fat,
    "whole seconds": _whole_seconds,
    "reused, untold": _untold,
}
"""By name; ``file system: …`` counts them."""
_NAMELESS: Final = frozenset({"fuse", "fat", "reused, untold"})
TAKEN_FOR_ANOTHER: Final = frozenset(
    {
        Status.FAILED_FILE_REPLACED,
        Status.FAILED_FILE_MISSING_ON_RESUME,
        Status.ABORTED_NO_PARTS,
        Status.DELETED_LOCALLY,  # its number changed, and its name before that was seen (seed 452): not mended yet
    }
)
"""How a stream may end whose file is there: where nothing tells two files apart but the recorded parts, one that has
none, or whose parts were all written over while nobody watched, is another one, and is uploaded as that."""


# -- what is done to a file --------------------------------------------------------------------------------------------

FileMisfortune = Callable[[Stage, Random], AbstractAsyncContextManager[None]]


def _to_one(what: str, deed: Callable[[Stage, str, Random], None]) -> FileMisfortune:
    """Something that is done to one of the recordings that are there."""

    @asynccontextmanager
    async def done(stage: Stage, random: Random) -> AsyncIterator[None]:
        names = stage.names()
        if names:
            stage.hits[f"world: {what}"] += 1
            deed(stage, random.choice(names), random)
        yield

    return done


@asynccontextmanager
async def _denied(stage: Stage, random: Random) -> AsyncIterator[None]:
    names = stage.names()
    if not names:
        yield
        return
    stage.hits["world: denied"] += 1
    name = random.choice(names)
    inode = stage.writers.inode(name)
    stage.writers.permit(name, permitted=False)
    yield
    inode.denied = False  # wherever it is by now
    for name in stage.names():
        if stage.writers.inode(name) is inode:
            stage.writers.permit(name, permitted=True)


def _clock(what: str, skew_ns: int) -> FileMisfortune:
    """The clock that stamps is wrong for a while."""

    @asynccontextmanager
    async def wrong(stage: Stage, _random: Random) -> AsyncIterator[None]:
        stage.hits[f"world: {what}"] += 1
        stage.file_system.skew_ns = skew_ns
        yield
        stage.file_system.skew_ns = 0

    return wrong


@asynccontextmanager
async def _renumbered(stage: Stage, _random: Random) -> AsyncIterator[None]:
    """Every inode number changes, where they do not last."""
    if not named(stage.file_system.name).lasting_inodes:
        stage.hits["world: renumbered"] += 1
        stage.world.kernel.renumber(stage.file_system)
    yield


def _set_back(stage: Stage, name: str, _random: Random) -> None:
    stage.writers.set_mtime(name, stage.world.kernel.now_ns() - _HOUR_NS)


def _set_ahead(stage: Stage, name: str, _random: Random) -> None:
    stage.writers.set_mtime(name, stage.world.kernel.now_ns() + _HOUR_NS)


def _touched(stage: Stage, name: str, _random: Random) -> None:
    stage.writers.open_and_close(name)


def _copied_over(stage: Stage, name: str, _random: Random) -> None:
    stage.writers.copy_over(name)


_GENTLE: Final[Mapping[str, FileMisfortune]] = {
    "denied": _denied,
    "time back": _to_one("time back", _set_back),
    "time ahead": _to_one("time ahead", _set_ahead),
    "touched": _to_one("touched", _touched),
    "clock behind": _clock("clock behind", -_HOUR_NS),
    "renumbered": _renumbered,
}
"""What may cost time, and nothing else."""
_ROUGH: Final[Mapping[str, FileMisfortune]] = {"copied over": _to_one("copied over", _copied_over)}
"""What makes another file of a recording."""
ALL: Final[Mapping[str, FileMisfortune]] = {**_GENTLE, **_ROUGH}
"""By name; ``world: …`` counts how often each really happened."""
