"""What is wrong with a fleet is named, each by its name, and nothing else is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, Final

import pytest

from cef_trio.checkpoint import StoredReport, StoredReports
from cef_trio.observability.at_risk import Reason, Risk
from cef_trio.observability.daemon_report import DaemonReport, describe_problems, encode, stopped
from cef_trio.observability.fleet import Fleet, FleetProblem, fleet_document, judge_fleet, read_fleet
from cef_trio.observability.lag import Lag

NOW = 1_700_000_000.0


def a_daemon(number: int, **more: Any) -> DaemonReport:
    values: dict[str, Any] = {
        "instance": f"owner-{number}/cam-{number}",
        "name": f"cam-{number}",
        "owner": f"owner-{number}",
        "host": f"host-{number}",
        "system": f"boot-{number}",
        "process": f"process-{number}",
        "at": NOW - 5,
        "received_at": NOW - 5,
        "folder": "/srv/recordings",
        "version": "1.0",
    }
    return DaemonReport(**{**values, **more})


def problems(*reports: DaemonReport) -> list[FleetProblem]:
    return [one.problem for one in judge_fleet(Fleet(reports, NOW))]


def test_a_fleet_whose_hosts_have_one_path_and_names_of_their_own_has_no_problem() -> None:
    assert problems(*map(a_daemon, range(500))) == []


SHARE = {"share": "nfs nas:/rec /", "owner": "studio"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, []),
        ({"received_at": NOW - 60, "at": NOW - 60}, []),
        ({"received_at": NOW - 61, "at": NOW - 61}, [FleetProblem.SILENT]),
        ({"received_at": NOW - 61, "at": NOW - 61, "stopped": True}, []),
        ({"at": NOW}, []),
        ({"at": NOW + 1}, [FleetProblem.CLOCKS_APART]),
        ({"at": NOW - 11}, [FleetProblem.CLOCKS_APART]),
        ({"version": "1.1"}, [FleetProblem.MIXED_VERSIONS]),
        ({"schema": 3}, [FleetProblem.MIXED_VERSIONS]),
        ({"newer_records": 2}, [FleetProblem.NEWER_RECORDS]),
        ({"version": ""}, [FleetProblem.MIXED_VERSIONS]),
        ({"version": "1.1", "stopped": True}, []),
        ({"name": "cam-1"}, [FleetProblem.SAME_INSTANCE]),
        ({"owner": "owner-1"}, [FleetProblem.SAME_OWNER]),
        ({"owner": "owner-1", "system": "boot-1", "folder": "/srv/other"}, []),  # two containers of one machine
    ],
)
def test_each_problem_is_named(more: dict[str, Any], expected: list[FleetProblem]) -> None:
    assert problems(a_daemon(1), a_daemon(2, **more)) == expected


def test_daemons_of_one_shared_folder_have_one_owner_and_two_owners_of_it_are_a_problem() -> None:
    one, two = a_daemon(1, **SHARE), a_daemon(2, **SHARE)
    assert problems(one, two) == []
    assert problems(one, replace(two, owner="office")) == [FleetProblem.SHARED_FOLDER]
    assert problems(one, replace(two, owner="office", share="nfs nas:/rec /b")) == []
    assert problems(one, replace(two, share="")) == [FleetProblem.SAME_OWNER]


SAME = {"name": "cam", "owner": "o", "system": "boot", "host": "host"}


@pytest.mark.parametrize(
    ("more", "urgent"),
    [
        ({}, True),
        ({"folder": "/srv/recordings/below"}, True),
        ({"folder": "/srv"}, True),
        ({"folder": "/srv/recordings-2"}, None),
        ({"folder": "/srv/other"}, None),
        ({"place": "another"}, None),  # two containers with one path for their folders
        ({"owner": "another"}, None),
        ({"system": "another"}, False),
        ({"system": "another", "owner": "another"}, False),
        ({"share": "nfs nas:/rec /"}, None),
        ({"share": "nfs nas:/rec /", "system": "another"}, False),
    ],
)
def test_daemons_with_one_instance_id_are_a_problem_only_if_they_watch_one_folder(
    more: dict[str, Any], urgent: bool | None
) -> None:
    """P10: several daemons of one machine have one INSTANCE_ID by default, and it is no fault."""
    for one, two in ((SAME, {**SAME, **more}), ({**SAME, **more}, SAME)):
        place = {"place": "a place"} if "place" in more else {}
        reports = (a_daemon(1, **{**place, **one}), a_daemon(2, **{**place, **two}))
        found = [one for one in judge_fleet(Fleet(reports, NOW)) if one.problem is FleetProblem.SAME_INSTANCE]
        assert [one.is_urgent for one in found] == ([] if urgent is None else [urgent])


def test_daemons_with_one_instance_id_in_one_share_are_urgent() -> None:
    same = {**SAME, **SHARE}
    for more, urgent in (({}, True), ({"share": "nfs nas:/rec /b"}, True), ({"share": "nfs nas:/b /"}, False)):
        reports = (a_daemon(1, **same), a_daemon(2, **{**same, "system": "another", **more}))
        assert [(one.problem, one.is_urgent) for one in judge_fleet(Fleet(reports, NOW))] == [
            (FleetProblem.SAME_INSTANCE, urgent)
        ]


REPORTED_AGAIN = {"instance": "waiting owner-1/cam-1@boot-2", "system": "boot-2", "process": ""}


def test_a_stopped_daemon_is_left_out_once_its_restart_reports_under_another_name() -> None:
    stopped_one = a_daemon(1, stopped=True, received_at=NOW - 100)
    again = a_daemon(1, **REPORTED_AGAIN)
    assert Fleet((stopped_one, again), NOW).shown == (again,)
    assert judge_fleet(Fleet((stopped_one, again), NOW)) == []
    for other in ("owner", "name", "folder", "host"):
        assert len(Fleet((stopped_one, a_daemon(1, **{**REPORTED_AGAIN, other: "another"})), NOW).shown) == 2, other
    lost = replace(stopped_one, name_taken_by="boot-3", taken_on="host-3")
    assert len(Fleet((lost, again), NOW).shown) == 2


def test_p7_a_fleet_with_one_instance_id_is_judged_in_linear_time() -> None:
    reports = [a_daemon(number, **{**SAME, "folder": f"/srv/{number:05}"}) for number in range(5000)]
    assert problems(*reports) == []
    assert problems(*reports, a_daemon(9999, **SAME, folder="/srv/00007/x")) == [FleetProblem.SAME_INSTANCE]


def test_p7_a_fleet_with_one_prefix_is_judged_in_linear_time() -> None:
    reports = [a_daemon(number, objects="s b/streams/", mixes_owners=True) for number in range(5000)]
    assert problems(*reports) == []
    below = a_daemon(9999, objects="s b/streams/owner-9999/")
    assert set(problems(*reports, below)) == {FleetProblem.SHARED_PREFIX}


def test_a_daemon_that_lost_its_name_is_named_until_one_works_in_its_place() -> None:
    """P10: it is not just stopped; its recordings do not get to S3."""
    lost = stopped(a_daemon(1), ("boot-2", "host-2"))
    clone = a_daemon(2, owner="owner-1", name="cam-1")
    fleet = Fleet((lost, clone), NOW)
    assert fleet.state_of(lost) == "lost its name"
    assert "host-2 took its owner's name" in describe_problems(lost, NOW)[0].says
    [found] = judge_fleet(fleet)
    assert (found.problem, found.is_urgent) == (FleetProblem.NAME_LOST, True)
    assert "/srv/recordings on host-1 to host-2" in found.says
    for again in (
        a_daemon(1, process="2", owner="new", received_at=NOW),
        a_daemon(1, process="2", system="boot-3", received_at=NOW),
    ):
        assert FleetProblem.NAME_LOST not in problems(lost, clone, again)
    same_names = a_daemon(2, owner="owner-1", name="cam-1", host="host-1", received_at=NOW)
    assert FleetProblem.NAME_LOST in problems(lost, same_names), "the clone has its host's name too"
    assert Fleet((stopped(a_daemon(1)),), NOW).state_of(stopped(a_daemon(1))) == "stopped"


def test_a_daemon_that_was_replaced_is_not_silent() -> None:
    killed = a_daemon(1, received_at=NOW - 999, at=NOW - 999)
    again = a_daemon(1, instance="owner-1/cam-1+2", process="2")
    assert problems(killed, again) == []
    assert problems(killed, replace(again, stopped=True)) == []
    assert Fleet((killed, again), NOW).needing_attention() == []
    for elsewhere in (replace(again, folder="/other"), replace(again, owner="other")):
        assert FleetProblem.SILENT in problems(killed, elsewhere)


def test_a_container_that_was_made_anew_under_another_host_name_replaces_the_killed_one() -> None:
    killed = a_daemon(1, place="place", received_at=NOW - 999, at=NOW - 999)
    again = a_daemon(1, place="place", instance="owner-1/4f2d", name="4f2d")
    assert problems(killed, again) == []
    assert [one.name for one in Fleet((killed, again), NOW).shown] == ["4f2d"]
    for elsewhere in (replace(again, folder="/other"), replace(again, place="another"), replace(again, place="")):
        assert problems(killed, elsewhere) == [FleetProblem.SILENT]


def test_of_a_silent_daemon_the_owner_to_retire_and_the_streams_it_had_are_named() -> None:
    silent = a_daemon(1, received_at=NOW - 99, at=NOW - 99, streams={"working": 2})
    [found] = judge_fleet(Fleet((silent,), NOW))
    assert found.says == "1 daemon reported no more, and was not stopped: cam-1 on host-1 for 99 s (2 streams open)"
    assert found.todo.endswith("`cef-trio fleet retire owner-1`")
    [found] = judge_fleet(Fleet((silent, a_daemon(2, received_at=NOW - 99, at=NOW - 99)), NOW))
    assert found.todo.endswith("`cef-trio fleet retire OWNER`, which is owner-1 and owner-2")


def test_a_folder_whose_owner_changed_is_named_until_the_earlier_owner_is_retired() -> None:
    was = a_daemon(1, place="place", stopped=True, received_at=NOW - 999, at=NOW - 999)
    now = a_daemon(1, place="place", owner="renamed", instance="renamed/cam-1")
    [found] = judge_fleet(Fleet((was, now), NOW))
    assert (found.problem, found.is_urgent) == (FleetProblem.OWNER_CHANGED, False)
    assert "/srv/recordings on host-1 was 'owner-1' and is 'renamed'" in found.says
    assert problems(now) == []
    others = [replace(was, folder="/other"), replace(was, place="another"), replace(was, place="")]
    for other in (*others, replace(was, owner="renamed")):
        assert problems(other, now) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "collide"),
    [
        (("s b/streams/node-7/", False), ("s b/streams/node-7/", True), True),
        (("s b/rec/node-7/", False), ("s b/rec/node-7/node-8/", False), True),
        (("s b/rec/node-7/node-8/", True), ("s b/rec/", False), True),
        (("s b/streams/", True), ("s b/streams/", True), False),  # each asks the other; doctor warns
        (("s b/streams/node-7/", False), ("s b/streams/node-70/", False), False),
        (("s b/streams/node-7/", False), ("s c/streams/node-7/", False), False),
        (("s b/streams/node-7/", False), ("t b/streams/node-7/", False), False),
        (("", False), ("", False), False),  # of an earlier version
    ],
)
def test_p9_owners_of_which_one_has_its_objects_below_the_prefix_of_the_other_are_named(
    ours: tuple[str, bool], theirs: tuple[str, bool], collide: bool
) -> None:
    one, too, other = (
        a_daemon(number, objects=objects, mixes_owners=mixes, owner=owner, system=owner)
        for number, (objects, mixes), owner in ((1, ours, "node-7"), (2, ours, "node-7"), (3, theirs, "node-8"))
    )
    found = judge_fleet(Fleet((one, too, other), NOW))
    assert [each.problem for each in found] == [FleetProblem.SHARED_PREFIX] * collide
    assert all(each.is_urgent and "'node-7'" in each.says and "'node-8'" in each.says for each in found)
    assert problems(one, replace(other, stopped=True)) == []


def test_a_sentence_names_a_few_of_many() -> None:
    silent = [a_daemon(number, received_at=NOW - 600 - number, at=NOW - 600 - number) for number in range(500)]
    [found] = judge_fleet(Fleet(tuple(silent), NOW))
    assert found.says.startswith("500 daemons reported no more, and were not stopped: cam-499 on host-499 for 1099 s, ")
    assert found.says.endswith(" and 495 more")
    assert len(found.says) < 400


def test_ages_do_not_depend_on_the_clock_of_a_host() -> None:
    ahead = a_daemon(1, at=NOW + 3595, lags={"s": Lag(7, NOW + 3590)})
    assert Fleet((ahead,), NOW).lags(NOW + 100) == {"s": Lag(7, NOW + 90)}  # the reader's clock is 100 s ahead
    assert ahead.lives(NOW)
    assert Fleet((replace(ahead, stopped=True),), NOW).lags(NOW) == {}


JUNK: Final = ["NaN", "Infinity", "-Infinity", "1e999", "-1", "1e15"]
"""As JSON: not finite, negative, or so far off that a sum with it means nothing."""


@pytest.mark.parametrize("junk", JUNK)
def test_p10_a_report_with_a_number_that_is_none_is_set_aside_whichever_field_has_it(junk: str) -> None:
    """Every number of a report ends up in arithmetic: none may raise, nor make a wrong judgement."""
    risk = Risk(next(iter(Reason)), NOW - 90, 7, 1, "why")
    whole = a_daemon(
        1, risks=(risk,), lags={"s": Lag(7, NOW - 90, 3)}, behind=Lag(7, NOW - 90, 3), streams={"active": 2},
        completed=3, failed=4, schema=2, newer_records=1, watcher_at=NOW, idle_checker_at=NOW, bytes_per_second=5.0,
        sent_per_second=5,
    )  # fmt: skip
    text = encode(whole)
    good = StoredReport(encode(a_daemon(2)), NOW)
    numbers = list(re.finditer(r"(?<=[:\[,])-?\d+(?:\.\d+)?(?=[,\]}])", text))
    assert len(numbers) >= 15
    for found in numbers:
        changed = f"{text[: found.start()]}{junk}{text[found.end() :]}"
        fleet = read_fleet(StoredReports({"one": StoredReport(changed, NOW), "two": good}, NOW))
        if junk == "1e15" and len(fleet.reports) == 2:
            continue  # so many bytes or streams are possible
        assert [one.instance for one in fleet.reports] == ["two"], changed
        [why] = fleet.unreadable
        assert "'one' cannot be read" in why
        json.dumps(fleet_document(fleet), allow_nan=False)


def test_something_that_waits_since_after_its_report_is_set_aside() -> None:
    """Its age would count as 0, so that bytes which do not get to S3 would not be seen."""
    text = encode(a_daemon(1, behind=Lag(7, NOW + 3600)))
    assert read_fleet(StoredReports({"one": StoredReport(text, NOW)}, NOW)).unreadable


def test_p10_after_redis_clock_was_set_back_a_dead_daemon_does_not_count_as_running() -> None:
    dead, living = (StoredReport(encode(a_daemon(number)), NOW) for number in (1, 2))
    an_hour_ago = NOW - 3600
    fleet = read_fleet(StoredReports({"dead": dead, "living": replace(living, received_at=an_hour_ago)}, an_hour_ago))
    assert {one.instance: fleet.state_of(one) for one in fleet.reports} == {"dead": "silent", "living": "ready"}
    assert FleetProblem.SILENT in [one.problem for one in judge_fleet(fleet)]


@pytest.mark.parametrize("ahead", [-NOW + 100, -86_400.0, 86_400.0, 3e9])
def test_p10_a_hosts_clock_that_is_far_off_changes_no_age(ahead: float) -> None:
    at = NOW + ahead
    report = a_daemon(1, at=at, behind=Lag(7, at - 90))
    [read] = read_fleet(StoredReports({"one": StoredReport(encode(report), NOW)}, NOW)).reports
    assert read.lives(NOW)
    assert read.age(read.behind, NOW) == pytest.approx(90)
    assert problems(read, a_daemon(2)) == [FleetProblem.CLOCKS_APART]
