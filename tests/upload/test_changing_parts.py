"""A recorder that rewrites its header all the time: that part is left out and told, and the others go on."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from waiting import completed, until

from cef_trio.lab.disk import InlineRecording
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.observability.at_risk import Reason
from cef_trio.upload import finalize
from cef_trio.upload.live_stream import LiveStream
from cef_trio.upload.risks import RiskObserver
from cef_trio.upload.services import Services
from cef_trio.upload.session import StreamUpload

HOT = "hot.mp4"


class Rewriting:
    """While it is on, the first bytes of a recording are others at each read; its file system shows no new size."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.on = True
        self.reads = 0
        numbers, read = count(1), InlineRecording.read

        async def read_changed(recording: InlineRecording, offset: int, size_bytes: int) -> bytes:
            block = await read(recording, offset, size_bytes)
            if offset or not recording._path.endswith(HOT):
                return block
            self.reads += 1
            return next(numbers).to_bytes(8) + block[8:] if self.on else block

        patch.setattr(InlineRecording, "read", read_changed)


@pytest.fixture
def rewriting(monkeypatch: pytest.MonkeyPatch) -> Rewriting:
    return Rewriting(monkeypatch)


def hot_stream(daemon: WorldDaemon) -> LiveStream:
    (live,) = [live for live in daemon.supervisor.live if live.path.endswith(HOT)]
    return live


def parts_in_s3(live: LiveStream) -> set[int]:
    return set(live.processor.upload.parts) if live.processor.upload is not None else set()


def reasons(daemon: WorldDaemon) -> set[Reason]:
    return {risk.reason for risk in RiskObserver(daemon.services, daemon.supervisor)()}


@pytest.mark.parametrize("other", [False, True])
async def test_p10_a_part_that_changes_at_each_read_is_told_and_the_others_go_on_without_it(
    world: World, rewriting: Rewriting, other: bool
) -> None:
    world.stream_timeout_seconds = 1e6
    world.append(4 * PART, HOT)
    async with world.daemon() as daemon:
        for seconds in range(0, 600, 10):
            world.append(PART // 2, HOT)
            daemon.seen(HOT)
            if other and seconds % 30 == 0:
                world.append(PART, "other.mp4")
                daemon.seen("other.mp4")
            await trio.sleep(10)
            live = hot_stream(daemon)
            assert parts_in_s3(live) == set(range(2, 5 + (seconds // 10 + 1) // 2)), "the others do not wait for it"
            assert reasons(daemon) == ({Reason.NOT_MOVING} if seconds >= 60 else set())
        [risk] = RiskObserver(daemon.services, daemon.supervisor)()
        assert (risk.size_bytes, risk.recordings) == (live.lag(trio.current_time()).size_bytes, 1)
        assert risk.size_bytes >= PART
        assert "part 1" in risk.why
        sent_in_vain = live.processor.progress.requests["upload_part"] - len(parts_in_s3(live))
        assert sent_in_vain <= world.policy.attempts
        rewriting.on = False
        await until(lambda: 1 in parts_in_s3(live), seconds=700)  # it is sent although nothing of the file changes
        assert reasons(daemon) == set()
        daemon.closed(HOT)
        if other:
            daemon.closed("other.mp4")
        await completed(world)
    assert world.content(HOT) in world.recordings()
    assert world.open_uploads() == []


async def test_a_part_that_changed_once_is_sent_soon(world: World, rewriting: Rewriting) -> None:
    world.stream_timeout_seconds = 1e6
    world.append(PART, HOT)
    async with world.daemon() as daemon:
        daemon.seen(HOT)
        await until(lambda: daemon.supervisor.live and hot_stream(daemon).processor.upload is not None)
        live = hot_stream(daemon)
        await until(lambda: live.processor.upload.changing)  # type: ignore[union-attr]
        rewriting.on = False
        await until(lambda: parts_in_s3(live) == {1}, seconds=5)
        assert reasons(daemon) == set()


@pytest.mark.parametrize("left", [10, 2 * PART])
async def test_a_part_that_changed_and_was_cut_is_neither_told_nor_looked_at(
    world: World, rewriting: Rewriting, left: int
) -> None:
    """Either nothing of it is left, or it became quiet, and a later part is cut."""
    world.stream_timeout_seconds = 1e6
    world.append(PART if left < PART else 3 * PART, HOT)
    async with world.daemon() as daemon:
        daemon.seen(HOT)
        await trio.sleep(100)
        assert reasons(daemon) == {Reason.NOT_MOVING}
        os.truncate(world.path(HOT), left)
        rewriting.on = left < PART
        daemon.seen(HOT)
        await trio.sleep(10)
        reads = rewriting.reads
        await trio.sleep(600)
        assert reasons(daemon) == set()
        assert rewriting.reads == reads
        rewriting.on = False
        daemon.closed(HOT)
        await completed(world)
    assert world.recordings() == [world.content(HOT)]


async def test_p10_a_recording_that_changes_after_its_end_is_told_until_it_is_quiet(
    world: World, rewriting: Rewriting
) -> None:
    world.append(4 * PART, HOT)
    async with world.daemon() as daemon:
        daemon.closed(HOT)
        await trio.sleep(70)
        for _ in range(60):
            await trio.sleep(10)
            assert reasons(daemon) == {Reason.NOT_MOVING}
        assert world.recordings() == []
        rewriting.on = False
        await completed(world)
    assert world.recordings() == [world.content(HOT)]


class ChangedInEachPass:
    """While it is on, another byte is written before each pass over an ended recording. Its size stays."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch, *, is_seen: bool) -> None:
        """``is_seen``: by its time stamp, and during the pass; else between two passes, as through a mapping."""
        self.on = True
        self.passes = 0
        send = finalize._send_changed_parts

        async def pass_over(services: Services, upload: StreamUpload, *rest: Any) -> bool:
            if not self.on:
                return await send(services, upload, *rest)
            self.passes += 1
            if is_seen:
                changed = await send(services, upload, *rest)
                self.write(world)
                return changed
            before = os.stat(world.path(HOT))
            self.write(world)
            os.utime(world.path(HOT), ns=(before.st_atime_ns, before.st_mtime_ns))
            return await send(services, upload, *rest)

        patch.setattr(finalize, "_send_changed_parts", pass_over)

    def write(self, world: World) -> None:
        with Path(world.path(HOT)).open("r+b") as file:
            file.write(self.passes.to_bytes(8))


@pytest.mark.parametrize("is_seen", [True, False])
async def test_p10_an_ended_recording_that_is_changed_in_each_pass_is_told_and_verified_with_growing_pauses(
    world: World, monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    """It was read and sent without a pause, for ever, while all was "ready"."""
    changes = ChangedInEachPass(world, monkeypatch, is_seen=is_seen)
    world.append(3 * PART, HOT)
    async with world.daemon() as daemon:
        daemon.closed(HOT)
        await trio.sleep(70)
        for _ in range(100):
            daemon.closed(HOT)  # what writes it closes it each time
            assert reasons(daemon) == {Reason.NOT_MOVING}
            await trio.sleep(10)
        assert changes.passes <= 2 * 13, "pauses of 0.2 seconds, then 0.4, …, 300"
        assert world.recordings() == []
        changes.on = False
        daemon.closed(HOT)
        await completed(world, seconds=310)
    assert world.recordings() == [world.content(HOT)]
    assert world.open_uploads() == []


async def test_an_ended_recording_that_grows_again_is_not_told_and_does_not_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ChangedInEachPass(world, monkeypatch, is_seen=True)
    world.append(3 * PART, HOT)
    async with world.daemon() as daemon:
        daemon.closed(HOT)
        await trio.sleep(100)
        assert reasons(daemon) == {Reason.NOT_MOVING}
        world.append(2 * PART, HOT)
        daemon.seen(HOT)
        live = hot_stream(daemon)
        await until(lambda: parts_in_s3(live) >= {1, 2, 3, 4, 5}, seconds=5)
        assert reasons(daemon) == set()
        changes.on = False
        daemon.closed(HOT)
        await completed(world, seconds=200)
    assert world.recordings() == [world.content(HOT)]
