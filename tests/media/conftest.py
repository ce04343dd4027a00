"""Scripts in place of ffprobe, and a recording that the real ffprobe can read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Script = Callable[[str], str]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes an executable shell script of this text; returns its path."""

    def make(text: str) -> str:
        path = tmp_path / "ffprobe-of-the-test"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o700)
        return str(path)

    return make


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 320 by 180 at 30000/1001 frames a second, with sound, made by ffmpeg."""
    path = tmp_path_factory.mktemp("media") / "two-seconds.mp4"
    subprocess.run(
        [
            *("ffmpeg", "-nostdin", "-v", "error"),
            *("-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30000/1001:duration=2"),
            *("-f", "lavfi", "-i", "sine=duration=2"),
            *("-c:v", "mpeg4", "-c:a", "aac", str(path)),
        ],
        stdin=subprocess.DEVNULL,
        check=True,
    )
    return path
