"""Logs: one shape for everybody's events, no secret, and no name of a file that could forge a line."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator

import pytest
import structlog

from cef_trio.config import AppEnvironment
from cef_trio.logs import QUIET, configure

SECRET = "s3cr3t-value"
EVIL = "a\n2026-01-01 [info] stream_completed\x1b[31m\r.mp4"


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers = root.handlers
    loggers = [root, *(logging.getLogger(name) for name in QUIET)]
    levels = [logger.level for logger in loggers]
    yield
    root.handlers = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    structlog.reset_defaults()


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
    assert (entry["event"], entry["level"]) == ("careful", "warning")


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
def test_a_files_name_cannot_forge_a_line_or_a_colour(environment: AppEnvironment) -> None:
    stream = written(environment)
    structlog.get_logger("x").info("stream_began", file=EVIL)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "\r" not in text


@pytest.mark.parametrize("environment", list(AppEnvironment))
def test_a_name_that_is_not_utf8_can_be_written(environment: AppEnvironment) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="utf-8")
    configure(environment, "INFO", stream=stream)
    structlog.get_logger("x").info("stream_began", file=os.fsdecode(b"\xff.mp4"))
    stream.flush()
    assert b"stream_began" in raw.getvalue()


def test_a_traceback_shows_no_local_variables() -> None:
    stream = written(AppEnvironment.PRODUCTION)
    hidden = "a local value"
    try:
        raise ValueError(len(hidden))
    except ValueError:
        structlog.get_logger("x").exception("failed")
    assert "ValueError" in stream.getvalue()
    assert hidden not in stream.getvalue()


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    configure(AppEnvironment.PRODUCTION, "INFO", stream=Broken())
    structlog.get_logger("x").info("event")


def test_the_level_is_kept() -> None:
    stream = written(AppEnvironment.PRODUCTION, level="WARNING")
    structlog.get_logger("x").info("quiet")
    structlog.get_logger("x").warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]
