"""A world on a virtual clock for each test (``cef_trio.lab.world``)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio.testing

from cef_trio.lab.world import World


@pytest.fixture
async def world(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> World:
    folder = tmp_path / "watch"
    folder.mkdir()
    return World(folder)
