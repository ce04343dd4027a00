"""A daemon continues what one of an earlier version left at its keys, which had no owner's namespace."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
import redis as redis_py
import trio
from checkpoint import examples
from servers.command import answer
from servers.daemon import NAMESPACE, daemon, settings_for
from servers.endpoints import Endpoint
from servers.recordings import MIB
from servers.s3_control import calls
from servers.store import look_into
from servers.valkey import ValkeyServer
from structlog.typing import EventDict
from thoroughness import only_long
from waiting import WAIT_SECONDS, wait_until

from cef_trio.checkpoint.model import Lease, Owner
from cef_trio.checkpoint.redis import LegacyPlace, LegacyStreams, codec
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.daemon.upgrade import Upgrade
from cef_trio.upload import Ownership, Services

pytestmark = pytest.mark.real

TEMPLATE_BEFORE = "streams/{stream_id}/{file_name}"
PART = 5 * MIB


def settings(watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer, **more: object) -> dict[str, str]:
    quick = {"close_grace_seconds": 0.2, "stale_check_seconds": 0.5, "rescan_seconds": 1, "lease_seconds": 3}
    return settings_for(watch_dir, endpoint, valkey.url, chunk_size_bytes=PART, **{**quick, **more})


def make_keys_of_before(raw: Any, prefix: str = "") -> None:
    """Have what is in the namespace as an earlier version would have it: its keys, no schema, no indexes.

    ``prefix``: ``REDIS_KEY_PREFIX``.
    """
    known = {f"streams:{stream_set.value}" for stream_set in StreamSet} | {"streams:by_path", "webhooks:owed"}
    for key in raw.keys(f"{prefix}{NAMESPACE}*"):
        name = key.decode().removeprefix(f"{prefix}{NAMESPACE}")
        if name in known or name.endswith((":meta", ":parts", ":lease")):
            raw.rename(key, prefix + name)
        else:
            raw.delete(key)
        if name.endswith(":meta"):
            raw.hdel(prefix + name, "schema")
    raw.hdel(f"{prefix}streams:by_path", codec.COUNT_FIELD)


def services_of(legacy: Any, lease: Lease, ownership: Ownership | None = None) -> Services:
    """What an upgrade needs; the folder is at a known place unless another ownership is given."""
    if ownership is None:
        ownership = Ownership("machine")
        ownership.owner = HERE
    services = SimpleNamespace(
        legacy=legacy,
        lease=lease,
        ownership=ownership,
        rules=SimpleNamespace(watch_folder="/rec", described_folders="/rec", folders=()),
        redis_breaker=SimpleNamespace(up_since=-inf),
        determine_owner=trio.lowlevel.checkpoint,
    )
    return cast("Services", services)


async def until_left(store: RedisCheckpointStore, number: int) -> None:
    with trio.fail_after(WAIT_SECONDS):
        while await store.legacy.count() != number:  # noqa: ASYNC110 - Redis tells no one
            await trio.sleep(0.02)


HERE, THERE = Owner("machine", "ext4:1", "/rec /"), Owner("their-machine", "ext4:2", "/rec /")
LONGER = only_long("the other one is stricter")


@pytest.mark.parametrize("instance", [pytest.param("under-test", marks=LONGER), "another-container"])
def test_open_and_ended_streams_of_before_continue_and_no_part_is_sent_twice(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer, instance: str
) -> None:
    """The earlier daemon was killed: its leases are alive. Another instance waits for their end."""
    done, deleted, grows = (watch_dir / f"{name}.mp4" for name in ("done", "deleted", "grows"))
    before = settings(watch_dir, endpoint, valkey, s3_key_template=TEMPLATE_BEFORE, lease_seconds=60)
    store = look_into(endpoint)
    with redis_py.Redis.from_url(valkey.url) as raw, grows.open("wb") as writer:
        with daemon(before) as process:
            done.write_bytes(b"\1" * (6 * MIB))
            with deleted.open("wb") as open_file:
                open_file.write(b"\2" * PART)
                open_file.flush()
                writer.write(b"\3" * (2 * PART))
                writer.flush()
                process.wait_for("stream_completed", file=str(done))
                process.wait_for("part_uploaded", file=str(deleted))
                process.wait_for("part_uploaded", file=str(grows), count=2)
            deleted.unlink()
            process.wait_for("recording_deleted")  # and then it is recorded
            metas = f"{NAMESPACE}stream:*:meta"
            wait_until(lambda: b"deleted_locally" in {raw.hget(key, "status") for key in raw.keys(metas)})
            process.kill()
        make_keys_of_before(raw)
        sent = calls(endpoint)["UploadPart"]
        lease = f"stream:{raw.hget('streams:by_path', str(grows)).decode()}:lease"
        holder = raw.get(lease).decode().rpartition("/")[0]
        raw.persist(lease)
        # It waits for the leases of others for the time of its own: long enough for a slow test to let them end.
        given = settings(watch_dir, endpoint, valkey, instance_id=instance, lease_seconds=30)
        with daemon(given, wait_started=False) as process:
            if instance != "under-test":
                process.wait_for("legacy_streams_waiting", holders=[holder])
                for one in raw.keys("stream:*:lease"):
                    raw.pexpire(one, 100)
            process.wait_for("legacy_streams_moved", streams=3, left=0)
            process.wait_for("daemon_started")
            writer.write(b"\4" * MIB)
            writer.close()
            process.wait_for("stream_completed", file=str(grows))
            process.wait_for_rounds(3)
            assert process.count("stream_started") == process.count("upload_restarted") == 0, process.tail()
            assert process.stop() == 0
        assert calls(endpoint)["UploadPart"] == sent + 1
        assert {key for key in raw.keys("*") if not key.startswith((NAMESPACE.encode(), b"{fleet}:"))} == set()
    for path in (done, grows):
        store.assert_identical(path)
    assert store.open_uploads() == []
    assert all(key.startswith("streams/") and key.count("/") == 2 for key in store.recordings()), "keys of records stay"


def test_p9_streams_of_another_machine_stay_and_doctor_says_whose_they_are(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    theirs = Owner("fedcba9876543210", "uuid:of-their-disk", "/ /")
    record = examples.meta("theirs", path=str(watch_dir / "a.mp4"), owner=theirs)

    async def create() -> None:
        async with RedisCheckpointStore(valkey.url) as store:
            await store.create(record, examples.THEIRS, [examples.part(1)])

    trio.run(create)
    given = settings(watch_dir, endpoint, valkey)
    with redis_py.Redis.from_url(valkey.url) as raw:
        before = {key: raw.hgetall(key) for key in raw.keys("stream:*:[mp]*")}
        with daemon(given) as process:
            (watch_dir / "a.mp4").write_bytes(b"\1" * MIB)
            process.wait_for("stream_completed", file=str(watch_dir / "a.mp4"))
            assert process.wait_for("legacy_streams_moved")["left"] == 1
            assert process.stop() == 0
        assert len(before) == 2
        assert {key: raw.hgetall(key) for key in before} == before
    (found,) = [one for one in answer("doctor", settings=given)["findings"] if one["subject"] == "earlier version"]
    assert found["says"] == "1 stream at the keys of an earlier version: 1 stream of fedcba987654"


def test_p9_gc_keeps_the_uploads_of_other_owners_where_the_template_mixes_them(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    given = settings(watch_dir, endpoint, valkey, s3_key_template=TEMPLATE_BEFORE)
    store = look_into(endpoint)
    with (watch_dir / "a.mp4").open("wb") as writer, daemon(given) as process:
        writer.write(b"\1" * PART)
        writer.flush()
        process.wait_for("part_uploaded")
        orphan = f"streams/{uuid4()}/b.mp4"
        store.client.create_multipart_upload(Bucket=endpoint.bucket, Key=orphan)
        done = answer("gc", "--owner", "other", "--redis-is-empty", "--older-than", "0s", settings=given)
        judged = {one["subject"]: one["aborted"] for one in done["results"]}
        assert judged.pop(orphan) is True
        assert list(judged.values()) == [False]
        assert store.open_uploads() == list(judged)
        says = [one["says"] for one in answer("doctor", settings=given)["findings"] if one["subject"] == "owner"]
        assert any("has no {owner}" in one for one in says)


async def test_streams_that_a_running_daemon_of_before_holds_are_moved_when_it_ends(
    valkey: ValkeyServer, logged: list[EventDict]
) -> None:
    lease = Lease("new", "process", 0.2)
    async with (
        RedisCheckpointStore(valkey.url) as old,
        RedisCheckpointStore(valkey.url, owner="node-7") as new,
        trio.open_nursery() as nursery,
    ):
        await old.create(examples.meta("held"), examples.THEIRS, [examples.part(1)])
        await old.create(examples.meta("free"), lease, [examples.part(1)])
        upgrade = Upgrade(services_of(new.legacy, lease))
        await upgrade.run(lambda _text: None)
        assert await new.members(StreamSet.ACTIVE) == {"free"}
        assert [one["streams"] for one in logged if one["event"] == "legacy_streams_held"] == [1]
        nursery.start_soon(upgrade.keep_moving)
        await old.release(["held"], examples.THEIRS)
        await until_left(new, 0)
        nursery.cancel_scope.cancel()
    async with RedisCheckpointStore(valkey.url, owner="node-7") as new:
        assert await new.members(StreamSet.ACTIVE) == {"free", "held"}
        assert await new.legacy.count() == 0


@pytest.mark.parametrize(
    ("recorded", "machine", "moved"),
    [
        (Owner("m", "ext4:1", "/rec /"), "m", True),
        (Owner("m", "ext4:1", "/rec /"), None, False),
        (Owner(None, "ext4:1", "/rec /"), "m", False),
        (Owner("other", "ext4:1", "/rec /"), "m", False),
        (Owner("m"), "m", True),
        (None, "m", True),
    ],
)
async def test_p9_while_the_place_of_the_folder_is_unknown_only_what_this_machine_recorded_is_moved(
    valkey: ValkeyServer, recorded: Owner | None, machine: str | None, moved: bool
) -> None:
    lease = Lease("new", "process", 0.1)
    async with (
        RedisCheckpointStore(valkey.url) as old,
        RedisCheckpointStore(valkey.url, owner="node-7") as new,
    ):
        await old.create(replace(examples.meta("one"), owner=recorded), lease, [])
        with trio.move_on_after(WAIT_SECONDS) as scope:
            await Upgrade(services_of(new.legacy, lease, Ownership(machine))).run(lambda _text: None)
        assert not scope.cancelled_caught
        assert (await new.members(StreamSet.ACTIVE) == {"one"}) is moved
        assert await old.load("one") is None if moved else await old.load("one") is not None


class ReadPlaces:
    """The legacy streams of a store, and the places that are read."""

    def __init__(self, legacy: LegacyStreams) -> None:
        self._legacy = legacy
        self.places: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._legacy, name)

    async def read(self, place: LegacyPlace, cursor: int = 0) -> Any:
        self.places.append(place.value)
        return await self._legacy.read(place, cursor)


async def test_p7_what_is_others_is_read_once_and_again_only_when_its_numbers_change(valkey: ValkeyServer) -> None:
    lease, opened = Lease("new", "process", 0.1), ["active", "pending_completion"]
    async with (
        RedisCheckpointStore(valkey.url) as old,
        RedisCheckpointStore(valkey.url, owner="node-7") as new,
    ):

        async def start(ownership: Ownership | None = None) -> list[str]:
            legacy = ReadPlaces(new.legacy)
            await Upgrade(services_of(legacy, lease, ownership)).run(lambda _text: None)
            return sorted(set(legacy.places))

        for number in range(5):
            meta = examples.meta(f"theirs-{number}", owner=THERE, status=Status.COMPLETED)
            await old.create(meta, examples.THEIRS)
        everywhere = sorted(place.value for place in LegacyPlace)
        assert await start() == everywhere
        assert await start() == opened
        moved_disk = Ownership("machine")
        moved_disk.owner = Owner("machine", "ext4:3", "/rec /")
        assert await start(moved_disk) == everywhere
        assert await start() == everywhere
        await old.create(examples.meta("ours", owner=HERE, status=Status.COMPLETED), lease)
        assert await start() == everywhere
        assert await new.members(StreamSet.COMPLETED) == {"ours"}
        assert await new.legacy.count() == 5
        assert await start() == opened


async def test_p2_a_move_that_a_failover_lost_is_done_again_while_the_daemon_runs(valkey: ValkeyServer) -> None:
    lease = Lease("new", "process", 0.05)
    async with (
        RedisCheckpointStore(valkey.url) as old,
        RedisCheckpointStore(valkey.url, owner="node-7") as new,
        trio.open_nursery() as nursery,
    ):
        await old.create(examples.meta("open", owner=HERE), lease, [examples.part(1)])
        await old.create(examples.meta("done", owner=HERE, status=Status.COMPLETED), lease)
        await old.create(examples.meta("theirs", owner=THERE), lease)
        with redis_py.Redis.from_url(valkey.url) as raw:
            before = {key: raw.dump(key) for key in raw.keys("*")}
            services = services_of(new.legacy, lease)
            upgrade = Upgrade(services)
            await upgrade.run(lambda _text: None)
            assert await new.legacy.count() == 1
            nursery.start_soon(upgrade.keep_moving)
            await trio.sleep(0.2)
            raw.flushall()
            for key, value in before.items():
                raw.restore(key, 0, value)
        services.redis_breaker.up_since = trio.current_time()
        await until_left(new, 1)
        nursery.cancel_scope.cancel()
    async with RedisCheckpointStore(valkey.url, owner="node-7") as new:
        assert await new.members(StreamSet.ACTIVE) == {"open"}
        assert await new.members(StreamSet.COMPLETED) == {"done"}


def test_p2_streams_of_a_disk_that_came_to_this_machine_before_the_upgrade_are_moved_with_it(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    """They are perhaps ours; the files are theirs by the numbers of their file system."""
    done, other, grows = (watch_dir / f"{name}.mp4" for name in ("done", "other", "grows"))
    given = settings(watch_dir, endpoint, valkey, s3_key_template=TEMPLATE_BEFORE)
    with redis_py.Redis.from_url(valkey.url) as raw, grows.open("wb") as writer:
        with daemon(given) as process:
            writer.write(b"\3" * PART)
            writer.flush()
            for path in (done, other):
                path.write_bytes(b"\1" * MIB)
                process.wait_for("stream_completed", file=str(path))
            process.wait_for("part_uploaded", file=str(grows))
            assert process.stop() == 0
        make_keys_of_before(raw)
        for key in raw.keys("stream:*:meta"):
            if raw.hget(key, "file_fs_id") is None:
                pytest.skip("this file system has no id")
            raw.hset(key, "owner_machine", "fedcba9876543210")
        other.unlink()
        other.write_bytes(b"\2" * MIB)  # another file, which proves nothing
        with daemon(given) as process:
            process.wait_for("legacy_streams_moved", streams=2, left=1)
            writer.write(b"\4" * MIB)
            writer.close()
            process.wait_for("stream_completed", file=str(grows))
            process.wait_for("stream_completed", file=str(other))
            process.wait_for_rounds(2)
            assert process.count("stream_started") == 1, process.tail()
            assert process.stop() == 0
    look_into(endpoint).assert_identical(done)
