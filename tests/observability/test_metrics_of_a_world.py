"""Every metric is moved by the thing itself: a daemon's tree in a world, on its virtual clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from provoked_failures import of_recording
from structlog.testing import capture_logs
from waiting import completed, until_idle

from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.model import Lease
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.world import EPOCH, PART, World, WorldDaemon
from cef_trio.observability.redis_survey import survey_redis
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload.repeated_errors import MAX_REJECTED


def value(daemon: WorldDaemon, name: str, **labels: str) -> float | None:
    """What a scrape would show; ``None``: absent."""
    found: float | None = daemon.services.metrics.registry.get_sample_value(f"cef_trio_{name}", labels)
    return found


def total(daemon: WorldDaemon, name: str) -> float:
    """The sum over all labels."""
    return sum(
        sample.value
        for metric in daemon.services.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == f"cef_trio_{name}"
    )


async def test_parts_and_bytes_are_counted_as_s3_acknowledges_them(world: World) -> None:
    world.append(3 * PART + 7)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        assert value(daemon, "uploaded_parts_total") == 3
        daemon.closed()
        await completed(world)
        assert value(daemon, "uploaded_parts_total") == 4
        assert value(daemon, "uploaded_bytes_total") == 3 * PART + 7
        assert value(daemon, "rewritten_parts_total") == 0
        assert value(daemon, "part_upload_seconds_count") == 4


async def test_a_part_that_is_sent_again_after_a_rewrite_counts_as_both(world: World) -> None:
    world.append(5 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        world.patch(3 * PART + 7, b"an index")
        daemon.closed()
        await completed(world)
        assert value(daemon, "rewritten_parts_total") == 1
        assert value(daemon, "rewritten_bytes_total") == PART
        assert value(daemon, "uploaded_parts_total") == 6
        assert value(daemon, "uploaded_bytes_total") == 6 * PART


async def test_the_time_of_a_part_includes_its_retries(world: World) -> None:
    world.endpoint.faults.arm(Fault(Kind.ERROR, "UploadPart", status=503, code="SlowDown", retry_after="20", times=1))
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        assert value(daemon, "part_upload_seconds_count") == 1
        assert (value(daemon, "part_upload_seconds_sum") or 0) >= 20


async def test_every_retry_is_logged_and_counted(world: World) -> None:
    faults = world.endpoint.faults
    faults.arm(Fault(Kind.ERROR, "UploadPart", status=503, code="SlowDown", times=2))
    faults.arm(Fault(Kind.ERROR, "CompleteMultipartUpload", status=500, code="InternalError", times=1))
    broken = {"record_part": 2}

    async def fault(operation: str, moment: Moment) -> None:
        if moment is Moment.BEFORE and broken.get(operation):
            broken[operation] -= 1
            raise RedisOperationError(operation, "no answer", transient=True) from TimeoutError()

    world.store.fault = fault
    world.append(PART)
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            daemon.closed()
            await completed(world)
            counted = {
                (sample.labels["service"], sample.labels["operation"], sample.labels["error"]): sample.value
                for metric in daemon.services.metrics.registry.collect()
                for sample in metric.samples
                if sample.name == "cef_trio_retries_total"
            }
    assert counted == {
        ("s3", "upload_part", "SlowDown"): 2,
        ("s3", "complete_multipart_upload", "InternalError"): 1,
        ("redis", "record_part", "TimeoutError"): 2,
    }
    logged: dict[tuple[str, str], int] = {}
    for entry in logs:
        if entry["event"] == "retry":
            key = (entry["service"], entry["operation"])
            logged[key] = logged.get(key, 0) + 1
    assert logged == {(service, operation): times for (service, operation, _), times in counted.items()}


async def test_an_operation_that_fails_for_good_is_counted_each_time_and_its_stream_once(world: World) -> None:
    fault = Fault(Kind.ERROR, "UploadPart", code="AccessDenied", times=None, predicate=of_recording())
    world.endpoint.faults.arm(fault)
    world.append(PART)
    async with world.daemon() as daemon:
        await until_idle(world, Status.FAILED_ACCESS_DENIED)
        await trio.testing.wait_all_tasks_blocked()
        failures = value(
            daemon, "operation_failures_total", service="s3", operation="upload_part", error="AccessDenied"
        )
        assert failures == MAX_REJECTED, "a refusal is believed when it repeats"
        assert value(daemon, "failed_streams_total", reason="access_denied") == 1
        assert total(daemon, "failed_streams_total") == 1
        assert value(daemon, "streams_ended_total", outcome="failed") == 1
        assert total(daemon, "retries_total") == MAX_REJECTED * (world.policy.attempts - 1)


async def test_a_failure_whose_record_is_tried_again_is_counted_once(world: World) -> None:
    world.append(PART)
    to_fail = 10

    async def no_release(operation: str, moment: Moment) -> None:
        nonlocal to_fail
        if operation == "release" and moment is Moment.BEFORE and to_fail:
            to_fail -= 1
            raise RedisOperationError(operation, "gone", transient=True)

    async with world.daemon() as daemon:
        world.store.fault = no_release
        fault = Fault(Kind.ERROR, "CreateMultipartUpload", code="AccessDenied", times=None, predicate=of_recording())
        world.endpoint.faults.arm(fault)
        await trio.sleep(4200)
        assert to_fail == 0
        assert value(daemon, "streams_ended_total", outcome="failed") == 1
        assert value(daemon, "failed_streams_total", reason="access_denied") == 1


async def test_a_recording_that_was_deleted_counts_as_failed_for_that_reason(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        Path(world.path()).unlink()
        daemon.gone()
        await until_idle(world, Status.DELETED_LOCALLY)
        assert value(daemon, "failed_streams_total", reason="deleted_locally") == 1


async def test_a_completed_recording_leaves_its_outcome_its_duration_and_its_time(world: World) -> None:
    world.append(2 * PART)
    world.endpoint.faults.arm(Fault(Kind.SLOW, "CompleteMultipartUpload", seconds=7, times=1))
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await trio.sleep(0.1)
        assert value(daemon, "streams_ended_total", outcome="completed") == 1
        assert value(daemon, "recording_duration_seconds_count") == 1
        assert value(daemon, "finalize_seconds_count") == 1
        assert 7 <= (value(daemon, "finalize_seconds_sum") or 0) < 10
        assert value(daemon, "lag_bytes") == 0


async def test_finalizing_is_timed_from_the_verification_that_the_recording_did_not_outlive(world: World) -> None:
    world.append(5 * PART + 1)
    async with world.daemon() as daemon:
        slow = world.endpoint.faults.arm(Fault(Kind.SLOW, "UploadPart", seconds=5, times=None))
        await trio.sleep(12)
        daemon.closed()
        await trio.sleep(3)
        world.append(PART)
        daemon.seen()
        await trio.sleep(20)
        (checkpoint,) = await world.checkpoints()
        assert checkpoint.meta.status is Status.ACTIVE, "the verification found it still being written"
        world.endpoint.faults.disarm(slow)
        daemon.closed()
        await completed(world)
        await trio.sleep(0.1)
        assert value(daemon, "finalize_seconds_count") == 1
        assert (value(daemon, "finalize_seconds_sum") or 0) < 5


async def test_streams_that_are_left_at_a_shutdown_count_as_parked(world: World) -> None:
    world.append(PART // 2)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        assert value(daemon, "streams_ended_total", outcome="parked") == 0
    assert value(daemon, "streams_ended_total", outcome="parked") == 1


async def test_a_stream_whose_lease_is_lost_counts_as_that(world: World) -> None:
    world.append(PART // 2)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        (checkpoint,) = await world.checkpoints()
        theirs = Lease("another", "its token", 30.0)
        world.store._leases.clear()
        assert await world.store.acquire(checkpoint.meta.stream_id, theirs)
        await trio.sleep(daemon.services.lease.ttl_seconds / 3 + 1)
        assert value(daemon, "streams_ended_total", outcome="lease_lost") == 1
        assert value(daemon, "streams_ended_total", outcome="cancelled") == 0


async def test_a_stream_that_does_not_end_within_the_grace_counts_as_cancelled(world: World) -> None:
    world.append(PART)
    world.endpoint.faults.arm(Fault(Kind.FREEZE, "UploadPart", times=None))
    async with world.daemon() as daemon:
        await trio.sleep(1)
    assert value(daemon, "streams_ended_total", outcome="cancelled") == 1


async def test_the_time_since_the_signal_is_exported(world: World) -> None:
    world.append(PART)
    world.endpoint.faults.arm(Fault(Kind.SLOW, "UploadPart", seconds=4, times=None))
    async with world.daemon() as daemon:
        await trio.sleep(1)
        assert value(daemon, "shutdown_seconds") == 0
        daemon.shutdown.request()
        await trio.sleep(2)
        assert value(daemon, "shutdown_seconds") == pytest.approx(2)


async def test_lag_is_what_is_on_disk_and_not_in_s3(world: World) -> None:
    world.append(PART + 300)
    async with world.daemon() as daemon:
        await trio.sleep(10)
        assert value(daemon, "lag_bytes") == 300
        assert value(daemon, "lag_seconds") == pytest.approx(10, abs=0.1), "300 bytes wait for a full part"
        world.append(PART - 300)
        daemon.seen()
        await trio.sleep(1)
        assert (value(daemon, "lag_bytes"), value(daemon, "lag_seconds")) == (0, 0)
        frozen = world.endpoint.faults.arm(Fault(Kind.FREEZE, "UploadPart", times=None))
        world.append(PART)
        daemon.seen()
        await trio.sleep(5)
        world.append(PART)
        daemon.seen()
        await trio.sleep(5)
        assert value(daemon, "lag_bytes") == 2 * PART
        assert value(daemon, "lag_seconds") == pytest.approx(10, abs=0.1)
        world.endpoint.faults.disarm(frozen)


async def test_a_recording_whose_last_byte_is_in_s3_does_not_lag(world: World) -> None:
    world.append(PART + 7)
    slow = world.endpoint.faults.arm(Fault(Kind.SLOW, "CompleteMultipartUpload", seconds=20, times=1))
    async with world.daemon() as daemon:
        await trio.sleep(5)
        assert value(daemon, "lag_seconds") == pytest.approx(5, abs=0.1)
        daemon.closed()
        await trio.sleep(10)
        assert world.recordings() == []
        assert (value(daemon, "lag_bytes"), value(daemon, "lag_seconds")) == (0, 0)
        world.endpoint.faults.disarm(slow)
        await completed(world)


async def test_a_file_that_redis_cannot_be_asked_about_lags_too(world: World) -> None:
    async with world.daemon() as daemon:

        async def fault(operation: str, moment: Moment) -> None:
            raise RedisOperationError(operation, "no answer", transient=True)

        world.store.fault = fault
        world.append(PART)
        daemon.seen()
        await trio.sleep(20)
        assert value(daemon, "lag_bytes") == PART
        assert value(daemon, "lag_seconds") == pytest.approx(20)
        assert value(daemon, "service_up", service="redis") == 0
        assert value(daemon, "service_up", service="s3") == 1
        world.store.fault = None
        daemon.closed()
        await completed(world)
        assert value(daemon, "service_up", service="redis") == 1


async def test_a_file_that_no_stream_can_be_begun_for_ages_and_stays_that_old_when_one_begins(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        outage = world.endpoint.faults.arm(Fault(Kind.RESET, times=None))
        await trio.sleep(60)
        assert value(daemon, "active_streams", state="waiting") == 0
        assert (value(daemon, "lag_bytes"), round(value(daemon, "lag_seconds") or 0)) == (2 * PART, 60)
        world.endpoint.faults.disarm(outage)
        world.endpoint.faults.arm(Fault(Kind.SLOW, "UploadPart", seconds=60, times=None))
        await trio.sleep(20)
        assert value(daemon, "active_streams", state="working") == 1
        assert (value(daemon, "lag_bytes"), round(value(daemon, "lag_seconds") or 0)) == (2 * PART, 80)


async def test_live_streams_and_limiters_show_who_works_and_who_waits(world: World) -> None:
    world.append(PART // 2, "quiet.mp4")
    world.append(2 * PART, "busy.mp4")
    slow = world.endpoint.faults.arm(Fault(Kind.SLOW, "UploadPart", seconds=5, times=None))
    async with world.daemon() as daemon:
        await trio.sleep(1)
        states = {state: value(daemon, "active_streams", state=state) for state in ("working", "waiting", "retrying")}
        assert states == {"working": 1, "waiting": 1, "retrying": 0}
        assert value(daemon, "limiter_borrowed", limiter="streams") == 1
        assert value(daemon, "limiter_slots", limiter="streams") == 10
        assert value(daemon, "limiter_borrowed", limiter="parts") == 2
        assert value(daemon, "limiter_slots", limiter="parts") == 4
        world.endpoint.faults.disarm(slow)


async def test_an_outage_shows_as_a_stream_that_retries(world: World) -> None:
    world.append(PART)
    async with world.daemon() as daemon:
        await trio.sleep(1)
        down = world.endpoint.faults.arm(Fault(Kind.ERROR, status=503, code="ServiceUnavailable", times=None))
        world.append(PART)
        daemon.seen()
        await trio.sleep(30)
        assert value(daemon, "active_streams", state="retrying") == 1
        assert value(daemon, "service_up", service="s3") == 0
        assert total(daemon, "operation_failures_total") > 0
        world.endpoint.faults.disarm(down)
        daemon.closed()
        await completed(world)
        assert value(daemon, "service_up", service="s3") == 1


async def test_the_stale_checkers_last_turn_is_exported_in_unix_time(world: World) -> None:
    async with world.daemon() as daemon:
        await trio.sleep(12)
        last = value(daemon, "idle_checker_last_run_timestamp_seconds")
        assert last == pytest.approx(EPOCH.timestamp() + 10, abs=1)
        assert value(daemon, "watcher_last_run_timestamp_seconds") is None, "a world's watcher is a script"


async def test_redis_is_asked_for_its_sets_and_its_persistence(world: World) -> None:
    world.append(PART)
    async with world.daemon() as daemon, trio.open_nursery() as nursery:
        nursery.start_soon(survey_redis, daemon.services.store, daemon.services.metrics)
        daemon.closed()
        await completed(world)
        world.append(PART // 2, "b.mp4")
        daemon.seen("b.mp4")
        world.store.persistent = True
        await trio.sleep(16)
        sets = {name: value(daemon, "known_streams", set=name) for name in (*StreamSet, "deleted")}
        assert sets == {"active": 1, "pending_completion": 0, "completed": 1, "failed": 0, "deleted": 0}
        assert value(daemon, "redis_persistent") == 1
        nursery.cancel_scope.cancel()
    assert value(daemon, "known_streams", set="active") is None, "no task asks any more"


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "refuses"])
async def test_a_redis_that_does_not_answer_makes_absent_values_not_old_ones(world: World, hangs: bool) -> None:
    async with world.daemon() as daemon, trio.open_nursery() as nursery:
        nursery.start_soon(survey_redis, daemon.services.store, daemon.services.metrics)
        await trio.sleep(1)
        assert value(daemon, "known_streams", set="active") == 0
        assert value(daemon, "redis_persistent") == 0

        async def fault(operation: str, moment: Moment) -> None:
            if hangs:
                await trio.sleep_forever()
            raise RedisOperationError(operation, "no", transient=False)

        world.store.fault = fault
        await trio.sleep(30)
        assert value(daemon, "known_streams", set="active") is None
        assert value(daemon, "redis_persistent") is None
        world.store.fault = None
        await trio.sleep(30)
        assert value(daemon, "known_streams", set="active") == 0
        nursery.cancel_scope.cancel()
