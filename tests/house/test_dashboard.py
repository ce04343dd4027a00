"""Every metric has its place on the dashboard: who adds one adds it there too."""

from __future__ import annotations

import json
import re

from servers.deployment import DEPLOY, dashboard_queries

from cef_trio.observability.metric_families import FAMILIES, Kind

DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())


def test_every_metric_is_on_the_dashboard() -> None:
    shown = set(re.findall(r"\bcef_trio_\w+", "\n".join(dashboard_queries(DASHBOARD["panels"]))))
    wanted = {f"{one.name}_bucket" if one.kind is Kind.HISTOGRAM else one.name for one in FAMILIES}
    assert wanted - shown == set()
