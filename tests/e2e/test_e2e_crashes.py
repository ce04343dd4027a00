"""P2, P3, P5: the daemon is killed, stopped and robbed of its memory while a recording grows; nothing is lost by it."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
import redis as redis_library
from servers.daemon import NAMESPACE, DaemonProcess, daemon, settings_for
from servers.store import Store
from servers.valkey import ValkeyServer
from waiting import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024
PART = 5 * MIB


@pytest.fixture
def settings(watch_dir: Path, store: Store, valkey: ValkeyServer) -> Mapping[str, str]:
    return settings_for(
        watch_dir,
        store.endpoint,
        valkey.url,
        stream_timeout_seconds=60,
        close_grace_seconds=0.3,
        stale_check_seconds=0.5,
        rescan_seconds=2,
    )


@contextmanager
def growing(path: Path, *, mib_per_second: float, size_bytes: int) -> Iterator[threading.Thread]:
    """A writer that appends at a steady rate in a thread of its own, and closes at the end."""
    stop = threading.Event()

    def write() -> None:
        left = size_bytes
        with path.open("wb") as file:
            while left and not stop.wait(0.25 / mib_per_second):
                block = os.urandom(min(left, MIB // 4))
                file.write(block)
                file.flush()
                left -= len(block)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()


@contextmanager
def held_open(path: Path) -> Iterator[BinaryIO]:
    """Another writer of the file: it has not ended until this one closes it, however late the daemon was."""
    wait_until(path.exists)
    with path.open("ab") as file:
        yield file


def stream_meta(server: ValkeyServer) -> dict[str, str]:
    """``stream:<id>:meta`` of the only stream."""
    with redis_library.Redis.from_url(server.url, decode_responses=True) as client:
        (key,) = client.keys(f"{NAMESPACE}stream:*:meta")
        meta: dict[str, str] = client.hgetall(key)
        return meta


def parts_sent(process: DaemonProcess) -> int:
    return process.count("part_uploaded")


def test_kill_9_again_and_again_during_one_recording_loses_only_the_parts_in_flight(
    settings: Mapping[str, str], watch_dir: Path, store: Store, valkey: ValkeyServer
) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    chance = random.Random(seed)
    path = watch_dir / "killed.mp4"
    size_bytes = 60 * MIB + 12_345
    kills = 0
    with growing(path, mib_per_second=6, size_bytes=size_bytes) as writer:
        while writer.is_alive() or kills < 4:  # a slow machine needs longer for each
            with daemon(settings, wait_started=False) as process:
                time.sleep(chance.uniform(0.3, 2.0))  # the fault itself: a moment nobody chose
                process.kill()
            kills += 1
    with daemon(settings) as process:
        # The last one that was killed may have completed it already: S3 says when it is done, not this daemon's log.
        store.wait_for_metadata(path.name)
        assert process.stop() == 0
    store.assert_identical(path)
    assert store.open_uploads() == [], f"seed {seed}"
    meta = stream_meta(valkey)
    # What was recorded is not sent again, and what S3 had and Redis had not is adopted, so that is not either.
    assert int(meta["total_bytes_sent"]) <= size_bytes, f"seed {seed}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_p3_a_signal_parks_the_stream_and_the_next_start_goes_on(
    settings: Mapping[str, str], watch_dir: Path, store: Store, valkey: ValkeyServer, number: signal.Signals
) -> None:
    path = watch_dir / "parked.mp4"
    unhurried = {**settings, "SHUTDOWN_GRACE_SECONDS": "60"}  # the parts in flight end, on a slow machine too
    with growing(path, mib_per_second=10, size_bytes=30 * MIB) as writer:
        with held_open(path), daemon(unhurried) as process:
            process.wait_for("part_uploaded", count=2)
            process.signal(number)
            assert process.wait() == 0
        meta = stream_meta(valkey)
        assert meta["status"] == "interrupted_shutdown"
        assert int(meta["next_part_to_upload"]) >= 3
        writer.join()
    with daemon(settings) as process:
        process.wait_for("stream_completed")
        assert process.count("stream_resumed") == 1
    store.assert_identical(path)
    assert int(stream_meta(valkey)["total_bytes_sent"]) == 30 * MIB


def test_p5_a_redis_that_lost_everything_is_rebuilt_from_s3_and_the_file(
    settings: Mapping[str, str], watch_dir: Path, store: Store, valkey: ValkeyServer
) -> None:
    path = watch_dir / "adopted.mp4"
    with growing(path, mib_per_second=10, size_bytes=33 * MIB) as writer:
        with held_open(path), daemon(settings) as process:
            process.wait_for("part_uploaded", count=3)
            process.kill()
        before = stream_meta(valkey)
        valkey.flush()
        with daemon(settings) as process:
            adopted = process.wait_for("upload_adopted")
            assert adopted["parts"] >= 3
            process.wait_for("stream_completed")
            assert parts_sent(process) <= 7 - adopted["parts"]
        writer.join()
    after = stream_meta(valkey)
    assert after["stream_id"] == before["stream_id"]
    assert after["s3_key_prefix"] == before["s3_key_prefix"]
    store.assert_identical(path)
    assert store.open_uploads() == []


def test_p5_a_redis_that_loses_everything_under_a_running_daemon_is_rebuilt(
    settings: Mapping[str, str], watch_dir: Path, store: Store, valkey: ValkeyServer
) -> None:
    path = watch_dir / "flushed.mp4"
    with (
        growing(path, mib_per_second=8, size_bytes=40 * MIB),
        held_open(path) as held,
        daemon(settings) as process,
    ):
        process.wait_for("part_uploaded", count=2)
        valkey.flush()
        process.wait_for("upload_adopted")
        held.close()
        process.wait_for("stream_completed")
    store.assert_identical(path)
    assert store.open_uploads() == []


def test_a_file_replaced_while_the_daemon_was_away_is_not_appended_to_an_unrelated_upload(
    settings: Mapping[str, str], watch_dir: Path, store: Store
) -> None:
    path = watch_dir / "replaced.mp4"
    path.write_bytes(os.urandom(11 * MIB))
    with path.open("ab"), daemon(settings) as process:
        process.wait_for("part_uploaded", count=2)
        process.stop()
    other = watch_dir / "other.tmp"
    other.write_bytes(os.urandom(12 * MIB))
    other.rename(path)
    with daemon(settings) as process:
        process.wait_for("stream_completed")
        process.wait_for("stream_failed", reason="file_replaced")
        wait_until(lambda: store.open_uploads() == [])  # it is said before its upload is aborted
    store.assert_identical(path)
    assert store.open_uploads() == []


def test_a_file_deleted_while_it_was_uploaded_leaves_nothing_open(
    settings: Mapping[str, str], watch_dir: Path, store: Store, valkey: ValkeyServer
) -> None:
    path = watch_dir / "deleted.mp4"
    path.write_bytes(os.urandom(6 * MIB))
    with path.open("ab"), daemon(settings) as process:
        process.wait_for("part_uploaded")
        path.unlink()
        process.wait_for("recording_deleted")  # it is said before its upload is aborted, and that recorded
        wait_until(lambda: stream_meta(valkey)["status"] == "deleted_locally")
        assert process.stop() == 0
    assert store.open_uploads() == []
    assert store.keys() == []


def test_a_truncated_recording_starts_over(settings: Mapping[str, str], watch_dir: Path, store: Store) -> None:
    path = watch_dir / "truncated.mp4"
    with daemon(settings) as process:
        with path.open("wb") as file:
            file.write(os.urandom(11 * MIB))
            file.flush()
            process.wait_for("part_uploaded", count=2)
            file.truncate(0)
            file.seek(0)
            process.wait_for("recording_truncated")
            file.write(os.urandom(8 * MIB))
        process.wait_for("stream_completed")
    store.assert_identical(path)
    assert store.open_uploads() == []


def test_a_recording_renamed_while_it_grows_is_followed(
    settings: Mapping[str, str], watch_dir: Path, store: Store
) -> None:
    path, renamed = watch_dir / "first.mp4", watch_dir / "second.mp4"
    with daemon(settings) as process:
        with path.open("wb") as file:
            file.write(os.urandom(6 * MIB))
            file.flush()
            process.wait_for("part_uploaded")
            path.rename(renamed)
            process.wait_for("recording_renamed")
            file.write(os.urandom(6 * MIB))
        process.wait_for("stream_completed")
        assert process.count("stream_started") == 1
    (key,) = store.recordings()
    assert key.endswith("/first.mp4"), "the key is the stream's from its beginning"
    assert store.client.head_object(Bucket=store.endpoint.bucket, Key=key)["ContentLength"] == renamed.stat().st_size


def test_p2_a_completed_recording_that_redis_has_lost_is_found_in_the_store(
    settings: Mapping[str, str], watch_dir: Path, store: Store, valkey: ValkeyServer
) -> None:
    """Swift keeps no CRC64NVME: the ETag over the parts' MD5s proves it, and the metadata tells their sizes."""
    path = watch_dir / "done.mp4"
    path.write_bytes(os.urandom(11 * MIB))
    with daemon(settings) as process:
        done = process.wait_for("stream_completed")
        assert process.stop() == 0
    assert valkey.command("FLUSHALL") == b"+OK\r\n"
    with daemon(settings) as process:
        assert process.wait_for("object_adopted")["stream_id"] == done["stream_id"]
        assert process.stop() == 0
        assert (parts_sent(process), process.count("stream_started")) == (0, 0)
    assert stream_meta(valkey)["status"] == "completed"
    assert len(store.recordings()) == 1
    store.assert_identical(path)
