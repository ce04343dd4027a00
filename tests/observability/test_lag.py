"""How old the oldest byte is that S3 does not have: never younger than it is, in bounded memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cef_trio.checkpoint.model import PartRecord
from cef_trio.observability.lag import FirstSeenTimes, Lag, RecentBytes, lag_of, total, total_rate, upload_rate


def test_p7_what_was_sent_is_counted_for_a_minute_in_as_many_numbers_as_it_has_seconds() -> None:
    sent = RecentBytes()
    for tenth in range(36_000):
        sent.add(tenth / 10, 6)
    assert sent.rate(3600.0) == pytest.approx(60, rel=0.03)
    assert len(sent._by_second) <= 61
    assert 0 < sent.rate(3630.0) < 31
    assert sent.rate(3661.0) == 0


def test_the_rate_of_all_is_that_of_the_streams_or_what_was_sent_if_that_is_more() -> None:
    assert total_rate([], 7.0) == 7.0
    assert total_rate([3.0, 5.0], 7.0) == 8.0


def test_the_oldest_byte_is_as_old_as_its_first_sight() -> None:
    first_seen = FirstSeenTimes(10.0, 100)
    first_seen.record(20.0, 200)
    first_seen.record(30.0, 300)
    assert first_seen.oldest() == 10.0
    first_seen.acknowledged(99)
    assert first_seen.oldest() == 10.0
    first_seen.acknowledged(100)
    assert first_seen.oldest() == 20.0
    first_seen.acknowledged(250)
    assert first_seen.oldest() == 30.0
    first_seen.acknowledged(300)
    assert first_seen.oldest() is None


def test_an_empty_file_has_no_byte_that_could_be_old() -> None:
    assert FirstSeenTimes(1.0, 0).oldest() is None


def test_a_look_that_shows_nothing_new_changes_nothing() -> None:
    first_seen = FirstSeenTimes(1.0, 100)
    first_seen.record(50.0, 100)
    assert first_seen.oldest() == 1.0


@pytest.mark.parametrize(
    ("age_seconds", "rate"), [(3600, 1000.0), (60, 1000.0), (30, 1000.0), (10, 1000.0), (1, 1000.0), (0.5, 500.0)]
)
def test_the_rate_of_a_young_stream_is_its_own_and_not_a_minutes(age_seconds: float, rate: float) -> None:
    """1,000 bytes are acknowledged each second of its life, or half of that in half a second."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    began = now - timedelta(seconds=age_seconds)
    parts = [
        PartRecord(
            part_number=number, size_bytes=int(1000 * min(1, age_seconds)), etag="e", crc64nvme=0, uploaded_at_utc=at
        )
        for number in range(1, 100)
        if (at := now - timedelta(seconds=number - 0.5)) >= began
    ] or [PartRecord(part_number=1, size_bytes=500, etag="e", crc64nvme=0, uploaded_at_utc=began)]
    assert upload_rate(parts, now, began) == pytest.approx(rate)


def test_bytes_that_a_truncation_took_are_forgotten_and_come_back_young() -> None:
    first_seen = FirstSeenTimes(1.0, 100)
    first_seen.record(2.0, 200)
    first_seen.record(3.0, 150)
    first_seen.acknowledged(150)
    assert first_seen.oldest() is None
    first_seen.record(9.0, 200)
    first_seen.acknowledged(150)
    assert first_seen.oldest() == 9.0


def test_a_file_that_was_emptied_begins_anew() -> None:
    first_seen = FirstSeenTimes(1.0, 100)
    first_seen.record(2.0, 0)
    assert first_seen.oldest() is None
    first_seen.record(3.0, 10)
    assert first_seen.oldest() == 3.0


@given(st.lists(st.integers(min_value=1, max_value=1000), min_size=1, max_size=600), st.data())
def test_a_byte_is_never_reported_younger_than_it_is_and_memory_is_bounded(
    steps: list[int], data: st.DataObject
) -> None:
    first_seen, seen, size = FirstSeenTimes(0.0, 0), [], 0
    for at, step in enumerate(steps, start=1):
        size += step
        first_seen.record(float(at), size)
        seen.append((float(at), size))
    assert len(first_seen._marks) <= 128
    acknowledged = data.draw(st.integers(min_value=0, max_value=size - 1))
    first_seen.acknowledged(acknowledged)
    true = next(at for at, upto in seen if upto > acknowledged)
    told = first_seen.oldest()
    assert told is not None
    assert told <= true
    if len(steps) <= 128:
        assert told == true


def test_lag_has_one_meaning_after_silence_and_a_new_write_its_age_is_that_of_the_new_byte() -> None:
    first_seen = FirstSeenTimes(0.0, 100)
    first_seen.acknowledged(100)
    first_seen.record(600.0, 101)
    lag = lag_of(101, 100, first_seen.oldest())
    assert (lag.size_bytes, lag.seconds(601.0)) == (1, 1.0)


def test_nothing_lags_when_nothing_waits() -> None:
    assert lag_of(100, 100, None).seconds(9.0) == 0
    assert lag_of(100, 150, None) == Lag(0, None)
    assert total([]) == Lag(0, None)


def test_the_lag_of_many_is_their_sum_and_the_oldest_of_them() -> None:
    assert total([Lag(5, 7.0), Lag(0, None), Lag(2, 3.0)]) == Lag(7, 3.0)
