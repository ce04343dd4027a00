"""Which daemon of a shared folder begins a new file: the pure decision, enumerated."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from math import ceil
from random import Random

import pytest

from cef_trio.observability import DaemonReport, Fleet, Reason, Risk
from cef_trio.upload.work_division import Peers, begun_by_others, divide, ranked, takes_files, wait_seconds, work_group

DAEMONS = ("a1", "b2", "c3", "d4", "e5")


def names(count: int) -> list[str]:
    return [f"/cam-{number % 7}/2026-11-29_{number:04}.mp4" for number in range(count)]


def test_a_daemon_that_leaves_or_comes_moves_only_its_own_files() -> None:
    for path in names(500):
        before = ranked(path, DAEMONS)
        for gone in DAEMONS:
            assert ranked(path, [one for one in DAEMONS if one != gone]) == [one for one in before if one != gone]


def test_without_a_look_at_the_loads_each_daemon_is_first_for_about_as_many_files() -> None:
    firsts = Counter(ranked(path, DAEMONS)[0] for path in names(5000))
    assert min(firsts.values()) > 900
    assert max(firsts.values()) < 1100


@pytest.mark.parametrize("count", [0, 1, 2, 3, 11, 12, 13, 60])
@pytest.mark.parametrize("daemons", [1, 2, 3, 5])
def test_each_file_has_one_daemon_and_no_daemon_has_more_than_its_share(count: int, daemons: int) -> None:
    loads = dict.fromkeys(DAEMONS[:daemons], 0)
    division = divide(names(count), loads)
    assert division.keys() == set(names(count))
    assert set(division.values()) <= loads.keys()
    assert max(Counter(division.values()).values(), default=0) <= ceil(count / daemons)


def test_the_answer_depends_on_what_is_seen_and_not_on_its_order() -> None:
    random = Random(1)
    for _ in range(100):
        paths = random.sample(names(100), random.randrange(1, 40))
        loads = {one: random.randrange(6) for one in random.sample(DAEMONS, random.randrange(1, 6))}
        shuffled = dict(random.sample(list(loads.items()), len(loads)))
        assert divide(paths, loads) == divide(random.sample(paths, len(paths)), shuffled)


def test_a_daemon_with_more_than_its_share_of_the_streams_gets_no_file_while_others_have_less() -> None:
    for loads in itertools.product(range(4), repeat=3):
        by_daemon = dict(zip(DAEMONS, loads, strict=False))
        for count in range(1, 5):
            given = Counter(divide(names(count), by_daemon).values())
            share = ceil((sum(loads) + count) / 3)
            for daemon, load in by_daemon.items():
                assert not given[daemon] or load + given[daemon] <= share


def test_daemons_that_begin_their_files_one_after_the_other_keep_to_the_first_division() -> None:
    """One has begun its files before the next one looks: their leases count as its load."""
    paths, loads = names(12), dict.fromkeys(DAEMONS[:3], 0)
    first = divide(paths, loads)
    begun = [path for path, daemon in first.items() if daemon == "a1"]
    rest = divide([path for path in paths if path not in begun], {**loads, "a1": len(begun)})
    assert Counter(rest.values()) == {"b2": 4, "c3": 4}


def test_p6_daemons_that_take_a_dead_ones_streams_one_by_one_take_each_once_and_none_more_than_its_share() -> None:
    """Whatever the order in which they look and acquire leases: each sees what the others have taken so far."""
    for seed in range(200):
        random = Random(seed)
        living = random.sample(DAEMONS, random.randrange(1, 6))
        held = {one: random.randrange(5) for one in living}
        free = set(names(random.randrange(1, 30)))
        share = max(ceil((sum(held.values()) + len(free)) / len(living)), *held.values(), 0)
        taken = Counter(held)
        first = {one: frozenset(free) - left(one, free, taken, living) for one in living}
        assert sorted(path for ours in first.values() for path in ours) == sorted(free)
        while free:
            one = random.choice(living)
            mine = free - left(one, free, taken, living)
            assert mine == first[one] & free, "it takes what it was to take at first"
            for path in random.sample(sorted(mine), random.randrange(len(mine) + 1)):
                free.remove(path)
                taken[one] += 1
        assert max(taken.values()) <= share


def left(one: str, free: set[str], held: Counter[str], living: list[str]) -> frozenset[str]:
    """Return what a daemon leaves to the others."""
    others = begun_by_others(
        free,
        {path: path for path in free},
        process=one,
        streams=held[one],
        peers=[other for other in living if other != one],
        held_by=held.elements(),
    )
    return frozenset(others)


def test_the_wait_ends_before_it_counts_as_a_risk() -> None:
    assert wait_seconds(1) == 6
    assert wait_seconds(30) == wait_seconds(3600) == 35


def report(process: str, **fields: object) -> DaemonReport:
    one = DaemonReport(
        instance=f"site/{process}", at=990.0, folder="/rec", received_at=990.0, process=process, work_group="group"
    )
    return replace(one, **fields)  # type: ignore[arg-type]


def living(*reports: DaemonReport, group: str = "group", seconds: float = 0.0) -> frozenset[str]:
    peers = Peers()
    peers.update(Fleet(reports, now=1000.0), group, "us", 50.0)
    return peers.living(50.0 + seconds)


def test_only_other_daemons_that_live_and_work_on_the_same_files_count() -> None:
    assert living(report("us"), report("b2"), report("c3")) == {"b2", "c3"}
    assert living(report("b2", stopped=True), report("c3", work_group="another"), report("", at=1.0)) == set()
    assert living(report("b2", work_group=""), group="") == set(), "a daemon of an earlier version divides nothing"
    assert living(report("b2"), seconds=49) == {"b2"}
    assert living(report("b2"), seconds=51) == set(), "it has been silent for a minute"
    assert Peers().living(0.0) == set()


@pytest.mark.parametrize("reason", Reason)
def test_a_daemon_that_cannot_begin_files_does_not_count_and_one_with_a_failed_recording_does(reason: Reason) -> None:
    counts = reason in {
        Reason.FAILED,
        Reason.NOT_MOVING,
        Reason.FILE_UNREADABLE,
        Reason.RECORD_UNREADABLE,
        Reason.RECORD_NEWER,
        Reason.CHECKER_SILENT,
        Reason.DISK_SHORT,
    }
    assert takes_files(report("b2", risks=(Risk(reason, 1.0, 1, 1, "why"),))) is counts
    assert not takes_files(report("b2", waits_for=("s3",)))


def test_daemons_divide_the_work_only_if_they_see_the_same_files_under_the_same_names() -> None:
    group = work_group("/rec", ["*.mp4", "*.mov"], "nfs nas:/rec /", "")
    assert group == work_group("/rec", ["*.mov", "*.mp4"], "nfs nas:/rec /", "")
    others = {
        work_group("/mnt", ["*.mp4", "*.mov"], "nfs nas:/rec /", ""),
        work_group("/rec", ["*.mp4"], "nfs nas:/rec /", ""),
        work_group("/rec", ["*.mp4", "*.mov"], "nfs nas:/other /", ""),
        work_group("/rec", ["*.mp4", "*.mov"], "", "nfs nas:/rec /"),
    }
    assert len({group, *others}) == 5


@pytest.mark.parametrize("process", DAEMONS[:3])
def test_of_the_files_without_a_record_all_daemons_name_the_same_one_to_begin_each(process: str) -> None:
    """``deferred`` files are counted, but not decided about again."""
    waiting, deferred = names(10), [f"/deferred-{number}.mp4" for number in range(5)]
    others = begun_by_others(
        [f"/mnt{path}" for path in waiting],
        {f"/mnt{path}": path for path in (*waiting, *deferred)},
        process=process,
        streams=2,
        peers=[one for one in DAEMONS[:3] if one != process],
        held_by=[*(one for one in DAEMONS[:3] * 2 if one != process), "", "not a peer"],
    )
    division = divide([*waiting, *deferred], dict.fromkeys(DAEMONS[:3], 2))
    assert others == {f"/mnt{path}": division[path] for path in waiting if division[path] != process}


def test_a_daemon_that_cannot_begin_files_leaves_all_to_the_others() -> None:
    waiting = names(10)
    known_by = dict(zip(waiting, waiting, strict=True))
    others = begun_by_others(
        waiting, known_by, process="a1", streams=0, peers=("b2", "c3"), held_by=["b2"] * 4, takes_files=False
    )
    assert others == divide(waiting, {"b2": 4, "c3": 0})
