"""A FUSE mount of a folder, on whose other side the writers are: the kernel knows nothing of them at the mount."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class FuseMount:
    """A folder, and where it is mounted."""

    behind: Path
    mount: Path


@contextmanager
def fuse_mount(folder: Path, mount: Path | None = None) -> Iterator[FuseMount]:
    """A mount of a new folder (at ``mount``, or beside it); the test is skipped where that cannot be."""
    if shutil.which("bindfs") is None or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("bindfs or /dev/fuse is not here")
    found = FuseMount(folder / "behind", mount or folder / "mount")
    found.behind.mkdir()
    found.mount.mkdir(parents=True)
    if subprocess.run(["bindfs", found.behind, found.mount], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        yield found
    finally:
        subprocess.run(["umount", found.mount], check=True)
