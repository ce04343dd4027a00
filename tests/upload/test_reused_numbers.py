"""P1, P6: an inode number goes to the next file once its own is deleted; that one is another recording.

On file systems without inode generations (NFS, most by FUSE) nothing but the bytes tells the two apart, and without
events a scan sees the number under another name, as after a rename.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from trio.testing import MockClock
from waiting import until

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import Status
from cef_trio.files.identity import HEAD_BYTES
from cef_trio.lab.filesystem import FileSystem, Leases, Numbers
from cef_trio.lab.world import PART, World
from cef_trio.lab.writers import Writers
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload import StartMinimum
from cef_trio.watch.events import Seen

NFS = partial(
    FileSystem,
    name="nfs",
    device=50,
    source="nas:/recordings",
    numbers=Numbers.REUSED,
    generations=False,
    leases=Leases.NEVER,
    reports_events=False,
)
"""Of another host: no generations, no leases, no events."""
BINDFS = partial(NFS, name="fuse", source="/below")
EXT4 = partial(FileSystem, numbers=Numbers.REUSED, reports_events=False)
"""Whose inotify watches have run out."""


@dataclass
class Place:
    """A world with a file system of its own, and who writes there."""

    world: World
    writers: Writers = field(init=False)

    def __post_init__(self) -> None:
        self.writers = Writers(self.world.kernel, self.world.folder, self.world.random, self.world.journal)

    def keys(self) -> dict[str, bytes]:
        """Return the objects of recordings by the last component of their keys."""
        return {key.rpartition("/")[2]: body for key, body in self.world.objects().items() if key.endswith(".mp4")}

    def streams(self) -> list[tuple[str, Status]]:
        return sorted((Path(one.meta.current_path).name, one.meta.status) for one in self.world.known())

    def content(self, name: str) -> bytes:
        return Path(self.world.path(name)).read_bytes()


def place(base: Path, file_system: FileSystem) -> Place:
    world = World(base / "watch", base=base, file_system=file_system)
    world.stream_timeout_seconds, world.rescan_seconds = 10, 5.0
    return Place(world)


async def number_goes_to(there: Place, old: str, new: str, size_bytes: int = 2 * PART + 10) -> None:
    """Delete a recording and begin another one, right after a scan, which gets its number."""
    await until(lambda: trio.current_time() % 5 > 1)
    number = there.writers.inode(old).number
    there.writers.close(old)
    there.writers.delete(old)
    there.writers.append(size_bytes, new)
    assert there.writers.inode(new).number == number


def number_reused(logged: list[EventDict]) -> int:
    return Counter(event["event"] for event in logged)["file_number_reused"]


@pytest.mark.parametrize("file_system", [NFS, BINDFS, EXT4], ids=["nfs", "bindfs", "ext4"])
async def test_p1_a_new_recording_that_has_the_number_of_a_deleted_one_gets_its_own_object(
    tmp_path: Path, autojump_clock: MockClock, logged: list[EventDict], file_system: partial[FileSystem]
) -> None:
    there = place(tmp_path, file_system())
    async with there.world.daemon():
        there.writers.append(3 * PART + 10, "a.mp4")
        await trio.sleep(12)
        await number_goes_to(there, "a.mp4", "b.mp4")
        await trio.sleep(12)
        there.writers.append(PART, "b.mp4")
        there.writers.close("b.mp4")
        await trio.sleep(60)
    assert there.streams() == [("a.mp4", Status.DELETED_LOCALLY), ("b.mp4", Status.COMPLETED)]
    assert there.keys() == {"b.mp4": there.content("b.mp4")}
    assert number_reused(logged) == 1


@pytest.mark.parametrize("sent_parts", [0, 3])
@pytest.mark.parametrize("file_system", [NFS, BINDFS, EXT4], ids=["nfs", "bindfs", "ext4"])
async def test_p2_a_recording_that_a_scan_finds_renamed_keeps_its_stream(
    tmp_path: Path, autojump_clock: MockClock, file_system: partial[FileSystem], sent_parts: int
) -> None:
    there = place(tmp_path, file_system())
    async with there.world.daemon():
        there.writers.append(sent_parts * PART + 10, "a.mp4")
        await trio.sleep(7)
        there.writers.move("a.mp4", "b.mp4")
        await trio.sleep(7)
        there.writers.append(PART, "b.mp4")
        there.writers.close("b.mp4")
        await trio.sleep(60)
    assert there.streams() == [("b.mp4", Status.COMPLETED)]
    # The object is named when its upload is created.
    assert there.keys() == {"a.mp4" if sent_parts else "b.mp4": there.content("b.mp4")}
    assert there.world.received_bytes() == (sent_parts + 1) * PART + 10


@pytest.mark.parametrize("file_system", [NFS, EXT4], ids=["nfs", "ext4"])
async def test_p2_two_recordings_whose_names_a_scan_finds_swapped_keep_their_streams(
    tmp_path: Path, autojump_clock: MockClock, file_system: partial[FileSystem]
) -> None:
    there = place(tmp_path, file_system())
    async with there.world.daemon():
        there.writers.append(3 * PART + 10, "a.mp4")
        there.writers.append(2 * PART + 10, "b.mp4")
        await trio.sleep(7)
        for old, new in (("a.mp4", "third"), ("b.mp4", "a.mp4"), ("third", "b.mp4")):
            there.writers.move(old, new)
        await trio.sleep(60)
    assert there.streams() == [("a.mp4", Status.COMPLETED), ("b.mp4", Status.COMPLETED)]
    assert there.keys() == {"a.mp4": there.content("b.mp4"), "b.mp4": there.content("a.mp4")}
    assert there.world.received_bytes() == 5 * PART + 20


@pytest.mark.parametrize("file_system", [NFS, BINDFS, EXT4], ids=["nfs", "bindfs", "ext4"])
async def test_p2_a_recording_that_is_rotated_between_two_scans_keeps_its_stream(
    tmp_path: Path, autojump_clock: MockClock, file_system: partial[FileSystem]
) -> None:
    """Another recording has its name by then."""
    there = place(tmp_path, file_system())
    async with there.world.daemon():
        there.writers.append(3 * PART + 10, "current.mp4")
        await trio.sleep(7)
        there.writers.move("current.mp4", "first.mp4")
        there.writers.append(2 * PART + 10, "current.mp4")
        await trio.sleep(60)
    assert there.streams() == [("current.mp4", Status.COMPLETED), ("first.mp4", Status.COMPLETED)]
    assert sorted(there.world.recordings()) == sorted([there.content("current.mp4"), there.content("first.mp4")])
    assert there.world.received_bytes() == 5 * PART + 20


async def test_p2_a_rotated_recording_keeps_its_stream_though_its_name_seems_to_have_its_number_still(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """FUSE caches the number of a name for a second: the new name is seen first."""
    there = place(tmp_path, BINDFS())
    there.world.rescan_seconds = 30.0
    there.writers.append(3 * PART + 10, "current.mp4")
    async with there.world.daemon() as daemon:
        await trio.sleep(7)
        there.writers.move("current.mp4", "first.mp4")
        there.writers.append(2 * PART + 10, "current.mp4")
        stat = await daemon.services.disk.stat(there.world.path("first.mp4"))
        assert stat is not None
        daemon.supervisor.handle_event(Seen(there.world.path("first.mp4"), stat))
        await trio.sleep(60)
    assert there.streams() == [("current.mp4", Status.COMPLETED), ("first.mp4", Status.COMPLETED)]
    assert there.world.received_bytes() == 5 * PART + 20


async def test_p2_recordings_whose_numbers_are_exchanged_keep_their_streams(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """FUSE and FAT number files anew: each may get a number that another one had."""
    there = place(tmp_path, BINDFS())
    async with there.world.daemon() as daemon:
        there.writers.append(3 * PART + 10, "a.mp4")
        there.writers.append(2 * PART + 10, "b.mp4")
        await trio.sleep(7)
        a, b = there.writers.inode("a.mp4"), there.writers.inode("b.mp4")
        a.number, b.number = b.number, a.number
        await trio.sleep(7)
        there.writers.append(PART, "a.mp4")
        await trio.sleep(7)
        assert sorted(live.lag(trio.current_time()).size_bytes for live in daemon.supervisor.live) == [10, 10]
        await trio.sleep(60)
    assert there.streams() == [("a.mp4", Status.COMPLETED), ("b.mp4", Status.COMPLETED)]
    assert there.keys() == {name: there.content(name) for name in ("a.mp4", "b.mp4")}
    assert there.world.received_bytes() == 6 * PART + 20


async def test_p2_a_recording_that_is_numbered_anew_keeps_its_stream_though_a_new_one_gets_its_number(
    tmp_path: Path, autojump_clock: MockClock, logged: list[EventDict]
) -> None:
    there = place(tmp_path, BINDFS())
    async with there.world.daemon() as daemon:
        there.writers.append(3 * PART + 10, "a.mp4")
        await trio.sleep(7)
        there.writers.append(2 * PART + 10, "b.mp4")
        a, b = there.writers.inode("a.mp4"), there.writers.inode("b.mp4")
        a.number, b.number = b.number, a.number
        await trio.sleep(7)
        there.writers.append(PART, "a.mp4")
        await trio.sleep(7)
        assert sorted(live.path for live in daemon.supervisor.live) == [there.world.path(f"{one}.mp4") for one in "ab"]
        assert [live.lag(trio.current_time()).size_bytes for live in daemon.supervisor.live] == [10, 10]
        await trio.sleep(60)
    assert number_reused(logged) == 1
    assert there.keys() == {name: there.content(name) for name in ("a.mp4", "b.mp4")}
    assert there.world.received_bytes() == 6 * PART + 20


async def test_p1_a_number_that_went_to_a_file_below_the_minimum_leads_nowhere(
    tmp_path: Path, autojump_clock: MockClock, logged: list[EventDict]
) -> None:
    """That file gets no stream, so scan after scan finds the number at a path of no stream."""
    there = place(tmp_path, NFS())
    there.world.minimum = StartMinimum(size_bytes=2 * PART)
    async with there.world.daemon():
        there.writers.append(3 * PART + 10, "a.mp4")
        await trio.sleep(12)
        await number_goes_to(there, "a.mp4", "b.mp4", PART)
        await trio.sleep(60)
        assert there.streams() == [("a.mp4", Status.DELETED_LOCALLY)]
        assert number_reused(logged) == 1
        there.writers.append(2 * PART, "b.mp4")
        await trio.sleep(60)
    assert there.keys() == {"b.mp4": there.content("b.mp4")}


async def test_p1_a_number_that_went_to_another_file_while_the_stream_waited_for_s3_is_compared_too(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    there = place(tmp_path, NFS())
    async with there.world.daemon():
        there.writers.append(2 * PART + 10, "a.mp4")
        await trio.sleep(12)
        failing = there.world.endpoint.faults.arm(Fault(Kind.ERROR, "UploadPart", times=None, code="InternalError"))
        there.writers.append(PART, "a.mp4")
        await trio.sleep(12)
        await number_goes_to(there, "a.mp4", "b.mp4")
        await trio.sleep(20)
        there.world.endpoint.faults.disarm(failing)
        await trio.sleep(200)
    ((a, ended), b) = there.streams()
    assert (a, b) == ("a.mp4", ("b.mp4", Status.COMPLETED))
    assert ended in {Status.DELETED_LOCALLY, Status.FAILED_FILE_MISSING_ON_RESUME}
    assert there.keys() == {"b.mp4": there.content("b.mp4")}


@pytest.mark.parametrize("sent_bytes", [10, HEAD_BYTES + 4 * PART], ids=["no part", "parts after an equal beginning"])
async def test_p1_a_number_that_went_to_another_file_while_no_daemon_ran_proves_nothing(
    tmp_path: Path, autojump_clock: MockClock, sent_bytes: int
) -> None:
    """Recorders reserve room for their index: the beginnings of two recordings can be equal for long."""
    there = place(tmp_path, NFS())
    there.writers.patch(0, bytes(min(sent_bytes, HEAD_BYTES)), "a.mp4")
    if sent_bytes > HEAD_BYTES:
        there.writers.append(sent_bytes - HEAD_BYTES, "a.mp4")
    async with there.world.daemon():
        await trio.sleep(4)
    await number_goes_to(there, "a.mp4", "b.mp4", 10)
    there.writers.patch(0, bytes(HEAD_BYTES), "b.mp4")
    there.writers.append(3 * PART, "b.mp4")
    there.writers.close("b.mp4")
    async with there.world.daemon():
        await trio.sleep(120)
    assert dict(there.streams())["b.mp4"] is Status.COMPLETED
    assert there.keys() == {"b.mp4": there.content("b.mp4")}


@pytest.mark.parametrize("name", ["a.mp4", "b.mp4"])
async def test_p1_a_stream_that_is_resumed_while_lookups_wait_has_an_object_of_its_files_name(
    tmp_path: Path, autojump_clock: MockClock, name: str
) -> None:
    """Nothing was sent of it, so it may go on with that file, whose name its object has then."""
    there = place(tmp_path, NFS())
    there.writers.append(10, "a.mp4")
    async with there.world.daemon():
        await trio.sleep(4)
    if name == "b.mp4":
        await number_goes_to(there, "a.mp4", name, 10)

    async def wait(called: str, at: Moment) -> None:
        await trio.sleep(40 if (called, at) == ("find_by_path", Moment.BEFORE) and trio.current_time() < 60 else 0)

    there.world.store.fault = wait
    there.writers.append(3 * PART, name)
    there.writers.close(name)
    async with there.world.daemon():
        await trio.sleep(200)
    assert dict(there.streams())[name] is Status.COMPLETED
    assert there.keys() == {name: there.content(name)}


@pytest.mark.parametrize("while_running", [True, False])
async def test_p3_a_stream_whose_object_is_complete_does_not_wait_for_another_file(
    tmp_path: Path, autojump_clock: MockClock, *, while_running: bool
) -> None:
    """Only its metadata is missing when the recording is deleted, and a file that cannot be read has its number."""
    there = place(tmp_path, NFS())

    async def reuse() -> None:
        await number_goes_to(there, "a.mp4", "b.mp4")
        there.writers.inode("b.mp4").denied = True

    down = there.world.endpoint.faults.arm(Fault(Kind.ERROR, "PutObject", times=None, code="ServiceUnavailable"))
    async with there.world.daemon():
        there.writers.append(3 * PART + 10, "a.mp4")
        await trio.sleep(30)
        assert there.keys() == {"a.mp4": there.content("a.mp4")}
        assert there.streams() == [("a.mp4", Status.RETRYING)]
        if while_running:
            await reuse()
            await trio.sleep(30)
            there.world.endpoint.faults.disarm(down)
            await trio.sleep(60)
    if not while_running:
        await reuse()
        there.world.endpoint.faults.disarm(down)
        async with there.world.daemon():
            await trio.sleep(60)
    assert dict(there.streams())["a.mp4"] is Status.COMPLETED


@pytest.mark.parametrize("while_running", [True, False])
async def test_p2_a_recording_that_a_scan_finds_renamed_when_its_object_is_complete_is_known_under_its_new_name(
    tmp_path: Path, autojump_clock: MockClock, *, while_running: bool
) -> None:
    there = place(tmp_path, NFS())
    down = there.world.endpoint.faults.arm(Fault(Kind.ERROR, "PutObject", times=None, code="ServiceUnavailable"))
    async with there.world.daemon():
        there.writers.append(3 * PART + 10, "a.mp4")
        await trio.sleep(30)
        assert there.keys() == {"a.mp4": there.content("a.mp4")}
        assert there.streams() == [("a.mp4", Status.RETRYING)]
        if while_running:
            there.writers.move("a.mp4", "b.mp4")
            await trio.sleep(30)
            there.world.endpoint.faults.disarm(down)
            await trio.sleep(60)
    if not while_running:
        there.writers.move("a.mp4", "b.mp4")
        there.world.endpoint.faults.disarm(down)
        async with there.world.daemon():
            await trio.sleep(60)
    assert there.streams() == [("b.mp4", Status.COMPLETED)]
    assert there.world.received_bytes() == 3 * PART + 10


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_p3_a_daemon_that_ends_while_it_compares_records_no_rename(
    tmp_path: Path, autojump_clock: MockClock, moment: Moment
) -> None:
    there = place(tmp_path, NFS())
    struck: list[str] = []

    async def strike(called: str, at: Moment) -> None:
        await trio.lowlevel.checkpoint()
        if not struck and (called, at) == ("load", moment) and daemon.supervisor.live and not there_is("a.mp4"):
            struck.append(called)
            daemon.shutdown.request()

    def there_is(name: str) -> bool:
        return Path(there.world.path(name)).exists()

    async with there.world.daemon() as daemon:
        there.writers.append(3 * PART + 10, "a.mp4")
        await trio.sleep(12)
        there.world.store.fault = strike
        await number_goes_to(there, "a.mp4", "b.mp4")
        await trio.sleep(20)
    there.world.store.fault = None
    assert struck
    assert ("a.mp4", Status.INTERRUPTED_SHUTDOWN) in there.streams()
    there.writers.close("b.mp4")
    async with there.world.daemon():
        await trio.sleep(120)
    assert there.keys() == {"b.mp4": there.content("b.mp4")}


@pytest.mark.parametrize(
    ("aborted", "head_bytes"),
    [
        pytest.param(False, 0, id="failed, begun empty"),
        pytest.param(False, 32, id="failed, begun with its first box"),
        pytest.param(True, 0, id="aborted, begun empty"),
        pytest.param(True, 32, id="aborted, begun with its first box"),
        pytest.param(True, HEAD_BYTES, id="aborted, with parts after an equal beginning"),
    ],
)
async def test_p6_the_next_recording_of_a_failed_ones_name_and_number_is_uploaded_though_it_begins_alike(
    tmp_path: Path, autojump_clock: MockClock, *, aborted: bool, head_bytes: int
) -> None:
    """Streams begin when a file is empty, or has its first box, which all recordings of a camera have."""
    there, head = place(tmp_path, NFS()), bytes(head_bytes)

    def begin() -> None:
        there.writers.create("a.mp4")
        if head:
            there.writers.patch(0, head, "a.mp4")

    async with there.world.daemon() as daemon:
        begin()
        await trio.sleep(6)
        there.writers.append(4 * PART + 10, "a.mp4")
        if aborted:
            await trio.sleep(6)
            await there.world.store.request_abort([one.meta.stream_id for one in there.world.known()])
        else:
            refused = there.world.endpoint.faults.arm(
                Fault(Kind.ERROR, "UploadPart", times=None, code="KeyTooLongError")
            )
        await trio.sleep(12)
        assert len(there.streams()) == 1 + (not aborted)  # it was empty, or had 32 bytes, when the first one began
        there.writers.close("a.mp4")
        there.writers.delete("a.mp4")
        if not aborted:
            there.world.endpoint.faults.disarm(refused)
        begin()
        await trio.sleep(6)
        there.writers.append(3 * PART, "a.mp4")
        await trio.sleep(60)
        assert daemon.at_risk == ()
    assert there.content("a.mp4") in there.world.recordings()


async def test_p6_a_small_recording_that_fails_on_a_network_file_system_fails_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """No part tells that its file is the same: all of its bytes do."""
    there = place(tmp_path, NFS())
    there.world.endpoint.faults.arm(Fault(Kind.ERROR, "PutObject", times=None, code="KeyTooLongError"))
    async with there.world.daemon():
        there.writers.append(PART // 2, "a.mp4")
        await trio.sleep(120)
    assert len(there.streams()) == 1
