"""All daemons together, from their reports in the registry, and what is wrong with the fleet. Pure.

A problem concerns several daemons or a silent one. What one daemon reports of itself is in its report
(:func:`~cef_trio.observability.daemon_report.describe_problems`). Times are of Redis' clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from cef_trio.checkpoint import StoredReports
from cef_trio.observability.at_risk import Judgement, State, judge
from cef_trio.observability.daemon_report import (
    NAME_LOST_ADVICE,
    NEW_MACHINE_ID,
    OLD_SECONDS,
    SILENT_ADVICE,
    DaemonReport,
    decode,
    describe_problems,
)
from cef_trio.observability.lag import Lag

MAX_CLOCK_SECONDS: Final = 5.0
"""The clocks of a host and of Redis that differ by more are wrong; less may be the time of the call."""
MAX_SHOWN: Final = 1000
"""The most daemons that commands and the page show."""
_NAMED: Final = 5
"""At most this many daemons are named in a sentence."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The readable reports, by name."""

    reports: tuple[DaemonReport, ...] = ()
    now: float = 0.0
    unreadable: tuple[str, ...] = ()
    """Why the others cannot be read."""

    @property
    def living(self) -> tuple[DaemonReport, ...]:
        """The reports of running daemons."""
        return tuple(one for one in self.reports if one.lives(self.now))

    @property
    def silent(self) -> tuple[DaemonReport, ...]:
        """The reports of daemons that report no more. One that was replaced is not among them.

        A daemon is replaced by one of the same owner, instance and folder (after a kill, on a new disk), or by one of
        the same owner on the same folder of the same machine: a container that was made anew, with another host name.
        """
        latest: dict[tuple[str, ...], float] = {}
        for one in self.reports:
            for identity in _identities(one):
                latest[identity] = max(one.seen_at, latest.get(identity, one.seen_at))
        return tuple(
            one
            for one in self.reports
            if one.is_silent(self.now) and all(one.seen_at == latest[identity] for identity in _identities(one))
        )

    @property
    def shown(self) -> tuple[DaemonReport, ...]:
        """At most ``MAX_SHOWN`` reports, by owner and instance. The oldest are left out, and replaced ones.

        A stopped daemon is replaced by one that reported later of the same host, owner, instance and folder: its start
        waits, so that its report has another name (``upload/reporter.py``).
        """
        silent = {one.instance for one in self.silent}
        seen_at: dict[tuple[str, ...], float] = {}
        for one in self.reports:
            seen_at[_restarted_as(one)] = max(one.seen_at, seen_at.get(_restarted_as(one), one.seen_at))
        kept = [
            one
            for one in self.reports
            if one.lives(self.now)
            or one.instance in silent
            or (one.stopped and (one.name_taken_by or one.seen_at == seen_at[_restarted_as(one)]))
        ]
        kept.sort(key=lambda one: (one.stopped, -one.seen_at))
        return tuple(sorted(kept[:MAX_SHOWN], key=lambda one: (one.owner, one.instance_id, one.instance)))

    def state_of(self, report: DaemonReport) -> str:
        """Return the state of a daemon in a word or two."""
        if report.stopped:
            return "lost its name" if report.name_taken_by else "stopped"
        if report.is_silent(self.now):
            return "silent"
        return report.judgement.state.value

    @property
    def state(self) -> str | None:
        """The state of all daemons in a word or two: the worst one; ``None`` if none is known."""
        if self.silent:
            return "silent"
        judged = self.judgement
        if judged is not None:
            return judged.state.value
        return "stopped" if self.reports else None

    def of_owner(self, owner: str) -> Fleet:
        """Return the part of the fleet that has this owner."""
        return replace(self, reports=tuple(one for one in self.reports if one.owner == owner), unreadable=())

    def lags(self, now: float) -> dict[str, Lag]:
        """Return the lag of each stream that a running daemon reports, by the clock whose time is ``now``."""
        return {
            key: lag if lag.since is None else replace(lag, since=report.by_redis_clock(lag.since) + now - self.now)
            for report in self.living
            for key, lag in report.lags.items()
        }

    def activities(self) -> dict[str, str]:
        """Return what each stream does that a running daemon reports (``StreamActivity``)."""
        return {key: activity for report in self.living for key, activity in report.activities.items()}

    @property
    def judgement(self) -> Judgement | None:
        """The judgement of all running daemons: the worst word, and the sums; ``None`` if none runs."""
        judged = [report.judgement for report in self.living]
        if not judged:
            return None
        waits_for = dict.fromkeys(service for one in judged for service in one.waits_for)
        return judge(
            tuple(risk for one in judged for risk in one.risks),
            tuple(waits_for),
            starting=any(one.state is State.STARTING for one in judged),
        )

    def lag(self, now: float) -> Lag:
        """Return the lag of all running daemons, by the clock whose time is ``now``."""
        lags = [(report, report.behind) for report in self.living]
        since = [report.by_redis_clock(lag.since) + now - self.now for report, lag in lags if lag.since is not None]
        return Lag(sum(lag.size_bytes for _, lag in lags), min(since, default=None))

    def needing_attention(self) -> list[DaemonReport]:
        """Return the reports of daemons that have a risk or are silent."""
        silent = {one.instance for one in self.silent}
        return [one for one in self.reports if one.instance in silent or (one.risks and one.lives(self.now))]


def read_fleet(stored: StoredReports) -> Fleet:
    """Decode the registry."""
    reports, unreadable = [], []
    for name, one in sorted(stored.reports.items()):
        try:
            reports.append(decode(name, one.text, _when_received(one.received_at, stored.now)))
        except ValueError as error:
            unreadable.append(str(error))
    return Fleet(tuple(reports), stored.now, tuple(unreadable))


def _when_received(at: float, now: float) -> float:
    """Return when a report was received.

    Redis' clock was set back since then if that is in the future. A living daemon reports again soon; until then it
    counts as silent, since a dead one must not count as running until the clock has come this far again.
    """
    return at if at <= now + OLD_SECONDS else now - OLD_SECONDS - 1


class FleetProblem(StrEnum):
    """What may be wrong with a fleet."""

    SILENT = "silent"
    MIXED_VERSIONS = "mixed_versions"
    NEWER_RECORDS = "newer_records"
    CLOCKS_APART = "clocks_apart"
    SAME_OWNER = "same_owner"
    SAME_INSTANCE = "same_instance"
    SHARED_FOLDER = "shared_folder"
    SHARED_PREFIX = "shared_prefix"
    OWNER_CHANGED = "owner_changed"
    NAME_LOST = "name_lost"


@dataclass(frozen=True, slots=True)
class FleetFinding:
    """A problem of the fleet, in words; ``is_urgent``: recordings may not get to S3, or may be sent twice."""

    problem: FleetProblem
    says: str
    todo: str
    is_urgent: bool


def judge_fleet(fleet: Fleet) -> list[FleetFinding]:
    """Return what is wrong with a fleet."""
    return [
        *_judge_silence(fleet),
        *_judge_lost_names(fleet),
        *_judge_owners(fleet.living),
        *_judge_instances(fleet.living),
        *_judge_shares(fleet.living),
        *_judge_prefixes(fleet.living),
        *_judge_changes(fleet),
        *_judge_versions(fleet.living),
        *_judge_newer(fleet.living),
        *_judge_clocks(fleet.living),
    ]


def is_urgent(fleet: Fleet) -> bool:
    """Return whether a daemon has a risk, or the fleet an urgent problem."""
    return bool(fleet.needing_attention()) or any(one.is_urgent for one in judge_fleet(fleet))


def fleet_document(fleet: Fleet) -> dict[str, Any]:
    """Return the fleet for JSON. Times are ages in seconds; sizes are in bytes."""
    shown = fleet.shown
    return {
        "ok": not is_urgent(fleet),
        "now": fleet.now,
        "daemons": [_daemon_document(one, fleet) for one in shown],
        "left_out": len(fleet.reports) - len(shown),
        "problems": [
            {"problem": one.problem.value, "says": one.says, "todo": one.todo, "urgent": one.is_urgent}
            for one in judge_fleet(fleet)
        ],
        "unreadable": list(fleet.unreadable[:_NAMED]),
    }


def _daemon_document(one: DaemonReport, fleet: Fleet) -> dict[str, Any]:
    def age(moment: float | None) -> float | None:
        return None if moment is None else round(max(0.0, fleet.now - one.by_redis_clock(moment)), 1)

    problems = describe_problems(one, fleet.now)
    return {
        "owner": one.owner,
        "instance": one.instance_id,
        "host": one.host,
        "folder": one.folder,
        "share": one.share or None,
        "version": one.version,
        "schema": one.schema,
        "newer_records": one.newer_records or 0,
        "state": fleet.state_of(one),
        "ready": one.is_ready and one.lives(fleet.now),
        "seen_seconds": round(max(0.0, fleet.now - one.seen_at), 1),
        "clock_ahead_seconds": round(one.clock_ahead_seconds, 1),
        "streams": dict(one.streams),
        "completed": one.completed,
        "failed": one.failed,
        "behind_bytes": one.behind.size_bytes,
        "behind_seconds": round(one.age(one.behind, fleet.now), 1),
        "bytes_per_second": one.bytes_per_second,
        "watcher_seconds": age(one.watcher_at),
        "idle_checker_seconds": age(one.idle_checker_at),
        "waits_for": list(one.waits_for),
        "bytes_at_risk": one.judgement.size_bytes,
        "recordings_at_risk": one.judgement.recordings,
        "risks": [risk.reason.value for risk in one.risks],
        "says": [problem.says for problem in problems],
        "advice": [problem.advice for problem in problems],
    }


def _judge_silence(fleet: Fleet) -> Iterable[FleetFinding]:
    silent = sorted(fleet.silent, key=lambda one: one.seen_at)
    if silent:
        says = _list([f"{_name(one)} for {fleet.now - one.seen_at:.0f} s{_opened(one)}" for one in silent])
        owners = sorted({one.owner for one in silent})
        retire = f"{owners[0]}`" if len(owners) == 1 else f"OWNER`, which is {_list(owners)}"
        living = {one.owner for one in fleet.living}
        shared = sorted({one.instance_id for one in silent if one.owner in living})
        if shared:  # an owner whose other daemons run is not retired as a whole
            retire += f", with `--instance {shared[0] if len(silent) == 1 else 'ID'}` while others of the owner run"
        yield FleetFinding(
            FleetProblem.SILENT,
            f"{_count(len(silent), 'daemon')} reported no more, and "
            f"{'was' if len(silent) == 1 else 'were'} not stopped: {says}",
            f"{SILENT_ADVICE}; of a host that is gone for good, `cef-trio fleet retire {retire}",
            True,
        )


def _judge_lost_names(fleet: Fleet) -> Iterable[FleetFinding]:
    """Find daemons that stopped since another system took their owner's name, until one works there again."""
    lost = [
        one
        for one in fleet.reports
        if one.stopped and one.name_taken_by and not any(_works_in_place_of(new, one) for new in fleet.living)
    ]
    if lost:
        says = _list([f"{_locations([one])} to {one.taken_on or 'another host'}" for one in lost])
        yield FleetFinding(
            FleetProblem.NAME_LOST,
            f"{_count(len(lost), 'daemon')} stopped, as another running system took the owner's name: {says}",
            NAME_LOST_ADVICE,
            True,
        )


def _works_in_place_of(new: DaemonReport, lost: DaemonReport) -> bool:
    is_later = new.seen_at > lost.seen_at and new.folder == lost.folder
    return is_later and new.system != lost.name_taken_by and (new.system == lost.system or new.host == lost.host)


def _opened(report: DaemonReport) -> str:
    """Describe the streams that a silent daemon had at its last report."""
    return f" ({_count(report.active_streams, 'stream')} open)" if report.active_streams else ""


def _judge_owners(living: Iterable[DaemonReport]) -> Iterable[FleetFinding]:
    """Find owners of several machines whose folders are not shared: an OWNER_NAME that was copied."""
    for owner, same in _grouped(living, lambda one: one.owner):
        if len({one.system for one in same}) > 1 and not all(one.share for one in same):
            machines = len({one.system for one in same})
            yield FleetFinding(
                FleetProblem.SAME_OWNER,
                f"{machines} machines have the owner {owner!r}, and their folders are their own: {_locations(same)}",
                "give each machine an OWNER_NAME of its own, or remove the setting; a clone then needs a machine-id "
                f"of its own ({NEW_MACHINE_ID}), and its daemon a restart",
                True,
            )


def _judge_instances(living: Iterable[DaemonReport]) -> Iterable[FleetFinding]:
    """Find daemons with one INSTANCE_ID. Several of one machine have it by default, and their folders differ."""
    todo = "give each daemon an INSTANCE_ID of its own"
    for instance, same in _grouped(living, lambda one: one.instance_id):
        is_urgent = _share_a_folder(same)
        if not is_urgent and len({one.system for one in same}) == 1:
            continue
        says = f"{len(same)} daemons have the INSTANCE_ID {instance!r}: {_locations(same)}"
        if not is_urgent:
            says += ". Each has recordings of its own, so nothing goes wrong, but the log does not tell them apart"
        yield FleetFinding(FleetProblem.SAME_INSTANCE, says, todo, is_urgent)


def _share_a_folder(same: Iterable[DaemonReport]) -> bool:
    """Return whether two daemons of one owner watch one folder, or one watches a folder below another's."""
    shared, local, folders, places = [], set(), Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for one in same:
        if one.share:
            shared.append((one.owner, f"{one.share.rstrip('/')}/"))
            continue
        local.add((one.owner, one.system, one.host, f"{one.folder.rstrip('/')}/"))
        if one.place:
            places[one.owner, one.system, one.place] += 1
        else:  # containers of one machine may have one path for two folders: their places tell them apart
            folders[one.owner, one.system, one.folder] += 1
    counts = (*places.values(), *folders.values())
    return any(number > 1 for number in counts) or _has_nested(shared) or _has_nested(local)


def _has_nested(folders: Iterable[tuple[str, ...]]) -> bool:
    """Return whether a folder, the last item, is below another with the same other items, or is the same."""
    # In order, what is below a folder follows it directly.
    return any(one[:-1] == after[:-1] and after[-1].startswith(one[-1]) for one, after in pairwise(sorted(folders)))


def _judge_shares(living: Iterable[DaemonReport]) -> Iterable[FleetFinding]:
    for share, same in _grouped((one for one in living if one.share), lambda one: one.share):
        owners = sorted({one.owner for one in same})
        if len(owners) > 1:
            yield FleetFinding(
                FleetProblem.SHARED_FOLDER,
                f"the network folder {share!r} is watched by {len(owners)} owners ({_list(owners)}), and each uploads "
                f"every recording in it: {_locations(same)}",
                "give the daemons of one folder one common OWNER_NAME: then leases divide the work",
                True,
            )


def _judge_prefixes(living: Iterable[DaemonReport]) -> Iterable[FleetFinding]:
    """Find owners whose objects are below another one's prefix, unless the templates of both have no ``{owner}``."""
    above, said = list[DaemonReport](), set[tuple[str, str]]()
    owners = dict[tuple[str, bool], dict[str, DaemonReport]]()
    for one in living:
        some = owners.setdefault((one.objects, one.mixes_owners), {})
        if one.objects and len(some) < 2:  # noqa: PLR2004 - one of them is another owner than any third one
            some[one.owner] = one
    for one in [one for _, some in sorted(owners.items()) for one in some.values()]:
        above = [outer for outer in above if one.objects.startswith(outer.objects)]
        for outer in above:
            pair = (one.owner, outer.owner)
            if one.owner == outer.owner or (one.mixes_owners and outer.mixes_owners) or pair in said:
                continue
            said.add(pair)
            prefix, around = (each.objects.partition(" ")[2] for each in (one, outer))
            yield FleetFinding(
                FleetProblem.SHARED_PREFIX,
                f"the owner {one.owner!r} ({_name(one)}) has its objects below {prefix!r}, which is "
                f"{'also the' if prefix == around else f'below {around!r}, the'} prefix of {outer.owner!r} "
                f"({_name(outer)})",
                "put {owner}/ at the same place into the S3_KEY_TEMPLATE of both, in front of {stream_id}",
                True,
            )
        above.append(one)


def _judge_changes(fleet: Fleet) -> Iterable[FleetFinding]:
    """Find folders that have another owner than before."""
    gone = [one for one in fleet.reports if one.place and one.owner and not one.lives(fleet.now)]
    before = {(one.place, one.folder): one for one in sorted(gone, key=lambda one: one.seen_at)}
    pairs = [(one, before.get((one.place, one.folder))) for one in fleet.living if one.owner]
    changed = [(one, was) for one, was in pairs if was is not None and was.owner != one.owner]
    if changed:
        says = _list([f"{_locations([one])} was {was.owner!r} and is {one.owner!r}" for one, was in changed])
        yield FleetFinding(
            FleetProblem.OWNER_CHANGED,
            f"{_count(len(changed), 'folder')} changed the owner, and streams stay with the earlier one: {says}",
            "set OWNER_NAME to the earlier name, so that open uploads go on; or, if it is to change, abort what the "
            "earlier one has open (`cef-trio list --owner NAME`), then `cef-trio fleet retire NAME`",
            False,
        )


def _judge_versions(living: Iterable[DaemonReport]) -> Iterable[FleetFinding]:
    versions = Counter((one.version or "unknown", one.schema) for one in living)
    if len(versions) > 1:
        rarest = min(versions, key=lambda one: (versions[one], one[0]))
        named = [_name(one) for one in living if (one.version or "unknown", one.schema) == rarest]
        shown = ", ".join(
            f"{version}{'' if schema is None else f' (schema {schema})'} in {number}"
            for (version, schema), number in sorted(versions.items(), key=str)
        )
        yield FleetFinding(
            FleetProblem.MIXED_VERSIONS,
            f"{len(versions)} versions run: {shown}; {rarest[0]} in {_list(named)}",
            "finish the upgrade; an older version leaves the records of a newer one alone",
            False,
        )


def _judge_newer(living: Iterable[DaemonReport]) -> Iterable[FleetFinding]:
    older = [one for one in living if one.newer_records]
    if older:
        says = _list([f"{_name(one)} leaves {_count(one.newer_records or 0, 'record')} alone" for one in older])
        yield FleetFinding(
            FleetProblem.NEWER_RECORDS,
            f"records are of a newer version than their daemons: {says}",
            "upgrade these daemons, or leave the recordings to the newer ones",
            False,
        )


def _judge_clocks(living: Iterable[DaemonReport]) -> Iterable[FleetFinding]:
    apart = [one for one in living if abs(one.clock_ahead_seconds) > MAX_CLOCK_SECONDS]
    if apart:
        apart.sort(key=lambda one: -abs(one.clock_ahead_seconds))
        says = _list([f"{_name(one)} by {one.clock_ahead_seconds:+.0f} s" for one in apart])
        yield FleetFinding(
            FleetProblem.CLOCKS_APART,
            f"{_count(len(apart), 'clock')} differ{'s' if len(apart) == 1 else ''} from that of Redis: {says}",
            "synchronise the clocks (chrony, systemd-timesyncd), that of Redis' host too",
            False,
        )


def _grouped(
    reports: Iterable[DaemonReport], by: Callable[[DaemonReport], str]
) -> Iterable[tuple[str, list[DaemonReport]]]:
    """Return the groups of more than one process with the same nonempty key."""
    groups: dict[str, dict[str, DaemonReport]] = {}
    for one in reports:
        if one.process and by(one):
            groups.setdefault(by(one), {})[one.process] = one
    return [(name, list(same.values())) for name, same in groups.items() if len(same) > 1]


def _identities(report: DaemonReport) -> list[tuple[str, ...]]:
    by_name = ("instance", report.owner, report.instance_id, report.folder)
    return [by_name, ("place", report.owner, report.place, report.folder)] if report.place else [by_name]


def _restarted_as(report: DaemonReport) -> tuple[str, ...]:
    """Return what the reports of a daemon and of its restart have in common."""
    return (report.owner, report.instance_id, report.folder, report.host)


def _name(report: DaemonReport) -> str:
    return f"{report.instance_id} on {report.host or 'a host'}"


def _locations(same: Iterable[DaemonReport]) -> str:
    return _list([f"{one.folder} on {one.host or 'a host'}" for one in same])


def _list(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return " and ".join(names) if len(names) == 2 else ", ".join(names[:_NAMED]) + more  # noqa: PLR2004 - "a and b"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def streams_by_state(reports: Iterable[DaemonReport]) -> Mapping[str, int]:
    """Return the number of active streams of these daemons in each state."""
    counts: Counter[str] = Counter()
    for one in reports:
        counts.update(one.streams)
    return counts
