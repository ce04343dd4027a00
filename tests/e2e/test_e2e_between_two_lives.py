"""Kinds 8 and 13 on real processes: a store that lists nothing, and settings that change between two lives."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from servers.daemon import daemon, settings_for
from servers.endpoints import Endpoint
from servers.recordings import MIB
from servers.s3_control import arm, calls
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real


def settings(watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer, bucket: str) -> dict[str, str]:
    return settings_for(
        watch_dir,
        replace(endpoint, bucket=bucket),
        valkey.url,
        retry_attempts=2,
        retry_initial_seconds=0.1,
        retry_max_seconds=0.2,
        close_grace_seconds=0.2,
        stream_timeout_seconds=60,  # the writers close their files: none ends because a part took long
    )


def stored(endpoint: Endpoint, bucket: str) -> list[bytes]:
    """The recordings in a bucket."""
    with closing(endpoint.client()) as client:
        listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        keys = [one["Key"] for one in listed if not one["Key"].endswith(".json")]
        return [client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]


def test_p2_a_redis_that_lost_its_completed_recordings_costs_one_listing_and_no_upload(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    """FLUSHALL between two lives: each of them was uploaded a second time, to a new key. So was a renamed one."""
    given = settings(watch_dir, endpoint, valkey, endpoint.bucket)
    for number, name in enumerate(["a.mp4", "b.mp4", "empty.mp4"]):
        (watch_dir / name).write_bytes(bytes(range(256)) * ((12 - 6 * number) * MIB // 256))
    with daemon(given) as process:
        process.wait_for("stream_completed", count=3)
        ids = {entry["stream_id"] for entry in process.events if entry["event"] == "stream_completed"}
        assert process.stop() == 0
    objects, before = sorted(stored(endpoint, endpoint.bucket)), calls(endpoint)
    assert valkey.command("FLUSHALL") == b"+OK\r\n"
    with daemon(given) as process:
        process.wait_for("object_adopted", count=3)
        assert process.stop() == 0
        assert {entry["stream_id"] for entry in process.events if entry["event"] == "object_adopted"} == ids
    after = calls(endpoint)
    assert after["ListObjectsV2"] == 1 + before["ListObjectsV2"]
    assert after["GetObject"] == 3 + before["GetObject"]
    (watch_dir / "a.mp4").rename(watch_dir / "c.mp4")
    with daemon(given) as process:
        process.wait_for("recording_unchanged")
        assert process.stop() == 0
        assert process.count("stream_started") == 0
    for operation in ("CreateMultipartUpload", "UploadPart", "PutObject", "CompleteMultipartUpload"):
        assert calls(endpoint)[operation] == before[operation], operation
    assert sorted(stored(endpoint, endpoint.bucket)) == objects


def test_a_store_that_lists_neither_uploads_nor_parts_gets_every_recording(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    """ListMultipartUploads answered 500 for ever, and nothing new was uploaded; without ListParts no stream resumed."""
    arm(endpoint, {"kind": "error", "operation": "ListMultipartUploads", "code": "InternalError", "times": None})
    arm(endpoint, {"kind": "error", "operation": "ListParts", "code": "NotImplemented", "times": None})
    given = settings(watch_dir, endpoint, valkey, endpoint.bucket)
    path = watch_dir / "a.mp4"
    with path.open("wb") as writer:
        with daemon(given) as process:
            writer.write(bytes(range(256)) * (6 * MIB // 256))
            writer.flush()
            process.wait_for("part_uploaded")
            assert process.count("optional_call_failing") == 1
            assert process.stop() == 0
        with daemon(given) as process:
            process.wait_for("stream_resumed")
            writer.write(b"the end")
            writer.close()
            process.wait_for("stream_completed")
            assert process.stop() == 0
    assert stored(endpoint, endpoint.bucket) == [path.read_bytes()]


def test_p9_a_bucket_that_changes_between_two_lives_gets_what_was_recorded_for_it(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    """It was uploaded to one bucket, and recorded as in the other."""
    path = watch_dir / "a.mp4"
    with path.open("wb") as writer:
        with daemon(settings(watch_dir, endpoint, valkey, "first-bucket")) as process:
            writer.write(b"\1" * (6 * MIB))  # zeros are no part before the end
            writer.flush()
            process.wait_for("part_uploaded")
            assert process.stop() == 0
        with daemon(settings(watch_dir, endpoint, valkey, "another-bucket")) as process:
            left = process.wait_for("upload_left_behind")
            writer.write(b"the end")
            writer.close()
            completed = process.wait_for("stream_completed")
            assert process.stop() == 0
    assert left["bucket"] == "first-bucket"
    assert left["stream_id"] == completed["stream_id"]
    assert stored(endpoint, "another-bucket") == [path.read_bytes()]
    assert stored(endpoint, "first-bucket") == []
