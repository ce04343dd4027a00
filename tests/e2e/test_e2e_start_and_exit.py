"""P4 and the exit codes, on the real process: refused at the start, waited for, frozen on the way out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import redis as redis_library
from servers.daemon import NAMESPACE, daemon, settings_for
from servers.endpoints import Endpoint
from servers.s3_control import arm, disarm_all, wait_for_fault
from servers.store import Store
from servers.valkey import ValkeyServer, valkey_server

from cef_trio.settings import Settings

pytestmark = pytest.mark.real
MIB = 1024 * 1024
EXIT_SECONDS = 6 + 2 + 1
"""P4 with the default settings."""


def meta_of(server: ValkeyServer) -> dict[str, str]:
    with redis_library.Redis.from_url(server.url, decode_responses=True) as client:
        (key,) = client.keys(f"{NAMESPACE}stream:*:meta")
        meta: dict[str, str] = client.hgetall(key)
        return meta


def refused(settings: Mapping[str, str]) -> tuple[int, str]:
    with daemon(settings, wait_started=False) as process:
        code = process.wait()
        return code, "\n".join(
            str(event.get("error")) for event in process.events if event["event"] == "refused_at_start"
        )


def test_a_wrong_secret_is_refused_at_the_start(watch_dir: Path, store: Store, valkey: ValkeyServer) -> None:
    settings = settings_for(watch_dir, store.endpoint, valkey.url, s3_secret_access_key="wrong")
    code, why = refused(settings)
    assert code == 4
    assert "SignatureDoesNotMatch" in why
    assert "wrong" not in why.replace("wrong secret", "")


def test_a_bucket_that_is_missing_is_refused_or_made_as_one_asks(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    settings = settings_for(watch_dir, replace(endpoint, bucket="not-there-yet"), valkey.url, s3_create_bucket="false")
    code, why = refused(settings)
    assert code == 4
    assert "S3_CREATE_BUCKET" in why
    with daemon({**settings, "S3_CREATE_BUCKET": "true"}) as process:
        assert process.count("bucket_created") == 1
        assert process.stop() == 0


def test_a_wrong_redis_password_is_refused_and_is_not_in_the_log(watch_dir: Path, store: Store) -> None:
    with valkey_server(tcp=True) as server:
        server.command("CONFIG", "SET", "requirepass", "right-password")
        url = server.url.replace("redis://", "redis://:hunter2hunter2@")
        settings = settings_for(watch_dir, store.endpoint, url)
        with daemon(settings, wait_started=False) as process:
            assert process.wait() == 4
            assert "hunter2hunter2" not in process.tail(1000)


def test_a_redis_that_is_not_there_yet_is_waited_for(watch_dir: Path, store: Store, valkey: ValkeyServer) -> None:
    valkey.stop()
    with daemon(settings_for(watch_dir, store.endpoint, valkey.url), wait_started=False) as process:
        process.wait_for("waiting_for_service")
        valkey.start()
        process.wait_for("daemon_started")
        assert process.stop() == 0


@pytest.mark.parametrize("end", ["least", "most"])
def test_a_daemon_works_with_the_most_extreme_durations(
    watch_dir: Path, store: Store, valkey: ValkeyServer, end: str
) -> None:
    """A century does not fit into poll(2), and more of it into no date: that was a bug's exit code, long after."""
    durations = [name for name in Settings.model_fields if name.rpartition("_")[2] in {"seconds", "hours", "days"}]
    most = {"seconds": "3153600000", "hours": "876000", "days": "36500"}
    # What a lookup, a connection or a time-out needs is not reduced: only what may be as short as one likes.
    least = {"rescan_seconds": "0.05", "stale_check_seconds": "0.05"}
    least |= {name: "1e-9" for name in durations if name.endswith(("_days", "_hours"))}
    values = {name: most[name.rpartition("_")[2]] for name in durations} if end == "most" else least
    values |= {"close_grace_seconds": "0", "watch_min_age_seconds": "0"}  # an upload waits for these
    values |= {"after_upload": "delete", "on_start_webhook": "http://127.0.0.1:9"}
    settings = settings_for(watch_dir, store.endpoint, valkey.url, **values)
    with daemon(settings) as process:
        (watch_dir / "a.mp4").write_bytes(b"x" * 1000)
        process.wait_for("stream_completed")
        if end == "least":
            process.wait_for("recording_deleted_after_upload")
        assert process.stop() == 0
        assert "Traceback" not in process.tail(100_000)
    assert (watch_dir / "a.mp4").exists() is (end == "most")


def test_p4_a_frozen_redis_does_not_hold_the_exit(watch_dir: Path, store: Store, valkey: ValkeyServer) -> None:
    """200 streams are open; none of their states can be saved, which is said, and their checkpoints are still true."""
    for number in range(200):
        (watch_dir / f"{number:03}.mp4").write_bytes(b"x" * 1000)
    writers = [path.open("ab") for path in watch_dir.iterdir()]
    try:
        with daemon(settings_for(watch_dir, store.endpoint, valkey.url)) as process:
            process.wait_for("stream_started", count=200)
            valkey.freeze()
            began = time.monotonic()
            process.signal(signal.SIGTERM)
            assert process.wait(EXIT_SECONDS + 5) == 3
            assert time.monotonic() - began <= EXIT_SECONDS
            (unsaved,) = [event for event in process.events if event["event"] == "streams_not_saved"]
            assert len(unsaved["streams"]) == 200
        valkey.thaw()
        with daemon(settings_for(watch_dir, store.endpoint, valkey.url)) as process:
            process.wait_for("stream_resumed", count=200)
    finally:
        for writer in writers:
            writer.close()


def test_p4_a_redis_that_is_gone_does_not_hold_the_exit(watch_dir: Path, store: Store, valkey: ValkeyServer) -> None:
    path = watch_dir / "a.mp4"
    path.write_bytes(os.urandom(6 * MIB))
    with path.open("ab"), daemon(settings_for(watch_dir, store.endpoint, valkey.url)) as process:
        process.wait_for("part_uploaded")
        valkey.kill()
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        assert process.wait(EXIT_SECONDS + 5) == 3
        assert time.monotonic() - began <= EXIT_SECONDS


@pytest.mark.parametrize("operation", ["UploadPart", "CompleteMultipartUpload", "PutObject"])
def test_p4_a_frozen_s3_does_not_hold_the_exit_and_the_next_start_goes_on(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer, operation: str
) -> None:
    path = watch_dir / "a.mp4"
    grace_seconds = 1.0  # nothing that is frozen ends within it, so it is waited for in full
    settings = settings_for(
        watch_dir, endpoint, valkey.url, close_grace_seconds=0.2, shutdown_grace_seconds=grace_seconds
    )
    arm(endpoint, {"kind": "freeze", "operation": operation, "times": None})
    with daemon(settings) as process:
        path.write_bytes(os.urandom(6 * MIB))
        process.wait_for("upload_created" if operation == "UploadPart" else "part_uploaded")
        if operation == "PutObject":
            process.wait_for("object_completed")
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        assert process.wait(EXIT_SECONDS) == 0
        assert time.monotonic() - began <= grace_seconds + 2 + 1
    expected = {"s3_completed"} if operation == "PutObject" else {"interrupted_cancelled", "interrupted_shutdown"}
    assert meta_of(valkey)["status"] in expected
    disarm_all(endpoint)
    with daemon(settings) as process:
        process.wait_for("stream_completed")
        assert process.stop() == 0


def test_p4_a_second_signal_skips_the_grace_and_a_third_exits_at_once(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    path = watch_dir / "a.mp4"
    path.write_bytes(os.urandom(6 * MIB))
    settings = settings_for(watch_dir, endpoint, valkey.url, shutdown_grace_seconds=120)
    frozen = arm(endpoint, {"kind": "freeze", "operation": "UploadPart", "times": None})
    with path.open("ab"), daemon(settings) as process:
        wait_for_fault(endpoint, frozen)
        process.signal(signal.SIGTERM)
        process.wait_for("shutdown_started")
        process.signal(signal.SIGTERM)
        assert process.wait(3) == 0
    assert meta_of(valkey)["status"] == "interrupted_cancelled"
    # The third exits at once: not after a save, which is given long here.
    with path.open("ab"), daemon({**settings, "SHUTDOWN_SAVE_SECONDS": "60"}) as process:
        wait_for_fault(endpoint, frozen, hits=2)
        process.signal(signal.SIGTERM)
        process.wait_for("shutdown_started")
        valkey.freeze()
        process.signal(signal.SIGTERM)
        process.wait_for("shutdown_grace_skipped")
        process.signal(signal.SIGTERM)
        assert process.wait(10) == 3
