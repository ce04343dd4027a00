"""Kinds 1, 8 and P4, P10: a sub-folder's FUSE server is stopped (SIGSTOP) while recordings go on beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.fuse_mount import FuseMount, fuse_mount
from servers.store import Store
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real
MIB = 1024 * 1024


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[FuseMount]:
    with fuse_mount(tmp_path, tmp_path / "watch" / "mount") as found:
        yield found


@contextmanager
def stopped(mounted: FuseMount) -> Iterator[None]:
    """The mount's server does not respond; callers wait in the kernel."""
    said = subprocess.run(["pgrep", "-f", f"bindfs {mounted.behind} "], capture_output=True, text=True, check=True)
    server = int(said.stdout.split()[0])
    os.kill(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)


def threads(process: DaemonProcess) -> int:
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def test_p8_p10_a_mount_that_hangs_is_set_aside_others_go_on_and_it_comes_back(
    mounted: FuseMount, embedded: Store, valkey: ValkeyServer
) -> None:
    watched = mounted.mount.parent
    hidden, beside, deleted = mounted.mount / "hidden.mp4", watched / "beside.mp4", watched / "deleted.mp4"
    settings = settings_for(
        watched,
        embedded.endpoint,
        valkey.url,
        file_system_timeout_seconds=0.5,
        rescan_seconds=0.3,
        stale_check_seconds=0.3,
        close_grace_seconds=0.2,
        stream_timeout_seconds=1,
    )
    with daemon(settings) as process:
        with hidden.open("ab", buffering=0) as writer:
            writer.write(os.urandom(6 * MIB))
            process.wait_for("part_uploaded", file=str(hidden))
            with stopped(mounted):
                process.wait_for("mount_hung", mount=str(mounted.mount))
                before = threads(process)
                # Beside it a recording begins, ends and is completed, and one is deleted: a scan decides that.
                beside.write_bytes(os.urandom(MIB))
                process.wait_for("stream_completed", file=str(beside))
                with deleted.open("ab", buffering=0) as other:
                    other.write(os.urandom(6 * MIB))
                    process.wait_for("part_uploaded", file=str(deleted))
                    deleted.unlink()
                    process.wait_for("recording_deleted", file=str(deleted))
                assert process.metric("hung_mounts") == 1
                assert threads(process) <= before + 2, "calls to the mount fail now at once and leave no thread"
            process.wait_for("mount_recovered", mount=str(mounted.mount))
            writer.write(b"and its end")
        process.wait_for("stream_completed", file=str(hidden))
        assert process.metric("hung_mounts") == 0
        assert process.count("recording_deleted") == 1, "nothing on the mount was called deleted"
        assert process.count("stream_failed") == 0, process.tail()
        assert process.count("idle_check_failed") <= 3, "it is said, and not in a loop"
        assert process.stop() == 0
    embedded.assert_identical(hidden)
    embedded.assert_identical(beside)


def test_p4_a_daemon_leaves_in_time_while_a_mount_hangs(
    mounted: FuseMount, embedded: Store, valkey: ValkeyServer
) -> None:
    settings = settings_for(
        mounted.mount.parent,
        embedded.endpoint,
        valkey.url,
        file_system_timeout_seconds=0.5,
        rescan_seconds=0.3,
        shutdown_grace_seconds=1,
        shutdown_save_seconds=1,
    )
    with daemon(settings) as process, (mounted.mount / "hidden.mp4").open("ab", buffering=0) as writer:
        writer.write(os.urandom(6 * MIB))
        process.wait_for("part_uploaded")
        with stopped(mounted):
            process.wait_for("mount_hung")
            began = time.monotonic()
            assert process.stop() == 0, process.tail()
            assert time.monotonic() - began < 1 + 1 + 1 + 1
