"""P1: files of every size, however they come into the folder, arrive in S3 byte for byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from servers.daemon import daemon, settings_for
from servers.store import Store
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real
MIB = 1024 * 1024
PART = 5 * MIB


@pytest.fixture
def settings(watch_dir: Path, store: Store, valkey: ValkeyServer) -> Mapping[str, str]:
    return settings_for(watch_dir, store.endpoint, valkey.url, stream_timeout_seconds=60, close_grace_seconds=0.3)


def write(path: Path, size_bytes: int) -> None:
    path.write_bytes(os.urandom(size_bytes))


@pytest.mark.parametrize("size_bytes", [0, 1, PART, PART + 1, 60 * MIB], ids=["0", "1", "part", "part+1", "60MiB"])
def test_a_file_of_any_size_arrives(
    settings: Mapping[str, str], watch_dir: Path, store: Store, size_bytes: int
) -> None:
    path = watch_dir / "a file & more+=%.mp4"
    with daemon(settings) as process:
        write(path, size_bytes)
        process.wait_for("stream_completed")
        assert process.stop() == 0
    metadata = store.assert_identical(path)
    assert len(metadata["chunks"]) == -(-size_bytes // PART)
    assert store.open_uploads() == []


def test_a_corrupt_mp4_is_complete_and_has_no_duration(
    settings: Mapping[str, str], watch_dir: Path, store: Store
) -> None:
    path = watch_dir / "corrupt.MP4"
    with daemon(settings) as process:
        # A recorder that lost its power: media without the index that says what it is. (Mere noise can look like MP3.)
        path.write_bytes(b"\0\0\0\x14ftypisom\0\0\2\0isom" + b"\0\0\0\0mdat" + os.urandom(6 * MIB))
        process.wait_for("stream_completed")
        assert process.count("ffprobe_failed") == 1
    assert store.assert_identical(path)["duration_seconds"] is None


def test_files_from_before_the_start_and_files_moved_in_are_taken_and_taken_once(
    settings: Mapping[str, str], watch_dir: Path, store: Store, tmp_path: Path
) -> None:
    before, moved, folder = watch_dir / "before.mp4", watch_dir / "moved.mp4", tmp_path / "folder"
    write(before, 6 * MIB)
    write(tmp_path / "outside.mp4", 7 * MIB)
    folder.mkdir()
    write(folder / "deep.mp4", 5 * MIB)
    with daemon(settings) as process:
        process.wait_for("stream_completed", count=1)
        (tmp_path / "outside.mp4").rename(moved)
        shutil.move(folder, watch_dir / "folder")
        process.wait_for("stream_completed", count=3)
        assert process.stop() == 0
    with daemon(settings) as process:
        write(watch_dir / "after.mp4", 1)
        process.wait_for("stream_completed")
        assert process.count("stream_started") == 1, "a finished file was taken again"
    for path in (before, moved, watch_dir / "folder" / "deep.mp4", watch_dir / "after.mp4"):
        store.assert_identical(path)


def test_a_link_and_a_file_of_another_name_are_not_taken(
    settings: Mapping[str, str], watch_dir: Path, store: Store, tmp_path: Path
) -> None:
    write(tmp_path / "secret.mp4", 10)
    with daemon(settings) as process:
        (watch_dir / "link.mp4").symlink_to(tmp_path / "secret.mp4")
        write(watch_dir / "notes.txt", 10)
        write(watch_dir / "real.mp4", 10)
        process.wait_for("stream_completed")
        process.stop()
    assert [key.rsplit("/", 1)[1] for key in store.recordings()] == ["real.mp4"]


@pytest.mark.parametrize("name", [b"plain.mp4", "schön 録画.mp4".encode(), b"new\nline.mp4", b"\xff\xfe not utf8.mp4"])
def test_a_name_of_any_bytes_is_taken(settings: Mapping[str, str], watch_dir: Path, store: Store, name: bytes) -> None:
    path = watch_dir / os.fsdecode(name)
    with daemon(settings) as process:
        write(path, PART + 1)
        process.wait_for("stream_completed")
    (key,) = store.recordings()
    assert store.client.head_object(Bucket=store.endpoint.bucket, Key=key)["ContentLength"] == PART + 1
    assert store.metadata(key)["total_size_bytes"] == PART + 1


def test_p7_twenty_four_files_growing_at_once_all_arrive_with_a_limit_of_three(
    settings: Mapping[str, str], watch_dir: Path, store: Store
) -> None:
    paths = [watch_dir / f"camera-{number:02}.mp4" for number in range(24)]
    with daemon({**settings, "MAX_CONCURRENT_STREAMS": "3", "STREAM_TIMEOUT_SECONDS": "600"}) as process:
        files = [path.open("wb") for path in paths]
        for _round in range(11):
            for file in files:
                file.write(os.urandom(MIB))
                file.flush()
        # No writer has closed its file yet, and every one of them is as far as its full parts.
        process.wait_for("part_uploaded", count=48, seconds=120)
        for file in files:
            file.write(os.urandom(1000))
            file.close()
        process.wait_for("stream_completed", count=24, seconds=120)
        assert process.stop() == 0
    for path in paths:
        store.assert_identical(path)
    assert store.open_uploads() == []


def test_a_close_ends_a_recording_long_before_the_idle_time_out(
    watch_dir: Path, store: Store, valkey: ValkeyServer
) -> None:
    settings = settings_for(watch_dir, store.endpoint, valkey.url, stream_timeout_seconds=600)
    path = watch_dir / "closed.mp4"
    with daemon(settings) as process:
        with path.open("wb") as file:
            for _ in range(12):
                file.write(os.urandom(MIB))
                file.flush()
            process.wait_for("part_uploaded", count=2)
        process.wait_for("object_completed")
    assert store.sha256(store.key_of("closed.mp4"))


def test_a_second_daemon_does_not_watch_the_same_folder(settings: Mapping[str, str]) -> None:
    with daemon(settings), daemon(settings, wait_started=False) as second:
        assert second.wait() != 0
        assert "watched by another cef-trio" in second.tail()
