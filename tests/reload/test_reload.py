"""SIGHUP reads the settings once more: what takes effect, what does not, and that it delays nothing."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import threading
from functools import partial
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from waiting import WAIT_SECONDS, until

from cef_trio.daemon.redis_store import url_reader
from cef_trio.daemon.reload import KEYS, LIVE, SettingsReloader, SettingsSource, Terminal, compare_settings, overridden
from cef_trio.observability import logs
from cef_trio.s3.rate_limiter import RateLimiter
from cef_trio.settings.model import AppEnvironment, Settings, load_settings

KIB = 1024


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    file = tmp_path / "settings.env"
    file.write_text(f"WATCH_DIR={tmp_path}\nS3_BUCKET_NAME=recordings\nLOG_LEVEL=INFO\n")
    return file


@pytest.fixture
def output(restored_logging: None) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(AppEnvironment.PRODUCTION, "INFO", stream=stream)
    return stream


def events(output: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def change(env_file: Path, **values: object) -> None:
    env_file.write_text(env_file.read_text() + "".join(f"{name}={value}\n" for name, value in values.items()))


def is_logged(output: io.StringIO, name: str) -> bool:
    return name in [event["event"] for event in events(output)]


async def reloaded(settings: Settings, source: SettingsSource, rate_limiter: RateLimiter) -> None:
    await SettingsReloader(settings, source, rate_limiter).reload()


# ---- what a reading means --------------------------------------------------------------------------------------------


def test_every_setting_but_the_live_ones_needs_a_restart(env_file: Path) -> None:
    held = load_settings(env_file)
    for name in Settings.model_fields:
        other = SecretStr("redis://elsewhere") if name == "redis_url" else object()
        reading = compare_settings(held, held.model_copy(update={name: other}))
        if name in LIVE:
            assert (list(reading.applied), reading.needs_restart) == ([name.upper()], ())
        elif name in KEYS and name != "s3_access_key_id":
            assert (reading.renewed, reading.needs_restart) == ((name.upper(),), ())
        else:
            assert (reading.applied, reading.needs_restart) == ({}, (name.upper(),))
    login = held.model_copy(update={"redis_url": SecretStr("redis://:other@localhost:6379/0")})
    assert compare_settings(held, login).renewed == ("REDIS_URL",)
    assert compare_settings(held, held) == compare_settings(held, load_settings(env_file))


def test_no_value_of_a_setting_that_needs_a_restart_is_logged(env_file: Path) -> None:
    held = load_settings(env_file)
    change(env_file, S3_ACCESS_KEY_ID="hunter2", S3_SECRET_ACCESS_KEY="hunter2", REDIS_URL="redis://:hunter2@x")
    assert "hunter2" not in repr(compare_settings(held, load_settings(env_file)))


VALUES = st.dictionaries(st.sampled_from(["LOG_LEVEL", "log_level", "MAX_UPLOAD_RATE", "OTHER"]), st.text(max_size=2))


@given(VALUES, VALUES)
def test_only_a_live_setting_that_both_name_differently_is_overridden(
    environment: dict[str, str], file: dict[str, str]
) -> None:
    names = overridden(environment, file)
    assert set(names) <= {name.upper() for name in LIVE}
    for name in names:
        assert {value for key, value in environment.items() if key.upper() == name}
        assert {value for key, value in file.items() if key.upper() == name}
    assert overridden(environment, {}) == overridden({}, file) == overridden(file, file) == []


# ---- the reader ------------------------------------------------------------------------------------------------------


async def test_the_live_settings_take_effect_and_the_others_are_named(env_file: Path, output: io.StringIO) -> None:
    settings, source, rate_limiter = load_settings(env_file), SettingsSource.of_file(env_file), RateLimiter()
    change(env_file, MAX_UPLOAD_RATE="1MiB", LOG_LEVEL="DEBUG", S3_BUCKET_NAME="another", PROM_PORT=1)
    await reloaded(settings, source, rate_limiter)
    assert rate_limiter.rate == 1 << 20
    (event,) = [event for event in events(output) if event["event"] == "settings_reloaded"]
    assert event["applied"] == {"MAX_UPLOAD_RATE": 1 << 20, "LOG_LEVEL": "DEBUG"}
    assert event["needs_restart"] == ["S3_BUCKET_NAME", "PROM_PORT"]
    assert event["overridden_by_environment"] == []
    assert logging.getLogger().level == logging.DEBUG


@pytest.mark.parametrize(("before", "after"), [("INFO", "WARNING"), ("WARNING", "INFO"), ("INFO", "INFO")])
async def test_a_change_of_the_level_is_logged_in_both_directions(
    env_file: Path, output: io.StringIO, before: str, after: str
) -> None:
    change(env_file, LOG_LEVEL=before)
    logs.set_level(before)
    settings, source = load_settings(env_file), SettingsSource.of_file(env_file)
    change(env_file, LOG_LEVEL=after)
    await reloaded(settings, source, RateLimiter())
    assert "settings_reloaded" in {event["event"] for event in events(output)}
    assert logging.getLevelName(logging.getLogger().level) == after


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("MAX_UPLOAD_RATE=fast", "takes a size"),
        ("LOG_LEVEL=LOUD", "LOG_LEVEL"),
        ("MAX_UPLOAD_RTAE=5", "did you mean MAX_UPLOAD_RATE"),
        ("MAX_UPLOAD_RATE=1", "at least"),
        ("MAX_UPLOAD_RATE=4096\nMAX_CONCURRENT_PARTS=1", "MAX_CONCURRENT_PARTS (4)"),
        ("S3_SECRET_ACCESS_KEY=hunter2", "must both be set"),
        (b"\xff\xfe=\n", "cannot be read"),
        ("WATCH_DIR=/srv/\0\0\0", "no NUL character"),
        ("S3_CA_FILE=/etc/\0", "no NUL character"),
        ("REDIS_CA_FILE=/etc/\0", "no NUL character"),
        ("REDIS_URL=redis://u:pa/hunter2@localhost", "'/' is written as %2F"),
        ("REDIS_URL='redis://u:pa#hunter2@localhost'", "'#' must be written as %23"),
        ("WEBHOOK_CA_FILE=/etc/\0", "no NUL character"),
        (None, "no longer exists"),
    ],
)
async def test_settings_that_cannot_be_read_change_nothing_and_are_one_clear_warning(
    env_file: Path, output: io.StringIO, bad: str | bytes | None, says: str
) -> None:
    change(env_file, MAX_UPLOAD_RATE="1MiB")
    settings, source, rate_limiter = load_settings(env_file), SettingsSource.of_file(env_file), RateLimiter(1 << 20)
    if bad is None:
        env_file.unlink()
    else:
        env_file.write_bytes(env_file.read_bytes() + (bad if isinstance(bad, bytes) else bad.encode()))
    await reloaded(settings, source, rate_limiter)
    (event,) = [event for event in events(output) if event["event"] == "settings_not_reloaded"]
    assert event["level"] == "warning"
    assert says in str(event["error"])
    assert "hunter2" not in output.getvalue()
    assert (rate_limiter.rate, logging.getLogger().level) == (1 << 20, logging.INFO)


async def test_p6_a_password_that_is_not_escaped_ends_no_task_and_the_corrected_one_is_taken(
    env_file: Path, output: io.StringIO
) -> None:
    change(env_file, REDIS_URL="redis://u:first@localhost")
    taken: list[str] = []
    reloader = SettingsReloader(
        load_settings(env_file),
        SettingsSource.of_file(env_file),
        RateLimiter(),
        lambda settings: taken.append(settings.redis_url.get_secret_value()),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reloader.run)
        for text, event in (("pa/ss", "settings_not_reloaded"), ("pa%2Fss", "settings_reloaded")):
            change(env_file, REDIS_URL=f"redis://u:{text}@localhost")
            reloader.request()
            await until(partial(is_logged, output, event))
        nursery.cancel_scope.cancel()
    names = [event["event"] for event in events(output)]
    assert names.count("settings_not_reloaded") == 1
    assert taken == ["redis://u:pa%2Fss@localhost"]


async def test_the_environment_has_precedence_and_that_is_logged(
    env_file: Path, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "WARNING")
    monkeypatch.setenv("MAX_UPLOAD_RATE", "")  # empty is none: the file has its way
    logs.set_level("INFO")
    settings, source, rate_limiter = load_settings(env_file), SettingsSource.of_file(env_file), RateLimiter()
    settings = settings.model_copy(update={"log_level": "INFO"})  # so that the event is written
    change(env_file, LOG_LEVEL="DEBUG", MAX_UPLOAD_RATE="1MiB")
    await reloaded(settings, source, rate_limiter)
    (event,) = [event for event in events(output) if event["event"] == "settings_reloaded"]
    assert event["overridden_by_environment"] == ["LOG_LEVEL"]
    assert rate_limiter.rate == 1 << 20
    assert logging.getLogger().level == logging.WARNING


async def test_a_watch_folder_that_is_gone_is_no_reason_to_refuse_a_rate(
    env_file: Path, output: io.StringIO, tmp_path: Path
) -> None:
    folder = tmp_path / "watch"
    folder.mkdir()
    change(env_file, WATCH_DIR=folder)
    settings, source, rate_limiter = load_settings(env_file), SettingsSource.of_file(env_file), RateLimiter()
    folder.rmdir()
    change(env_file, MAX_UPLOAD_RATE="64KiB")
    await reloaded(settings, source, rate_limiter)
    assert rate_limiter.rate == 64 * KIB
    assert events(output)[0]["needs_restart"] == []


async def test_p4_a_read_that_hangs_holds_no_cancellation_back(env_file: Path) -> None:
    settings, hanging, begun = load_settings(env_file), threading.Event(), threading.Event()

    def hang() -> Settings:
        begun.set()
        hanging.wait()
        return settings

    reloader = SettingsReloader(settings, SettingsSource(None, hang), RateLimiter())
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reloader.run)
                for _ in range(1000):
                    reloader.request()
                await trio.to_thread.run_sync(begun.wait)
                nursery.cancel_scope.cancel()
    finally:
        hanging.set()


async def test_p6_a_disk_that_hangs_does_not_hold_the_probe_of_redis(env_file: Path) -> None:
    """The probe reads a refused login again first, and no outage ends without it."""
    held, release, reads = load_settings(env_file), threading.Event(), list[None]()

    def read() -> Settings:
        reads.append(None)
        release.wait(WAIT_SECONDS)
        return held

    read_url = url_reader(read)
    try:
        began = trio.current_time()
        assert [await read_url() for _ in range(10)] == [None] * 10
        assert trio.current_time() - began < 2
        assert len(reads) == 1
    finally:
        release.set()

    async def found() -> bool:
        return await read_url() == held.redis_url.get_secret_value()

    await until(found)


async def test_many_requests_are_one_reading_and_one_during_a_reading_is_another(env_file: Path) -> None:
    settings, readings = load_settings(env_file), trio.Semaphore(0)
    token, count, go_on = trio.lowlevel.current_trio_token(), 0, threading.Semaphore(0)

    def read() -> Settings:
        nonlocal count
        count += 1
        token.run_sync_soon(readings.release)
        go_on.acquire()
        return settings

    reloader = SettingsReloader(settings, SettingsSource(None, read), RateLimiter())
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            reloader.request()
        nursery.start_soon(reloader.run)
        await readings.acquire()
        for _ in range(5):
            reloader.request()
        go_on.release()
        await readings.acquire()
        go_on.release()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert count == 2
        nursery.cancel_scope.cancel()


# ---- the level -------------------------------------------------------------------------------------------------------


def test_a_level_holds_at_once_for_loggers_that_were_bound_and_used_before(output: io.StringIO) -> None:
    ours = structlog.get_logger("cef_trio.test").bind(stream_id="x")
    theirs, quiet = logging.getLogger("another.library"), logging.getLogger("httpx")

    def speak() -> set[object]:
        output.truncate(0)
        output.seek(0)
        ours.debug("ours")
        theirs.debug("theirs")
        quiet.info("quiet")
        return {event["event"] for event in events(output)}

    assert speak() == set()
    logs.set_level("DEBUG")
    assert speak() == {"ours", "theirs"}
    logs.set_level("ERROR")
    assert speak() == set()
    ours.error("heard")
    assert "heard" in output.getvalue()


# ---- the terminal ----------------------------------------------------------------------------------------------------


def test_a_terminal_is_closed_once_its_other_end_is_gone() -> None:
    master, slave = pty.openpty()
    try:
        terminal = Terminal(slave)
        assert not terminal.is_closed()
        os.close(master)
        assert terminal.is_closed()
    finally:
        os.close(slave)


def test_where_there_was_no_terminal_none_is_closed() -> None:
    with Path(os.devnull).open() as file:
        terminal = Terminal(file.fileno())
        assert not terminal.is_closed()
    assert not terminal.is_closed()
