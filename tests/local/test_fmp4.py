"""The built-in MP4 conforms to ISO/IEC 14496-12 and H.264: parsed box by box, and decoded by ffmpeg."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cef_trio.local.fmp4 import FRAMES_PER_SECOND, Picture, blocks, fragment, header
from cef_trio.local.h264 import MACROBLOCK

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"mvex", b"moof", b"traf", b"mfra"}
sizes = st.builds(Picture, st.integers(1, 8), st.integers(1, 8))


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of every box, and the start and end of its content; fail if a box exceeds its parent."""
    at, end = start, len(data) if end is None else end
    while at < end:
        (size,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        assert 8 <= size <= end - at, f"{kind!r} at {at} has {size} bytes of {end - at}"
        yield kind, at + 8, at + size
        if kind in CONTAINERS:
            yield from boxes(data, at + 8, at + size)
        at += size


def find(data: bytes, kind: bytes) -> list[tuple[int, int]]:
    return [(start, end) for found, start, end in boxes(data) if found == kind]


@given(sizes, st.floats(0.01, 3.0), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_the_boxes_fill_the_file_and_each_fragment_points_at_its_samples(
    size: Picture, seconds: float, frames_per_fragment: int
) -> None:
    data = b"".join(piece for _, piece in blocks(seconds, size, frames_per_fragment=frames_per_fragment))
    kinds = [kind for kind, _, _ in boxes(data)]
    total = max(round(seconds * FRAMES_PER_SECOND), 1)
    moofs, mdats = find(data, b"moof"), find(data, b"mdat")
    assert kinds[:2] == [b"ftyp", b"moov"]
    assert len(moofs) == len(mdats) == -(-total // frames_per_fragment)
    frames = 0
    for (moof, _), (mdat, mdat_end), (trun, _) in zip(moofs, mdats, find(data, b"trun"), strict=True):
        count, offset = struct.unpack_from(">Ii", data, trun + 4)
        samples = struct.unpack_from(f">{count}I", data, trun + 12)
        assert moof - 8 + offset == mdat, "the first sample"
        assert sum(samples) == mdat_end - mdat, "the samples fill mdat"
        begins = [mdat, *(mdat + end for end in accumulate(samples))]
        assert [struct.unpack_from(">I", data, at)[0] + 4 for at in begins[:-1]] == list(samples)
        frames += count
    assert frames == total


@given(sizes, st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_the_index_has_offset_and_time_of_every_fragment(size: Picture, total: int) -> None:
    data = b"".join(piece for _, piece in blocks(total / FRAMES_PER_SECOND, size))
    ((tfra, _),) = find(data, b"tfra")
    (entries,) = struct.unpack_from(">I", data, tfra + 12)
    starts = [start - 8 for start, _ in find(data, b"moof")]
    times = [struct.unpack_from(">Q", data, start + 4)[0] for start, _ in find(data, b"tfdt")]
    listed = [struct.unpack_from(">QQ", data, tfra + 16 + 19 * number) for number in range(entries)]
    assert listed == list(zip(times, starts, strict=True))
    (mfra_bytes,) = struct.unpack(">I", data[-4:])
    assert data[-mfra_bytes + 4 : -mfra_bytes + 8] == b"mfra", "its last word leads a reader from the end to it"


@given(sizes, st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_equal_pictures_have_equal_bytes(size: Picture, first: int) -> None:
    assert fragment(size, 1, first, 2) == fragment(size, 1, first, 2)
    assert header(size) == header(size)


@pytest.mark.real
async def test_every_sample_is_decoded_to_what_was_written(tmp_path: Path) -> None:
    size, path = Picture(5, 3), tmp_path / "own.mp4"
    path.write_bytes(b"".join(piece for _, piece in blocks(1.0, size)))
    done = await trio.run_process(
        ["ffmpeg", "-nostdin", "-v", "error", "-xerror", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"],
        capture_stdout=True,
        capture_stderr=True,
    )
    assert done.stderr == b""
    width, height = size.width * MACROBLOCK, size.height * MACROBLOCK
    frame_bytes = width * height * 3 // 2
    assert len(done.stdout) == FRAMES_PER_SECOND * frame_bytes
    for number in range(FRAMES_PER_SECOND):
        frame = done.stdout[number * frame_bytes : (number + 1) * frame_bytes]
        luma, chroma = frame[: width * height], frame[width * height :]
        blue, red = chroma[: len(chroma) // 2], chroma[len(chroma) // 2 :]
        expected = bytes(
            16 + (x // MACROBLOCK * 5 + y // MACROBLOCK * 3 + number * 4) % 220
            for y in range(height)
            for x in range(width)
        )
        assert luma == expected, f"picture {number}"
        assert set(red) == {16 + number % 220}
        assert [blue[column * MACROBLOCK // 2] for column in range(size.width)] == [
            16 + 255 * column // size.width % 220 for column in range(size.width)
        ]


@pytest.mark.real
async def test_the_file_is_playable_at_any_moment_of_its_growth(tmp_path: Path) -> None:
    """Cut off after any whole fragment, as by a power cut, it is a video of what was written until then."""
    pieces = [piece for _, piece in blocks(1.0, Picture(3, 3))]
    path = tmp_path / "cut.mp4"
    for fragments in (1, 3):
        path.write_bytes(b"".join(pieces[: 1 + fragments]))
        done = await trio.run_process(
            ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-f", "framemd5", "-"],
            capture_stdout=True,
            capture_stderr=True,
        )
        assert done.stderr == b""
        assert sum(not line.startswith(b"#") for line in done.stdout.splitlines()) == fragments * 5
