"""The effect of a change on open streams is documented for every setting: the table in ``docs/operations.md``."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from cef_trio.settings.model import Settings

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
SECTION = "## What a changed setting does to existing streams"


def rows() -> list[list[str]]:
    _, _, section = PAGE.read_text().partition(SECTION)
    section = section.partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return cells[2:]


def test_the_effect_of_a_change_is_documented_for_every_setting() -> None:
    named = Counter(name for row in rows() for name in re.findall(r"`([A-Z0-9_]+)`", row[0]))
    wanted = {name.upper() for name in Settings.model_fields}
    assert named.keys() - wanted == set(), "these are no settings (any more)"
    assert wanted - named.keys() == set(), f"say in {PAGE.name}, {SECTION!r}, what a change does to open streams"
    assert [name for name, count in named.items() if count > 1] == []


def test_every_row_speaks_of_open_streams_and_of_ended_ones() -> None:
    assert all(len(row) == 3 and all(row) for row in rows())
