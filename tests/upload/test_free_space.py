"""P8: a whole daemon on a disk that is short of space: the oldest verified recordings go, and never any other."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from checkpoint.examples import meta
from structlog.typing import EventDict
from trio.testing import MockClock
from waiting import completed, until

from cef_trio.checkpoint.model import Checkpoint, FileIdentity, Lease
from cef_trio.checkpoint.redis.keys import job_lock_name
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import FileAccessError, RecordUnreadableError
from cef_trio.files.disk_space import DiskSpace
from cef_trio.files.mounts import Mount
from cef_trio.lab.disk import CrashableDisk
from cef_trio.lab.filesystem import FileSystem
from cef_trio.lab.world import BUCKET, PART, World, WorldDaemon
from cef_trio.lab.writers import Writers
from cef_trio.observability.at_risk import Reason
from cef_trio.postprocess import free_space
from cef_trio.postprocess.free_space import Dispose, FreeSpace
from cef_trio.postprocess.kept_recordings import KeptRecordings
from cef_trio.postprocess.verification import Verification
from cef_trio.resilience import RetryPolicy
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.settings.after_upload import KEEP_RECORDING, AfterUploadAction, AfterUploadRule, MinFreeSpace

BLOCK = 4096
"""What a small recording occupies on the disk of these tests, at least."""
DAY = 600.0
"""A short one: each second of a world's time costs."""
FREE = MinFreeSpace(percent=50)


@pytest.fixture
async def world(watch_dir: Path, autojump_clock: MockClock) -> World:
    """A world whose disk has space at first."""
    found = World(watch_dir)
    found.disk_bytes = 1 << 30
    return found


def events(logged: list[EventDict], event: str) -> list[EventDict]:
    return [entry for entry in logged if entry["event"] == event]


def names(world: World) -> list[str]:
    return sorted(entry.name for entry in world.folder.iterdir())


def used(world: World) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in world.folder.iterdir())


def missing(daemon: WorldDaemon) -> dict[str, float]:
    """The metric, by folder."""
    families = daemon.services.metrics.registry.collect()
    samples = [one for family in families for one in family.samples]
    return {one.labels["folder"]: one.value for one in samples if one.name == "cef_trio_missing_free_space_bytes"}


def without_leases(daemon: WorldDaemon) -> None:
    """From now on writers cannot be detected, as on NFS."""

    async def unknown(_path: str) -> bool | None:
        await trio.lowlevel.checkpoint()
        return None

    object.__setattr__(daemon.services, "has_writer", unknown)


async def complete(world: World, daemon: WorldDaemon, *recordings: str, size_bytes: int = 3 * PART) -> None:
    """Upload recordings one after another, a minute apart."""
    for name in recordings:
        before = len(world.recordings())
        world.append(size_bytes, name)
        daemon.seen(name)
        daemon.closed(name)
        await until(lambda before=before: len(world.recordings()) > before)  # type: ignore[misc]
        await trio.sleep(60)


def fill(world: World, times: float = 1.0) -> None:
    """Make the disk so small that its recordings use that many times what they may."""
    world.disk_bytes = int(2 * used(world) / times)


def refuse_to_unlink(path: str, *, dir_fd: int | None = None) -> None:
    """Stand in for ``os.unlink`` on a read-only file system."""
    raise OSError(errno.EROFS, "Read-only file system")


async def quiet(world: World, seconds: float = 120) -> None:
    await trio.sleep(seconds)
    assert world.removed_unsaved == []


# ---- AFTER_UPLOAD_KEEP_DAYS ------------------------------------------------------------------------------------------


async def test_a_recording_is_deleted_when_its_days_are_over_by_the_time_of_its_completion(world: World) -> None:
    world.after_upload = AfterUploadRule(AfterUploadAction.DELETE, keep_seconds=3 * DAY)
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await trio.sleep(2 * DAY)
        assert names(world) == ["a.mp4"]
    async with world.daemon():  # a restart does not begin the days anew
        await trio.sleep(0.9 * DAY)
        assert names(world) == ["a.mp4"]
        await until(lambda: names(world) == [], 0.2 * DAY)
    await quiet(world, 1)


async def test_days_that_were_over_before_the_start_are_over(world: World) -> None:
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await trio.sleep(4 * DAY)
    world.after_upload = AfterUploadRule(AfterUploadAction.DELETE, keep_seconds=3 * DAY)
    async with world.daemon():
        await until(lambda: names(world) == [])


async def test_p8_a_kept_recording_that_is_written_again_counts_from_its_new_completion(world: World) -> None:
    world.after_upload = AfterUploadRule(AfterUploadAction.DELETE, keep_seconds=3 * DAY)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4")
        await trio.sleep(2 * DAY)
        await complete(world, daemon, "a.mp4")
        await trio.sleep(2 * DAY)
        assert names(world) == ["a.mp4"]
        await until(lambda: names(world) == [], 1.1 * DAY)
    await quiet(world, 1)


async def test_p8_a_recording_whose_object_went_in_those_days_stays(world: World, logged: list[EventDict]) -> None:
    world.after_upload = AfterUploadRule(AfterUploadAction.DELETE, keep_seconds=DAY)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4")
        (checkpoint,) = world.known()
        world.endpoint.model.delete_object(BUCKET, checkpoint.meta.s3_key_prefix)
        await trio.sleep(2 * DAY)
    assert names(world) == ["a.mp4"]
    assert events(logged, "after_upload_failed")


# ---- MIN_FREE_SPACE --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (500, "InternalError"), (None, "")], ids=["denied", "broken", "record"]
)
async def test_p6_a_recording_that_cannot_be_checked_keeps_no_other_one(
    world: World, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch, status: int | None, code: str
) -> None:
    """S3 may refuse one key alone, and the oldest is asked for first, in each round."""
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4", "b.mp4", "c.mp4")
        [oldest] = [one.meta for one in world.known() if one.meta.current_path == world.path("a.mp4")]
        if status is not None:
            fault = Fault(Kind.ERROR, "HeadObject", key=oldest.s3_key_prefix, status=status, code=code, times=None)
            world.endpoint.faults.arm(fault)
        else:
            load = world.store.load

            async def unreadable(stream_id: str) -> Checkpoint | None:
                if stream_id == oldest.stream_id:
                    raise RecordUnreadableError("load", "one of its parts cannot be read")
                return await load(stream_id)

            monkeypatch.setattr(world.store, "load", unreadable)
        fill(world, 1.9)
        await until(lambda: len(names(world)) == 1)
        await quiet(world)
    assert names(world) == ["a.mp4"]
    assert {one["path"] for one in events(logged, "after_upload_failed")} == {world.path("a.mp4")}
    assert not events(logged, "free_space_error")


async def test_p6_more_refused_recordings_than_end_a_round_keep_no_other_one(world: World) -> None:
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    refused = [f"{name}.mp4" for name in "abcd"]
    async with world.daemon() as daemon:
        await complete(world, daemon, *refused, "e.mp4", "f.mp4")
        for one in world.known():
            if one.meta.current_path in map(world.path, refused):
                key, code = one.meta.s3_key_prefix, "AccessDenied"
                world.endpoint.faults.arm(Fault(Kind.ERROR, "HeadObject", key=key, status=403, code=code, times=None))
        fill(world, 1.9)
        await until(lambda: names(world) == refused)
        await quiet(world)
    assert names(world) == refused


@pytest.mark.parametrize("status", [403, 500])
async def test_p10_a_disk_that_stays_short_is_told_soon_however_many_recordings_are_refused(
    world: World, status: int
) -> None:
    """Each refused call is repeated, with pauses."""
    world.policy = RetryPolicy(attempts=5, initial_seconds=0.2, max_seconds=2.0)
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.daemon() as daemon:
        for number in range(100):
            world.append(100, f"{number}.mp4")
            daemon.seen(f"{number}.mp4")
            daemon.closed(f"{number}.mp4")
        await until(lambda: len(world.recordings()) == 100, 600)
        await completed(world)
        fault = Fault(Kind.ERROR, "HeadObject", status=status, code="AccessDenied", times=None)
        world.endpoint.faults.arm(fault)
        fill(world, 1.9)
        began = trio.current_time()
        await until(lambda: any(risk.reason is Reason.DISK_SHORT for risk in daemon.at_risk), 600)
        assert trio.current_time() - began < 90
    assert len(names(world)) == 100


@pytest.mark.parametrize("rule", [KEEP_RECORDING, AfterUploadRule(AfterUploadAction.DELETE, keep_seconds=30 * DAY)])
async def test_p8_the_oldest_go_until_there_is_space_and_no_more(
    world: World, logged: list[EventDict], rule: AfterUploadRule
) -> None:
    world.after_upload = replace(rule, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "c.mp4", "a.mp4", "b.mp4", "d.mp4")
        assert names(world) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
        world.disk_bytes = int(used(world) * 1.2)  # 60 % may be used: two must go
        await until(lambda: len(names(world)) == 2)
        await quiet(world)
        assert names(world) == ["b.mp4", "d.mp4"]
        assert daemon.at_risk == ()
        freed = daemon.services.metrics.registry.get_sample_value(
            "cef_trio_freed_bytes_total", {"cause": "min_free_space"}
        )
    assert [event["path"] for event in events(logged, "recording_deleted_after_upload")] == [
        world.path("c.mp4"),
        world.path("a.mp4"),
    ]
    assert freed == sum(event["freed_bytes"] for event in events(logged, "recording_deleted_after_upload"))
    assert len(events(logged, "disk_space_short")) == len(events(logged, "disk_space_regained")) == 1
    assert not events(logged, "disk_space_cannot_be_freed")


async def test_the_oldest_of_all_folders_of_a_disk_go_first(world: World) -> None:
    world.watched_below = ("first", "second")
    for name in world.watched_below:
        Path(world.path(name)).mkdir()
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "second/a.mp4", "first/b.mp4", "second/c.mp4", "first/d.mp4")
        everything = sum(entry.stat().st_blocks * 512 for entry in world.folder.rglob("*.mp4"))
        world.disk_bytes = int(everything * 1.2)
        await until(lambda: len(list(world.folder.rglob("*.mp4"))) == 2)
        await quiet(world)
    assert sorted(entry.name for entry in world.folder.rglob("*.mp4")) == ["c.mp4", "d.mp4"]


async def test_where_to_measure_is_looked_up_once_for_each_folder_with_recordings(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look is work of the event loop, every ten seconds."""
    world.watched_below = ("first", "second")
    for name in world.watched_below:
        Path(world.path(name)).mkdir()
    looked: list[str] = []
    async with world.services() as services:
        of = services.mounts.of
        services.mounts._points = {"/": 1, world.path("first/cam3"): 2}
        services.mounts._read_at = math.inf  # the table is never read again

        def look(path: str) -> Mount:
            looked.append(path)
            return of(path)

        monkeypatch.setattr(services.mounts, "of", look)
        kept = KeptRecordings(lambda _path: True)
        for number in range(10_000):
            path = world.path(f"{'first' if number % 2 else 'second'}/cam{number % 10}/{number}.mp4")
            kept.add(meta(str(number), path=path, status=Status.COMPLETED))
        free_space = FreeSpace(services, FREE, kept, cast("Dispose", None), list)
        found = free_space._find_folders()
    assert len(looked) == len(found) == 10
    assert found == {
        world.path(f"{'first' if number % 2 else 'second'}/cam{number}"): (
            world.path("first/cam3") if number == 3 else world.path("first" if number % 2 else "second")
        )
        for number in range(10)
    }


async def test_p8_what_is_not_verified_stays_and_is_named(world: World, logged: list[EventDict]) -> None:
    """P10: the disk will fill up, and all signals say so."""
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "old.mp4")
        world.append(3 * BLOCK - 100, "live.mp4")
        daemon.seen("live.mp4")
        world.disk_bytes = 9 * BLOCK // 2
        await until(lambda: names(world) == ["live.mp4"])
        for _ in range(9):
            world.append(1, "live.mp4")
            daemon.seen("live.mp4")
            await quiet(world, 10)
        (risk,) = [one for one in daemon.at_risk if one.reason is Reason.DISK_SHORT]
        assert world.path("live.mp4") in risk.why
        assert missing(daemon) == {str(world.folder): 3 * BLOCK // 4}
        (event,) = events(logged, "disk_space_cannot_be_freed")
        assert event["reason"].startswith("no completed recording is left")
        daemon.closed("live.mp4")
        await until(lambda: names(world) == [])
        await trio.sleep(20)
        assert daemon.at_risk == ()
    assert world.removed_unsaved == []


async def test_p8_a_recording_whose_object_is_gone_stays_and_the_next_one_goes(
    world: World, logged: list[EventDict]
) -> None:
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4", "b.mp4")
        (first,) = [one for one in world.known() if one.meta.current_path == world.path("a.mp4")]
        world.endpoint.model.delete_object(BUCKET, first.meta.s3_key_prefix)
        world.disk_bytes = int(used(world) * 1.2)
        await until(lambda: names(world) == ["a.mp4"])
        await quiet(world)
    assert names(world) == ["a.mp4"]
    assert "not in S3 any more" in events(logged, "after_upload_failed")[0]["error"]


async def test_p8_nothing_goes_while_s3_cannot_be_asked_and_the_reason_is_said(
    world: World, logged: list[EventDict]
) -> None:
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4", "b.mp4")
        armed = world.endpoint.faults.arm(Fault(Kind.RESET, times=None))
        fill(world, 1.2)
        await trio.sleep(600)
        assert names(world) == ["a.mp4", "b.mp4"]
        assert {risk.reason for risk in daemon.at_risk} == {Reason.S3_DOWN, Reason.DISK_SHORT}
        assert events(logged, "disk_space_cannot_be_freed")[-1]["reason"].startswith("S3 cannot be asked")
        world.endpoint.faults.disarm(armed)
        await until(lambda: names(world) == ["b.mp4"], 600)
        await quiet(world)
        assert daemon.at_risk == ()


async def test_p10_what_refuses_the_deletions_is_why_the_disk_stays_short(
    world: World, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may not be written, as under systemd without ReadWritePaths=; also while the next try is awaited."""
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    unlink, read_only = os.unlink, True

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if read_only:
            raise OSError(errno.EROFS, "Read-only file system")
        unlink(path, dir_fd=dir_fd)

    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4", "b.mp4")
        monkeypatch.setattr(os, "unlink", refuse)
        fill(world, 1.2)
        refusal = f"cannot delete {world.path('a.mp4')!r}: Read-only file system"
        for _ in range(6):
            await quiet(world, 100)
            (risk,) = daemon.at_risk
            assert risk.reason is Reason.DISK_SHORT
            assert risk.why.endswith(refusal)
        assert [event["reason"] for event in events(logged, "disk_space_cannot_be_freed")] == [refusal]
        read_only = False
        await until(lambda: names(world) == ["b.mp4"], 1000)
        await quiet(world)
        assert daemon.at_risk == ()
    assert names(world) == ["b.mp4"]


async def test_p10_where_writers_are_unknown_a_short_disk_is_told_as_soon_as_a_deletion_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the unit as it is shipped, and on NFS: others that wait for their silence are refused after it too."""
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)

    async with world.daemon() as daemon:
        for number in range(12):
            world.append(100, f"{number}.mp4")
            daemon.seen(f"{number}.mp4")
            daemon.closed(f"{number}.mp4")
        await until(lambda: len(world.recordings()) == 12, 600)
        await completed(world)
        without_leases(daemon)
        monkeypatch.setattr(os, "unlink", refuse_to_unlink)
        fill(world, 1.2)
        await trio.sleep(daemon.services.rules.stream_timeout_seconds + 90)
        for _ in range(20):
            (risk,) = daemon.at_risk
            assert risk.reason is Reason.DISK_SHORT
            assert "Read-only file system" in risk.why
            await quiet(world, 30)


async def test_where_writers_are_unknown_one_refused_recording_is_no_alarm_while_others_go(
    world: World, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them waits for its silence before it goes."""
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    recordings = [f"{name}.mp4" for name in "abcdef"]
    hours = RetryPolicy(initial_seconds=100_000.0, max_seconds=100_000.0)
    monkeypatch.setattr(free_space, "BACKOFF", hours)  # as after many failures
    async with world.daemon() as daemon:
        await complete(world, daemon, *recordings)
        [oldest] = [one.meta for one in world.known() if one.meta.current_path == world.path("a.mp4")]
        world.endpoint.model.delete_object(BUCKET, oldest.s3_key_prefix)
        without_leases(daemon)
        fill(world, 1.2)
        await until(lambda: "b.mp4" not in names(world), 300)
        before = len(events(logged, "disk_space_cannot_be_freed"))
        for _ in range(3):  # it fills up again
            await quiet(world, 15)
            fill(world, 1.1)
            left = len(names(world))
            await until(lambda left=left: len(names(world)) < left, 300)  # type: ignore[misc]
        assert len(events(logged, "disk_space_cannot_be_freed")) == before
        assert "a.mp4" in names(world)


@pytest.mark.parametrize("keep_seconds", [0.0, DAY], ids=["at once", "days"])
async def test_p10_a_recording_whose_time_is_over_and_that_is_refused_is_why_the_disk_stays_short(
    world: World, monkeypatch: pytest.MonkeyPatch, keep_seconds: float
) -> None:
    world.after_upload = AfterUploadRule(AfterUploadAction.DELETE, keep_seconds=keep_seconds, min_free=FREE)

    monkeypatch.setattr(os, "unlink", refuse_to_unlink)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4", "b.mp4", "c.mp4")
        await quiet(world, keep_seconds)
        fill(world, 1.2)
        await quiet(world)
        (risk,) = daemon.at_risk
        assert risk.reason is Reason.DISK_SHORT
        assert "Read-only file system" in risk.why
        without_leases(daemon)  # and while they wait for their silence before the next try
        await quiet(world, 1000)
        (risk,) = daemon.at_risk
        assert "Read-only file system" in risk.why


async def test_p10_a_refused_recording_that_is_gone_is_no_reason_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)

    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4")
        world.append(3 * BLOCK - 100, "live.mp4")
        daemon.seen("live.mp4")

        async def write_for(seconds: int) -> None:
            for _ in range(seconds // 10):
                world.append(1, "live.mp4")
                daemon.seen("live.mp4")
                await trio.sleep(10)

        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", refuse_to_unlink)
            world.disk_bytes = 9 * BLOCK // 2
            await write_for(100)
        (risk,) = [one for one in daemon.at_risk if one.reason is Reason.DISK_SHORT]
        assert "Read-only file system" in risk.why
        Path(world.path("a.mp4")).unlink()
        daemon.gone("a.mp4")
        await write_for(20)
        (risk,) = [one for one in daemon.at_risk if one.reason is Reason.DISK_SHORT]
        assert "no completed recording is left" in risk.why


async def test_p8_nothing_goes_of_another_bucket(world: World, logged: list[EventDict]) -> None:
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4")
    world.bucket = "elsewhere"
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    world.disk_bytes = BLOCK
    async with world.daemon():
        await quiet(world, 600)
    assert names(world) == ["a.mp4"]
    assert "in another bucket" in events(logged, "after_upload_refused")[0]["reason"]


async def test_p8_a_disk_that_frees_nothing_loses_one_recording_an_hour(world: World, logged: list[EventDict]) -> None:
    """A snapshot keeps the bytes of every file."""
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    world.frees_space = False
    async with world.daemon() as daemon:
        await complete(world, daemon, *(f"{number}.mp4" for number in range(9)))
        fill(world, 1.9)
        await quiet(world, 3000)
        assert len(names(world)) == 8
        (event,) = events(logged, "disk_space_not_freed")
        assert event["wait_seconds"] == 3600
        (risk,) = daemon.at_risk
        assert "frees nothing there (snapshots" in risk.why
        await quiet(world, 3600)
        assert len(names(world)) == 7
        world.frees_space = True  # the snapshots are gone
        await until(lambda: len(names(world)) == 4, 4000)
        await quiet(world)
        assert len(names(world)) == 4
        assert daemon.at_risk == ()


async def test_p8_a_recording_with_another_name_frees_nothing_and_stays(world: World, tmp_path: Path) -> None:
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4", "b.mp4")
        os.link(world.path("a.mp4"), tmp_path / "linked.mp4")
        world.disk_bytes = int(used(world) * 1.2)
        await until(lambda: names(world) == ["a.mp4"])
        await quiet(world)
    assert names(world) == ["a.mp4"]


async def test_p8_a_disk_too_small_for_the_setting_loses_nothing(world: World) -> None:
    world.after_upload = replace(KEEP_RECORDING, min_free=MinFreeSpace(10 * BLOCK))
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4")
        world.disk_bytes = 10 * BLOCK
        await quiet(world, 600)
        (risk,) = daemon.at_risk
        assert "more than this disk could have free" in risk.why
        assert missing(daemon) == {}  # not 0: it is not kept free
    assert names(world) == ["a.mp4"]


async def test_p8_a_folder_on_another_mount_than_the_recordings_is_not_measured_for_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is not mounted, and the folder below is on the system's disk, which is full."""
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4")
        measure = world._measure_disk
        elsewhere = lambda real: replace(measure(real), place=replace(real.place, mount="/other /", fs_id="uuid:0"))  # noqa: E731
        monkeypatch.setattr(daemon.services.disk, "_measure", elsewhere)
        looks, numbers_at = list[str](), Verification.numbers_at

        async def counted(self: Verification, path: str) -> FileIdentity:
            looks.append(path)
            return await numbers_at(self, path)

        monkeypatch.setattr(Verification, "numbers_at", counted)
        world.disk_bytes = BLOCK
        await quiet(world, 600)
        assert names(world) == ["a.mp4"]
        assert 0 < len(looks) <= 11, "it is not opened in every round"
        monkeypatch.setattr(daemon.services.disk, "_measure", measure)
        await until(lambda: names(world) == [])


@pytest.mark.parametrize("refused", [False, True])
async def test_p10_recordings_that_were_copied_to_a_new_disk_go_when_it_is_short_and_are_named_if_they_cannot(
    tmp_path: Path, autojump_clock: MockClock, logged: list[EventDict], refused: bool
) -> None:
    system = FileSystem(fsid=b"old disk")
    world = World(tmp_path / "watch", base=tmp_path, file_system=system)
    writers = Writers(world.kernel, world.folder, world.random, world.journal)
    async with world.daemon():
        for name in ("a.mp4", "b.mp4"):
            writers.append(3 * PART, name)
            writers.close(name)
            await trio.sleep(60)
        await completed(world)
    for name in ("a.mp4", "b.mp4"):
        writers.copy_over(name)
    system.fsid, system.device = b"new disk", system.device + 7
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    fill(world, 1.2)
    if refused:
        world.endpoint.faults.arm(Fault(Kind.ERROR, "HeadObject", code="AccessDenied", times=None))
    async with world.daemon() as daemon:
        await quiet(world)
        assert names(world) == (["a.mp4", "b.mp4"] if refused else ["b.mp4"])
        risks = [risk.why for risk in daemon.at_risk]
    if refused:
        assert "AccessDenied" in risks[0]
        assert "no completed recording is left" not in risks[0]
    else:
        assert not risks


async def test_p8_where_writers_are_unknown_a_recording_must_be_silent_anew(world: World) -> None:
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4", "b.mp4")
        without_leases(daemon)
        fill(world, 1.2)
        began = trio.current_time()
        await until(lambda: names(world) == ["b.mp4"])
        assert trio.current_time() - began >= daemon.services.rules.stream_timeout_seconds
        await quiet(world)
        assert names(world) == ["b.mp4"]


async def test_another_daemon_of_the_folder_makes_space_alone(world: World) -> None:
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4", "b.mp4")
        name = job_lock_name(daemon.services.work_group or "folder", "free-space")
        assert await world.store.acquire(name, Lease("another", "1", 100.0))
        fill(world, 1.2)
        await trio.sleep(95)
        assert names(world) == ["a.mp4", "b.mp4"]
        await until(lambda: names(world) == ["b.mp4"], 60)


async def test_with_move_the_oldest_are_moved_early(world: World, logged: list[EventDict]) -> None:
    folder = world.folder.parent / "done"
    world.after_upload = AfterUploadRule(AfterUploadAction.MOVE, str(folder), keep_seconds=30 * DAY, min_free=FREE)
    async with world.daemon() as daemon:
        await complete(world, daemon, "a.mp4", "b.mp4")
        fill(world, 1.2)
        await until(lambda: names(world) == ["b.mp4"])
        await quiet(world)
    assert names(world) == ["b.mp4"]
    assert [entry.name for entry in folder.iterdir()] == ["a.mp4"]
    assert events(logged, "recording_moved_after_upload")[0]["cause"] == "min_free_space"


@pytest.mark.parametrize("others_ask", [False, True], ids=["alone", "hung before"])
async def test_p10_a_move_that_hangs_with_the_mount_of_its_folder_is_why_the_disk_stays_short(
    world: World, monkeypatch: pytest.MonkeyPatch, others_ask: bool
) -> None:
    """No other call goes to that mount, so nothing else notices that it hangs."""
    folder = world.folder.parent / "done"
    world.after_upload = AfterUploadRule(AfterUploadAction.MOVE, str(folder), keep_seconds=30 * DAY, min_free=FREE)
    change, space, responds, hung_calls = CrashableDisk.change, CrashableDisk.space, trio.Event(), list[str]()

    async def hanging(self: CrashableDisk, call: Callable[[], Any], *, path: str = "/") -> Any:
        if path.startswith(str(folder)):
            hung_calls.append(path)
            await responds.wait()
        return await change(self, call, path=path)

    async with world.daemon() as daemon:
        mounts = daemon.services.mounts

        async def asked(self: CrashableDisk, path: str) -> DiskSpace:
            """As ``Mounts`` does with a call that finds another one silent."""
            if path == str(folder) and not responds.is_set():
                mounts.hung.value = {path: trio.current_time()}
                raise FileAccessError("the mount does not respond")
            return await space(self, path)

        await complete(world, daemon, "a.mp4", "b.mp4")
        with monkeypatch.context() as patch:
            patch.setattr(CrashableDisk, "change", hanging)
            patch.setattr(CrashableDisk, "space", asked)
            if others_ask:
                mounts.hung.value = {str(folder): trio.current_time()}
            fill(world, 1.2)
            await quiet(world, 180)
            (risk,) = daemon.at_risk
            assert risk.reason is Reason.DISK_SHORT
            assert risk.why.endswith(f"{world.folder}: the folder of AFTER_UPLOAD=move does not respond")
            assert len(hung_calls) == (0 if others_ask else 1)
            responds.set()
            mounts.hung.value = {}
            await until(lambda: names(world) == ["b.mp4"], 120)
            await quiet(world, 30)
            assert daemon.at_risk == ()


async def test_p8_a_deletion_that_hangs_with_its_disk_keeps_no_other_disk_full(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.watched_below = ("first", "second")
    for name in world.watched_below:
        Path(world.path(name)).mkdir()
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    change, measure, responds = CrashableDisk.change, CrashableDisk.space, trio.Event()

    async def hanging(self: CrashableDisk, call: Callable[[], Any], *, path: str = "/") -> Any:
        if "/first/" in path:
            await responds.wait()
        return await change(self, call, path=path)

    async def two_disks(self: CrashableDisk, path: str) -> DiskSpace:
        found = await measure(self, path)
        number = found.place.file_dev + path.endswith("second")
        return replace(found, place=replace(found.place, file_dev=number))

    monkeypatch.setattr(CrashableDisk, "change", hanging)
    monkeypatch.setattr(CrashableDisk, "space", two_disks)
    async with world.daemon() as daemon:
        await complete(world, daemon, "first/a.mp4", "second/b.mp4")
        world.disk_bytes = BLOCK
        await trio.sleep(30)
        daemon.services.mounts.hung.value = {world.path("first"): trio.current_time()}
        await until(lambda: not Path(world.path("second/b.mp4")).exists(), 60)
        assert Path(world.path("first/a.mp4")).exists()
        daemon.services.mounts.hung.value = {}
        responds.set()
        await until(lambda: not Path(world.path("first/a.mp4")).exists(), 60)
    assert world.removed_unsaved == []


async def test_p8_a_daemon_that_crashes_in_a_deletion_loses_nothing(world: World) -> None:
    world.after_upload = replace(KEEP_RECORDING, min_free=FREE)
    async with world.killed_daemon() as daemon:
        await complete(world, daemon, "a.mp4", "b.mp4")
        world.endpoint.faults.arm(Fault(Kind.SLOW, "HeadObject", seconds=5))
        fill(world, 1.2)
        await trio.sleep(12)
    async with world.daemon():
        await until(lambda: names(world) == ["b.mp4"])
    assert world.removed_unsaved == []


def test_kept_recordings_that_others_delete_are_not_remembered() -> None:
    """P7: the memory is bounded by the files in the folder."""
    there = {"/w/a.mp4", "/w/b.mp4"}
    kept = KeptRecordings(lambda path: path in there)
    for path in ("/w/a.mp4", "/w/b.mp4"):
        kept.add(meta(path, path=path, status=Status.COMPLETED))
    there.remove("/w/a.mp4")
    kept.drop_unsettled()
    assert [one.path for one in kept] == ["/w/b.mp4"]
    (left,) = kept
    kept.add(meta("another", path="/w/b.mp4", status=Status.COMPLETED))
    kept.put_back(left)
    kept.drop(left)
    assert [one.stream_id for one in kept] == ["another"]
