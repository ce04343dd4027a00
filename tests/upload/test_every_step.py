"""P2, P3: one short recording, cancelled at every step of its daemon: the quick check before a change lands.

The same is done for every scenario in ``tests/lab``, and at full length by ``cef-trio lab cancel``.
"""

from __future__ import annotations

from cef_trio.lab.explorers import cancellations
from cef_trio.lab.run import run_plan


def test_p2_p3_a_first_part_survives_a_cancellation_at_every_step() -> None:
    reports = [run_plan(plan) for plan in cancellations("first-part", drain_every=4)]
    assert len(reports) > 50
    assert [violation for report in reports for violation in report.violations] == []
