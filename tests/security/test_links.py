"""No link leads the daemon out of its folder: not to a file, not to a folder, not one that takes a folder's place."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import trio
from servers.daemon import daemon, settings_for
from servers.store import Store
from servers.stream_records import DAEMON, a_stream
from servers.valkey import ValkeyServer

from cef_trio.checkpoint.model import FileIdentity
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.exceptions import RecordingChangedError
from cef_trio.files import nofollow
from cef_trio.files.mounts import Mounts
from cef_trio.files.nofollow import open_nofollow, stat_nofollow
from cef_trio.files.reader import KernelDisk
from cef_trio.files.writers import WriterState, writer_state
from cef_trio.watch import WatchScope
from cef_trio.watch import scan as scan_module
from cef_trio.watch.scan import ThreadedReader, scan_now

PRIVATE = b"what the writers of the folder may not read\n" * 1000


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A folder outside, with a file in it that the daemon may read."""
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(PRIVATE)
    return folder


def take_the_place_of(folder: Path, target: Path) -> None:
    """What a writer of the watch folder can do at any moment."""
    folder.rename(folder.with_name(folder.name + "-moved"))
    folder.symlink_to(target)


# -- paths.py ----------------------------------------------------------------------------------------------------------


def test_a_path_without_links_is_opened_and_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "b" / "c"
    folder.mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"x")
    path = str(folder / "a.mp4")
    assert os.path.samestat(stat_nofollow(path), os.lstat(path))
    assert os.path.samestat(stat_nofollow(str(folder)), os.lstat(folder))
    assert os.path.samestat(stat_nofollow("/"), os.lstat("/"))
    descriptor = open_nofollow(path, os.O_RDONLY)
    try:
        assert os.read(descriptor, 2) == b"x"
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_a_path_of_names_that_are_no_text_is_walked_too(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n")
    os.mkdir(folder)  # noqa: PTH102 - as bytes say it
    Path(folder, "a.mp4").write_bytes(b"x")
    assert stat_nofollow(f"{folder}/a.mp4").st_size == 1


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDONLY | os.O_DIRECTORY])
def test_a_link_anywhere_in_the_path_is_refused(tmp_path: Path, private: Path, flags: int) -> None:
    (tmp_path / "folder").symlink_to(private)
    (tmp_path / "file").symlink_to(private / "a.mp4")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, number in (("folder/a.mp4", errno.ENOTDIR), ("file", errno.ELOOP), ("loop/a.mp4", errno.ENOTDIR)):
        with pytest.raises(OSError, match=path) as caught:
            open_nofollow(str(tmp_path / path), flags)
        # To O_DIRECTORY, a link is something that is no folder.
        assert caught.value.errno == (errno.ENOTDIR if flags & os.O_DIRECTORY else number)
    with pytest.raises(NotADirectoryError):
        stat_nofollow(str(tmp_path / "folder" / "a.mp4"))
    assert stat.S_ISLNK(stat_nofollow(str(tmp_path / "file")).st_mode)


def test_a_path_that_goes_up_is_refused(tmp_path: Path, private: Path) -> None:
    for path in (tmp_path / "private" / ".." / "private" / "a.mp4", tmp_path / ".."):
        for look in (stat_nofollow, lambda path: open_nofollow(path, os.O_RDONLY)):
            with pytest.raises(OSError, match=r"must not contain"):
                look(str(path))


def test_no_descriptor_stays_open_whatever_happens(tmp_path: Path, private: Path) -> None:
    (tmp_path / "folder").symlink_to(private)
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    for name in ("private/a.mp4", "private/missing", "missing/a.mp4", "folder/a.mp4", "x" * 300, "private/a.mp4/b"):
        path = str(tmp_path / name)
        for look in (stat_nofollow, lambda path: os.close(open_nofollow(path, os.O_RDONLY))):
            try:
                look(path)
            except OSError as error:
                assert error.filename == path
            else:
                assert name == "private/a.mp4"
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before


# -- those who use it --------------------------------------------------------------------------------------------------


async def test_a_recording_whose_folder_became_a_link_is_gone_and_is_not_read(tmp_path: Path, private: Path) -> None:
    folder = tmp_path / "watch"
    folder.mkdir()
    path = folder / "a.mp4"
    path.write_bytes(b"a recording")
    disk = KernelDisk()
    assert await disk.stat(str(path)) is not None
    take_the_place_of(folder, private)
    assert path.read_bytes() == PRIVATE, "the link leads there for who follows it"
    assert await disk.stat(str(path)) is None
    with pytest.raises(RecordingChangedError):
        async with disk.open(str(path)):
            pytest.fail("opened")
    assert await writer_state(str(path), Mounts()) is WriterState.UNKNOWN
    assert await ThreadedReader(lambda _: True).stats([str(path)]) == {}


def test_a_folder_that_becomes_a_link_during_the_scan_is_not_read(tmp_path: Path, private: Path) -> None:
    folder = tmp_path / "watch"
    (folder / "camera").mkdir(parents=True)
    (folder / "first.mp4").touch()

    def matches(path: str) -> bool:
        # The folder's entries have been read by now, and the folder in it is looked into after this.
        if path.endswith("first.mp4"):
            take_the_place_of(folder / "camera", private)
        return True

    scan = scan_now(str(folder), matches)
    assert (folder / "camera" / "a.mp4").read_bytes() == PRIVATE
    assert set(scan.files) == {str(folder / "first.mp4")}
    assert scan.folders == {str(folder)}
    assert scan.unreadable == frozenset()


def test_links_in_a_folder_are_not_followed_by_the_scan(tmp_path: Path, private: Path) -> None:
    folder = tmp_path / "watch"
    folder.mkdir()
    (folder / "up").symlink_to("..")
    (folder / "private").symlink_to(private)
    (folder / "b.mp4").symlink_to(private / "a.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    assert scan_now(str(folder), lambda _: True).files == {}


# -- WATCH_LINK_ROOTS --------------------------------------------------------------------------------------------------


def linked(tmp_path: Path, private: Path) -> tuple[Path, Path, WatchScope]:
    """A watch folder with links into a root, out of it, round in circles and twice to the same; and the root."""
    folder, root = tmp_path / "watch", tmp_path / "root"
    (root / "cam" / "day").mkdir(parents=True)
    folder.mkdir()
    (root / "cam" / "day" / "b.mp4").write_bytes(b"b")
    (root / "single.mp4").write_bytes(b"single")
    (root / "cam" / "up").symlink_to("..")
    (root / "cam" / "out").symlink_to(private)
    (root / "cam" / ".hidden").symlink_to("day")
    (folder / "one").symlink_to(root / "cam")
    (folder / "two").symlink_to(root / "cam" / "day")
    (folder / "again").symlink_to(folder / "one")
    (folder / "c.mp4").symlink_to(root / "single.mp4")
    (folder / "private").symlink_to(private)
    (folder / "sly").symlink_to(root / "cam" / ".." / ".." / private.name)
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "broken").symlink_to(root / "none")
    return folder, root, WatchScope.of(str(folder), ["*.mp4"], [".*"], [str(root)])


async def test_links_into_a_root_are_followed_once_and_by_their_real_paths(tmp_path: Path, private: Path) -> None:
    folder, root, scope = linked(tmp_path, private)
    for scan in (scan_now(str(folder), scope), await ThreadedReader(scope).scan(str(folder))):
        assert set(scan.files) == {str(root / "cam" / "day" / "b.mp4"), str(root / "single.mp4")}
        # "up" leads to the root itself, which holds what is found there anyway.
        assert scan.folders == {str(folder), str(root), str(root / "cam"), str(root / "cam" / "day")}
        names = {Path(link).name for link in scan.links}
        assert names == {"private", "sly", "broken", "out"}
    assert scan_now(str(folder), WatchScope.of(str(folder), ["*.mp4"])).files == {}


async def test_p6_a_chain_of_links_longer_than_pythons_stack_is_a_link_that_is_not_followed(tmp_path: Path) -> None:
    chain, watch, root = tmp_path / "chain", tmp_path / "watch", tmp_path / "root"
    for folder in (chain, watch, root):
        folder.mkdir()
    for number in range(sys.getrecursionlimit() + 100):
        (chain / f"{number}").symlink_to(chain / f"{number + 1}")
    (watch / "a.mp4").touch()
    (watch / "l").symlink_to(chain / "0")
    scope = WatchScope.of(str(watch), ["*.mp4"], link_roots=[str(root)])
    scan = await ThreadedReader(scope, Mounts()).scan(str(watch))
    assert scan.files.keys() == {str(watch / "a.mp4")}
    assert scan.links == {str(watch / "l")}


@pytest.mark.parametrize("moment", ["the folder", "its parent", "the root"])
async def test_a_link_that_led_into_a_root_exposes_nothing_when_the_root_changes(
    tmp_path: Path, private: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a link leads to is checked, and opened later: a link that is put there in between is not followed."""
    folder, root, scope = linked(tmp_path, private)
    (private / "day").mkdir()
    (private / "cam" / "day").mkdir(parents=True)
    for place in (private / "day", private / "cam", private / "cam" / "day"):
        (place / "b.mp4").write_bytes(PRIVATE)
    follow = nofollow.follow_link

    def follow_then_attack(link: str, roots: Iterable[str]) -> str | None:
        target = follow(link, roots)
        if link.endswith("/two"):
            take_the_place_of(
                {"the folder": root / "cam" / "day", "its parent": root / "cam", "the root": root}[moment], private
            )
        return target

    (folder / "one").unlink()
    (folder / "again").unlink()
    monkeypatch.setattr(scan_module, "follow_link", follow_then_attack)
    scan = scan_now(str(folder), scope)
    assert not any("b.mp4" in path for path in scan.files)
    with pytest.raises(RecordingChangedError):
        async with KernelDisk().open(str(root / "cam" / "day" / "b.mp4")):
            pytest.fail("opened")


# -- the daemon --------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(watch_dir: Path, embedded: Store, valkey: ValkeyServer) -> Mapping[str, str]:
    return settings_for(watch_dir, embedded.endpoint, valkey.url, close_grace_seconds=0.2, rescan_seconds=0.5)


def assert_nothing_private(embedded: Store) -> None:
    bodies = [
        embedded.client.get_object(Bucket="recordings", Key=key)["Body"].read() for key in sorted(embedded.keys())
    ]
    assert bodies
    assert not any(PRIVATE[:100] in body for body in bodies)


@pytest.mark.real
def test_the_daemon_takes_recordings_and_nothing_that_only_bears_their_names(
    settings: Mapping[str, str], watch_dir: Path, embedded: Store, private: Path
) -> None:
    (watch_dir / "link.mp4").symlink_to(private / "a.mp4")
    (watch_dir / "folder").symlink_to(private)
    (watch_dir / "folder.mp4").symlink_to(private)
    (watch_dir / "loop.mp4").symlink_to("loop.mp4")
    (watch_dir / "dangling.mp4").symlink_to("/no/such/file")
    os.mkfifo(watch_dir / "fifo.mp4")
    (watch_dir / "is-a-folder.mp4").mkdir()
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(watch_dir):
        listener.bind("socket.mp4")  # a relative name: an absolute one may be too long for a socket
        with contextlib.suppress(PermissionError):  # only root may
            os.mknod("device.mp4", 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: it has no end
        with daemon(settings) as process:
            (watch_dir / "later.mp4").symlink_to(private / "a.mp4")
            os.mkfifo(watch_dir / "later-fifo.mp4")
            (watch_dir / "recorded.mp4").write_bytes(b"x" * 1000)
            process.wait_for("stream_completed", file=str(watch_dir / "recorded.mp4"))
            (watch_dir / "last.mp4").write_bytes(b"y" * 1000)
            process.wait_for("stream_completed", file=str(watch_dir / "last.mp4"))
            assert process.count("stream_started") == 2
            assert process.stop() == 0
    assert {key.rpartition("/")[2] for key in embedded.recordings()} == {"recorded.mp4", "last.mp4"}
    assert_nothing_private(embedded)


@pytest.mark.real
def test_the_daemon_does_not_follow_a_link_that_takes_a_folders_place_while_it_records(
    settings: Mapping[str, str], watch_dir: Path, embedded: Store, private: Path
) -> None:
    folder = watch_dir / "camera"
    folder.mkdir()
    with daemon(settings) as process:
        with (folder / "a.mp4").open("wb") as writer:
            writer.write(os.urandom(6 << 20))
            writer.flush()
            process.wait_for("part_uploaded")
            take_the_place_of(folder, private)
            writer.write(b"more")  # an event of the watch that is still on the folder, under the name that it had
        (watch_dir / "last.mp4").write_bytes(b"y" * 1000)
        process.wait_for("stream_completed", file=str(watch_dir / "last.mp4"))
        # The folder has another name, which is no link: its recording is found there, and ends as any other.
        process.wait_for("stream_completed", count=2)
        assert process.stop() == 0
    names = {key.rpartition("/")[2] for key in embedded.recordings()}
    assert names == {"a.mp4", "last.mp4"}
    assert embedded.sha256(embedded.key_of("a.mp4")) != ""
    assert embedded.metadata(embedded.key_of("a.mp4"))["total_size_bytes"] == (6 << 20) + 4
    assert_nothing_private(embedded)


@pytest.mark.real
async def test_a_record_that_no_daemon_wrote_leads_to_no_file_outside(
    settings: Mapping[str, str], watch_dir: Path, embedded: Store, valkey: ValkeyServer, private: Path
) -> None:
    (watch_dir / "folder").symlink_to(private)
    target = private / "a.mp4"
    stat = target.stat()
    for number, path in enumerate((target, watch_dir / "folder" / "a.mp4", watch_dir / ".." / "private" / "a.mp4"), 1):
        meta = a_stream(number, str(path), identity=FileIdentity(stat.st_dev, stat.st_ino))
        async with RedisCheckpointStore(valkey.url) as checkpoints:
            await checkpoints.create(meta, DAEMON)
            await checkpoints.release([meta.stream_id], DAEMON)
    with daemon({**settings, "STALE_CHECK_SECONDS": "0.2"}) as process:
        (watch_dir / "last.mp4").write_bytes(b"y" * 1000)
        await trio.to_thread.run_sync(lambda: process.wait_for("stream_completed", file=str(watch_dir / "last.mp4")))
        # The idle checker has looked at them by now: the one within the folder is found to be gone.
        await trio.to_thread.run_sync(lambda: process.wait_for("stream_failed", reason="file_missing_on_resume"))
        assert process.count("stream_failed") == 1
        assert process.count("idle_check_failed") == process.count("path_lookup_failed") == 0
        assert process.stop() == 0
    assert {key.rpartition("/")[2] for key in embedded.recordings()} == {"last.mp4"}
    assert_nothing_private(embedded)


@pytest.mark.real
def test_a_hard_link_is_a_file_like_any_other(settings: Mapping[str, str], watch_dir: Path, embedded: Store) -> None:
    """The kernel decides who may make one (fs.protected_hardlinks); a user who may could as well copy the file."""
    outside = watch_dir.parent / "outside.mp4"
    outside.write_bytes(b"x" * 1000)
    with daemon(settings) as process:
        os.link(outside, watch_dir / "hard.mp4")
        process.wait_for("stream_completed")
        assert process.stop() == 0
    embedded.assert_identical(watch_dir / "hard.mp4")


@pytest.mark.real
def test_the_watch_folder_itself_may_be_a_link(
    settings: Mapping[str, str], watch_dir: Path, embedded: Store, tmp_path: Path
) -> None:
    link = tmp_path / "link-to-watch"
    link.symlink_to(watch_dir)
    with daemon({**settings, "WATCH_DIR": str(link)}) as process:
        (link / "a.mp4").write_bytes(b"x" * 1000)
        process.wait_for("stream_completed", file=str(watch_dir / "a.mp4"))
        assert process.stop() == 0
    embedded.assert_identical(watch_dir / "a.mp4")
