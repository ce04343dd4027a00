"""A FUSE mount of a folder, on whose other side the writers are: the kernel knows nothing of them at the mount."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_SFTP_SERVER: Final = Path("/usr/lib/openssh/sftp-server")


@dataclass(frozen=True, slots=True)
class FuseMount:
    """A folder, and where it is mounted."""

    behind: Path
    mount: Path


@contextmanager
def fuse_mount(folder: Path) -> Iterator[FuseMount]:
    """A mount of a new folder (bindfs); the test is skipped where that cannot be."""
    with _mounted(folder, "bindfs", lambda found: [found.behind, found.mount]) as found:
        yield found


@contextmanager
def sshfs_mount(folder: Path, *options: str) -> Iterator[FuseMount]:
    """The same by sshfs, which speaks to OpenSSH's file server by a pipe, without sshd; it numbers inodes itself."""
    if not _SFTP_SERVER.exists():
        pytest.skip(f"{_SFTP_SERVER} is not here")
    ssh = folder / "ssh"
    ssh.write_text(f"#!/bin/sh\nexec {_SFTP_SERVER}\n")
    ssh.chmod(0o755)
    arguments = ["-o", f"ssh_command={ssh}", *options]
    with _mounted(folder, "sshfs", lambda found: [*arguments, f"anywhere:{found.behind}", found.mount]) as found:
        yield found


@contextmanager
def _mounted(folder: Path, program: str, arguments: Callable[[FuseMount], Sequence[str | Path]]) -> Iterator[FuseMount]:
    if shutil.which(program) is None or not os.access("/dev/fuse", os.W_OK):
        pytest.skip(f"{program} or /dev/fuse is not here")
    found = FuseMount(folder / "behind", folder / "mount")
    found.behind.mkdir()
    found.mount.mkdir()
    if subprocess.run([program, *arguments(found)], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        yield found
    finally:
        subprocess.run(["umount", "-l", found.mount], check=True)
