"""How a daemon says that it stands: what it puts into Redis for ``cef-trio status`` and ``doctor``, elsewhere. Pure.

Commands cannot see what a daemon sees: files that wait, a folder that it may not read, since when a byte waits. So each
daemon writes it down every few seconds. A report that grows old says something too: its daemon was killed, or can write
to Redis no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cef_trio.telemetry.at_risk import Reason, Risk, held
from cef_trio.telemetry.lag import Lag

OLD_SECONDS: Final = 60.0
"""A daemon that has not reported for so long is silent."""
FORGOTTEN_SECONDS: Final = 7 * 86400.0
MAX_LAGS: Final = 200
"""So many streams' lag is told, those that lag most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonReport:
    """What one daemon said of itself. Moments are Unix time."""

    instance: str
    at: float
    folder: str
    stopped: bool = False
    """It ended as it was told to: nothing more is to be heard of it."""
    risks: tuple[Risk, ...] = ()
    lags: Mapping[str, Lag] = field(default_factory=dict)
    """By stream id."""

    def is_silent(self, now: float) -> bool:
        """Whether it should have reported since."""
        return not self.stopped and now - self.at > OLD_SECONDS


def encode(report: DaemonReport) -> str:
    """One line of JSON."""
    most = sorted(report.lags.items(), key=lambda item: (item[1].size_bytes, item[1].unwritten_bytes), reverse=True)[
        :MAX_LAGS
    ]
    return json.dumps(
        {
            "at": report.at,
            "folder": report.folder,
            "stopped": report.stopped,
            "risks": [[one.reason.value, one.since, one.size_bytes, one.recordings, one.why] for one in report.risks],
            "lags": {key: _told(lag) for key, lag in most},
        },
        separators=(",", ":"),
    )


def decode(instance: str, text: str) -> DaemonReport:
    """The report that a daemon wrote.

    Raises:
        ValueError: no daemon of this version wrote that.
    """
    try:
        told = json.loads(text)
        return DaemonReport(
            instance=instance,
            at=float(told["at"]),
            folder=str(told["folder"]),
            stopped=bool(told["stopped"]),
            risks=tuple(_risk(*one) for one in told["risks"]),
            lags={str(key): _lag(*one) for key, one in told["lags"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the report of {instance!r} cannot be read: {error!r}") from error


def decode_all(texts: Mapping[str, str]) -> tuple[list[DaemonReport], list[str]]:
    """The reports that can be read, by instance, and why others cannot."""
    reports, unreadable = [], []
    for instance, text in sorted(texts.items()):
        try:
            reports.append(decode(instance, text))
        except ValueError as error:
            unreadable.append(str(error))
    return reports, unreadable


def lags_of(reports: Iterable[DaemonReport], now: float) -> dict[str, Lag]:
    """The lag of each stream, by what the daemons that are not silent say."""
    return {key: lag for report in reports if not report.is_silent(now) for key, lag in report.lags.items()}


def crying(reports: Iterable[DaemonReport], now: float) -> list[DaemonReport]:
    """The reports that a person must see: of a daemon that tells of a risk, or that has fallen silent."""
    return [one for one in reports if (one.risks and not one.stopped) or one.is_silent(now)]


def words(report: DaemonReport, now: float) -> list[str]:
    """Each trouble of a daemon in a sentence."""
    found = [_in_words(one, now) for one in report.risks]
    if report.is_silent(now):
        found.insert(
            0,
            f"has not reported for {now - report.at:.0f} s: it was killed, hangs, or cannot write to Redis"
            f"{'; what it said last:' if found else ''}",
        )
    return found


def _in_words(risk: Risk, now: float) -> str:
    return f"{held(risk)}, for {max(0.0, now - risk.since):.0f} s: {risk.why}"


def _risk(reason: Any, since: Any, size_bytes: Any, recordings: Any, why: Any) -> Risk:
    return Risk(Reason(reason), float(since), int(size_bytes), int(recordings), str(why))


def _told(lag: Lag) -> list[float | None]:
    told = [lag.size_bytes, lag.since]
    return [*told, lag.unwritten_bytes] if lag.unwritten_bytes else told  # commands of earlier versions know two


def _lag(size_bytes: Any, since: Any, unwritten_bytes: Any = 0) -> Lag:
    return Lag(int(size_bytes), None if since is None else float(since), int(unwritten_bytes))


def stopped(report: DaemonReport) -> DaemonReport:
    """The last report of a daemon that ends as it was told to."""
    return replace(report, stopped=True, risks=(), lags={})
