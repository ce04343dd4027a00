"""How a daemon says that it stands: what it puts into Redis for ``cef-trio status`` and ``doctor``, elsewhere. Pure.

Commands cannot see what a daemon sees: files that wait, a folder that it may not read, since when a byte waits. So each
daemon writes it down every few seconds. A report that grows old says something too: its daemon was killed, or can write
to Redis no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cef_trio.observability.at_risk import Reason, Risk, describe_amount
from cef_trio.observability.lag import Lag

OLD_SECONDS: Final = 60.0
"""A daemon that has not reported for so long is silent."""
FORGOTTEN_SECONDS: Final = 7 * 86400.0
_IDENTITY_FIELDS: Final = ("name", "host", "system", "process", "owner")
MAX_LAGS: Final = 200
"""So many streams' lag is reported, those with the largest lag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonReport:
    """What one daemon said of itself. Moments are Unix time."""

    instance: str
    at: float
    folder: str
    stopped: bool = False
    """It was shut down, so no further report is expected."""
    risks: tuple[Risk, ...] = ()
    lags: Mapping[str, Lag] = field(default_factory=dict)
    """By stream id."""
    name: str = ""
    """Its INSTANCE_ID; ``instance`` is what it reports under, which tells hosts of one name apart."""
    host: str = ""
    """What its host calls itself."""
    system: str = ""
    """The running system that it is on (``machine.boot_id``)."""
    process: str = ""
    """Which process it is, by its lease's token."""
    owner: str = ""
    """The name of whose streams it takes for its own (``Owner.name``); empty: other hosts may rightly be the same."""

    @property
    def instance_id(self) -> str:
        """Its INSTANCE_ID, whatever it reports under."""
        return self.name or self.instance

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
            "lags": {key: _encode_lag(lag) for key, lag in most},
            **{name: text for name in _IDENTITY_FIELDS if (text := getattr(report, name))},
        },
        separators=(",", ":"),
    )


def decode(instance: str, text: str) -> DaemonReport:
    """The report that a daemon wrote.

    Raises:
        ValueError: no daemon of this version wrote that.
    """
    try:
        document = json.loads(text)
        return DaemonReport(
            instance=instance,
            at=float(document["at"]),
            folder=str(document["folder"]),
            stopped=bool(document["stopped"]),
            risks=tuple(_decode_risk(*one) for one in document["risks"]),
            lags={str(key): _decode_lag(*one) for key, one in document["lags"].items()},
            **{name: str(document.get(name, "")) for name in _IDENTITY_FIELDS},
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


def duplicate_daemons(reports: Iterable[DaemonReport], now: float) -> list[str]:
    """Each identity that two living daemons have, in a sentence."""
    living = [one for one in reports if not one.stopped and not one.is_silent(now) and one.process]
    found = []
    for called, same in _grouped(living, lambda one: one.instance_id):
        where = _locations(same)
        found.append(f"{len(same)} daemons have the INSTANCE_ID {called!r}: {where}")
    for _, same in _grouped([one for one in living if one.owner], lambda one: one.owner):
        if len({one.system for one in same}) > 1:
            found.append(
                f"{len(same)} machines cannot be told apart, neither by their machine-id nor by their file system: "
                f"{_locations(same)}"
            )
    return found


def _grouped(
    reports: Iterable[DaemonReport], by: Callable[[DaemonReport], str]
) -> Iterable[tuple[str, list[DaemonReport]]]:
    groups: dict[str, list[DaemonReport]] = {}
    for one in reports:
        groups.setdefault(by(one), []).append(one)
    return [(name, same) for name, same in groups.items() if len(same) > 1]


def _locations(same: Iterable[DaemonReport]) -> str:
    return " and ".join(f"{one.folder} on {one.host or 'a host'}" for one in same)


def needs_attention(reports: Iterable[DaemonReport], now: float) -> list[DaemonReport]:
    """The reports that a person must see: of a daemon that tells of a risk, or that has fallen silent."""
    return [one for one in reports if (one.risks and not one.stopped) or one.is_silent(now)]


def describe_problems(report: DaemonReport, now: float) -> list[str]:
    """Each trouble of a daemon in a sentence."""
    found = [_describe_risk(one, now) for one in report.risks]
    if report.is_silent(now):
        found.insert(
            0,
            f"has not reported for {now - report.at:.0f} s: it was killed, hangs, or cannot write to Redis"
            f"{'; what it said last:' if found else ''}",
        )
    return found


def _describe_risk(risk: Risk, now: float) -> str:
    return f"{describe_amount(risk)}, for {max(0.0, now - risk.since):.0f} s: {risk.why}"


def _decode_risk(reason: Any, since: Any, size_bytes: Any, recordings: Any, why: Any) -> Risk:
    return Risk(Reason(reason), float(since), int(size_bytes), int(recordings), str(why))


def _encode_lag(lag: Lag) -> list[float | None]:
    document = [lag.size_bytes, lag.since]
    # Commands of earlier versions expect two values.
    return [*document, lag.unwritten_bytes] if lag.unwritten_bytes else document


def _decode_lag(size_bytes: Any, since: Any, unwritten_bytes: Any = 0) -> Lag:
    return Lag(int(size_bytes), None if since is None else float(since), int(unwritten_bytes))


def stopped(report: DaemonReport) -> DaemonReport:
    """The last report of a daemon that shuts down."""
    return replace(report, stopped=True, risks=(), lags={})
