"""P1, P2, P8, P9 on file systems of their own, made in a file: full, unmounted, with coarse stamps, with other numbers.

Each story is a daemon and its disk; they mostly wait, so they are told side by side.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from servers.daemon import daemon
from servers.mounts import Disk, disk, mounted
from servers.s3_control import arm, disarm
from servers.scene import Scene, surroundings
from servers.side_by_side import Stories, side_by_side
from servers.store import sha256_of
from waiting import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024
PART = 5 * MIB


@dataclass(frozen=True, slots=True)
class Given:
    """What a story has."""

    scene: Scene
    folder: Path


def write(path: Path, size_bytes: int) -> None:
    path.write_bytes(os.urandom(size_bytes))


def fill(file: IO[bytes]) -> None:
    """Write until there is no room."""
    try:
        while True:
            file.write(os.urandom(MIB))
    except OSError as error:
        assert error.errno == errno.ENOSPC, error


def a_number_that_is_given_to_the_next_recording(given: Given) -> None:
    """A failed recording was deleted, and ext4 gave its inode to the next one of its name: that one is uploaded."""
    with disk(given.folder, "ext4") as found, ExitStack() as stack:
        found.mount()
        path = found.folder / "a.mp4"
        own = stack.enter_context(surroundings(given.folder))  # its fault must strike nobody else's story
        scene = own.scene("number")
        with daemon(scene.settings(found.folder)) as process:
            number = arm(own.endpoint, {"kind": "error", "operation": "PutObject", "code": "KeyTooLongError"})
            write(path, MIB)
            process.wait_for("stream_failed")
            disarm(own.endpoint, number)
            for turn in range(1, 10):
                inode = path.stat().st_ino
                path.unlink()
                write(path, MIB + turn)
                process.wait_for("stream_completed", count=turn)
                if path.stat().st_ino == inode:
                    break
            else:
                pytest.skip("this kernel gave no inode to the next file")
            with scene.store() as store:
                assert sha256_of(path) in {store.sha256(key) for key in store.recordings()}
            assert process.stop() == 0


def stamps_of_whole_seconds(given: Given) -> None:
    """Changes of the same size within a second have the same stamp, as on ext3: what is there in the end is in S3."""
    with disk(given.folder, "ext4", arguments=["-I", "128"]) as found:
        found.mount()
        paths = [found.folder / f"{number}.mp4" for number in range(4)]
        with daemon(given.scene.settings(found.folder)) as process, given.scene.store() as store:
            time.sleep(1.0 - time.time() % 1.0)  # a whole second is ahead
            for path in paths:
                write(path, MIB)
            for path in paths:
                process.wait_for("recording_ended", file=str(path))
                with path.open("r+b") as file:
                    file.write(os.urandom(8))
            process.wait_for("stream_completed", count=len(paths))
            digests = {sha256_of(path) for path in paths}
            wait_until(lambda: digests <= {store.sha256(key) for key in store.recordings()}, otherwise=process.tail)
            assert process.stop() == 0


def a_disk_that_is_full_while_it_is_recorded_to(given: Given) -> None:
    """The recorder ends where the disk does. What it wrote is uploaded, and there is room again."""
    with disk(given.folder, "ext4", size_mib=16) as found:
        found.mount()
        first, second = found.folder / "first.mp4", found.folder / "second.mp4"
        settings = given.scene.settings(found.folder, after_upload="delete")
        with daemon(settings) as process, given.scene.store() as store:
            with first.open("ab", buffering=0) as file:
                fill(file)
                size_bytes, digest = first.stat().st_size, sha256_of(first)  # once closed, it is soon deleted
            assert size_bytes > PART
            process.wait_for("recording_deleted_after_upload")
            assert store.sha256(store.key_of("first.mp4")) == digest
            assert given.scene.sent_bytes() <= size_bytes + PART
            write(second, PART)
            process.wait_for("recording_deleted_after_upload", count=2)
            assert process.count("stream_failed") == 0
            assert process.stop() == 0


def a_disk_that_is_unmounted_while_it_is_recorded_to(given: Given) -> None:
    """Nothing counts as deleted; when it is there again, the recording goes on, and nothing is sent twice."""
    with disk(given.folder, "ext4") as found:
        found.mount()
        path = found.folder / "a.mp4"
        settings = given.scene.settings(found.folder, stream_timeout_seconds=2)  # the last close may be seen by nobody
        with daemon(settings) as process, given.scene.store() as store:
            with path.open("wb", buffering=0) as file:
                file.write(os.urandom(2 * PART))
                process.wait_for("part_uploaded", count=2)
            found.unmount(busy=True)
            process.wait_for("watch_folder_lost")
            found.mount()
            with path.open("ab") as file:
                file.write(os.urandom(MIB))
            # On a slow machine it has ended before: then what is appended is an object of its own.
            completed = process.wait_for("stream_completed", size_bytes=path.stat().st_size)
            assert process.count("recording_deleted") == process.count("stream_failed") == 0
            store.assert_identical(path, completed["key"])
            assert given.scene.sent_bytes() <= 2 * PART + 2 * MIB
            assert process.stop() == 0


def a_target_of_moves_that_is_unmounted(given: Given) -> None:
    """P8: nothing is moved below its mount point, where nobody would find it; it is moved when the disk is back."""
    watch_dir, target = given.folder / "watch", given.folder / "target"
    watch_dir.mkdir()
    target.mkdir()
    with disk(target, "ext4", size_mib=64) as archive:
        archive.mount()
        settings = given.scene.settings(watch_dir, after_upload=f"move:{archive.folder / 'done'}")
        with daemon(settings) as process:
            write(watch_dir / "a.mp4", MIB)
            process.wait_for("recording_moved_after_upload")
            archive.unmount()
            write(watch_dir / "b.mp4", MIB)
            assert "mount it" in process.wait_for("after_upload_failed")["error"]
            assert list(archive.folder.iterdir()) == []
            archive.mount()
            assert process.stop() == 0
        with daemon(settings) as process:  # if the first one has not tried again meanwhile
            wait_until(lambda: not (watch_dir / "b.mp4").exists(), otherwise=process.tail)
            assert process.stop() == 0
        assert sorted(path.name for path in (archive.folder / "done").iterdir()) == ["a.mp4", "b.mp4"]
        assert list(watch_dir.glob("*.mp4")) == []


def a_bind_mount_that_is_gone(given: Given) -> None:
    """The same device is still mounted below the watch folder; the recording is on the bind mount that is not."""
    watch_dir, real = given.folder / "watch", given.folder / "real"
    camera = watch_dir / "camera"
    camera.mkdir(parents=True)
    real.mkdir()
    path = camera / "a.mp4"
    with ExitStack() as first, daemon(given.scene.settings(watch_dir)) as process, given.scene.store() as store:
        first.enter_context(mounted("--bind", real, camera))
        with path.open("wb", buffering=0) as file:
            file.write(os.urandom(2 * PART))
            process.wait_for("part_uploaded", count=2)
            first.close()
            assert not path.exists()
            write(watch_dir / "other.mp4", 5)
            process.wait_for("stream_completed")
            process.wait_for_rounds(4)
        assert process.count("recording_deleted") == process.count("stream_failed") == 0, process.tail()
        with mounted("--bind", real, camera):
            process.wait_for("stream_completed", file=str(path))
            store.assert_identical(path)
            assert given.scene.sent_bytes("a.mp4") <= 2 * PART
        assert process.stop() == 0


def record(path: Path, size_bytes: int) -> None:
    """Write as a recorder does: a block after the other, flushed, and closed at the end."""
    with path.open("wb", buffering=0) as file:
        for _ in range(0, size_bytes, MIB):
            file.write(os.urandom(MIB))
            os.fsync(file.fileno())


def free_share(folder: Path) -> float:
    found = os.statvfs(folder)
    return found.f_bavail / found.f_blocks


def a_disk_that_is_kept_from_filling(given: Given) -> None:
    """P8: more is recorded than the disk holds. The oldest go once they are in S3; what is written stays."""
    with disk(given.folder, "ext4", size_mib=64) as found, ExitStack() as stack:
        found.mount()
        settings = given.scene.settings(found.folder, min_free_space="40%")
        process = stack.enter_context(daemon(settings))
        store = stack.enter_context(given.scene.store())
        live = found.folder / "live.mp4"
        with live.open("wb", buffering=0) as writer:
            writer.write(os.urandom(2 * PART))
            names = [f"{number}.mp4" for number in range(5)]  # of 10 MiB each
            digests = {}
            for number, name in enumerate(names, 1):
                path = found.folder / name
                record(path, 2 * PART)
                digests[name] = sha256_of(path)
                process.wait_for("stream_completed", count=number)
                wait_until(lambda: free_share(found.folder) >= 0.4, otherwise=process.tail)
            # A deletion is seen on the disk before it is measured and logged.
            gone = [name for name in names if not (found.folder / name).exists()]
            process.wait_for("recording_deleted_after_upload", count=len(gone))
            deleted = [event["path"] for event in process.events if event["event"] == "recording_deleted_after_upload"]
            assert deleted == [str(found.folder / name) for name in names[: len(deleted)]]
            assert 2 <= len(deleted) < len(names)  # the oldest first, and no more than was needed
            assert live.exists()
            assert {name: store.sha256(store.key_of(name)) for name in names} == digests
            assert process.metric('freed_bytes_total{cause="min_free_space"}') >= 2 * PART * len(deleted)
            missing = f'missing_free_space_bytes{{folder="{found.folder}"}}'
            wait_until(lambda: process.metric(missing) == 0, otherwise=process.tail)
            fill(writer)
            process.wait_for("disk_space_cannot_be_freed")
            assert live.exists()
        process.wait_for("recording_deleted_after_upload", path=str(live))
        wait_until(lambda: free_share(found.folder) >= 0.4, otherwise=process.tail)
        assert process.count("after_upload_refused") == process.count("stream_failed") == 0
        assert process.stop() == 0


def a_disk_that_is_unmounted_above_a_full_one(given: Given) -> None:
    """P8: the folder below is on a small full disk, whose free space means nothing for the recordings."""
    small, large = given.folder / "small", given.folder / "large"
    small.mkdir()
    large.mkdir()
    with disk(small, "ext4", size_mib=16) as below, disk(large, "ext4", size_mib=64) as above:
        below.mount()
        watch_dir = below.folder / "watch"
        watch_dir.mkdir()
        fill_with_zeros(below.folder / "other", watch_dir)
        paths = [watch_dir / name for name in ("a.mp4", "b.mp4")]
        settings = given.scene.settings(watch_dir, min_free_space="4MiB", stream_timeout_seconds=2)
        with ExitStack() as first:
            first.enter_context(mounted("--bind", above_mounted(above), watch_dir))
            with daemon(settings) as process:
                for path in paths:
                    record(path, MIB)
                process.wait_for("stream_completed", count=2)
                process.wait_for_rounds(3)
                first.close()
                process.wait_for("disk_space_cannot_be_freed")
                with mounted("--bind", above.folder, watch_dir):
                    process.wait_for("disk_space_regained")
                    assert all(path.exists() for path in paths)
                assert process.count("recording_deleted_after_upload") == 0
                assert process.stop() == 0


def above_mounted(found: Disk) -> Path:
    found.mount()
    return found.folder


def fill_with_zeros(path: Path, folder: Path) -> None:
    """Leave less than 2 MiB on the disk."""
    with path.open("wb", buffering=0) as file:
        while os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize > 2 * MIB:
            file.write(bytes(MIB // 2))


def other_numbers_after_another_mount(given: Given, kind: str) -> None:
    """What is completed and unchanged is not sent again in the next life, whatever its number is by then."""
    with disk(given.folder, kind) as found:
        found.mount()
        settings = given.scene.settings(found.folder, stream_timeout_seconds=2)
        paths = [found.folder / name for name in ("a.mp4", "b.mp4")]
        with daemon(settings) as process:
            for path in paths:
                write(path, MIB)
            process.wait_for("stream_completed", count=len(paths))
            assert process.stop() == 0
        found.unmount()
        found.mount()
        paths[1].stat()  # numbers are given in the order in which files are looked at
        with daemon(settings) as process:
            write(found.folder / "c.mp4", MIB)
            process.wait_for("stream_completed", file=str(found.folder / "c.mp4"))
            assert process.count("stream_started") == 1
            assert process.stop() == 0
    assert given.scene.sent_bytes() == 3 * MIB


STORIES: dict[str, Callable[[Given], None]] = {
    "number": a_number_that_is_given_to_the_next_recording,
    "seconds": stamps_of_whole_seconds,
    "full": a_disk_that_is_full_while_it_is_recorded_to,
    "filling": a_disk_that_is_kept_from_filling,
    "below": a_disk_that_is_unmounted_above_a_full_one,
    "unmounted": a_disk_that_is_unmounted_while_it_is_recorded_to,
    "target": a_target_of_moves_that_is_unmounted,
    "bind": a_bind_mount_that_is_gone,
    "vfat": lambda given: other_numbers_after_another_mount(given, "vfat"),
    "exfat": lambda given: other_numbers_after_another_mount(given, "exfat"),
    "exfat-fuse": lambda given: other_numbers_after_another_mount(given, "exfat-fuse"),
}


@pytest.fixture(scope="module")
def stories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stories]:
    with surroundings(tmp_path_factory.mktemp("servers")) as around:

        def tell(name: str) -> None:
            STORIES[name](Given(around.scene(name), tmp_path_factory.mktemp(name)))

        with side_by_side(request, "story", tell) as told:
            yield told


@pytest.mark.parametrize("story", STORIES)
def test_p2_p8_a_disk(story: str, stories: Stories) -> None:
    stories[story].result()
