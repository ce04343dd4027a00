"""Findings on a terminal: each with its remedy below it. Shared by ``doctor`` and ``fleet``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from cef_trio.cli import output
from cef_trio.cli.checks import Finding, Severity
from cef_trio.cli.output import HangingIndent
from cef_trio.safe_text import printable

_INDENT: Final = 8
_STYLES: Final = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.PROBLEM: "bold red"}


def print_findings(findings: Sequence[Finding]) -> None:
    """Print each finding, and below it its remedy."""
    out = output.console()
    for finding in findings:
        out.print(HangingIndent(*_line(finding), indent=_INDENT))
        if finding.todo:
            todo = Text(f"→ {printable(finding.todo)}", style="italic")
            out.print(HangingIndent(Text(), todo, indent=_INDENT))


def _line(finding: Finding) -> tuple[Text, Text]:
    severity = Text(finding.severity.value, style=_STYLES[finding.severity])
    text = Text.assemble((f"{finding.subject}: ", "bold"), printable(finding.says))
    return severity, text
