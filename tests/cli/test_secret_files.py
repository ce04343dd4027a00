"""``<NAME>_FILE``: a secret in a file of its own, and a warning where every user of the machine may read it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings
from servers.command import command

from cef_trio.settings import secret_files
from cef_trio.settings.model import (
    Settings,
    SettingsError,
    load_settings,
    secret_values,
    without_secrets,
    world_readable_secrets,
)
from cef_trio.settings.secret_files import MAX_SECRET_BYTES, file_variables, find_world_readable

HIDDEN = "hunter2hunter2"
VARIABLES = file_variables(Settings)
SHAPED = {
    "redis_url": f"redis://:{HIDDEN}@localhost/0",
    "on_complete_webhook": f"https://example.com/completed?token={HIDDEN}",
    "on_start_webhook": f"https://example.com/started?token={HIDDEN}",
    "on_failure_webhook": f"https://example.com/failed?token={HIDDEN}",
    "s3_proxy_url": f"http://user:{HIDDEN}@proxy.example.com:3128",
    "webhook_proxy_url": f"http://user:{HIDDEN}@proxy.example.com:3128",
    "webhook_secret": "whsec_" + base64.b64encode(HIDDEN.encode() * 2).decode(),
}
VALUES = {name: SHAPED.get(name, HIDDEN) for name in VARIABLES}


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, *VARIABLES.values()]:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("WATCH_DIR", str(tmp_path))
    monkeypatch.setenv("S3_BUCKET_NAME", "recordings")


@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that every user may enter, by its whole path."""
    folders = [folder for folder in (tmp_path, *tmp_path.parents) if not folder.stat().st_mode & 0o001]
    modes = {folder: folder.stat().st_mode for folder in folders}
    for folder in folders:
        folder.chmod(modes[folder] | 0o001)
    yield tmp_path
    for folder, mode in modes.items():
        folder.chmod(mode)


def in_a_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def refused(env_file: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(env_file)
    assert HIDDEN not in str(caught.value)
    return caught.value.lines


def test_every_secret_setting_has_its_file_and_no_other_setting_has() -> None:
    assert set(VARIABLES.values()) >= {
        "S3_ACCESS_KEY_ID_FILE",
        "S3_SECRET_ACCESS_KEY_FILE",
        "S3_SESSION_TOKEN_FILE",
        "REDIS_URL_FILE",
    }
    shown = without_secrets(load_settings(None))
    assert {name for name in VARIABLES if shown[name] is not None} == {"redis_url"}
    assert shown["redis_url"] == "***"


def test_a_secret_that_a_class_of_settings_gets_later_has_its_file_too() -> None:
    class Later(BaseSettings):
        webhook_secret: SecretStr | None = None
        webhook_url: str | None = None

    assert file_variables(Later) == {"webhook_secret": "WEBHOOK_SECRET_FILE"}


@pytest.mark.parametrize("name", list(VARIABLES))
@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_is_read_from_its_file_without_the_newline_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ending: str
) -> None:
    for each, variable in VARIABLES.items():
        (tmp_path / each).write_text(VALUES[each] + (ending if each == name else ""))
        monkeypatch.setenv(variable, str(tmp_path / each))
    settings = load_settings(None)
    assert getattr(settings, name).get_secret_value() == VALUES[name]
    assert HIDDEN in secret_values(settings)
    assert HIDDEN not in repr(settings) + json.dumps(without_secrets(settings))


def test_the_variable_may_stand_in_the_file_of_settings(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text(f"redis_url_file={in_a_file(tmp_path, VALUES['redis_url'].encode())}\n")
    assert load_settings(env_file).redis_url.get_secret_value() == VALUES["redis_url"]


def test_a_program_that_gives_the_secret_itself_asks_for_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL_FILE", "/no/such/file")
    settings = load_settings(None, redis_url=SecretStr("unix:///x"))
    assert settings.redis_url.get_secret_value() == "unix:///x"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe" + HIDDEN.encode(), "is not UTF-8 text"),
        (HIDDEN.encode() * (MAX_SECRET_BYTES // len(HIDDEN) + 1), "has more than 64 KiB"),
        (HIDDEN.encode() + b"\n\n", "more than one line"),
        (HIDDEN.encode() + b"\nAWS_X=1\n", "more than one line"),
        (HIDDEN.encode() + b"\0", "control character"),
    ],
)
@pytest.mark.parametrize("variable", list(VARIABLES.values()))
def test_a_file_that_holds_no_secret_is_one_line_without_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, content: bytes, says: str
) -> None:
    path = in_a_file(tmp_path, content)
    monkeypatch.setenv(variable, str(path))
    (line,) = refused()
    assert line.startswith(f"{variable}: {str(path)!r} ")
    assert says in line


@pytest.mark.parametrize("path", ["/no/such/file", "/", "/dev/null/x", "x" * 5000])
def test_a_file_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY_FILE", path)
    (line,) = refused()
    assert line.startswith(f"S3_SECRET_ACCESS_KEY_FILE: {path!r} cannot be read: ")


def test_a_file_that_never_ends_is_read_no_further_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY_FILE", "/dev/zero")
    (line,) = refused()
    assert "has more than 64 KiB" in line


@pytest.mark.parametrize("where", ["environment", "file of settings"])
def test_both_the_secret_and_its_file_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("S3_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY_FILE", str(in_a_file(tmp_path, HIDDEN.encode())))
    env_file = tmp_path / ".env"
    env_file.touch()
    if where == "environment":
        monkeypatch.setenv("S3_SECRET_ACCESS_KEY", HIDDEN)
    else:
        env_file.write_text(f"S3_SECRET_ACCESS_KEY={HIDDEN}\n")
    (line,) = refused(env_file)
    assert line == "S3_SECRET_ACCESS_KEY and S3_SECRET_ACCESS_KEY_FILE are both set: set one of them"


def test_all_errors_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")
    monkeypatch.setenv("REDIS_URL_FILE", "/no/such/file")
    monkeypatch.setenv("S3_SESSION_TOKEN_FILE", "/no/such/file")
    monkeypatch.delenv("S3_BUCKET_NAME")
    names = [line.split(":")[0].split()[0] for line in refused()]
    assert sorted(names) == ["LOG_LEVEL", "REDIS_URL_FILE", "S3_BUCKET_NAME", "S3_SESSION_TOKEN_FILE"]


@pytest.mark.parametrize("around", ["{} ", " {}", '"{}"', "'{}'", "\ufeff{}"])
def test_what_an_editor_or_a_shell_puts_around_a_secret_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    """Else S3 would refuse the signature, and say nothing of why."""
    (tmp_path / "key").write_text(around.format("hunter2hunter2"))
    for name, value in {"WATCH_DIR": str(tmp_path), "S3_BUCKET_NAME": "recordings", "S3_ACCESS_KEY_ID": "id"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    [line] = caught.value.lines
    assert line.startswith("S3_SECRET_ACCESS_KEY: ")
    assert "hunter2" not in line


def test_what_the_file_holds_is_validated_like_any_other_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL_FILE", str(in_a_file(tmp_path, f"http://:{HIDDEN}@x".encode())))
    (line,) = refused()
    assert line.startswith("REDIS_URL: must begin with one of redis://")


def test_a_misspelt_file_variable_is_reported(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("S3_SECRET_ACESS_KEY_FILE=/x\n")
    (line,) = refused(env_file)
    assert "did you mean S3_SECRET_ACCESS_KEY_FILE?" in line


# -- who may read it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "exposed"), [(0o600, False), (0o640, False), (0o660, False), (0o644, True), (0o444, True), (0o602, True)]
)
def test_a_file_is_exposed_if_every_user_may_read_or_change_it(open_folder: Path, mode: int, exposed: bool) -> None:
    found = find_world_readable(in_a_file(open_folder, b"x", mode))
    assert (found is not None) == exposed
    if found is not None:
        assert f"(mode {mode:04o})" in found.description


def test_a_file_in_a_folder_that_others_may_not_enter_is_not_exposed(open_folder: Path) -> None:
    path = in_a_file(open_folder, b"x", 0o644)
    assert find_world_readable(path) is not None
    open_folder.chmod(0o700)
    assert find_world_readable(path) is None


def test_the_rights_that_count_are_those_of_what_a_link_leads_to(open_folder: Path) -> None:
    link = open_folder / "link"
    link.symlink_to(in_a_file(open_folder, b"x", 0o644))
    assert find_world_readable(link) is not None
    in_a_file(open_folder, b"x", 0o600)
    assert find_world_readable(link) is None


def test_what_a_container_is_handed_is_not_exposed(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = in_a_file(open_folder, b"x", 0o444)
    monkeypatch.setattr(secret_files, "_CONTAINER_SECRETS", open_folder)
    assert find_world_readable(path) is None


def test_what_is_no_file_is_not_judged(open_folder: Path) -> None:
    assert find_world_readable(open_folder / "missing") is None
    assert find_world_readable(Path("/dev/null")) is None


def test_a_file_of_settings_is_exposed_only_if_a_secret_stands_in_it(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file = in_a_file(open_folder, b"S3_BUCKET_NAME=b\nREDIS_URL=redis://localhost\nS3_ACCESS_KEY_ID=x\n", 0o644)
    assert world_readable_secrets(env_file) == []
    for line in ("S3_SECRET_ACCESS_KEY=x", "redis_url=redis://:x@localhost", "S3_SESSION_TOKEN=x"):
        env_file.write_text(line + "\n")
        assert [found.file for found in world_readable_secrets(env_file)] == [str(env_file)]
    env_file.chmod(0o600)
    assert world_readable_secrets(env_file) == []
    monkeypatch.setenv("REDIS_URL_FILE", str(in_a_file(open_folder, b"x", 0o644)))
    assert [found.file for found in world_readable_secrets(None)] == [str(open_folder / "secret")]


@pytest.mark.real
def test_an_exposed_secret_is_warned_of_at_the_start_and_by_doctor(open_folder: Path) -> None:
    recordings = open_folder / "recordings"
    recordings.mkdir()
    secret = open_folder / "secret"
    secret.write_text(HIDDEN + "\n")
    secret.chmod(0o644)
    given = {
        "APP_ENV": "production",
        "WATCH_DIR": str(recordings),
        "S3_BUCKET_NAME": "recordings",
        "S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "S3_ACCESS_KEY_ID": "id",
        "S3_SECRET_ACCESS_KEY_FILE": str(secret),
        "REDIS_URL": "redis+cluster://127.0.0.1:9",
        "REDIS_KEY_PREFIX": "{}:",  # an empty hash tag: it ends with exit code 2, after the warning
    }
    done = command("run", settings=given, code=None)
    (event,) = [json.loads(line) for line in done.stderr.splitlines() if "secret_exposed" in line]
    assert (event["level"], event["file"], event["mode"]) == ("warning", str(secret), "0644")
    examined = command("doctor", "--json", settings=given, code=None)
    (finding,) = [found for found in json.loads(examined.stdout)["findings"] if found["subject"] == "secrets"]
    assert (finding["severity"], finding["todo"]) == ("warning", f"chmod o= {secret}")
    secret.chmod(0o600)
    assert '"secrets"' not in command("doctor", "--json", settings=given, code=None).stdout
    assert HIDDEN not in done.stdout + done.stderr + examined.stdout + examined.stderr
