"""The demo's recordings are real: ffprobe knows them, ffmpeg decodes every picture, and they grow in real time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from cef_trio.local.fmp4 import FRAMES_PER_SECOND, Picture, blocks
from cef_trio.local.h264 import MACROBLOCK_BYTES, picture
from cef_trio.local.recorder import MIB, RecorderError, record
from cef_trio.media.ffprobe import probe


def own_file(path: Path, seconds: float, bytes_per_second: int) -> Picture:
    size = Picture.for_rate(bytes_per_second)
    path.write_bytes(b"".join(data for _, data in blocks(seconds, size)))
    return size


@pytest.mark.parametrize(("seconds", "bytes_per_second"), [(1.0, 50_000), (3.2, MIB), (10.0, 3 * MIB)])
async def test_our_own_mp4_is_a_video_of_that_length_and_rate(
    tmp_path: Path, seconds: float, bytes_per_second: int
) -> None:
    path = tmp_path / "own.mp4"
    size = own_file(path, seconds, bytes_per_second)
    media = await probe(str(path), ffprobe_path="ffprobe", timeout_seconds=20)
    assert media.duration_seconds == pytest.approx(seconds, abs=0.1)
    assert (media.video_codec, media.width, media.height) == ("h264", size.width * 16, size.height * 16)
    assert media.frame_rate == pytest.approx(FRAMES_PER_SECOND, abs=0.1)
    assert path.stat().st_size == pytest.approx(seconds * bytes_per_second, rel=0.25)


async def test_every_picture_of_it_can_be_decoded(tmp_path: Path) -> None:
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


def test_a_picture_can_hold_no_start_code() -> None:
    slice_ = picture(7, 5, 3)
    assert b"\0\0" not in slice_
    assert len(slice_) == pytest.approx(35 * MACROBLOCK_BYTES, rel=0.01)


def test_the_pieces_are_the_file_in_order_and_in_time() -> None:
    moments = [moment for moment, _ in blocks(2.0, Picture(2, 2))]
    assert moments == sorted(moments)
    assert moments[0] == 0.0
    assert moments[-1] == 2.0


@pytest.mark.real
@pytest.mark.parametrize(("ffmpeg_path", "maker"), [("ffmpeg", "ffmpeg"), ("no-such-ffmpeg", "the built-in writer")])
async def test_a_recording_grows_in_real_time(tmp_path: Path, ffmpeg_path: str, maker: str) -> None:
    path = tmp_path / "recorded.mp4"
    sizes: list[int] = []

    async def watch() -> None:
        while True:
            sizes.append(path.stat().st_size if path.exists() else 0)
            await trio.sleep(0.1)

    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        assert await record(path, 3.0, bytes_per_second=MIB, ffmpeg_path=ffmpeg_path) == maker
        nursery.cancel_scope.cancel()
    assert time.monotonic() - began >= 2.5
    assert len(set(sizes)) >= 5
    media = await probe(str(path), ffprobe_path="ffprobe", timeout_seconds=20)
    assert media.duration_seconds == pytest.approx(3.0, abs=0.3)


@pytest.mark.real
async def test_a_cancelled_recording_leaves_no_process(tmp_path: Path) -> None:
    path = tmp_path / "cancelled.mp4"
    with trio.move_on_after(1.0) as scope:
        await record(path, 60.0)
    assert scope.cancelled_caught
    running = await trio.run_process(["pgrep", "-f", str(path)], capture_stdout=True, check=False)
    assert running.stdout == b""


async def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecorderError, match="cannot write"):
        await record(tmp_path / "missing" / "x.mp4", 1.0, ffmpeg_path="no-such-ffmpeg")
