"""P8: where a writer cannot be known, a lease is no evidence. On a real FUSE mount."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cef_trio.intake.writers import WriterState, writer_state_now


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A folder, and a FUSE mount of it, on whose other side the writers are."""
    if shutil.which("bindfs") is None or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("bindfs or /dev/fuse is not here")
    behind, mount = tmp_path / "behind", tmp_path / "mount"
    behind.mkdir()
    mount.mkdir()
    if subprocess.run(["bindfs", behind, mount], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        yield behind, mount
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.real
def test_p8_a_lease_that_fuse_grants_does_not_say_that_nobody_writes(mounted: tuple[Path, Path]) -> None:
    behind, mount = mounted
    with (behind / "a.mp4").open("ab") as writer:
        writer.write(b"1")
        writer.flush()
        assert writer_state_now(str(mount / "a.mp4")) is WriterState.UNKNOWN
    assert writer_state_now(str(mount / "a.mp4")) is WriterState.UNKNOWN  # and a close is not known either
