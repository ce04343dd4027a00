"""What is wrong with a fleet is named, each by its name, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cef_trio.observability.daemon_report import DaemonReport
from cef_trio.observability.fleet import Fleet, FleetProblem, judge_fleet
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


def test_two_processes_of_one_owner_and_instance_are_urgent_and_those_of_two_owners_are_not() -> None:
    same = [a_daemon(number, name="cam", owner="o", system="boot") for number in (1, 2)]
    for owner, urgent in (("o", True), ("another", False)):
        [found] = judge_fleet(Fleet((same[0], replace(same[1], owner=owner)), NOW))
        assert (found.problem, found.is_urgent) == (FleetProblem.SAME_INSTANCE, urgent)


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
