"""P2, P5: recordings by ffmpeg in folders, under a template of all fields; a kill -9, and Redis loses everything.

What was seen is printed, for ``pytest -rP``.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from servers.command import answer, command
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.recordings import MIB, make, recording
from servers.store import Store, sha256_of
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real
TEMPLATE = "{host}/{relative_dir}/{year}-{month}-{day}/{file_stem}-{stream_id}{file_ext}"
ZONE = "Pacific/Kiritimati"  # UTC+14, so that its day is often another one than ours
CAMERAS = ("cam1/front", "cam2")
SECONDS = 14.0


@pytest.fixture
def settings(watch_dir: Path, embedded: Store, valkey: ValkeyServer) -> Mapping[str, str]:
    for camera in CAMERAS:
        (watch_dir / camera).mkdir(parents=True)
    return settings_for(
        watch_dir,
        embedded.endpoint,
        valkey.url,
        s3_key_template=TEMPLATE,
        key_time_zone=ZONE,
        instance_id="nvr 3",
        stream_timeout_seconds=60,
        close_grace_seconds=0.5,
    )


def keys(process: DaemonProcess) -> dict[str, str]:
    """The key of each stream whose upload the daemon created."""
    return {str(one["stream_id"]): str(one["key"]) for one in process.events if one["event"] == "upload_created"}


def sent(process: DaemonProcess) -> int:
    return sum(int(one["size_bytes"]) for one in process.events if one["event"] == "part_uploaded")


def test_p2_recordings_in_folders_are_found_by_their_keys_after_a_kill_and_the_loss_of_redis(
    settings: Mapping[str, str], watch_dir: Path, embedded: Store, valkey: ValkeyServer
) -> None:
    paths = [watch_dir / camera / "rec.mp4" for camera in CAMERAS]
    began = datetime.now(UTC)
    with ExitStack() as recorders:
        with daemon(settings) as process:  # which has started before: how long that takes is not theirs
            first, second = (
                recorders.enter_context(recording(path, "fragmented", seconds=SECONDS, mib_per_second=2.0))
                for path in paths
            )
            process.wait_for("part_uploaded", part_number=2, count=2)
            process.signal(signal.SIGKILL)
            process.wait()
            created, sent_before = keys(process), sent(process)
        assert len(created) == 2
        assert first.running
        valkey.flush()
        with daemon(settings) as process:
            process.wait_for("upload_adopted", count=2)
            first.wait()
            second.wait()
            process.wait_for("stream_completed", count=2)
            assert keys(process) == {}, "no upload was begun anew"
            sent_after = sent(process)
            assert process.stop() == 0
    days = {f"{at.astimezone(ZoneInfo(ZONE)):%Y-%m-%d}" for at in (began, datetime.now(UTC))}
    ids = {key: stream_id for stream_id, key in created.items()}
    assert set(embedded.recordings()) == set(ids)
    for path, camera in zip(paths, CAMERAS, strict=True):
        (key,) = [key for key in ids if f"/{camera}/" in key]
        assert key in {f"nvr 3/{camera}/{day}/rec-{ids[key]}.mp4" for day in days}
        assert embedded.sha256(key) == sha256_of(path)
        metadata = embedded.metadata(key)
        assert (metadata["s3_key_prefix"], metadata["relative_path"]) == (key, f"{camera}/rec.mp4")
        assert answer("show", ids[key], settings=settings)["s3_key_prefix"] == key
    total = sum(path.stat().st_size for path in paths)
    rewritten = sum(embedded.metadata(key)["writer"]["bytes_rewritten"] for key in ids)
    assert sent_before + sent_after <= total + rewritten + 8 * 5 * MIB, "only parts in flight were sent twice"
    assert embedded.open_uploads() == []

    valkey.flush()
    with daemon(settings) as process:
        process.wait_for("object_adopted", count=2)
        assert sent(process) == 0
        assert process.stop() == 0
    assert set(embedded.recordings()) == set(ids), "nothing was uploaded again"
    print(  # noqa: T201 - for pytest -rP
        f"{total} bytes in {sorted(ids)}; {sent_before} sent before the kill, {sent_after} after it, 0 after FLUSHALL"
    )


def test_p5_gc_aborts_what_no_stream_owns_below_the_host_and_nothing_else(
    settings: Mapping[str, str], watch_dir: Path, embedded: Store
) -> None:
    make(watch_dir / "cam2" / "a.mp4", "fragmented", seconds=1)
    with daemon(settings) as process:
        process.wait_for("stream_completed")
        lost = embedded.recordings()[0].replace("rec-", "x-")[:-40] + "0b6b1d7e-0000-4000-8000-000000000000.mp4"
        others = [lost.replace("nvr 3/", "nvr 33/"), "nvr 3/notes.txt", f"{lost}.part"]
        for key in (lost, *others):
            embedded.client.create_multipart_upload(Bucket=embedded.endpoint.bucket, Key=key)
        assert process.stop() == 0
    said = command("gc", "--older-than", "0s", settings=settings).stdout
    assert sorted(embedded.open_uploads()) == sorted(others)
    assert "3 open uploads under 'nvr 3/': 1 aborted" in said


def test_a_recording_that_is_moved_from_a_temporary_folder_has_the_key_of_its_camera(
    settings: Mapping[str, str], watch_dir: Path, embedded: Store
) -> None:
    (watch_dir / "tmp").mkdir()
    with daemon(settings) as process:
        path = watch_dir / "tmp" / "a.mp4"
        with path.open("wb") as file:
            file.write(b"x" * MIB)
            file.flush()
            process.wait_for("stream_started")
            path.rename(watch_dir / "cam2" / "b.mp4")
            process.wait_for("recording_renamed")
            file.write(b"y" * 6 * MIB)
        process.wait_for("stream_completed")
        assert process.stop() == 0
    (key,) = embedded.recordings()
    assert key.startswith("nvr 3/cam2/")
    assert key.rpartition("/")[2].startswith("b-")


def test_check_shows_keys_with_the_zone_and_refuses_a_template_in_one_line(settings: Mapping[str, str]) -> None:
    document = answer("check", settings=settings)
    assert [one["key"].rpartition("/")[0] for one in document["examples"]] == [
        "nvr 3/2026-02-01",
        "nvr 3/cameras/gate/2026-02-01",
    ]
    wrong = {**settings, "S3_KEY_TEMPLATE": TEMPLATE.replace("-{stream_id}", "")}
    refused = answer("check", settings=wrong, code=2)
    (line,) = refused["errors"]
    assert "must contain {stream_id}" in line
    assert f"such as '{TEMPLATE}'" in line
