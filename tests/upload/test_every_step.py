"""P2, P3: short recordings, cancelled at the steps of their daemon: the quick check before a change lands.

The same is done for every scenario in ``tests/lab``, and at full length by ``cef-trio lab cancel``.
"""

from __future__ import annotations

import pytest
from thoroughness import LONG

from cef_trio.lab.explorers import cancellations
from cef_trio.lab.run import run_plan


@pytest.mark.parametrize(
    ("scenario", "every"), [("first-part", 1 if LONG else 4), ("small", 1 if LONG else 4)]
)  # an upload, one PutObject
def test_p2_p3_a_recording_survives_a_cancellation_at_any_step(scenario: str, every: int) -> None:
    reports = [run_plan(plan) for plan in cancellations(scenario, every=every, drain_every=4 * every)]
    assert len(reports) > 25
    assert [violation for report in reports for violation in report.violations] == []
