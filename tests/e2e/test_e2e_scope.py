"""What of the watch folder is uploaded: ``WATCH_EXCLUDE``, and containers other than MP4."""

from __future__ import annotations

import os
import subprocess
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


def test_p3_excluded_files_stay_here_and_one_that_is_excluded_after_its_start_goes_on_to_its_end(
    settings: Mapping[str, str], watch_dir: Path, store: Store
) -> None:
    (watch_dir / ".Trash-1000").mkdir()
    (watch_dir / ".Trash-1000" / "old.mp4").write_bytes(os.urandom(100))
    (watch_dir / "._a.mp4").write_bytes(os.urandom(100))
    live, later = watch_dir / "live.mp4", watch_dir / "cam" / "later.mp4"
    later.parent.mkdir()
    by_silence = {**settings, "STREAM_TIMEOUT_SECONDS": "3"}  # no close of an excluded file is reported
    with live.open("wb", buffering=0) as file, daemon(by_silence) as process:
        file.write(os.urandom(PART))
        process.wait_for("part_uploaded")
        live.rename(watch_dir / ".live.mp4")
        file.write(os.urandom(PART + 1))
        process.wait_for("stream_completed")
        assert process.stop() == 0
    with later.open("wb", buffering=0) as other:
        with daemon(settings) as process:
            other.write(os.urandom(PART))
            process.wait_for("part_uploaded", file=str(later))
            assert process.stop() == 0
        other.write(os.urandom(PART + 2))
    with daemon({**settings, "WATCH_EXCLUDE": "default,cam/**"}) as process:
        process.wait_for("stream_completed")
        assert process.stop() == 0
    store.assert_identical(later)
    assert len(store.recordings()) == 2


def test_p1_recordings_in_other_containers_have_their_content_types_and_media(
    settings: Mapping[str, str], watch_dir: Path, store: Store
) -> None:
    wanted = {
        "a.mp4": ("video/mp4", "mov,mp4,m4a,3gp,3g2,mj2"),
        "b.MKV": ("video/x-matroska", "matroska,webm"),
        "c.ts": ("video/mp2t", "mpegts"),
        "d.mov": ("video/quicktime", "mov,mp4,m4a,3gp,3g2,mj2"),
        "e.flv": ("video/x-flv", "flv"),
        "f.avi": ("video/x-msvideo", "avi"),
        "g.weird": ("application/octet-stream", "matroska,webm"),
    }
    patterns = ",".join(f"*{Path(name).suffix.lower()}" for name in wanted)
    with daemon({**settings, "WATCH_PATTERNS": patterns}) as process:
        source = ("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=duration=1:size=160x120:rate=10")
        for name in wanted:
            form = ("-f", "matroska") if name == "g.weird" else ()
            subprocess.run([*source, "-c:v", "libx264", *form, str(watch_dir / name)], check=True)
        process.wait_for("stream_completed", count=len(wanted))
        assert process.stop() == 0
    for name, (content_type, container) in wanted.items():
        metadata = store.assert_identical(watch_dir / name)
        head = store.client.head_object(Bucket=store.endpoint.bucket, Key=metadata["s3_key_prefix"])
        assert (head["ContentType"], metadata["media"]["container"]) == (content_type, container)
        assert metadata["duration_seconds"] == pytest.approx(1, abs=0.3)


def test_a_content_type_that_is_set_wins(settings: Mapping[str, str], watch_dir: Path, store: Store) -> None:
    path = watch_dir / "a.mkv"
    path.write_bytes(os.urandom(PART + 1))
    with daemon({**settings, "WATCH_PATTERNS": "*.mkv", "S3_CONTENT_TYPE": "video/x-own"}) as process:
        process.wait_for("stream_completed")
        assert process.stop() == 0
    key = store.assert_identical(path)["s3_key_prefix"]
    assert store.client.head_object(Bucket=store.endpoint.bucket, Key=key)["ContentType"] == "video/x-own"


def test_a_recording_is_begun_once_it_is_large_and_old_enough(
    settings: Mapping[str, str], watch_dir: Path, store: Store
) -> None:
    minimums = {"WATCH_MIN_SIZE_BYTES": "1MiB", "WATCH_MIN_AGE_SECONDS": "5", "RESCAN_SECONDS": "1"}
    small, large = watch_dir / "small.mp4", watch_dir / "large.mp4"
    with daemon({**settings, **minimums}) as process:
        small.write_bytes(os.urandom(MIB - 1))
        large.write_bytes(os.urandom(PART + 1))
        process.wait_for("recording_below_minimum", count=2)
        (watch_dir / "large.mp4").touch()
        process.wait_for("stream_completed")
        assert process.metric('files_below_minimum{minimum="size"}') == 1
        assert process.metric('files_below_minimum{minimum="age"}') == 0
        with small.open("ab") as file:
            file.write(b"x")
        process.wait_for("stream_completed", count=2)
        assert process.stop() == 0
    store.assert_identical(large)
    store.assert_identical(small)


def test_a_link_is_followed_into_a_listed_root_only_and_what_it_leads_to_is_uploaded_once(
    settings: Mapping[str, str], watch_dir: Path, store: Store, tmp_path: Path
) -> None:
    root, private = tmp_path / "root", tmp_path / "private"
    for folder in (root / "cam", private):
        folder.mkdir(parents=True)
    (private / "p.mp4").write_bytes(os.urandom(MIB))
    for name in ("one", "two"):
        (watch_dir / name).symlink_to(root / "cam")
    (watch_dir / "private").symlink_to(private)
    live = root / "cam" / "live.mp4"
    with_roots = {
        **settings,
        "WATCH_LINK_ROOTS": str(root),
        "S3_KEY_TEMPLATE": "s/{relative_dir}/{stream_id}/{file_name}",
        "STALE_CHECK_SECONDS": "0.5",
    }
    with daemon(with_roots) as process:
        assert process.wait_for("links_not_followed")["new"] == [str(watch_dir / "private")]
        with live.open("wb", buffering=0) as file:
            for _ in range(2):
                file.write(os.urandom(PART))
                process.wait_for("part_uploaded")
            file.write(b"end")
        process.wait_for("stream_completed", seconds=40)  # by its close, and not by a minute of silence
        assert process.metric("links_not_followed") == 1
        assert process.count("stream_completed") == process.count("stream_started") == 1
        assert process.stop() == 0
    key = store.assert_identical(live)["s3_key_prefix"]
    assert key.startswith("s/cam/")
    with daemon(with_roots) as process:  # known again
        process.wait_for("daemon_started")
        process.wait_for_rounds(2)
        assert process.stop() == 0
        assert process.count("stream_started") == 0
