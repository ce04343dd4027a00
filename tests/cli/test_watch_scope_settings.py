"""Settings of what is watched that contradict each other are refused with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cef_trio.settings import SettingsError, load_settings


def line_of(tmp_path: Path, **more: str) -> str:
    (tmp_path / "watch").mkdir(exist_ok=True)
    with pytest.raises(SettingsError) as caught:
        load_settings(None, watch_dir=str(tmp_path / "watch"), s3_bucket_name="recordings", **more)
    (line,) = caught.value.lines
    return line


def test_a_value_that_excludes_every_recording_is_refused(tmp_path: Path) -> None:
    line = line_of(tmp_path, watch_exclude="default,*.m*", watch_patterns="*.mp4,*.mkv")
    assert line.startswith("WATCH_EXCLUDE (")
    assert "excludes every recording that WATCH_PATTERNS (*.mp4,*.mkv) names" in line


@pytest.mark.parametrize("target", ["root/done", "", "root"])
def test_recordings_are_not_moved_to_where_links_lead(tmp_path: Path, target: str) -> None:
    (tmp_path / "root").mkdir()
    line = line_of(tmp_path, watch_link_roots=f"/nowhere:{tmp_path}/root", after_upload=f"move:{tmp_path}/{target}")
    assert line.startswith("AFTER_UPLOAD: recordings cannot be moved to")


def test_the_roots_of_links_may_be_links_and_need_not_exist_yet(tmp_path: Path) -> None:
    for name in ("watch", "root"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "root")
    roots = f"{tmp_path}/link:{tmp_path}/none:{tmp_path}/link"
    found = load_settings(None, watch_dir=str(tmp_path / "watch"), s3_bucket_name="recordings", watch_link_roots=roots)
    assert found.watch_link_roots == (tmp_path / "root", tmp_path / "none")
