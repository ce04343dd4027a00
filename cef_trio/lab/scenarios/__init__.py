"""Scenarios: the scripts that the explorers run again and again, each time with a fault at another moment.

To add a scenario, write its script, an async function of a :class:`~cef_trio.lab.scenario_context.ScenarioContext`, and
add a :class:`~cef_trio.lab.scenarios.model.Scenario` to ``SCENARIOS`` of the file it belongs to: ``streams.py`` (one
recording and its servers), ``files.py`` (writers and file systems), ``services.py`` (S3 and Redis), ``hosts.py``
(several hosts, folders, settings) or ``fleets.py`` (several daemons at once; its scripts take a
:class:`~cef_trio.lab.fleet.Fleet`). The explorers and ``tests/lab`` include it from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cef_trio.lab.scenarios import files, fleets, hosts, services, streams
from cef_trio.lab.scenarios.model import Scenario, Script
from cef_trio.lab.world import World

SCENARIOS: Final = {
    scenario.name: scenario for theme in (streams, files, services, hosts, fleets) for scenario in theme.SCENARIOS
}
"""Every scenario, by name."""

EXPECTED_BROKEN: Final[Mapping[str, str]] = {}
"""Scenarios that violate a promise even without an injection, and the known defect. The explorers skip them.

``tests/lab/test_lab_campaign.py`` fails as soon as one of them has no violation any more."""
EXPLORED: Final = tuple(name for name in SCENARIOS if name not in EXPECTED_BROKEN)
"""The scenarios that the explorers run."""


def world_for(scenario: Scenario, folder: Path, seed: int) -> World:
    """Create the world of a scenario in an empty folder."""
    return World(
        folder / "watch",
        seed=seed,
        max_concurrent_parts=scenario.max_concurrent_parts,
        policy=scenario.policy,
        base=folder,
    )


__all__ = ("EXPECTED_BROKEN", "EXPLORED", "SCENARIOS", "Scenario", "Script", "world_for")
