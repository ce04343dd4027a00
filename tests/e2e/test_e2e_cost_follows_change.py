"""P2 on the real process: bytes sent, as S3 counts them, follow what a writer changed of its recording."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers.command import answer, command
from servers.daemon import daemon
from servers.scene import Scene, Surroundings, surroundings

pytestmark = pytest.mark.real
MIB = 1024 * 1024
RENAME_EXCHANGE = 2  # linux/fs.h
PART = 5 * MIB


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    with surroundings(tmp_path_factory.mktemp("servers")) as found:
        yield found


@pytest.fixture
def scene(around: Surroundings) -> Scene:
    return around.scene("cost")


def test_p2_a_size_that_is_set_before_the_bytes_and_a_tail_that_is_cut_off_cost_what_was_written(
    watch_dir: Path, scene: Scene
) -> None:
    """Four recorders at once. What the first reserved is told as data as soon as the kernel has read ahead in it."""
    names = ("reserved", "reserved-beyond-the-end", "set-first", "cut-by-one")
    paths = [watch_dir / f"{name}.mp4" for name in names]
    with daemon(scene.settings(watch_dir)) as process:
        with ExitStack() as open_files:
            files = [open_files.enter_context(path.open("wb", buffering=0)) for path in paths]
            reserved, _, set_first, cut = files
            os.posix_fallocate(reserved.fileno(), 0, 24 * MIB)
            subprocess.run(["fallocate", "--keep-size", "--length", "24MiB", paths[1]], check=True)
            set_first.truncate(16 * MIB)
            for full_parts, size_mib in ((1, 7), (1, 5), (1, 4)):
                for file in files:
                    file.write(os.urandom(size_mib * MIB))
                process.wait_for("part_uploaded", count=full_parts * len(files))
            reserved.truncate(16 * MIB)
            cut.truncate(16 * MIB - 1)
        process.wait_for("stream_completed", count=len(files))
        assert process.stop() == 0
    with scene.store() as store:
        for path in paths:
            store.assert_identical(path)
            assert scene.sent_bytes(path.name) <= path.stat().st_size + PART, path.name
        assert store.open_uploads() == []


def test_p2_what_is_appended_after_the_end_costs_itself_and_one_part(watch_dir: Path, scene: Scene) -> None:
    path = watch_dir / "a.mp4"
    with daemon(scene.settings(watch_dir)) as process:
        for turn in range(1, 6):
            with path.open("ab") as file:
                file.write(os.urandom(3 * MIB))
            process.wait_for("stream_completed", count=turn)
        assert process.stop() == 0
    assert scene.sent_bytes() <= 5 * (3 * MIB + PART)
    with scene.store() as store:
        documents = {key: store.metadata(key) for key in store.recordings()}
    superseded = {one["supersedes"]["s3_key_prefix"] for one in documents.values() if "supersedes" in one}
    (last,) = documents.keys() - superseded
    assert documents[last]["total_size_bytes"] == path.stat().st_size
    # Each superseded object is named, and one command removes them; the recording stays settled.
    settings = scene.settings(watch_dir)
    shown = answer("show", Path(last).parent.name, settings=settings)
    assert shown["supersedes_key"] in superseded
    assert len(answer("gc", "--superseded", settings=settings)["results"]) == len(superseded), "younger than a day"
    command("gc", "--superseded", "--older-than", "0s", "--dry-run", settings=settings)
    with scene.store() as store:
        assert len(store.recordings()) == 5
    done = answer("gc", "--superseded", "--older-than", "0s", settings=settings)["results"]
    assert {one["subject"] for one in done if one["deleted"]} == superseded
    with scene.store() as store:
        assert set(store.recordings()) == {last}
        store.assert_identical(path)
    sent = scene.sent_bytes()
    with daemon(settings) as process:
        process.wait_for_rounds(2)
        assert process.stop() == 0
    assert scene.sent_bytes() == sent
    assert not any(one["deleted"] for one in answer("gc", "--superseded", settings=settings)["results"])


@pytest.mark.parametrize("completes_between", [True, False])
def test_p2_a_growing_recording_that_rsync_copies_again_and_again_costs_what_is_new(
    watch_dir: Path, scene: Scene, tmp_path: Path, *, completes_between: bool
) -> None:
    """Each run of rsync makes a new file and renames it: while its upload is under way, or after its end."""
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    source = tmp_path / "a.mp4"
    settings = scene.settings(watch_dir)
    grace = {} if completes_between else {"CLOSE_GRACE_SECONDS": "600", "STREAM_TIMEOUT_SECONDS": "600"}
    with daemon({**settings, **grace}) as process:
        for turn in range(1, 5):
            with source.open("ab") as file:
                file.write(os.urandom(2 * PART))
            subprocess.run(["rsync", "-a", source, f"{watch_dir}/"], check=True)
            if completes_between:
                process.wait_for("stream_completed", count=turn)
            else:
                process.wait_for("part_uploaded", count=2 * turn)
        assert process.count("stream_started") == (4 if completes_between else 1)
        assert process.stop() == 0
    if not completes_between:  # the grace that no slow rsync outlasts is over in another life
        with daemon(settings) as process:
            process.wait_for("stream_completed")
            assert process.count("stream_started") == 0
            assert process.stop() == 0
    assert scene.sent_bytes() <= source.stat().st_size + PART
    with scene.store() as store:
        assert store.open_uploads() == []
        assert source.read_bytes() in store.contents()


def test_p2_times_and_inodes_are_not_content(watch_dir: Path, scene: Scene, tmp_path: Path) -> None:
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not here")
    source = tmp_path / "source"
    source.mkdir()
    names = ("touched", "set-back", "rsynced", "rsynced-in-place", "copied", "open")
    paths = {name: watch_dir / f"{name}.mp4" for name in names}
    for name in names:
        (source / f"{name}.mp4").write_bytes(os.urandom(PART + 7))
    with daemon(scene.settings(watch_dir, stream_timeout_seconds=600)) as process:  # none ends by silence
        with paths["open"].open("wb") as file:
            file.write((source / "open.mp4").read_bytes())
            file.flush()
            process.wait_for("part_uploaded", file=str(paths["open"]))
            os.utime(paths["open"], (1, 1))  # its size stays, and its time goes back: it must still be finalized
        for name in names[:-1]:
            shutil.copy2(source / f"{name}.mp4", paths[name])
        process.wait_for("stream_completed", count=len(names))
        sent = scene.sent_bytes()
        assert sent == len(names) * (PART + 7)
        for path in paths.values():
            process.wait_for("stream_completed", file=str(path))
        paths["touched"].touch()
        paths["open"].touch()
        os.utime(paths["set-back"], (5, 5))
        subprocess.run(["rsync", "-tI", source / "rsynced.mp4", watch_dir], check=True)
        subprocess.run(["rsync", "-I", "--inplace", source / "rsynced-in-place.mp4", watch_dir], check=True)
        shutil.copy2(source / "copied.mp4", tmp_path / "copied.mp4")
        (tmp_path / "copied.mp4").rename(paths["copied"])
        for path in paths.values():
            process.wait_for("recording_unchanged", file=str(path))
        assert process.stop() == 0
    assert scene.sent_bytes() == sent


def by_a_third_name(first: Path, second: Path) -> None:
    third = first.with_name("third.mp4")
    first.rename(third)
    second.rename(first)
    third.rename(second)


def at_once(first: Path, second: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.renameat2(-1, os.fsencode(first), -1, os.fsencode(second), RENAME_EXCHANGE)
    assert not failed, os.strerror(ctypes.get_errno())


@pytest.mark.parametrize("swap", [by_a_third_name, at_once])
def test_p2_names_that_are_swapped_while_the_daemon_runs_cost_nothing(
    watch_dir: Path, scene: Scene, swap: Callable[[Path, Path], None]
) -> None:
    """Of two completed recordings, and of two that grow."""

    done = [watch_dir / f"done-{number}.mp4" for number in range(2)]
    growing = [watch_dir / f"growing-{number}.mp4" for number in range(2)]
    with daemon(scene.settings(watch_dir)) as process, ExitStack() as open_files:
        for number, path in enumerate(done):
            path.write_bytes(os.urandom(PART + number))
        process.wait_for("stream_completed", count=2)
        files = [open_files.enter_context(path.open("wb", buffering=0)) for path in growing]
        for file in files:
            file.write(os.urandom(PART))
        for path in growing:
            process.wait_for("part_uploaded", file=str(path))
        swap(*done)
        swap(*growing)
        for file in files:
            file.write(os.urandom(PART))
            file.close()
        process.wait_for("stream_completed", count=4)
        process.wait_for_rounds(3)
        assert process.count("stream_failed") == 0
        assert process.count("stream_started") == 4
        assert process.stop() == 0
    assert scene.sent_bytes() == 6 * PART + 1
    with scene.store() as store:
        assert store.contents() == {path.read_bytes(): 1 for path in (*done, *growing)}
