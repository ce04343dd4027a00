"""What the admin server reports of a daemon, in a world on a virtual clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from provoked_failures import of_recording
from waiting import completed, until_idle

from cef_trio.admin import page_source as source_module
from cef_trio.admin.page_source import COMPLETED_SECONDS, DaemonSource, IntakeTask
from cef_trio.admin.status_page import Detail, Phase, judge_health, judge_ready
from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.memory import Moment
from cef_trio.checkpoint.states import FAILED, SENTENCES, FailureReason, Status
from cef_trio.exceptions import RedisOperationError
from cef_trio.lab.world import BUCKET, PART, World, WorldDaemon
from cef_trio.observability import OUTAGE_ADVICE, LogLine, PartRun, PartState, daemon_report
from cef_trio.observability.daemon_report import DaemonReport
from cef_trio.observability.snapshot import StreamActivity, activity_of
from cef_trio.s3_endpoint import Fault, Kind


@dataclass
class PeriodicTask:
    last_run: float


def source_of(world: World, daemon: WorldDaemon) -> DaemonSource:
    source = DaemonSource(daemon.services, str(world.folder), lambda: daemon.shutdown.signals > 0)
    source.observer = daemon.observer
    source.watcher = source.checker = IntakeTask(PeriodicTask(trio.current_time()), 60.0)
    return source


async def test_a_growing_stream_shows_what_is_uploaded_and_what_lags(world: World) -> None:
    world.stream_timeout_seconds = 1000.0
    world.append(2 * PART + 300)
    async with world.daemon() as daemon:
        source = source_of(world, daemon)
        await until_idle(world, Status.ACTIVE)
        await trio.sleep(5)
        snapshot = source.page()
        (line,) = snapshot.streams
        assert line.file == "a.mp4"
        assert line.state is StreamActivity.WAITING
        assert (line.size_on_disk_bytes, line.acknowledged_bytes, line.lag_bytes) == (2 * PART + 300, 2 * PART, 300)
        assert line.bytes_per_second == pytest.approx(2 * PART / trio.current_time(), rel=0.05)  # of its own life
        assert line.lag_since is not None
        assert snapshot.phase is Phase.RUNNING
        assert (snapshot.totals.active_streams, snapshot.totals.lag_bytes, snapshot.totals.completed) == (1, 300, None)
        assert source.page() == snapshot  # nothing counts up by itself
        assert snapshot.totals.upload_limit_bytes_per_second == 0
        daemon.services.rate_limiter.change(64 << 10)
        assert source.page().totals.upload_limit_bytes_per_second == 64 << 10
        daemon.services.rate_limiter.change(0)
        await trio.sleep(60)
        assert source.page().streams[0].bytes_per_second == 0

        world.append(PART)
        daemon.seen()
        await trio.sleep(1)
        assert source.page().streams[0].acknowledged_bytes == 3 * PART


async def test_what_has_ended_is_asked_of_redis_and_kept_while_redis_is_down(world: World) -> None:
    world.append(PART)
    async with world.daemon() as daemon, trio.open_nursery() as nursery:
        source = source_of(world, daemon)
        nursery.start_soon(source.run)
        daemon.closed()
        (checkpoint,) = await completed(world)
        world.append(PART, "b.mp4")
        daemon.seen("b.mp4")
        await trio.sleep(5)  # virtual: its stream has begun, and waits for more
        lease = daemon.services.lease
        (failed_id,) = daemon.supervisor.live_ids - {checkpoint.meta.stream_id}
        await daemon.services.store.transition(
            failed_id,
            lease,
            Status.FAILED_ACCESS_DENIED,
            Change({"failure_reason": f"{SENTENCES[FailureReason.ACCESS_DENIED]} <b>403</b>"}),
        )
        await trio.sleep(6)
        assert source.page().totals.completed is None  # nobody has looked yet
        await trio.sleep(0.1)
        snapshot = source.page()
        assert (snapshot.totals.completed, snapshot.totals.failed) == (1, 1)
        (failed,) = snapshot.failed
        assert failed.stream_id == failed_id
        assert failed.file == "b.mp4"
        assert failed.sentence == "The S3 credentials lack a permission that uploads need."
        assert failed.detail == "<b>403</b>"
        nursery.cancel_scope.cancel()


async def test_an_outage_is_shown_with_its_beginning_and_is_not_ready_but_healthy(world: World) -> None:
    async with world.daemon() as daemon:
        source = source_of(world, daemon)
        assert all(fact.good for fact in judge_ready(source.ready()))
        breaker = daemon.services.redis_breaker
        world.store.fault = _down
        began = world.utc_now().timestamp()
        breaker.trip(RedisOperationError("ping", "no answer", transient=True))
        await trio.sleep(300)
        (outage,) = source.page().outages
        assert outage.service == "redis"
        assert outage.since == pytest.approx(began, abs=0.1)
        assert outage.probes > 3
        assert "redis is not reachable" in [fact.says for fact in judge_ready(source.ready()) if not fact.good]
        source.watcher = IntakeTask(PeriodicTask(trio.current_time()), 60.0)
        assert all(fact.good for fact in judge_health(source.health()))  # the checker waits for Redis: excused

        world.store.fault = None
        await breaker.wait_up()
        await trio.testing.wait_all_tasks_blocked()
        assert source.page().outages == ()
        assert all(fact.good for fact in judge_health(source.health()))  # and its time runs from now
        await trio.sleep(181)
        assert "the idle checker has been silent for 181 s" in source.page().unhealthy


async def test_a_daemons_start_and_its_shutdown_are_shown(world: World) -> None:
    async with world.daemon() as daemon:
        source = DaemonSource(daemon.services, str(world.folder), lambda: daemon.shutdown.signals > 0)
        assert source.page().phase is Phase.STARTING
        assert source.page().streams == ()
        assert all(fact.good for fact in judge_health(source.health()))
        source = source_of(world, daemon)
        daemon.shutdown.request()
        await trio.sleep(1000)
        assert source.page().phase is Phase.DRAINING
        assert all(fact.good for fact in judge_health(source.health()))  # the intake has ended, and should have


async def test_a_watcher_that_reads_a_large_folder_for_minutes_is_healthy(world: World) -> None:
    async with world.daemon() as daemon:
        source = source_of(world, daemon)
        scan = SimpleNamespace(
            last_run=trio.current_time(), read_at=trio.current_time(), rescan_seconds=60.0, trouble=None
        )
        assert source.observer is not None
        source.observer.risks.watcher = scan
        for _ in range(10):
            scan.read_at = trio.current_time()
            await trio.sleep(60)
            source.checker = IntakeTask(PeriodicTask(trio.current_time()), 60.0)
            assert all(fact.good for fact in judge_health(source.health()))
        await trio.sleep(130)
        assert "the watcher has been silent for 190 s" in [fact.says for fact in judge_health(source.health())]


async def test_a_start_does_not_call_a_service_reachable_that_has_not_responded(world: World) -> None:
    async with world.services() as services:
        source = DaemonSource(services, str(world.folder), lambda: False)
        assert (source.ready().redis_up, source.ready().s3_up) == (None, None)
        services.redis_breaker.note_success()
        services.s3_breaker.trip(RedisOperationError("head_bucket", "no answer", transient=True))
        assert (source.ready().redis_up, source.ready().s3_up) == (True, False)
        source.watcher = IntakeTask(PeriodicTask(trio.current_time()), 60.0)
        assert (source.ready().redis_up, source.ready().s3_up) == (True, False)


@pytest.mark.parametrize("working", [True, False])
@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_some_state(status: Status, working: bool) -> None:
    state = activity_of(status, working=working, held=False)
    held = activity_of(status, working=working, held=True)
    assert (held is StreamActivity.HELD) == (state in {StreamActivity.UPLOADING, StreamActivity.FINISHING})
    assert held in {state, StreamActivity.HELD}
    expected = {
        Status.PENDING_COMPLETION: StreamActivity.VERIFYING,
        Status.S3_COMPLETED: StreamActivity.FINISHING,
        Status.COMPLETED: StreamActivity.FINISHING,
    }
    if status is Status.RETRYING and not working:
        assert state is StreamActivity.RETRYING
    else:
        assert state is expected.get(status, StreamActivity.UPLOADING if working else StreamActivity.WAITING)


def test_every_failure_has_a_sentence() -> None:
    assert set(source_module._SENTENCE_OF) == FAILED


async def _down(operation: str, moment: Moment) -> None:
    raise RedisOperationError(operation, "no answer", transient=True)


async def test_no_secret_is_shown_in_the_words_of_others(world: World) -> None:
    fault = Fault(Kind.ERROR, "CreateMultipartUpload", times=None, code="AccessDenied", predicate=of_recording())
    world.endpoint.faults.arm(fault)
    world.append(2 * PART)
    async with world.daemon() as daemon, trio.open_nursery() as nursery:
        await until_idle(world, Status.FAILED_ACCESS_DENIED)
        source = source_of(world, daemon)
        source.redact = lambda text: text.replace(BUCKET, "***")  # the error tells the bucket
        nursery.start_soon(source.run)
        source.page()
        await trio.testing.wait_all_tasks_blocked()
        (failed,) = source.page().failed
        assert failed.detail is not None
        assert "bucket '***'" in failed.detail
        nursery.cancel_scope.cancel()


async def test_the_fleet_is_read_from_redis_only_while_it_is_looked_at_and_once_for_many_requests(world: World) -> None:
    reads: list[float] = []

    async def count(operation: str, moment: Moment) -> None:
        if operation == "reports" and moment is Moment.BEFORE:
            reads.append(trio.current_time())

    report = daemon_report.encode(DaemonReport(instance="", at=1.0, folder="/rec", owner="o"))
    await world.store.report("o/cam", report, beginning="")
    async with world.services() as services, trio.open_nursery() as nursery:
        source = DaemonSource(services, "/rec", lambda: False)
        nursery.start_soon(source.run)
        world.store.fault = count
        await trio.sleep(100)
        assert reads == []
        assert source.fleet() is None
        await trio.sleep(0.1)
        for _ in range(1000):
            document = json.loads(source.fleet() or "")
        assert [one["owner"] for one in document["daemons"]] == ["o"]
        await trio.sleep(20)
        assert len(reads) == 2
        assert source.fleet() is not None
        await trio.sleep(60)
        assert len(reads) == 3
        assert source.fleet() is None  # too old to be shown
        nursery.cancel_scope.cancel()


async def test_a_streams_detail_has_its_object_parts_requests_retries_and_log(world: World) -> None:
    world.stream_timeout_seconds = 1000.0
    world.endpoint.faults.arm(Fault(Kind.ERROR, "UploadPart", times=2, code="SlowDown"))
    world.append(2 * PART + 300)
    async with world.daemon() as daemon, trio.open_nursery() as nursery:
        source = source_of(world, daemon)
        source.recent_lines = lambda stream_id: (LogLine("2026", "info", "upload_created", f"of={stream_id}"),)
        nursery.start_soon(source.run)
        await until_idle(world, Status.ACTIVE)
        await trio.sleep(25)
        (row,) = source.page().streams
        stream_id = row.stream_id or ""
        detail = source.detail(stream_id)
        known = detail.known
        assert known is not None
        assert (detail.stream_id, detail.file) == (stream_id, "a.mp4")
        assert known.key.endswith("/a.mp4")
        assert (known.bucket, known.status, known.size_bytes) == (BUCKET, "active", 2 * PART + 300)
        assert known.parts == (PartRun(PartState.STORED, 2), PartRun(PartState.WAITING, 1))
        assert known.verified_parts == 0
        assert known.requests == {"create_multipart_upload": 1, "upload_part": 4}
        assert known.retries == {"s3 upload_part": 2}
        assert detail.log == (LogLine("2026", "info", "upload_created", f"of={stream_id}"),)
        assert len(detail.lag_bytes) == len(detail.bytes_per_second) >= 2
        assert detail.lag_bytes[-1] == 300
        assert source.history().lag_bytes[-1] == 300
        assert source.sparklines()[stream_id][-1] > 2 * PART / 60  # of its own life, which is shorter
        assert source.detail("unknown") == Detail(stream_id="unknown", file=None, log=source.recent_lines("unknown"))

        world.patch(0, b"y" * 10)  # the first part is sent again
        daemon.closed()
        await completed(world)
        await trio.sleep(20)
        source.page()
        await trio.sleep(6)
        (done,) = source.page().completed
        assert (done.stream_id, done.file, done.size_bytes) == (stream_id, "a.mp4", 2 * PART + 300)
        ended = source.detail(stream_id)
        assert ended.known is not None
        assert (ended.known.status, ended.known.parts_rewritten) == ("completed", 1)
        assert ended.known.completed_at == pytest.approx(done.at, abs=0.1)
        assert ended.lag_bytes == ()

        Path(world.path("a.mp4")).rename(world.path("b.mp4"))
        daemon.moved("a.mp4", "b.mp4")
        await trio.sleep(COMPLETED_SECONDS)
        source.page()
        await trio.sleep(6)
        (done,) = source.page().completed
        assert (done.stream_id, done.file) == (stream_id, "b.mp4")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("fault", "status", "verified_parts"),
    [
        (Fault(Kind.SLOW, "CompleteMultipartUpload", times=None, seconds=50), "pending_completion", 3),
        (Fault(Kind.ERROR, "CompleteMultipartUpload", times=None), "retrying", 0),
    ],
    ids=["completed slowly", "resumed"],
)
async def test_rewritten_and_verified_parts_are_marked(
    world: World, fault: Fault, status: str, verified_parts: int
) -> None:
    world.append(3 * PART)
    async with world.daemon() as daemon:
        source = source_of(world, daemon)
        await until_idle(world, Status.ACTIVE)
        stream_id = source.page().streams[0].stream_id or ""
        world.patch(PART, b"y" * 10)
        world.endpoint.faults.arm(fault)
        daemon.closed()
        await trio.sleep(20)
        known = source.detail(stream_id).known
        assert known is not None
        assert [(run.state, run.count) for run in known.parts] == [
            (PartState.STORED, 1),
            (PartState.REWRITTEN, 1),
            (PartState.STORED, 1),
        ]
        assert (known.status, known.verified_parts) == (status, verified_parts)
        assert known.requests["complete_multipart_upload"] >= 1


async def test_the_story_of_an_outage_is_told_while_it_goes_on_and_after_it(world: World) -> None:
    async with world.daemon() as daemon:
        source = source_of(world, daemon)
        source.redact = lambda text: text.replace("secret", "***")
        breaker = daemon.services.redis_breaker
        world.store.fault = _down
        began = world.utc_now().timestamp()
        breaker.trip(RedisOperationError("ping", "refused with secret", transient=True))
        await trio.sleep(100)
        (outage,) = source.page().outages
        assert outage.cause == "Redis operation 'ping' failed: refused with ***"
        assert outage.error == "Redis operation 'check_writable' failed: no answer"
        assert outage.probed_at is not None
        assert 0 < world.utc_now().timestamp() - outage.probed_at < 5
        assert outage.advice == OUTAGE_ADVICE[False]
        world.store.fault = None
        await breaker.wait_up()
        ended = world.utc_now().timestamp()
        (past,) = source.page().past_outages
        assert (past.service, past.cause) == ("redis", outage.cause)
        assert past.since == pytest.approx(began, abs=0.1)
        assert past.until == pytest.approx(ended, abs=0.1)
        assert past.probes >= outage.probes
