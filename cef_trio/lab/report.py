"""The HTML report of a campaign, as a self-contained file.

For each line of the daemon at which faults were injected: the faults, the locations of the other tasks, the saved state
and the result of the resume. A timeline of one run is drawn from its journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

from cef_trio.lab.campaign import LocationStats, Tally
from cef_trio.lab.journal import Entry, Lane
from cef_trio.lab.run import Report

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #59636e; --paper: #fff; --line: #d1d9e0; --good: #1a7f37;
  --bad: #cf222e; --daemon: #6e7781; --s3: #bf8700; --redis: #cf222e; --file: #0969da; --webhook: #1a7f37;
  --lab: #8250df; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --quiet: #9198a1; --paper: #0d1117; --line: #3d444d;
  --good: #3fb950; --bad: #ff7b72; --daemon: #9198a1;
  --s3: #d29922; --redis: #ff7b72; --file: #58a6ff; --webhook: #3fb950;
  --lab: #bc8cff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 75rem;
  margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } .quiet { color: var(--quiet); } .good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
code { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: break-word; } summary { cursor: pointer; }
svg text { font: 12px ui-monospace, monospace; fill: var(--ink); }
"""
_LANES: Final = (Lane.LAB, Lane.FILE, Lane.DAEMON, Lane.S3, Lane.REDIS, Lane.WEBHOOK)
_WIDTH: Final = 1150
_MARGIN: Final = 70
_LANE_HEIGHT: Final = 46
_MOST_SHOWN: Final = 4


def write_report(title: str, tallies: Mapping[str, Tally], shown: Report, *, again: str) -> str:
    """Return the HTML report.

    Args:
        title: the heading.
        tallies: the results by scenario.
        shown: one run with its journal, for the timeline.
        again: the arguments of ``cef-trio lab replay`` that repeat that run.
    """
    runs = sum(tally.runs for tally in tallies.values())
    violated = sum(tally.violated for tally in tallies.values())
    verdict = (
        f'<span class="bad">{violated} of them have violations.</span>'
        if violated
        else '<span class="good">No violations.</span>'
    )
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>cef-trio lab: {escape(title)}</title><style>{_STYLE}</style></head><body><main>",
            f"<h1>{escape(title)}</h1><p>{runs:,} runs. {verdict}</p>",
            _summary(tallies),
            _violations(tallies),
            _hits(tallies),
            _places(tallies),
            _timeline(shown, again),
            "</main></body></html>",
        )
    )


def _row(cells: Iterable[str], *, numbers: int = 0, of: str = "td") -> str:
    """Return a table row. Cells are HTML; the last ``numbers`` of them are aligned as numbers."""
    listed = list(cells)
    first = len(listed) - numbers
    made = (f"<{of}{' class=number' if at >= first else ''}>{cell}</{of}>" for at, cell in enumerate(listed))
    return f"<tr>{''.join(made)}</tr>"


def _table(head: str, rows: Iterable[str]) -> str:
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _summary(tallies: Mapping[str, Tally]) -> str:
    head = _row(("Scenario", "Runs", "Injected", "Locations", "Violations", "Longest exit"), numbers=5, of="th")
    rows = (
        _row(
            (
                f"<code>{escape(name)}</code>",
                f"{tally.runs:,}",
                f"{tally.injected:,}",
                str(len(tally.locations)),
                f'<span class="{"bad" if tally.violated else "good"}">{tally.violated}</span>',
                f"{tally.longest_exit_seconds:.1f} s",
            ),
            numbers=5,
        )
        for name, tally in tallies.items()
    )
    return _table(head, rows)


def _violations(tallies: Mapping[str, Tally]) -> str:
    kinds = [(kind, count, tally) for tally in tallies.values() for kind, count in tally.violations.most_common()]
    if not kinds:
        return ""
    rows = (
        _row((escape(kind), f"<code>{escape(str(tally.examples[kind]))}</code>", str(count)), numbers=1)
        for kind, count, tally in kinds
    )
    return "<h2>Violations</h2>" + _table(_row(("Violation", "First run", "Runs"), numbers=1, of="th"), rows)


def _hits(tallies: Mapping[str, Tally]) -> str:
    hits: Counter[str] = sum((tally.hits for tally in tallies.values()), start=Counter())
    rows = [_row((escape(name), f"{count:,}"), numbers=1) for name, count in sorted(hits.items()) if count]
    if not rows:
        return ""
    return "<h2>Events</h2>" + _table(_row(("Event", "Count"), numbers=1, of="th"), rows)


def _places(tallies: Mapping[str, Tally]) -> str:
    parts = ["<h2>Injections by location</h2>"]
    for name, tally in tallies.items():
        head = _row(("Line", "Injected", "Other tasks", "Saved", "Resumed", "Violations"), numbers=1, of="th")
        rows = (_location_row(where, location) for where, location in sorted(tally.locations.items()))
        parts.append(
            f"<details{' open' if len(tallies) == 1 else ''}><summary><code>{escape(name)}</code>, "
            f"{len(tally.locations)} lines</summary>{_table(head, rows)}</details>"
        )
    return "".join(parts)


def _location_row(where: str, location: LocationStats) -> str:
    return _row(
        (
            f"<code>{escape(where)}</code>",
            _most(location.injected),
            _most(location.others),
            _most(location.saved),
            _most(location.resumed),
            f'<span class="{"bad" if location.violated else "good"}">{location.violated}</span>',
        ),
        numbers=1,
    )


def _most(counted: Counter[str]) -> str:
    lines = [
        f"{escape(str(what))} <span class=quiet>&times;&nbsp;{count}</span>"
        for what, count in counted.most_common(_MOST_SHOWN)
    ]
    left = len(counted) - _MOST_SHOWN
    if left > 0:
        lines.append(f'<span class="quiet">and {left} more</span>')
    return "<br>".join(lines) or '<span class="quiet">nothing</span>'


def _timeline(report: Report, again: str) -> str:
    """Return the timeline of a run: events in order from left to right, one lane for each source."""
    entries = [entry for entry in report.entries if not _is_routine(entry)]
    if not entries:
        return ""
    step = max((_WIDTH - _MARGIN) / len(entries), 7.0)
    width = _MARGIN + step * len(entries) + 20
    drawn = [
        f'<text x="4" y="{_LANE_HEIGHT * lane + 27}">{name}</text>'
        f'<line x1="{_MARGIN}" x2="{width:.0f}" y1="{_LANE_HEIGHT * lane + 23}" y2="{_LANE_HEIGHT * lane + 23}" '
        'stroke="var(--line)"/>'
        for lane, name in enumerate(_LANES)
    ]
    for at, entry in enumerate(entries):
        label = f"{entry.began:.3f} s: {entry.text} {entry.outcome}".strip()
        bad = "Error" in entry.outcome or "Cancelled" in entry.outcome
        drawn.append(
            f'<circle cx="{_MARGIN + step * (at + 0.5):.1f}" cy="{_LANE_HEIGHT * _LANES.index(entry.lane) + 23}" '
            f'r="{6 if entry.lane is Lane.LAB else 4}" fill="var(--{entry.lane})"'
            f"{' stroke=var(--bad) stroke-width=2' if bad else ''}><title>{escape(label)}</title></circle>"
        )
    rows = "".join(
        _row((f"{entry.began:.3f}", entry.lane, f"<code>{escape(entry.text)}</code>", escape(entry.outcome)))
        for entry in entries
    )
    return (
        f"<h2>Timeline of one run</h2><p>{escape(str(report.plan))}. Repeat with "
        f"<code>cef-trio lab replay {escape(again)}</code></p>"
        f'<div class="scroll"><svg role="img" aria-label="Events in order; the table below lists them" '
        f'width="{width:.0f}" height="{_LANE_HEIGHT * len(_LANES)}">{"".join(drawn)}</svg></div>'
        f"<details><summary>Events as a table</summary>"
        f"{_table(_row(('Seconds', 'Source', 'Event', 'Outcome'), of='th'), [rows])}</details>"
    )


def _is_routine(entry: Entry) -> bool:
    return entry.lane is Lane.REDIS and entry.text in {"beat", "expired", "members", "renew"}
