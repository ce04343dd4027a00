"""File systems that a test makes in a file and mounts, and takes away again, whatever happens in between.

    with disk(tmp_path, "ext4", arguments=["-I", "128"]) as found:
        found.mount()
        ... found.folder ...
        found.unmount()

They need root and a kernel that knows them; a test is skipped where one of the two is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

_UNMOUNT_SECONDS = 60.0
_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "vfat": ["mkfs.vfat"],
    "exfat": ["mkfs.exfat"],
    "exfat-fuse": ["mkfs.exfat"],
}


class Disk:
    """A file system in a file; ``folder`` is where it is mounted, by :meth:`mount`."""

    def __init__(self, image: Path, folder: Path, kind: str) -> None:
        self._image = image
        self._kind = kind
        self.folder = folder
        self._mounts = 0

    def mount(self) -> None:
        """Mount it; the test is skipped where that cannot be."""
        if self._kind == "exfat-fuse":
            self._mount_by_fuse()
        else:
            _run_or_skip("mount", "-t", self._kind, "-o", "loop", self._image, self.folder)
        self._mounts += 1

    def _mount_by_fuse(self) -> None:
        device = _run_or_skip("losetup", "--find", "--show", self._image).strip()
        try:
            _run_or_skip("mount.exfat-fuse", device, self.folder)
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)  # takes effect when it is no longer in use

    def unmount(self, *, busy: bool = False) -> None:
        """Unmount it; ``busy``: even if files of it are open (``umount -l``).

        A mount namespace that another program made in the meantime (a container) keeps a copy of the mount, and so the
        process of a FUSE file system, with what it has not written yet: the next mount would find no file.
        """
        if self._kind == "exfat-fuse" and not busy:
            self._write_out()
        deadline = time.monotonic() + _UNMOUNT_SECONDS
        command: list[str | Path] = ["umount", *(["-l"] if busy else []), self.folder]
        while (done := subprocess.run(command, check=False, capture_output=True)).returncode != 0:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.05)  # in use at this moment, by a scan
        self._mounts -= 1

    def _write_out(self) -> None:
        """Let the process of the file system write everything to the image: it does on an fsync of any file."""
        for path in self.folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def leave(self) -> None:
        """Unmount what is still mounted."""
        while self._mounts:
            self.unmount(busy=True)


@contextlib.contextmanager
def disk(folder: Path, kind: str, *, size_mib: int = 64, arguments: Sequence[str] = ()) -> Iterator[Disk]:
    """A new file system of that kind, not yet mounted; it is unmounted afterwards."""
    image, found_at = folder / f"{kind}.image", folder / kind
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    _run_or_skip(*_MAKE[kind], *arguments, image)
    found_at.mkdir()
    found = Disk(image, found_at, kind)
    try:
        yield found
    finally:
        found.leave()
        image.unlink()


@contextlib.contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """``mount`` with these arguments, the last of which is the folder; the test is skipped where that cannot be."""
    _run_or_skip("mount", *arguments)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", arguments[-1]], check=True)


def _run_or_skip(*command: str | Path) -> str:
    """Return the output of a command; skip the test if there is no such command here, or it fails."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not here")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this machine refuses {command[0]}: {done.stderr.strip()}")
    return done.stdout
