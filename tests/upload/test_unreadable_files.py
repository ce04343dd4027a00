"""P6: an unreadable file ends no stream: ``mv`` and ``cp -p`` set permissions last, and disks recover."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from waiting import completed

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.states import Status
from cef_trio.files.file_stat import FileStat
from cef_trio.files.reader import OpenRecording, file_access_error
from cef_trio.lab.disk import InlineDisk
from cef_trio.lab.world import PART, World
from cef_trio.observability.at_risk import Reason
from cef_trio.upload.missed_renames import MovedFiles
from cef_trio.upload.risks import RiskObserver
from cef_trio.watch.events import Scanned

NAME = "a.mp4"


class Damaged:
    """A disk on which the status of some files cannot be read, as of a damaged inode."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()

    def check(self, path: str) -> None:
        if path.endswith(self.names):
            raise file_access_error(f"cannot look at {path!r}", OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN)))


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> Damaged:
    state, opened, looked_at, scanned = Damaged(), InlineDisk.open, InlineDisk.stat, World.scan

    @asynccontextmanager
    async def open_file(disk: InlineDisk, path: str) -> AsyncIterator[OpenRecording]:
        state.check(path)
        async with opened(disk, path) as recording:
            yield recording

    async def stat(disk: InlineDisk, path: str) -> FileStat | None:
        state.check(path)
        return await looked_at(disk, path)

    def scan(world: World) -> Scanned:
        found = scanned(world)
        bad = frozenset(path for path in found.files if path.endswith(state.names))
        good = {path: stat for path, stat in found.files.items() if path not in bad}
        return Scanned(good, bad, began_at=found.began_at)

    monkeypatch.setattr(InlineDisk, "open", open_file)
    monkeypatch.setattr(InlineDisk, "stat", stat)
    monkeypatch.setattr(World, "scan", scan)
    return state


class Refusing:
    """A disk that refuses one file with the errno ``number``, as long as it is set."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.asked = 0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    state, opened = Refusing(), InlineDisk.open

    @asynccontextmanager
    async def refusing(disk: InlineDisk, path: str) -> AsyncIterator[OpenRecording]:
        if state.number is not None and path.endswith(NAME):
            state.asked += 1
            raise file_access_error(f"cannot open {path!r}", OSError(state.number, os.strerror(state.number)))
        async with opened(disk, path) as recording:
            yield recording

    monkeypatch.setattr(InlineDisk, "open", refusing)
    return state


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ELOOP])
async def test_p6_an_unreadable_file_is_reported_and_resumed_at_its_next_event(
    world: World, disk: Refusing, number: int
) -> None:
    world.append(2 * PART, NAME)
    disk.number = number
    async with world.daemon() as daemon:
        daemon.seen(NAME)
        await trio.sleep(3600)
        assert dict(daemon.supervisor.unreadable).keys() == {world.path(NAME)}
        assert os.strerror(number) in daemon.supervisor.unreadable[world.path(NAME)]
        assert world.known() == []
        at_risk = RiskObserver(daemon.services, daemon.supervisor)
        [risk] = at_risk()
        assert (risk.reason, risk.size_bytes, risk.recordings) == (Reason.FILE_UNREADABLE, 2 * PART, 1)
        assert os.strerror(number) in risk.why
        disk.number = None
        daemon.seen(NAME)  # its mode has changed, or a scan has passed
        await trio.sleep(5)
        assert daemon.supervisor.unreadable == {}
        assert at_risk() == ()
        daemon.closed(NAME)
        await completed(world)


async def test_p7_events_of_a_growing_unreadable_file_cause_one_attempt_a_second(world: World, disk: Refusing) -> None:
    disk.number = errno.EACCES
    async with world.daemon() as daemon:
        for _ in range(1000):
            world.append(1, NAME)
            daemon.seen(NAME)
            await trio.sleep(0.01)
        assert disk.asked <= 12


async def test_p6_a_recording_that_becomes_unreadable_while_it_is_uploaded_goes_on_from_its_parts(
    world: World, disk: Refusing
) -> None:
    world.append(2 * PART, NAME)
    async with world.daemon() as daemon:
        daemon.seen(NAME)
        await trio.sleep(5)
        disk.number = errno.EACCES
        world.append(2 * PART, NAME)
        daemon.seen(NAME)
        await trio.sleep(600)
        (checkpoint,) = world.known()
        assert checkpoint.meta.status is Status.RETRYING
        disk.number = None
        daemon.closed(NAME)
        await completed(world)
    assert world.received_bytes() == 4 * PART


async def test_p6_a_stream_that_failed_as_unreadable_before_comes_back_by_itself(world: World, disk: Refusing) -> None:
    """Such records were written by earlier versions. As long as the file is refused they stay as they are."""
    world.append(2 * PART, NAME)
    async with world.daemon() as daemon:
        daemon.seen(NAME)
        await trio.sleep(5)
        (checkpoint,) = world.known()
        stream_id, lease = checkpoint.meta.stream_id, daemon.services.lease
        await daemon.services.store.transition(stream_id, lease, Status.FAILED_FILE_UNREADABLE, Change())
    disk.number = errno.EACCES
    async with world.daemon() as daemon:
        daemon.seen(NAME)
        await trio.sleep(60)
        assert world.path(NAME) in daemon.supervisor.unreadable
    (checkpoint,) = world.known()
    assert checkpoint.meta.status is Status.FAILED_FILE_UNREADABLE
    disk.number = None
    async with world.daemon() as daemon:
        daemon.closed(NAME)
        await completed(world)
    assert [one.meta.stream_id for one in world.known()] == [stream_id]
    assert world.received_bytes() == 2 * PART


async def test_p10_a_hung_mount_is_reported_once_with_its_streams(world: World, disk: Refusing) -> None:
    world.append(2 * PART, NAME)
    disk.number = errno.ETIMEDOUT
    async with world.daemon() as daemon:
        folder, hung = str(world.folder), daemon.services.mounts.hung
        hung.value = {folder: trio.current_time(), "/elsewhere": trio.current_time()}
        daemon.seen(NAME)
        for _ in range(10):
            daemon.supervisor.handle_event(Scanned({}, frozenset({folder}), began_at=trio.current_time()))
            await trio.sleep(10)
        at_risk = RiskObserver(daemon.services, daemon.supervisor)
        [risk] = at_risk()
        assert (risk.reason, risk.size_bytes, risk.recordings) == (Reason.MOUNT_HUNG, 2 * PART, 1)
        assert f"{folder} ({world.path(NAME)})" in risk.why
        assert world.known() == [], "and nothing is called deleted"
        hung.value, disk.number = {}, None
        daemon.supervisor.handle_event(world.scan())
        await trio.sleep(5)
        assert at_risk() == ()
        daemon.closed(NAME)
        await completed(world)


async def test_p3_a_live_recording_that_a_scan_cannot_read_is_not_called_deleted(
    world: World, damaged: Damaged
) -> None:
    world.append(2 * PART, NAME)
    async with world.daemon() as daemon:
        daemon.seen(NAME)
        await trio.sleep(5)
        damaged.names = (NAME,)
        for _ in range(10):
            daemon.supervisor.handle_event(world.scan())
            assert not any(live.file_state.value.needs_check for live in daemon.supervisor.live)
            await trio.sleep(60)
        [risk] = [one for one in RiskObserver(daemon.services, daemon.supervisor)() if world.path(NAME) in one.why]
        assert risk.reason is Reason.FOLDER_UNREADABLE
        assert [checkpoint.meta.status for checkpoint in world.known()] == [Status.ACTIVE]
        damaged.names = ()
        world.append(PART, NAME)
        daemon.supervisor.handle_event(world.scan())
        daemon.closed(NAME)
        await completed(world)
    assert world.received_bytes() == 3 * PART


async def test_p2_a_file_that_cannot_be_read_hides_no_rename_of_another_one_in_its_folder(
    world: World, damaged: Damaged, logged: list[EventDict]
) -> None:
    """Its folder counted as unreadable: recordings beside it that were renamed while no daemon ran were sent again."""
    names = ("a.mp4", "b.mp4")
    for name in names:
        world.append(2 * PART, name)
    async with world.daemon() as daemon:
        for name in names:
            daemon.seen(name)
        await trio.sleep(5)
    bad, good = sorted((one.meta for one in world.known()), key=lambda meta: meta.stream_id)
    damaged.names = (Path(bad.current_path).name,)  # the one that is looked at first
    Path(good.current_path).rename(world.path("renamed.mp4"))
    async with world.services() as services:
        moved = MovedFiles(services)
        await moved.find_missing(frozenset)
        assert moved.may_be_of(world.stat("renamed.mp4")) == {good.stream_id}
        assert not moved.due
        await trio.sleep(31)
        assert moved.due, "the other one is looked for again"
    [told] = [one["paths"] for one in logged if one["event"] == "places_unavailable"]
    assert told == [bad.current_path]
    before = world.received_bytes()
    async with world.daemon() as daemon:
        daemon.closed("renamed.mp4")
        await trio.sleep(60)
    assert world.received_bytes() == before
