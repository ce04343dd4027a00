"""``WATCH_DIR=/a:/b``: one daemon watches several folders, and one that is away sets only itself aside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from servers.daemon import daemon, settings_for
from servers.store import Store
from servers.valkey import ValkeyServer

pytestmark = pytest.mark.real
MIB = 1024 * 1024
PART = 5 * MIB


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("north", "south"):
        (tmp_path / name / "cam").mkdir(parents=True)
    return tmp_path / "north", tmp_path / "south"


@pytest.fixture
def settings(folders: tuple[Path, Path], store: Store, valkey: ValkeyServer) -> Mapping[str, str]:
    found = settings_for(folders[0], store.endpoint, valkey.url, stream_timeout_seconds=60, close_grace_seconds=0.3)
    return {**found, "WATCH_DIR": ":".join(map(str, folders)), "RESCAN_SECONDS": "1"}


def test_p1_equal_names_in_two_folders_are_two_recordings_and_are_moved_apart(
    settings: Mapping[str, str], folders: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    contents = [os.urandom(PART + 1), os.urandom(PART + 2)]
    with daemon({**settings, "AFTER_UPLOAD": f"move:{tmp_path / 'done'}"}) as process:
        assert process.wait_for("daemon_started")["watch_dir"] == settings["WATCH_DIR"]
        for folder, content in zip(folders, contents, strict=True):
            (folder / "cam" / "a.mp4").write_bytes(content)
        process.wait_for("recording_moved_after_upload", count=2)
        # A rename from one folder to the other is a rename.
        with (folders[0] / "b.mp4").open("wb", buffering=0) as file:
            file.write(os.urandom(PART))
            process.wait_for("stream_started", count=3)
            (folders[0] / "b.mp4").rename(folders[1] / "c.mp4")
            process.wait_for("recording_renamed")
            file.write(b"end")
        process.wait_for("stream_completed", count=3)
        process.wait_for("recording_moved_after_upload", count=3)
        assert process.count("stream_started") == 3
        assert process.stop() == 0
    assert sorted(store.contents()) == sorted([*contents, (tmp_path / "done" / "south" / "c.mp4").read_bytes()])
    for folder, content in zip(folders, contents, strict=True):
        assert (tmp_path / "done" / folder.name / "cam" / "a.mp4").read_bytes() == content


def test_p10_a_folder_that_is_away_sets_only_itself_aside_and_goes_on_when_it_is_back(
    settings: Mapping[str, str], folders: tuple[Path, Path], store: Store
) -> None:
    north, south = folders
    for folder in folders:
        (folder / "live.mp4").write_bytes(b"")
    live = [(folder / "live.mp4").open("ab", buffering=0) for folder in folders]
    with daemon(settings) as process:
        for file in live:
            file.write(os.urandom(PART))
        process.wait_for("part_uploaded", count=2)
        for away, there in ((south, north), (north, south)):
            away.rename(away.with_name("away"))
            process.wait_for("folder_unreadable", folder=str(away))
            (there / f"while-{away.name}-is-away.mp4").write_bytes(os.urandom(PART + 3))
            process.wait_for("stream_completed", count=1 if away is south else 3)
            away.with_name("away").rename(away)
            before = process.count("part_uploaded")
            live[folders.index(away)].write(os.urandom(PART))
            process.wait_for("part_uploaded", count=before + 1)
            # Found by a scan, before which the folder is watched again, or by an event: so closes are seen from now on.
            (away / "after-its-return.mp4").write_bytes(os.urandom(PART + 5))
            process.wait_for("stream_completed", count=2 if away is south else 4)
        for file in live:
            file.close()
        process.wait_for("stream_completed", count=6)
        assert process.count("stream_started") == 6
        assert process.stop() == 0
    assert len(store.recordings()) == 6
    assert store.open_uploads() == []


def test_each_folder_is_locked_and_one_that_is_watched_twice_is_refused(
    settings: Mapping[str, str], folders: tuple[Path, Path]
) -> None:
    with daemon(settings), pytest.raises(AssertionError, match="is watched by another cef-trio"):  # noqa: SIM117
        with daemon({**settings, "WATCH_DIR": str(folders[1]), "OWNER_NAME": "another"}):
            pass
