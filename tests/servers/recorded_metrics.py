"""Metrics recorded over time, as input of ``promtool test rules``; of a world's daemon, or of a real one.

``python tests/servers/recorded_metrics.py http://127.0.0.1:9464/metrics SECONDS`` records a real daemon,
every 15 seconds, and prints the input series.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

PERIOD_SECONDS = 15
ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
INSTANCE = "here"


@dataclass
class Recording:
    """Samples of every ``PERIOD_SECONDS``. ``origin``: the Unix time of the first one, which is 0 to promtool."""

    origin: float
    wanted: Collection[str] = field(
        default_factory=lambda: set(re.findall(r"\bcef_trio_\w+", ALERTS.read_text(encoding="utf-8")))
    )
    scrapes: list[Mapping[str, float]] = field(default_factory=list)

    def scraped(self, text: str | None) -> None:
        """Add a scrape; ``None``: the daemon did not respond."""
        found = {f'up{{job="cef-trio", instance="{INSTANCE}"}}': 0.0 if text is None else 1.0}
        for family in text_string_to_metric_families(text or ""):
            for sample in family.samples:
                if sample.name in self.wanted:
                    labels = {**sample.labels, "job": "cef-trio", "instance": INSTANCE}
                    pairs = ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(labels.items()))
                    shift = self.origin if sample.name.endswith("_timestamp_seconds") else 0.0
                    found[f"{sample.name}{{{pairs}}}"] = sample.value - shift
        self.scrapes.append(found)

    def series(self) -> list[dict[str, str]]:
        """Return the input series. One that is missing from a scrape is stale from then on, as to Prometheus."""
        names = sorted({name for scrape in self.scrapes for name in scrape})
        return [{"series": name, "values": " ".join(self._values(name))} for name in names]

    def _values(self, name: str) -> list[str]:
        values, known = [], False
        for scrape in self.scrapes:
            values.append(f"{scrape[name]:.10g}" if name in scrape else "stale" if known else "_")
            known = name in scrape
        return values


def fired(promtool: str, recording: Recording, folder: Path) -> dict[int, set[str]]:
    """Return the alerts that fire at each minute of a recording."""
    last = (len(recording.scrapes) - 1) * PERIOD_SECONDS // 60
    wrong = [{"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{n}m", "exp_samples": []} for n in range(last + 1)]
    test = {
        "interval": f"{PERIOD_SECONDS}s",
        "input_series": recording.series(),
        "promql_expr_test": wrong,  # what fires is in the text of the failure
    }
    file = folder / "recorded.yaml"
    rules = {"rule_files": [str(ALERTS)], "evaluation_interval": f"{PERIOD_SECONDS}s", "tests": [test]}
    file.write_text(json.dumps(rules), encoding="utf-8")  # JSON is YAML
    done = subprocess.run([promtool, "test", "rules", str(file)], check=False, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == 0 or "FAILED" in text, text
    found: dict[int, set[str]] = {minute: set() for minute in range(last + 1)}
    for minutes, got in re.findall(r"time: ([\dhms]+),\s+exp: nil\s+got: (.*)", text):
        hours, rest = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:0s)?", minutes).groups()  # type: ignore[union-attr]
        found[60 * int(hours or 0) + int(rest or 0)] = set(re.findall(r'alertname="(\w+)"', got))
    assert done.returncode == 0 or any(found.values()), text
    return found


def main() -> None:
    """Record a real daemon."""
    url, seconds = sys.argv[1], float(sys.argv[2])
    recording = Recording(time.time())
    for _ in range(int(seconds / PERIOD_SECONDS) + 1):
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                recording.scraped(response.read().decode())
        except OSError:
            recording.scraped(None)
        time.sleep(PERIOD_SECONDS)
    sys.stdout.write(json.dumps(recording.series(), indent=1) + "\n")


if __name__ == "__main__":
    main()
