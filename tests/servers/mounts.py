"""File systems that a test makes in a file and mounts, and takes away again, whatever happens in between.

    with disk(tmp_path, "ext4", arguments=["-I", "128"]) as found:
        found.mount()
        ... found.folder ...
        found.unmount()

They need root and a kernel that knows them; a test is skipped where one of the two is missing.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

_QUIET = {"ext4": ["-q", "-F"], "vfat": [], "exfat": [], "xfs": ["-q", "-f"], "btrfs": ["-q", "-f"]}


class Disk:
    """A file system in a file; ``folder`` is where it is mounted, by :meth:`mount`."""

    def __init__(self, image: Path, folder: Path, options: Sequence[str]) -> None:
        self._image = image
        self._options = options
        self.folder = folder
        self._mounts = 0

    def mount(self) -> None:
        """Mount it; the test is skipped where that cannot be."""
        _mount_or_skip(*self._options, "-o", "loop", self._image, self.folder)
        self._mounts += 1

    def unmount(self, *, busy: bool = False) -> None:
        """Unmount it; ``busy``: though somebody has files of it open (``umount -l``)."""
        subprocess.run(["umount", *(["-l"] if busy else []), self.folder], check=True)
        self._mounts -= 1

    def leave(self) -> None:
        """Unmount what is still mounted."""
        while self._mounts:
            self.unmount(busy=True)


@contextlib.contextmanager
def disk(
    folder: Path, kind: str, *, size_mib: int = 64, arguments: Sequence[str] = (), options: Sequence[str] = ()
) -> Iterator[Disk]:
    """A new file system of that kind, not yet mounted; it is unmounted afterwards."""
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not here")
    image, mounted = folder / f"{kind}.image", folder / kind
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run([f"mkfs.{kind}", *_QUIET[kind], *arguments, image], check=True, capture_output=True)
    mounted.mkdir()
    found = Disk(image, mounted, options)
    try:
        yield found
    finally:
        found.leave()
        image.unlink()


@contextlib.contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """``mount`` with these arguments, the last of which is the folder; the test is skipped where that cannot be."""
    _mount_or_skip(*arguments)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", arguments[-1]], check=True)


def _mount_or_skip(*arguments: str | Path) -> None:
    done = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this machine does not mount that: {done.stderr.strip()}")
