"""P7, P8: ``MIN_FREE_SPACE``: how much goes, in which order, and when it stops: the pure rules."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cef_trio.checkpoint.model import FileIdentity
from cef_trio.postprocess.free_space_rules import (
    MOST_PER_ROUND,
    MOST_REFUSALS,
    KeptRecording,
    Round,
    SpaceState,
    judge_space,
    oldest_first,
    why_short,
)
from cef_trio.settings.after_upload import MinFreeSpace, parse_min_free_space

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "rule", "shown"),
    [
        ("20GiB", MinFreeSpace(20 * GIB), str(20 * GIB)),
        (" 1 TiB ", MinFreeSpace(1 << 40), str(1 << 40)),
        ("0", MinFreeSpace(), "0"),
        ("10%", MinFreeSpace(percent=10), "10%"),
        (" 2.5 % ", MinFreeSpace(percent=2.5), "2.5%"),
        ("90%", MinFreeSpace(percent=90), "90%"),
    ],
)
def test_a_size_or_a_percentage_is_understood(text: str, rule: MinFreeSpace, shown: str) -> None:
    assert parse_min_free_space(text) == rule
    assert str(rule) == shown
    assert parse_min_free_space(shown) == rule
    assert bool(rule) == (text != "0")


@pytest.mark.parametrize(
    "text", ["", "%", "0%", "-1%", "91%", "100%", "nan%", "1e9%", "20 GiB free", "-5", "ten", "1.5GiB"]
)
def test_any_other_text_is_refused_with_what_is_right(text: str) -> None:
    with pytest.raises(ValueError, match="20GiB, or a percentage of the disk up to 90%"):
        parse_min_free_space(text)


def test_p8_what_is_not_known_is_not_short() -> None:
    """Some file systems report no size, or more free than there is: then nothing goes."""
    for total, free in [(0, 0), (-1, 0), (0, 5), (10, 11), (10, -1)]:
        assert judge_space(MinFreeSpace(percent=50), total, free) == (SpaceState.UNKNOWN, 0)


def test_p8_a_disk_that_is_too_small_for_the_setting_loses_nothing() -> None:
    """Such as the system's disk, while the big one is not mounted."""
    assert judge_space(MinFreeSpace(20 * GIB), 16 * GIB, 5 * GIB) == (SpaceState.TOO_MUCH_WANTED, 0)
    assert judge_space(MinFreeSpace(20 * GIB), 22 * GIB, 5 * GIB) == (SpaceState.TOO_MUCH_WANTED, 0)
    assert judge_space(MinFreeSpace(20 * GIB), 23 * GIB, 5 * GIB) == (SpaceState.SHORT, 15 * GIB)
    assert judge_space(MinFreeSpace(percent=90), 10 * GIB, GIB) == (SpaceState.SHORT, 8 * GIB)


@given(st.integers(1, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.floats(0, 90))
def test_a_disk_is_short_of_exactly_what_is_missing(total: int, free: int, size: int, percent: float) -> None:
    for rule in (MinFreeSpace(size), MinFreeSpace(percent=percent)):
        state, missing = judge_space(rule, total, free)
        assert (missing > 0) == (state is SpaceState.SHORT)
        if state is SpaceState.SHORT:
            assert free + missing == rule.wanted_bytes(total) <= total * 0.9
        if state is SpaceState.ENOUGH:
            assert rule.wanted_bytes(total) <= free <= total


def test_the_one_that_was_completed_first_goes_first() -> None:
    def kept(name: str, at: float, again_at: float = 0.0) -> KeptRecording:
        return KeptRecording(name, "", at, FileIdentity(1, 2), again_at)

    found = oldest_first([kept("c", 2), kept("b", 1), kept("a", 1), kept("d", 0, again_at=11), kept("e", 3, 10)], 10)
    assert [one.path for one in found] == ["a", "b", "c", "e"]


# ---- a round ---------------------------------------------------------------------------------------------------------


class Disk:
    """A disk that frees at once, later, or never; others write to it meanwhile."""

    def __init__(self, sizes: list[int], missing: int, *, frees: str, written: int) -> None:
        self.sizes = list(sizes)
        self.free = 1 << 40
        self.wanted = self.free + missing
        self.frees = frees
        self.written = written
        self.later = 0

    def delete(self) -> int:
        size = self.sizes.pop(0)
        if self.frees == "at once":
            self.free += size
        elif self.frees == "later":
            self.later += size
        return size

    def measure(self) -> int:
        self.free -= self.written
        return self.free

    def settle(self) -> None:
        self.free, self.later = self.free + self.later, 0

    def play(self, *, proven: bool) -> tuple[Round, int]:
        """One round, as ``free_space.py`` carries it out; returns it and how many recordings went."""
        found = Round(self.wanted - self.free, self.free, proven)
        gone = 0
        while self.sizes and found.may_go_on and self.free < self.wanted:
            found.looked_at += 1
            found.deleted(self.delete())
            gone += 1
            found.measured(self.measure())
        self.settle()
        found.measured(self.measure())
        return found, gone


sizes = st.lists(st.integers(1, 1000), max_size=300)


@given(sizes, st.integers(1, 5000), st.booleans(), st.sampled_from(["at once", "later", "never"]), st.integers(0, 50))
def test_p8_a_round_deletes_no_more_than_is_missing_and_one_recording(
    sizes: list[int], missing: int, proven: bool, frees: str, written: int
) -> None:
    disk = Disk(sizes, missing, frees=frees, written=written)
    found, gone = disk.play(proven=proven)
    assert gone <= MOST_PER_ROUND
    assert sum(sizes[: gone - 1]) < missing or gone == 0
    if frees != "at once" and not proven:
        assert gone <= 1
    if gone and not written:
        assert found.freed == (frees != "never")


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=300),
    st.integers(1, 5000),
    st.sampled_from(["at once", "later"]),
)
def test_a_disk_that_frees_what_is_deleted_has_enough_in_the_end_or_nothing_is_left(
    sizes: list[int], missing: int, frees: str
) -> None:
    disk = Disk(sizes, missing, frees=frees, written=0)
    proven, rounds = False, 0
    while disk.free < disk.wanted and disk.sizes:
        found, gone = disk.play(proven=proven)
        proven, rounds = found.freed, rounds + 1
        assert gone
    assert rounds <= 2 + len(sizes) // MOST_PER_ROUND
    assert disk.free >= disk.wanted or not disk.sizes


@given(sizes, st.integers(1, 5000))
def test_p8_a_disk_that_frees_nothing_loses_one_recording_a_pause(sizes: list[int], missing: int) -> None:
    """Snapshots, reflinks, a program that has them open. Once it was proven, one round's."""
    disk = Disk(sizes, missing, frees="never", written=0)
    found, gone = disk.play(proven=False)
    assert gone == min(1, len(sizes))
    assert not found.freed


def test_what_others_write_meanwhile_hides_no_deletion() -> None:
    disk = Disk([1000] * 10, 5000, frees="at once", written=400)
    found, _ = disk.play(proven=False)
    assert found.freed


def test_what_waits_for_silence_counts_as_if_it_was_deleted() -> None:
    found = Round(100, 0, proven=True)
    found.waited_bytes = 100
    assert not found.may_go_on


def test_a_round_ends_after_three_refusals_of_s3_in_a_row() -> None:
    found = Round(100, 0, proven=True)
    for _ in range(10):
        for _ in range(MOST_REFUSALS - 1):
            found.refused(by_s3=True)
            assert found.may_go_on
        found.refused(by_s3=False)  # by the file system: S3 had let it go
    for _ in range(MOST_REFUSALS - 1):
        found.refused(by_s3=True)
    found.deleted(1)
    assert found.may_go_on
    for _ in range(MOST_REFUSALS):
        found.refused(by_s3=True)
    assert not found.may_go_on


def test_the_reason_names_what_hinders_and_what_is_not_in_s3() -> None:
    for obstacle, paused, count in product(["", "S3 is down"], [False, True], [0, 1, 5, 7]):
        text = why_short(obstacle=obstacle, paused=paused, unverified=[f"/w/{number}.mp4" for number in range(count)])
        assert text.startswith(
            obstacle or ("deleting recordings frees nothing" if paused else "no completed recording")
        )
        assert ("not in S3 yet" in text) == (count > 0)
        assert text.endswith("and 2 more") == (count == 7)
