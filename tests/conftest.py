"""Fixtures of all tests: a world on a virtual clock, real servers, captured logs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog
import trio
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.store import Store, look_into
from servers.valkey import ValkeyServer, valkey_server
from structlog.testing import capture_logs
from structlog.typing import EventDict
from trio.testing import MockClock

from cef_trio.lab.world import World
from cef_trio.observability.logs import QUIET


def pytest_configure() -> None:
    """Log plain tracebacks: structlog's default ones are laid out by rich, which took most of the tests' time."""
    processors = structlog.get_config()["processors"]
    processors[-1] = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=processors)


# Times depend on the machine; `--hypothesis-profile=ci` (`.ci/run`) takes the same examples each time, too.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Function) -> Generator[None]:
    """Run a test on the virtual clock if one of its fixtures needs it; pytest-trio looks at direct arguments only."""
    clock = item.funcargs.get("autojump_clock")
    if clock is not None and item.get_closest_marker("trio") is not None:

        def run(main: Callable[[], Awaitable[object]], **options: Any) -> object:
            return trio.run(main, **{**options, "clock": clock})

        item.add_marker(pytest.mark.trio(run=run), append=False)
    yield


@pytest.fixture
async def world(watch_dir: Path, autojump_clock: MockClock) -> World:
    """A world of one daemon (``cef_trio.lab.world``), on a virtual clock."""
    return World(watch_dir)


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    """What is logged during the test."""
    with capture_logs() as events:
        yield events


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restores the configuration of logging after the test."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers = root.handlers
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, QUIET))}
    yield
    logging.captureWarnings(capture=False)
    root.handlers = handlers
    for logger, level in levels.items():
        logger.setLevel(level)
    structlog.configure(**before)


@pytest.fixture
def watch_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "watch"
    folder.mkdir()
    return folder


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    """An embedded S3 endpoint for one test; ``servers/s3_control.py`` arms its faults."""
    with embedded_s3_server(tmp_path, bucket="recordings", arguments=["--control"]) as running:
        yield running


@pytest.fixture
def embedded(endpoint: Endpoint) -> Iterator[Store]:
    """The bucket of ``endpoint``, as boto3 sees it."""
    looking = look_into(endpoint)
    yield looking
    looking.client.close()


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey server for one test, on TCP."""
    with valkey_server(append_only=True, tcp=True) as server:
        yield server
