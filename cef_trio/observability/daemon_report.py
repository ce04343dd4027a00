"""Report of a daemon, stored in the registry in Redis for ``status``, ``doctor``, ``fleet`` and the fleet page. Pure.

Commands cannot see a daemon's state (waiting files, an unreadable folder, the age of the oldest byte), so each daemon
writes it to Redis every few seconds. An old report means that its daemon was killed or cannot write to Redis.
``fleet.py`` judges all reports together.

A report has the time of its host's clock, and the time of Redis' clock when Redis received it. Silence is judged by the
latter; the difference shows a clock that is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

from cef_trio.observability.at_risk import Judgement, Reason, Risk, State, describe_amount, judge
from cef_trio.observability.lag import Lag

OLD_SECONDS: Final = 60.0
"""Age of a report after which its daemon counts as silent."""
MAX_LAGS: Final = 50
"""Maximum number of streams in a report; those with the largest lag are kept."""
MAX_BYTES: Final = 16 * 1024
"""Maximum size of an encoded report."""
_MAX_TEXT: Final = 500
_LAST_TIME: Final = 253_402_300_799.0
"""The end of the year 9999 in Unix time, in seconds."""
_COUNTS_END: Final = 1 << 63
_FLAGS: Final = ("starting", "mixes_owners")
_TEXTS: Final = (
    "name",
    "host",
    "system",
    "process",
    "owner",
    "place",
    "objects",
    "share",
    "work_group",
    "version",
    "name_taken_by",
    "taken_on",
)
_NUMBERS: Final = ("schema", "newer_records", "completed", "failed", "upload_limit", "sent_per_second")
_TIMES: Final = ("watcher_at", "idle_checker_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonReport:
    """Report of one daemon. Times are Unix time, by its host's clock unless stated; sizes are in bytes.

    A report of another version may lack any field that has a default here.
    """

    instance: str
    at: float
    folder: str
    received_at: float | None = None
    """When Redis received it, by Redis' clock; ``None``: not sent yet."""
    stopped: bool = False
    """It was shut down, so no further report is expected."""
    starting: bool = False
    """Its watch folder was not scanned yet."""
    risks: tuple[Risk, ...] = ()
    activities: Mapping[str, str] = field(default_factory=dict)
    """By stream id: what the stream does (``StreamActivity``); the first ``MAX_LAGS`` are kept."""
    lags: Mapping[str, Lag] = field(default_factory=dict)
    """By stream id; those with the largest lag."""
    name: str = ""
    """Its INSTANCE_ID; ``instance`` is the name of the report, which is unique even among hosts of the same name."""
    host: str = ""
    system: str = ""
    """Boot id of its host (``daemon.machine.boot_id``)."""
    process: str = ""
    """Token of its lease, which identifies the process; empty: it does not work yet, so it is in no other's way."""
    owner: str = ""
    """The owner of its streams (``OWNER_NAME``)."""
    place: str = ""
    """``Owner.name``: its machine and the location of its folder; empty if other hosts may share it."""
    share: str = ""
    """The network folder that it watches, as all hosts name it; empty: not on a network file system."""
    objects: str = ""
    """Where its objects are, ``<endpoint> <bucket>/<prefix>``, as :meth:`KeyTemplate.prefix`; empty: not reported."""
    mixes_owners: bool = False
    """Whether other owners may have that prefix, since its template has no ``{owner}``."""
    work_group: str = ""
    """The same for daemons that divide the work on one folder (``upload/work_division.py``)."""
    version: str = ""
    name_taken_by: str = ""
    """Boot id of the system that took its owner's name, which is why it stopped; empty: none did."""
    taken_on: str = ""
    """The host of that system."""
    schema: int | None = None
    """The schema of the records that it writes."""
    newer_records: int | None = None
    """Records of a newer schema that it leaves alone; ``None``: none."""
    streams: Mapping[str, int] = field(default_factory=dict)
    """Its active streams by state (``metric_labels.StreamState``)."""
    completed: int | None = None
    """Completed streams of its owner; ``None``: unknown."""
    failed: int | None = None
    behind: Lag = field(default_factory=Lag)
    """Of all its streams, and of files without one."""
    bytes_per_second: float = 0.0
    sent_per_second: int | None = None
    """Of that, what was sent in the last minute, also of recordings that are complete by now; ``None``: unknown."""
    upload_limit: int | None = None
    """``MAX_UPLOAD_RATE`` in force, in bytes a second; ``None``: no limit."""
    watcher_at: float | None = None
    """Last scan of the watch folder."""
    idle_checker_at: float | None = None
    waits_for: tuple[str, ...] = ()
    """The services that are down."""

    @property
    def instance_id(self) -> str:
        """Its INSTANCE_ID."""
        return self.name or self.instance

    @property
    def seen_at(self) -> float:
        """When Redis received it, by Redis' clock."""
        return self.at if self.received_at is None else self.received_at

    @property
    def clock_ahead_seconds(self) -> float:
        """How far its host's clock is ahead of Redis', within about a second."""
        return self.at - self.seen_at

    @property
    def judgement(self) -> Judgement:
        """Whether all is safe, as the daemon judged it."""
        return judge(self.risks, self.waits_for, starting=self.starting)

    @property
    def is_ready(self) -> bool:
        """Whether nothing is at risk and no service is down, as ``/readyz`` reports it."""
        return self.judgement.state is State.READY

    @property
    def active_streams(self) -> int:
        """Number of streams with a task."""
        return sum(self.streams.values())

    def is_silent(self, now: float) -> bool:
        """Return whether a newer report is overdue; ``now`` by Redis' clock."""
        return not self.stopped and now - self.seen_at > OLD_SECONDS

    def lives(self, now: float) -> bool:
        """Return whether its daemon runs, as far as is known; ``now`` by Redis' clock."""
        return not self.stopped and not self.is_silent(now)

    def counts_for_seconds(self, now: float) -> float:
        """Return how much longer this report shows that its daemon lives, in seconds; ``now`` by Redis' clock."""
        return OLD_SECONDS - (now - self.seen_at)

    def age(self, lag: Lag, now: float) -> float:
        """Return the age of the oldest byte of one of its lags; ``now`` by Redis' clock."""
        return lag.seconds(now + self.clock_ahead_seconds)

    def by_redis_clock(self, moment: float) -> float:
        """Convert a time of its host's clock."""
        return moment - self.clock_ahead_seconds


def encode(report: DaemonReport) -> str:
    """Encode as one line of JSON, of ``MAX_BYTES`` at most."""
    most = sorted(report.lags.items(), key=lambda item: (item[1].size_bytes, item[1].unwritten_bytes), reverse=True)
    text = _encode(replace(report, lags=dict(most[:MAX_LAGS])))
    if len(text) > MAX_BYTES:
        short = tuple(replace(risk, why=risk.why[: _MAX_TEXT // 10]) for risk in report.risks)
        text = _encode(replace(report, lags={}, activities={}, risks=short, folder=report.folder[:_MAX_TEXT]))
    return text


def _encode(report: DaemonReport) -> str:
    document = {
        "at": report.at,
        "folder": report.folder,
        "stopped": report.stopped,
        "risks": [[one.reason.value, one.since, one.size_bytes, one.recordings, one.why] for one in report.risks],
        "lags": {key: _encode_lag(lag) for key, lag in report.lags.items()},
        "streams": dict(report.streams),
        "behind": _encode_lag(report.behind),
        "bytes_per_second": round(report.bytes_per_second),
        "waits_for": list(report.waits_for),
    }
    document |= {name: True for name in _FLAGS if getattr(report, name)}
    if report.activities:
        document["activities"] = dict(islice(report.activities.items(), MAX_LAGS))
    for name in (*_TEXTS, *_NUMBERS, *_TIMES):
        value = getattr(report, name)
        if value not in {"", None}:
            document[name] = value[:_MAX_TEXT] if isinstance(value, str) else value
    return json.dumps(document, separators=(",", ":"))


def decode(instance: str, text: str, received_at: float | None = None) -> DaemonReport:
    """Decode a report. Unknown fields are ignored.

    Raises:
        ValueError: it is no report.
    """
    try:
        document = json.loads(text)
        optional: dict[str, Any] = {
            **{name: bool(document.get(name, False)) for name in _FLAGS},
            **{name: str(document.get(name, "")) for name in _TEXTS},
            **{name: _optional(_decode_count, document.get(name)) for name in _NUMBERS},
            **{name: _optional(_decode_time, document.get(name)) for name in _TIMES},
        }
        report = DaemonReport(
            instance=instance,
            at=_decode_time(document["at"]),
            folder=str(document["folder"]),
            received_at=received_at,
            stopped=bool(document["stopped"]),
            risks=tuple(_decode_risk(*one) for one in document["risks"] if one[0] in _REASONS),
            activities={str(key): str(one) for key, one in document.get("activities", {}).items()},
            lags={str(key): _decode_lag(*one) for key, one in document["lags"].items()},
            streams={str(state): _decode_count(count) for state, count in document.get("streams", {}).items()},
            behind=_decode_lag(*document.get("behind", (0, None))),
            bytes_per_second=float(_decode_count(document.get("bytes_per_second", 0))),
            waits_for=tuple(map(str, document.get("waits_for", ()))),
            **optional,
        )
        since = [*(risk.since for risk in report.risks), *(lag.since for lag in (*report.lags.values(), report.behind))]
        if any(one is not None and one > report.at + OLD_SECONDS for one in since):
            raise ValueError("something waits since a time after the report")  # noqa: TRY301 - one handler for all
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"the report of {instance!r} cannot be read: {error!r}") from error
    return report


_REASONS: Final = frozenset(one.value for one in Reason)
"""A newer version may report others."""


@dataclass(frozen=True, slots=True)
class DaemonProblem:
    """What is wrong with a daemon, and what to do."""

    says: str
    advice: str


def describe_problems(report: DaemonReport, now: float) -> list[DaemonProblem]:
    """Describe each problem of a daemon; ``now`` by Redis' clock."""
    found = [
        DaemonProblem(
            f"{describe_amount(one)}, for {max(0.0, now - report.by_redis_clock(one.since)):.0f} s: {one.why}",
            one.advice,
        )
        for one in report.risks
    ]
    if report.name_taken_by:
        found.append(
            DaemonProblem(
                f"has stopped, as the running system of {report.taken_on or 'another host'} took its owner's name "
                f"{report.owner!r}: one of both is a clone, or it could not renew its claim",
                NAME_LOST_ADVICE,
            )
        )
    if report.is_silent(now):
        says = f"has not reported for {now - report.seen_at:.0f} s: it was killed, hangs, or cannot write to Redis"
        last = "; its last report:" if found else ""
        found.insert(0, DaemonProblem(says + last, SILENT_ADVICE))
    return found


NEW_MACHINE_ID: Final = "rm -f /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup"
"""How a clone gets one of its own: systemd-machine-id-setup(1) takes D-Bus' one, if there is any."""
SILENT_ADVICE: Final = "start it, or look at its host, its log and its way to Redis"
NAME_LOST_ADVICE: Final = (
    f"give one of both a machine-id of its own ({NEW_MACHINE_ID}), or an OWNER_NAME, and start the daemon again"
)


def stopped(report: DaemonReport, taken_by: tuple[str, str] | None = None) -> DaemonReport:
    """Return the last report of a daemon that shuts down.

    ``taken_by``: boot id and host of the system that took its owner's name, if that is why.
    """
    system, host = taken_by or ("", "")
    return replace(
        report,
        name_taken_by=system,
        taken_on=host,
        stopped=True,
        risks=(),
        lags={},
        activities={},
        streams={},
        behind=Lag(),
        bytes_per_second=0.0,
        sent_per_second=None,
    )


def _decode_risk(reason: Any, since: Any, size_bytes: Any, recordings: Any, why: Any) -> Risk:
    return Risk(Reason(reason), _decode_time(since), _decode_count(size_bytes), _decode_count(recordings), str(why))


def _encode_lag(lag: Lag) -> list[float | None]:
    document = [lag.size_bytes, lag.since]
    return [*document, lag.unwritten_bytes] if lag.unwritten_bytes else document


def _decode_lag(size_bytes: Any, since: Any, unwritten_bytes: Any = 0) -> Lag:
    return Lag(_decode_count(size_bytes), _optional(_decode_time, since), _decode_count(unwritten_bytes))


def _decode_time(value: Any) -> float:
    """Decode Unix time: a number from 1970 to 9999. JSON also has NaN and infinity, as Python reads it."""
    seconds = float(value)
    if not 0 <= seconds <= _LAST_TIME:
        raise ValueError(f"{value!r} is no time")
    return seconds


def _decode_count(value: Any) -> int:
    """Decode a number of things or bytes."""
    number = int(value)
    if not 0 <= number < _COUNTS_END:
        raise ValueError(f"{value!r} is no number of things or bytes")
    return number


def _optional(convert: Any, value: Any) -> Any:
    return None if value is None else convert(value)
