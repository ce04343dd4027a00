"""``MAX_UPLOAD_RATE``: its arithmetic, its queue on a virtual clock, and limited bodies."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from s3.scripted_store import Passes, ScriptedStore, client_of, part_ack

from cef_trio.exceptions import RecordingChangedError
from cef_trio.s3.body import BLOCK_BYTES, WRITE_BYTES, CheckedBody, SmallBody, measure
from cef_trio.s3.model import ChecksumAlgorithm
from cef_trio.s3.rate_limiter import RateLimiter
from cef_trio.s3.token_bucket import LEAST_PIECE, SLACK_SECONDS, TURN_SECONDS, TokenBucket
from cef_trio.settings.model import LEAST_RATE_OF_A_PART

pytestmark = pytest.mark.usefixtures("autojump_clock")

KIB = 1024
S3_IDLE_SECONDS = 20

rates = st.integers(LEAST_RATE_OF_A_PART, 1 << 34)
gaps = st.floats(0, 100, allow_nan=False)


# ---- the arithmetic --------------------------------------------------------------------------------------------------


@given(rates, st.lists(st.tuples(gaps, st.integers(1, BLOCK_BYTES)), min_size=1, max_size=50))
def test_in_every_stretch_of_time_no_more_goes_than_the_rate_and_one_piece(
    rate: int, asks: list[tuple[float, int]]
) -> None:
    bucket, now = TokenBucket(rate), 0.0
    went: list[tuple[float, int]] = []
    for gap, wanted in asks:
        now = max(now + gap, bucket.free_at)
        assert bucket.is_free(now)
        piece = bucket.piece(wanted, 1)
        bucket.take(piece, now)
        went.append((now, piece))
    for first in range(len(went)):
        total = 0
        for at, piece in went[first:]:
            seconds = at - went[first][0]
            assert total <= rate * (seconds + SLACK_SECONDS) * (1 + 1e-9) + 1
            total += piece


@given(rates, st.integers(1, BLOCK_BYTES), st.integers(1, 2000))
def test_a_piece_is_a_parts_share_of_a_turn_within_its_bounds(rate: int, wanted: int, bodies: int) -> None:
    piece = TokenBucket(rate).piece(wanted, bodies)
    assert 1 <= piece <= wanted
    assert piece <= max(LEAST_PIECE, rate * TURN_SECONDS / bodies)
    assert piece == wanted or piece >= LEAST_PIECE


@pytest.mark.parametrize("parts", [1, 2, 4, 100, 1000])
def test_at_the_least_rate_that_settings_allow_no_part_is_silent_until_s3_gives_it_up(parts: int) -> None:
    bucket = TokenBucket(LEAST_RATE_OF_A_PART * parts)
    for bodies in (parts, 10 * parts):  # metadata is written beside parts, in no slot of theirs
        round_seconds = bodies * bucket.piece(BLOCK_BYTES, bodies) / bucket.rate
        assert round_seconds <= S3_IDLE_SECONDS / 4


@given(rates, rates, st.integers(1, BLOCK_BYTES), st.floats(0, 10))
def test_a_changed_rate_delays_no_body_by_more_than_a_turn(before: int, after: int, size: int, gap: float) -> None:
    bucket = TokenBucket(before)
    bucket.take(size, 0.0)
    bucket.change(after, gap)
    assert bucket.free_at <= gap + TURN_SECONDS
    assert bucket.is_free(gap + TURN_SECONDS)
    bucket.change(0, gap)
    assert bucket.is_free(gap)


def test_without_a_limit_all_goes_at_once() -> None:
    bucket = TokenBucket()
    bucket.take(1 << 40, 0.0)
    assert bucket.is_free(0.0)
    assert bucket.piece(BLOCK_BYTES, 1000) == BLOCK_BYTES


# ---- the queue -------------------------------------------------------------------------------------------------------


async def drain(rate_limiter: RateLimiter, size_bytes: int, went: Counter[str], name: str = "") -> None:
    while size_bytes:
        piece = await rate_limiter.take(min(size_bytes, BLOCK_BYTES))
        size_bytes -= piece
        went[name] += piece


async def test_so_many_bytes_take_so_many_seconds() -> None:
    went: Counter[str] = Counter()
    rate_limiter = RateLimiter(64 * KIB)
    await drain(rate_limiter, 640 * KIB, went)
    # The last piece goes when those before it are paid for.
    assert 10 - TURN_SECONDS - SLACK_SECONDS <= trio.current_time() <= 10


async def test_parts_share_the_rate_equally_whatever_their_number() -> None:
    went: Counter[str] = Counter()
    async with trio.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(drain, RateLimiter(0), 1, went, name)  # every name is there
        rate_limiter = RateLimiter(64 * KIB)
        for name in "abcd":
            nursery.start_soon(drain, rate_limiter, 1 << 40, went, name)
        await trio.sleep(1000)
        nursery.cancel_scope.cancel()
    assert sum(went.values()) == pytest.approx(64 * KIB * 1000, rel=0.002)
    assert max(went.values()) - min(went.values()) <= 64 * KIB


@pytest.mark.parametrize("rate", [16 * KIB, 64 * KIB, 10 << 20, 1 << 30])
async def test_no_part_is_silent_for_long_at_any_rate(rate: int) -> None:
    rate_limiter, longest = RateLimiter(rate), 0.0

    async def send() -> None:
        nonlocal longest
        while True:
            began = trio.current_time()
            await rate_limiter.take(BLOCK_BYTES)
            longest = max(longest, trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(14):
            nursery.start_soon(send)
        await trio.sleep(20 if rate < 1 << 20 else 0.2)
        nursery.cancel_scope.cancel()
    assert 0 < longest < S3_IDLE_SECONDS / 4


async def test_another_rate_holds_at_once_for_those_who_wait() -> None:
    went: Counter[str] = Counter()
    rate_limiter = RateLimiter(16 * KIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, rate_limiter, 10 << 20, went, "a")
        nursery.start_soon(drain, rate_limiter, 10 << 20, went, "b")
        await trio.sleep(10.25)
        assert sum(went.values()) <= 16 * KIB * 11.5
        rate_limiter.change(1 << 20)
        assert rate_limiter.rate == 1 << 20
        before = sum(went.values())
        await trio.sleep(10)
        assert sum(went.values()) - before == pytest.approx(10 << 20, rel=0.2)
        rate_limiter.change(0)
        at = trio.current_time()
    assert trio.current_time() == at
    assert went == {"a": 10 << 20, "b": 10 << 20}


async def test_a_limit_in_the_middle_of_a_body_holds_from_its_next_piece() -> None:
    went: Counter[str] = Counter()
    rate_limiter = RateLimiter()
    await drain(rate_limiter, 100 << 20, went)
    assert trio.current_time() == 0
    rate_limiter.change(64 * KIB)
    await drain(rate_limiter, 128 * KIB, went)
    assert 0.5 <= trio.current_time() <= 2


async def test_a_cancelled_wait_ends_at_once_takes_nothing_and_lets_the_next_one_go() -> None:
    waits: list[float] = []
    rate_limiter = RateLimiter(16 * KIB, waited=waits.append)
    await rate_limiter.take(BLOCK_BYTES)
    ends: list[tuple[str, float]] = []

    async def wait(name: str, scope: trio.CancelScope) -> None:
        with scope:
            await rate_limiter.take(BLOCK_BYTES)
        ends.append((name, trio.current_time()))

    first, second, third = trio.CancelScope(), trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "first", first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait, "second", second)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait, "third", third)
        await trio.sleep(0.25)
        first.cancel()  # who is at the head, and waits for the bucket
        second.cancel()  # who waits for the turn
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(ends) == [("first", 0.25), ("second", 0.25)]
    assert ends[-1][0] == "third"
    assert ends[-1][1] == pytest.approx(1 - SLACK_SECONDS)
    assert sorted(waits) == pytest.approx([0, 0.25, 0.25, 1 - SLACK_SECONDS])


async def test_without_a_limit_there_is_no_checkpoint_and_no_wait() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await RateLimiter().take(7) == 7
    assert not scope.cancelled_caught


# ---- bodies ----------------------------------------------------------------------------------------------------------


def blocks_of(data: bytes) -> Passes:
    return Passes(data, block_bytes=BLOCK_BYTES)


async def test_a_body_goes_whole_and_in_order_at_any_rate() -> None:
    data = bytes(range(251)) * 5000
    measured = await measure(blocks_of(data), {ChecksumAlgorithm.CRC64NVME})
    for rate in (0, 16 * KIB, 10 << 20):
        began = trio.current_time()
        pieces = [piece async for piece in CheckedBody(blocks_of(data), measured, RateLimiter(rate))]
        assert b"".join(pieces) == data
        if rate:
            assert trio.current_time() - began == pytest.approx(len(data) / rate, abs=TURN_SECONDS + SLACK_SECONDS)


@pytest.mark.parametrize("size_bytes", [0, 1, WRITE_BYTES, WRITE_BYTES + 1, 5 * BLOCK_BYTES // 2])
async def test_p6_no_write_is_so_large_that_a_slow_line_times_out_although_bytes_flow(size_bytes: int) -> None:
    data = bytes(index % 251 for index in range(size_bytes))
    measured = await measure(blocks_of(data), set())
    for body in (CheckedBody(blocks_of(data), measured, RateLimiter()), SmallBody(data)):
        for _ in range(2):  # a body may be sent again
            pieces = [piece async for piece in body]
            assert b"".join(pieces) == data
            assert max(map(len, pieces), default=0) <= 64 * KIB


async def test_no_piece_of_a_last_block_that_changed_is_sent() -> None:
    data = bytes(3 * KIB)
    measured = await measure(blocks_of(data), {ChecksumAlgorithm.CRC64NVME})
    body = CheckedBody(blocks_of(data[:-1] + b"x"), measured, RateLimiter(16 * KIB))
    with pytest.raises(RecordingChangedError):
        await anext(aiter(body))
    await body.aclose()


async def test_parts_and_objects_wait_for_their_turn_and_other_calls_do_not() -> None:
    data = bytes(64 * KIB)
    rate_limiter = RateLimiter(16 * KIB)
    store = ScriptedStore(part_ack(data), part_ack(data), part_ack(b""))
    async with client_of(store, rate_limiter=rate_limiter) as client:
        await client.upload_part("k", "u", 1, blocks_of(data), ChecksumAlgorithm.CRC64NVME)
        assert trio.current_time() == pytest.approx(3, abs=0.2)
        await client.put_object("k", data, content_type="x/y")
        assert trio.current_time() == pytest.approx(7, abs=0.2)
        at = trio.current_time()
        await client.delete_object("k")
        assert trio.current_time() == at
