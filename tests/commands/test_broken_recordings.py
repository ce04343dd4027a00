"""A recording that cannot be played is marked in metadata, record and metrics; a failing ffprobe marks none."""

from __future__ import annotations

import json

import pytest
from prometheus_client import generate_latest
from waiting import completed

from cef_trio.cli.list import list_streams
from cef_trio.cli.list_selection import Selection
from cef_trio.cli.session import CommandContext
from cef_trio.exceptions import BrokenRecordingError, FFprobeError
from cef_trio.lab.kernel import Host
from cef_trio.lab.world import PART, World
from cef_trio.media import MediaInfo
from cef_trio.upload.object_key import metadata_key

CUT_OFF = "it is cut off: 7 bytes of its last box, 'mdat', are missing"
FOUND: dict[str, tuple[MediaInfo | Exception, str | None]] = {
    "whole": (MediaInfo(duration_seconds=2.0), None),
    "cut off": (MediaInfo(duration_seconds=2.0, broken=CUT_OFF), CUT_OFF),
    "no recording": (BrokenRecordingError("moov atom not found"), "its index (moov) is missing"),
    "ffprobe is missing": (FFprobeError("'ffprobe' cannot be run"), None),
    "ffprobe is slow": (FFprobeError("took longer than 5 s"), None),
}


@pytest.mark.parametrize("case", FOUND)
async def test_a_broken_recording_is_completed_and_marked(
    world: World, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    answer, expected = FOUND[case]

    async def probe(_world: World, _host: Host, _path: str) -> MediaInfo:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(World, "_probe", probe)
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.closed()
        (done,) = await completed(world)
        text = generate_latest(daemon.services.metrics.registry).decode()
    assert f"cef_trio_broken_recordings_total {1.0 if expected else 0.0}" in text
    document = json.loads(world.objects()[metadata_key(done.meta.s3_key_prefix)])
    assert document["broken"] == done.meta.broken
    assert (done.meta.broken is None) == (expected is None)
    assert (expected or "") in (done.meta.broken or "")
    assert world.recordings() == [world.content()]  # P1: the object is what the file is


async def test_broken_ones_can_be_listed(
    world: World, context: CommandContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def probe(_world: World, _host: Host, path: str) -> MediaInfo:
        return MediaInfo(duration_seconds=2.0, broken=CUT_OFF if path.endswith("b.mp4") else None)

    monkeypatch.setattr(World, "_probe", probe)
    for name in ("a.mp4", "b.mp4"):
        world.append(PART, name)
    async with world.daemon() as daemon:
        for name in ("a.mp4", "b.mp4"):
            daemon.closed(name)
        await completed(world)
    capsys.readouterr()
    await list_streams(context, Selection(broken=True), as_json=True)
    [listed] = json.loads(capsys.readouterr().out)["streams"]
    assert (listed["path"], listed["broken"]) == (world.path("b.mp4"), CUT_OFF)
    await list_streams(context, Selection(broken=True), as_json=False)
    assert f"BROKEN: {CUT_OFF}" in capsys.readouterr().out
