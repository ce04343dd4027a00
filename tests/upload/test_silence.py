"""Only ``STREAM_TIMEOUT_SECONDS`` without a write end a recording without a close event (kind 1, P8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from waiting import completed

from cef_trio.checkpoint.states import Status
from cef_trio.files.file_stat import FileStat
from cef_trio.files.reader import OpenRecording
from cef_trio.lab.disk import InlineDisk, InlineRecording
from cef_trio.lab.world import PART, World


@pytest.fixture
def cached_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that caches a file's attributes until the file is opened again (sshfs)."""
    stat, opened = InlineDisk.stat, InlineDisk.open
    remembered: dict[str, FileStat | None] = {}

    async def remembered_stat(self: InlineDisk, path: str) -> FileStat | None:
        if path not in remembered:
            remembered[path] = await stat(self, path)
        else:
            await trio.lowlevel.checkpoint()
        return remembered[path]

    @asynccontextmanager
    async def remembering(self: InlineDisk, path: str) -> AsyncIterator[OpenRecording]:
        async with opened(self, path) as recording:
            remembered[path] = await stat(self, path)
            yield recording

    monkeypatch.setattr(InlineDisk, "stat", remembered_stat)
    monkeypatch.setattr(InlineDisk, "open", remembering)


async def test_p8_cached_attributes_without_changes_end_no_recording(world: World, cached_looks: None) -> None:
    world.append(PART // 2)
    async with world.daemon():
        for _ in range(40):
            await trio.sleep(5)
            world.append(100)
        assert {one.meta.status for one in await world.checkpoints()} == {Status.ACTIVE}
        ended_at = trio.current_time()
        await completed(world)
        assert trio.current_time() - ended_at >= world.stream_timeout_seconds
    assert world.recordings() == [world.content()]


async def test_p8_a_recording_that_was_written_during_its_verification_must_be_silent_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event reports it: only the stream's own check has seen it."""
    read = InlineRecording.read
    written_at: list[float] = []

    async def written_meanwhile(self: InlineRecording, offset: int, size_bytes: int) -> bytes:
        block = await read(self, offset, size_bytes)
        if trio.current_time() >= world.stream_timeout_seconds and not written_at:
            world.append(100)
            written_at.append(trio.current_time())
        return block

    monkeypatch.setattr(InlineRecording, "read", written_meanwhile)
    world.append(PART // 2)
    async with world.daemon():
        await completed(world)
        assert trio.current_time() - written_at[0] >= world.stream_timeout_seconds
    assert world.recordings() == [world.content()]
