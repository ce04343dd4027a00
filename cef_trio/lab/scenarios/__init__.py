"""The stories that the explorers tell again and again, each time interrupted at another moment.

A scenario is: what the world was before (``before``), what the recordings' writers and the servers do while the daemon
lives (``script``), and how it may end. A script never asks the daemon anything: it goes on whether one is there or not.
``streams.py`` has those of one recording and its servers; ``files.py``, ``services.py`` and ``hosts.py`` those of a
world that is less kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cef_trio.lab.scenarios import files, hosts, services, streams
from cef_trio.lab.scenarios.model import Scenario, Script
from cef_trio.lab.world import World

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (*streams.SCENARIOS, *files.SCENARIOS, *services.SCENARIOS, *hosts.SCENARIOS)
}
"""Every scenario, by name."""

EXPECTED_BROKEN: Final[Mapping[str, str]] = {}
"""Scenarios in which the daemon still breaks a promise, and what is to be mended for them. It is to be empty.

Each of them breaks one unharmed, so that a scenario that is mended is seen to be, and leaves this table."""
EXPLORED: Final = tuple(name for name in SCENARIOS if name not in EXPECTED_BROKEN)
"""The scenarios that the explorers walk through."""


def world_for(scenario: Scenario, folder: Path, seed: int) -> World:
    """A world for a scenario, in an empty folder."""
    return World(
        folder / "watch",
        seed=seed,
        max_concurrent_parts=scenario.max_concurrent_parts,
        policy=scenario.policy,
        base=folder,
    )


__all__ = ("EXPECTED_BROKEN", "EXPLORED", "SCENARIOS", "Scenario", "Script", "world_for")
