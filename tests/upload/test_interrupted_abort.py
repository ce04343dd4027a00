"""P2, P3: a stream that an operator wants aborted is not resumed, whichever task or process finds its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import Status
from cef_trio.files.identity import HEAD_BYTES, IdentityMatch
from cef_trio.lab.world import PART, World
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload import recognition


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


@pytest.mark.parametrize("lasting_inodes", [True, False])
@pytest.mark.parametrize("parts_sent", [True, False])
async def test_an_aborted_recording_that_goes_on_growing_is_not_begun_again(
    world: World, monkeypatch: pytest.MonkeyPatch, *, parts_sent: bool, lasting_inodes: bool
) -> None:
    """Also where inode numbers do not last, and no part tells that it is the same file (world 308262)."""
    if not lasting_inodes:
        monkeypatch.setattr(recognition, "compare_identity", lambda *_: IdentityMatch.ASK_BYTES)
    if not parts_sent:
        world.endpoint.faults.arm(Fault(Kind.FREEZE, "UploadPart", times=None))
    world.append(HEAD_BYTES + 41)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
        (stream,) = world.known()
        assert bool(stream.parts) is parts_sent
        await world.store.request_abort([stream.meta.stream_id])
        await trio.sleep(10)
        for _ in range(5):
            world.append(PART)
            daemon.seen()
            await trio.sleep(5)
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await trio.sleep(20)
    assert [one.meta.status for one in world.known()] == [Status.FAILED_ABORTED]


@pytest.mark.parametrize("beginning", [b"the box that all of them begin with", b""])
async def test_p1_another_file_under_the_name_of_an_aborted_recording_is_uploaded(
    world: World, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    """Also if it has the inode number and the short beginning of the aborted one."""
    monkeypatch.setattr(recognition, "compare_identity", lambda *_: IdentityMatch.ASK_BYTES)
    Path(world.path("a.mp4")).write_bytes(beginning)
    if not beginning:
        world.append(HEAD_BYTES)
        world.endpoint.faults.arm(Fault(Kind.FREEZE, "UploadPart", times=None))
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
        (stream,) = world.known()
        await world.store.request_abort([stream.meta.stream_id])
        await trio.sleep(10)
        world.endpoint.faults.clear()
        Path(world.path("a.mp4")).write_bytes(beginning)  # the same inode number
        world.append(HEAD_BYTES + PART)
        daemon.closed()
        await trio.sleep(20)
    assert sorted(one.meta.status for one in world.known()) == [Status.COMPLETED, Status.FAILED_ABORTED]
    assert world.recordings() == [world.content()]
