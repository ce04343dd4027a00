"""P8: a whole daemon and uploaded recordings: nothing unless configured, and then only once they are verified."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from servers.fuse_mount import second_mount
from servers.mounts import mounted
from structlog.typing import EventDict
from thoroughness import LONG, only_long
from trio.testing import MockClock
from waiting import completed, until

from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.redis.keys import job_lock_name
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.lab.disk import CrashableDisk, InlineDisk
from cef_trio.lab.faults import FaultKind, Injection
from cef_trio.lab.filesystem import FileSystem, Leases
from cef_trio.lab.world import BUCKET, PART, World, WorldDaemon
from cef_trio.lab.writers import Writers
from cef_trio.postprocess import rename_file
from cef_trio.postprocess.copy_file import Copy
from cef_trio.postprocess.retention import Retention
from cef_trio.resilience import shield as shield_room
from cef_trio.s3.config import ChecksumMode
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.settings.after_upload import AfterUploadAction, AfterUploadRule
from cef_trio.settings.object_options import ObjectOptions

DELETE = AfterUploadRule(AfterUploadAction.DELETE)


@pytest.fixture
def done(world: World) -> Path:
    """The folder that recordings are moved to."""
    folder = world.folder.parent / "done"
    world.after_upload = AfterUploadRule(AfterUploadAction.MOVE, str(folder))
    return folder


def events(logged: list[EventDict], event: str) -> list[EventDict]:
    return [entry for entry in logged if entry["event"] == event]


async def quiet(world: World, seconds: float = 30) -> None:
    """Wait until all pending work is done."""
    await trio.sleep(seconds)
    assert world.removed_unsaved == []


async def test_a_recording_is_kept_unless_asked_otherwise(world: World) -> None:
    world.append(PART + 1)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await quiet(world)
    assert world.recordings() == [world.content()]
    assert world.endpoint.log.calls["HeadObject"] == 0


@pytest.mark.parametrize("size_bytes", [0, 1, PART, 3 * PART + 7])
async def test_p8_a_recording_of_any_size_is_deleted_once_it_is_completed(
    world: World, logged: list[EventDict], size_bytes: int
) -> None:
    world.after_upload = DELETE
    world.append(size_bytes)
    content, path = world.content(), Path(world.path())
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not path.exists())
        daemon.gone()  # the news of our own deletion
        daemon.supervisor.handle_event(world.scan())
        await quiet(world)
        (checkpoint,) = await completed(world)
    assert world.recordings() == [content]
    assert checkpoint.stream_set is StreamSet.COMPLETED
    (event,) = events(logged, "recording_deleted_after_upload")
    assert (event["path"], event["stream_id"]) == (world.path(), checkpoint.meta.stream_id)
    assert not events(logged, "recording_deleted")


@pytest.mark.parametrize("encryption", ["", "aws:kms"])
@pytest.mark.parametrize("checksum", ChecksumMode)
async def test_p8_a_recording_that_a_store_without_checksums_damages_is_sent_again_and_only_then_deleted(
    world: World, checksum: ChecksumMode, encryption: str
) -> None:
    world.after_upload = DELETE
    world.checksum, world.options = checksum, ObjectOptions(encryption=encryption)
    world.endpoint.faults.arm(Fault(Kind.IGNORE_CHECKSUMS, times=None))
    damaged = world.endpoint.faults.arm(Fault(Kind.DAMAGE, "PutObject"))
    world.append(8)
    content, path = world.content(), Path(world.path())
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not path.exists(), 4000)
    assert damaged.hits == 1
    assert world.recordings() == [content]


@pytest.mark.parametrize("checksum", [ChecksumMode.SHA256, ChecksumMode.MD5])
async def test_p8_a_damaged_part_that_no_response_shows_keeps_the_file(
    world: World, logged: list[EventDict], checksum: ChecksumMode
) -> None:
    world.after_upload = DELETE
    world.checksum, world.options = checksum, ObjectOptions(encryption="aws:kms")
    world.endpoint.faults.arm(Fault(Kind.IGNORE_CHECKSUMS, times=None))
    damaged = world.endpoint.faults.arm(Fault(Kind.DAMAGE, "UploadPart", nth=2))
    world.append(3 * PART + 7)
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: bool(events(logged, "stream_failed")), 4000)
        await quiet(world)
    assert damaged.hits == 1
    assert Path(world.path()).exists()
    assert events(logged, "stream_completed") == []


async def test_p8_nothing_is_deleted_while_s3_does_not_confirm_the_object(world: World) -> None:
    world.after_upload = DELETE
    armed = world.endpoint.faults.arm(Fault(Kind.RESET, "HeadObject", times=None))
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await quiet(world, 300)
        assert Path(world.path()).exists()
        world.endpoint.faults.disarm(armed)
        await until(lambda: not Path(world.path()).exists(), 4000)


async def test_p8_a_recording_whose_object_is_gone_is_left_alone(world: World, logged: list[EventDict]) -> None:
    """A lifecycle rule or an operator deleted it after the completion."""
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
    world.endpoint.model.delete_object(BUCKET, checkpoint.meta.s3_key_prefix)
    world.after_upload = DELETE
    async with world.daemon():
        await quiet(world)
    assert Path(world.path()).exists()
    assert events(logged, "after_upload_failed")
    assert all("not in S3 any more" in event["error"] for event in events(logged, "after_upload_failed"))


async def test_p8_an_object_that_s3_denies_for_a_while_is_asked_for_again(world: World) -> None:
    """Seed 28296: a proxy's 404, or an outdated one, kept the file for good."""
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    world.after_upload = DELETE
    armed = world.endpoint.faults.arm(Fault(Kind.ERROR, "HeadObject", code="NoSuchKey", times=None))
    async with world.daemon():
        await quiet(world, 60)
        assert Path(world.path()).exists()
        world.endpoint.faults.disarm(armed)
        await until(lambda: not Path(world.path()).exists(), 4000)


async def test_p8_a_recording_whose_key_has_another_object_is_left_alone(world: World, logged: list[EventDict]) -> None:
    world.append(8)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
    await world.put_foreign(checkpoint.meta.s3_key_prefix)
    world.after_upload = DELETE
    async with world.daemon():
        await quiet(world)
    assert Path(world.path()).exists()
    assert events(logged, "after_upload_refused")


async def test_p8_a_recording_that_is_written_again_is_left_alone_and_uploaded_anew(world: World) -> None:
    """It changes between the request to S3 and the deletion."""
    world.after_upload = DELETE
    world.endpoint.faults.arm(Fault(Kind.SLOW, "HeadObject", Moment.REPLY, seconds=5))
    world.append(PART + 5)
    first = world.content()
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: world.endpoint.log.calls["HeadObject"] == 1)
        world.append(3)
        second = world.content()
        daemon.seen()
        daemon.closed()
        await until(lambda: not Path(world.path()).exists())
    assert sorted(world.recordings()) == sorted([first, second])
    assert world.removed_unsaved == []


async def test_p8_a_record_that_leads_out_of_the_folder_deletes_nothing_there(
    world: World, logged: list[EventDict], tmp_path: Path
) -> None:
    """Redis was edited, or another daemon has another name for the same path."""
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    (stream,) = world.store._streams.values()
    outside = tmp_path / "outside.mp4"
    Path(world.path()).rename(outside)
    Path(world.path()).hardlink_to(outside)
    forged = replace(stream, meta=replace(stream.meta, current_path=str(outside)))
    world.store._streams[stream.meta.stream_id] = forged
    world.after_upload = DELETE
    async with world.daemon():
        await quiet(world)
    assert outside.exists()
    assert "not in the watch folder" in events(logged, "after_upload_refused")[0]["reason"]


async def test_a_lease_is_renewed_for_as_long_as_a_copy_takes(
    world: World, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_file_systems(monkeypatch)
    world.append(3 * 512 * 1024)
    slow, held = InlineDisk.change, []

    async def change(self: InlineDisk, call: Callable[[], Any], *, path: str = "/") -> Any:
        await trio.sleep(9)  # for a block; the lease is of 30 seconds
        held.append(world.store._holder(job_lock_name(world.known()[0].meta.stream_id, "after-upload")) is not None)
        return await slow(self, call)

    monkeypatch.setattr(CrashableDisk, "change", change)
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not Path(world.path()).exists(), 600)
    assert len(held) >= 6
    assert all(held)


async def test_an_action_that_a_crash_interrupted_is_repeated_by_the_next_start(world: World) -> None:
    world.after_upload = DELETE
    world.append(10)
    async with world.killed_daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert Path(world.path()).exists()
    async with world.daemon():
        await until(lambda: not Path(world.path()).exists())
    assert world.removed_unsaved == []


async def test_p8_the_lost_completion_of_a_deleted_recording_is_restored_from_s3(world: World) -> None:
    world.after_upload = DELETE
    world.endpoint.faults.arm(Fault(Kind.SLOW, "CompleteMultipartUpload", Moment.REPLY, seconds=2))
    world.append(PART + 5)
    content = world.content()
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: world.endpoint.log.calls["CompleteMultipartUpload"] == 1)
        older = world.store.snapshot()
        await until(lambda: not Path(world.path()).exists())
    world.lose_redis(down_to=older)
    async with world.daemon():
        (checkpoint,) = await completed(world)
    assert checkpoint.meta.status is Status.COMPLETED
    assert world.recordings() == [content]


async def test_recordings_that_were_completed_before_the_setting_was_set_are_included(world: World) -> None:
    for name in ("a.mp4", "b.mp4"):
        world.append(10, name)
    async with world.daemon() as daemon:
        daemon.closed("a.mp4")
        daemon.closed("b.mp4")
        await completed(world)
        await quiet(world)
    world.after_upload = DELETE
    async with world.daemon():
        await until(lambda: not list(world.folder.iterdir()))


async def test_a_completed_recording_that_is_renamed_is_deleted_under_its_new_name(world: World) -> None:
    world.after_upload = DELETE
    world.endpoint.faults.arm(Fault(Kind.ERROR, "HeadObject", times=None, code="AccessDenied"))
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await trio.sleep(3)
        Path(world.path()).rename(world.path("b.mp4"))
        daemon.moved("a.mp4", "b.mp4")
        world.endpoint.faults.clear()
        await until(lambda: not Path(world.path("b.mp4")).exists())


async def test_a_failed_action_is_logged_and_repeated_and_fails_no_stream(
    world: World, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.after_upload = DELETE
    unlink, refusals = os.unlink, 3

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise OSError(errno.EROFS, "Read-only file system")
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not Path(world.path()).exists(), 1000)
        (checkpoint,) = await completed(world)
    failed = events(logged, "after_upload_failed")
    assert [event["wait_seconds"] for event in failed] == [30.0, 60.0, 120.0]
    assert failed[0]["error"] == f"cannot delete {world.path()!r}: Read-only file system"
    assert checkpoint.meta.status is Status.COMPLETED


async def test_work_under_another_daemons_lease_is_left_to_it_until_the_lease_expires(world: World) -> None:
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        (checkpoint,) = await completed(world)
    world.after_upload = DELETE
    name = job_lock_name(checkpoint.meta.stream_id, "after-upload")
    assert await world.store.acquire(name, Lease("another", "1", 100.0))
    async with world.daemon():
        await trio.sleep(95)
        assert Path(world.path()).exists()
        await until(lambda: not Path(world.path()).exists(), 60)


async def test_a_stream_whose_file_was_deleted_or_moved_is_forgotten_in_its_time(world: World, done: Path) -> None:
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not Path(world.path()).exists())
        assert await Retention(daemon.services, timedelta(hours=1)).forget_now() == 0
        await trio.sleep(3700)
        assert await Retention(daemon.services, timedelta(hours=1)).forget_now() == 1
    assert world.known() == []


# ---- moving ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["one file system", "two file systems"])
def file_systems(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "two file systems":
        two_file_systems(monkeypatch)


def two_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make renames between two folders fail, as between two file systems."""
    renameat2 = rename_file._renameat2

    def of_one_folder(from_folder: int, name: str, to_folder: int, new_name: str) -> int:
        same = os.path.samestat(os.fstat(from_folder), os.fstat(to_folder))
        return renameat2(from_folder, name, to_folder, new_name) if same else errno.EXDEV

    monkeypatch.setattr(rename_file, "_renameat2", of_one_folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("file_systems")
@pytest.mark.parametrize("size_bytes", [0, 3 * PART + 7, 1_200_000])
async def test_p8_a_recording_is_moved_with_its_path_below_the_folder(
    world: World, done: Path, logged: list[EventDict], size_bytes: int
) -> None:
    (world.folder / "cam").mkdir()
    world.append(size_bytes, "cam/a.mp4")
    content = world.content("cam/a.mp4")
    async with world.daemon() as daemon:
        daemon.closed("cam/a.mp4")
        await until(lambda: not Path(world.path("cam/a.mp4")).exists(), 600)
        daemon.gone("cam/a.mp4")
        await quiet(world)
        (checkpoint,) = await completed(world)
    assert contents(done) == {"cam/a.mp4": content}
    assert world.recordings() == [content]
    assert (done / "cam/a.mp4").stat().st_mtime_ns == checkpoint.meta.verified_mtime_ns
    (event,) = events(logged, "recording_moved_after_upload")
    assert event["moved_to"] == str(done / "cam/a.mp4")


@pytest.mark.usefixtures("file_systems")
async def test_p8_a_name_that_is_taken_stays_what_it_is(world: World, done: Path) -> None:
    done.mkdir()
    (done / "a.mp4").write_bytes(b"of last year")
    world.append(10)
    content = world.content()
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not Path(world.path()).exists())
        (checkpoint,) = await completed(world)
    assert contents(done) == {"a.mp4": b"of last year", f"a.{checkpoint.meta.stream_id}.mp4": content}


async def test_a_move_that_was_ended_between_the_copys_name_and_the_deletion_is_not_made_twice(
    world: World, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_file_systems(monkeypatch)
    refuse_deletions(monkeypatch, world.path(), times=2)
    world.append(2 * PART)
    content = world.content()
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not Path(world.path()).exists(), 1000)
    assert contents(done) == {"a.mp4": content}


def refuse_deletions(monkeypatch: pytest.MonkeyPatch, path: str, times: int) -> None:
    """Refuse to unlink a file in its folder some times; what comes next finds what a kill there would leave."""
    unlink, refusals = os.unlink, times

    def refuse(name: str, *, dir_fd: int | None = None) -> None:
        nonlocal refusals
        if refusals and dir_fd is not None and os.path.samestat(os.fstat(dir_fd), Path(path).parent.stat()):
            refusals -= 1
            raise OSError(errno.EROFS, "Read-only file system")
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)


async def test_p8_a_file_of_equal_bytes_without_the_mark_of_a_copy_does_not_count_as_one(
    world: World, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the recording itself, by another mount. A copy under another name is certainly none."""
    two_file_systems(monkeypatch)
    refuse_deletions(monkeypatch, world.path(), times=2)
    world.append(2 * PART)
    content = world.content()
    done.mkdir()
    (done / "a.mp4").write_bytes(content)
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not Path(world.path()).exists(), 1000)
        (checkpoint,) = await completed(world)
    assert contents(done) == {"a.mp4": content, f"a.{checkpoint.meta.stream_id}.mp4": content}


@pytest.mark.parametrize(
    ("shown", "target"),
    [("", ""), ("", "done"), ("..", "watch"), ("..", "watch/done"), ("cam", "")],
    ids=["watch folder", "in it", "its parent's view", "in it by its parent's view", "a folder in it"],
)
async def test_p8_a_recording_is_not_moved_to_its_own_folder_seen_through_another_mount(
    tmp_path: Path, autojump_clock: MockClock, logged: list[EventDict], shown: str, target: str
) -> None:
    """Two mounts by FUSE show one folder with other devices and inodes; a move by both would delete the only file."""
    del autojump_clock
    real = tmp_path / "real"
    (real / "watch" / "cam").mkdir(parents=True)
    with second_mount(real, tmp_path / "first") as first, second_mount(real / "watch" / shown, tmp_path / "to") as to:
        world = World(first / "watch")
        world.after_upload = AfterUploadRule(AfterUploadAction.MOVE, str(to / target))
        name = "a.mp4" if shown != "cam" else "cam/a.mp4"
        world.append(2 * PART, name)
        content = world.content(name)
        async with world.daemon() as daemon:
            daemon.closed(name)
            await until(lambda: bool(events(logged, "after_upload_failed")), 600)
            await trio.sleep(100)
    assert contents(real) == {f"watch/{name}": content}
    reasons = {one["error"].rpartition("'")[2] for one in events(logged, "after_upload_failed")}
    assert reasons == {", seen through another mount; use a folder outside"}


@pytest.mark.skipif(os.getuid() != 0, reason="mounts need root")
async def test_p8_a_union_of_folders_that_shows_the_recording_keeps_its_copy(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The recording is seen at the target; its copy is stored elsewhere (mergerfs: another branch), by another name."""
    del autojump_clock
    lower, upper, work, union = (tmp_path / name for name in ("lower", "upper", "work", "union"))
    for folder in (lower, upper, work, union):
        folder.mkdir()
    world = World(lower)
    world.append(2 * PART)
    content = world.content()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    with mounted("-t", "overlay", "-o", options, "overlay", union):
        world.after_upload = AfterUploadRule(AfterUploadAction.MOVE, str(union))
        async with world.daemon() as daemon:
            daemon.closed()
            await until(lambda: not Path(world.path()).exists(), 600)
            (checkpoint,) = await completed(world)
    assert contents(upper) == {f"a.{checkpoint.meta.stream_id}.mp4": content}


async def test_p8_a_copy_that_is_not_what_was_verified_is_never_named(
    world: World, done: Path, monkeypatch: pytest.MonkeyPatch, logged: list[EventDict]
) -> None:
    """A disk that stores other bytes than were written."""
    two_file_systems(monkeypatch)
    write = Copy.write
    monkeypatch.setattr(Copy, "write", lambda self, block, offset: write(self, block[::-1], offset))
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await quiet(world)
    assert Path(world.path()).exists()
    assert contents(done) == {}
    assert "not what was written" in events(logged, "after_upload_failed")[0]["error"]


async def test_p8_bytes_that_changed_without_a_trace_are_noticed_by_the_copy(
    world: World, done: Path, monkeypatch: pytest.MonkeyPatch, logged: list[EventDict]
) -> None:
    """A writer sets the modification time back; the copy's checksum shows the change."""
    two_file_systems(monkeypatch)
    world.endpoint.faults.arm(Fault(Kind.SLOW, "HeadObject", Moment.REPLY, seconds=5))
    world.append(PART)
    before = Path(world.path()).stat()
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: world.endpoint.log.calls["HeadObject"] == 1)
        Path(world.path()).write_bytes(bytes(PART))
        os.utime(world.path(), ns=(before.st_atime_ns, before.st_mtime_ns))
        await quiet(world)
    assert Path(world.path()).exists()
    assert contents(done) == {}
    assert "bytes differ" in events(logged, "after_upload_refused")[0]["reason"]


@pytest.mark.parametrize("fault", [FaultKind.CANCEL, FaultKind.KILL])
def test_p8_a_move_to_another_file_system_may_be_interrupted_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: FaultKind
) -> None:
    """A cancellation leaves no partial copy, a kill at most a hidden one. In the end there is one whole file."""
    two_file_systems(monkeypatch)
    steps = 0
    for at in range(1, 400, 1 if LONG else 4):
        folder = tmp_path / f"{fault}-{at}"
        folder.mkdir()
        steps = at
        if not trio.run(_struck_move, folder, fault, at, clock=MockClock(autojump_threshold=0)):
            break
    assert 20 < steps < 399


@only_long("its steps are many, and one of them shows it")
def test_a_copy_that_is_cancelled_would_stay_without_its_shield(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above fails without the shield."""
    monkeypatch.setattr(shield_room, "removed", frozenset({"copy's removal"}))
    with pytest.raises(AssertionError, match="half a copy was left"):
        test_p8_a_move_to_another_file_system_may_be_interrupted_at_any_step(tmp_path, monkeypatch, FaultKind.CANCEL)


async def _struck_move(folder: Path, fault: FaultKind, at: int) -> bool:
    """Inject the fault at the ``at``-th step after a recording was completed; return false if the move ended before."""
    (folder / "watch").mkdir()
    world = World(folder / "watch")
    world.append(PART + 3)
    content, source, done = world.content(), Path(world.path()), folder / "done"
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await trio.sleep(3)
    world.after_upload = AfterUploadRule(AfterUploadAction.MOVE, str(done))
    async with world.services() as services, trio.open_nursery() as nursery:
        faulty = WorldDaemon(world, services)
        steps = _Steps(at, fault, nursery.cancel_scope, world)
        trio.lowlevel.add_instrument(steps)
        try:
            nursery.start_soon(faulty.run)
            await trio.sleep(20)
        finally:
            trio.lowlevel.remove_instrument(steps)
        nursery.cancel_scope.cancel()
    left = contents(done)
    assert source.exists() or left == {"a.mp4": content}
    if fault is FaultKind.CANCEL:
        assert set(left) <= {"a.mp4"}, "half a copy was left"
    assert left.get("a.mp4", content) == content
    async with world.daemon():
        await until(lambda: not source.exists())
    assert contents(done) == {"a.mp4": content}
    assert world.removed_unsaved == []
    return steps.injected


class _Steps(trio.abc.Instrument):
    def __init__(self, at: int, fault: FaultKind, scope: trio.CancelScope, world: World) -> None:
        self.injection = Injection(fault, at)
        self.count = 0
        self.injected = False
        self._scope = scope
        self._world = world

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count == self.injection.at:
            self.injected = True
            if self.injection.fault is FaultKind.KILL:
                self._world.life.end()
            self._scope.cancel()


@pytest.mark.usefixtures("file_systems")
async def test_p8_a_folder_to_move_to_may_be_reached_by_a_link(world: World, done: Path) -> None:
    """``/srv/archive`` is a link to the mount point of a large disk."""
    real = world.folder.parent / "large disk"
    real.mkdir()
    done.symlink_to(real)
    world.append(2 * PART)
    content = world.content()
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not Path(world.path()).exists())
    assert contents(real) == {"a.mp4": content}


async def test_p6_a_record_that_no_daemon_wrote_ends_neither_the_streams_nor_what_follows_an_upload(
    world: World, logged: list[EventDict]
) -> None:
    world.append(PART, "forged.mp4")
    async with world.daemon() as daemon:
        daemon.closed("forged.mp4")
        (checkpoint,) = await completed(world)
        await trio.sleep(5)
    stored = world.store._streams[checkpoint.meta.stream_id]
    forged = replace(stored, meta=replace(stored.meta, part_size=0), parts=checkpoint.parts)  # of an earlier version
    world.store._streams[checkpoint.meta.stream_id] = forged
    world.after_upload = DELETE
    world.append(PART + 1)
    async with world.daemon() as daemon:
        daemon.closed()
        await until(lambda: not Path(world.path()).exists())
        await quiet(world)
    assert Path(world.path("forged.mp4")).exists()
    (event,) = events(logged, "after_upload_error")
    assert event["stream_id"] == checkpoint.meta.stream_id


async def test_p8_a_recording_is_deleted_after_a_boot_that_gave_its_disk_another_number(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    world = World(tmp_path / "watch", base=tmp_path)
    system = world.kernel.file_system(world.folder)
    system.fsid = b"its name"
    writers = Writers(world.kernel, world.folder, world.random, world.journal)
    writers.append(2 * PART, "a.mp4")
    writers.close("a.mp4")
    async with world.daemon():
        await completed(world)
    content = world.content()
    system.device += 7
    world.after_upload = AfterUploadRule(AfterUploadAction.DELETE)
    async with world.daemon():
        await trio.sleep(10)
    assert not Path(world.path()).exists()
    assert world.recordings() == [content]


async def uploaded_on(system: FileSystem, tmp_path: Path, size_bytes: int = 5 * PART) -> tuple[World, Writers]:
    """A world on that file system, with a completed recording."""
    world = World(tmp_path / "watch", base=tmp_path, file_system=system)
    world.stream_timeout_seconds = 5.0
    writers = Writers(world.kernel, world.folder, world.random, world.journal)
    writers.append(size_bytes, "a.mp4")
    writers.close("a.mp4")
    async with world.daemon():
        await completed(world)
    return world, writers


def mount_another_disk(system: FileSystem, writers: Writers) -> None:
    """As after ``cp -a`` to a new disk that is mounted at the same place."""
    writers.copy_over("a.mp4")
    system.fsid, system.device = b"new disk", system.device + 7


@pytest.mark.parametrize(
    "system",
    [
        pytest.param(FileSystem(fsid=b"old disk"), id="another disk"),
        pytest.param(FileSystem(name="xfs", generations=False), id="another number of a disk without an id"),
        pytest.param(
            FileSystem(name="nfs", source="nas:/rec", generations=False, leases=Leases.NEVER), id="another mount of NFS"
        ),
    ],
)
async def test_p8_a_recording_on_a_disk_with_other_numbers_is_deleted_once_all_its_bytes_were_compared(
    tmp_path: Path, autojump_clock: MockClock, logged: list[EventDict], system: FileSystem
) -> None:
    world, writers = await uploaded_on(system, tmp_path)
    content = world.content()
    if system.fsid:
        mount_another_disk(system, writers)
    else:
        system.device += 7
    world.after_upload = DELETE
    async with world.daemon():
        await quiet(world, 60)
        (checkpoint,) = await completed(world)
    assert not events(logged, "after_upload_refused")
    assert not Path(world.path()).exists()
    assert world.recordings() == [content]
    assert events(logged, "recording_unchanged")
    assert checkpoint.meta.identity.file_dev == system.device


async def test_p8_a_copy_on_another_disk_with_one_other_byte_is_kept_and_that_is_the_reason(
    tmp_path: Path, autojump_clock: MockClock, logged: list[EventDict]
) -> None:
    """Its last parts show whose it is; the other byte is in the first one."""
    system = FileSystem(fsid=b"old disk")
    world, writers = await uploaded_on(system, tmp_path)
    mtime_ns = writers.inode("a.mp4").mtime_ns
    mount_another_disk(system, writers)
    writers.patch(5, b"#", "a.mp4")
    writers.close("a.mp4")
    writers.set_mtime("a.mp4", mtime_ns)
    world.after_upload = DELETE
    async with world.daemon():
        await quiet(world, 60)
    assert Path(world.path()).exists()
    (event,) = events(logged, "after_upload_refused")
    assert event["reason"].endswith(
        "it has other numbers than what was verified (another disk or mount), and other bytes"
    )


async def test_p8_a_recording_on_another_disk_that_is_touched_while_it_is_compared_is_looked_at_again(
    tmp_path: Path, autojump_clock: MockClock, logged: list[EventDict]
) -> None:
    system = FileSystem(fsid=b"old disk")
    world, writers = await uploaded_on(system, tmp_path)
    mount_another_disk(system, writers)
    mtime_ns = writers.inode("a.mp4").mtime_ns
    world.after_upload, world.read_seconds = DELETE, 1.0
    async with world.daemon():
        for _ in range(40):
            await trio.sleep(0.7)
            writers.set_mtime("a.mp4", mtime_ns)
        assert Path(world.path()).exists()
        await until(lambda: not Path(world.path()).exists(), 200)
    assert "time stamps changed" in events(logged, "after_upload_failed")[0]["error"]
    assert not events(logged, "after_upload_refused")
    assert world.removed_unsaved == []


async def test_p8_a_deletion_that_hangs_with_its_mount_keeps_no_other_recording_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.after_upload = DELETE
    for name in ("hung/1.mp4", "hung/2.mp4", "hung/3.mp4", "b.mp4", "c.mp4"):
        Path(world.path(name)).parent.mkdir(exist_ok=True)
        world.append(PART, name)
    goes_on, change, begun = trio.Event(), CrashableDisk.change, list[str]()

    async def hanging(self: CrashableDisk, call: Callable[[], Any], *, path: str = "/") -> Any:
        if "/hung/" in path:
            begun.append(path)
            await goes_on.wait()
        return await change(self, call, path=path)

    monkeypatch.setattr(CrashableDisk, "change", hanging)
    async with world.daemon() as daemon:
        daemon.closed("hung/1.mp4")
        await until(lambda: bool(begun))
        for name in ("hung/2.mp4", "hung/3.mp4", "b.mp4"):
            daemon.closed(name)
        daemon.services.mounts.hung.value = {world.path("hung"): trio.current_time()}
        await until(lambda: not Path(world.path("b.mp4")).exists())
        daemon.closed("c.mp4")
        await until(lambda: not Path(world.path("c.mp4")).exists())
        assert begun == [world.path("hung/1.mp4")], "one waits there, and no more"
        daemon.services.mounts.hung.value = {}
        goes_on.set()
        await until(lambda: not list(Path(world.path("hung")).iterdir()))
