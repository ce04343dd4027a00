"""One outage is one outage: a failure of all calls holds them, and ends when the failed operation works (P6, P10)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from cef_trio.exceptions import CefMp4ProcessorError, RedisOperationError, S3OperationError
from cef_trio.resilience import CircuitBreaker, ProbeKind, RetryPolicy, ServiceRetrier
from cef_trio.resilience.outage import BESIDE_UPLOADS, PROBE_MAX_SECONDS, UNPROVEN_REJECTION_SECONDS

pytestmark = pytest.mark.usefixtures("autojump_clock")

POLICY = RetryPolicy(attempts=5, initial_seconds=1.0, max_seconds=8.0)
IDLE_SECONDS = 60.0


def silent(operation: str = "upload_part") -> S3OperationError:
    return S3OperationError(operation, "no answer", transient=True, code="ConnectTimeout")


def server_error() -> S3OperationError:
    return S3OperationError("upload_part", "we broke", transient=True, code="InternalError", status=500)


def refused(code: str = "AccessDenied") -> S3OperationError:
    error = S3OperationError("upload_part", "no", code=code, status=403)
    error.rejected = True
    return error


class Service:
    """A service whose reads and writes can be made to fail, with its breaker."""

    def __init__(self, *, idle_seconds: float | None = None) -> None:
        self.fails: dict[ProbeKind, CefMp4ProcessorError | None] = dict.fromkeys(ProbeKind)
        self.probes: list[ProbeKind] = []
        self.on_probe: Callable[[], None] = lambda: None
        self.calls = 0
        self.breaker = CircuitBreaker("s3", self.probe, POLICY, Random(1), idle_seconds=idle_seconds)
        self.retrier = ServiceRetrier(self.breaker, POLICY, random=Random(2))

    async def probe(self, kind: ProbeKind) -> None:
        self.probes.append(kind)
        self.on_probe()
        await self._do(kind)

    async def write(self) -> str:
        self.calls += 1
        await self._do(ProbeKind.WRITE)
        return "etag"

    async def _do(self, kind: ProbeKind) -> None:
        await trio.sleep(0.01)
        error = self.fails[kind] or (self.fails[ProbeKind.WRITE] if kind is ProbeKind.UPLOAD else None)
        if error is not None:
            raise error


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.mark.parametrize("error", [silent(), server_error(), refused(), refused("QuotaOfSomeStore")])
async def test_p6_a_rejection_of_all_calls_is_an_outage_whatever_its_code(
    service: Service, error: S3OperationError, nursery: trio.Nursery
) -> None:
    nursery.start_soon(service.breaker.run)
    service.fails[ProbeKind.WRITE] = error
    with pytest.raises(S3OperationError) as caught:
        await service.retrier.call("upload_part", service.write)
    assert caught.value.transient, "it comes back by itself"
    assert service.breaker.outage is not None
    with trio.move_on_after(3600):
        await service.retrier.call("upload_part", service.write)
        pytest.fail("it was let through to a service that fails")
    service.fails[ProbeKind.WRITE] = None
    with trio.fail_after(10):
        assert await service.retrier.call("upload_part", service.write) == "etag"
    nursery.cancel_scope.cancel()


async def test_p6_a_repeated_rejection_that_the_probe_does_not_get_concerns_this_call_alone(service: Service) -> None:
    calls = 0

    async def one_recordings() -> None:
        nonlocal calls
        calls += 1
        raise refused()

    with pytest.raises(S3OperationError) as caught:
        await service.retrier.call("upload_part", one_recordings)
    assert not caught.value.transient
    assert calls == POLICY.attempts
    assert service.breaker.up.value


async def test_p6_a_quota_that_takes_the_probes_few_bytes_is_waited_for_and_not_asked_again_at_once(
    service: Service,
) -> None:
    calls = 0

    async def one_recordings() -> None:
        nonlocal calls
        calls += 1
        error = refused("QuotaExceeded")
        error.over_quota = True
        raise error

    with pytest.raises(S3OperationError) as caught:
        await service.retrier.call("upload_part", one_recordings)
    assert caught.value.transient, "it comes back by itself"
    assert (calls, service.probes) == (1, [ProbeKind.UPLOAD])
    assert service.breaker.up.value


async def test_p6_a_rejection_of_multipart_uploads_alone_is_an_outage_of_them(
    service: Service, nursery: trio.Nursery
) -> None:
    """PutObject works: the probe did not make the call that failed, and every larger recording failed for good."""
    nursery.start_soon(service.breaker.run)
    service.fails[ProbeKind.UPLOAD] = refused()

    async def upload() -> None:
        if (error := service.fails[ProbeKind.UPLOAD]) is not None:
            raise error

    for operation in ("create_multipart_upload", "upload_part", "complete_multipart_upload"):
        with pytest.raises(S3OperationError) as caught:
            await service.retrier.call(operation, upload)
        assert caught.value.transient, "it comes back by itself"
        assert service.breaker.outage is not None
        service.fails[ProbeKind.UPLOAD] = None
        with trio.fail_after(10):
            await service.retrier.call(operation, upload)
        service.fails[ProbeKind.UPLOAD] = refused()
    nursery.cancel_scope.cancel()


async def test_p6_a_wrong_clock_that_the_probe_does_not_have_is_retried_and_stays_transient(
    service: Service,
) -> None:
    calls = 0

    async def one_recordings() -> None:
        nonlocal calls
        calls += 1
        raise refused("RequestTimeTooSkewed")

    with pytest.raises(S3OperationError) as caught:
        await service.retrier.call("upload_part", one_recordings)
    assert caught.value.transient
    assert calls == POLICY.attempts
    assert service.breaker.up.value


async def test_p6_a_rejection_that_passes_between_a_call_and_its_probe_ends_nothing(service: Service) -> None:
    answers = [refused(), refused()]

    async def settling() -> str:
        if answers:
            raise answers.pop()
        return "etag"

    assert await service.retrier.call("upload_part", settling) == "etag"


async def test_a_server_error_of_one_call_holds_up_no_other(service: Service) -> None:
    async def one_recordings() -> None:
        raise server_error()

    with pytest.raises(S3OperationError) as caught:
        await service.retrier.call("complete_multipart_upload", one_recordings)
    assert caught.value.transient
    assert service.breaker.up.value


async def test_p10_an_outage_of_writes_is_one_outage_for_as_long_as_only_reads_work(
    service: Service, nursery: trio.Nursery
) -> None:
    nursery.start_soon(service.breaker.run)
    service.fails[ProbeKind.WRITE] = silent()
    with capture_logs() as logs:
        for _ in range(20):
            nursery.start_soon(_for_ever, service)
        await trio.sleep(600)
        began = [entry for entry in logs if entry["event"] == "outage_started"]
        assert len(began) == 1
        assert not [entry for entry in logs if entry["event"] == "outage_ended"]
    assert set(service.probes) == {ProbeKind.UPLOAD}, "what the calls did"
    nursery.cancel_scope.cancel()


async def _for_ever(service: Service) -> None:
    while True:
        try:
            await service.retrier.call("upload_part", service.write)
        except S3OperationError:
            await trio.sleep(1)


async def test_an_outage_of_writes_is_ended_by_a_write_and_becomes_one_of_uploads_if_they_fail_too(
    service: Service, nursery: trio.Nursery
) -> None:
    service.breaker.trip(silent("put_object"), ProbeKind.WRITE)
    service.breaker.trip(silent(), ProbeKind.UPLOAD)
    assert service.breaker.outage is not None
    assert service.breaker.outage.kind is ProbeKind.UPLOAD
    nursery.start_soon(service.breaker.run)
    with trio.fail_after(10):
        await service.breaker.wait_up()
    service.probes.clear()
    service.breaker.trip(silent("put_object"), ProbeKind.WRITE)
    with trio.fail_after(10):
        await service.breaker.wait_up()
    assert service.probes == [ProbeKind.WRITE]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [silent(), server_error()])
async def test_p10_an_outage_of_multipart_uploads_is_one_outage_for_as_long_as_only_other_writes_work(
    service: Service, error: S3OperationError, nursery: trio.Nursery
) -> None:
    """PutObject ended it each time: 85 outages in a minute, or none, and each stream waited for minutes alone."""
    nursery.start_soon(service.breaker.run)
    service.fails[ProbeKind.UPLOAD] = error

    async def for_ever(operation: str) -> None:
        while True:
            try:
                await service.retrier.call(operation, lambda: service._do(ProbeKind.UPLOAD))
            except S3OperationError:
                await trio.sleep(1)

    with capture_logs() as logs:
        for operation in ("create_multipart_upload", "upload_part", "complete_multipart_upload"):
            nursery.start_soon(for_ever, operation)
        await trio.sleep(600)
        assert [one["event"] for one in logs if one["event"].startswith("outage_")].count("outage_started") == 1
        assert service.breaker.outage is not None
    service.fails[ProbeKind.UPLOAD] = None
    with trio.fail_after(5):
        await service.breaker.wait_up()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("operation", sorted(BESIDE_UPLOADS))
async def test_p6_what_no_upload_needs_is_an_outage_only_if_a_write_gets_no_response_either(
    service: Service, operation: str
) -> None:
    """A proxy that resets a listing held up everything, three times a minute."""

    async def read() -> None:
        raise silent(operation)

    with pytest.raises(S3OperationError) as caught:
        await service.retrier.call(operation, read)
    assert caught.value.transient
    assert service.breaker.up.value
    assert service.probes == [ProbeKind.WRITE]
    service.fails[ProbeKind.WRITE] = silent()
    with pytest.raises(S3OperationError):
        await service.retrier.call(operation, read)
    assert not service.breaker.up.value


async def test_a_thousand_refused_calls_are_judged_by_one_probe(service: Service) -> None:
    service.fails[ProbeKind.WRITE] = refused()
    async with trio.open_nursery() as callers:
        for _ in range(1000):
            callers.start_soon(_refused_once, service)
    assert service.probes == [ProbeKind.UPLOAD]


async def _refused_once(service: Service) -> None:
    with pytest.raises(S3OperationError):
        await service.retrier.call("upload_part", service.write)


async def test_p6_the_breakers_own_probe_waits_for_one_that_judges_an_error(
    service: Service, nursery: trio.Nursery
) -> None:
    """Two at once took each other's upload away."""
    running: list[ProbeKind] = []
    at_once: list[int] = []
    probe = service.breaker._probe

    async def slow(kind: ProbeKind) -> None:
        running.append(kind)
        at_once.append(len(running))
        await trio.sleep(5)
        running.remove(kind)
        await probe(kind)

    service.breaker._probe = slow
    nursery.start_soon(service.breaker.run)
    nursery.start_soon(service.breaker.affects_all_calls, server_error(), ProbeKind.UPLOAD)
    await trio.sleep(1)
    assert await service.breaker.affects_all_calls(silent(), ProbeKind.UPLOAD)
    await trio.sleep(5)
    with trio.fail_after(1):
        assert await service.breaker.affects_all_calls(server_error(), ProbeKind.UPLOAD), "known, without waiting"
    with trio.fail_after(10):
        await service.breaker.wait_up()
    assert at_once == [1, 1]
    nursery.cancel_scope.cancel()


async def test_a_probe_that_is_not_permitted_holds_up_the_others_for_a_minute_at_most(
    service: Service, nursery: trio.Nursery
) -> None:
    nursery.start_soon(service.breaker.run)
    service.fails[ProbeKind.WRITE] = refused()
    service.breaker.trip(silent())
    with trio.fail_after(UNPROVEN_REJECTION_SECONDS + POLICY.max_seconds):
        await service.breaker.wait_up()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "longest_seconds"), [(silent(), PROBE_MAX_SECONDS), (server_error(), PROBE_MAX_SECONDS), (refused(), 8.0)]
)
async def test_however_long_an_outage_was_it_is_over_seconds_after_the_service_is_back(
    service: Service, error: S3OperationError, longest_seconds: float, nursery: trio.Nursery
) -> None:
    """A service that rejects everything is repaired by hand, and is probed with the pauses of the policy."""
    pauses: list[float] = []
    probed_at = trio.current_time()

    def note() -> None:
        nonlocal probed_at
        pauses.append(trio.current_time() - probed_at)
        probed_at = trio.current_time()

    service.on_probe = note
    service.fails[ProbeKind.WRITE] = service.fails[ProbeKind.READ] = error
    nursery.start_soon(service.breaker.run)
    service.breaker.trip(error)
    await trio.sleep(3600)
    took = 0.01
    assert longest_seconds / 2 < max(pauses) <= longest_seconds + took
    service.fails[ProbeKind.WRITE] = service.fails[ProbeKind.READ] = None
    with trio.fail_after(longest_seconds + 2 * took):
        await service.breaker.wait_up()
    nursery.cancel_scope.cancel()


async def test_a_rejection_by_redis_is_held_like_one_by_s3(service: Service, nursery: trio.Nursery) -> None:
    nursery.start_soon(service.breaker.run)
    wrong = RedisOperationError("record_part", "WRONGPASS invalid username-password pair")
    wrong.rejected = True
    service.fails[ProbeKind.WRITE] = wrong
    with pytest.raises(RedisOperationError) as caught:
        await service.retrier.call("record_part", service.write)
    assert caught.value.transient
    service.fails[ProbeKind.WRITE] = None
    with trio.fail_after(10):
        await service.breaker.wait_up()
    nursery.cancel_scope.cancel()


async def test_p10_an_idle_service_is_probed_once_a_minute_and_its_failure_is_an_outage(
    nursery: trio.Nursery,
) -> None:
    service = Service(idle_seconds=IDLE_SECONDS)
    nursery.start_soon(service.breaker.run)
    await trio.sleep(10 * IDLE_SECONDS + 30)
    assert service.probes == [ProbeKind.READ] * 10
    service.fails = dict.fromkeys(ProbeKind, silent())
    await trio.sleep(2 * IDLE_SECONDS)
    assert not service.breaker.up.value
    service.fails = dict.fromkeys(ProbeKind, None)
    with trio.fail_after(10):
        await service.breaker.wait_up()
    nursery.cancel_scope.cancel()


async def test_a_service_that_answers_others_is_not_asked_while_it_does(nursery: trio.Nursery) -> None:
    service = Service(idle_seconds=IDLE_SECONDS)
    nursery.start_soon(service.breaker.run)
    for _ in range(60):
        await service.retrier.call("upload_part", service.write)
        await trio.sleep(10)
    assert service.probes == []
    nursery.cancel_scope.cancel()


async def test_p10_a_service_is_asked_a_minute_after_its_last_answer_and_not_two(nursery: trio.Nursery) -> None:
    service = Service(idle_seconds=IDLE_SECONDS)
    nursery.start_soon(service.breaker.run)
    await trio.sleep(1)
    await service.retrier.call("upload_part", service.write)
    await trio.sleep(IDLE_SECONDS - 1)
    assert service.probes == []
    await trio.sleep(2)
    assert service.probes == [ProbeKind.READ]
    nursery.cancel_scope.cancel()


async def test_one_lost_answer_while_idle_is_no_outage(nursery: trio.Nursery) -> None:
    service = Service(idle_seconds=IDLE_SECONDS)
    nursery.start_soon(service.breaker.run)
    service.fails[ProbeKind.READ] = silent()
    await trio.sleep(IDLE_SECONDS + 0.5)
    service.fails[ProbeKind.READ] = None
    await trio.sleep(30)
    assert service.breaker.up.value
    assert service.breaker.up_since == -float("inf")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [silent("head_bucket"), server_error(), refused("MethodNotAllowed")])
async def test_p10_a_read_that_fails_while_writes_work_is_no_outage_of_an_idle_service(
    error: S3OperationError, nursery: trio.Nursery
) -> None:
    """No stream needs HeadBucket, and nothing was uploaded any more."""
    service = Service(idle_seconds=IDLE_SECONDS)
    nursery.start_soon(service.breaker.run)
    service.fails[ProbeKind.READ] = error
    for _ in range(20):
        await trio.sleep(IDLE_SECONDS)
        assert service.breaker.outage is None
    assert not service.breaker.ended
    service.fails[ProbeKind.WRITE] = error
    await trio.sleep(2 * IDLE_SECONDS)
    assert service.breaker.outage is not None
    assert service.breaker.outage.kind is ProbeKind.WRITE
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("needed", list(ProbeKind))
async def test_a_cancelled_probe_leaves_the_breaker_as_it_was(service: Service, needed: ProbeKind) -> None:
    with trio.move_on_after(0.005) as scope:
        await service.breaker.affects_all_calls(refused(), needed)
    assert scope.cancelled_caught
    assert service.breaker.up.value
    assert not await service.breaker.affects_all_calls(refused(), needed)


async def test_one_probe_serves_all_calls_from_before_it_began_and_none_from_later(service: Service) -> None:
    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await service.breaker.affects_all_calls(server_error(), ProbeKind.WRITE))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.sleep(0.005)  # the probe is on its way: what it proves may have been so before this failure only
        nursery.start_soon(ask)
    assert answers == [False] * 4
    assert len(service.probes) == 2


async def test_p10_a_write_that_works_does_not_end_an_outage_in_which_an_upload_has_failed_meanwhile(
    service: Service, nursery: trio.Nursery
) -> None:
    nursery.start_soon(service.breaker.run)
    service.fails[ProbeKind.UPLOAD] = silent()
    service.on_probe = lambda: service.breaker.trip(silent(), ProbeKind.UPLOAD)  # while the write is on its way
    service.breaker.trip(silent("put_object"), ProbeKind.WRITE)
    await trio.sleep(60)
    assert service.breaker.outage is not None
    assert service.probes[0] is ProbeKind.WRITE
    assert set(service.probes[1:]) == {ProbeKind.UPLOAD}
    service.fails[ProbeKind.UPLOAD] = None
    with trio.fail_after(20):
        await service.breaker.wait_up()
