"""Report of a daemon, stored in Redis for ``cef-trio status`` and ``doctor``. Pure.

Commands cannot see a daemon's state (waiting files, an unreadable folder, the age of the oldest byte), so each daemon
writes it to Redis every few seconds. An old report means that its daemon was killed or cannot write to Redis.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cef_trio.observability.at_risk import Reason, Risk, describe_amount
from cef_trio.observability.lag import Lag

OLD_SECONDS: Final = 60.0
"""Age of a report after which its daemon counts as silent."""
FORGOTTEN_SECONDS: Final = 7 * 86400.0
_IDENTITY_FIELDS: Final = ("name", "host", "system", "process", "owner")
MAX_LAGS: Final = 200
"""Maximum number of streams in a report; those with the largest lag are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonReport:
    """Report of one daemon. Times are Unix time."""

    instance: str
    at: float
    folder: str
    stopped: bool = False
    """It was shut down, so no further report is expected."""
    risks: tuple[Risk, ...] = ()
    lags: Mapping[str, Lag] = field(default_factory=dict)
    """By stream id."""
    name: str = ""
    """Its INSTANCE_ID; ``instance`` is the key of the report, which is unique even among hosts of the same name."""
    host: str = ""
    system: str = ""
    """Boot id of its host (``daemon.machine.boot_id``)."""
    process: str = ""
    """Token of its lease, which identifies the process."""
    owner: str = ""
    """``Owner.name`` of the streams it owns; empty if other hosts may share it."""

    @property
    def instance_id(self) -> str:
        """Its INSTANCE_ID."""
        return self.name or self.instance

    def is_silent(self, now: float) -> bool:
        """Return whether a newer report is overdue."""
        return not self.stopped and now - self.at > OLD_SECONDS


def encode(report: DaemonReport) -> str:
    """Encode as one line of JSON."""
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
    """Decode a report.

    Raises:
        ValueError: not a report of this version.
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
    """Return the readable reports, by instance, and an error for each other one."""
    reports, unreadable = [], []
    for instance, text in sorted(texts.items()):
        try:
            reports.append(decode(instance, text))
        except ValueError as error:
            unreadable.append(str(error))
    return reports, unreadable


def lags_of(reports: Iterable[DaemonReport], now: float) -> dict[str, Lag]:
    """Return the lag of each stream, from the reports that are not silent."""
    return {key: lag for report in reports if not report.is_silent(now) for key, lag in report.lags.items()}


def duplicate_daemons(reports: Iterable[DaemonReport], now: float) -> list[str]:
    """Return a sentence for each identity that several running daemons share."""
    living = [one for one in reports if not one.stopped and not one.is_silent(now) and one.process]
    found = []
    for called, same in _grouped(living, lambda one: one.instance_id):
        found.append(f"{len(same)} daemons have the INSTANCE_ID {called!r}: {_locations(same)}")
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
    """Return the reports of daemons that have a risk or are silent."""
    return [one for one in reports if (one.risks and not one.stopped) or one.is_silent(now)]


def describe_problems(report: DaemonReport, now: float) -> list[str]:
    """Return a sentence for each problem of a daemon."""
    found = [f"{describe_amount(one)}, for {max(0.0, now - one.since):.0f} s: {one.why}" for one in report.risks]
    if report.is_silent(now):
        found.insert(
            0,
            f"has not reported for {now - report.at:.0f} s: it was killed, hangs, or cannot write to Redis"
            f"{'; its last report:' if found else ''}",
        )
    return found


def _decode_risk(reason: Any, since: Any, size_bytes: Any, recordings: Any, why: Any) -> Risk:
    return Risk(Reason(reason), float(since), int(size_bytes), int(recordings), str(why))


def _encode_lag(lag: Lag) -> list[float | None]:
    document = [lag.size_bytes, lag.since]
    # Commands of earlier versions expect two values.
    return [*document, lag.unwritten_bytes] if lag.unwritten_bytes else document


def _decode_lag(size_bytes: Any, since: Any, unwritten_bytes: Any = 0) -> Lag:
    return Lag(int(size_bytes), None if since is None else float(since), int(unwritten_bytes))


def stopped(report: DaemonReport) -> DaemonReport:
    """Return the last report of a daemon that shuts down."""
    return replace(report, stopped=True, risks=(), lags={})
