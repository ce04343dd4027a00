"""The nursery tree stands in three places; ``daemon/main.py`` is the source."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from cef_trio.daemon import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_page_shows_the_nursery_tree_of_the_daemon(page: str) -> None:
    tree = textwrap.dedent((main.__doc__ or "").split("::\n\n")[1].split("\n\n")[0])
    assert f"```\n{tree}\n```\n" in (ROOT / page).read_text()
