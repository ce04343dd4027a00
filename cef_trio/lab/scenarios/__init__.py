"""The stories that the explorers tell again and again, each time interrupted at another moment.

A scenario is: what the world was before (``before``), what the recordings' writers and the servers do while the daemon
lives (``script``), and how it may end. A script never asks the daemon anything: it goes on whether one is there or not.
``streams.py`` has those of one recording and its servers; ``files.py``, ``services.py`` and ``hosts.py`` those of a
world that is less kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cef_trio.lab.scenarios import files, streams
from cef_trio.lab.scenarios.model import Scenario, Story
from cef_trio.lab.world import World

SCENARIOS: Final = {scenario.name: scenario for scenario in (*streams.SCENARIOS, *files.SCENARIOS)}
"""Every scenario, by name."""


def world_for(scenario: Scenario, folder: Path, seed: int) -> World:
    """A world for a scenario, in an empty folder."""
    return World(
        folder / "watch",
        seed=seed,
        max_concurrent_parts=scenario.max_concurrent_parts,
        policy=scenario.policy,
        base=folder,
    )


__all__ = ("SCENARIOS", "Scenario", "Story", "world_for")
