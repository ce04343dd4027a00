"""P10, honest health, in a world on a virtual clock: what a daemon reports about bytes that do not get to S3."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from waiting import completed

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.daemon.main import _report_wait
from cef_trio.exceptions import RedisOperationError, S3OperationError
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.observability.at_risk import Reason, Risk
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.s3_endpoint import Moment as FaultMoment
from cef_trio.upload.observer import Observer
from cef_trio.upload.risks import RiskObserver
from cef_trio.watch.events import Scanned

PAGE = 4096


def observer(daemon: WorldDaemon) -> RiskObserver:
    return RiskObserver(daemon.services, daemon.supervisor)


def reasons(risks: tuple[Risk, ...]) -> set[Reason]:
    return {risk.reason for risk in risks}


async def test_p10_a_slow_recording_and_an_idle_one_are_no_risk(world: World) -> None:
    world.stream_timeout_seconds = 1e6
    world.append(PART // 2, "slow.mp4")
    world.append(PART, "idle.mp4")
    async with world.daemon() as daemon:
        risks = observer(daemon)
        daemon.seen("idle.mp4")
        for _ in range(40):
            world.append(10, "slow.mp4")
            daemon.seen("slow.mp4")
            await trio.sleep(30)
            assert risks() == ()
        daemon.closed("slow.mp4")
        daemon.closed("idle.mp4")
        await trio.sleep(30)
        assert risks() == ()
    assert len(world.recordings()) == 2


async def test_p10_a_hung_mount_counts_what_is_on_the_disk_only_also_less_than_a_part(world: World) -> None:
    world.stream_timeout_seconds = 1e6
    (world.folder / "camera").mkdir()
    world.append(PART + 300, "camera/slow.mp4")
    world.append(200, "beside.mp4")
    async with world.daemon() as daemon:
        risks = observer(daemon)
        daemon.seen("camera/slow.mp4")
        daemon.seen("beside.mp4")
        await trio.sleep(100)
        assert risks() == ()
        daemon.services.mounts.hung.value = {world.path("camera"): trio.current_time()}
        await trio.sleep(50)
        assert risks() == ()
        await trio.sleep(11)
        [risk] = risks()
        assert (risk.reason, risk.size_bytes, risk.recordings) == (Reason.MOUNT_HUNG, 300, 1)
        daemon.services.s3_breaker.trip(S3OperationError("ping", "no answer", transient=True))
        world.endpoint.faults.arm(Fault(Kind.RESET, "*", times=None))
        await trio.sleep(61)
        found = {risk.reason: risk.size_bytes for risk in risks()}
        assert found == {Reason.S3_DOWN: 200, Reason.MOUNT_HUNG: 300}, "each byte counts once"
        daemon.services.mounts.hung.value = {}
        assert {risk.reason: risk.size_bytes for risk in risks()} == {Reason.S3_DOWN: 500}


async def test_p10_neither_a_slow_upload_nor_one_that_waits_for_a_slot_is_a_risk(world: World) -> None:
    for number in range(12):
        world.append(2 * PART, f"{number}.mp4")
    async with world.daemon() as daemon:
        risks = observer(daemon)
        daemon.services.rate_limiter.change(PART // 5)  # eight parts in flight take most of a minute
        for number in range(12):
            daemon.closed(f"{number}.mp4")
        for _ in range(60):
            await trio.sleep(10)
            assert risks() == ()
        daemon.services.rate_limiter.change(0)
        await trio.sleep(60)
    assert len(world.recordings()) == 12


@pytest.mark.parametrize("refused", ["UploadPart", "CompleteMultipartUpload"])
async def test_p10_a_store_that_refuses_each_attempt_at_its_end_is_reported_however_long_an_attempt_takes(
    world: World, refused: str
) -> None:
    world.append(3 * PART)
    late = FaultMoment.BODY if refused == "UploadPart" else FaultMoment.BEFORE
    refusal = Fault(Kind.ERROR, refused, moment=late, after_bytes=PART - 1, status=503, code="SlowDown", times=None)
    fails = world.endpoint.faults.arm(refusal)
    async with world.daemon() as daemon:
        risks = observer(daemon)
        if refused == "UploadPart":
            daemon.services.rate_limiter.change(3 * PART // 45)  # an attempt takes longer than blocks are distrusted
        else:
            world.read_seconds = 15.0  # before each Complete the whole recording is read for 45 seconds
        daemon.closed()
        reported = []
        for _ in range(120):
            await trio.sleep(5)
            reported.append(bool(risks()))
        assert all(reported[60:]), "nothing has got to S3 for five minutes"
        world.endpoint.faults.disarm(fails)
        await completed(world)
        await trio.sleep(5)
        assert risks() == ()


async def test_p10_a_store_that_does_not_list_uploads_shows_the_files_that_wait_for_it(world: World) -> None:
    refuses = world.endpoint.faults.arm(
        Fault(Kind.ERROR, "ListMultipartUploads", status=500, code="InternalError", times=None)
    )
    world.append(PART)
    async with world.daemon() as daemon:
        risks = observer(daemon)
        daemon.closed()
        for _ in range(300):
            await trio.sleep(1)
            if risks() or world.recordings():
                break
        if not world.recordings():  # else it did not wait: better still
            assert reasons(risks()) <= {Reason.NOT_LOOKED_UP, Reason.S3_DOWN, Reason.NOT_MOVING}
            [risk] = risks()
            assert "InternalError" in risk.why
        world.endpoint.faults.disarm(refuses)
        await completed(world)
        await trio.sleep(5)
        assert risks() == ()


@pytest.mark.parametrize("code", ["SlowDown", "InternalError"])
async def test_p10_one_stream_whose_parts_fail_is_reported_although_others_progress(world: World, code: str) -> None:
    world.append(2 * PART, "a.mp4")
    async with world.daemon() as daemon:
        risks = observer(daemon)
        fault = Fault(Kind.ERROR, "UploadPart", status=503, code=code, part_number=2, times=None)
        fails = world.endpoint.faults.arm(fault)
        daemon.closed("a.mp4")
        for second in range(200):
            await trio.sleep(1)
            world.append(PART, f"{second}.mp4")
            daemon.closed(f"{second}.mp4")
            if risks():
                break
        assert 60 <= second < 150
        assert any(code in risk.why for risk in risks())
        world.endpoint.faults.disarm(fails)
        for _ in range(400):
            await trio.sleep(1)
            if not risks():
                break
        assert risks() == ()


async def test_p10_a_redis_that_refuses_writes_is_reported_within_about_a_minute(world: World) -> None:
    async def refuse(operation: str, moment: Moment) -> None:
        if operation in {"create", "record_part", "update", "transition", "acquire", "renew"}:
            raise RedisOperationError(operation, "OOM command not allowed", transient=True)

    world.append(PART)
    async with world.daemon() as daemon:
        risks = observer(daemon)
        world.store.fault = refuse
        daemon.closed()
        began = trio.current_time()
        for _ in range(300):
            await trio.sleep(1)
            if risks():
                break
        assert trio.current_time() - began < 90
        assert reasons(risks()) <= {Reason.REDIS_DOWN, Reason.NOT_MOVING}
        world.store.fault = None
        await completed(world)
        await trio.sleep(5)
        assert risks() == ()


async def test_p10_a_failed_stream_is_reported_as_long_as_its_file_exists(world: World) -> None:
    world.endpoint.faults.arm(Fault(Kind.ERROR, "CompleteMultipartUpload", status=400, code="KeyTooLongError", times=1))
    world.append(PART)
    async with world.daemon() as daemon:
        risks = observer(daemon)
        daemon.closed()
        await trio.sleep(70)
        [risk] = risks()
        assert (risk.reason, risk.size_bytes, risk.recordings) == (Reason.FAILED, PART, 1)
        assert "KeyTooLongError" in risk.why
        Path(world.path()).unlink()
        daemon.supervisor.handle_event(world.scan())
        assert risks() == ()


async def test_p10_a_failed_stream_is_reported_though_the_clock_that_dated_it_was_ahead(world: World) -> None:
    """That of another host with this folder, or this one's before it was set: it was reported only a day later."""
    world.endpoint.faults.arm(Fault(Kind.ERROR, "CompleteMultipartUpload", status=400, code="KeyTooLongError", times=1))
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await trio.sleep(5)
        (failed,) = world.known()
        lease, tomorrow = daemon.services.lease, failed.meta.last_activity_at_utc + timedelta(days=1)
        assert await world.store.acquire(failed.meta.stream_id, lease)
        await world.store.update(failed.meta.stream_id, lease, Change({"last_activity_at_utc": tomorrow}))
        await world.store.release([failed.meta.stream_id], lease)
    async with world.daemon() as daemon:
        risks, began = observer(daemon), daemon.services.utc_now().timestamp()
        await trio.sleep(70)
        [risk] = risks()
        assert (risk.reason, risk.size_bytes, risk.recordings) == (Reason.FAILED, PART, 1)
        assert risk.since == pytest.approx(began, abs=5)


@pytest.mark.parametrize("kind", ["meta", "parts", "lease"])
async def test_kind9_p10_a_file_whose_record_cannot_be_read_is_reported_and_resumes_when_it_is_repaired(
    world: World, kind: str
) -> None:
    world.stream_timeout_seconds = 1e6
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(3)
    (parked,) = world.known()
    keys = Keys()
    key = {"meta": keys.meta, "parts": keys.parts, "lease": keys.lease}[kind](parked.meta.stream_id)
    world.store.corrupt(key)
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            risks = observer(daemon)
            for _ in range(150):
                world.append(1)
                daemon.seen()  # it grows all the while, which makes no loop
                await trio.sleep(1)
            [risk] = risks()
            assert (risk.reason, risk.recordings) == (Reason.RECORD_UNREADABLE, 1)
            assert world.path() in risk.why
            ended = daemon.services.metrics.registry.get_sample_value(
                "cef_trio_streams_ended_total", {"outcome": "set_aside"}
            )
            assert (ended or 0) < 80
            assert len(logs) < 10
            world.store.repair(key)
            await trio.sleep(60)
            assert risks() == ()
            daemon.closed()
            await completed(world)
    assert [entry["event"] for entry in logs].count("checkpoint_unreadable") == 1
    assert len(world.known()) == 1


async def test_p10_an_unreadable_folder_is_reported_except_lost_and_found(world: World) -> None:
    async with world.daemon() as daemon:
        risks = observer(daemon)
        for _ in range(10):
            daemon.supervisor.handle_event(
                Scanned({}, frozenset({world.path("closed"), world.path("lost+found")}), began_at=trio.current_time())
            )
            await trio.sleep(10)
        [risk] = risks()
        assert (risk.reason, risk.size_bytes) == (Reason.FOLDER_UNREADABLE, 0)
        assert "closed" in risk.why
        daemon.supervisor.handle_event(Scanned({}, frozenset(), began_at=trio.current_time()))
        assert risks() == ()


async def test_p10_a_missing_watch_folder_is_reported(world: World) -> None:
    class Lost:
        last_run = read_at = 0.0
        rescan_seconds = 60.0
        trouble: tuple[float, str] | None = None

    async with world.daemon() as daemon:
        risks, watcher = observer(daemon), Lost()
        risks.watcher = watcher
        watcher.read_at = trio.current_time()
        assert risks() == ()
        watcher.trouble = (trio.current_time(), "stale file handle")
        await trio.sleep(61)
        assert reasons(risks()) == {Reason.FOLDER_LOST}
        watcher.trouble = None
        assert risks() == ()
        for _ in range(20):  # a scan that takes long, but reads
            watcher.read_at = trio.current_time()
            await trio.sleep(30)
            assert risks() == ()
        await trio.sleep(250)  # one that stands still
        assert reasons(risks()) == {Reason.FOLDER_LOST}


async def test_p10_a_start_that_waits_is_reported_since_it_began_to_wait(world: World) -> None:
    async with world.daemon() as daemon:
        risks = observer(daemon)
        start: Any = SimpleNamespace(risks=risks, status=lambda _text: None, waits_for="")
        for _ in range(3):
            _report_wait(start, start, start, "moved 5 of 7 streams")
            assert risks() == ()
            await trio.sleep(25)
        assert reasons(risks()) == {Reason.NOT_STARTED}
        assert start.waits_for == "moved 5 of 7 streams"


async def test_p10_holes_of_a_preallocated_file_are_no_lag_and_bytes_that_do_not_move_are_reported(
    world: World,
) -> None:
    world.stream_timeout_seconds = 1e6
    Path(world.path()).touch()
    os.truncate(world.path(), 60 * PAGE)
    world.stat()
    async with world.daemon() as daemon:
        risks = observer(daemon)
        gauges = Observer(daemon.services, daemon.supervisor, risks)
        daemon.seen()
        await trio.sleep(5)

        async def fill(number: int, seconds: float) -> None:
            world.patch(number * PAGE, world.random.randbytes(PAGE))
            daemon.seen()
            await trio.sleep(seconds)

        for number in range(30):
            await fill(number, 100 if number % 10 == 9 else 5)
            assert risks() == ()
            now = gauges()
            assert now.lag.size_bytes <= 2 * PAGE
            assert now.lag.seconds(now.at) <= 10
        [live] = daemon.supervisor.live
        assert live.lag(trio.current_time()).unwritten_bytes >= 29 * PAGE
        fault = Fault(Kind.ERROR, "UploadPart", status=500, code="InternalError", times=None)
        stops = world.endpoint.faults.arm(fault)
        for number in range(30, 34):
            await fill(number, 5)
        assert gauges().lag.size_bytes > 0
        for _ in range(30):
            await trio.sleep(5)
            if risks():
                break
        [risk] = risks()
        assert risk.reason in {Reason.NOT_MOVING, Reason.S3_DOWN}
        assert (risk.size_bytes >= PART, risk.recordings) == (True, 1)
        now = gauges()
        assert now.lag.seconds(now.at) > 60
        world.endpoint.faults.disarm(stops)
        for _ in range(60):
            await trio.sleep(1)
        assert risks() == ()
        assert gauges().lag.size_bytes <= 2 * PAGE
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
