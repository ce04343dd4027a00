"""Kinds 1, 8 and P4, P10: a FUSE server is stopped (SIGSTOP), of a sub-folder, of the watch folder, or above it.

Before the start, and while recordings go on beside it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest
from servers.command import answer, command
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.fuse_mount import FuseMount, fuse_mount
from servers.store import Store
from servers.valkey import ValkeyServer
from thoroughness import LONG
from waiting import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[FuseMount]:
    with fuse_mount(tmp_path, tmp_path / "watch" / "mount") as found:
        yield found


def quick(watched: Path, embedded: Store, valkey: ValkeyServer) -> dict[str, str]:
    """Settings with which everything that is waited for is short."""
    return settings_for(
        watched,
        embedded.endpoint,
        valkey.url,
        file_system_timeout_seconds=0.5,
        rescan_seconds=0.3,
        stale_check_seconds=0.3,
        close_grace_seconds=0.2,
        stream_timeout_seconds=1,
    )


def write_on_until(writer: IO[bytes], true: Callable[[], object]) -> None:
    """Let a recorder write on until something is so: a second of its silence would end the recording."""

    def is_so() -> object:
        writer.write(b"x")
        return true()

    wait_until(is_so)


def threads(process: DaemonProcess) -> int:
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def test_p8_p10_a_mount_that_hangs_is_set_aside_others_go_on_and_it_comes_back(
    mounted: FuseMount, embedded: Store, valkey: ValkeyServer
) -> None:
    watched = mounted.mount.parent
    hidden, beside, deleted = mounted.mount / "hidden.mp4", watched / "beside.mp4", watched / "deleted.mp4"
    settings = quick(watched, embedded, valkey)
    with daemon(settings) as process:
        with hidden.open("ab", buffering=0) as writer:
            writer.write(os.urandom(6 * MIB))
            write_on_until(writer, lambda: process.count("part_uploaded", file=str(hidden)))
            with mounted.stopped():
                process.wait_for("mount_hung", mount=str(mounted.mount))
                before = threads(process)
                # Beside it a recording begins, ends and is completed, and one is deleted: a scan decides that.
                beside.write_bytes(os.urandom(MIB))
                process.wait_for("stream_completed", file=str(beside))
                with deleted.open("ab", buffering=0) as other:
                    other.write(os.urandom(6 * MIB))
                    write_on_until(other, lambda: process.count("part_uploaded", file=str(deleted)))
                    deleted.unlink()
                    process.wait_for("recording_deleted", file=str(deleted))
                wait_until(lambda: process.metric("hung_mounts") == 1)
                # Those of uploads come and go; each scan and each look at the mount would leave one more.
                assert threads(process) <= before + 8, "calls to the mount fail now at once and leave no thread"
            process.wait_for("mount_recovered", mount=str(mounted.mount))
            writer.write(b"and its end")
        # Its writer was silent for long, so it may have ended before: then its end is in an object of its own.
        completed = process.wait_for("stream_completed", file=str(hidden), size_bytes=hidden.stat().st_size)
        wait_until(lambda: process.metric("hung_mounts") == 0)
        assert process.count("recording_deleted") == 1, "nothing on the mount was called deleted"
        assert process.count("stream_failed") == 0, process.tail()
        assert process.count("idle_check_failed") <= 3, "it is said, and not in a loop"
        assert process.stop() == 0
    embedded.assert_identical(hidden, completed["key"])
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
        with mounted.stopped():
            process.wait_for("mount_hung", mount=str(mounted.mount))
            began = time.monotonic()
            assert process.stop() == 0, process.tail()
            assert time.monotonic() - began < 1 + 1 + 1 + 1


# -- the mount hangs before the daemon starts --------------------------------------------------------------------------


def watched_on(mounted: FuseMount, below: str) -> Path:
    """The watch folder: the mount itself, or a folder on it."""
    folder = mounted.mount / below
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("below", ["", "cameras"])
def test_p10_a_start_on_a_hung_watch_folder_says_so_waits_and_goes_on_by_itself(
    mounted: FuseMount, embedded: Store, valkey: ValkeyServer, below: str
) -> None:
    watched = watched_on(mounted, below)
    (watched / "recording.mp4").write_bytes(os.urandom(MIB))
    settings = settings_for(
        watched, embedded.endpoint, valkey.url, file_system_timeout_seconds=0.5, stream_timeout_seconds=1
    )
    with mounted.stopped() as server, daemon(settings, wait_started=False) as process:
        said = process.wait_for("watch_folder_not_responding")
        assert said["folders"] == [f"WATCH_DIR {str(watched)!r}"]
        port = process.wait_for("admin_server_started")["port"]

        def get(path: str) -> httpx.Response:
            return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=60, trust_env=False)

        assert get("/healthz").status_code == 200, "a restart would not help"
        ready = get("/readyz")
        assert ready.status_code == 503
        assert ready.text.splitlines() == [
            "NOT OK: the daemon is starting: the mount of the watch folder does not respond"
        ], "and nothing of Redis and S3, which were not asked"
        assert get("/").status_code == 200
        assert process.metric("hung_mounts") == 1
        os.kill(server, signal.SIGCONT)
        process.wait_for("daemon_started")
        process.wait_for("stream_completed")
        assert process.count("watch_folder_not_responding") == 1
        wait_until(lambda: process.metric("hung_mounts") == 0)
        assert process.stop() == 0
    embedded.assert_identical(watched / "recording.mp4")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_p4_a_signal_ends_a_daemon_that_waits_for_its_watch_folder(
    mounted: FuseMount, embedded: Store, valkey: ValkeyServer, number: signal.Signals
) -> None:
    settings = settings_for(mounted.mount, embedded.endpoint, valkey.url, file_system_timeout_seconds=0.5)
    with mounted.stopped(), daemon(settings, wait_started=False) as process:
        process.wait_for("watch_folder_not_responding")
        began = time.monotonic()
        process.signal(number)
        assert process.wait() == 0, process.tail()
        assert time.monotonic() - began < 6 + 2 + 1 + 1
        assert process.count("daemon_stopped", exit_code=0) == 1


def test_p4_a_second_daemon_is_refused_once_the_watch_folder_responds(
    mounted: FuseMount, embedded: Store, valkey: ValkeyServer
) -> None:
    settings = settings_for(mounted.mount, embedded.endpoint, valkey.url, file_system_timeout_seconds=0.5)
    with daemon(settings) as first, mounted.stopped() as server, daemon(settings, wait_started=False) as second:
        second.wait_for("watch_folder_not_responding")
        os.kill(server, signal.SIGCONT)
        assert second.wait() == 2, second.tail()
        assert "is watched by another cef-trio" in second.tail()
        assert first.running


def test_p8_a_start_beside_a_hung_sub_mount_uploads_what_is_not_on_it(
    mounted: FuseMount, embedded: Store, valkey: ValkeyServer
) -> None:
    hidden, beside = mounted.mount / "hidden.mp4", mounted.mount.parent / "beside.mp4"
    for path in (hidden, beside):
        path.write_bytes(os.urandom(MIB))
    settings = quick(mounted.mount.parent, embedded, valkey)
    with mounted.stopped() as server, daemon(settings) as process:
        process.wait_for("mount_hung", mount=str(mounted.mount))
        process.wait_for("stream_completed", file=str(beside))
        wait_until(lambda: process.metric("hung_mounts") == 1)
        os.kill(server, signal.SIGCONT)
        process.wait_for("stream_completed", file=str(hidden))
        assert process.stop() == 0
    embedded.assert_identical(hidden)


def test_a_reload_does_not_wait_for_the_watch_folder(
    mounted: FuseMount, embedded: Store, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Nor do credentials that are read again."""
    settings = settings_for(mounted.mount, embedded.endpoint, valkey.url, file_system_timeout_seconds=0.5)
    del settings["LOG_LEVEL"]
    file = tmp_path / "settings.env"
    file.write_text("MAX_UPLOAD_RATE=1MiB\n")
    with daemon(settings, arguments=["--env-file", str(file)]) as process, mounted.stopped():
        file.write_text("MAX_UPLOAD_RATE=2MiB\n")
        process.signal(signal.SIGHUP)
        process.wait_for("settings_reloaded", needs_restart=[])


# -- commands ----------------------------------------------------------------------------------------------------------


def test_no_command_hangs_with_its_watch_folder(mounted: FuseMount, embedded: Store, valkey: ValkeyServer) -> None:
    settings = settings_for(
        mounted.mount, embedded.endpoint, valkey.url, file_system_timeout_seconds=0.5, stream_timeout_seconds=1
    )
    with daemon(settings) as process:
        (mounted.mount / "a.mp4").write_bytes(os.urandom(MIB))
        stream_id = process.wait_for("stream_completed")["stream_id"]
        assert process.stop() == 0
    with mounted.stopped():
        (listed,) = answer("list", settings=settings)["streams"]
        assert listed["stream_id"] == stream_id
        assert answer("show", stream_id, settings=settings)["stream_id"] == stream_id
        assert answer("status", settings=settings)["streams"]["completed"] == 1
        for words in (("fleet",), ("verify", stream_id), ("retry", "--all"), ("gc",)):
            command(*words, settings=settings)
        if LONG:  # it waits for half a minute
            findings = answer("doctor", settings=settings, code=5)["findings"]
            (said,) = [one["says"] for one in findings if one["subject"] == "watch folder"]
            assert "did not answer" in said


@pytest.mark.parametrize("first", ["the hung one", "the other one"])
def test_p10_of_two_watch_folders_one_that_hangs_sets_only_itself_aside(
    mounted: FuseMount, embedded: Store, valkey: ValkeyServer, tmp_path: Path, first: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    folders = [mounted.mount, other] if first == "the hung one" else [other, mounted.mount]
    settings = {**quick(other, embedded, valkey), "WATCH_DIR": ":".join(map(str, folders))}
    with daemon(settings) as process:
        for folder in folders:
            (folder / "before.mp4").write_bytes(os.urandom(MIB))
        process.wait_for("stream_completed", count=2)
        with mounted.stopped():
            process.wait_for("mount_hung", mount=str(mounted.mount))
            (other / "meanwhile.mp4").write_bytes(os.urandom(MIB))
            process.wait_for("stream_completed", count=3)
            wait_until(lambda: process.metric("hung_mounts") == 1)
        (mounted.mount / "after.mp4").write_bytes(os.urandom(MIB))
        process.wait_for("stream_completed", count=4)
        assert process.count("stream_started") == 4
        assert process.stop() == 0
