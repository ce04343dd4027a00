"""A world on a virtual clock (``cef_trio.lab.world``), and its daemon seen as the admin server sees one."""

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
