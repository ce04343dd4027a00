"""P9: the owner of a stream, by its machine and folder; streams of other owners are left alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from servers.stream_records import a_part, a_stream, stream_id, two_parts
from waiting import completed

from cef_trio.checkpoint.model import FileIdentity, Lease, Owner
from cef_trio.checkpoint.states import Status
from cef_trio.cli.checks import Severity, StreamFacts, judge_streams
from cef_trio.files.file_system import FolderMount, Origin, file_system_named
from cef_trio.lab.disk import CrashableDisk
from cef_trio.lab.world import PART, World
from cef_trio.observability.daemon_report import DaemonReport
from cef_trio.observability.fleet import Fleet, FleetProblem, judge_fleet
from cef_trio.upload import ownership
from cef_trio.upload.ownership import Ownership
from cef_trio.upload.ownership_rules import Claim, claim, compare_owners, owner_at
from cef_trio.upload.reporter import OtherDaemons
from cef_trio.upload.services import Services

PATH = "/rec/a.mp4"
DISK, OTHER_DISK = "uuid:aa", "uuid:bb"
SHARE, OTHER_NAME, NAMELESS_SHARE = "net:nfs nas:/rec", "net:nfs 10.0.0.1:/rec", "net:fuse bindfs"
HERE, THERE = "/rec /", "/rec /srv/cam-2"
OURS = Owner("a", DISK, HERE)
THEIRS = Owner("b", OTHER_DISK, HERE)
SOMEBODY = Lease("another-host", "1", 30.0)


@pytest.mark.parametrize(
    ("recorded", "ours", "expected"),
    [
        (Owner("a", DISK, HERE), OURS, Claim.OURS),
        (Owner("a", None, HERE), OURS, Claim.OURS),
        (Owner("a", "dev:/dev/sda1", HERE), Owner("a", "dev:/dev/sda1", HERE), Claim.OURS),
        (Owner(None, DISK, HERE), OURS, Claim.OURS),  # a container without a machine-id
        (Owner("a", DISK, "/rec /old"), Owner("a", DISK, "/ /old"), Claim.PERHAPS),
        (Owner("a", DISK, "/rec /srv"), Owner("a", DISK, "/ /srv/../"), Claim.PERHAPS),
        (Owner("a", DISK, "/ /"), Owner("a", DISK, "/rec /rec"), Claim.OURS),  # the same folder, as a container has it
        (Owner("a", OTHER_DISK, HERE), OURS, Claim.PERHAPS),  # a new disk, or another container's
        (Owner("a", DISK, THERE), OURS, Claim.PERHAPS),
        (Owner("a", "dev:/dev/sdb1", HERE), Owner("a", "dev:/dev/sda1", HERE), Claim.PERHAPS),
        (Owner("b", DISK, HERE), OURS, Claim.PERHAPS),  # a disk that moved, or was cloned
        (Owner(None, DISK, THERE), Owner(None, DISK, HERE), Claim.PERHAPS),
        (THEIRS, OURS, Claim.OTHER_OWNER),
        (Owner("b", None, HERE), OURS, Claim.OTHER_OWNER),
        (Owner("b", "dev:/dev/sda1", HERE), Owner("a", "dev:/dev/sda1", HERE), Claim.OTHER_OWNER),
        (Owner(None, OTHER_DISK, HERE), Owner(None, DISK, HERE), Claim.OTHER_OWNER),
        (Owner("b", SHARE, HERE), Owner("a", SHARE, HERE), Claim.OURS),  # they share the work by leases
        (Owner("b", OTHER_NAME, HERE), Owner("a", SHARE, HERE), Claim.PERHAPS),  # a server has several names
        (Owner("b", NAMELESS_SHARE, HERE), Owner("a", NAMELESS_SHARE, HERE), Claim.PERHAPS),
        (Owner("a", NAMELESS_SHARE, HERE), Owner("a", NAMELESS_SHARE, HERE), Claim.OURS),
        (Owner("b", SHARE, HERE), OURS, Claim.OTHER_OWNER),
        (Owner(), Owner(), Claim.OURS),  # nothing is known of either
    ],
)
def test_p9_machine_file_system_and_folder_together_identify_the_owner_of_a_stream(
    recorded: Owner, ours: Owner, expected: Claim
) -> None:
    assert compare_owners(recorded, ours, PATH) is expected
    assert compare_owners(ours, recorded, PATH) is expected


def test_p9_an_owner_that_is_not_proved_to_be_us_never_has_our_name() -> None:
    """The owner's name separates streams of one path in Redis; hosts with one name would take each other's streams."""
    machines, systems, mounts = ("a", "b", None), (DISK, OTHER_DISK, SHARE, "dev:x", None), (HERE, THERE, None)
    owners = [Owner(*evidence) for evidence in itertools.product(machines, systems, mounts)]
    for one, other in itertools.combinations(owners, 2):
        if one.name == other.name:
            assert compare_owners(one, other, PATH) is Claim.OURS
    assert Owner().name == ""
    assert Owner("a", SHARE, HERE).name == Owner("b", SHARE, HERE).name


def test_p9_a_record_of_an_earlier_version_is_ours_unless_its_file_was_on_another_file_system() -> None:
    old = a_stream(identity=FileIdentity(1, 2))
    assert claim(old, OURS) is Claim.OURS
    assert claim(replace(old, identity=FileIdentity(1, 2, fs_id=DISK)), OURS) is Claim.OURS
    assert (
        claim(replace(old, identity=FileIdentity(1, 2, fs_id="fsid:aa")), OURS) is Claim.OURS
    )  # reported by another kernel
    assert claim(replace(old, identity=FileIdentity(1, 2, fs_id=OTHER_DISK)), OURS) is Claim.PERHAPS


def test_p9_an_owner_is_the_machine_and_where_the_watch_folder_is() -> None:
    assert owner_at(FolderMount(1, DISK, HERE, "ext4", True, "/dev/sda1"), "a") == OURS
    assert owner_at(FolderMount(1, None, HERE, "xfs", True, "/dev/sda1"), None) == Owner(None, "dev:/dev/sda1", HERE)
    assert owner_at(FolderMount(1, None, HERE, "nfs", False, "nas:/rec"), "a") == Owner("a", SHARE, HERE)
    assert owner_at(None, "a") == Owner("a")


# -- a daemon ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The owner that the next daemon determines."""
    found = SimpleNamespace(owner=OURS)
    monkeypatch.setattr(ownership, "owner_at", lambda *_: found.owner)
    return found


def record(world: World, number: int = 1) -> Any:
    return next(one for one in world.known() if one.meta.stream_id == stream_id(number))


async def has_theirs(world: World, status: Status, name: str = "a.mp4") -> Any:
    """A record of another host, for a file with the name, size and inode number of a file here."""
    stat = Path(world.path(name)).stat()
    theirs = a_stream(
        1,
        world.path(name),
        identity=FileIdentity(stat.st_dev, stat.st_ino),
        owner=THEIRS,
        status=status,
        verified_size_bytes=stat.st_size,
        verified_mtime_ns=stat.st_mtime_ns,
        last_activity_at_utc=world.utc_now() - timedelta(days=90),
        completed_at_utc=world.utc_now() - timedelta(days=90),
    )
    await world.store.create(theirs, SOMEBODY, [a_part(1, PART)])
    await world.store.release([stream_id(1)], SOMEBODY)
    return record(world)


@pytest.mark.parametrize(
    "status",
    [
        Status.ACTIVE,
        Status.PENDING_COMPLETION,
        Status.S3_COMPLETED,
        Status.INTERRUPTED_SHUTDOWN,
        Status.COMPLETED,
        Status.DELETED_LOCALLY,
        Status.FAILED_FILE_UNREADABLE,
    ],
)
async def test_p9_a_stream_of_another_host_is_left_alone_whatever_its_status_and_a_file_of_its_path_is_uploaded_once(
    world: World, place: SimpleNamespace, status: Status
) -> None:
    """Run everything that reads other streams: idle checker, renamed files, orphan cleanup, retention."""
    world.append(2 * PART + 10)
    before = await has_theirs(world, status)
    for _ in range(2):
        async with world.daemon() as daemon:
            daemon.closed()
            await trio.sleep(700)
            await daemon.services.store.check_writable()
        assert record(world) == before
        assert world.recordings() == [world.content()]
        assert len(world.known()) == 2
    assert (await world.store.find_by_path([world.path()]))[world.path()].meta.owner == THEIRS
    assert (await world.store.find_by_path([world.path()], owner=lambda _: OURS.name))[world.path()].meta.owner == OURS


async def test_p9_a_rename_here_renames_no_stream_of_another_host_and_takes_its_path_from_none(
    world: World, place: SimpleNamespace
) -> None:
    world.append(PART)
    before = await has_theirs(world, Status.COMPLETED)
    async with world.daemon() as daemon:
        Path(world.path()).rename(world.path("b.mp4"))
        daemon.moved("a.mp4", "b.mp4")
        await trio.sleep(5)
        assert record(world) == before
        Path(world.path("b.mp4")).rename(world.path())  # and now one of ours gets the path that theirs has
        daemon.moved("b.mp4", "a.mp4")
        await trio.sleep(5)
        daemon.closed()
        await trio.sleep(30)
    assert record(world) == before
    assert world.recordings() == [world.content()]
    assert (await world.store.find_by_path([world.path()]))[world.path()].meta.owner == THEIRS


@pytest.mark.parametrize("moved", [{"machine": "b"}, {"mount": "/ /srv/another"}, {"file_system": OTHER_DISK}], ids=str)
async def test_p9_a_disk_that_moved_or_was_copied_goes_on_with_its_streams_since_their_bytes_prove_them(
    world: World, place: SimpleNamespace, moved: dict[str, str]
) -> None:
    place.owner = Owner("a", DISK, "/ /")
    world.append(PART, "done.mp4")
    async with world.daemon() as daemon:
        daemon.closed("done.mp4")
        world.append(2 * PART + 10)
        daemon.seen()
        await trio.sleep(5)
    place.owner = replace(place.owner, **moved)
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.seen("done.mp4")
        daemon.closed()
        await completed(world)
        await trio.sleep(30)
    assert world.received_bytes() == 4 * PART + 10  # nothing twice
    assert len(world.known()) == 2
    assert {one.meta.owner for one in world.known()} == {place.owner}


async def test_p9_a_replaced_file_ends_no_stream_that_is_not_certainly_ours(
    world: World, place: SimpleNamespace
) -> None:
    """A cloned disk whose original is on another machine, with its daemon stopped."""
    world.append(2 * PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(5)
    (before,) = world.known()
    place.owner = replace(OURS, machine="b")
    Path(world.path()).unlink()
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await trio.sleep(100)
    assert before in world.known()
    assert world.recordings() == [world.content()]


async def test_p9_daemons_of_one_share_still_take_over_from_each_other(world: World, place: SimpleNamespace) -> None:
    place.owner = Owner("a", SHARE, HERE)
    world.append(2 * PART + 10)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(5)
    place.owner = Owner("b", SHARE, HERE)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert len(world.known()) == 1
    assert world.received_bytes() == 2 * PART + 10


async def test_p9_what_a_host_has_beside_a_shared_folder_is_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``WATCH_DIR=/mnt/nas:/srv/recordings`` on two hosts with one owner: the first is shared, the second is not."""
    disk = SimpleNamespace(id=DISK)

    async def mount_around(_: object, path: str, *, within: str = "") -> FolderMount:
        await trio.lowlevel.checkpoint()
        if path.startswith(world.path("x/")):
            return FolderMount(1, None, f"{world.path('x')} /", "nfs", False, "nas:/rec")
        return FolderMount(2, disk.id, "/ /", "ext4", True, "/dev/sda1")

    monkeypatch.setattr(CrashableDisk, "mount_around", mount_around)
    world.watched_below = ("x", "y")
    for name in world.watched_below:
        Path(world.path(name)).mkdir()
        world.append(2 * PART + 10, f"{name}/a.mp4")
    async with world.daemon() as daemon:
        daemon.seen("x/a.mp4")
        daemon.seen("y/a.mp4")
        await trio.sleep(5)
    shared, theirs = sorted(world.known(), key=lambda one: str(one.meta.current_path))
    assert [one.meta.owner is not None and one.meta.owner.is_shared for one in (shared, theirs)] == [True, False]
    assert len(theirs.parts) == 2
    world.host, disk.id = replace(world.host, machine="another-machine"), OTHER_DISK
    Path(world.path("y/a.mp4")).unlink()
    world.append(PART, "y/a.mp4")
    async with world.daemon() as daemon:
        daemon.closed("x/a.mp4")
        daemon.closed("y/a.mp4")
        await trio.sleep(100)
    assert theirs in world.known()
    assert len(world.known()) == 3
    assert sorted(world.recordings()) == sorted([world.content("x/a.mp4"), world.content("y/a.mp4")])
    assert world.received_bytes() == 5 * PART + 10, "the shared one was taken over, not sent again"


async def test_p2_files_of_a_shared_folder_that_is_mounted_after_the_start_are_known_as_those_of_its_other_hosts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted as like the first folder until the next round of the idle checker: all in it was uploaded again."""
    disk, nas = SimpleNamespace(id=DISK), Path(world.path("y"))

    async def mount_around(_: object, path: str, *, within: str = "") -> FolderMount | None:
        await trio.lowlevel.checkpoint()
        if path.startswith(world.path("y/")):
            return FolderMount(nas.stat().st_dev, None, f"{nas} /", "nfs", False, "nas:/rec") if nas.exists() else None
        return FolderMount(0, disk.id, "/ /", "ext4", True, "/dev/sda1")

    monkeypatch.setattr(CrashableDisk, "mount_around", mount_around)
    world.watched_below = ("x", "y")
    for name in world.watched_below:
        Path(world.path(name)).mkdir()
    world.append(PART, "y/a.mp4")
    async with world.daemon() as daemon:
        daemon.closed("y/a.mp4")
        await completed(world)
    world.host, disk.id = replace(world.host, machine="another-machine"), OTHER_DISK
    away = nas.rename(world.folder.with_name("away"))
    async with world.daemon() as daemon:
        await trio.sleep(11)
        away.rename(nas)
        daemon.seen("y/a.mp4")
        await trio.sleep(60)
    assert len(world.known()) == 1
    assert world.received_bytes() == PART


async def test_p3_streams_of_the_other_kind_of_folder_are_ours_as_an_earlier_version_recorded_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first folder's location: without parts nothing else could prove them."""

    async def mount_around(_: object, path: str, *, within: str = "") -> FolderMount:
        await trio.lowlevel.checkpoint()
        if path.startswith(world.path("y/")):
            return FolderMount(1, None, f"{world.path('y')} /", "nfs", False, "nas:/rec")
        return FolderMount(2, DISK, "/ /", "ext4", True, "/dev/sda1")

    monkeypatch.setattr(CrashableDisk, "mount_around", mount_around)
    monkeypatch.setattr("cef_trio.lab.disk.origin_of", lambda _: Origin(system=file_system_named("nfs")))
    world.watched_below = ("x", "y")
    for name in world.watched_below:
        Path(world.path(name)).mkdir()
    world.append(10, "y/a.mp4")
    with pytest.MonkeyPatch.context() as earlier:
        earlier.setattr(Ownership, "_update_other", lambda *_: None)
        async with world.daemon() as daemon:
            daemon.seen("y/a.mp4")
            await trio.sleep(5)
    [before] = world.known()
    assert before.parts == {}
    assert before.meta.owner == Owner(world.host.machine, DISK, "/ /")
    async with world.daemon() as daemon:
        daemon.closed("y/a.mp4")
        await completed(world)
    [after] = world.known()
    assert after.meta.stream_id == before.meta.stream_id
    assert after.meta.owner is not None
    assert after.meta.owner.is_shared


async def test_p9_no_webhook_of_another_host_is_delivered_or_given_up(world: World, place: SimpleNamespace) -> None:
    world.append(PART)
    before = await has_theirs(world, Status.COMPLETED)
    world.store._pending_webhooks.add(stream_id(1))
    world.webhook = True
    async with world.daemon() as daemon:
        daemon.closed()
        await trio.sleep(100)
    assert world.pending_webhooks == {stream_id(1)}
    assert record(world) == before
    assert len(world.receiver.acknowledged) == 1


# -- one identity twice ------------------------------------------------------------------------------------------------


def others(owner: Owner = OURS, *, token: str = "m-token", system: str = "0123456789ab") -> OtherDaemons:
    mine = Ownership(owner.machine)
    mine.owner = owner
    lease = Lease("cam", token, 30.0, system)
    return OtherDaemons(
        cast("Services", SimpleNamespace(ownership=mine, lease=lease, owner_name="o", twins=set())), "/rec"
    )


def a_report(at: float, **more: Any) -> DaemonReport:
    values = {"instance": "cam@x", "name": "cam", "host": "h2", "system": "ba9876543210", "process": "z-token"}
    return DaemonReport(**{"at": at, "folder": "/rec", "place": THEIRS.name, **values, **more})


def a_fleet(*reports: DaemonReport, now: float = 110.0) -> Fleet:
    return Fleet(reports, now)


def test_p9_a_second_running_daemon_of_one_name_is_reported_by_doctor_by_what_it_means_and_a_single_one_is_not() -> (
    None
):
    ours = DaemonReport(instance="cam@y", name="cam", at=100.0, folder="/rec", host="h1", process="m-token")
    theirs = a_report(100.0)
    same_machine = replace(ours, system=theirs.system, host="h1")
    for mine, severity in ((ours, Severity.WARNING), (same_machine, Severity.PROBLEM)):
        fleet = a_fleet(mine, theirs if severity is Severity.WARNING else replace(theirs, place=""))
        facts = StreamFacts(daemons={}, without_task=0, failed=0, fleet=fleet)
        [found] = [one for one in judge_streams(facts) if one.severity is not Severity.OK]
        assert found.severity is severity
        assert "2 daemons have the INSTANCE_ID 'cam': /rec on h1 and /rec on h2" in found.says
    for gone in (replace(theirs, stopped=True), replace(theirs, name="other")):
        assert judge_fleet(a_fleet(ours, gone)) == []


def test_p9_cloned_machines_are_reported_and_no_stream_is_certainly_theirs_any_more() -> None:
    looked = others()
    mine = looked._services.ownership
    cloned = {"place": OURS.name, "name": "other", "instance": f"o/other@{OURS.name}"}
    looked.update(a_fleet(a_report(100.0, **cloned)))
    assert mine.is_ours(a_stream(owner=OURS))  # it may be the last word of our own last boot
    looked.update(a_fleet(a_report(115.0, **cloned), now=125.0))
    assert mine.claim(a_stream(owner=OURS)) is Claim.PERHAPS
    both = [
        DaemonReport(instance=name, at=1.0, folder="/rec", host=name, system=name, process=name, owner="o")
        for name in ("h1", "h2")
    ]
    [finding] = judge_fleet(a_fleet(*both, now=2.0))
    assert finding.problem is FleetProblem.SAME_OWNER
    assert "2 machines have the owner" in finding.says
    assert judge_fleet(a_fleet(both[0], replace(both[1], system="h1"), now=2.0)) == []  # one after the other


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("tokens", [("a", "z"), ("z", "a")])
def test_p9_two_machines_with_one_identity_are_both_named_and_both_know_of_each_other(
    *, shared: bool, tokens: tuple[str, str]
) -> None:
    """Copies of a machine have one OWNER_NAME, INSTANCE_ID and place, so at first one report overwrites the other."""
    place = replace(OURS, file_system="net:nas:/rec") if shared else OURS
    for seed in range(50):
        random = Random(seed)
        registry: dict[str, DaemonReport] = {}
        due = [(random.uniform(0, 15), number) for number in range(2)]
        machines = [others(place, token=token, system=f"boot-{token}") for token in tokens]
        while min(due)[0] < 120:
            due.sort()
            (now, number), *due = due
            looked, before = machines[number], tuple(registry.values())
            name, token = looked.reported_as, tokens[number]
            about = {"instance": name, "host": token, "system": f"boot-{token}", "process": token, "owner": "o"}
            registry[name] = a_report(
                now, **about, received_at=now, place=looked.place, share="nfs nas:/rec /" if shared else ""
            )
            for unused in looked.update(a_fleet(*before, now=now)):
                assert registry.pop(unused).process == token, "the other's report was removed"
            due.append((now + random.uniform(13.5, 16.5), number))
        fleet = a_fleet(*registry.values(), now=120.0)
        problems = {one.problem for one in judge_fleet(fleet) if one.is_urgent}
        assert problems == {FleetProblem.SAME_INSTANCE if shared else FleetProblem.SAME_OWNER}
        assert {one.process for one in fleet.living} == set(tokens)
        assert len(registry) == 2
        facts = StreamFacts(daemons={}, without_task=0, failed=0, fleet=fleet)
        named = [one.says for one in judge_streams(facts) if one.severity is Severity.PROBLEM]
        assert any("/rec on a" in says and "/rec on z" in says for says in named)
        if not shared:
            claims = [one._services.ownership.claim(a_stream(owner=OURS)) for one in machines]
            assert claims == [Claim.PERHAPS] * 2, "one of them would take what the other began for its own"


def test_p6_of_a_running_daemon_of_our_name_and_system_no_lease_is_taken_and_of_a_dead_one_it_is() -> None:
    """A lease names instance and system, so a twin's looks like one of our earlier process."""
    looked = others()
    twins, system = looked._services.twins, "0123456789ab"
    looked.update(a_fleet(a_report(100.0, system=system)))
    assert not twins, "it may be the last word of our own earlier process"
    looked.update(a_fleet(a_report(115.0, system=system), now=120.0))
    assert twins == {"z-token"}
    looked.update(a_fleet(a_report(115.0, system=system), now=135.0))
    assert twins == {"z-token"}, "its next report is late"
    looked.update(a_fleet(a_report(115.0, system=system), now=500.0))
    assert not twins
    for more in ({"system": "ba9876543210"}, {"system": system, "name": "other"}):
        for at in (100.0, 115.0):
            looked.update(a_fleet(a_report(at, **more), now=at + 5))
        assert not twins, "its leases do not look like ours"


async def test_p6_a_stream_of_a_twin_is_left_to_it(world: World) -> None:
    stream = await two_parts(world)
    async with world.daemon() as daemon:
        services = daemon.services
        twin = replace(services.lease, token="twin")
        assert services.may_take(twin.value)
        services.twins.add("twin")
        assert not services.may_take(twin.value)
        assert services.may_take(None)
        await trio.sleep(5)
        assert stream in daemon.supervisor.live_ids


def test_p9_reports_of_one_name_stand_beside_each_other_and_those_of_earlier_lives_are_forgotten() -> None:
    looked = others()
    assert looked.reported_as == f"o/cam@{OURS.name}"
    assert looked.update(a_fleet(a_report(100.0))) == frozenset()
    assert (
        looked.update(a_fleet(a_report(100.0), now=500.0)) == frozenset()
    )  # another system's that is silent is reported
    older = {"instance": "cam", "name": "", "process": ""}
    assert looked.update(a_fleet(a_report(100.0, **older))) == {"cam"}
    before = {"instance": "cam@before", "system": "0123456789ab"}
    assert looked.update(a_fleet(a_report(100.0, **before))) == frozenset()
    assert looked.update(a_fleet(a_report(100.0, **before), now=500.0)) == {"cam@before"}
