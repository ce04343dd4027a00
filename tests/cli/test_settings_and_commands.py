"""Bad input gets one clear line; what is written about the settings is made from them."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers.command import command
from servers.json_schemas import FOLDER as SCHEMAS
from servers.json_schemas import check_document

from cef_trio import __version__
from cef_trio.cli import check
from cef_trio.cli.command_line import commands_of
from cef_trio.cli.main import COMMANDS, main, make_parser
from cef_trio.cli.slow_files import notice_if_slow
from cef_trio.lab.command import make_parser as make_lab_parser
from cef_trio.settings.meanings import meanings
from cef_trio.settings.model import (
    AppEnvironment,
    Settings,
    SettingsError,
    load_settings,
    secret_values,
    without_secrets,
)
from cef_trio.settings.reference import example_env, settings_md

ROOT = Path(__file__).parents[2]
WITHOUT_JSON = {"completion"}


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


def test_every_setting_has_a_description() -> None:
    assert [name for name in Settings.model_fields if not meanings(Settings).get(name)] == []


def test_missing_settings_are_named_one_line_each() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    assert [line.split()[0] for line in caught.value.lines] == ["WATCH_DIR", "S3_BUCKET_NAME"]


def test_a_command_that_needs_no_folder_and_no_bucket_does_not_ask_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(None, unneeded={"watch_dir", "s3_bucket_name"})
    assert (settings.watch_dir, settings.s3_bucket_name) == (Path(os.devnull), "not-needed")
    with pytest.raises(SettingsError, match=r"^S3_BUCKET_NAME is missing"):
        load_settings(None, unneeded={"watch_dir"})
    monkeypatch.setenv("S3_BUCKET_NAME", "recordings")
    monkeypatch.setenv("WATCH_DIR", str(tmp_path / "of another machine"))
    settings = load_settings(None, unneeded={"watch_dir", "s3_bucket_name"})
    assert (settings.watch_dir, settings.s3_bucket_name) == (tmp_path / "of another machine", "recordings")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match=r"^LOG_LEVEL"):
        load_settings(None, unneeded={"watch_dir"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CHUNK_SIZE_BYTES", "1MiB"),
        ("CHUNK_SIZE_BYTES", "ten"),
        ("CHUNK_SIZE_BYTES", "automatic"),
        ("CHUNK_SIZE_BYTES", "6GiB"),
        ("MAX_CONCURRENT_PARTS", "0"),
        ("MAX_CONCURRENT_STREAMS", "many"),
        ("STREAM_TIMEOUT_SECONDS", "-1"),
        ("STREAM_TIMEOUT_SECONDS", "inf"),
        ("S3_KEY_TEMPLATE", "streams/{file_name}"),
        ("S3_KEY_TEMPLATE", "/streams/{stream_id}"),
        ("S3_KEY_TEMPLATE", "a/../{stream_id}"),
        ("S3_KEY_TEMPLATE", "{stream_id}/x"),
        ("S3_KEY_TEMPLATE", "x/{stream_id}/a\nb"),
        ("S3_KEY_TEMPLATE", "x/{stream_id}/\udcff"),
        ("S3_KEY_TEMPLATE", "x" * 790 + "/{stream_id}"),
        ("S3_KEY_TEMPLATE", "x/{stream_id}/{date}"),
        ("S3_KEY_TEMPLATE", "x/{stream_id}/{owner}/y"),
        ("S3_KEY_TEMPLATE", "x/{owner}-{stream_id}"),
        ("S3_KEY_TEMPLATE", "x/{owner}/{owner}/{stream_id}"),
        ("OWNER_NAME", "Node-7"),
        ("OWNER_NAME", "node 7"),
        ("OWNER_NAME", "-node"),
        ("OWNER_NAME", "a/b"),
        ("OWNER_NAME", "n" * 64),
        ("OWNER_NAME", "fleet"),
        ("S3_ENDPOINT_URL", "s3.example.com"),
        ("S3_ENDPOINT_URL", "http://s3.example.com:port"),
        ("S3_ENDPOINT_URL", "http://s3.example.com:99999"),
        ("S3_ENDPOINT_URL", "http://[::1"),
        ("S3_ENDPOINT_URL", "http://s3..example.com"),
        ("S3_ENDPOINT_URL", f"http://{'s' * 64}.example.com:9000"),
        ("S3_BUCKET_NAME", "recordings/../others"),
        ("S3_BUCKET_NAME", "-ab"),
        ("S3_EQUAL_PARTS", "maybe"),
        ("S3_CA_FILE", "/no/such.pem"),
        ("REDIS_CA_FILE", "/no/such.pem"),
        ("S3_CHECKSUM", "crc16"),
        ("S3_STORAGE_CLASS", "GLACIER IR"),
        ("S3_SSE", "kms"),
        ("S3_SSE_KMS_KEY_ID", "a key"),
        ("S3_SSE_BUCKET_KEY", "maybe"),
        ("S3_TAGS", "team"),
        ("S3_TAGS", "team=a,team=b"),
        ("S3_CONTENT_TYPE", "mp4"),
        ("S3_ACL", "public"),
        ("MAX_UPLOAD_RATE", "10 MBit/s"),
        ("MAX_UPLOAD_RATE", "-1"),
        ("WATCH_PATTERNS", ","),
        ("WATCH_EXCLUDE", "tmp/../x"),
        ("WATCH_MIN_AGE_SECONDS", "-1"),
        ("WATCH_MIN_SIZE_BYTES", "much"),
        ("WATCH_LINK_ROOTS", "/mnt/a:b"),
        ("LOG_LEVEL", "loud"),
        ("APP_ENV", "test"),
        ("AFTER_UPLOAD", "erase"),
        ("AFTER_UPLOAD", "delete:/x"),
        ("AFTER_UPLOAD", "move"),
        ("AFTER_UPLOAD", "move:"),
        ("AFTER_UPLOAD", "move:archive"),
        ("WEBHOOK_CA_FILE", "/no/such.pem"),
        ("WEBHOOK_TIMEOUT_SECONDS", "0"),
        ("WEBHOOK_RETRY_HOURS", "-1"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable_and_what_it_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, **{variable: value})
    assert line.startswith(f"{variable}: ")
    assert repr(value) in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("x/{stream_id}/{date}", "has no field {date}; did you mean {year}-{month}-{day}?"),
        ("x/{stream_id}/{filename}", "has no field {filename}; did you mean {file_name}?"),
        ("x/{stream_id}/{Year}", "has no field {Year}; did you mean {year}?"),
        ("x/{hostname}/{stream_id}", "has no field {hostname}; did you mean {host}?"),
        ("x/{stream_id}/{}", "has no such field; its fields are {owner}, {host}, {relative_dir}"),
        ("x/{stream_id}/{\x1b[31m}", "has no such field; its fields are"),
        ("x/{stream_id}}", "must have braces around fields only"),
        ("x/{stream_id}/{year}/{year}", "must not contain {year} more than once"),
        ("x/{file_name}", "must contain {stream_id}, which makes each key unique; such as 'x/{stream_id}/{file_name}'"),
        (
            "{host}/{relative_dir}/{year}/{file_stem}{file_ext}",
            "such as '{host}/{relative_dir}/{year}/{file_stem}-{stream_id}{file_ext}'",
        ),
        ("recordings", "such as 'recordings/{stream_id}'"),
        ("/x/{stream_id}", "must not begin with '/'; such as 'x/{stream_id}'"),
        ("x//y/{stream_id}", "must not have '//', '/./' or '/../'; such as 'x/y/{stream_id}'"),
        ("x/../{stream_id}", "must not have '//', '/./' or '/../'; such as 'x/{stream_id}'"),
        ("x/{stream_id}/", "must not end with '/'; such as 'x/{stream_id}'"),
        ("{relative_dir}/{stream_id}", "must begin with a fixed prefix, by which our uploads are found; such as 'rec"),
        (
            "x/{relative_dir}{stream_id}",
            "must have {relative_dir} as a folder of its own; such as 'x/{relative_dir}/{s",
        ),
        ("x/{stream_id}/{relative_dir}", "must have {relative_dir} as a folder of its own; such as 'streams/"),
        ("x/{file_ext}/{stream_id}", "must have other text beside {file_ext}"),
        ("x/.{file_ext}/{stream_id}", "must have other text beside {file_ext}"),
        ("x/{file_stem}-{stream_id}-{file_name}", "names on both sides of {stream_id} in a folder"),
        ("x/{file_stem}-{stream_id}-{file_name}", "such as 'x/{file_stem}-{stream_id}{file_ext}'"),
        ("x/{year}/{owner}/{stream_id}", "must have {owner} at the end of a folder, before other fields"),
        (
            "x" * 780 + "/{host}/{stream_id}",
            "must be 56 bytes shorter, with the longest names of owner and host: a key has 1,024 bytes",
        ),
        ("x" * 790 + "/{stream_id}", "must be at most 800 bytes of printable text: a key has 1,024"),
    ],
)
def test_a_key_template_that_is_refused_says_what_would_be_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, says: str
) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, S3_KEY_TEMPLATE=template)
    assert line.startswith("S3_KEY_TEMPLATE: ")
    assert says in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("zone", "says"),
    [
        ("europe/berlin", "did you mean Europe/Berlin?"),
        ("Berlin", "did you mean Europe/Berlin?"),
        ("America/New York", "did you mean America/New_York?"),
        ("Europe/Berln", "did you mean Europe/Berlin?"),
        ("utc", "did you mean UTC?"),
        ("Europe", "takes the name of a time zone, such as Europe/Berlin or UTC (it is 'Europe')"),
        # Abbreviations are near to wrong zones, and Etc/GMT+1 is an hour behind UTC.
        ("CEST", "such as Europe/Berlin or UTC (it is 'CEST')"),
        ("AEST", "such as Europe/Berlin or UTC (it is 'AEST')"),
        ("GMT+1", "such as Europe/Berlin or UTC (it is 'GMT+1')"),
        ("UTC+1", "such as Europe/Berlin or UTC (it is 'UTC+1')"),
        ("../../etc/passwd", "takes the name of a time zone"),
        ("/etc/localtime", "takes the name of a time zone"),
        ("+02:00", "takes the name of a time zone"),
        ("\udcff", "takes the name of a time zone"),
        ("x" * 5000, "takes the name of a time zone"),
    ],
)
def test_an_unknown_time_zone_is_one_line_with_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, says: str
) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, KEY_TIME_ZONE=zone)
    assert line.startswith("KEY_TIME_ZONE: ")
    assert says in line


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        (" recorder.example.com ", "recorder.example.com"),
        ("::", "::"),
        ("[::1]", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        *(
            (wrong, None)
            for wrong in ("127.0.0.1:9000", "http://127.0.0.1", "[::1]:9000", "*", "a b", "é", "[", "::1::")
        ),
    ],
)
def test_prom_host_is_an_address_or_a_name_without_a_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, host: str | None
) -> None:
    """As `health` takes it; `check` must not find valid what the start refuses."""
    if host is None:
        (line,) = lines_of(tmp_path, monkeypatch, PROM_HOST=given)
        assert line.startswith("PROM_HOST: takes an address or a host name such as 127.0.0.1, 0.0.0.0 or ::1;")
    else:
        found = load_settings(None, watch_dir=str(tmp_path), s3_bucket_name="recordings", prom_host=given)
        assert found.prom_host == host


@pytest.mark.parametrize(
    "name", [name for name in Settings.model_fields if name.rpartition("_")[2] in {"seconds", "hours", "days"}]
)
def test_every_duration_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """`test_a_daemon_works_with_the_most_extreme_durations` has the largest ones; more fits into no date."""
    most = {"seconds": 3_153_600_000, "hours": 876_000, "days": 36_500}[name.rpartition("_")[2]]
    lines = lines_of(tmp_path, monkeypatch, AFTER_UPLOAD="delete", **{name.upper(): f"{most + 1}"})
    assert lines == [f"{name.upper()}: must be less than or equal to {most} (it is '{most + 1}')"]


@pytest.mark.parametrize("name", ["MAX_UPLOAD_RATE", "WATCH_MIN_SIZE_BYTES", "MIN_FREE_SPACE", "CHUNK_SIZE_BYTES"])
@pytest.mark.parametrize("digits", [40, 400, 5000])
def test_a_size_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, digits: int) -> None:
    """One that fits into no float ended the response of `/metrics`."""
    (line,) = lines_of(tmp_path, monkeypatch, **{name: "9" * digits})
    assert line.startswith(f"{name}: takes ")


@pytest.mark.parametrize(
    ("text", "fits"), [("20", False), ("1023KiB", False), ("1MiB", True), ("0", True), ("20%", True)]
)
def test_a_free_space_whose_unit_was_forgotten_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fits: bool
) -> None:
    """Of 20 bytes nobody would notice that nothing is kept free."""
    if fits:
        settings = load_settings(None, unneeded={"s3_bucket_name"}, watch_dir=tmp_path, min_free_space=text)
        assert bool(settings.min_free_space) is (text != "0")
    else:
        (line,) = lines_of(tmp_path, monkeypatch, MIN_FREE_SPACE=text)
        assert line.startswith("MIN_FREE_SPACE: takes a size of at least 1MiB, such as 20GiB, or a percentage")


@pytest.mark.parametrize("region", ["é", "a b", "eu/x", "us-east-1\n", "…"])
def test_a_region_that_cannot_be_signed_is_refused_and_no_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, S3_REGION_NAME=region)
    assert line.startswith("S3_REGION_NAME: takes the name of a region, such as eu-central-1")


def test_an_endpoint_that_names_the_bucket_already_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its objects would be at /recordings/recordings/KEY, or the bucket not found."""
    (line,) = lines_of(tmp_path, monkeypatch, S3_ENDPOINT_URL="https://s3.example.com/recordings/")
    assert line == "S3_ENDPOINT_URL must not end with the bucket /recordings, which S3_BUCKET_NAME adds to it"
    for fit in ("https://recordings", "https://s3.example.com/other", "https://s3.example.com/recordings/gateway"):
        monkeypatch.setenv("S3_ENDPOINT_URL", fit)
        assert load_settings(None).s3_endpoint_url == fit


@pytest.mark.parametrize("prefix", ["a\udcffb:", "a\nb:", "a\x1b[31m"])
def test_a_prefix_that_redis_cannot_be_sent_is_refused_and_no_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, REDIS_KEY_PREFIX=prefix)
    assert line.startswith("REDIS_KEY_PREFIX: takes printable text in UTF-8")
    assert line.isprintable()


@pytest.mark.parametrize("hosts", ["http://a.example", "*.example.com", "a.example:8000", ".example.com", "a b"])
def test_a_host_name_that_no_request_can_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: str
) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, PROM_ALLOWED_HOSTS=f"status.example.com,{hosts}")
    assert line.startswith("PROM_ALLOWED_HOSTS: takes host names without scheme, port and *")
    given = {"watch_dir": str(tmp_path), "s3_bucket_name": "recordings"}
    found = load_settings(None, **given, prom_allowed_hosts="Status.Example.Com., recorder")
    assert found.prom_allowed_hosts == ("status.example.com", "recorder")


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


def test_a_password_in_the_endpoints_url_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("https://user:hunter2@s3.example.com", "https://user:hun/ter2 @s3.example.com"):
        (line,) = lines_of(tmp_path, monkeypatch, S3_ENDPOINT_URL=url)
        assert line.startswith("S3_ENDPOINT_URL: ")
        assert "ter2" not in line


def test_a_signed_urls_query_is_refused_as_the_endpoint_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, S3_ENDPOINT_URL="https://s3.example.com/b?X-Amz-Signature=hunter2")
    assert line.endswith("(it is 'https://s3.example.com/b?***')")


@pytest.mark.parametrize("variable", ["S3_ACCESS_KEY_ID", "S3_SESSION_TOKEN"])
@pytest.mark.parametrize("value", ["hunter2\nx-amz-acl: public-read", "hunter2 ", "hunter2\u00e9"])
def test_a_credential_that_no_header_can_carry_is_one_line_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    keys = {"S3_ACCESS_KEY_ID": "id", "S3_SECRET_ACCESS_KEY": "secret", variable: value}
    (line,) = lines_of(tmp_path, monkeypatch, **keys)
    assert line == f"{variable}: must be printable ASCII without spaces"


@pytest.mark.parametrize(
    "variables",
    [
        {"S3_SESSION_TOKEN": "a token without its key"},
        {"RETRY_INITIAL_SECONDS": "20", "RETRY_MAX_SECONDS": "10"},
        {"MAX_UPLOAD_RATE": "16383", "MAX_CONCURRENT_PARTS": "4"},
        {"S3_STORAGE_CLASS": "COLD"},
        {"S3_SSE_KMS_KEY_ID": "alias/x", "S3_SSE": "AES256"},
        {"S3_SSE_BUCKET_KEY": "true", "S3_SSE": "aws:kms:dsse"},
    ],
)
def test_what_makes_no_sense_together_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, **variables)
    assert all(name in line for name in variables)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("example.com/hook", "must be a URL such as"),
        ("ftp://example.com/", "must be a URL such as"),
        ("https:///x", "must be a URL such as"),
        ("https://example.com:http/", "must be a URL such as"),
        ("https://example.com/#x", "must be a URL such as"),
        ("https://example.com/a b", "must be a URL such as"),
        ("https://exämple.com/", "must be a URL such as"),
        ("https://user:hunter2@example.com/", "must not contain a user or password"),
    ],
)
def test_a_webhook_that_is_no_url_is_one_line_and_its_token_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, ON_COMPLETE_WEBHOOK=url)
    assert line.startswith("ON_COMPLETE_WEBHOOK: ")
    assert says in line
    assert url not in line


@pytest.mark.parametrize("secret", ["hunter2", "whsec_", "whsec_aHVudGVyMg==", "whsec_*" * 9, "x" * 40])
def test_an_invalid_webhook_secret_is_one_line_with_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    given = {"ON_COMPLETE_WEBHOOK": "https://example.com/", "WEBHOOK_SECRET": secret}
    (line,) = lines_of(tmp_path, monkeypatch, **given)
    assert line == (
        'WEBHOOK_SECRET: takes whsec_ and the base64 of 24 to 64 bytes, as of: echo "whsec_$(openssl rand -base64 32)"'
    )


def test_a_webhooks_url_and_secret_are_kept_out_of_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, secret = "https://example.com/hook?token=hunter2", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    given = {"WATCH_DIR": str(tmp_path), "S3_BUCKET_NAME": "recordings", "WEBHOOK_SECRET": secret}
    for name, value in {**given, "ON_COMPLETE_WEBHOOK": url}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(None)
    assert not {"hunter2", secret} & {*json.dumps(without_secrets(settings)).split('"')}
    assert {url, secret} <= {*secret_values(settings)}
    monkeypatch.delenv("ON_COMPLETE_WEBHOOK")
    with pytest.raises(SettingsError, match="WEBHOOK_SECRET needs ON_COMPLETE_WEBHOOK, which is missing"):
        load_settings(None)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("watch", "inside WATCH_DIR"),
        ("watch/done", "inside WATCH_DIR"),
        ("watch/../watch/done", "inside WATCH_DIR"),
        ("alias/done", "inside WATCH_DIR"),
        ("", "inside WATCH_DIR"),
        ("file", "cannot be a folder"),
        ("file/done", "cannot be a folder"),
        ("loop", "cannot be checked"),
    ],
)
def test_a_folder_that_recordings_cannot_be_moved_to_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, says: str
) -> None:
    watched = tmp_path / "watch"
    watched.mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "alias").symlink_to(watched)
    (tmp_path / "loop").symlink_to("loop")
    (line,) = lines_of(
        tmp_path, monkeypatch, WATCH_DIR=str(watched), AFTER_UPLOAD=f"move:{tmp_path}/{target}".rstrip("/")
    )
    assert line.startswith("AFTER_UPLOAD: ")
    assert says in line


@pytest.mark.skipif("os.geteuid() == 0", reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "watch").mkdir()
    (line,) = lines_of(tmp_path, monkeypatch, WATCH_DIR=str(tmp_path / "watch"), AFTER_UPLOAD="move:/usr/x")
    assert "cannot be written" in line


@pytest.mark.parametrize("given", ["keep", "Delete", "move:{}/done/deep/", "MOVE:{}"])
def test_what_may_be_done_after_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    (tmp_path / "watch").mkdir()
    (tmp_path / "beside").mkdir()
    monkeypatch.setenv("WATCH_DIR", str(tmp_path / "watch"))
    monkeypatch.setenv("S3_BUCKET_NAME", "recordings")
    monkeypatch.setenv("AFTER_UPLOAD", given.format(tmp_path / "beside"))
    word, _, folder = str(load_settings(None).after_upload).partition(":")
    assert word == given.lower().partition(":")[0]
    assert folder == given.partition(":")[2].format(tmp_path / "beside").rstrip("/")


def test_words_may_be_written_in_capitals_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"LOG_LEVEL": "debug", "APP_ENV": "Production", "S3_CHECKSUM": "MD5", "S3_ADDRESSING": " Path "}
    words |= {"S3_STORAGE_CLASS": "glacier_ir", "S3_SSE": "aes256", "S3_ACL": "Private"}
    for name, value in {"WATCH_DIR": str(tmp_path), "S3_BUCKET_NAME": "recordings", **words}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(None)
    assert (settings.log_level, settings.app_env) == ("DEBUG", AppEnvironment.PRODUCTION)
    assert (settings.s3_checksum, settings.s3_addressing) == ("md5", "path")
    assert (settings.s3_storage_class, settings.s3_sse, settings.s3_acl) == ("GLACIER_IR", "AES256", "private")


def test_an_upload_rate_is_a_size_and_nothing_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCH_DIR", str(tmp_path))
    monkeypatch.setenv("S3_BUCKET_NAME", "recordings")
    for text, rate in {"": 0, "0": 0, "16384": 16384, "10MiB": 10 << 20, "1 MB": 10**6}.items():
        monkeypatch.setenv("MAX_UPLOAD_RATE", text)
        assert load_settings(None).max_upload_rate == rate
    monkeypatch.setenv("MAX_CONCURRENT_PARTS", "1")
    monkeypatch.setenv("MAX_UPLOAD_RATE", "4KiB")
    assert load_settings(None).max_upload_rate == 4096


def settings_with_redis_at(url: str) -> Settings:
    return Settings.model_validate({"watch_dir": "/", "s3_bucket_name": "recordings", "redis_url": url})


@given(st.sampled_from(["redis", "rediss", "redis+sentinel", "redis+cluster"]), st.text(min_size=1))
def test_a_password_in_redis_url_is_known_to_the_logs_as_written_and_as_sent(scheme: str, password: str) -> None:
    sent = password.encode(errors="replace").decode()
    written = quote(sent, safe="")
    assert {sent, written} <= {*secret_values(settings_with_redis_at(f"{scheme}://user:{written}@host:1/m"))}
    assert sent in secret_values(settings_with_redis_at(f"{scheme}://host/m?sentinel_password={written}"))


@given(st.text())
def test_no_redis_url_is_so_wrong_that_the_logs_cannot_be_set_up(rest: str) -> None:
    assert all(secret_values(settings_with_redis_at(f"redis://{rest}")))


def test_a_folder_that_cannot_even_be_asked_about_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = lines_of(tmp_path, monkeypatch, WATCH_DIR="x" * 300)
    assert line.startswith("WATCH_DIR must be a folder that exists")


def test_a_file_of_settings_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"WATCH_DIR=\xff\xfe\n")
    with pytest.raises(SettingsError, match="cannot be read as settings: its byte 11 is no UTF-8 text"):
        load_settings(file)


def test_settings_that_do_not_fit_together_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_misspelt_variable_in_the_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"WATCH_DIR={tmp_path}\nS3_BUCKET_NAME=recordings\nMAX_CONCURENT_PARTS=7\nOTHER=1\n")
    with pytest.raises(SettingsError, match="did you mean MAX_CONCURRENT_PARTS"):
        load_settings(file)


@pytest.mark.real
def test_the_version_is_printed() -> None:
    assert command("--version").stdout == f"cef-trio {__version__}\n"


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "cef-trio: WATCH_DIR is missing"),
        (["run", "--local", "/no/such/folder"], "cef-trio: --local takes a folder that exists"),
        (["run", "--env-file", "/no/such.env"], "takes a file that exists"),
        (["demo", "--duration", "0"], "takes seconds from 1 to 3600"),
        (["dance"], "cef-trio: 'dance' is not a command (see `cef-trio --help`)"),
        (["LST"], "cef-trio: 'LST' is not a command; did you mean 'list'? (see `cef-trio --help`)"),
        (["help"], "cef-trio: 'help' is not a command (see `cef-trio --help`)"),
        (["list", "extra", "--jsn"], "cef-trio list: unrecognized arguments: extra --jsn (see `cef-trio list --help`)"),
        (["list", "--name", ""], "argument --name: takes a pattern with * and ?"),
        (["--json", "list"], "the command comes first, as in `cef-trio list --json`"),
        ([], "required"),
        (["list", "--limit", "0"], "argument --limit: takes a number of streams, 1 or more, not '0'"),
        (["list", "--since", "0001-01-01T00:00+14:00"], "or a time in UTC"),
        (["list", "--since", "99999d"], "or a time in UTC"),
        (["gc", "--older-than", "999999d"], "36500d at most"),
        (["forget", "--failed", "--older-than", "999999d"], "36500d at most"),
        (["verify", "--all", "--for", "999999d"], "36500d at most"),
        (["list", "--env-file", "/"], "takes a file, not the folder '/'"),
        (["list", "--env-file", "x" * 5000], "(File name too long)"),
        (["list", "--env-file", "x\udcff"], "takes a file that exists"),
        (["status", "--watch"], "--watch is for a terminal"),
        (["fleet", "retire"], "fleet retire takes the name of an owner, as `cef-trio fleet` shows it"),
    ],
)
def test_wrong_input_is_a_clear_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    done = command(*arguments, code=2)
    assert says in done.stderr
    assert arguments == ["run"] or done.stderr.count("\n") == 1


@pytest.mark.real
def test_settings_from_a_pipe_are_refused_which_can_be_read_only_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not the pipe" in command("list", "--env-file", str(tmp_path / "pipe"), code=2).stderr


@pytest.mark.real
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"OWNER_NAME=a\nREDIS_URL redis://there\n", [2]),
        (b'S3_ENDPOINT_URL="http://there\nOWNER_NAME=a\n', [1]),
        (b"REDIS_URL\n# a comment\n\nexport OWNER_NAME=a\nS3_ENDPOINT_URL: http://there\n", [1, 5]),
    ],
)
def test_a_line_of_the_settings_file_that_assigns_nothing_is_refused(
    tmp_path: Path, content: bytes, lines: list[int]
) -> None:
    """It would be ignored, and its setting have the default: another Redis, or AWS."""
    file = tmp_path / "its.env"
    file.write_bytes(content)
    said = command("list", "--env-file", str(file), code=2).stderr.splitlines()
    assert said == [
        f"cef-trio: {file}, line {number}: takes NAME=value, with quotation marks in pairs; else it is ignored"
        for number in lines
    ]
    assert "dotenv" not in command("check", "--env-file", str(file), code=2).stderr


def test_a_reader_that_has_ended_is_no_bug_of_a_command_with_several_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    def demo(_: object) -> int:
        raise ExceptionGroup("of a nursery", [BrokenPipeError(), ExceptionGroup("", [BrokenPipeError()])])

    monkeypatch.setattr("cef_trio.cli.demo.run", demo)
    monkeypatch.setattr(sys.modules[main.__module__], "_discard", lambda _: None)
    assert main(["demo"]) == 141


@pytest.mark.real
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_full_disk_below_standard_output_is_one_line(more: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cef_trio", "completion", "bash"]
            if not more
            else [sys.executable, "-m", "cef_trio", "check", *more],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            cwd="/",
        )
    assert done.stderr == "cef-trio: standard output cannot be written: No space left on device\n"
    assert done.returncode == 3


@pytest.mark.real
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["--help", "--version", "list --help", "run --help", "lab --help", "lab kill -h"])
def test_a_help_that_cannot_be_written_is_one_line(words: str, unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cef_trio", *words.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.stderr == "cef-trio: standard output cannot be written: No space left on device\n"
    assert done.returncode == 3


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_in_a_folder_that_this_user_may_not_enter_there_is_no_settings_file() -> None:
    script = (
        "import os, tempfile; os.chdir(tempfile.mkdtemp()); os.setuid(65534); os.environ['OWNER_NAME'] = 'a'; "
        "from pathlib import Path; print(read(Path('.env'), unneeded={'watch_dir', 's3_bucket_name'}).owner_name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"from cef_trio.settings import read_settings as read; {script}"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("a\n", "")


@pytest.mark.real
def test_a_file_that_does_not_respond_is_named_while_a_command_waits_for_it(tmp_path: Path) -> None:
    """A pipe that nobody has written to stands for a file of a mount that hangs."""
    pipe = tmp_path / "redis-url"
    os.mkfifo(pipe)
    needed = {"OWNER_NAME": "a", "WATCH_DIR": str(tmp_path), "S3_BUCKET_NAME": "recordings"}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "REDIS_URL_FILE": str(pipe), **needed}
    with subprocess.Popen(
        [sys.executable, "-m", "cef_trio", "list"], env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("cef-trio: still waiting for the settings: for .env, or for a file of a secret")
        pipe.write_text("redis://127.0.0.1:9/0\n")
        assert "[redis://127.0.0.1:9/0]" in process.stderr.read()
    assert process.returncode == 4


def test_nothing_is_printed_where_the_files_respond(capsys: pytest.CaptureFixture[str]) -> None:
    with notice_if_slow("nothing", patience_seconds=3600.0):
        pass
    assert capsys.readouterr().err == ""


def test_check_ends_if_a_folder_does_not_respond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    responds = threading.Event()
    monkeypatch.setattr(check, "check_folders", lambda _: responds.wait())
    monkeypatch.setattr(os, "environ", {**os.environ, "WATCH_DIR": str(tmp_path), "S3_BUCKET_NAME": "recordings"})
    monkeypatch.setenv("FILE_SYSTEM_TIMEOUT_SECONDS", "0.1")
    monkeypatch.setenv("OWNER_NAME", "a")
    monkeypatch.chdir(tmp_path)
    try:
        assert main(["check"]) == 2
    finally:
        responds.set()
    assert (
        f"WATCH_DIR {str(tmp_path)!r}, or another folder of the settings, does not respond" in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["WATCH_DIR ", " WATCH_DIR", "WATCH-DIR", "watch.dir", "S3-ENDPOINT-URL"])
def test_blanks_and_hyphens_in_a_variables_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    meant = name.strip().upper().replace("-", "_").replace(".", "_")
    [line] = lines_of(tmp_path, monkeypatch, **{name: "http://there"})
    shown = repr(name) if " " in name else name
    assert line == f"{shown} in the environment is not a setting; did you mean {meant}? Rename it, or unset it"


@pytest.mark.real
def test_a_name_that_the_terminals_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    file = tmp_path / "its.env"
    file.write_text("WATCH_DIR=/srv/t\u00fcr\U0001f600\n", encoding="utf-8")
    done = command("check", "--changed", "--env-file", str(file), settings={"PYTHONIOENCODING": "ascii"}, code=2)
    assert "/srv/t\\xfcr\\U0001f600" in done.stdout


@pytest.mark.real
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"REDIS_URL": "redis://:hunter2@[::1"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://:hunter2@localhost:port/0"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://:hunter2@localhost/0?socket_timeout=9"}, "REDIS_URL"),
        ({"REDIS_URL": "redis+cluster://:hunter2@localhost", "REDIS_KEY_PREFIX": "{}:"}, "REDIS_KEY_PREFIX"),
        ({"S3_BUCKET_NAME": "under_score", "S3_ADDRESSING": "virtual"}, "S3_ADDRESSING=path"),
    ],
)
def test_what_only_its_own_room_can_tell_to_be_wrong_is_one_clear_line_too(
    tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    given = {"WATCH_DIR": str(tmp_path), "S3_BUCKET_NAME": "recordings", "S3_ENDPOINT_URL": "http://127.0.0.1:9"}
    keys = {"S3_ACCESS_KEY_ID": "key-of-nobody", "S3_SECRET_ACCESS_KEY": "secret-of-nobody"}
    done = command("run", settings=given | keys | variables, code=None)
    lines = [line for line in done.stderr.splitlines() if line.startswith("cef-trio: ")]
    assert done.returncode == 2
    assert [says in line for line in lines] == [True]
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.real
def test_a_closed_standard_error_changes_no_exit_code() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -m cef_trio run 2>&-', sys.executable],
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.real
@pytest.mark.parametrize("environment", list(AppEnvironment))
def test_a_log_whose_reader_has_gone_changes_neither_the_exit_nor_its_code(
    tmp_path: Path, environment: AppEnvironment
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: refused, for as long as the test lasts
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        variables = {
            "PATH": os.environ["PATH"],
            "APP_ENV": environment.value,
            "WATCH_DIR": str(tmp_path),
            "S3_BUCKET_NAME": "recordings",
            "S3_ENDPOINT_URL": f"http://{address}",
            "S3_ACCESS_KEY_ID": "key-of-nobody",
            "S3_SECRET_ACCESS_KEY": "secret-of-nobody",
            "REDIS_URL": f"redis://{address}",
            "PROM_PORT": "0",  # another daemon of this machine may have the usual one
        }
        with subprocess.Popen(
            [sys.executable, "-m", "cef_trio", "run"], env=variables, cwd="/", stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            # By then it listens for signals.
            assert any(b"waiting_for_service" in line for line in process.stderr)
            process.stderr.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


@pytest.mark.parametrize("command", set(COMMANDS) - {"run", "demo"})
def test_each_command_with_json_has_a_schema_and_wrong_arguments_are_a_document(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    schemas = {file.name.removesuffix(".schema.json") for file in SCHEMAS.glob("*.schema.json")}
    assert command in schemas or command in WITHOUT_JSON
    assert schemas - set(COMMANDS) == {"error", "retire"}
    if command not in WITHOUT_JSON:
        assert main([command, "--json", "--no-such-argument"]) == 2
        document = json.loads(capsys.readouterr().out)
        check_document(command, document)
        assert document["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (command.name, option.names[-1])
        for command in commands_of(make_parser(COMMANDS), COMMANDS)
        for option in command.options
        if option.metavar
    ],
)
def test_an_option_takes_no_empty_value(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`forget --failed --yes --owner "$NVR"` without that variable must not work on this machine's streams."""
    assert main([command, option, ""]) == 2
    assert f"argument {option}: " in capsys.readouterr().err


def nested(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and all of its commands'."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from nested(inner)


@pytest.mark.parametrize("of_lab", [False, True])
def test_each_help_has_an_example_that_parses(of_lab: bool) -> None:
    commands = make_parser(COMMANDS)
    whole = make_lab_parser(type(commands)) if of_lab else commands
    helps = {one.prog: one.format_help() for one in nested(whole)}
    if not of_lab:
        del helps["cef-trio lab"]  # a stand-in: its help is that of the laboratory's own parser
    for prog, text in helps.items():
        examples = text.partition("Examples:\n")[2].splitlines()
        assert examples, prog
        for example in examples:
            words = shlex.split(re.split(r"[|>]", example)[0])
            assert words[: len(prog.split())] == prog.split()
            no_file = {"--env-file", "/etc/cef-trio/cef-trio.env"}  # it need not exist here
            whole.parse_args([word for word in words[len(whole.prog.split()) :] if word not in no_file])


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_page_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: cef-trio {command}" in capsys.readouterr().out
