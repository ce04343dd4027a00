"""SIGHUP on the real process: rate and level change while it runs, and it harms nothing at any moment (P4)."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from servers.daemon import daemon, settings_for
from servers.endpoints import Endpoint
from servers.s3_control import arm, disarm_all, wait_for_fault
from servers.store import Store
from servers.valkey import ValkeyServer
from waiting import wait_until

pytestmark = pytest.mark.real
KIB, MIB = 1024, 1024 * 1024


@pytest.fixture
def settings(watch_dir: Path, embedded: Store, valkey: ValkeyServer) -> dict[str, str]:
    given = settings_for(watch_dir, embedded.endpoint, valkey.url, shutdown_grace_seconds=1, shutdown_save_seconds=1)
    return {name: value for name, value in given.items() if name != "LOG_LEVEL"}


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    file = tmp_path / "live.env"
    file.write_text("LOG_LEVEL=INFO\nMAX_UPLOAD_RATE=64KiB\n")
    return file


def test_rate_and_level_change_while_a_recording_is_uploaded(
    watch_dir: Path, embedded: Store, settings: dict[str, str], env_file: Path
) -> None:
    recording = watch_dir / "a.mp4"
    recording.write_bytes(os.urandom(11 * MIB))  # three minutes at 64 KiB/s
    with daemon(settings, arguments=["--env-file", str(env_file)]) as process:
        process.wait_for("upload_created")
        assert process.metric("upload_limit_bytes_per_second") == 64 * KIB
        wait_until(lambda: process.metric("rate_limit_wait_seconds_total"))
        assert process.count("part_uploaded") == 0
        env_file.write_text("LOG_LEVEL=DEBUG\nS3_ADDRESSING=path\n")
        process.signal(signal.SIGHUP)
        event = process.wait_for("settings_reloaded")
        assert event["applied"] == {"MAX_UPLOAD_RATE": 0, "LOG_LEVEL": "DEBUG"}
        assert event["needs_restart"] == ["S3_ADDRESSING"]
        assert event["overridden_by_environment"] == []
        process.wait_for("stream_completed")
        assert process.count("part_uploaded") == 3  # debug
        assert process.metric("upload_limit_bytes_per_second") == 0
        assert process.stop() == 0
    embedded.assert_identical(recording)


def test_a_timetable_goes_by_the_local_time_of_the_daemon(
    watch_dir: Path, embedded: Store, settings: dict[str, str], env_file: Path
) -> None:
    """Eleven hours ahead of UTC."""
    there = datetime.now(UTC) + timedelta(hours=11)
    before, after = (f"{there + timedelta(hours=hours):%a-%H:%M}" for hours in (-2, 2))
    recording = watch_dir / "a.mp4"
    recording.write_bytes(os.urandom(11 * MIB))
    env_file.write_text(f"MAX_UPLOAD_RATE={before},64KiB {after},off\n")
    with daemon({**settings, "TZ": "Etc/GMT-11"}, arguments=["--env-file", str(env_file)]) as process:
        process.wait_for("upload_created")
        assert process.metric("upload_limit_bytes_per_second") == 64 * KIB
        env_file.write_text(f"MAX_UPLOAD_RATE={before},off {after},64KiB\n")
        process.signal(signal.SIGHUP)
        applied = process.wait_for("settings_reloaded")["applied"]
        assert applied == {"MAX_UPLOAD_RATE": f"{before},off {after},64KiB"}
        process.wait_for("stream_completed")
        assert process.metric("upload_limit_bytes_per_second") == 0
        assert process.stop() == 0
    embedded.assert_identical(recording)


def test_a_bad_file_changes_nothing_and_the_environment_wins(
    watch_dir: Path, settings: dict[str, str], env_file: Path
) -> None:
    with daemon({**settings, "LOG_LEVEL": "INFO"}, arguments=["--env-file", str(env_file)]) as process:
        env_file.write_text("MAX_UPLOAD_RATE=fast\n")
        process.signal(signal.SIGHUP)
        assert "MAX_UPLOAD_RATE: takes a size" in process.wait_for("settings_not_reloaded")["error"]
        assert process.metric("upload_limit_bytes_per_second") == 64 * KIB
        env_file.write_text("MAX_UPLOAD_RATE=1MiB\nLOG_LEVEL=DEBUG\n")
        process.signal(signal.SIGHUP)
        event = process.wait_for("settings_reloaded")
        assert (event["applied"], event["overridden_by_environment"]) == ({"MAX_UPLOAD_RATE": MIB}, ["LOG_LEVEL"])
        assert process.stop() == 0


def test_p4_signals_in_any_number_and_order_hold_no_exit_back(
    watch_dir: Path, endpoint: Endpoint, settings: dict[str, str], env_file: Path
) -> None:
    frozen = arm(endpoint, {"kind": "freeze", "operation": "UploadPart", "times": None})
    (watch_dir / "a.mp4").write_bytes(os.urandom(6 * MIB))
    env_file.write_text("MAX_UPLOAD_RATE=0\n")
    try:
        with daemon(settings, arguments=["--env-file", str(env_file)]) as process:
            wait_for_fault(endpoint, frozen)
            for _ in range(20):
                process.signal(signal.SIGHUP)
            began = time.monotonic()
            process.signal(signal.SIGTERM)
            process.wait_for("shutdown_started")
            env_file.write_text("MAX_UPLOAD_RATE=1MiB\n")
            process.signal(signal.SIGHUP)
            assert process.wait() == 0
            assert time.monotonic() - began <= 1 + 1 + 1
    finally:
        disarm_all(endpoint)


def test_p4_a_part_that_would_take_minutes_holds_no_exit_back(
    watch_dir: Path, embedded: Store, settings: dict[str, str], env_file: Path
) -> None:
    recording = watch_dir / "a.mp4"
    recording.write_bytes(os.urandom(11 * MIB))
    env_file.write_text("MAX_UPLOAD_RATE=16KiB\n")
    arguments = ["--env-file", str(env_file)]
    with daemon(settings, arguments=arguments) as process:
        process.wait_for("upload_created")
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began <= 1 + 1 + 1
    env_file.write_text("")
    with daemon(settings, arguments=arguments) as process:
        process.wait_for("stream_completed")
        assert process.stop() == 0
    embedded.assert_identical(recording)


def test_a_hangup_while_it_starts_or_waits_ends_nothing_and_is_not_lost(
    settings: dict[str, str], env_file: Path, tmp_path: Path, meddle: Callable[[str], dict[str, str]]
) -> None:
    """The start is held where the daemon is imported, until the signal was sent."""
    sent = tmp_path / "sent"
    environment = meddle(f"""
        import pathlib, sys, time
        class Hold:
            def find_spec(self, name, path, target=None):
                while name == "cef_trio.daemon" and not pathlib.Path({str(sent)!r}).exists():
                    time.sleep(0.01)
        sys.meta_path.insert(0, Hold())
    """)
    nobody = {**settings, "REDIS_URL": "redis://127.0.0.1:1/0", **environment}
    with daemon(nobody, wait_started=False, arguments=["--env-file", str(env_file)]) as process:
        held = Path(f"/proc/{process.pid}/status")
        wait_until(lambda: _blocks_hangups(held.read_text()))
        assert process.count("daemon_starting") == 0
        process.signal(signal.SIGHUP)
        sent.touch()
        process.wait_for("settings_reloaded")
        process.wait_for("waiting_for_service")
        process.signal(signal.SIGHUP)
        process.wait_for("settings_reloaded", count=2)
        assert process.stop() == 0


def _blocks_hangups(status: str) -> bool:
    (mask,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:")]
    return bool(mask & 1 << signal.SIGHUP - 1)


def test_a_terminal_that_is_closed_ends_the_daemon_in_good_order(settings: dict[str, str]) -> None:
    master, slave = pty.openpty()
    try:
        with daemon(settings, terminal=slave) as process:
            os.close(slave)
            process.signal(signal.SIGHUP)  # by hand: the terminal is there
            process.wait_for("settings_reloaded")
            os.close(master)
            process.wait_for("shutdown_started")
            assert process.wait() == 0
    finally:
        for descriptor in (master, slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)
