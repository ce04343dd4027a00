"""Bad input gets one clear line; what is written about the settings is made from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cef_trio import __version__
from cef_trio.config import Settings, SettingsError, example_env, load_settings, settings_md, without_secrets

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def lines_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    given = {"WATCH_DIR": str(tmp_path), "S3_BUCKET_NAME": "recordings", **variables}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    return caught.value.lines


def test_what_is_written_about_the_settings_is_true() -> None:
    assert (ROOT / "example.env").read_text() == example_env()
    assert (ROOT / "docs" / "settings.md").read_text() == settings_md()


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_missing_settings_are_named_one_line_each() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    assert [line.split()[0] for line in caught.value.lines] == ["WATCH_DIR", "S3_BUCKET_NAME"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CHUNK_SIZE_BYTES", "1MiB"),
        ("CHUNK_SIZE_BYTES", "ten"),
        ("MAX_CONCURRENT_PARTS", "0"),
        ("MAX_CONCURRENT_STREAMS", "many"),
        ("STREAM_TIMEOUT_SECONDS", "-1"),
        ("STREAM_TIMEOUT_SECONDS", "inf"),
        ("S3_KEY_TEMPLATE", "streams/{file_name}"),
        ("S3_KEY_TEMPLATE", "/streams/{stream_id}"),
        ("S3_KEY_TEMPLATE", "a/../{stream_id}"),
        ("S3_KEY_TEMPLATE", "{stream_id}/x"),
        ("S3_KEY_TEMPLATE", "x/{stream_id}/{date}"),
        ("S3_ENDPOINT_URL", "s3.example.com"),
        ("S3_CHECKSUM", "crc16"),
        ("WATCH_PATTERNS", ","),
        ("LOG_LEVEL", "loud"),
        ("APP_ENV", "test"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable_and_what_it_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, **{variable: value})
    assert line.startswith(f"{variable}: ")
    assert repr(value) in line
    assert "\n" not in line


def test_no_secret_is_ever_in_a_message_or_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hunter2hunter2"
    lines = lines_of(
        tmp_path, monkeypatch, REDIS_URL=f"http://u:{secret}@x", S3_SECRET_ACCESS_KEY=secret, LOG_LEVEL="loud"
    )
    assert not any(secret in line for line in lines)
    monkeypatch.setenv("REDIS_URL", f"redis://:{secret}@x")
    monkeypatch.setenv("S3_ACCESS_KEY_ID", secret)
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    settings = load_settings(None)
    assert secret not in repr(settings) + str(settings) + json.dumps(without_secrets(settings))


def test_settings_that_do_not_fit_together_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, REDIS_TIMEOUT_SECONDS="5")
    assert "REDIS_TIMEOUT_SECONDS (5)" in line
    assert "SHUTDOWN_SAVE_SECONDS (2)" in line
    (line,) = lines_of(tmp_path, monkeypatch, REDIS_TIMEOUT_SECONDS="1", S3_ACCESS_KEY_ID="only")
    assert "S3_SECRET_ACCESS_KEY" in line


def test_an_empty_variable_is_none_and_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text(f"WATCH_DIR={tmp_path}\nS3_BUCKET_NAME=from-file\nMAX_CONCURRENT_PARTS=7\nCHUNK_SIZE_BYTES=16MiB\n")
    monkeypatch.setenv("S3_BUCKET_NAME", "from-environment")
    monkeypatch.setenv("MAX_CONCURRENT_PARTS", "")
    settings = load_settings(file)
    assert (settings.s3_bucket_name, settings.max_concurrent_parts) == ("from-environment", 7)
    assert settings.chunk_size_bytes == 16 << 20


def test_a_misspelt_variable_in_the_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"WATCH_DIR={tmp_path}\nS3_BUCKET_NAME=recordings\nMAX_CONCURENT_PARTS=7\nOTHER=1\n")
    with pytest.raises(SettingsError, match="did you mean MAX_CONCURRENT_PARTS"):
        load_settings(file)


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cef_trio", *arguments],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )


@pytest.mark.real
def test_the_version_is_told() -> None:
    assert command("--version").stdout == f"cef-trio {__version__}\n"


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "cef-trio: WATCH_DIR is missing"),
        (["run", "--local", "/no/such/folder"], "cef-trio: --local takes a folder that exists"),
        (["demo", "--duration", "0"], "takes seconds from 1 to 3600"),
        (["dance"], "invalid choice"),
        ([], "required"),
    ],
)
def test_wrong_input_is_a_clear_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
