"""Settings of what is watched that contradict each other are refused with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cef_trio.settings import Settings, SettingsError, load_settings


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


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (",", "takes names of recordings with * and ?, such as *.mp4,*.mkv"),
        ("*.mkv,cam1/*.mp4", "the pattern 'cam1/*.mp4' can match no name: take names such as *.mp4"),
        ("/srv/recordings/*.mp4", "the pattern '/srv/recordings/*.mp4' can match no name"),
        ("*.mp4;*.mkv", "'*.mp4;*.mkv' is one pattern: separate patterns by commas"),
        ("*.mp4 *.mkv", "'*.mp4 *.mkv' is one pattern"),
        ("*.mp4 | .mkv", "'*.mp4 | .mkv' is one pattern"),
        ("*.mp4:*.mkv", "'*.mp4:*.mkv' is one pattern"),
        ("*.{mp4,mkv}", "'*.{mp4' is one pattern"),
        ("mp4", "the pattern 'mp4' is a whole name; did you mean *.mp4?"),
        (".MKV", "the pattern '.MKV' is a whole name; did you mean *.mkv?"),
    ],
)
def test_a_pattern_that_would_match_no_recording_is_refused(tmp_path: Path, patterns: str, says: str) -> None:
    """A daemon that finds nothing to upload would be healthy."""
    line = line_of(tmp_path, watch_patterns=patterns)
    assert line.startswith(f"WATCH_PATTERNS: {says}")


@pytest.mark.parametrize(
    "patterns", ["front *.mp4", "cam1.mp4", "*", "*.[mM]p4", "rec.?.mp4", "{cam}*.ts", "a.b c.mp4"]
)
def test_unusual_patterns_are_taken(tmp_path: Path, patterns: str) -> None:
    found = load_settings(None, watch_dir=str(tmp_path), s3_bucket_name="recordings", watch_patterns=patterns)
    assert found.watch_patterns == (patterns,)


@pytest.mark.parametrize("name", [*Settings.model_fields, "redis_url_file"])
@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_that_would_be_part_of_a_value_are_refused(
    tmp_path: Path, name: str, quote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """podman and Docker take quotes in a settings file literally: ``WATCH_PATTERNS="*.mp4"`` would match nothing."""
    monkeypatch.setenv("S3_BUCKET_NAME", "recordings")
    monkeypatch.setenv("WATCH_DIR", str(tmp_path))
    monkeypatch.setenv(name.upper(), f"{quote}*.mp4{quote}")
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    assert (
        f"{name.upper()}: the quotes around it are part of the value here: write it without them" in caught.value.lines
    )


def test_quotes_of_a_settings_file_are_no_part_of_the_value(tmp_path: Path) -> None:
    (tmp_path / "env").write_text(f"WATCH_DIR='{tmp_path}'\nS3_BUCKET_NAME=\"recordings\"\nWATCH_PATTERNS='*.ts'\n")
    assert load_settings(tmp_path / "env").watch_patterns == ("*.ts",)


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


# -- several folders ---------------------------------------------------------------------------------------------------


def folders_of(watch_dir: str) -> list[str]:
    return [str(one) for one in load_settings(None, watch_dir=watch_dir, s3_bucket_name="recordings").watch_dirs]


def test_watch_dir_names_one_folder_or_several(tmp_path: Path) -> None:
    for name in ("a", "b", "a:b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("b")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert folders_of(a) == [a]
    assert folders_of(f"{a}:{tmp_path}/link:") == [a, b]
    assert folders_of(f"{tmp_path}/a:b") == [f"{tmp_path}/a:b"], "an existing folder of that name is one folder"


@pytest.mark.parametrize(
    ("watch_dir", "says"),
    [
        ("{0}/a:{0}/a", "names one folder twice"),
        ("{0}/a:{0}/link", "names one folder twice"),
        ("{0}/a:{0}/a/in", "a/in' is inside"),
        ("{0}/a/in:{0}/a", "a/in' is inside"),
        ("{0}/a:{0}/link/in", "a/in' is inside"),
        ("{0}/none:{0}/a/none:{0}/a", "a/none' is inside"),
        ("{0}/a:{0}/none/../none:{0}/none", "names one folder twice"),
        ("{0}/a:none", "none' is not one"),
        ("{0}/a:{0}/file", "file' is not one"),
        (":", "the first one has no name"),
        (":{0}/a", "the first one has no name"),
    ],
)
def test_folders_that_share_recordings_are_refused(
    tmp_path: Path, watch_dir: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError) as caught:
        folders_of(watch_dir.format(tmp_path))
    (line,) = caught.value.lines
    assert line.startswith("WATCH_DIR")
    assert says in line


def test_p6_of_several_folders_those_that_are_missing_do_not_keep_the_others_from_being_watched(
    tmp_path: Path,
) -> None:
    """A disk that is not mounted at the start kept all recordings of all folders from being uploaded."""
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    a, none = str(tmp_path / "a"), str(tmp_path / "none")
    more = {"after_upload": f"move:{tmp_path}/done/today", "min_free_space": "1%"}
    for watch_dir in (f"{a}:{none}", f"{none}/:{a}"):
        with pytest.raises(SettingsError, match="MIN_FREE_SPACE needs AFTER_UPLOAD=move:DIR with a folder on another"):
            load_settings(None, watch_dir=watch_dir, s3_bucket_name="recordings", **more)
    assert folders_of(f"{none}/:{a}:{none}-too") == [none, a, f"{none}-too"]
    found = load_settings(None, watch_dir=f"{none}:{tmp_path}/link", s3_bucket_name="recordings")
    assert found.watch_dir_links == {none: none, f"{tmp_path}/link": a}, "a link later, it would lead elsewhere"


def test_several_folders_that_are_all_missing_are_refused_as_a_single_one_is(tmp_path: Path) -> None:
    for names in (["one"], ["one", "two"]):
        with pytest.raises(SettingsError) as caught:
            folders_of(":".join(f"{tmp_path}/{name}" for name in names))
        wrong = "WATCH_DIR must be a folder that exists; '{}' is not one"
        assert caught.value.lines == [wrong.format(tmp_path / name) for name in names]


def test_a_missing_folder_with_a_colon_in_its_name_is_not_taken_for_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cam").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="1' is not one"):
        folders_of(f"{tmp_path}/cam:1")


@pytest.mark.parametrize("target", ["missing/done", "."])
def test_recordings_are_not_moved_to_where_a_missing_folder_will_be(tmp_path: Path, target: str) -> None:
    (tmp_path / "watch").mkdir()
    with pytest.raises(SettingsError, match="recordings cannot be moved to"):
        load_settings(
            None,
            watch_dir=f"{tmp_path}/missing:{tmp_path}/watch",
            s3_bucket_name="recordings",
            after_upload=f"move:{tmp_path}/{target}",
        )


def test_recordings_are_not_moved_into_any_of_the_folders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "watch").mkdir()
    with pytest.raises(SettingsError, match="recordings cannot be moved to"):
        load_settings(
            None,
            watch_dir=f"{tmp_path}/watch:{tmp_path}/b",
            s3_bucket_name="recordings",
            after_upload=f"move:{tmp_path}/b/done",
        )
