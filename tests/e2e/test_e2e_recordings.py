"""P1 on real recordings: ffmpeg in real time, in every way of writing an MP4, and a writer that goes back.

What was seen (sizes, times, bytes sent again) is printed, for ``pytest -rP``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from servers.daemon import daemon, settings_for
from servers.recordings import MIB, MOVFLAGS, PatchingWriter, make, recording
from servers.store import Store
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real
PART = 5 * MIB
SECONDS = 8.0
REAL_SECONDS = 12.0
"""Two parts are there after four seconds, and in S3 before the end, on a slow machine too."""


@pytest.fixture
def settings(watch_dir: Path, store: Store, valkey: ValkeyServer) -> Mapping[str, str]:
    return settings_for(watch_dir, store.endpoint, valkey.url, stream_timeout_seconds=60, close_grace_seconds=0.5)


@pytest.mark.parametrize("kind", list(MOVFLAGS))
def test_p1_a_recording_by_ffmpeg_arrives_while_it_is_made(
    settings: Mapping[str, str], watch_dir: Path, store: Store, kind: str
) -> None:
    path = watch_dir / f"{kind}.mp4"
    with daemon(settings) as process:
        with recording(path, kind, seconds=REAL_SECONDS, mib_per_second=2.5) as made:
            process.wait_for("part_uploaded", count=2)
            uploaded_while_recording = process.count("part_uploaded")
            assert made.running
            true_seconds = made.wait()
        closed = time.monotonic()
        process.wait_for("stream_completed")
        behind = time.monotonic() - closed
        assert process.stop() == 0
    metadata = store.assert_identical(path)
    assert metadata["duration_seconds"] == pytest.approx(true_seconds, abs=0.5)
    assert metadata["media"]["video_codec"] == "mpeg4"
    assert uploaded_while_recording >= 2
    rewritten = metadata["writer"]["bytes_rewritten"]
    if kind == "fragmented":
        assert rewritten <= 2 * PART
    else:
        assert rewritten >= PART, "its writer goes back to the beginning"
    assert store.open_uploads() == []
    print(  # noqa: T201 - for pytest -rP
        f"{kind}: {path.stat().st_size} bytes in {len(metadata['chunks'])} parts, {uploaded_while_recording} of them "
        f"while recording, {rewritten} bytes sent again, complete {behind:.2f} s after the close"
    )


def test_p1_a_writer_that_patches_uploaded_parts_at_its_close(
    settings: Mapping[str, str], watch_dir: Path, store: Store, tmp_path: Path
) -> None:
    truth = tmp_path / "truth.mp4"
    make(truth, "plain", seconds=SECONDS)
    content = truth.read_bytes()
    path = watch_dir / "patched.mp4"
    patched_at = [40, PART + 1234, 2 * PART - 4]  # in part 1, in part 2, and across the edge of parts 2 and 3
    with daemon(settings) as process:
        with PatchingWriter(content, path, seconds=4, patched_at=patched_at) as writer:
            for number in (1, 2, 3):
                process.wait_for("part_uploaded", part_number=number)
            writer.wait()
        process.wait_for("stream_completed")
        assert process.stop() == 0
    assert path.read_bytes() == content
    metadata = store.assert_identical(path)
    assert metadata["duration_seconds"] == pytest.approx(SECONDS, abs=0.5)
    assert metadata["writer"] == {"parts_rewritten": 3, "bytes_rewritten": 3 * PART}
    assert store.open_uploads() == []
