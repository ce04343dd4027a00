"""An operator aborts streams that a daemon works on (`cef-trio abort`): P2, P3, P5, at whichever await it comes."""

from __future__ import annotations

import pytest
from thoroughness import LONG

from cef_trio.lab.explorers import aborts
from cef_trio.lab.run import run_plan


@pytest.mark.parametrize(
    ("scenario", "every", "pairs"),
    [
        ("first-part", 1 if LONG else 6, 20),
        ("small", 1 if LONG else 8, 10),
        ("finalizing", 2 if LONG else 10, 10),
        ("many-parts", 5 if LONG else 40, 5),
    ],
)
def test_an_abort_at_any_step_leaves_a_completed_or_an_aborted_stream_and_no_upload(
    scenario: str, every: int, pairs: int
) -> None:
    reports = [run_plan(plan) for plan in aborts(scenario, every=every, pairs=pairs)]
    assert len(reports) > 15
    assert [(str(report.plan), violation) for report in reports for violation in report.violations] == []
    ends = {report.resumed.rpartition(", ")[2] for report in reports}
    assert any("failed_aborted" in end for end in ends)
    assert any("completed" in end for end in ends)
