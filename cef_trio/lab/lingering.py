"""A trouble that a simulated world's last daemon still meets: it must say what is at risk, and come back (P10).

Thrown apart from the other dice, so that a seed's writers and strikes stay what they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import Final

from cef_trio.lab import file_misfortunes, misfortunes
from cef_trio.lab.redis_faults import RedisFaults
from cef_trio.lab.scenario_context import Stage
from cef_trio.lab.scheduler import derived
from cef_trio.s3_endpoint import Fault, Kind

Trouble = Callable[[Stage], AbstractAsyncContextManager[None]]
_SHARE: Final = 0.15
"""Of the worlds; in the others everything works in the end."""


def lingering(seed: int) -> Trouble | None:
    """That of a seed."""
    random = Random(derived(seed, "lingering"))  # noqa: S311 - to be repeated, not secret
    if random.random() >= _SHARE:
        return None
    name = random.choice(sorted(TROUBLES))

    @asynccontextmanager
    async def lasts(stage: Stage) -> AsyncIterator[None]:
        stage.hits[f"lingers: {name}"] += 1
        async with TROUBLES[name](stage, random):
            yield

    return lasts


def _of_services(name: str) -> Callable[[Stage, Random], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lasts(stage: Stage, _random: Random) -> AsyncIterator[None]:
        async with misfortunes.ALL[name](stage, RedisFaults(stage.world)):
            yield
        stage.world.store.fault = None

    return lasts


@asynccontextmanager
async def _parts_fail(stage: Stage, _random: Random) -> AsyncIterator[None]:
    """S3 answers everything but what is sent."""
    armed = stage.arm(Fault(Kind.ERROR, "UploadPart", times=None, code="InternalError"))
    yield
    stage.world.endpoint.faults.disarm(armed)


TROUBLES: Final[Mapping[str, Callable[[Stage, Random], AbstractAsyncContextManager[None]]]] = {
    "denied": file_misfortunes.ALL["denied"],
    "page 403": _of_services("page 403"),
    "page 404": _of_services("page 404"),
    "parts fail": _parts_fail,
    "redis read-only": _of_services("redis read-only"),
    "redis silent": _of_services("redis silent"),
}
"""By name; ``lingers: …`` counts them."""
