"""P2: a recording that gets its last name around its completion is uploaded once, whenever that is.

Recorders write under one name and rename when they are done. While a stream has a task, the rename is an event for it.
Around its end there is a gap: the record is completed and the task is ending or has ended, but the file has not been
looked up in Redis again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from waiting import completed

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.protocols import StreamSummary
from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import PART, World, WorldDaemon


def rename(world: World, daemon: WorldDaemon) -> None:
    Path(world.path("a.mp4")).rename(world.path("b.mp4"))
    daemon.moved("a.mp4", "b.mp4")


def statuses(world: World) -> list[Status]:
    return [checkpoint.meta.status for checkpoint in world.known()]


def assert_completed_as_b(world: World) -> None:
    (checkpoint,) = world.known()
    assert (checkpoint.meta.status, checkpoint.meta.current_path) == (Status.COMPLETED, world.path("b.mp4"))


@pytest.mark.parametrize(
    ("operation", "moment"),
    [
        pytest.param("transition", Moment.AFTER, id="completed, before the task has the reply"),
        pytest.param("release", Moment.SENT, id="the task is leaving"),
        pytest.param("release", Moment.AFTER, id="the lease is given back"),
        pytest.param("find_by_path", Moment.BEFORE, id="Redis is to be asked again"),
        pytest.param("find_by_path", Moment.AFTER, id="Redis has been asked again"),
    ],
)
async def test_p2_a_recording_renamed_in_the_moment_of_its_completion_is_uploaded_once(
    world: World, operation: str, moment: Moment
) -> None:
    world.append(2 * PART + 10)
    renamed: list[str] = []
    async with world.daemon() as daemon:

        async def strike(called: str, at: Moment) -> None:
            await trio.lowlevel.checkpoint()
            if not renamed and (called, at) == (operation, moment) and statuses(world) == [Status.COMPLETED]:
                renamed.append(called)
                rename(world, daemon)

        daemon.closed()
        world.store.fault = strike
        await completed(world)
        await trio.sleep(120)
    assert renamed == [operation]
    assert_completed_as_b(world)
    assert world.recordings() == [world.content("b.mp4")]
    assert world.received_bytes() == 2 * PART + 10


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.999, 1.0, 1.5, 60.0])
async def test_p2_a_recording_renamed_after_its_completion_is_uploaded_once(world: World, seconds: float) -> None:
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await trio.sleep(seconds)
        rename(world, daemon)
        await trio.sleep(120)
    assert_completed_as_b(world)


@pytest.mark.parametrize("seconds", [None, 0.0, 0.5, 60.0])
async def test_p2_a_completed_recording_that_a_scan_alone_finds_renamed_is_uploaded_once(
    world: World, seconds: float | None
) -> None:
    """On a network file system a rename by another host causes no event. ``None``: while its end is recorded."""
    world.append(2 * PART + 10)
    renamed: list[str] = []

    async def strike(called: str, at: Moment) -> None:
        await trio.lowlevel.checkpoint()
        is_end = (called, at) == ("transition", Moment.AFTER) and statuses(world) == [Status.COMPLETED]
        if not renamed and seconds is None and is_end:
            renamed.append(called)
            Path(world.path("a.mp4")).rename(world.path("b.mp4"))

    async with world.daemon() as daemon:
        world.store.fault = strike
        daemon.closed()
        await completed(world)
        await trio.sleep(seconds or 0)
        if seconds is not None:
            Path(world.path("a.mp4")).rename(world.path("b.mp4"))
        for _ in range(20):
            daemon.supervisor.handle_event(world.scan())
            await trio.sleep(1)
    assert_completed_as_b(world)
    assert world.received_bytes() == 2 * PART + 10


async def test_p2_a_completed_recording_keeps_its_record_though_another_file_has_had_its_name_since(
    world: World,
) -> None:
    """Both pass through one name: names of two pairs are swapped at once, by the same third name."""
    world.append(PART + 10)
    world.append(PART, "growing.mp4")
    async with world.daemon() as daemon:
        daemon.seen("growing.mp4")
        daemon.closed()
        await completed(world)
        await trio.sleep(5)
        Path(world.path("a.mp4")).rename(world.path("third.mp4"))
        daemon.moved("a.mp4", "third.mp4")
        await trio.sleep(0.5)
        Path(world.path("third.mp4")).rename(world.path("b.mp4"))
        Path(world.path("growing.mp4")).rename(world.path("third.mp4"))
        daemon.moved("growing.mp4", "third.mp4")
        await trio.sleep(0.5)
        assert sorted(checkpoint.meta.current_path for checkpoint in world.known()) == [world.path("third.mp4")] * 2
        daemon.moved("third.mp4", "b.mp4")  # the event is late
        await trio.sleep(0.5)
        daemon.closed("third.mp4")
        await trio.sleep(60)
    paths = sorted((one.meta.current_path, one.meta.status) for one in world.known())
    assert paths == [(world.path("b.mp4"), Status.COMPLETED), (world.path("third.mp4"), Status.COMPLETED)]
    assert world.received_bytes() == 2 * PART + 10


def exchange(world: World, daemon: WorldDaemon) -> None:
    """``RENAME_EXCHANGE`` of a.mp4 and b.mp4."""
    a, b, other = (Path(world.path(name)) for name in ("a.mp4", "b.mp4", "other"))
    a.rename(other)
    b.rename(a)
    other.rename(b)
    daemon.moved("a.mp4", "b.mp4")
    daemon.moved("b.mp4", "a.mp4")


async def test_p2_two_completed_recordings_that_exchange_their_names_keep_their_records(world: World) -> None:
    world.append(PART + 10)
    world.append(PART + 20, "b.mp4")
    async with world.daemon() as daemon:
        daemon.closed()
        daemon.closed("b.mp4")
        await completed(world)
        await trio.sleep(5)
        exchange(world, daemon)
        await trio.sleep(60)
    sizes = {one.meta.current_path: one.meta.verified_size_bytes for one in world.known()}
    assert sizes == {world.path("a.mp4"): PART + 20, world.path("b.mp4"): PART + 10}
    assert world.received_bytes() == 2 * PART + 30


async def test_p2_two_growing_recordings_that_exchange_their_names_go_on_as_they_are(world: World) -> None:
    world.append(PART + 10)
    world.append(PART + 20, "b.mp4")
    async with world.daemon() as daemon:
        daemon.seen()
        daemon.seen("b.mp4")
        await trio.sleep(5)
        exchange(world, daemon)
        await trio.sleep(5)
        for name in ("a.mp4", "b.mp4"):
            world.append(PART, name)
            daemon.closed(name)
        await completed(world)
    assert len(world.known()) == 2
    assert sorted(world.recordings()) == sorted([world.content("a.mp4"), world.content("b.mp4")])
    assert world.received_bytes() == 4 * PART + 30


async def test_another_file_under_the_old_name_of_a_completed_recording_does_not_take_its_record_along(
    world: World,
) -> None:
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        Path(world.path("a.mp4")).rename(world.path("kept"))  # without an event
        world.append(PART + 20)
        rename(world, daemon)
        daemon.closed("b.mp4")
        await trio.sleep(30)
    assert sorted(checkpoint.meta.current_path for checkpoint in world.known()) == [
        world.path("a.mp4"),
        world.path("b.mp4"),
    ]


async def test_a_stream_that_is_resumed_while_its_rename_is_recorded_keeps_its_lease(
    world: World, logged: list[EventDict]
) -> None:
    """The idle checker finds it without a task at the moment at which the supervisor records its new name."""
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
    (parked,) = world.known()
    assert parked.meta.status is Status.INTERRUPTED_SHUTDOWN
    Path(world.path("a.mp4")).rename(world.path("away"))
    tried: list[str] = []
    async with world.daemon() as daemon:

        async def strike(called: str, at: Moment) -> None:
            await trio.lowlevel.checkpoint()
            if not tried and (called, at) == ("rename", Moment.AFTER):
                tried.append(called)
                daemon.supervisor.resume_without_task(StreamSummary(parked.meta, parked.stream_set))
                await trio.sleep(0.5)  # long enough for its task to take the lease

        world.store.fault = strike
        Path(world.path("away")).rename(world.path("b.mp4"))
        daemon.moved("a.mp4", "b.mp4")
        await trio.sleep(3)
        world.append(2 * PART, "b.mp4")
        daemon.closed("b.mp4")
        await completed(world)
    assert tried == ["rename"]
    assert [entry for entry in logged if entry["event"] == "lease_lost"] == []
    assert world.recordings() == [world.content("b.mp4")]


async def test_a_stream_that_begins_while_leases_are_renewed_does_not_count_as_lost(
    world: World, logged: list[EventDict]
) -> None:
    """It has an id before it has a lease; the result of an earlier renewal does not apply to it."""
    world.append(PART + 10)
    async with world.daemon() as daemon, trio.open_nursery() as nursery:
        asked: list[str] = []

        async def strike(called: str, at: Moment) -> None:
            await trio.lowlevel.checkpoint()
            if not asked and (called, at) == ("create", Moment.BEFORE):
                asked.append(called)
                nursery.start_soon(daemon.supervisor._renew_now)
                await trio.sleep(0.1)
            elif (called, at) == ("renew", Moment.AFTER):
                await trio.sleep(0.5)

        world.store.fault = strike
        daemon.seen()
        await trio.sleep(3)
        assert asked == ["create"]
        (live,) = daemon.supervisor.live
        assert not live.processor.lease_lost
    assert [entry for entry in logged if entry["event"] == "lease_lost"] == []


async def test_p1_p2_a_recording_is_followed_to_its_new_name_by_a_scan_alone_though_another_file_has_the_old_one(
    world: World, logged: list[EventDict]
) -> None:
    """A rotation without events: ``cam.mp4`` becomes ``cam-1.mp4``, and the next file is ``cam.mp4``."""
    world.append(3 * PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(2)
        first = world.content()
        Path(world.path("a.mp4")).rename(world.path("b.mp4"))
        world.append(2 * PART + 5)
        daemon.supervisor.handle_event(world.scan())
        await trio.sleep(2)
        daemon.closed("a.mp4")
        daemon.closed("b.mp4")
        await trio.sleep(10)
        second = world.content()
    assert statuses(world) == [Status.COMPLETED] * 2
    assert sorted(world.recordings()) == sorted([first, second])
    assert world.received_bytes() == len(first) + len(second)
    assert [entry["event"] for entry in logged].count("stream_failed") == 0


async def test_p1_a_recording_that_took_the_name_of_another_one_is_followed_by_a_scan_alone(world: World) -> None:
    world.append(3 * PART + 10, "a.mp4")
    world.append(2 * PART, "b.mp4")
    async with world.daemon() as daemon:
        daemon.seen("a.mp4")
        daemon.seen("b.mp4")
        await trio.sleep(2)
        content = world.content("a.mp4")
        Path(world.path("a.mp4")).rename(world.path("b.mp4"))
        daemon.supervisor.handle_event(world.scan())
        await trio.sleep(2)
        daemon.closed("b.mp4")
        await trio.sleep(10)
    assert world.recordings() == [content]
    assert Status.COMPLETED in statuses(world)


async def test_p2_a_completed_recording_with_the_inode_number_of_a_missing_one_is_not_uploaded_again(
    world: World,
) -> None:
    """Seed 6429: a scan gave the stream of the missing file to the path of a settled one."""
    world.append(PART // 2, "a.mp4")
    async with world.daemon() as daemon:
        daemon.seen("a.mp4")
        await trio.sleep(1)
        Path(world.path("b.mp4")).hardlink_to(world.path("a.mp4"))
        daemon.closed("b.mp4")
        await trio.sleep(10)
        assert sorted(statuses(world)) == [Status.ACTIVE, Status.COMPLETED]
        Path(world.path("a.mp4")).unlink()
        daemon.supervisor.handle_event(world.scan())
        await trio.sleep(120)
    assert world.recordings() == [world.content("b.mp4")]
    assert sorted(statuses(world)) == [Status.ABORTED_NO_PARTS, Status.COMPLETED]


async def test_p2_p6_a_recording_of_a_dead_daemon_that_is_renamed_before_its_lease_ends_is_resumed_by_another(
    world: World,
) -> None:
    """Seed 91487: the other daemon began a new stream under the new name, and the old stream failed."""
    world.append(3 * PART)
    async with world.killed_daemon():
        await trio.sleep(1)
    async with world.services(instance="other") as services, trio.open_nursery() as nursery:
        daemon = WorldDaemon(world, services)
        await nursery.start(daemon.run)
        await trio.sleep(2)
        world.append(PART, "c.mp4")  # its search for renamed files comes before the rename
        daemon.closed("c.mp4")
        await trio.sleep(1)
        rename(world, daemon)
        world.append(PART, "b.mp4")
        daemon.closed("b.mp4")
        await completed(world, seconds=services.lease.ttl_seconds + 60)
        daemon.shutdown.request()
    assert len(statuses(world)) == 2
    assert sorted(world.recordings()) == sorted([world.content("b.mp4"), world.content("c.mp4")])
    assert world.received_bytes() == 5 * PART


async def test_p3_a_draining_daemon_decides_nothing_about_a_recording_whose_rename_event_is_missing(
    world: World,
) -> None:
    """The next start finds it; treating it as deleted now would abort the upload of an existing file."""
    world.append(2 * PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(1)
        Path(world.path("a.mp4")).rename(world.path("b.mp4"))
        daemon.gone("a.mp4")
        await trio.sleep(0.1)  # it waits for news of the name, and for a scan
    assert statuses(world) == [Status.INTERRUPTED_SHUTDOWN]
    assert len(world.open_uploads()) == 1
    async with world.daemon() as daemon:
        await trio.sleep(1)
        daemon.closed("b.mp4")
        await completed(world)
    assert world.recordings() == [world.content("b.mp4")]
    assert world.received_bytes() == 2 * PART + 10


async def test_p2_a_stream_whose_name_another_one_has_is_found_under_its_new_name(world: World) -> None:
    """``a.mp4`` is renamed, ``x.mp4`` takes its name, and the first event of the new name is a write."""
    world.append(2 * PART)
    world.append(PART, "x.mp4")
    async with world.daemon() as daemon:
        await trio.sleep(5)
        Path(world.path("a.mp4")).rename(world.path("c.mp4"))
        Path(world.path("x.mp4")).rename(world.path("a.mp4"))
        daemon.moved("x.mp4", "a.mp4")
        daemon.supervisor._lost_records.moved_files.request()
        daemon.seen("c.mp4")
        await trio.sleep(5)
        for name in ("a.mp4", "c.mp4"):
            world.append(10, name)
            daemon.closed(name)
        await completed(world)
    assert sorted(checkpoint.meta.current_path for checkpoint in world.known()) == [
        world.path("a.mp4"),
        world.path("c.mp4"),
    ]
    assert sorted(world.recordings()) == sorted([world.content("a.mp4"), world.content("c.mp4")])
    assert world.received_bytes() == 3 * PART + 20


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_p2_a_recording_renamed_while_its_lookup_is_pending_stays_with_its_stream(
    world: World, moment: Moment
) -> None:
    """No event reports the rename, only a scan: the inotify watches have run out, or the mount is a network's."""
    world.append(PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
    renamed: list[str] = []
    async with world.daemon() as daemon:

        async def strike(called: str, at: Moment) -> None:
            await trio.lowlevel.checkpoint()
            if not renamed and (called, at) == ("find_by_path", moment):
                renamed.append(called)
                Path(world.path("a.mp4")).rename(world.path("b.mp4"))
                daemon.supervisor.handle_event(world.scan())

        world.store.fault = strike
        daemon.seen()
        await trio.sleep(3)
        daemon.closed("b.mp4")
        await completed(world)
        await trio.sleep(60)
    assert renamed
    assert_completed_as_b(world)
    assert world.received_bytes() == PART + 10


def out_of_the_folder_and_back(world: World, daemon: WorldDaemon) -> None:
    outside = Path(world.path()).parents[1] / "outside.mp4"
    Path(world.path("a.mp4")).rename(outside)
    daemon.gone("a.mp4")
    outside.rename(world.path("b.mp4"))
    daemon.seen("b.mp4")


def through_a_name_that_is_no_recordings(world: World, daemon: WorldDaemon) -> None:
    Path(world.path("a.mp4")).rename(world.path("a.tmp"))
    daemon.moved("a.mp4", "a.tmp")
    Path(world.path("a.tmp")).rename(world.path("b.mp4"))
    daemon.moved("a.tmp", "b.mp4")


def by_a_link(world: World, daemon: WorldDaemon) -> None:
    Path(world.path("b.mp4")).hardlink_to(world.path("a.mp4"))
    daemon.seen("b.mp4")
    Path(world.path("a.mp4")).unlink()
    daemon.gone("a.mp4")


def after_a_rename_that_was_missed(world: World, daemon: WorldDaemon) -> None:
    """As in a folder that was renamed at once after a recording in it."""
    Path(world.path("a.mp4")).rename(world.path("b.mp4"))
    daemon.gone("a.mp4")
    daemon.moved("c.mp4", "b.mp4")


RENAMES = [
    out_of_the_folder_and_back,
    through_a_name_that_is_no_recordings,
    by_a_link,
    after_a_rename_that_was_missed,
]


@pytest.mark.parametrize("rename_unseen", RENAMES)
async def test_p2_a_growing_recording_whose_rename_no_event_shows_goes_on(
    world: World, rename_unseen: Callable[[World, WorldDaemon], None]
) -> None:
    """It was begun again under its new name before a scan found it, and its stream ended as deleted."""
    world.append(3 * PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(2)
        rename_unseen(world, daemon)
        world.append(PART, "b.mp4")
        daemon.closed("b.mp4")
        await trio.sleep(10)
    assert statuses(world) == [Status.COMPLETED]
    assert world.recordings() == [world.content("b.mp4")]
    assert world.received_bytes() == 4 * PART + 10


@pytest.mark.parametrize("rename_unseen", RENAMES)
async def test_p2_a_completed_recording_whose_rename_no_event_shows_is_uploaded_once(
    world: World, rename_unseen: Callable[[World, WorldDaemon], None]
) -> None:
    """Redis was searched for it only if it was older than the daemon, and not in ten minutes after another search."""
    world.append(PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        world.append(2 * PART + 10)
        daemon.closed()
        await completed(world)
        await trio.sleep(5)
        rename_unseen(world, daemon)
        await trio.sleep(10)
    assert_completed_as_b(world)
    assert world.received_bytes() == 3 * PART + 10


async def test_p2_a_recording_that_was_completed_under_a_name_that_is_no_recordings_is_uploaded_once(
    world: World,
) -> None:
    world.append(2 * PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(1)
        Path(world.path("a.mp4")).rename(world.path("a.tmp"))
        daemon.moved("a.mp4", "a.tmp")
        daemon.closed("a.tmp")
        await completed(world)
        await trio.sleep(5)
        Path(world.path("a.tmp")).rename(world.path("b.mp4"))
        daemon.moved("a.tmp", "b.mp4")
        await trio.sleep(10)
    assert statuses(world) == [Status.COMPLETED]
    assert world.received_bytes() == 2 * PART + 10
