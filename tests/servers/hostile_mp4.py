"""Recordings whose headers claim more data than the file has."""

from __future__ import annotations

import struct


def claims(samples: int) -> bytes:
    """An MP4 of some 600 bytes whose tables claim so many samples."""

    def box(kind: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return struct.pack(">I4s", 8 + len(body), kind) + body

    def full(kind: bytes, *parts: bytes) -> bytes:
        return box(kind, bytes(4), *parts)

    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    sample = box(b"avc1", bytes(6), struct.pack(">H16xHH", 1, 320, 240), bytes(12), struct.pack(">H32xHh", 1, 24, -1))
    tables = box(
        b"stbl",
        full(b"stsd", struct.pack(">I", 1), sample),
        full(b"stts", struct.pack(">III", 1, samples, 1)),
        full(b"stsc", struct.pack(">IIII", 1, 1, samples, 1)),
        full(b"stsz", struct.pack(">II", 1, samples)),
        full(b"stco", struct.pack(">II", 1, 8)),
    )
    reference = full(b"dref", struct.pack(">I", 1), box(b"url ", b"\0\0\0\1"))
    media = box(b"minf", box(b"vmhd", b"\0\0\0\1", bytes(8)), box(b"dinf", reference), tables)
    track = box(
        b"trak",
        box(b"tkhd", b"\0\0\0\3", struct.pack(">5I16x", 0, 0, 1, 0, 1000), matrix, struct.pack(">II", 320, 240)),
        box(
            b"mdia",
            full(b"mdhd", struct.pack(">4IHH", 0, 0, 1000, 1000, 0x55C4, 0)),
            full(b"hdlr", bytes(4), b"vide", bytes(13)),
            media,
        ),
    )
    header = full(b"mvhd", struct.pack(">4IIH10x", 0, 0, 1000, 1000, 0x10000, 0x100), matrix, bytes(24), bytes(4))
    return box(b"ftyp", b"isom", bytes(4), b"isom") + box(b"moov", header, track) + box(b"mdat", bytes(8))
