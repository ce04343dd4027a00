"""The queries of the alerts and the dashboard ask for metrics that exist, and Prometheus itself understands them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from servers.deployment import DEPLOY, ROOT, dashboard_queries, documents

from cef_trio.checkpoint.states import FailureReason, Status
from cef_trio.observability.metric_families import FAMILIES

ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's prometheus) is not here")


TABLE: dict[str, tuple[str, tuple[str, ...]]] = {
    family.short_name: (family.kind.value, family.labels) for family in FAMILIES
}
"""Type and labels of every metric, without the prefix."""
SCRAPE_LABELS = {"instance", "job"}
"""Labels that Prometheus adds."""
POD_LABELS = {"namespace", "pod", "kubernetes_namespace", "kubernetes_pod_name"}
"""Labels that its examples of a configuration for Kubernetes add to the series of pods."""


def known() -> dict[str, str]:
    """Every metric family and its type."""
    return {f"cef_trio_{name}": kind for name, (kind, _) in TABLE.items()}


def labels_of(name: str) -> set[str]:
    """The labels that a query may ask a series for."""
    family = re.sub(r"_(bucket|sum|count)$", "", name) if name not in known() else name
    kind, labels = TABLE[family.removeprefix("cef_trio_")]
    return {*labels, *SCRAPE_LABELS, *({"le"} if kind == "histogram" else ())}


def series() -> set[str]:
    """The names that a query may ask for."""
    names = set()
    for name, kind in known().items():
        names |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return names


def asked(query: str) -> set[str]:
    return set(re.findall(r"\bcef_trio_\w+", query))


def alerts() -> list[dict[str, str]]:
    (document,) = documents(ALERTS)
    return [rule for group in document["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    choices = [variable["query"] for variable in dashboard["templating"]["list"]]
    variables = [choice["query"] for choice in choices if isinstance(choice, dict)]
    return [*(alert["expr"] for alert in alerts()), *dashboard_queries(dashboard["panels"]), *variables]


def test_every_query_asks_for_metrics_that_exist() -> None:
    assert len(queries()) > 30
    unknown = {name for query in queries() for name in asked(query)} - series()
    assert unknown == set()


def test_a_metric_that_does_not_exist_would_be_found() -> None:
    assert asked('sum(rate(cef_trio_nonsense_total{a="b"}[5m])) / cef_trio_lag_bytes') - series() == {
        "cef_trio_nonsense_total"
    }


def wrong_labels(query: str) -> set[str]:
    """Labels that a query asks for by name, in braces or by grouping, and that its metrics do not have."""
    wrong = {
        f"{name}: {label}"
        for name, matchers in re.findall(r"\b(cef_trio_\w+)\{([^}]*)\}", query)
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
        if label not in labels_of(name)
    }
    had = set().union(*(labels_of(name) for name in asked(query))) if asked(query) else SCRAPE_LABELS
    groups = re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", query)
    if re.search(r"\bup\b|\bcef_trio_build_info\b", query):
        had |= POD_LABELS
    return wrong | {label for group in groups for label in re.split(r",\s*", group) if label not in had}


def test_queries_ask_for_labels_that_the_metrics_have() -> None:
    assert {label for query in queries() for label in wrong_labels(query)} == set()
    assert wrong_labels('sum by (state) (cef_trio_lag_bytes{reason="x"})') == {"state", "cef_trio_lag_bytes: reason"}
    assert wrong_labels("sum by (pod, namespace) (cef_trio_service_up)") == {"pod", "namespace"}


def test_queries_compare_with_reasons_and_services_that_there_are() -> None:
    values: dict[str, set[str]] = {"reason": set(), "service": set()}
    for label, given in re.findall(r"\b(reason|service)(?:=~|!~|!=|=)\"([^\"]*)\"", "\n".join(queries())):
        values[label] |= set(given.split("|"))
    assert all(values.values())
    assert values["reason"] <= {*FailureReason, Status.ABORTED_NO_PARTS, Status.DELETED_LOCALLY}
    assert values["service"] <= {"s3", "redis"}


def test_counters_are_asked_for_their_rate_and_gauges_are_not() -> None:
    for query in queries():
        for name in asked(query):
            counts = known().get(name) == "counter" or name.endswith(("_bucket", "_sum", "_count"))
            rated = re.search(rf"\b(rate|increase)\({name}\b", query) is not None
            assert rated == counts, query


def test_every_alert_has_a_severity_and_a_link_to_the_docs() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    anchors = {heading.strip().lower() for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}
    for alert in alerts():
        assert alert["labels"]["severity"] in {"critical", "warning"}  # type: ignore[index]
        name = alert["alert"]
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"  # type: ignore[index]
        assert name.lower() in anchors, f"docs/operations.md says nothing of {name}"
    told = {heading for heading in anchors if heading.startswith("ceftrio")}
    assert told == {alert["alert"].lower() for alert in alerts()}


def test_every_alert_is_tested_by_what_fires_it() -> None:
    (document,) = documents(Path(__file__).with_name("alerts_test.yaml"))
    fired = {
        case["alertname"] for test in document["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")
    }
    assert fired == {alert["alert"] for alert in alerts()}


def test_the_dashboards_panels_have_ids_of_their_own_titles_and_explanations() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"].endswith(".")
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} covers another panel"
        assert place["x"] + place["w"] <= 24
        taken |= cells


def promtool(*arguments: str | Path) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_prometheus_understands_its_configuration_and_the_alerts() -> None:
    assert "SUCCESS" in promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    assert f"{len(alerts())} rules found" in promtool("check", "rules", ALERTS)


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", Path(__file__).with_name("alerts_test.yaml"))


@needs_promtool
def test_prometheus_understands_the_dashboards_queries(tmp_path: Path) -> None:
    """As recording rules, with Grafana's variables filled in."""
    lines = ["groups:", "  - name: dashboard", "    rules:"]
    for number, query in enumerate(dashboard_queries(json.loads(DASHBOARD.read_text())["panels"])):
        filled = query.replace("$__rate_interval", "5m").replace("$__range", "6h").replace("$instance", ".*")
        lines += [f"      - record: dashboard:query{number}", f"        expr: {json.dumps(filled)}"]
    rules = tmp_path / "dashboard.yaml"
    rules.write_text("\n".join(lines) + "\n")
    assert "SUCCESS" in promtool("check", "rules", rules)
