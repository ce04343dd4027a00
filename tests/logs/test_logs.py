"""Logs: one shape for everybody's events, no secret, and no name of a file that could forge a line."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog

from cef_trio.observability.logs import configure
from cef_trio.settings.model import AppEnvironment

pytestmark = pytest.mark.usefixtures("restored_logging")

SECRET = "s3cr3t-value"
EVIL = "a\n2026-01-01 [info] stream_completed\x1b[31m\r.mp4"


def written(environment: AppEnvironment, *, level: str = "DEBUG") -> io.StringIO:
    stream = io.StringIO()
    configure(environment, level, secrets=[SECRET], stream=stream)
    return stream


def test_production_logs_json_lines_with_the_events_own_fields() -> None:
    stream = written(AppEnvironment.PRODUCTION)
    structlog.get_logger("x").info("part_uploaded", part_number=3)
    entry = json.loads(stream.getvalue())
    assert (entry["event"], entry["part_number"], entry["level"]) == ("part_uploaded", 3, "info")
    assert entry["timestamp"].endswith("Z")


def test_the_libraries_below_us_have_the_same_shape_and_are_quiet() -> None:
    stream = written(AppEnvironment.PRODUCTION)
    logging.getLogger("httpx").info("HTTP Request: GET https://…")
    logging.getLogger("redis").warning("careful")
    entry = json.loads(stream.getvalue())
    assert (entry["event"], entry["level"], entry["logger"]) == ("careful", "warning", "redis")
    assert entry["timestamp"].endswith("Z")


def test_a_librarys_line_has_the_streams_context_too() -> None:
    stream = written(AppEnvironment.PRODUCTION)
    with structlog.contextvars.bound_contextvars(stream_id="s1", file="/rec/a.mp4"):
        logging.getLogger("httpx").warning("careful")
        structlog.get_logger("x").info("part_uploaded")
    library, ours = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (library["stream_id"], library["file"]) == (ours["stream_id"], ours["file"]) == ("s1", "/rec/a.mp4")
    assert "logger" not in ours


def test_a_librarys_traceback_is_structured_like_ours() -> None:
    stream = written(AppEnvironment.PRODUCTION)
    try:
        raise ValueError("what")
    except ValueError:
        logging.getLogger("httpx").exception("failed")
    entry = json.loads(stream.getvalue())
    assert entry["exception"][0]["exc_type"] == "ValueError"


def test_pythons_warnings_are_lines_like_all_others() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = written(AppEnvironment.PRODUCTION)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    entry = json.loads(stream.getvalue())
    assert (entry["level"], entry["logger"]) == ("warning", "py.warnings")
    assert "DeprecationWarning: old" in entry["event"]


@pytest.mark.parametrize("environment", list(AppEnvironment))
def test_no_secret_is_written_wherever_it_turns_up(environment: AppEnvironment) -> None:
    stream = written(environment)
    log = structlog.get_logger("x")
    log.info("event", error=f"password {SECRET}", nested={"deep": [SECRET]}, also=(SECRET,))
    try:
        raise ValueError(SECRET)
    except ValueError:
        log.exception("failed")
    assert "failed" in stream.getvalue()
    assert SECRET not in stream.getvalue()


@pytest.mark.parametrize("environment", list(AppEnvironment))
def test_no_secret_is_written_in_whatever_shape_it_comes(environment: AppEnvironment) -> None:
    stream = io.StringIO()
    secret = "wJalr/K7+MDENG's\\\"key"
    configure(environment, "DEBUG", secrets=[secret[:5], secret], stream=stream)
    structlog.get_logger("x").info(
        "event",
        error=ValueError(secret),
        path=Path(f"/x/{secret}"),
        data=secret.encode(),
        url=f"https://x/?k={quote(secret, safe='')}",
        **{secret: 1},
    )
    assert "event" in stream.getvalue()
    assert not any(piece in stream.getvalue() for piece in ("wJalr", "MDENG"))


@pytest.mark.parametrize("environment", list(AppEnvironment))
def test_a_field_that_is_called_a_secret_is_not_written(environment: AppEnvironment) -> None:
    stream = written(environment)
    structlog.get_logger("x").info("event", password="abc", nested={"s3_session_token": "abc"}, tokens_left="kept")
    assert "abc" not in stream.getvalue()
    assert "kept" in stream.getvalue()


@pytest.mark.parametrize("environment", list(AppEnvironment))
def test_a_files_name_cannot_forge_a_line_or_a_colour(environment: AppEnvironment) -> None:
    stream = written(environment)
    structlog.get_logger("x").info("stream_started", file=EVIL)
    structlog.get_logger("x").info("stream_started", **{EVIL: "a field's name"}, nested=[{EVIL: EVIL}])
    logging.getLogger("library").warning("cannot open %s", EVIL)
    text = stream.getvalue()
    assert text.count("\n") == 3
    assert "\x1b" not in text
    assert "\r" not in text


@pytest.mark.parametrize("environment", list(AppEnvironment))
def test_an_exceptions_text_cannot_forge_a_line_or_a_colour(environment: AppEnvironment) -> None:
    stream = written(environment)
    try:
        raise ExceptionGroup(EVIL, [ValueError(EVIL)])
    except ExceptionGroup:
        structlog.get_logger("x").exception("failed")
    first, *others = stream.getvalue().splitlines()
    assert "failed" in first
    assert [line for line in others if line and not line.startswith("    ")] == []
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("environment", list(AppEnvironment))
def test_a_name_that_is_not_utf8_can_be_written(environment: AppEnvironment) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8")
    configure(environment, "INFO", stream=stream)
    structlog.get_logger("x").info("stream_started", file=os.fsdecode(b"\xff.mp4"))
    stream.flush()
    assert b"stream_started" in raw.getvalue()


def test_a_traceback_shows_no_local_variables() -> None:
    stream = written(AppEnvironment.PRODUCTION)
    hidden = "a local value"
    try:
        raise ValueError(len(hidden))
    except ValueError:
        structlog.get_logger("x").exception("failed")
    assert "ValueError" in stream.getvalue()
    assert hidden not in stream.getvalue()


_CRASH = """
    from cef_trio.settings.model import load_settings
    from cef_trio.observability.logs import configure_for

    configure_for(load_settings(None))
    raise ExceptionGroup("crashed with hunter2-hunter2", [ValueError("hunter2-hunter2")])
"""


@pytest.mark.real
def test_the_exception_that_ends_the_process_is_a_line_like_any_other_and_has_no_secret(tmp_path: Path) -> None:
    environment = {
        "APP_ENV": "production",
        "WATCH_DIR": str(tmp_path),
        "S3_BUCKET_NAME": "bucket",
        "S3_ACCESS_KEY_ID": "key-id",
        "S3_SECRET_ACCESS_KEY": "hunter2-hunter2",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_CRASH)], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    crashed = json.loads(ended.stderr)
    assert (crashed["event"], crashed["level"]) == ("uncaught_exception", "critical")
    assert crashed["exception"][0]["exceptions"][0][0]["exc_type"] == "ValueError"
    assert "hunter2" not in ended.stderr


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    configure(AppEnvironment.PRODUCTION, "INFO", stream=Broken())
    structlog.get_logger("x").info("event")


@pytest.mark.parametrize("environment", list(AppEnvironment))
def test_an_event_that_cannot_be_rendered_is_logged_as_such_with_its_origin(environment: AppEnvironment) -> None:
    class Unspeakable:
        def __repr__(self) -> str:
            raise RuntimeError

    stream = written(environment)
    too_few = ("one",)
    logging.getLogger("library").warning("%s and %s", *too_few)
    structlog.get_logger("x").info("event", value=Unspeakable())
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all("event_not_rendered" in line and "test_logs.py" in line for line in lines)


def test_the_level_is_kept() -> None:
    stream = written(AppEnvironment.PRODUCTION, level="WARNING")
    structlog.get_logger("x").info("quiet")
    structlog.get_logger("x").warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]
