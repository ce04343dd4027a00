"""P2, P3: a stream that an operator wants aborted is not resumed by the next process, whichever task finds it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import PART, World


@pytest.mark.parametrize("seen", ["at the start", "expired", "holders", "load_metas", "never"])
async def test_p2_nothing_of_a_stream_is_sent_again_whose_abort_a_crash_interrupted(world: World, seen: str) -> None:
    """Its upload is aborted in S3, and the record says that it is open (world 200848).

    Its file is looked up before, while or after the requests are read, or is gone.
    """
    world.append(2 * PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
    assert await world.abort_open_uploads()
    (parked,) = world.known()
    received = world.received_bytes()
    await world.store.request_abort([parked.meta.stream_id])
    if seen == "never":
        Path(world.path("a.mp4")).unlink()
    looked_up: list[str] = []
    async with world.daemon() as daemon:

        async def see(called: str, at: Moment) -> None:
            await trio.lowlevel.checkpoint()
            if not looked_up and (called, at) == (seen, Moment.AFTER):
                looked_up.append(called)
                daemon.seen()
                await trio.sleep(0.5)  # its lookup is over before the call

        world.store.fault = see
        if seen == "at the start":
            daemon.seen()
        await trio.sleep(20)
    assert bool(looked_up) is (seen not in {"at the start", "never"})
    (aborted,) = world.known()
    assert aborted.meta.status is Status.FAILED_ABORTED
    assert world.received_bytes() == received
    assert not await world.store.abort_requests()
