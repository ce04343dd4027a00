"""Kind 9 on real processes: what a hand or a newer version left in Redis is one stream's trouble; all else goes on."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import pytest
import redis as redis_py
from servers.command import ROOT, answer, command
from servers.daemon import NAMESPACE, daemon, settings_for
from servers.store import Store
from servers.valkey import ValkeyServer

from cef_trio.checkpoint.redis.keys import Keys

pytestmark = pytest.mark.real
MIB = 1024 * 1024
OWNERS = Keys().owners


def test_kind9_garbage_in_redis_stops_neither_a_daemon_nor_a_command(
    tmp_path: Path, embedded: Store, valkey: ValkeyServer
) -> None:
    """P6, P9: intake, idle checker, saves on the way out, ``status``, ``list``, ``doctor``, ``retry --all``, ``gc``."""
    watch = tmp_path / "watch"
    watch.mkdir()
    settings = {
        **settings_for(watch, embedded.endpoint, valkey.url, close_grace_seconds=0.2, stale_check_seconds=0.5),
        "PYTHONPATH": str(ROOT),
    }
    names = ("typed", "odd", "parts", "lease", "field", "good")
    writers = {name: (watch / f"{name}.mp4").open("wb") for name in names}
    for writer in writers.values():
        writer.write(b"\1" * (6 * MIB))
        writer.flush()
    with daemon(settings) as process:
        process.wait_for("part_uploaded", count=len(names))
        assert process.stop() == 0
    ids = {Path(one["path"]).stem: one["stream_id"] for one in answer("list", settings=settings)["streams"]}
    with redis_py.Redis.from_url(valkey.url) as raw:
        for stream in (
            f"{NAMESPACE}stream:{ids['typed']}:meta",
            f"{NAMESPACE}stream:{ids['parts']}:parts",
            f"{NAMESPACE}stream:{ids['lease']}:lease",
        ):
            raw.delete(stream)
            raw.rpush(stream, "a hand slipped")
        raw.hset(f"{NAMESPACE}stream:{ids['odd']}:meta", "status", "paused_by_moon")
        raw.hdel(f"{NAMESPACE}stream:{ids['field']}:meta", "part_size")
        raw.sadd(f"{NAMESPACE}streams:active", "nonsense", b"\xff\xfe", "../../x")
        raw.delete(f"{NAMESPACE}streams:failed")
        raw.set(f"{NAMESPACE}streams:failed", "garbage")
        raw.set(f"{NAMESPACE}webhooks:owed", "garbage")
        raw.delete(OWNERS)
        for key in (OWNERS, f"{NAMESPACE}verified", f"{NAMESPACE}verification"):
            raw.set(key, "garbage")
        embedded.client.create_multipart_upload(  # whose stream Redis has lost
            Bucket=embedded.endpoint.bucket, Key=f"streams/under-test/{uuid4()}/lost.mp4"
        )
        before = {
            key: raw.dump(key)
            for key in (f"{NAMESPACE}stream:{ids['typed']}:meta", f"{NAMESPACE}stream:{ids['odd']}:meta")
        }
        with daemon(settings) as process:
            for writer in writers.values():
                writer.close()
            process.wait_for("stream_completed", stream_id=ids["good"])
            (watch / "new.mp4").write_bytes(b"\2" * (6 * MIB))
            process.wait_for("stream_completed", file=str(watch / "new.mp4"))
            process.wait_for("checkpoint_unreadable", count=7)
            process.wait_for("checkpoint_unreadable", key=OWNERS)
            # Some rounds of the idle checker and of requests for the page: each key is logged once.
            for name in ("again", "and_again"):
                (watch / f"{name}.mp4").write_bytes(b"\3" * MIB)
                process.wait_for("stream_completed", file=str(watch / f"{name}.mp4"))
            said = [entry["key"] for entry in process.events if entry["event"] == "checkpoint_unreadable"]
            assert len(said) == len(set(said))
            assert process.count("lease_lost") == process.count("stream_failed") == 0
            listed = answer("list", settings=settings)
            assert {Path(one["path"]).stem for one in listed["streams"]} >= {"good", "parts", "lease", "new"}
            status = answer("status", settings=settings)
            assert {one["key"] for one in status["unreadable"]} >= {
                f"{NAMESPACE}stream:{ids['typed']}:meta",
                f"{NAMESPACE}stream:{ids['odd']}:meta",
                f"{NAMESPACE}stream:{ids['field']}:meta",
                f"{NAMESPACE}stream:{ids['parts']}:parts",
                f"{NAMESPACE}streams:failed",
            }
            assert "cannot be read" in command("status", settings=settings).stdout
            assert "cannot be read" in command("list", settings=settings).stdout
            examined = answer("doctor", settings=settings, code=5)["findings"]
            assert [one for one in examined if one["subject"] == "records" and "paused_by_moon" in one["says"]]
            assert any("3 names in streams:active" in one["says"] for one in examined)
            assert command("retry", "--all", settings=settings).returncode == 0
            collected = answer("gc", "--older-than", "0s", settings=settings)["results"]
            kept = {one["subject"].split("/")[-2] for one in collected if not one["aborted"]}
            assert kept >= {ids["typed"], ids["odd"], ids["field"], ids["parts"]}
            # Two are repaired of them: they go on by themselves, and send nothing again.
            raw.hset(f"{NAMESPACE}stream:{ids['odd']}:meta", "status", "interrupted_shutdown")
            raw.delete(f"{NAMESPACE}stream:{ids['lease']}:lease")
            for name in ("odd", "lease"):
                process.wait_for("stream_completed", stream_id=ids[name])
            assert {key: raw.dump(key) for key in before if ids["typed"] in key}.items() <= before.items()
            assert process.stop() == 0
    embedded.assert_identical(watch / "good.mp4")
    embedded.assert_identical(watch / "odd.mp4")
    embedded.assert_identical(watch / "new.mp4")


@pytest.mark.parametrize("kind", ["meta", "parts"])
def test_kind9_a_record_that_becomes_unreadable_while_its_stream_is_uploaded_is_set_aside(
    watch_dir: Path, embedded: Store, valkey: ValkeyServer, kind: str
) -> None:
    """P6: its next write failed it for good. It comes back when the key is readable or gone."""
    settings = settings_for(
        watch_dir, embedded.endpoint, valkey.url, close_grace_seconds=0.2, stale_check_seconds=0.5, rescan_seconds=1
    )
    path = watch_dir / "growing.mp4"
    with daemon(settings) as process, redis_py.Redis.from_url(valkey.url) as raw:
        with path.open("wb") as writer:
            writer.write(os.urandom(6 * MIB))
            writer.flush()
            stream_id = process.wait_for("part_uploaded")["stream_id"]
            key = f"{NAMESPACE}stream:{stream_id}:{kind}"
            raw.delete(key)
            raw.rpush(key, "a hand slipped")
            writer.write(os.urandom(5 * MIB))
            writer.flush()
            process.wait_for("checkpoint_unreadable", key=key)
            (watch_dir / "other.mp4").write_bytes(os.urandom(MIB))
            process.wait_for("stream_completed", file=str(watch_dir / "other.mp4"))
            assert raw.lrange(key, 0, -1) == [b"a hand slipped"]
            raw.delete(key)
            writer.write(os.urandom(MIB))
        process.wait_for("stream_completed", file=str(path))
        assert process.count("stream_failed") == process.count("failure_not_recorded") == 0
        assert process.stop() == 0
    embedded.assert_identical(path)


def test_p6_numbers_that_no_daemon_wrote_end_no_daemon_and_keep_no_recording_waiting(
    watch_dir: Path, embedded: Store, valkey: ValkeyServer
) -> None:
    """Each is of a stream whose file was replaced, so that the lookup compares bytes by them, and at each start."""
    settings = {
        **settings_for(watch_dir, embedded.endpoint, valkey.url, close_grace_seconds=0.2, stale_check_seconds=0.5),
        "PYTHONPATH": str(ROOT),
    }
    names = ("number", "head", "size")
    writers = [(watch_dir / f"{name}.mp4").open("wb") for name in names]
    with daemon(settings) as process:
        for writer in writers:
            writer.write(os.urandom(6 * MIB))
            writer.flush()
        process.wait_for("part_uploaded", count=len(names))
        assert process.stop() == 0
    ids = {Path(one["path"]).stem: one["stream_id"] for one in answer("list", settings=settings)["streams"]}
    with redis_py.Redis.from_url(valkey.url) as raw:
        parts = f"{NAMESPACE}stream:{ids['number']}:parts"
        [record] = raw.hvals(parts)
        raw.hset(parts, "20000", record)
        raw.hset(f"{NAMESPACE}stream:{ids['head']}:meta", "head_size_bytes", str(1 << 63))
        raw.hset(f"{NAMESPACE}stream:{ids['size']}:meta", "part_size", str(1 << 63))
    for name, writer in zip(names, writers, strict=True):
        writer.close()
        (watch_dir / "new.tmp").write_bytes(os.urandom(6 * MIB))
        (watch_dir / "new.tmp").rename(watch_dir / f"{name}.mp4")
    with daemon(settings) as process:
        (watch_dir / "new.mp4").write_bytes(os.urandom(6 * MIB))
        process.wait_for("stream_completed", file=str(watch_dir / "new.mp4"))
        process.wait_for("checkpoint_unreadable", count=len(names))
        assert process.count("stream_failed") == process.count("path_lookup_failed") == 0
        assert process.stop() == 0
    embedded.assert_identical(watch_dir / "new.mp4")
