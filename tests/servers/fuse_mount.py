"""A FUSE mount of a folder that is written to behind the mount: the kernel cannot see the writers at the mount."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
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
    def stopped(self) -> Iterator[int]:
        """The server of a mount by bindfs, its process, does not respond: callers wait in the kernel."""
        found = subprocess.run(["pgrep", "-f", f"bindfs {self.behind} "], capture_output=True, text=True, check=True)
        server = int(found.stdout.split()[0])
        os.kill(server, signal.SIGSTOP)
        try:
            yield server
        finally:
            os.kill(server, signal.SIGCONT)


@contextmanager
def fuse_mount(folder: Path, mount: Path | None = None) -> Iterator[FuseMount]:
    """A mount of a new folder by bindfs (at ``mount``, or beside it); the test is skipped where that cannot be."""
    found = FuseMount(folder / "behind", mount or folder / "mount")
    with _mounted(found, "bindfs", found.behind, found.mount):
        yield found


@contextmanager
def second_mount(of: Path, mount: Path) -> Iterator[Path]:
    """A further mount of a folder by bindfs: it shows the same files with other devices and inodes."""
    with _mounted(FuseMount(of, mount), "bindfs", of, mount):
        yield mount


@contextmanager
def sshfs_mount(folder: Path, *options: str) -> Iterator[FuseMount]:
    """The same by sshfs, which speaks to OpenSSH's file server by a pipe, without sshd; it numbers inodes itself.

    ``options``: of the mount, such as ``attr_timeout=60``.
    """
    if not _SFTP_SERVER.exists():
        pytest.skip(f"{_SFTP_SERVER} is not here")
    ssh = folder / "ssh"
    ssh.write_text(f"#!/bin/sh\nexec {_SFTP_SERVER}\n")
    ssh.chmod(0o755)
    found = FuseMount(folder / "behind", folder / "mount")
    with _mounted(
        found, "sshfs", "-o", ",".join((f"ssh_command={ssh}", *options)), f"anywhere:{found.behind}", found.mount
    ):
        yield found


@contextmanager
def _mounted(found: FuseMount, *command: str | Path) -> Iterator[None]:
    if shutil.which(command[0]) is None or not os.access("/dev/fuse", os.W_OK):
        pytest.skip(f"{command[0]} or /dev/fuse is not here")
    found.behind.mkdir(exist_ok=True)
    found.mount.mkdir(parents=True)
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine refuses mounts")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", found.mount], check=True)
