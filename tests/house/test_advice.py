"""What to do about a failure or an outage is written once: the documentation has what page and ``show`` have."""

from __future__ import annotations

import re
from pathlib import Path

from cef_trio.checkpoint.states import ADVICE, FailureReason
from cef_trio.exit_codes import ExitCode
from cef_trio.observability import OUTAGE_ADVICE, RISK_ADVICE, Reason

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def rows(section: str) -> list[list[str]]:
    _, _, text = PAGE.partition(f"\n### … {section}\n")
    assert text, section
    lines = [line for line in text.partition("\n### ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_failure_has_advice_and_the_documentation_has_the_same() -> None:
    documented = {name: row[1] for row in rows("recordings have failed") for name in re.findall(r"`(\w+)`", row[0])}
    assert documented == {reason.value: advice for reason, advice in ADVICE.items()}
    assert set(ADVICE) == set(FailureReason)


def test_every_risk_has_advice_and_the_documentation_has_the_same() -> None:
    _, _, table = PAGE.partition("\n| risk | what to do |\n|---|---|\n")
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table.partition("\n\n")[0], re.MULTILINE))
    without_links = {name: re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", advice) for name, advice in told.items()}
    assert without_links == {reason.value: advice for reason, advice in RISK_ADVICE.items()}
    assert set(RISK_ADVICE) == set(Reason)


def test_the_advice_on_an_outage_is_the_documentations() -> None:
    assert [row[1] for row in rows("S3 or Redis is down")] == [OUTAGE_ADVICE[False], OUTAGE_ADVICE[True]]


def test_every_exit_code_of_a_daemon_is_documented_with_a_remedy() -> None:
    told = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE) for code in row.split(", ")}
    assert {code.value for code in ExitCode} - {ExitCode.ANSWER_IS_NO.value} <= told
