"""One entry of a folder that cannot be read, or is a mount of its own, hides no other recording and is not missing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from servers.mounts import mounted
from servers.ordinary_user import ORDINARY
from structlog.testing import capture_logs
from watch.listener import MATCHES, of, watching

from cef_trio.files import MountHungError, Mounts
from cef_trio.upload.scan_history import LastScan
from cef_trio.watch.events import Closed, FileEvent, Scanned
from cef_trio.watch.patterns import WatchScope
from cef_trio.watch.scan import Scan, ThreadedReader, scan_now

T = TypeVar("T")


class Entry:
    """An entry of a folder, whose status cannot be read; ``knows_kind``: the folder itself tells what it is."""

    def __init__(self, real: os.DirEntry[str], number: int, *, knows_kind: bool) -> None:
        self.name = real.name
        self._real = real
        self._number = number
        self._knows_kind = knows_kind

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._kind(self._real.is_dir, follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._kind(self._real.is_file, follow_symlinks)

    def is_symlink(self) -> bool:
        return self._knows_kind and self._real.is_symlink()

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        del follow_symlinks
        raise OSError(self._number, os.strerror(self._number), self.name)

    def inode(self) -> int:
        return self._real.inode()

    def _kind(self, tell: Callable[..., bool], follow_symlinks: bool) -> bool:
        if not self._knows_kind:
            self.stat()
        return tell(follow_symlinks=follow_symlinks)


class Damage:
    """Entries of any folder whose status cannot be read."""

    def __init__(self) -> None:
        self.names: Collection[str] = ()
        self.number = errno.EUCLEAN
        self.knows_kind = True


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> Damage:
    state, real = Damage(), os.scandir

    class Entries:
        def __init__(self, folder: int | str) -> None:
            self._real = real(folder)

        def __enter__(self) -> Iterator[object]:
            for entry in self._real:
                damaged = entry.name in state.names
                yield Entry(entry, state.number, knows_kind=state.knows_kind) if damaged else entry

        def __exit__(self, *_: object) -> None:
            self._real.close()

    monkeypatch.setattr(os, "scandir", Entries)
    return state


def names(paths: Collection[str]) -> set[str]:
    return {Path(path).name for path in paths}


@pytest.mark.parametrize("number", [errno.EUCLEAN, errno.EIO, errno.EBADMSG, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("knows_kind", [True, False])
async def test_p6_an_entry_whose_status_cannot_be_read_is_unreadable_alone(
    watch_dir: Path, damage: Damage, number: int, knows_kind: bool
) -> None:
    """It made its folder unreadable; in ``WATCH_DIR`` itself that stopped the intake of all cameras."""
    (watch_dir / "camera").mkdir()
    for name in ("bad.mp4", "good.mp4", "camera/a.mp4"):
        (watch_dir / name).write_bytes(b"1")
    damage.names, damage.number, damage.knows_kind = {"bad.mp4"}, number, knows_kind
    with capture_logs() as logs:
        async with watching(watch_dir) as listener:
            [scanned] = listener.scans
            assert names(scanned.files) == {"good.mp4", "a.mp4"}
            bad = str(watch_dir / "bad.mp4")
            assert scanned.unreadable == {bad}
            assert scanned.unreadable_entries[bad].file_ino == Path(bad).stat().st_ino, "its folder tells it"
            assert listener.watcher.trouble is None
            (watch_dir / "later.mp4").write_bytes(b"1")
            await listener.wait_for(of(watch_dir / "later.mp4", Closed))
            listener.forget()
            listener.watcher.rescan()
            await listener.wait_for(lambda event: isinstance(event, Scanned))
    told = [entry for entry in logs if "unreadable" in entry["event"]]
    assert [(entry["event"], entry["entries"], entry["new"]) for entry in told] == [
        ("entries_unreadable", 1, [str(watch_dir / "bad.mp4")])
    ]


async def test_p6_only_an_entry_with_a_recordings_name_may_be_a_missing_recording(
    watch_dir: Path, damage: Damage
) -> None:
    """Another one that stays unreadable would keep the streams of deleted recordings open."""
    for name in ("bad.mp4", "folder", "notes.txt"):
        (watch_dir / name).write_bytes(b"1")
    damage.names, damage.knows_kind = {"bad.mp4", "folder", "notes.txt"}, False
    async with watching(watch_dir) as listener:
        [scanned] = listener.scans
    assert names(scanned.unreadable) == {"bad.mp4", "folder", "notes.txt"}
    assert names(scanned.unreadable_entries) == {"bad.mp4"}


@pytest.mark.parametrize(
    ("name", "knows_kind", "exclude", "unreadable"),
    [
        ("notes.txt", True, [], False),
        ("notes.txt", False, [], True),
        ("folder", False, [], True),
        ("folder", False, ["folder/"], False),
        ("bad.mp4", True, ["bad.mp4"], False),
    ],
)
def test_only_what_may_be_or_hold_a_recording_is_told_as_unreadable(
    watch_dir: Path, damage: Damage, *, name: str, knows_kind: bool, exclude: Sequence[str], unreadable: bool
) -> None:
    """Where the folder does not tell what an entry is (DT_UNKNOWN), it may be a folder."""
    (watch_dir / name).write_bytes(b"1")
    (watch_dir / "good.mp4").write_bytes(b"1")
    damage.names, damage.knows_kind = {name}, knows_kind
    scan = scan_now(str(watch_dir), WatchScope.of(str(watch_dir), ["*.mp4"], exclude))
    assert names(scan.files) == {"good.mp4"}
    assert names(scan.unreadable) == ({name} if unreadable else set())


def test_a_folder_that_may_be_listed_but_not_entered_is_unreadable_as_a_whole(watch_dir: Path) -> None:
    """Each of its recordings would be told otherwise."""
    locked = watch_dir / "locked"
    locked.mkdir()
    for number in range(3):
        (locked / f"{number}.mp4").write_bytes(b"1")
    locked.chmod(0o600)
    (watch_dir / "good.mp4").write_bytes(b"1")
    code = (
        "import sys; from cef_trio.watch.patterns import matcher; from cef_trio.watch.scan import scan_now;"
        "scan = scan_now(sys.argv[1], matcher(['*.mp4']));"
        "print(sorted(scan.files), sorted(scan.unreadable), sorted(scan.unreadable_entries))"
    )
    told = subprocess.run(
        [*ORDINARY, sys.executable, "-c", code, watch_dir], check=True, capture_output=True, text=True
    ).stdout
    assert told.strip() == f"{[str(watch_dir / 'good.mp4')]} {[str(locked)]} []"


def test_p3_a_scan_that_could_not_read_a_file_does_not_tell_that_it_is_gone() -> None:
    scan = LastScan(2.0, frozenset({"/rec/a.mp4", "/rec/folder"}))
    decided = {
        path: scan.counts_for(path, 1.0) for path in ("/rec/a.mp4", "/rec/a.mp4x", "/rec/folder/b", "/rec/b.mp4")
    }
    assert decided == {"/rec/a.mp4": False, "/rec/a.mp4x": True, "/rec/folder/b": False, "/rec/b.mp4": True}


@pytest.mark.parametrize(
    ("number", "unreadable"), [(errno.EIO, True), (errno.ESTALE, True), (errno.EACCES, True), (errno.ENOENT, False)]
)
@pytest.mark.parametrize("name", ["live.mp4", "folder"])
async def test_p10_what_a_link_leads_to_and_cannot_be_read_is_unreadable(
    watch_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, *, unreadable: bool
) -> None:
    """It was passed over as a link that is not followed, and nothing was at risk."""
    root, elsewhere, real = tmp_path / "root", tmp_path / "elsewhere", os.stat
    for folder in (root / "folder", elsewhere):
        folder.mkdir(parents=True)
    (root / "live.mp4").write_bytes(b"1")
    (watch_dir / "link").symlink_to(root / name)
    (watch_dir / "other").symlink_to(elsewhere)

    def failing(path: str, **arguments: object) -> os.stat_result:
        if path == name:
            raise OSError(number, os.strerror(number), path)
        return real(path, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", failing)
    scope = WatchScope.of(str(watch_dir), ["*.mp4"], link_roots=[str(root)])
    scans = [await ThreadedReader(scope).scan(str(watch_dir)), scan_now(str(watch_dir), scope)]
    monkeypatch.undo()
    for scan in scans:
        assert not scan.files
        assert scan.unreadable == set(scan.unreadable_entries) == ({str(root / name)} if unreadable else set())
        assert names(scan.links) == ({"other"} if unreadable else {"other", "link"})


async def test_p10_a_link_to_a_hung_mount_is_told_if_it_is_to_be_followed(watch_dir: Path, tmp_path: Path) -> None:
    class Hung(Mounts):
        async def run(self, path: str, call: Callable[[], T]) -> T:
            if path.startswith(str(tmp_path / "hung")):
                raise MountHungError("the mount", path)
            return await super().run(path, call)

    for name in ("followed", "other"):
        (watch_dir / name).symlink_to(tmp_path / "hung" / name)
    scope = WatchScope.of(str(watch_dir), ["*.mp4"], link_roots=[str(tmp_path / "hung" / "followed")])
    scan = await ThreadedReader(scope, Hung()).scan(str(watch_dir))
    assert scan.unreadable == {str(tmp_path / "hung" / "followed")}
    assert names(scan.links) == {"other"}


# -- a recording that is a mount point ------------------------------------------------------------------------------


def line(point: Path) -> str:
    return f"41 22 8:1 / {point} rw - ext4 /dev/sda1 rw\n"


async def test_p6_a_recording_that_is_a_mount_point_is_found_as_scan_now_finds_it(watch_dir: Path) -> None:
    """docker -v /data/rec.mp4:/watch/rec.mp4, a Kubernetes subPath: it was taken for a folder, and passed over."""
    (watch_dir / "camera").mkdir()
    for name in ("rec.mp4", "camera/rec.mp4", "notes.txt", "a.mp4"):
        (watch_dir / name).write_bytes(b"123")
    points = [watch_dir / name for name in ("rec.mp4", "camera", "camera/rec.mp4", "notes.txt", "gone.mp4")]
    text = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + "".join(map(line, points))
    scan = await ThreadedReader(MATCHES, Mounts(read_mountinfo=lambda: text)).scan(str(watch_dir))
    expected = scan_now(str(watch_dir), MATCHES)
    assert scan.files == expected.files
    assert names(scan.files) == {"rec.mp4", "a.mp4"}
    assert len(scan.files) == 3
    assert (scan.folders, scan.unreadable) == (expected.folders, expected.unreadable)


async def test_p3_a_recording_that_is_a_mount_point_and_cannot_be_read_is_unreadable(
    watch_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = watch_dir / "rec.mp4"
    path.write_bytes(b"1")
    text = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + line(path)
    real = os.stat

    def failing(name: str, **arguments: object) -> os.stat_result:
        if name == path.name:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(name, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", failing)
    scan: Scan = await ThreadedReader(MATCHES, Mounts(read_mountinfo=lambda: text)).scan(str(watch_dir))
    monkeypatch.undo()
    assert not scan.files
    assert scan.unreadable == set(scan.unreadable_entries) == {str(path)}


async def test_p6_a_bind_mounted_recording_is_found_and_followed_by_scans(watch_dir: Path, tmp_path: Path) -> None:
    source, path = tmp_path / "source.mp4", watch_dir / "rec.mp4"
    source.write_bytes(b"123")
    path.write_bytes(b"")

    def found_with(size_bytes: int) -> Callable[[FileEvent], bool]:
        return lambda event: (
            isinstance(event, Scanned) and str(path) in event.files and event.files[str(path)].size_bytes == size_bytes
        )

    with mounted("--bind", source, path):
        async with watching(watch_dir, rescan_seconds=0.05) as listener:
            await listener.wait_for(found_with(3))
            with source.open("ab") as file:
                file.write(b"45")
            await listener.wait_for(found_with(5))
