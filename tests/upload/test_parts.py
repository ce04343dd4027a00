"""Which bytes are in which part: S3's limits hold, and every byte is in exactly one part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cef_trio.upload.part_plan import GIB, MAX_PART_BYTES, MAX_PARTS, MIB, MIN_PART_BYTES, Part, PartPlan

plans = st.builds(PartPlan, st.integers(MIN_PART_BYTES, MAX_PART_BYTES), st.booleans())
TIB = 1024 * GIB


def test_with_the_smallest_parts_ten_thousand_of_them_reach_five_terabytes() -> None:
    assert 5 * TIB * 0.97 < PartPlan(MIN_PART_BYTES).max_size_bytes < 5 * TIB
    assert PartPlan(10 * MIB).max_size_bytes > 5 * TIB


def test_sizes_double_every_thousand_parts() -> None:
    plan = PartPlan(10 * MIB)
    assert [plan.part(n).size_bytes // MIB for n in (1, 1000, 1001, 2000, 2001, 10_000)] == [10, 10, 20, 20, 40, 5120]


def test_equal_parts_stay_equal() -> None:
    plan = PartPlan(10 * MIB, equal_parts=True)
    assert {plan.part(n).size_bytes for n in (1, 1001, MAX_PARTS)} == {10 * MIB}
    assert plan.max_size_bytes == MAX_PARTS * 10 * MIB


@given(plans, st.integers(1, MAX_PARTS - 1))
def test_a_part_begins_where_the_one_before_it_ends_and_keeps_s3s_limits(plan: PartPlan, number: int) -> None:
    part, following = plan.part(number), plan.part(number + 1)
    assert following.offset == part.end
    assert MIN_PART_BYTES <= part.size_bytes <= following.size_bytes <= MAX_PART_BYTES


@given(plans, st.integers(0, 40 * GIB))
def test_a_cut_file_is_covered_without_gap_or_overlap(plan: PartPlan, size_bytes: int) -> None:
    if size_bytes > plan.max_size_bytes:
        with pytest.raises(ValueError, match="do not fit"):
            list(plan.split(size_bytes))
        return
    end = 0
    for number, part in enumerate(plan.split(size_bytes), start=1):
        assert part.number == number
        assert part.offset == end
        assert part.size_bytes > 0
        assert part == plan.split_part(number, size_bytes)
        end = part.end
    assert end == size_bytes


@given(plans, st.integers(1, MAX_PARTS), st.integers(-1, 1))
def test_the_number_of_full_parts_changes_exactly_at_a_parts_end(plan: PartPlan, number: int, offset: int) -> None:
    expected = number if offset >= 0 else number - 1
    assert plan.count_full(plan.part(number).end + offset) == expected


def test_an_empty_file_has_no_parts_and_a_short_one_has_one() -> None:
    plan = PartPlan(5 * MIB)
    assert list(plan.split(0)) == []
    assert list(plan.split(1)) == [Part(1, 0, 1)]
    assert list(plan.split(5 * MIB)) == [Part(1, 0, 5 * MIB)]
    assert list(plan.split(5 * MIB + 1)) == [Part(1, 0, 5 * MIB), Part(2, 5 * MIB, 1)]
    assert plan.split_part(2, 5 * MIB) is None


@pytest.mark.parametrize("number", [0, -1, MAX_PARTS + 1])
def test_there_is_no_part_outside_one_to_ten_thousand(number: int) -> None:
    with pytest.raises(ValueError, match="part numbers"):
        PartPlan(5 * MIB).part(number)


def test_a_part_has_at_least_a_byte() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        PartPlan(0)
