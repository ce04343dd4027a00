"""A file that ends within a box was cut off, whatever its boxes are; other bytes give no judgement, and no error."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cef_trio.media import ffprobe
from cef_trio.media.boxes import why_truncated
from cef_trio.media.metadata import MediaInfo


def box(kind: bytes, content: bytes, *, long: bool = False) -> bytes:
    if long:
        return (1).to_bytes(4, "big") + kind + (16 + len(content)).to_bytes(8, "big") + content
    return (8 + len(content)).to_bytes(4, "big") + kind + content


WHOLE = box(b"ftyp", b"isom") + box(b"moov", b"m" * 40) + box(b"mdat", b"d" * 100, long=True) + box(b"free", b"")
ENDS = {0, 12, 60, 176, 184}
"""Where a file of whole boxes may end."""


@pytest.mark.parametrize("size", range(len(WHOLE) + 1))
def test_a_file_is_whole_at_the_end_of_a_box_only(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(WHOLE[:size])
    assert (why_truncated(str(path)) is None) == (size in ENDS)


def test_the_last_box_may_have_any_length(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(box(b"ftyp", b"isom") + (0).to_bytes(4, "big") + b"mdat" + b"d" * 9)
    assert why_truncated(str(path)) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_without_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("boxes") / "a.mp4"
    path.write_bytes(content)
    found = why_truncated(str(path))
    assert found is None or (found.isprintable() and len(found) < 200)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    assert why_truncated(str(tmp_path / "a.mp4")) is None
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    with pytest.raises(OSError, match="symbolic links"):
        why_truncated(str(tmp_path / "b.mp4"))


async def test_p7_the_threads_that_a_hung_disk_keeps_are_not_missing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of trio's default limiter look up the names of S3 and Redis."""
    goes_on, others = threading.Event(), trio.to_thread.current_default_thread_limiter()
    monkeypatch.setattr(ffprobe, "why_truncated", lambda _path: goes_on.wait(30))
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(int(others.total_tokens)):
                nursery.start_soon(ffprobe._why_broken, MediaInfo(1.0, "mp4"), "/hung/a.mp4", 0.1)
        assert others.available_tokens == others.total_tokens
    finally:
        goes_on.set()
