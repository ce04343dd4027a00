"""The demo's recordings are valid MP4 for ffprobe and ffmpeg, and grow in real time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trio
from waiting import until

from cef_trio.local.fmp4 import FRAMES_PER_SECOND, Picture, blocks
from cef_trio.local.h264 import MACROBLOCK_BYTES, picture
from cef_trio.local.recorder import MIB, RecorderError, record
from cef_trio.media.ffprobe import probe
from cef_trio.resilience import Periodic


def script(folder: Path, text: str) -> str:
    """Write an executable shell script in place of ffmpeg; return its path."""
    path = folder / "ffmpeg-of-the-test"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


async def watch(path: Path, sizes: set[int]) -> None:
    """Every size that the file was seen to have."""
    async for _ in Periodic(0.02):
        sizes.add(path.stat().st_size if path.exists() else 0)


async def cancel_when_it_grows(path: Path, ffmpeg_path: str) -> None:
    async def grows() -> bool:
        return path.exists() and path.stat().st_size > MIB

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: record(path, 600.0, ffmpeg_path=ffmpeg_path))
        await until(grows)
        nursery.cancel_scope.cancel()


async def running_with(path: Path) -> bytes:
    """The processes that name this file."""
    listed = await trio.run_process(["pgrep", "-f", str(path)], capture_stdout=True, check=False)
    return listed.stdout


def own_file(path: Path, seconds: float, bytes_per_second: int) -> Picture:
    size = Picture.for_rate(bytes_per_second)
    path.write_bytes(b"".join(data for _, data in blocks(seconds, size)))
    return size


@pytest.mark.real
@pytest.mark.parametrize(("seconds", "bytes_per_second"), [(1.0, 50_000), (3.2, MIB), (10.0, 3 * MIB)])
async def test_the_built_in_mp4_has_the_requested_duration_and_rate(
    tmp_path: Path, seconds: float, bytes_per_second: int
) -> None:
    path = tmp_path / "own.mp4"
    size = own_file(path, seconds, bytes_per_second)
    media = await probe(str(path), ffprobe_path="ffprobe", timeout_seconds=20)
    assert media.duration_seconds == pytest.approx(seconds, abs=0.1)
    assert (media.video_codec, media.width, media.height) == ("h264", size.width * 16, size.height * 16)
    assert media.frame_rate == pytest.approx(FRAMES_PER_SECOND, abs=0.1)
    assert path.stat().st_size == pytest.approx(seconds * bytes_per_second, rel=0.25)


@pytest.mark.real
async def test_every_picture_can_be_decoded(tmp_path: Path) -> None:
    path = tmp_path / "own.mp4"
    own_file(path, 2.0, MIB)
    done = await trio.run_process(
        ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-f", "framemd5", "-"],
        capture_stdout=True,
        capture_stderr=True,
    )
    assert done.stderr == b""
    pictures = [line for line in done.stdout.splitlines() if not line.startswith(b"#")]
    assert len(pictures) == 2 * FRAMES_PER_SECOND
    assert len({line.rpartition(b",")[2] for line in pictures}) == len(pictures), "the picture moves"


def test_a_picture_contains_no_start_code() -> None:
    slice_ = picture(7, 5, 3)
    assert b"\0\0" not in slice_
    assert len(slice_) == pytest.approx(35 * MACROBLOCK_BYTES, rel=0.01)


def test_the_pieces_are_the_file_in_order_and_in_time() -> None:
    moments = [moment for moment, _ in blocks(2.0, Picture(2, 2))]
    assert moments == sorted(moments)
    assert moments[0] == 0.0
    assert moments[-1] == 2.0


@pytest.mark.real
@pytest.mark.parametrize("bytes_per_second", [MIB, 8 * MIB])
@pytest.mark.parametrize(("ffmpeg_path", "maker"), [("ffmpeg", "ffmpeg"), ("no-such-ffmpeg", "the built-in writer")])
async def test_a_recording_grows_in_real_time_at_the_rate_it_was_asked_for(
    tmp_path: Path, ffmpeg_path: str, maker: str, bytes_per_second: int
) -> None:
    path = tmp_path / "recorded.mp4"
    sizes: set[int] = set()
    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, path, sizes)
        assert await record(path, 3.0, bytes_per_second=bytes_per_second, ffmpeg_path=ffmpeg_path) == maker
        nursery.cancel_scope.cancel()
    assert time.monotonic() - began >= 2.5
    assert len(sizes) >= 5
    assert path.stat().st_size == pytest.approx(3 * bytes_per_second, rel=0.15)
    media = await probe(str(path), ffprobe_path="ffprobe", timeout_seconds=20)
    assert media.duration_seconds == pytest.approx(3.0, abs=0.1)
    decoded = await trio.run_process(
        ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-f", "null", "-"], capture_stderr=True
    )
    assert decoded.stderr == b""


@pytest.mark.real
@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_cancelled_recording_leaves_no_process(tmp_path: Path, wrapped: bool) -> None:
    path = tmp_path / "cancelled.mp4"
    ffmpeg_path = script(tmp_path, 'ffmpeg "$@"; exit $?') if wrapped else "ffmpeg"
    await cancel_when_it_grows(path, ffmpeg_path)
    if wrapped:  # the program inside was killed too, but it is for init to collect it

        async def gone() -> bool:
            return not await running_with(path)

        await until(gone)
    assert not await running_with(path)


@pytest.mark.real
async def test_the_built_in_writer_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "cancelled.mp4"
    await cancel_when_it_grows(path, "no-such-ffmpeg")
    media = await probe(str(path), ffprobe_path="ffprobe", timeout_seconds=20)
    assert media.video_codec == "h264", "what was written until then is a video"


@pytest.mark.real
async def test_a_ctrl_c_in_the_terminal_does_not_reach_ffmpeg(tmp_path: Path) -> None:
    session = tmp_path / "session"
    path = tmp_path / "x.mp4"
    ffmpeg_path = script(tmp_path, f"ps -o sid= -p $$ > '{session}'; touch '{path}'")
    assert await record(path, 1.0, ffmpeg_path=ffmpeg_path) == "ffmpeg"
    assert int(session.read_text()) != os.getsid(0)


@pytest.mark.real
async def test_the_built_in_writer_replaces_an_ffmpeg_that_cannot_start(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    ffmpeg_path = script(tmp_path, "echo \"Unknown encoder 'mpeg4'\" >&2; exit 1")
    assert await record(path, 0.2, bytes_per_second=MIB, ffmpeg_path=ffmpeg_path) == "the built-in writer"
    assert path.stat().st_size > 0


@pytest.mark.real
async def test_the_error_has_the_output_of_an_ffmpeg_that_fails_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    ffmpeg_path = script(tmp_path, f"echo begun > '{path}'; echo no space left >&2; exit 1")
    with pytest.raises(RecorderError, match="failed: no space left"):
        await record(path, 1.0, ffmpeg_path=ffmpeg_path)
    assert path.read_text() == "begun\n"


@pytest.mark.parametrize("ffmpeg_path", ["no-such-ffmpeg", pytest.param("ffmpeg", marks=pytest.mark.real)])
async def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, ffmpeg_path: str) -> None:
    with pytest.raises(RecorderError, match="cannot write"):
        await record(tmp_path / "missing" / "x.mp4", 1.0, ffmpeg_path=ffmpeg_path)
