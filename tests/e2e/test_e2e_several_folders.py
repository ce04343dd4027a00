"""``WATCH_DIR=/a:/b``: one daemon watches several folders, and one that is away sets only itself aside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import httpx
import pytest
from servers.command import ROOT, answer
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.store import Store
from servers.valkey import ValkeyServer
from waiting import wait_until

from cef_trio.observability.at_risk import SENTENCES, Reason

pytestmark = pytest.mark.real
FOLDER_UNREADABLE = SENTENCES[Reason.FOLDER_UNREADABLE]
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


def test_p6_p10_a_folder_that_is_missing_at_the_start_is_told_and_is_watched_as_soon_as_it_is_there(
    settings: Mapping[str, str], folders: tuple[Path, Path], store: Store, tmp_path: Path
) -> None:
    """A disk that was not mounted kept the recordings of all other folders from being uploaded."""
    (tmp_path / "sitecustomize.py").write_text(
        "from cef_trio.observability import at_risk\nat_risk.PATIENCE_SECONDS = 1.5\n"
        "from cef_trio.upload import reporter\nreporter.PERIOD_SECONDS = 0.3\n"
    )
    hurried = {**settings, "PYTHONPATH": f"{tmp_path}:{ROOT}", "STALE_CHECK_SECONDS": "0.5"}
    for away, there in (folders, folders[::-1]):
        live, aside = (away / f"{away.name}.mp4").open("ab", buffering=0), away.with_name("aside")
        with daemon(hurried) as process:
            live.write(os.urandom(PART))
            process.wait_for("part_uploaded")
            assert process.stop() == 0
        away.rename(aside)
        with daemon(hurried) as process:
            process.wait_for("folder_unreadable", folder=str(away))
            process.wait_for("daemon_started")
            (there / f"while-{away.name}-is-missing.mp4").write_bytes(os.urandom(PART + 3))
            process.wait_for("stream_completed")
            wait_until(partial(says, process, FOLDER_UNREADABLE, status=503))
            assert process.metric('bytes_at_risk{risk="folder_unreadable"}') == 0, "of files that are not seen"
            wait_until(partial(status_tells, hurried, f"{FOLDER_UNREADABLE}: {away}"))
            findings = answer("doctor", settings=hurried, code=5)["findings"]
            assert [one for one in findings if one["subject"] == "watch folder" and str(away) in one["says"]]
            process.wait_for_rounds(3)
            assert process.count("recording_deleted") == process.count("stream_failed") == 0
            aside.rename(away)
            live.write(os.urandom(PART))
            live.close()
            process.wait_for("stream_completed", count=2)
            assert process.count("stream_started") == 1, "the one in the missing folder was resumed"
            (away / f"{away.name}-later.mp4").write_bytes(os.urandom(PART + 5))
            process.wait_for("stream_completed", count=3, seconds=40)  # by its close, and not by a minute of silence
            wait_until(partial(says, process, "", status=200))
            assert process.stop() == 0
    assert len(store.recordings()) == 6
    assert store.open_uploads() == []


def says(process: DaemonProcess, what: str, *, status: int) -> bool:
    port = process.wait_for("admin_server_started")["port"]
    ready = httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, timeout=60)
    return ready.status_code == status and what in ready.text


def status_tells(settings: Mapping[str, str], why: str) -> bool:
    return any(risk["why"] == why for one in answer("status", settings=settings)["at_risk"] for risk in one["risks"])


def test_each_folder_is_locked_and_one_that_is_watched_twice_is_refused(
    settings: Mapping[str, str], folders: tuple[Path, Path]
) -> None:
    with daemon(settings), pytest.raises(AssertionError, match="is watched by another cef-trio"):  # noqa: SIM117
        with daemon({**settings, "WATCH_DIR": str(folders[1]), "OWNER_NAME": "another"}):
            pass
