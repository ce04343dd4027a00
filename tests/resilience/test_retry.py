"""Retries: transient errors are repeated, permanent ones are not, a cancellation goes through at once."""

from __future__ import annotations

from random import Random

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from cef_trio.exceptions import CefMp4ProcessorError, RecordingChangedError, RedisOperationError, S3OperationError
from cef_trio.resilience import (
    CircuitBreaker,
    FailedAttempt,
    ProbeKind,
    RetryPolicy,
    ServiceRetrier,
    is_transient,
)
from cef_trio.resilience.backoff import MAX_RETRY_AFTER_SECONDS
from cef_trio.resilience.outage import PROBE_MAX_SECONDS

pytestmark = pytest.mark.usefixtures("autojump_clock")

POLICY = RetryPolicy(attempts=5, initial_seconds=1.0, max_seconds=8.0)


def slow_down(retry_after_seconds: float | None = None) -> S3OperationError:
    return S3OperationError(
        "upload_part", "slow down", transient=True, code="SlowDown", retry_after_seconds=retry_after_seconds
    )


def denied() -> S3OperationError:
    return S3OperationError("upload_part", "no", code="AccessDenied")


class Script:
    """An operation that raises the given errors, then succeeds."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls: list[float] = []

    async def __call__(self) -> str:
        self.calls.append(trio.current_time())
        if self.errors:
            raise self.errors.pop(0)
        return "done"


class Service:
    """A breaker with a probe that can be made to fail, and a retrier that uses it."""

    def __init__(self, *, not_retried: frozenset[str] = frozenset()) -> None:
        self.down = False
        self.probes = 0
        self.breaker = CircuitBreaker("s3", self.probe, POLICY, Random(1))
        self.told: list[FailedAttempt] = []
        self.retrier = ServiceRetrier(
            self.breaker, POLICY, not_retried=not_retried, random=Random(2), observer=self.told.append
        )

    async def probe(self, _need: ProbeKind) -> None:
        self.probes += 1
        if self.down:
            raise slow_down()


async def test_a_transient_error_is_repeated_until_it_succeeds() -> None:
    script = Script(slow_down(), slow_down())
    assert await Service().retrier.call("upload_part", script) == "done"
    assert len(script.calls) == 3


async def test_waits_are_jittered_below_a_ceiling_that_doubles() -> None:
    for seed in range(20):
        service = Service()
        service.retrier = ServiceRetrier(service.breaker, POLICY, random=Random(seed))
        script = Script(*[slow_down() for _ in range(4)])
        await service.retrier.call("upload_part", script)
        waits = [later - earlier for earlier, later in zip(script.calls, script.calls[1:], strict=False)]
        assert all(0 <= wait <= ceiling for wait, ceiling in zip(waits, [1, 2, 4, 8], strict=True))
    assert POLICY.ceiling_seconds(1000) == 8.0


async def test_a_permanent_error_is_raised_at_once() -> None:
    script = Script(denied())
    with pytest.raises(S3OperationError, match="no"):
        await Service().retrier.call("upload_part", script)
    assert len(script.calls) == 1


async def test_an_error_that_is_not_ours_is_raised_at_once() -> None:
    script = Script(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await Service().retrier.call("upload_part", script)
    assert len(script.calls) == 1


async def test_when_attempts_are_exhausted_the_last_error_itself_is_raised_and_the_breaker_opens() -> None:
    service = Service()
    last = slow_down()
    with pytest.raises(S3OperationError) as caught:
        await service.retrier.call("upload_part", Script(*[slow_down() for _ in range(4)], last))
    assert caught.value is last
    assert not service.breaker.up.value


@pytest.mark.parametrize(
    "error",
    [
        RecordingChangedError("moved on"),
        S3OperationError("upload_part", "bad digest", transient=True, code="BadDigest"),
    ],
)
async def test_errors_of_one_parts_bytes_are_repeated_but_are_no_outage(error: CefMp4ProcessorError) -> None:
    service = Service()
    with pytest.raises(type(error)):
        await service.retrier.call("upload_part", Script(*[error] * 5))
    assert service.breaker.up.value


async def test_retry_after_is_honoured_up_to_five_minutes() -> None:
    script = Script(slow_down(30.0), slow_down(1e9))
    await Service().retrier.call("upload_part", script)
    first, second, third = script.calls
    assert second - first == pytest.approx(30)
    assert third - second == pytest.approx(MAX_RETRY_AFTER_SECONDS)


async def test_p10_a_pause_that_a_service_asks_for_is_not_waited_for_in_an_outage(nursery: trio.Nursery) -> None:
    """A 503 with a Retry-After of a year held each upload for five minutes after an outage of seconds."""
    down = True

    def refuse() -> None:
        if down:
            error = slow_down(1e9)
            error.status = 503
            raise error

    async def probe(_kind: ProbeKind) -> None:
        refuse()

    async def call() -> str:
        refuse()
        return "etag"

    breaker = CircuitBreaker("s3", probe, POLICY, Random(1))
    retrier = ServiceRetrier(breaker, POLICY, random=Random(2))
    nursery.start_soon(breaker.run)
    with trio.fail_after(60), pytest.raises(S3OperationError):
        await retrier.call("upload_part", call)
    assert breaker.outage is not None
    down = False
    with trio.fail_after(10):
        assert await retrier.call("upload_part", call) == "etag"
    nursery.cancel_scope.cancel()


async def test_every_retry_is_logged_with_its_cause_and_pause() -> None:
    with capture_logs() as logs:
        await Service().retrier.call("upload_part", Script(slow_down()))
    (entry,) = [entry for entry in logs if entry["event"] == "retry"]
    assert (entry["operation"], entry["attempt"], entry["attempts"]) == ("upload_part", 1, 5)
    assert "slow down" in entry["error"]
    assert entry["wait_seconds"] >= 0


async def test_the_observer_is_called_for_every_retry_and_the_last_failure() -> None:
    service, errors = Service(), [slow_down() for _ in range(5)]
    with pytest.raises(S3OperationError):
        await service.retrier.call("upload_part", Script(*errors))
    assert [(told.error, told.retried) for told in service.told] == [
        *((error, True) for error in errors[:4]),
        (errors[4], False),
    ]
    assert {(told.service, told.operation) for told in service.told} == {("s3", "upload_part")}


async def test_the_observer_is_called_once_for_a_permanent_error_and_a_single_try() -> None:
    service = Service(not_retried=frozenset({"ping"}))
    with pytest.raises(S3OperationError):
        await service.retrier.call("upload_part", Script(denied()))
    with pytest.raises(S3OperationError):
        await service.retrier.call("ping", Script(slow_down()))
    assert [(told.operation, told.retried) for told in service.told] == [("upload_part", False), ("ping", False)]


async def test_a_cancellation_is_no_failure_to_the_observer() -> None:
    service = Service()
    with trio.move_on_after(1):
        await service.retrier.call("upload_part", trio.sleep_forever)
    assert service.told == []


async def test_a_cancellation_goes_through_at_once_during_the_wait() -> None:
    script = Script(*[slow_down(100.0) for _ in range(5)])
    with trio.move_on_after(7) as scope:
        await Service().retrier.call("upload_part", script)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(7)
    assert len(script.calls) == 1


async def test_a_cancellation_goes_through_at_once_during_the_attempt() -> None:
    calls = 0

    async def hang() -> None:
        nonlocal calls
        calls += 1
        await trio.sleep_forever()

    with trio.move_on_after(7) as scope:
        await Service().retrier.call("upload_part", hang)
    assert scope.cancelled_caught
    assert calls == 1
    assert trio.current_time() == pytest.approx(7)


async def test_p2_there_is_no_checkpoint_between_an_attempts_success_and_the_calls_return() -> None:
    """A cancellation that is pending when S3 acknowledges must not lose the acknowledgement."""
    with trio.CancelScope() as scope:

        async def succeed() -> str:
            scope.cancel()
            return "etag"

        assert await Service().retrier.call("upload_part", succeed) == "etag"


def test_cancelled_is_never_transient() -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                assert not is_transient(cancelled)
                raise

    trio.run(main)


async def test_one_outage_is_one_back_off_and_one_probe_ends_it(nursery: trio.Nursery) -> None:
    service = Service()
    nursery.start_soon(service.breaker.run)
    service.down = True
    service.breaker.trip(slow_down())
    done: list[float] = []
    calls = 0

    async def operation() -> None:
        nonlocal calls
        calls += 1

    async def stream() -> None:
        await service.retrier.call("upload_part", operation)
        done.append(trio.current_time())

    for _ in range(1000):
        nursery.start_soon(stream)
    await trio.sleep(60)
    assert calls == 0
    assert 60 / PROBE_MAX_SECONDS <= service.probes <= 2 * 60 / PROBE_MAX_SECONDS + 2
    service.down = False
    await trio.sleep(8)
    assert len(done) == calls == 1000
    assert len(set(done)) == 1
    nursery.cancel_scope.cancel()


async def test_a_probe_is_one_attempt_that_waits_for_no_breaker_and_the_same_call_elsewhere_is_under_the_policy(
    nursery: trio.Nursery,
) -> None:
    """The breaker probes by a call that streams make too: ``ping``, ``head_bucket``."""
    service, attempts = Service(), 0

    async def reach() -> None:
        nonlocal attempts
        attempts += 1
        if service.down:
            raise slow_down()

    async def ping() -> None:
        await service.retrier.call("ping", reach)

    service.breaker = CircuitBreaker("redis", lambda _need: ping(), POLICY, Random(1))
    service.retrier = ServiceRetrier(service.breaker, POLICY, random=Random(2))
    service.down = True
    with pytest.raises(S3OperationError):
        await ping()
    assert attempts == POLICY.attempts
    assert not service.breaker.up.value
    nursery.start_soon(service.breaker.run)
    await trio.sleep(60)
    assert service.breaker.outage is not None
    assert attempts == POLICY.attempts + service.breaker.outage.probes
    service.down = False
    with trio.fail_after(10):
        await ping()
    nursery.cancel_scope.cancel()


async def test_a_cancelled_group_goes_through_as_it_is() -> None:
    """A nursery whose children are cancelled raises a group of Cancelled, which must not be retried either."""
    calls = 0

    async def with_children() -> None:
        nonlocal calls
        calls += 1
        async with trio.open_nursery() as children:
            for _ in range(2):
                children.start_soon(trio.sleep_forever)

    service = Service()
    with trio.move_on_after(3) as scope:
        await service.retrier.call("upload_part", with_children)
    assert scope.cancelled_caught
    assert (calls, service.told, trio.current_time()) == (1, [], 3)


async def test_p4_final_saves_are_tried_once_and_wait_for_no_breaker() -> None:
    service = Service(not_retried=frozenset({"save_interrupted"}))
    service.breaker.trip(slow_down())
    script = Script(RedisOperationError("save_interrupted", "timed out", transient=True))
    with pytest.raises(RedisOperationError):
        await service.retrier.call("save_interrupted", script)
    assert (len(script.calls), trio.current_time()) == (1, 0)
    assert service.breaker.last_failure_time == 0
