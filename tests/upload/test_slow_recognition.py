"""P10, P6: a file whose bytes are read too slowly to be recognized at once is compared apart, and told meanwhile."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import pytest
import structlog.testing
import trio
from servers.stream_records import two_parts
from waiting import completed, until, until_idle

from cef_trio.checkpoint import ENDED, Lease
from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import FileAccessError, RecordingChangedError, RedisOperationError
from cef_trio.files.file_system import Origin, file_system_named
from cef_trio.lab.disk import InlineRecording
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.observability.at_risk import Reason
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload.ownership import Ownership

SLOW_SECONDS = 20.0
"""How long each read takes: longer than the lookups wait for one file."""


@pytest.fixture
def fuse(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The folder is on a FUSE mount without birth times."""
    monkeypatch.setattr("cef_trio.lab.disk.origin_of", lambda _: Origin(system=file_system_named("fuse")))
    return world


def renumber(path: str) -> None:
    """Give a file another inode number, as FUSE does at each mount."""
    copy, stat = f"{path}.tmp", Path(path).stat()
    copyfile(path, copy)
    os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    Path(copy).rename(path)


@pytest.fixture
async def reused(fuse: World) -> World:
    """On FUSE, another recording has the name of a failed one with two parts."""
    world = fuse
    world.stream_timeout_seconds = 10
    world.endpoint.faults.arm(
        Fault(Kind.ERROR, "CompleteMultipartUpload", status=400, code="KeyTooLongError", times=None)
    )
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await until_idle(world, Status.FAILED_FINALIZATION)
    world.endpoint.faults.clear()
    world.append(3 * PART, "new.tmp")
    Path(world.path("new.tmp")).rename(world.path())
    return world


async def rescanned(daemon: WorldDaemon, seconds: float) -> None:
    """Scan the folder every 30 seconds, as the watcher does by default."""
    while True:
        daemon.supervisor.handle_event(daemon.world.scan())
        if seconds <= 0:
            return
        await trio.sleep(min(seconds, 30))
        seconds -= 30


async def test_p6_p10_a_file_that_is_read_slowly_is_told_recognized_in_the_end_and_begun(reused: World) -> None:
    reused.read_seconds = SLOW_SECONDS
    with structlog.testing.capture_logs() as logs:
        async with reused.daemon() as daemon:
            await rescanned(daemon, 2 * SLOW_SECONDS)
            assert len(reused.known()) == 1
            reused.read_seconds = 0.0  # of later reads
            reused.append(PART, "quick.mp4")
            daemon.closed("quick.mp4")
            await until(lambda: reused.content("quick.mp4") in reused.recordings(), SLOW_SECONDS / 2)
            assert reused.content() not in reused.recordings(), "the quick one did not wait for it"
            await until(lambda: reused.content() in reused.recordings())
    assert [entry["event"] for entry in logs].count("recording_compared_slowly") == 1


async def test_p10_a_file_whose_bytes_take_for_ever_is_at_risk_since_it_was_first_seen(reused: World) -> None:
    reused.read_seconds = 1e9
    async with reused.daemon() as daemon:
        began_at = daemon.services.unix_time(trio.current_time())
        await rescanned(daemon, 120)
        [risk] = daemon.at_risk
        assert risk.reason is Reason.NOT_LOOKED_UP
        assert risk.since - began_at < 1, "a scan does not begin to count anew"
        assert risk.size_bytes == 3 * PART
        assert "slow" in risk.why
        Path(reused.path()).unlink()
        await rescanned(daemon, 0)
        assert daemon.at_risk == ()


async def test_p10_a_file_whose_bytes_cannot_be_read_is_at_risk_since_it_was_first_seen(
    reused: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> bytes:
        raise FileAccessError("cannot read: input/output error", denied=False)

    with monkeypatch.context() as patched:
        patched.setattr(InlineRecording, "read", broken)
        async with reused.daemon() as daemon:
            await rescanned(daemon, 120)
            assert [risk.reason for risk in daemon.at_risk] == [Reason.NOT_LOOKED_UP]
            patched.undo()
            await rescanned(daemon, 60)
            assert daemon.at_risk == ()
    assert reused.content() in reused.recordings()


async def test_p6_another_file_at_the_path_does_not_wait_for_the_slow_one(reused: World) -> None:
    reused.read_seconds = 1e9
    async with reused.daemon() as daemon:
        await rescanned(daemon, 40)
        reused.read_seconds = 0.0
        reused.append(4 * PART, "newer.tmp")
        Path(reused.path("newer.tmp")).rename(reused.path())
        daemon.closed()
        await until(lambda: reused.content() in reused.recordings())


async def test_p10_a_recording_that_another_daemon_uploads_is_recognized_although_it_grows_meanwhile(
    fuse: World,
) -> None:
    """Its inode number is another one on each host, so only its bytes tell."""
    stream_id = await two_parts(fuse)
    assert await fuse.store.acquire(stream_id, Lease("another-daemon", "its-token", 1e9))
    renumber(fuse.path())
    fuse.read_seconds = SLOW_SECONDS
    async with fuse.daemon() as daemon:
        for _ in range(10):
            await rescanned(daemon, 30)
            fuse.append(PART // 2)
        assert daemon.at_risk == ()
        assert daemon.supervisor.files.held_ids == {stream_id}


async def five_completed(world: World) -> list[str]:
    """Leave five completed recordings, which have other inode numbers now; return their names."""
    names = [f"{number}.mp4" for number in range(5)]
    async with world.daemon() as daemon:
        for name in names:
            world.append(PART, name)
            daemon.closed(name)
        await completed(world)
    for name in names:
        renumber(world.path(name))
    return names


async def test_p10_completed_recordings_that_are_compared_slowly_are_no_risk(fuse: World) -> None:
    names = await five_completed(fuse)
    fuse.read_seconds = 2 * SLOW_SECONDS
    async with fuse.daemon() as daemon:
        await rescanned(daemon, 150)
        assert daemon.supervisor.files.undecided
        assert daemon.at_risk == ()
        await rescanned(daemon, 600)
        assert all(daemon.supervisor.files.has_settled(fuse.path(name)) for name in names)


async def test_p10_completed_recordings_that_cannot_be_compared_while_s3_is_down_are_no_risk(fuse: World) -> None:
    names = await five_completed(fuse)
    with structlog.testing.capture_logs() as logs:
        async with fuse.daemon() as daemon:
            # The first scan is looked up after the outage has begun.
            down = fuse.endpoint.faults.arm(Fault(Kind.RESET, times=None))
            await rescanned(daemon, 150)
            [risk] = daemon.at_risk
            assert (risk.reason, risk.recordings) == (Reason.S3_DOWN, 0)
            fuse.endpoint.faults.disarm(down)
            await until(lambda: all(daemon.supervisor.files.has_settled(fuse.path(name)) for name in names))
            assert daemon.at_risk == ()
    assert "recording_compared_slowly" not in [entry["event"] for entry in logs]


async def test_p10_a_file_that_cannot_be_compared_while_redis_is_down_is_not_slow_and_begun_right_after(
    reused: World,
) -> None:
    is_down = False

    async def down(operation: str, moment: Moment) -> None:
        nonlocal is_down
        await trio.lowlevel.checkpoint()
        is_down = is_down or (operation == "load" and moment is Moment.BEFORE)  # after the lookup
        if is_down:
            raise RedisOperationError(operation, "connection refused", transient=True)

    reused.store.fault = down
    with structlog.testing.capture_logs() as logs:
        async with reused.daemon() as daemon:
            await rescanned(daemon, 120)
            assert is_down
            assert [(risk.reason, risk.recordings) for risk in daemon.at_risk] == [(Reason.REDIS_DOWN, 1)]
            reused.store.fault = None
            await until(lambda: reused.content() in reused.recordings())  # without another scan
    assert "recording_compared_slowly" not in [entry["event"] for entry in logs]


@pytest.mark.parametrize("is_its_file", [True, False])
async def test_p6_p2_a_file_that_may_be_a_renamed_one_and_is_read_slowly_delays_no_other(
    fuse: World, *, is_its_file: bool
) -> None:
    """A recording was renamed while no daemon ran, and only the bytes tell whether it has the new name."""
    stream_id = await two_parts(fuse)
    fuse.append(PART, "quick.tmp")  # before the numbers of others are free
    if is_its_file:
        Path(fuse.path()).rename(fuse.path("z.mp4"))
        renumber(fuse.path("z.mp4"))
    else:
        fuse.append(3 * PART, "z.mp4")
        Path(fuse.path()).unlink()
    sent, content = fuse.received_bytes(), fuse.content("z.mp4")
    fuse.read_seconds = SLOW_SECONDS
    with structlog.testing.capture_logs() as logs:
        async with fuse.daemon() as daemon:
            await rescanned(daemon, 0)
            await trio.sleep(6)
            fuse.read_seconds = 0.0  # of later reads
            Path(fuse.path("quick.tmp")).rename(fuse.path("quick.mp4"))
            daemon.closed("quick.mp4")
            await until(lambda: fuse.content("quick.mp4") in fuse.recordings(), SLOW_SECONDS / 2)
            assert set(daemon.supervisor.files.undecided) == {fuse.path("z.mp4")}, "the quick one did not wait for it"
            missing = daemon.supervisor._lost_records.moved_files
            missing._lost = [
                replace(one, meta=replace(one.meta, retry_attempts=9)) for one in missing._lost
            ]  # read anew
            await rescanned(daemon, 60)
            daemon.closed("z.mp4")
            await until(lambda: content in fuse.recordings())
    assert [entry["event"] for entry in logs].count("recording_compared_slowly") == 1
    assert fuse.received_bytes() == sent + PART + (0 if is_its_file else 3 * PART)
    [one] = [one for one in fuse.known() if one.meta.stream_id == stream_id]
    assert one.meta.status is (Status.COMPLETED if is_its_file else Status.FAILED_FILE_MISSING_ON_RESUME)


@pytest.mark.parametrize("while_running", [False, True])
async def test_p2_a_renamed_recording_is_not_missing_before_its_new_name_was_compared(
    reused: World, monkeypatch: pytest.MonkeyPatch, *, while_running: bool
) -> None:
    """It gets the name of a failed one, and FUSE gives it another inode number. No event tells."""
    monkeypatch.setattr(Ownership, "shares_any", True)  # then such a file is searched for by its bytes at any time
    Path(reused.path()).unlink()
    reused.stream_timeout_seconds = 1e6
    reused.append(20 * PART, "grows.mp4")

    def rename() -> None:
        [growing] = [one for one in reused.known() if one.meta.current_path == reused.path("grows.mp4")]
        assert len(growing.parts) == 20
        Path(reused.path("grows.mp4")).rename(reused.path())
        renumber(reused.path())
        reused.read_seconds = SLOW_SECONDS

    async with reused.daemon() as daemon:
        daemon.seen("grows.mp4")
        await trio.sleep(10)
        if while_running:
            rename()
            await rescanned(daemon, 600)
    if not while_running:
        rename()
    sent = reused.received_bytes()
    async with reused.daemon() as daemon:
        await rescanned(daemon, 600)
        reused.read_seconds = 0.0
        daemon.closed()
        await until(lambda: reused.content() in reused.recordings())
    assert Status.FAILED_FILE_MISSING_ON_RESUME not in {one.meta.status for one in reused.known()}
    assert reused.received_bytes() == sent == 22 * PART


async def renamed_while_down(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Leave an open recording that was renamed to a.mp4, which is read slowly; return its number before, and bytes."""
    monkeypatch.setattr(Ownership, "shares_any", True)
    Path(world.path()).unlink()
    world.stream_timeout_seconds = 1e6
    world.append(20 * PART, "grows.mp4")
    number = Path(world.path("grows.mp4")).stat().st_ino
    async with world.daemon() as daemon:
        daemon.seen("grows.mp4")
        await trio.sleep(10)
    Path(world.path("grows.mp4")).rename(world.path())
    renumber(world.path())
    world.read_seconds = SLOW_SECONDS
    return number, world.received_bytes()


async def test_p2_a_new_recording_with_the_earlier_number_of_a_renamed_one_decides_nothing(
    reused: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan proposes the new one, and its bytes say no, while the other one is still being compared."""
    number, sent = await renamed_while_down(reused, monkeypatch)
    async with reused.daemon() as daemon:
        await rescanned(daemon, 31)
        reused.read_seconds = 0.0  # of later reads
        reused.append(PART // 2, "new.mp4")
        scan, path = reused.scan(), reused.path("new.mp4")
        files = {**scan.files, path: replace(scan.files[path], file_ino=number)}
        daemon.supervisor.handle_event(replace(scan, files=files))
        await trio.sleep(25)
        await rescanned(daemon, 660)
        daemon.closed()
        await until(lambda: reused.content() in reused.recordings())
    assert Status.FAILED_FILE_MISSING_ON_RESUME not in {one.meta.status for one in reused.known()}
    assert reused.received_bytes() == sent


@pytest.mark.parametrize("reads_on", [True, False])
async def test_p2_a_recording_that_is_renamed_again_before_it_was_compared_keeps_its_stream(
    reused: World, monkeypatch: pytest.MonkeyPatch, *, reads_on: bool
) -> None:
    """No event tells. ``reads_on``: its comparison goes on in the open file; else it finds none at the path."""
    _, sent = await renamed_while_down(reused, monkeypatch)
    if not reads_on:
        monkeypatch.setattr("cef_trio.lab.disk.InlineRecording.read", _until_renamed(reused))
    async with reused.daemon() as daemon:
        await rescanned(daemon, 60)
        Path(reused.path()).rename(reused.path("third.mp4"))
        await rescanned(daemon, 600)
        reused.read_seconds = 0.0
        await rescanned(daemon, 600)
        daemon.closed("third.mp4")
        await until(lambda: reused.content("third.mp4") in reused.recordings())
    assert Status.FAILED_FILE_MISSING_ON_RESUME not in {one.meta.status for one in reused.known()}
    assert reused.received_bytes() == sent


def _until_renamed(world: World) -> Callable[[InlineRecording, int, int], Awaitable[bytes]]:
    read = InlineRecording.read

    async def vanished(recording: InlineRecording, offset: int, size_bytes: int) -> bytes:
        found = await read(recording, offset, size_bytes)
        if not Path(world.path()).exists() and recording._path == world.path():
            raise RecordingChangedError("it has no name any more")
        return found

    return vanished


async def unreadable_and_missing(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """Leave a failed recording whose disk has an error by now, and an open one; return the open one's stream."""
    world.endpoint.faults.arm(
        Fault(Kind.ERROR, "CompleteMultipartUpload", status=400, code="KeyTooLongError", times=None)
    )
    async with world.daemon() as daemon:
        world.append(2 * PART, "bad.mp4")
        daemon.closed("bad.mp4")
        await until_idle(world, Status.FAILED_FINALIZATION)
    world.endpoint.faults.clear()
    world.stream_timeout_seconds = 1e6
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
    read = InlineRecording.read

    async def broken(recording: InlineRecording, offset: int, size_bytes: int) -> bytes:
        if recording._path.endswith("bad.mp4"):
            raise FileAccessError("cannot read: input/output error", denied=False)
        return await read(recording, offset, size_bytes)

    monkeypatch.setattr(InlineRecording, "read", broken)
    [stream_id] = [one.meta.stream_id for one in world.known() if one.meta.status is not Status.FAILED_FINALIZATION]
    return stream_id


@pytest.mark.parametrize("while_running", [False, True])
async def test_p6_a_file_that_can_never_be_read_keeps_no_stream_of_a_deleted_file_open(
    world: World, monkeypatch: pytest.MonkeyPatch, *, while_running: bool
) -> None:
    """Its inode number is not that of the deleted one, and numbers last there."""
    stream_id = await unreadable_and_missing(world, monkeypatch)
    if not while_running:
        Path(world.path()).unlink()
    async with world.daemon() as daemon:
        await rescanned(daemon, 60)
        if while_running:
            Path(world.path()).unlink()
            daemon.gone()
        await rescanned(daemon, 60)
        assert set(daemon.supervisor.files.undecided) == {world.path("bad.mp4")}
        assert [risk.reason for risk in daemon.at_risk] == [Reason.NOT_LOOKED_UP]
    [one] = [one for one in world.known() if one.meta.stream_id == stream_id]
    assert one.meta.status is (Status.DELETED_LOCALLY if while_running else Status.FAILED_FILE_MISSING_ON_RESUME)


@pytest.mark.parametrize("while_running", [False, True])
async def test_p10_a_missing_recording_that_may_be_a_file_that_can_never_be_read_is_kept_and_at_risk(
    fuse: World, monkeypatch: pytest.MonkeyPatch, *, while_running: bool
) -> None:
    stream_id = await unreadable_and_missing(fuse, monkeypatch)
    if not while_running:
        Path(fuse.path()).rename(fuse.path("away"))
    async with fuse.daemon() as daemon:
        await rescanned(daemon, 60)
        if while_running:
            Path(fuse.path()).rename(fuse.path("away"))
            daemon.gone()
        for _ in range(10):  # others go on
            fuse.append(PART, "other.mp4")
            daemon.seen("other.mp4")
            await rescanned(daemon, 30)
        risks = {risk.reason: risk.why for risk in daemon.at_risk}
        assert risks.keys() == {Reason.NOT_MOVING, Reason.NOT_LOOKED_UP}
        assert "a.mp4' is missing" in risks[Reason.NOT_MOVING]
        assert "bad.mp4' may be it" in risks[Reason.NOT_MOVING]
        [one] = [one for one in fuse.known() if one.meta.stream_id == stream_id]
        assert one.meta.status not in ENDED
        Path(fuse.path("away")).rename(fuse.path())
        await rescanned(daemon, 60)
        assert [risk.reason for risk in daemon.at_risk] == [Reason.NOT_LOOKED_UP]
