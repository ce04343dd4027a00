"""How old the oldest byte is that S3 does not have: never younger than it is, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cef_trio.observability.lag import Growth, Lag, lag_of, total


def test_the_oldest_byte_is_as_old_as_its_first_sight() -> None:
    growth = Growth(10.0, 100)
    growth.saw(20.0, 200)
    growth.saw(30.0, 300)
    assert growth.oldest() == 10.0
    growth.acknowledged(99)
    assert growth.oldest() == 10.0
    growth.acknowledged(100)
    assert growth.oldest() == 20.0
    growth.acknowledged(250)
    assert growth.oldest() == 30.0
    growth.acknowledged(300)
    assert growth.oldest() is None


def test_an_empty_file_has_no_byte_that_could_be_old() -> None:
    assert Growth(1.0, 0).oldest() is None


def test_a_look_that_shows_nothing_new_changes_nothing() -> None:
    growth = Growth(1.0, 100)
    growth.saw(50.0, 100)
    assert growth.oldest() == 1.0


def test_bytes_that_a_truncation_took_are_forgotten_and_come_back_young() -> None:
    growth = Growth(1.0, 100)
    growth.saw(2.0, 200)
    growth.saw(3.0, 150)
    growth.acknowledged(150)
    assert growth.oldest() is None
    growth.saw(9.0, 200)
    growth.acknowledged(150)
    assert growth.oldest() == 9.0


def test_a_file_that_was_emptied_begins_anew() -> None:
    growth = Growth(1.0, 100)
    growth.saw(2.0, 0)
    assert growth.oldest() is None
    growth.saw(3.0, 10)
    assert growth.oldest() == 3.0


@given(st.lists(st.integers(min_value=1, max_value=1000), min_size=1, max_size=600), st.data())
def test_a_byte_is_never_told_younger_than_it_is_and_memory_is_bounded(steps: list[int], data: st.DataObject) -> None:
    growth, seen, size = Growth(0.0, 0), [], 0
    for at, step in enumerate(steps, start=1):
        size += step
        growth.saw(float(at), size)
        seen.append((float(at), size))
    assert len(growth._marks) <= 128
    acknowledged = data.draw(st.integers(min_value=0, max_value=size - 1))
    growth.acknowledged(acknowledged)
    true = next(at for at, upto in seen if upto > acknowledged)
    told = growth.oldest()
    assert told is not None
    assert told <= true
    if len(steps) <= 128:
        assert told == true


def test_lag_has_one_meaning_after_silence_and_a_new_write_its_age_is_that_of_the_new_byte() -> None:
    growth = Growth(0.0, 100)
    growth.acknowledged(100)
    growth.saw(600.0, 101)
    lag = lag_of(101, 100, growth.oldest())
    assert (lag.size_bytes, lag.seconds(601.0)) == (1, 1.0)


def test_nothing_lags_when_nothing_waits() -> None:
    assert lag_of(100, 100, None).seconds(9.0) == 0
    assert lag_of(100, 150, None) == Lag(0, None)
    assert total([]) == Lag(0, None)


def test_the_lag_of_many_is_their_sum_and_the_oldest_of_them() -> None:
    assert total([Lag(5, 7.0), Lag(0, None), Lag(2, 3.0)]) == Lag(7, 3.0)
