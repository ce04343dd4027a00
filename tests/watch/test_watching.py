"""The watcher on a real folder with real inotify: changes are reported, and a scan reports what is there."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest
import trio
from inotify_simple import Event, INotify, flags
from servers.mounts import mounted
from structlog.testing import capture_logs
from trio_util import AsyncValue
from waiting import WAIT_SECONDS, until
from watch.listener import MATCHES, Listener, of, watching

from cef_trio.files import mounts, nofollow
from cef_trio.files.file_stat import FileStat
from cef_trio.watch import scan
from cef_trio.watch import watcher as watcher_module
from cef_trio.watch.events import Closed, FileEvent, Gone, Moved, Scanned, Seen
from cef_trio.watch.inotify import Change, ChangeKind, FolderWatches, final_paths, translate
from cef_trio.watch.patterns import WatchScope
from cef_trio.watch.scan import Scan, ThreadedReader
from cef_trio.watch.watcher import Watcher


async def logged(logs: Sequence[Mapping[str, object]], event: str) -> None:
    await until(lambda: any(entry["event"] == event for entry in logs))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "watch"
    found.mkdir()
    return found


async def test_started_means_that_every_existing_file_was_reported(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"12345")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "B.MP4").write_bytes(b"1")
    (folder / "notes.txt").write_bytes(b"1")
    (folder / "link.mp4").symlink_to(folder / "a.mp4")
    async with watching(folder) as listener:
        (scanned,) = listener.scans
    assert {Path(path).name: stat.size_bytes for path, stat in scanned.files.items()} == {"a.mp4": 5, "B.MP4": 1}


@pytest.mark.parametrize("name", [b"a b.mp4", "ä%&+=録.mp4".encode(), b"new\nline.mp4", b"\xff\xfe.mp4"])
async def test_a_file_of_any_name_is_seen_growing_and_closed(folder: Path, name: bytes) -> None:
    path = folder / os.fsdecode(name)
    async with watching(folder) as listener:
        with path.open("wb") as file:
            file.write(b"123")
            file.flush()
            seen = await listener.wait_for(lambda event: isinstance(event, Seen) and event.stat.size_bytes == 3)
            assert of(path, Seen)(seen)
            file.write(b"45")
        closed = await listener.wait_for(of(path, Closed))
        assert isinstance(closed, Closed)
        assert closed.stat.size_bytes == 5
        path.unlink()
        await listener.wait_for(of(path, Gone))


async def test_a_thousand_writes_are_a_few_events(folder: Path) -> None:
    async with watching(folder) as listener:
        with (folder / "a.mp4").open("wb", buffering=0) as file:
            for _ in range(1000):
                file.write(b"x")
        await listener.wait_for(of(folder / "a.mp4", Closed))
        assert len(listener.events.value) < 20


async def test_renames_moves_in_and_moves_out_are_reported_as_such(folder: Path, tmp_path: Path) -> None:
    a, b, outside = folder / "a.mp4", folder / "b.mp4", tmp_path / "c.mp4"
    a.write_bytes(b"1")
    outside.write_bytes(b"22")
    async with watching(folder) as listener:
        a.rename(b)
        moved = await listener.wait_for(lambda event: isinstance(event, Moved))
        assert isinstance(moved, Moved)
        assert (moved.old_path, moved.new_path) == (str(a), str(b))
        outside.rename(folder / "c.mp4")
        await listener.wait_for(of(folder / "c.mp4", Seen))
        b.rename(tmp_path / "b.mp4")
        await listener.wait_for(of(b, Gone))


async def test_p2_renames_in_a_row_are_each_reported_with_the_file_that_was_renamed(folder: Path) -> None:
    """A swap of two names: a file that was renamed again at once was reported as gone, and as a new one later."""
    a, b, other = folder / "a.mp4", folder / "b.mp4", folder / "other.mp4"
    a.write_bytes(b"1")
    b.write_bytes(b"22")
    inodes = a.stat().st_ino, b.stat().st_ino
    async with watching(folder) as listener:
        a.rename(other)
        b.rename(a)
        other.rename(b)
        await listener.wait_for(lambda event: isinstance(event, Moved) and event.new_path == str(b))
        moves = [
            (event.old_path, event.new_path, event.stat.file_ino)
            for event in listener.events.value
            if isinstance(event, Moved)
        ]
        assert moves == [
            (str(a), str(other), inodes[0]),
            (str(b), str(a), inodes[1]),
            (str(other), str(b), inodes[0]),
        ]
        assert not [event for event in listener.events.value if isinstance(event, Gone)]


async def test_p2_a_rename_is_read_together_with_a_later_one_of_the_same_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event is read alone, as on a busy machine; by then all three renames are done."""
    read = INotify.read
    kept: list[Event] = []

    def one_rename(self: INotify, timeout: float | None = None) -> list[Event]:
        kept.extend(read(self, timeout))
        some, kept[:] = kept[:2], kept[2:]
        return some

    a, b, other = folder / "a.mp4", folder / "b.mp4", folder / "other.mp4"
    a.write_bytes(b"1")
    b.write_bytes(b"22")
    async with watching(folder) as listener:
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(INotify, "read", one_rename)
        a.rename(other)
        b.rename(a)
        other.rename(b)
        await listener.wait_for(lambda event: isinstance(event, Moved) and event.new_path == str(b))
        assert not [event for event in listener.events.value if isinstance(event, Gone)]


class RenamingReader(ThreadedReader):
    """A reader that makes the next rename after each stat."""

    def __init__(self, renames: Sequence[tuple[Path, Path]]) -> None:
        super().__init__(MATCHES)
        self.renames = list(renames)

    async def stats(self, paths: Iterable[str]) -> Mapping[str, FileStat]:
        stats = await super().stats(paths)
        if self.renames:
            old, new = self.renames.pop(0)
            old.rename(new)
        return stats


async def test_p2_a_file_that_is_renamed_again_after_a_look_at_it_is_reported_where_it_was_seen(folder: Path) -> None:
    """It was looked for a second time before the report, and called gone; at its next name it was a new recording."""
    a, b, other = folder / "a.mp4", folder / "b.mp4", folder / "other.mp4"
    a.write_bytes(b"1")
    b.write_bytes(b"22")
    async with watching(folder, reader=RenamingReader([(b, a), (other, b)])) as listener:
        a.rename(other)
        await listener.wait_for(lambda event: isinstance(event, Moved) and event.new_path == str(b))
        moves = [(event.old_path, event.new_path) for event in listener.events.value if isinstance(event, Moved)]
        assert moves == [(str(a), str(other)), (str(b), str(a)), (str(other), str(b))]
        assert not [event for event in listener.events.value if isinstance(event, Gone)]


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        (["a>b"], ["b"]),
        (["a>t", "b>a", "t>b"], ["b", "a", "b"]),
        (["a>b", "b>c", "d>b"], ["c", "c", "b"]),
        (["a>b", "c>b"], [None, "b"]),
        (["a>b", "-b"], [None, "b"]),
        (["a>b", "b>c", "-c", "d>c"], [None, None, "c", "c"]),
        (["a>b", "b>a", "a>b"], ["b", "b", "b"]),
        (["a>b", "b>a"], ["a", "a"]),
        (["x>y", "y>x"], ["y", "x"]),
        (["z>x", "x>y", "y>x"], ["y", "y", "x"]),
    ],
)
def test_a_renamed_file_is_followed_to_its_last_name(changes: list[str], places: list[str | None]) -> None:
    def change(text: str) -> Change:
        old, _, new = text.partition(">")
        return Change(ChangeKind.MOVED, new, old) if new else Change(ChangeKind.GONE, text[1:])

    assert final_paths([change(text) for text in changes], {"b", "x", "y"}) == places


async def test_files_in_new_folders_that_race_their_watch_are_found(folder: Path) -> None:
    async with watching(folder) as listener:
        for number in range(30):
            deep = folder / f"{number}" / "x" / "y"
            deep.mkdir(parents=True)
            (deep / "a.mp4").write_bytes(b"1")
        last = str(folder / "29" / "x" / "y" / "a.mp4")
        await listener.wait_for(lambda event: isinstance(event, Scanned) and len(event.files) == 30)
        listener.forget()
        Path(last).write_bytes(b"22")
        await listener.wait_for(of(Path(last), Closed))


async def test_a_renamed_folder_takes_its_files_along(folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "a.mp4").write_bytes(b"1")
    async with watching(folder) as listener:
        (folder / "old").rename(folder / "new")
        moved = await listener.wait_for(lambda event: isinstance(event, Moved))
        assert isinstance(moved, Moved)
        assert (moved.old_path, moved.new_path) == (str(folder / "old" / "a.mp4"), str(folder / "new" / "a.mp4"))
        (folder / "new" / "a.mp4").write_bytes(b"22")
        await listener.wait_for(of(folder / "new" / "a.mp4", Closed))


async def test_the_rescan_reports_every_change_without_any_event(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network mount: there are no events."""

    def no_inotify(**_kwargs: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(watcher_module, "INotify", no_inotify)
    with capture_logs() as logs:
        async with watching(folder, rescan_seconds=0.05) as listener:
            (folder / "a.mp4").write_bytes(b"1")
            await listener.wait_for(lambda event: isinstance(event, Scanned) and len(event.files) == 1)
            (folder / "a.mp4").unlink()
            listener.forget()
            await listener.wait_for(lambda event: isinstance(event, Scanned) and not event.files)
    (limited,) = [entry for entry in logs if entry["event"] == "watch_limited"]
    assert "max_user_instances" in limited["hint"]


async def test_when_watches_run_out_the_folder_is_polled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = INotify.add_watch

    def limited(self: INotify, path: str, mask: int) -> int:
        if Path(path) != folder:
            raise OSError(errno.ENOSPC, "No space left on device")
        watch: int = real(self, path, mask)
        return watch

    monkeypatch.setattr(INotify, "add_watch", limited)
    (folder / "sub").mkdir()
    with capture_logs() as logs:
        async with watching(folder, rescan_seconds=0.05) as listener:
            (folder / "sub" / "a.mp4").write_bytes(b"1")
            await listener.wait_for(lambda event: isinstance(event, Scanned) and len(event.files) == 1)
    assert any("max_user_watches" in str(entry.get("hint")) for entry in logs)


async def test_when_watches_run_out_while_it_runs_the_folder_is_polled_from_then_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watches were removed while events were awaited: the next event then raised (exit 1)."""

    def limited(_self: INotify, _path: str, _mask: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with capture_logs() as logs:
        async with watching(folder) as listener:
            monkeypatch.setattr(INotify, "add_watch", limited)
            listener.forget()
            (folder / "sub").mkdir()
            await listener.wait_for(lambda event: isinstance(event, Scanned))
            assert any(entry["event"] == "watch_limited" for entry in logs)
            (folder / "a.mp4").write_bytes(b"1")  # its folder is watched still, as far as the kernel knows
            (folder / "sub" / "b.mp4").write_bytes(b"1")
            await listener.wait_for(lambda event: isinstance(event, Scanned) and len(event.files) == 2)
    assert any("max_user_watches" in str(entry.get("hint")) for entry in logs)


async def test_an_overflow_of_the_kernels_queue_is_repaired_by_a_scan(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = INotify.read
    lost: list[object] = []

    def overflowing(self: INotify, **kwargs: int) -> Iterable[object]:
        events = list(real(self, **kwargs))
        if events and not lost:
            lost.extend(events)
            return [type(events[0])(-1, flags.Q_OVERFLOW, 0, "")]
        return events

    monkeypatch.setattr(INotify, "read", overflowing)
    async with watching(folder) as listener:
        listener.forget()
        (folder / "a.mp4").write_bytes(b"1")
        await listener.wait_for(lambda event: isinstance(event, Scanned) and len(event.files) == 1)
    assert lost


class Overflowing:
    """The kernel's queue; while ``is_full`` is set, what is read of it is lost, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        real = INotify.read

        def read(inotify: INotify, **kwargs: int) -> list[Event]:
            events = list(real(inotify, **kwargs))
            if not events or not self.is_full:
                return events
            self.is_full = False
            return [Event(-1, flags.Q_OVERFLOW, 0, "")]

        monkeypatch.setattr(INotify, "read", read)


async def test_p6_a_folder_that_was_made_anew_during_an_overflow_is_watched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its former watch was dead and kept its name: no scan watched the new folder, until a restart."""
    queue, camera, away = Overflowing(monkeypatch), folder / "camera", folder / "away"
    (camera / "day").mkdir(parents=True)
    away.mkdir()
    async with watching(folder) as listener:
        watches = listener.watcher._watches
        assert watches is not None
        queue.is_full = True
        listener.forget()
        (camera / "day").rmdir()
        camera.rmdir()
        away.rmdir()
        (camera / "day").mkdir(parents=True)
        await listener.wait_for(lambda event: isinstance(event, Scanned))
        assert watches.folders == watches.sure == {str(folder), str(camera), str(camera / "day")}
        for name in ("a.mp4", "day/a.mp4"):
            (camera / name).write_bytes(b"1")
            await listener.wait_for(of(camera / name, Closed))


async def test_p6_a_folder_that_was_renamed_during_an_overflow_is_watched_under_its_new_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, old, new = Overflowing(monkeypatch), folder / "old", folder / "new"
    old.mkdir()
    async with watching(folder) as listener:
        queue.is_full = True
        listener.forget()
        old.rename(new)
        old.mkdir()
        await listener.wait_for(lambda event: isinstance(event, Scanned))
        for camera in (old, new):
            (camera / "a.mp4").write_bytes(b"1")
            await listener.wait_for(of(camera / "a.mp4", Closed))


class ScriptedKernel:
    """Watches by number; ``meanwhile`` happens before a call to add one returns."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.meanwhile: Callable[[int], object] = lambda _: None
        self.removed: list[int] = []

    def add_watch(self, path: str, mask: int) -> int:
        del mask
        wd = self.numbers.setdefault(path, len(self.numbers) + 1)
        self.meanwhile(wd)
        return wd

    def rm_watch(self, wd: int) -> None:
        self.removed.append(wd)


def event(wd: int, mask: int) -> Event:
    return Event(wd, mask, 0, "")


@pytest.mark.parametrize("known", [False, True])
def test_p6_a_watch_whose_end_is_read_before_it_is_entered_is_not_entered(known: bool) -> None:
    """The folder was deleted at once: a dead watch kept its name, and a new folder of that name was never watched."""
    kernel = ScriptedKernel()
    watches = FolderWatches(kernel, "/rec")
    if known:
        watches.add("/rec/a")
    kernel.meanwhile = lambda wd: translate([event(wd, flags.IGNORED)], watches)
    watches.add("/rec/a")
    assert watches.folders == frozenset()
    kernel.meanwhile = lambda _: None
    watches.add("/rec/a")
    assert watches.sure == {"/rec/a"}


def test_p6_a_watch_is_in_doubt_after_an_overflow_until_its_folder_is_watched_again() -> None:
    kernel = ScriptedKernel()
    watches = FolderWatches(kernel, "/rec")
    for folder in ("/rec/a", "/rec/b"):
        watches.add(folder)
    translate([event(-1, flags.Q_OVERFLOW)], watches)
    assert watches.sure == frozenset()
    assert watches.folders == {"/rec/a", "/rec/b"}
    watches.add("/rec/a")
    del kernel.numbers["/rec/b"]
    kernel.numbers["/rec/other"], kernel.numbers["/rec/b"] = 8, 9
    watches.add("/rec/b")
    assert watches.sure == {"/rec/a", "/rec/b"}
    assert [watches.folder(wd) for wd in (1, 2, 9)] == ["/rec/a", None, "/rec/b"]
    assert kernel.removed == [2]
    kernel.meanwhile = lambda _: translate([event(-1, flags.Q_OVERFLOW)], watches)
    watches.add("/rec/c")
    assert watches.sure == frozenset(), "events of the new watch may be lost, too"
    assert watches.folders == {"/rec/a", "/rec/b", "/rec/c"}


async def test_p10_a_link_that_leads_to_another_folder_later_is_an_error_until_it_leads_back(
    folder: Path, tmp_path: Path
) -> None:
    """Of a recorder that makes a new folder each day and turns a link to it: its new recordings would be missed."""
    link, other = tmp_path / "today", tmp_path / "other"
    other.mkdir()
    link.symlink_to(folder)
    listener = Listener()
    watcher = Watcher(str(folder), MATCHES, listener, rescan_seconds=0.01, links={str(link): str(folder)})

    def turn_to(target: Path) -> None:
        fresh = tmp_path / "fresh"
        fresh.symlink_to(target)
        fresh.replace(link)  # in one step: a scan in its thread may look at it at any moment

    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run)
            assert watcher.trouble is None
            turn_to(other)
            await until(lambda: watcher.trouble is not None)
            since, why = watcher.trouble or (0.0, "")
            assert why == f"{link} leads to {other} now, and {folder} is still watched: restart cef-trio"
            (folder / "a.mp4").write_bytes(b"1")
            await listener.wait_for(of(folder / "a.mp4", Seen, Closed))
            assert watcher.trouble == (since, why)
            turn_to(folder)
            await until(lambda: watcher.trouble is None)
            nursery.cancel_scope.cancel()
    lost = [entry for entry in logs if entry["event"] == "watch_folder_lost"]
    assert [(entry["folder"], entry["leads_to"]) for entry in lost] == [(str(link), str(other))]


async def test_p6_a_link_whose_own_mount_hangs_does_not_set_the_watched_folder_aside(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the watch folder is on another mount than the folder that it leads to."""
    (link := tmp_path / "names" / "rec").parent.mkdir()
    link.symlink_to(folder)
    goes_on, wait = threading.Event(), os.readlink

    def hanging(path: str) -> str:
        if path.startswith(str(link.parent)):
            goes_on.wait(30)
        return wait(path)

    monkeypatch.setattr(os, "readlink", hanging)  # os.path.realpath calls it too
    table = f"22 1 8:1 / / rw - ext4 a\n41 22 0:35 / {link.parent} rw - nfs b\n42 22 8:2 / {folder} rw - ext4 c"
    own = mounts.Mounts(timeout_seconds=0.2, read_mountinfo=lambda: table)
    watcher = Watcher(
        str(folder),
        MATCHES,
        listener := Listener(),
        rescan_seconds=0.05,
        reader=ThreadedReader(MATCHES, own),
        links={str(link): str(folder)},
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run)
            assert own.hung.value.keys() == {str(link.parent)}
            before = len(listener.scans)
            await until(lambda: len(listener.scans) > before + 3)
            assert own.hung.value.keys() == {str(link.parent)}
            nursery.cancel_scope.cancel()
    finally:
        goes_on.set()


async def test_p10_of_two_links_that_lead_elsewhere_each_is_logged_once(folder: Path, tmp_path: Path) -> None:
    links = {str(tmp_path / name): str(folder) for name in ("one", "two")}
    for link in links:
        Path(link).symlink_to(tmp_path)
    watcher = Watcher(str(folder), MATCHES, listener := Listener(), rescan_seconds=0.01, links=links)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run)
            await until(lambda: len(listener.scans) > 3)
            nursery.cancel_scope.cancel()
    assert sorted(entry["folder"] for entry in logs if entry["event"] == "watch_folder_lost") == sorted(links)


async def test_p2_a_folder_that_is_mounted_at_a_second_name_later_is_read_by_its_first_one_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each recording would have two paths, and could be uploaded twice. The start refuses it, where both are there."""
    second, own = tmp_path / "second", nofollow.stat_nofollow
    # As by a bind mount: the inodes are equal.
    monkeypatch.setattr(scan, "stat_nofollow", lambda path: own(str(folder) if path == str(second) else path))
    (folder / "a.mp4").write_bytes(b"1")
    scope = WatchScope.of([str(second), str(folder)], ["*.mp4"])
    reader = ThreadedReader(scope)
    watcher = Watcher(str(second), scope, listener := Listener(), rescan_seconds=0.01, reader=reader)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run)
            assert [one["same_as"] for one in logs if one["event"] == "folder_unreadable"] == [None]
            (away := tmp_path / "away").mkdir()
            os.link(folder / "a.mp4", away / "a.mp4")
            away.rename(second)
            before = len(listener.scans)
            await until(lambda: len(listener.scans) > before + 3)
            for found in listener.scans:
                assert (set(found.files), found.unreadable) == ({str(folder / "a.mp4")}, frozenset([str(second)]))
            assert [(one["folder"], one["same_as"]) for one in logs if one["event"] == "folder_unreadable"] == [
                (str(second), None),
                (str(second), str(folder)),
            ]
            nursery.cancel_scope.cancel()


async def test_a_folder_that_goes_away_is_an_error_and_never_an_empty_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "a.mp4").write_bytes(b"1")
    with capture_logs() as logs:
        async with watching(folder, rescan_seconds=0.05) as listener:
            folder.rename(tmp_path / "away")
            await logged(logs, "watch_folder_lost")
            listener.forget()
            (tmp_path / "away").rename(folder)
            scanned = await listener.wait_for(lambda event: isinstance(event, Scanned))
            assert isinstance(scanned, Scanned)
            assert list(scanned.files) == [str(folder / "a.mp4")]
            (folder / "b.mp4").write_bytes(b"1")
            await listener.wait_for(of(folder / "b.mp4", Closed))
            assert all(scan.files for scan in listener.scans)


async def test_p10_a_folder_on_which_a_disk_is_mounted_later_is_watched_and_so_is_what_was_below_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch stayed with the covered folder: no event came of the disk, and a recording ended by the time-out."""
    camera, disk = folder / "camera", tmp_path / "disk"
    (camera / "day").mkdir(parents=True)
    (disk / "day").mkdir(parents=True)
    (disk / "mounted.mp4").write_bytes(b"1")
    (camera / "below.mp4").write_bytes(b"1")
    monkeypatch.setattr(mounts, "_TABLE_SECONDS", 0.0)

    def scanned_now_with(name: str) -> Callable[[FileEvent], bool]:
        """A scan that began before the mount changed may see its files, but not yet watch them."""
        now = trio.current_time()
        return lambda event: isinstance(event, Scanned) and event.began_at >= now and str(camera / name) in event.files

    async with watching(folder, rescan_seconds=0.05) as listener:
        with mounted("--bind", disk, camera):
            await listener.wait_for(scanned_now_with("mounted.mp4"))
            assert list(listener.watcher.mount_points) == [str(camera)]
            (camera / "day" / "a.mp4").write_bytes(b"1")
            (camera / "b.mp4").write_bytes(b"1")
            await listener.wait_for(of(camera / "day" / "a.mp4", Closed))
            await listener.wait_for(of(camera / "b.mp4", Closed))
        await listener.wait_for(scanned_now_with("below.mp4"))
        assert list(listener.watcher.mount_points) == []
        (camera / "c.mp4").write_bytes(b"1")
        await listener.wait_for(of(camera / "c.mp4", Closed))


class FailingReader(ThreadedReader):
    """Reads like the real one until it is made to fail."""

    failing = False

    async def scan(self, folder: str) -> Scan:
        if self.failing:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EIO, "Input/output error")
        return await super().scan(folder)

    async def stats(self, paths: Iterable[str]) -> Mapping[str, FileStat]:
        return await super().stats(paths)


async def test_an_unreadable_folder_is_logged_once_and_reported_again_when_readable(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"1")
    reader = FailingReader(MATCHES)
    with capture_logs() as logs:
        async with watching(folder, rescan_seconds=0.05, reader=reader) as listener:
            reader.failing = True
            await logged(logs, "watch_folder_unreadable")
            listener.forget()
            reader.failing = False
            await listener.wait_for(lambda event: isinstance(event, Scanned) and len(event.files) == 1)


class SlowReader(ThreadedReader):
    """Reads like the real one, but only when allowed."""

    def __init__(self) -> None:
        super().__init__(MATCHES)
        self.reading = AsyncValue(0)
        self.let = trio.Event()
        self.let.set()

    async def scan(self, folder: str) -> Scan:
        self.reading.value += 1
        await self.let.wait()
        return await super().scan(folder)


async def test_a_scan_has_its_start_time_and_a_requested_one_begins_later(folder: Path) -> None:
    """Changes during a scan may be missing from it: the next one has them."""
    reader, listener = SlowReader(), Listener()
    watcher = Watcher(str(folder), MATCHES, listener, rescan_seconds=3600, reader=reader)
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run)
        listener.forget()
        before, reader.let = reader.reading.value, trio.Event()
        watcher.rescan()
        await reader.reading.wait_value(lambda times: times > before)
        while_it_runs = trio.current_time()
        watcher.rescan()
        reader.let.set()
        with trio.fail_after(WAIT_SECONDS):
            await listener.events.wait_value(lambda _: len(listener.scans) == 2)
        under_way, asked_for = listener.scans
        assert under_way.began_at <= while_it_runs < asked_for.began_at
        nursery.cancel_scope.cancel()


async def test_p10_a_scan_that_takes_long_tells_that_it_reads(folder: Path) -> None:
    """Else it would count as one that stands still, and the service manager would end the daemon."""
    for name in ("cam1", "cam2", "cam3"):
        (folder / name).mkdir()
    reader, listener, told = ThreadedReader(MATCHES), Listener(), list[float]()
    watcher = Watcher(str(folder), MATCHES, listener, rescan_seconds=3600, reader=reader)

    def progressed() -> None:
        watcher.progressed()
        told.append(watcher.read_at)
        assert watcher.last_run == before, "the scan still runs"

    before, reader.on_progress = watcher.last_run, progressed
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run)
        assert len(told) >= 4
        assert before < told[0] <= told[-1] <= watcher.last_run == watcher.read_at
        nursery.cancel_scope.cancel()


async def test_a_cancelled_watcher_leaves_no_descriptor_open(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        async with watching(folder):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) <= before  # a thread of an earlier test may have closed one


async def test_a_real_overflow_of_the_kernels_queue_is_logged_and_repaired(folder: Path) -> None:
    """The loop is blocked while more happens than the kernel's queue holds; the last events are dropped."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip(f"this machine's kernel keeps {most} events; to fill that would take too long")
    with capture_logs() as logs:
        async with watching(folder) as listener:
            listener.forget()
            for number in range(most + 1):  # alternating, since the kernel makes one event of two that are the same
                os.close(os.open(folder / f"{number % 2}.tmp", os.O_WRONLY | os.O_CREAT))
            (folder / "late.mp4").write_bytes(b"1")
            scanned = await listener.wait_for(lambda event: isinstance(event, Scanned))
            assert isinstance(scanned, Scanned)
            assert list(scanned.files) == [str(folder / "late.mp4")]
            (folder / "later.mp4").write_bytes(b"1")
            await listener.wait_for(of(folder / "later.mp4", Closed))
    assert [entry["event"] for entry in logs].count("watch_overflow") == 1
