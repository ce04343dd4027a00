"""Faults that last into the life of a simulated world's last daemon, which must report the risk and recover (P10).

They have a random generator of their own, so that they do not change a seed's writers and injections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import Final

from cef_trio.lab import environment_faults, file_faults
from cef_trio.lab.redis_faults import RedisFaults
from cef_trio.lab.scenario_context import ScenarioContext
from cef_trio.lab.scheduler import derived
from cef_trio.s3_endpoint import Fault, Kind

LastingFault = Callable[[ScenarioContext], AbstractAsyncContextManager[None]]
_SHARE: Final = 0.15
"""Share of the worlds with such a fault."""


def lasting_fault(seed: int) -> LastingFault | None:
    """Return the lasting fault of a seed, or ``None``."""
    random = Random(derived(seed, "lingering"))  # noqa: S311 - to be repeated, not secret
    if random.random() >= _SHARE:
        return None
    name = random.choice(sorted(LASTING_FAULTS))

    @asynccontextmanager
    async def lasts(context: ScenarioContext) -> AsyncIterator[None]:
        context.hits[f"lasting: {name}"] += 1
        async with LASTING_FAULTS[name](context, random):
            yield

    return lasts


def _of_services(name: str) -> Callable[[ScenarioContext, Random], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lasts(context: ScenarioContext, _random: Random) -> AsyncIterator[None]:
        async with environment_faults.ALL[name](context, RedisFaults(context.world)):
            yield
        context.world.store.fault = None

    return lasts


@asynccontextmanager
async def _parts_fail(context: ScenarioContext, _random: Random) -> AsyncIterator[None]:
    """UploadPart fails; all other calls work."""
    armed = context.arm(Fault(Kind.ERROR, "UploadPart", times=None, code="InternalError"))
    yield
    context.world.endpoint.faults.disarm(armed)


@asynccontextmanager
async def _over_quota(context: ScenarioContext, _random: Random) -> AsyncIterator[None]:
    """A quota has no room for a part; all other calls work, small ones of data too."""
    armed = context.refuse_parts_over_quota()
    yield
    context.world.endpoint.faults.disarm(armed)


LASTING_FAULTS: Final[Mapping[str, Callable[[ScenarioContext, Random], AbstractAsyncContextManager[None]]]] = {
    "damaged": file_faults.ALL["damaged"],
    "denied": file_faults.ALL["denied"],
    "over quota": _over_quota,
    "page 403": _of_services("page 403"),
    "page 404": _of_services("page 404"),
    "parts fail": _parts_fail,
    "redis read-only": _of_services("redis read-only"),
    "redis silent": _of_services("redis silent"),
}
"""By name; counted as ``lasting: …``."""
