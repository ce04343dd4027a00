"""``check`` shows what ``run`` would use, and every error, without starting or connecting to anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.command import answer, command

from cef_trio.cli import session
from cef_trio.settings.model import Settings, read_settings
from cef_trio.settings.sources import given_settings, masked

pytestmark = pytest.mark.real


def test_each_setting_is_shown_with_its_source_and_no_secret(tmp_path: Path) -> None:
    file, key = tmp_path / "settings.env", tmp_path / "key"
    file.write_text(f"WATCH_DIR={tmp_path}\nS3_SECRET_ACCESS_KEY=of-the-file\nCHUNK_SIZE_BYTES=16MiB\n")
    file.chmod(0o600)
    key.write_text("s3-access-key\n")
    settings = {
        "S3_BUCKET_NAME": "recordings",
        "S3_ACCESS_KEY_ID_FILE": str(key),
        "REDIS_URL": "redis://daemon:hunter2@redis.example:6379/0",
        "ON_COMPLETE_WEBHOOK": "https://example.com/hook?token=hunter4",
        "CHUNK_SIZE_BYTES": "32MiB",
        "OWNER_NAME": "node-7",
    }
    out = command("check", "--env-file", str(file), settings=settings).stdout
    document = answer("check", "--env-file", str(file), settings=settings)
    for secret in ("hunter", "of-the-file", "s3-access-key"):
        assert secret not in out
        assert secret not in str(document)
    assert (document["ok"], document["errors"]) == (True, [])
    shown = {one["name"]: one for one in document["settings"]}
    assert list(shown) == [name.upper() for name in Settings.model_fields]
    assert (shown["CHUNK_SIZE_BYTES"]["value"], shown["CHUNK_SIZE_BYTES"]["source"]) == ("32MiB", "environment")
    assert (shown["WATCH_DIR"]["value"], shown["WATCH_DIR"]["source"]) == (str(tmp_path), str(file))
    assert shown["REDIS_URL"]["value"] == "redis://***@redis.example:6379/0"
    assert shown["S3_ACCESS_KEY_ID"]["says"] == f"S3_ACCESS_KEY_ID_FILE={key}"
    assert shown["LOG_LEVEL"] == {"name": "LOG_LEVEL", "value": "INFO", "source": "default", "says": ""}
    assert [one["key"].split("/")[:2] for one in document["examples"]] == [["streams", "node-7"]] * 2
    assert all(one["path"].startswith(f"{tmp_path}/") for one in document["examples"])
    assert document["examples"][0]["key"] in out
    changed = command("check", "--changed", "--env-file", str(file), settings=settings).stdout
    assert "LOG_LEVEL" not in changed
    assert "CHUNK_SIZE_BYTES" in changed


def test_every_error_is_one_line_and_the_exit_code_is_2(tmp_path: Path) -> None:
    settings = {
        "WATCH_DIR": str(tmp_path / "missing"),
        "S3_BUCKET_NAME": "recordings",
        "S3_BUCKET": "recording",
        "LOG_LEVEL": "loud",
        "S3_ACCESS_KEY_ID_FILE": "/no/such/file",
    }
    done = command("check", settings=settings, code=2)
    assert sorted(line.split()[1].strip(":") for line in done.stderr.splitlines()) == [
        "LOG_LEVEL", "S3_ACCESS_KEY_ID_FILE", "S3_BUCKET"
    ]  # fmt: skip
    assert answer("check", settings=settings, code=2)["ok"] is False


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("WATCH_DIR", "/no/such/folder", "WATCH_DIR"),
        ("REDIS_URL", "redis+sentinel://host", "REDIS_URL"),
        ("AFTER_UPLOAD", "move:/dev/null/x", "AFTER_UPLOAD"),
    ],
)
def test_what_only_the_start_would_refuse_is_found_too(tmp_path: Path, name: str, value: str, word: str) -> None:
    settings = {"WATCH_DIR": str(tmp_path), "S3_BUCKET_NAME": "recordings", "OWNER_NAME": "node-7", name: value}
    done = command("check", settings=settings, code=2)
    [line] = done.stderr.splitlines()
    assert word in line


def test_a_settings_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_bytes(b"WATCH_DIR=\xff\xfe\n")
    done = command("check", "--env-file", str(file), code=2)
    assert done.stderr.count("\n") == 1


def test_the_source_follows_the_precedence_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.env"
    file.write_text("S3_BUCKET_NAME=of-the-file\nLOG_LEVEL=DEBUG\n")
    monkeypatch.setenv("S3_BUCKET_NAME", "of-the-environment")
    monkeypatch.setenv("LOG_LEVEL", "")
    shown = {one.name: (one.value, one.source) for one in given_settings(file)}
    assert shown["S3_BUCKET_NAME"] == ("of-the-environment", "environment")
    assert shown["LOG_LEVEL"] == ("DEBUG", str(file))
    assert masked("webhook_secret", "whsec_x") == "***"
    assert masked("redis_url", "redis+sentinel://u:p@h/x?sentinel_password=q") == "redis+sentinel://***@h/x?***"


def test_it_counts_what_is_left_out_of_each_folder(tmp_path: Path) -> None:
    for name in ("a/one.mp4", "a/.hidden/two.mp4", "a/._one.mp4", "b/three.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "link").symlink_to("/etc")
    settings = {"WATCH_DIR": f"{tmp_path}/a:{tmp_path}/b", "S3_BUCKET_NAME": "recordings", "OWNER_NAME": "x"}
    document = answer("check", settings={**settings, "WATCH_MIN_SIZE_BYTES": "1"})
    assert [list(one.values()) for one in document["folders"]] == [
        [f"{tmp_path}/a", 1, 1, 1, 1, 0],
        [f"{tmp_path}/b", 1, 1, 0, 0, 1],
    ]
    out = command("check", settings=settings).stdout
    assert f"{tmp_path}/a: 1 recording, and 1 folder and 1 recording excluded by WATCH_EXCLUDE" in out
    assert "1 symbolic link not followed" in out


def test_one_of_several_folders_that_is_missing_is_a_warning_as_the_daemon_starts_without_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    settings = {"WATCH_DIR": f"{tmp_path}/none:{tmp_path}/a", "S3_BUCKET_NAME": "recordings", "OWNER_NAME": "x"}
    document = answer("check", settings=settings)
    [warning] = document["warnings"]
    assert warning.startswith(f"WATCH_DIR: '{tmp_path}/none' is missing, or this user may not read it: ")
    assert warning.endswith("`cef-trio run` starts without it, and watches it once it can be read")
    assert [one["path"] for one in document["folders"]] == [f"{tmp_path}/a"]


def test_a_circle_of_links_as_one_of_several_folders_is_one_that_is_missing(tmp_path: Path) -> None:
    """The daemon starts without it; ``check`` ended in a traceback, and with a folder to move to nothing started."""
    (tmp_path / "a").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    settings = {"WATCH_DIR": f"{tmp_path}/a:{tmp_path}/loop", "S3_BUCKET_NAME": "recordings", "OWNER_NAME": "x"}
    settings |= {"AFTER_UPLOAD": f"move:{tmp_path}/done", "WATCH_LINK_ROOTS": f"{tmp_path}/loop"}
    document = answer("check", settings=settings)
    assert "loop' is missing" in document["warnings"][0]
    assert [one["path"] for one in document["folders"]] == [f"{tmp_path}/a"]
    of_a_command = read_settings(None, watch_dir=settings["WATCH_DIR"], s3_bucket_name="recordings")
    assert session._all_folders(of_a_command) == [tmp_path / "a", tmp_path / "loop"]


def test_examples_are_of_the_first_folder_also_if_another_one_is_unfit(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "file").touch()
    settings = {"WATCH_DIR": f"{tmp_path}/a:{tmp_path}/file", "S3_BUCKET_NAME": "recordings", "OWNER_NAME": "x"}
    document = answer("check", settings={**settings, "S3_KEY_TEMPLATE": "r/{relative_dir}/{stream_id}"}, code=2)
    assert document["errors"] == [f"WATCH_DIR must be a folder that exists; '{tmp_path}/file' is not one"]
    assert [one["path"] for one in document["examples"]] == [
        f"{tmp_path}/a/front door.mp4",
        f"{tmp_path}/a/cameras/gate/recording.mp4",
    ]
    assert document["examples"][1]["key"].startswith("r/cameras/gate/")
