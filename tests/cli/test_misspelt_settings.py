"""A variable that is nearly named as a setting is refused, wherever it stands; a foreign one stops nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.command import command

from cef_trio.settings.misspelt import ALSO_CALLED, near_misses
from cef_trio.settings.model import Settings, SettingsError, load_settings
from cef_trio.settings.secret_files import file_variables

NAMES = [*(name.upper() for name in Settings.model_fields), *file_variables(Settings).values()]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def meant(variable: str, *, shared: bool = True, **others: str) -> str | None:
    found = dict(near_misses({variable: "its value", **others}, NAMES, shared=shared))
    return found.get(variable)


def test_another_name_for_a_setting_is_no_setting_itself() -> None:
    assert [name for name in ALSO_CALLED if name in NAMES] == []
    assert [name for name in ALSO_CALLED.values() if name not in NAMES] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_is_no_near_miss_and_its_variants_are(name: str) -> None:
    assert meant(name) is None
    assert meant(name, shared=False) is None
    assert meant(name.lower()) is None
    assert meant(f"CEF_TRIO_{name}") == name
    assert meant(f"{name}S", shared=False) in NAMES
    if "_" in name:
        assert meant(f"{name}S") == name or f"{name}S" in NAMES
        assert meant(f"{name}_FILE") is not None or f"{name}_FILE" in NAMES
        without_a_letter = name[:-2] + name[-1]
        assert meant(without_a_letter, shared=False) in NAMES or len(name) < 8


def slips(name: str) -> set[str]:
    """Return the name with one letter missing, doubled, replaced, or swapped with the next, in any place."""
    at = range(len(name))
    missing = {name[:i] + name[i + 1 :] for i in at}
    doubled = {name[:i] + name[i] + name[i:] for i in at}
    replaced = {name[:i] + "J" + name[i + 1 :] for i in at}
    swapped = {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in at[:-1]}
    return (missing | doubled | replaced | swapped) - {*NAMES}


@pytest.mark.parametrize("name", [name for name in NAMES if len(name) >= 12])
def test_one_slip_is_recognized_wherever_it_is(name: str) -> None:
    assert {slip for slip in slips(name) if meant(slip) is None} == set()
    assert {slip for slip in slips(name) if meant(slip, shared=False) is None} == set()


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("REIDS_URL", "REDIS_URL"),
        ("REDI_URL", "REDIS_URL"),
        ("REDISS_URL", "REDIS_URL"),
        ("REDIS_URK", "REDIS_URL"),
        ("WACTH_DIR", "WATCH_DIR"),
        ("OWNR_NAME", "OWNER_NAME"),
        ("S3ENDPOINT_URL", "S3_ENDPOINT_URL"),
        ("CEF_TRIO_ATFER_UPLOAD", "AFTER_UPLOAD"),
        ("S3_ENDPOINT", "S3_ENDPOINT_URL"),
        ("S3_ENDPOINT_URI", "S3_ENDPOINT_URL"),
        ("S3_ENPOINT_URL", "S3_ENDPOINT_URL"),
        ("s3_endpoint", "S3_ENDPOINT_URL"),
        ("S3_URL", "S3_ENDPOINT_URL"),
        ("S3_BUCKET", "S3_BUCKET_NAME"),
        ("S3_REGION", "S3_REGION_NAME"),
        ("S3_ACCESS_KEY", "S3_ACCESS_KEY_ID"),
        ("S3_SECRET_KEY", "S3_SECRET_ACCESS_KEY"),
        ("S3_PREFIX", "S3_KEY_TEMPLATE"),
        ("REDIS", "REDIS_URL"),
        ("REDIS_HOST", "REDIS_URL"),
        ("REDIS_ULR", "REDIS_URL"),
        ("WATCH_DIRECTORY", "WATCH_DIR"),
        ("WATCH_FOLDER", "WATCH_DIR"),
        ("CHUNK_SIZE", "CHUNK_SIZE_BYTES"),
        ("STREAM_TIMEOUT", "STREAM_TIMEOUT_SECONDS"),
        ("MAX_UPLOAD_RTAE", "MAX_UPLOAD_RATE"),
        ("CEF_TRIO_S3_BUCKET", "S3_BUCKET_NAME"),
        ("CEF_TRIO_WATCH_DIR", "WATCH_DIR"),
        ("S3_ACCESS_KEY_FILE", "S3_ACCESS_KEY_ID_FILE"),
        ("S3_SECRET_KEY_FILE", "S3_SECRET_ACCESS_KEY_FILE"),
        ("REDIS_FILE", "REDIS_URL_FILE"),
        ("S3_BUCKET_NAME_FILE", "S3_BUCKET_NAME"),
    ],
)
def test_a_near_miss_is_recognized_in_the_environment_and_in_the_file(variable: str, setting: str) -> None:
    assert meant(variable) == meant(variable, shared=False) == setting


@pytest.mark.parametrize(
    "variable",
    [
        "AWS_REGION",
        "INSTANCE_IP",
        "PATCH_DIR",
        "BATCH_DIR",
        "PROD_HOST",
        "FROM_PORT",
        "SLOG_LEVEL",
        "LOGLEVEL",
        "APPENV",
        "AWS_S3_BUCKET",
        "AWS_ENDPOINT_URL",
        "S3CMD_CONFIG",
        "MC_HOST_s3",
        "RESTIC_REPOSITORY",
        "PATH",
        "HOME",
        "LANG",
        "REDIS_PORT",
        "REDIS_PORT_6379_TCP",
        "REDIS_PORT_6379_TCP_ADDR",
        "REDIS_SERVICE_HOST",
        "REDIS_SERVICE_PORT",
        "REDIS_URL_2",
        "WATCHPACK_POLLING",
        "APP_NAME",
        "APP_VERSION",
        "LOG_FORMAT",
        "LOG_FILE",
        "MAX_CONCURRENT_TASKS",
        "INSTANCE_TYPE",
        "FILE_SYSTEM",
        "KEY",
        "FILE",
        "LOG",
        "MAX",
        "APP",
        "ON",
        "S3",
        "PROM_PORT_8000_TCP",
        "CEF_TRIO_CACHE",
        "WEBHOOK_URL",
        "RETRY_COUNT",
    ],
)
def test_a_foreign_variable_of_the_environment_is_left_alone(variable: str) -> None:
    assert meant(variable) is None


def test_a_variable_that_a_setting_is_made_from_is_left_alone() -> None:
    assert meant("REDIS_HOST", REDIS_URL="redis://its value:6379/0") is None
    assert meant("REDIS_PASSWORD", REDIS_URL="redis://:its%20value@redis/0") is None
    assert meant("REDIS_PASSWORD", REDIS_URL_FILE="/run/secrets/redis") is None
    assert meant("S3_BUCKET", S3_BUCKET_NAME="its value") is None
    assert meant("S3_BUCKET", S3_BUCKET_NAME="another") == "S3_BUCKET_NAME"
    assert dict(near_misses({"S3_BUCKET": ""}, NAMES, shared=True)) == {}, "empty counts as unset"
    assert dict(near_misses({"S3_BUCKET": "x"}, NAMES, shared=True, elsewhere=["S3_BUCKET_NAME"])) == {}


def test_a_near_miss_in_the_environment_is_one_line_that_names_the_right_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WATCH_DIR": str(tmp_path), "S3_BUCKET_NAME": "recordings"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert load_settings(None).s3_endpoint_url is None
    monkeypatch.setenv("S3_ENDPOINT", "http://127.0.0.1:9000")
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    [line] = caught.value.lines
    assert line.startswith("S3_ENDPOINT in the environment is not a setting; did you mean S3_ENDPOINT_URL?")
    assert load_settings(None, s3_endpoint_url="http://127.0.0.1:1").s3_endpoint_url == "http://127.0.0.1:1"


@pytest.mark.real
def test_the_daemon_does_not_start_with_a_near_miss(tmp_path: Path) -> None:
    settings = {"WATCH_DIR": str(tmp_path), "S3_BUCKET_NAME": "recordings", "S3_ENDPOINT": "http://127.0.0.1:9000"}
    done = command("run", settings=settings, code=2)
    assert done.stderr.startswith("cef-trio: S3_ENDPOINT in the environment is not a setting")
    assert done.stderr.count("\n") == 1
