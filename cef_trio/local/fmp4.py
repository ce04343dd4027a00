"""A writer of fragmented MP4, for the demo on machines without ffmpeg. Pure.

ISO/IEC 14496-12: ``ftyp`` and ``moov`` describe the track; then come fragments, each a ``moof`` and its ``mdat``, so
the file is playable at any moment. At the end ``mfra`` indexes the fragments, which gives the duration.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from cef_trio.local.h264 import MACROBLOCK, MACROBLOCK_BYTES, picture, picture_parameters, sequence_parameters

FRAMES_PER_SECOND: Final = 25
_TIMESCALE: Final = 12_800
_FRAME_TICKS: Final = _TIMESCALE // FRAMES_PER_SECOND
_MATRIX: Final = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_KEY_FRAME: Final = 0x02000000


@dataclass(frozen=True, slots=True)
class Picture:
    """The size of the pictures, in macroblocks of 16 by 16."""

    width: int
    height: int

    @classmethod
    def for_rate(cls, bytes_per_second: int) -> Picture:
        """Return the size, about 4 by 3, at which the video has about that rate."""
        macroblocks = max(bytes_per_second / FRAMES_PER_SECOND / MACROBLOCK_BYTES, 1)
        width = max(round(math.sqrt(macroblocks * 4 / 3)), 1)
        return cls(width, max(round(macroblocks / width), 1))


def header(size: Picture) -> bytes:
    """Return ``ftyp`` and ``moov``, the beginning of the file."""
    return _box(b"ftyp", b"iso5", struct.pack(">I", 512), b"iso5iso6avc1mp41") + _box(
        b"moov", _mvhd(), _trak(size), _mvex()
    )


def fragment(size: Picture, sequence_number: int, first_frame: int, frames: int) -> bytes:
    """Return a ``moof`` and its ``mdat`` with ``frames`` pictures; ``sequence_number`` counts from 1."""
    samples = []
    for number in range(first_frame, first_frame + frames):
        nal = picture(size.width, size.height, number)
        samples.append(struct.pack(">I", len(nal)) + nal)
    sizes = [len(sample) for sample in samples]
    moof = _moof(sequence_number, first_frame, sizes, 0)
    moof = _moof(sequence_number, first_frame, sizes, len(moof) + 8)  # the samples begin after the header of mdat
    return moof + _box(b"mdat", *samples)


def trailer(fragments: list[tuple[int, int]]) -> bytes:
    """Return ``mfra``, the end of the file, for the (first frame, offset) of each fragment."""
    entries = b"".join(struct.pack(">QQBBB", frame * _FRAME_TICKS, offset, 1, 1, 1) for frame, offset in fragments)
    tfra = _full_box(b"tfra", 1, 0, struct.pack(">III", 1, 0, len(fragments)), entries)
    mfro_bytes = 16
    return _box(b"mfra", tfra, _full_box(b"mfro", 0, 0, struct.pack(">I", 8 + len(tfra) + mfro_bytes)))


def blocks(
    seconds: float, size: Picture, *, frames_per_fragment: int = 5
) -> Generator[tuple[float, bytes], None, None]:
    """Yield the file in pieces, each with the time at which to write it, in seconds from the start."""
    beginning = header(size)
    yield 0.0, beginning
    offset = len(beginning)
    total = max(round(seconds * FRAMES_PER_SECOND), 1)
    index: list[tuple[int, int]] = []
    for number, first in enumerate(range(0, total, frames_per_fragment), start=1):
        frames = min(frames_per_fragment, total - first)
        data = fragment(size, number, first, frames)
        index.append((first, offset))
        offset += len(data)
        yield (first + frames) / FRAMES_PER_SECOND, data
    yield total / FRAMES_PER_SECOND, trailer(index)


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full_box(kind: bytes, version: int, flags: int, *content: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *content)


def _mvhd() -> bytes:
    times = struct.pack(">IIII", 0, 0, _TIMESCALE, 0)
    return _full_box(
        b"mvhd", 0, 0, times, struct.pack(">IHxx8x", 0x10000, 0x100), _MATRIX, bytes(24), struct.pack(">I", 2)
    )


def _trak(size: Picture) -> bytes:
    width, height = size.width * MACROBLOCK, size.height * MACROBLOCK
    shape = struct.pack(">8xhhh2x", 0, 0, 0) + _MATRIX + struct.pack(">II", width << 16, height << 16)
    tkhd = _full_box(b"tkhd", 0, 3, struct.pack(">IIIII", 0, 0, 1, 0, 0), shape)
    mdhd = _full_box(b"mdhd", 0, 0, struct.pack(">IIIIHH", 0, 0, _TIMESCALE, 0, 0x55C4, 0))
    hdlr = _full_box(b"hdlr", 0, 0, bytes(4), b"vide", bytes(12), b"cef-trio demo\0")
    dref = _full_box(b"dref", 0, 0, struct.pack(">I", 1), _full_box(b"url ", 0, 1))
    empty = [
        _full_box(kind, 0, 0, bytes(length))
        for kind, length in ((b"stts", 4), (b"stsc", 4), (b"stsz", 8), (b"stco", 4))
    ]
    stbl = _box(b"stbl", _full_box(b"stsd", 0, 0, struct.pack(">I", 1), _avc1(size, width, height)), *empty)
    minf = _box(b"minf", _full_box(b"vmhd", 0, 1, bytes(8)), _box(b"dinf", dref), stbl)
    return _box(b"trak", tkhd, _box(b"mdia", mdhd, hdlr, minf))


def _avc1(size: Picture, width: int, height: int) -> bytes:
    sps, pps = sequence_parameters(size.width, size.height), picture_parameters()
    avcc = struct.pack(">BBBBBB", 1, sps[1], sps[2], sps[3], 0xFF, 0xE1)
    avcc += struct.pack(">H", len(sps)) + sps + struct.pack(">BH", 1, len(pps)) + pps
    entry = struct.pack(">6xH16xHHIII", 1, width, height, 0x480000, 0x480000, 0)
    return _box(b"avc1", entry, struct.pack(">H32sHh", 1, b"", 24, -1), _box(b"avcC", avcc))


def _mvex() -> bytes:
    return _box(b"mvex", _full_box(b"trex", 0, 0, struct.pack(">IIIII", 1, 1, _FRAME_TICKS, 0, _KEY_FRAME)))


def _moof(sequence_number: int, first_frame: int, sizes: list[int], data_offset: int) -> bytes:
    tfhd = _full_box(b"tfhd", 0, 0x020000, struct.pack(">I", 1))  # default-base-is-moof
    tfdt = _full_box(b"tfdt", 1, 0, struct.pack(">Q", first_frame * _FRAME_TICKS))
    table = struct.pack(f">{len(sizes)}I", *sizes)
    trun = _full_box(b"trun", 0, 0x000201, struct.pack(">Ii", len(sizes), data_offset), table)
    return _box(b"moof", _full_box(b"mfhd", 0, 0, struct.pack(">I", sequence_number)), _box(b"traf", tfhd, tfdt, trun))
