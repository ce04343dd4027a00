"""``WATCH_EXCLUDE``: which paths are left out, and that nothing is read or watched below them (P7)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio_util import AsyncValue
from waiting import WAIT_SECONDS

from cef_trio.settings import DEFAULT_EXCLUDE, Exclusion
from cef_trio.settings.watch_exclude import check_exclude, excludes_everything, parse_exclude
from cef_trio.watch import Closed, FileEvent, Moved, Scanned, Seen, ThreadedReader, Watcher, WatchScope, scan_now

FOLDER, FILE = True, False


class Listener:
    """A listener that records events and lets a test wait for them."""

    def __init__(self) -> None:
        self.events = AsyncValue[tuple[FileEvent, ...]](())

    def handle_event(self, event: FileEvent) -> None:
        self.events.value = (*self.events.value, event)

    async def wait_for(self, wanted: Callable[[FileEvent], bool]) -> FileEvent:
        with trio.fail_after(WAIT_SECONDS):
            events = await self.events.wait_value(lambda events: any(map(wanted, events)))
        found: FileEvent = next(filter(wanted, events))
        return found


def closed(path: Path) -> Callable[[FileEvent], bool]:
    return lambda event: isinstance(event, Closed) and event.path == str(path)


@pytest.mark.parametrize(
    ("patterns", "path", "is_folder", "excluded"),
    [
        *((DEFAULT_EXCLUDE, name, FILE, True) for name in ("._a.mp4", ".a.mp4", "cam/._a.mp4", ".Trash-1000/a.mp4")),
        *(
            (DEFAULT_EXCLUDE, name, FOLDER, True)
            for name in (".Trash", "cam/@eaDir", "#recycle", "$Recycle.Bin", ".x/y")
        ),
        *((DEFAULT_EXCLUDE, name, FILE, False) for name in ("a.mp4", "cam/a._.mp4", "tmp/a.mp4", "eaDir/a.mp4")),
        (["@EADIR"], "x/@eaDir/a.mp4", FILE, True),
        (["tmp/**"], "tmp", FOLDER, True),
        (["tmp/**"], "tmp/x/a.mp4", FILE, True),
        (["tmp/**"], "tmp", FILE, False),
        (["tmp/**"], "cam/tmp/a.mp4", FILE, False),
        (["*/incoming/*"], "cam/incoming", FOLDER, True),
        (["*/incoming/*"], "cam/incoming/a.mp4", FILE, True),
        (["*/incoming/*"], "incoming/a.mp4", FILE, False),
        (["*/incoming/*"], "cam/1/incoming/a.mp4", FILE, False),
        (["**/incoming/*"], "cam/1/incoming/a.mp4", FILE, True),
        (["**/incoming/*"], "incoming/a.mp4", FILE, True),
        (["cam/**/z.mp4"], "cam/z.mp4", FILE, True),
        (["cam/**/z.mp4"], "cam/1/2/z.mp4", FILE, True),
        (["cam/**/z.mp4"], "cam/1", FOLDER, False),
        (["tmp/"], "cam/tmp", FOLDER, True),
        (["tmp/"], "cam/tmp", FILE, False),
        (["/tmp"], "tmp", FOLDER, True),
        (["/tmp"], "cam/tmp", FOLDER, False),
        (["*/*"], "a.mp4", FILE, False),
        (["*/*"], "cam/a.mp4", FILE, True),
        (["a?[0-9].mp4"], "ab7.mp4", FILE, True),
        (["a\\.mp4"], "a.mp4", FILE, False),
        ([".*"], "a\n.b/\udcff.mp4", FILE, False),
        ([], ".a.mp4", FILE, False),
        (["*"], "", FOLDER, False),
    ],
)
def test_a_path_is_excluded_by_a_name_or_from_the_watch_folder_on(
    patterns: Sequence[str], path: str, is_folder: bool, excluded: bool
) -> None:
    exclusion = Exclusion(patterns)
    assert (exclusion.excludes_folder(path) if is_folder else exclusion.excludes_file(path)) is excluded


@pytest.mark.parametrize("patterns", [DEFAULT_EXCLUDE, ["**/tmp/**/x/**/y/**/z/**/no"], ["**/n/*"]])
def test_p6_a_path_of_any_depth_is_compared_at_once_and_its_folders_need_not_be_known(patterns: Sequence[str]) -> None:
    """Who may write to the watch folder may nest folders deeper than Python's stack, or than a search has time for."""
    deep = "tmp/x/y/z/" * 500
    assert not Exclusion(patterns).excludes_file(f"{deep}a.mp4")
    assert not Exclusion(patterns).excludes_folder(f"{deep}a")
    nested = f"{deep}n/{deep}"
    assert Exclusion([*patterns, "n"]).excludes_file(f"{nested}a.mp4")
    assert Exclusion([*patterns, "**/z/n/**"]).excludes_folder(f"{nested}a")


def test_default_and_none_are_words() -> None:
    assert parse_exclude("default, tmp/**") == (*DEFAULT_EXCLUDE, "tmp/**")
    assert parse_exclude("None") == ()
    assert parse_exclude("a,,a ,b") == ("a", "b")


@pytest.mark.parametrize("pattern", ["/", "a//b", "../b", "a/./b"])
def test_a_pattern_that_can_match_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="can match nothing"):
        check_exclude((pattern,))


@pytest.mark.parametrize(
    ("exclude", "patterns", "everything"),
    [
        *(
            (exclude, "*.mp4", True)
            for exclude in ("*", "**", "/**", "**/*", "*.mp4", "*.MP4", "*.*", "?*", "**/*.mp4")
        ),
        *((exclude, "*.mp4", False) for exclude in ("default", "*/*", "*/**", "rec*", "*.mkv", "[0-9]*", "none")),
        ("*.mp4", "*.mp4,*.mkv", False),
        ("*.mp4,*.mkv", "*.mp4,*.mkv", True),
        ("cam*", "cam[0-9]-??.mp4", True),
        ("cam2*", "cam[0-9]*.mp4", False),
        (".*", ".*.mp4", True),
    ],
)
def test_a_value_that_leaves_no_recording_is_seen(exclude: str, patterns: str, everything: bool) -> None:
    parsed = parse_exclude(exclude)
    assert isinstance(parsed, tuple)
    assert excludes_everything(parsed, patterns.split(",")) is everything


# -- the scan and the watcher ------------------------------------------------------------------------------------------


def test_a_scan_reads_no_excluded_folder_and_counts_what_is_left_out(tmp_path: Path) -> None:
    for name in ("a.mp4", "cam/b.mp4", "cam/._b.mp4", ".Trash-0/x/c.mp4", "cam/@eaDir/d.mp4", ".notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    scope = WatchScope.of(str(tmp_path), ["*.mp4"], DEFAULT_EXCLUDE)
    scan = scan_now(str(tmp_path), scope)
    assert set(scan.files) == {str(tmp_path / "a.mp4"), str(tmp_path / "cam" / "b.mp4")}
    assert scan.folders == {str(tmp_path), str(tmp_path / "cam")}
    assert (scan.excluded.folders, scan.excluded.files) == (2, 1)
    assert scan_now(str(tmp_path), lambda path: path.endswith(".mp4")).excluded.folders == 0


def test_a_watch_folder_with_a_hidden_name_is_watched(tmp_path: Path) -> None:
    folder = tmp_path / ".recordings"
    folder.mkdir()
    (folder / "a.mp4").touch()
    assert set(scan_now(str(folder), WatchScope.of(str(folder), ["*.mp4"], DEFAULT_EXCLUDE)).files) == {
        str(folder / "a.mp4")
    }


def watched_folders() -> set[int]:
    """Return the inode numbers that this process watches by inotify (proc(5))."""
    found = set()
    for entry in Path("/proc/self/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # a scan in its thread has closed it meanwhile
            lines = entry.read_text().splitlines()
            found |= {int(line.split("ino:")[1].split()[0], 16) for line in lines if line.startswith("inotify ")}
    return found


async def test_p7_an_excluded_folder_gets_no_watch_and_its_files_are_no_events(tmp_path: Path) -> None:
    hidden, shown = tmp_path / ".hidden", tmp_path / "cam"
    hidden.mkdir()
    shown.mkdir()
    scope, listener = WatchScope.of(str(tmp_path), ["*.mp4"], DEFAULT_EXCLUDE), Listener()
    watcher = Watcher(str(tmp_path), scope, listener, rescan_seconds=3600, reader=ThreadedReader(scope))
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run)
        (tmp_path / ".later").mkdir()
        (hidden / "a.mp4").write_bytes(b"1")
        (shown / ".a.mp4").write_bytes(b"1")
        (shown / "b.mp4").write_bytes(b"1")
        await listener.wait_for(closed(shown / "b.mp4"))
        assert not [event for event in listener.events.value if isinstance(event, Seen | Closed) and "/." in event.path]
        assert shown.stat().st_ino in watched_folders()
        assert not {hidden.stat().st_ino, (tmp_path / ".later").stat().st_ino} & watched_folders()
        # Its recordings may be live: their new names are reported once, then nothing of it is watched.
        shown.rename(tmp_path / ".cam")
        moved = await listener.wait_for(lambda event: isinstance(event, Moved) and event.new_path.endswith("/b.mp4"))
        assert isinstance(moved, Moved)
        assert moved.new_path == str(tmp_path / ".cam" / "b.mp4")
        assert (tmp_path / ".cam").stat().st_ino not in watched_folders()
        # A folder that is no longer excluded is scanned and watched.
        hidden.rename(tmp_path / "seen")
        await listener.wait_for(
            lambda event: isinstance(event, Scanned) and str(tmp_path / "seen/a.mp4") in event.files
        )
        assert (tmp_path / "seen").stat().st_ino in watched_folders()
        with (tmp_path / "seen" / "a.mp4").open("ab") as file:
            file.write(os.urandom(2))
        await listener.wait_for(closed(tmp_path / "seen" / "a.mp4"))
        nursery.cancel_scope.cancel()
