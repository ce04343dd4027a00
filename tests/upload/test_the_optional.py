"""Optional S3 calls delay no recording (correctness.md, kind 8)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import trio
from failing_calls import FAILS, fail
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked
from waiting import completed

from cef_trio.checkpoint.memory import Moment as CallMoment
from cef_trio.checkpoint.states import Status
from cef_trio.daemon.start_checks import RefusedAtStartError, check_reachable
from cef_trio.daemon.wiring import REDIS_NOT_RETRIED
from cef_trio.exceptions import ChunkProcessingError, RedisOperationError, S3OperationError
from cef_trio.files.file_stat import FileStat
from cef_trio.lab.disk import InlineDisk
from cef_trio.lab.proxy import Interference, Rule
from cef_trio.lab.world import PART, World
from cef_trio.resilience.best_effort import PAUSE_SECONDS, TRIES, TRY_SECONDS, BestEffort
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.watch.events import Seen

WAY_IN_SECONDS = TRIES * (TRY_SECONDS + 1) + 10
"""How long at most a new recording may wait for what it does not need."""


async def interrupted(world: World, size_bytes: int = 3 * PART + 10) -> str:
    """Create a stream without a task; return its id."""
    world.append(size_bytes)
    async with world.daemon():
        await trio.sleep(1)
    (checkpoint,) = world.known()
    assert checkpoint.meta.status is Status.INTERRUPTED_SHUTDOWN
    return checkpoint.meta.stream_id


@pytest.mark.parametrize("how", FAILS)
async def test_a_new_recording_is_uploaded_where_uploads_are_not_listed(world: World, how: dict[str, object]) -> None:
    fail(world, "ListMultipartUploads", how)
    async with world.daemon() as daemon:
        world.append(2 * PART + 10)
        daemon.closed()
        await completed(world, seconds=2 * WAY_IN_SECONDS)
        world.append(PART, "b.mp4")
        daemon.closed("b.mp4")
        await trio.sleep(5)  # the others do not wait for it again
        assert len(await completed(world, seconds=0.1)) == 2
        registry = daemon.services.metrics.registry
        said = registry.get_sample_value("cef_trio_optional_calls_failing")
        assert said == (how.get("code") not in {"NotImplemented", "AccessDenied"})
        assert daemon.services.s3_breaker.up.value
    assert sorted(world.recordings()) == sorted(world.content(name) for name in ("a.mp4", "b.mp4"))


@pytest.mark.parametrize("how", [*FAILS, {"kind": Kind.ERROR, "code": "MethodNotAllowed"}])
async def test_p2_a_stream_goes_on_from_its_records_in_redis_where_parts_are_not_listed(
    world: World, how: dict[str, object]
) -> None:
    await interrupted(world)
    fail(world, "ListParts", how)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world, seconds=2 * WAY_IN_SECONDS)
    assert world.recordings() == [world.content()]
    assert world.received_bytes() == 3 * PART + 10
    assert world.open_uploads() == []


@pytest.mark.parametrize("how", FAILS)
async def test_an_upload_that_s3_lost_is_begun_again_where_parts_are_not_listed(
    world: World, how: dict[str, object]
) -> None:
    """The next part, or Complete, returns NoSuchUpload: trusting the record again would repeat that for ever."""
    await interrupted(world)
    await world.abort_open_uploads()
    fail(world, "ListParts", how)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    (checkpoint,) = world.known()
    assert checkpoint.meta.uploads_restarted == 1


async def test_p2_etags_that_are_listed_in_other_letters_contradict_nothing(world: World) -> None:
    """The recorded ones stay: the store compares those of Complete with what it responded."""
    await interrupted(world)
    (checkpoint,) = world.known()
    listed = "".join(
        f"<Part><PartNumber>{part.part_number}</PartNumber><Size>{part.size_bytes}</Size>"
        f"<ETag>&quot;{part.etag.upper()}&quot;</ETag></Part>"
        for part in checkpoint.parts.values()
    )
    body = f"<ListPartsResult><IsTruncated>false</IsTruncated>{listed}</ListPartsResult>"
    world.proxy.add(Rule(Interference.ANSWER, "ListParts", status=200, body=body))
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert world.recordings() == [world.content()]
    assert world.received_bytes() == 3 * PART + 10


async def test_p5_uploads_without_a_record_are_left_to_gc_where_uploads_are_not_listed(world: World) -> None:
    await interrupted(world)
    world.lose_redis()
    fail(world, "ListMultipartUploads", {"kind": Kind.ERROR, "code": "InternalError"})
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world, seconds=3 * WAY_IN_SECONDS)
    assert world.recordings() == [world.content()]
    assert len(world.open_uploads()) == 1, "it is left to `cef-trio gc`"


async def test_p5_a_listing_that_works_again_is_used(world: World) -> None:
    """The first recording begins without the listing; a later one finds its upload."""
    await interrupted(world)
    world.lose_redis()
    Path(world.path()).rename(world.folder / "hidden")
    fail(world, "ListMultipartUploads", {"kind": Kind.ERROR, "code": "InternalError"})
    async with world.daemon() as daemon:
        world.append(10, "b.mp4")
        daemon.closed("b.mp4")
        await completed(world, seconds=2 * WAY_IN_SECONDS)
        world.endpoint.faults.clear()
        await trio.sleep(PAUSE_SECONDS)
        (world.folder / "hidden").rename(world.path())
        daemon.closed()
        await trio.sleep(5)
        await completed(world)
        assert daemon.services.best_effort.failing == {}
    assert world.received_bytes() == 3 * PART + 10 + 10
    assert world.open_uploads() == []


async def test_p5_orphans_that_could_not_be_listed_are_aborted_later(world: World) -> None:
    world.endpoint.faults.arm(Fault(Kind.RESET, "CreateMultipartUpload", Moment.REPLY))
    fail(world, "ListMultipartUploads", {"kind": Kind.ERROR, "code": "InternalError"})
    async with world.daemon() as daemon:
        world.append(PART + 10)
        daemon.closed()
        await completed(world, seconds=3 * WAY_IN_SECONDS)
        assert len(world.open_uploads()) == 1
        assert daemon.services.orphan_cleanup.due
        world.endpoint.faults.clear()
        await trio.sleep(3 * PAUSE_SECONDS)
        assert not daemon.services.orphan_cleanup.due
        assert world.open_uploads() == []


@pytest.mark.parametrize("dead", ["refuses", "hangs"])
async def test_a_hung_mount_with_a_recorded_stream_delays_no_other_recording(
    world: World, monkeypatch: pytest.MonkeyPatch, dead: str
) -> None:
    (world.folder / "mount").mkdir()
    world.append(2 * PART, "mount/x.mp4")
    async with world.daemon() as daemon:
        path = world.path("mount/x.mp4")
        daemon.supervisor.handle_event(Seen(path, world.stat("mount/x.mp4")))
        await trio.sleep(1)
    (known,) = world.known()
    assert known.meta.status is Status.INTERRUPTED_SHUTDOWN
    stat = InlineDisk.stat

    async def of_a_dead_mount(disk: InlineDisk, path: str) -> FileStat | None:
        if "/mount/" not in path:
            return await stat(disk, path)
        if dead == "hangs":
            await trio.sleep_forever()
        raise ChunkProcessingError(f"cannot look at {path!r}: Transport endpoint is not connected", transient=True)

    monkeypatch.setattr(InlineDisk, "stat", of_a_dead_mount)
    async with world.daemon() as daemon:
        world.append(PART + 10)
        daemon.closed()
        await trio.sleep(20)
        assert world.recordings() == [world.content()]
    streams = {checkpoint.meta.current_path: checkpoint.meta.status for checkpoint in world.known()}
    assert streams[path] not in {Status.FAILED_FILE_MISSING_ON_RESUME, Status.DELETED_LOCALLY}


async def test_an_outage_of_s3_is_waited_for_and_its_listing_is_not_skipped(world: World) -> None:
    """Redis lost the record and S3 is down: a new upload would send again what can be adopted later."""
    await interrupted(world)
    world.lose_redis()
    world.endpoint.faults.arm(Fault(Kind.ERROR, "*", code="ServiceUnavailable", times=None))
    async with world.daemon() as daemon:
        daemon.closed()
        await trio.sleep(600)
        assert world.known() == []
        world.endpoint.faults.clear()
        await completed(world)
    assert world.received_bytes() == 3 * PART + 10
    assert world.open_uploads() == []


@pytest.mark.parametrize("operation", ["ListMultipartUploads", "ListParts", "GetObject", "AbortMultipartUpload"])
async def test_p10_a_call_that_is_reset_alone_is_no_outage(world: World, operation: str) -> None:
    """Each try of it held up all calls for a moment, three times a minute and for ever."""
    await interrupted(world)
    fail(world, operation, {"kind": Kind.RESET})
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            daemon.closed()
            await completed(world, seconds=2 * WAY_IN_SECONDS)
            world.append(PART)
            daemon.closed()
            await trio.sleep(1200)
    assert "outage_started" not in [entry["event"] for entry in logs]
    assert world.content() in world.recordings()


@pytest.mark.parametrize("how", FAILS)
async def test_a_recording_is_uploaded_where_the_bucket_is_neither_listed_nor_looked_at(
    world: World, how: dict[str, object]
) -> None:
    """HeadBucket decided whether S3 was down, so every recording waited."""
    fail(world, "ListMultipartUploads", how)
    fail(world, "HeadBucket", how)
    async with world.daemon() as daemon:
        world.append(2 * PART + 10)
        daemon.closed()
        await completed(world, seconds=600)
    assert world.recordings() == [world.content()]


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        ({"kind": Kind.RESET}, False),
        ({"kind": Kind.ERROR, "code": "InternalError"}, False),
        ({"kind": Kind.ERROR, "code": "MethodNotAllowed", "status": 405}, True),
        ({"kind": Kind.ERROR, "code": "NotImplemented", "status": 501}, True),
    ],
)
async def test_a_start_does_not_need_to_look_at_a_bucket_that_takes_writes(
    world: World, how: dict[str, object], ends: bool
) -> None:
    """It waited for ever without a word, or was refused."""
    fail(world, "HeadBucket", how)
    async with world.services() as services, trio.open_nursery() as nursery:
        nursery.start_soon(services.s3_breaker.run)
        with trio.fail_after(60), capture_logs() as logs:
            await check_reachable(services, create_bucket=False)
        assert "bucket_check_failed" in [entry["event"] for entry in logs]
        await trio.sleep(1)
        fail(world, "PutObject", how)
        if ends:
            with pytest.raises(RefusedAtStartError):
                await check_reachable(services, create_bucket=False)
        else:
            with trio.move_on_after(600) as waited:
                await check_reachable(services, create_bucket=False)
            assert waited.cancelled_caught
        assert services.s3_breaker.outage is not None, "what it waits for is told"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("head", "write", "why"),
    [
        ({"code": "MethodNotAllowed", "status": 405}, {"code": "InternalError"}, None),
        (
            {"code": "MethodNotAllowed", "status": 405},
            {"code": "InvalidAccessKeyId", "status": 403},
            "InvalidAccessKey",
        ),
        ({"code": "ServiceUnavailable", "status": 503}, {"code": "InvalidAccessKeyId", "status": 403}, "InvalidAccess"),
        ({"code": "ServiceUnavailable", "status": 503}, {"code": "InvalidRequest", "status": 400}, "InvalidRequest"),
    ],
)
async def test_where_head_tells_nothing_the_write_tells_whether_a_start_waits_or_ends_and_why(
    world: World, head: dict[str, object], write: dict[str, object], why: str | None
) -> None:
    """HEAD's error was judged: a write that a 503 refused ended the start, one that a wrong key refused did not."""
    fail(world, "HeadBucket", {"kind": Kind.ERROR, **head})
    fail(world, "PutObject", {"kind": Kind.ERROR, **write})
    async with world.services() as services, trio.open_nursery() as nursery:
        nursery.start_soon(services.s3_breaker.run)
        if why is not None:
            with trio.fail_after(120), pytest.raises(RefusedAtStartError, match=f"put_object.*{why}"):
                await check_reachable(services, create_bucket=False)
        else:
            with trio.move_on_after(30) as waited:
                await check_reachable(services, create_bucket=False)
            assert waited.cancelled_caught
            assert services.s3_breaker.outage is not None, "what it waits for is told"
            world.endpoint.faults.clear()
            with trio.fail_after(60):
                await check_reachable(services, create_bucket=False)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("create_bucket", [False, True])
async def test_a_start_waits_while_a_proxy_says_404_to_head_in_words_that_could_be_the_stores(
    world: World, create_bucket: bool
) -> None:
    """Envoy's 404 has no body and no content type; it ended the daemon, or had it create a bucket."""
    fail(world, "HeadBucket", {"kind": Kind.ERROR, "code": "NoSuchBucket", "status": 404})
    page = world.proxy.add(Rule(Interference.PAGE, "ListMultipartUploads", status=404, title="no healthy upstream"))
    async with world.services() as services, trio.open_nursery() as nursery:
        nursery.start_soon(services.s3_breaker.run)
        with trio.move_on_after(30) as waited:
            await check_reachable(services, create_bucket=create_bucket)
        assert waited.cancelled_caught
        assert world.endpoint.log.of("CreateBucket") == []
        world.proxy.remove(page)
        with trio.fail_after(60):
            await check_reachable(services, create_bucket=create_bucket)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "listing", [{"code": "NoSuchBucket", "status": 404}, {"code": "NotImplemented", "status": 501}]
)
async def test_a_start_ends_if_the_bucket_does_not_exist(world: World, listing: dict[str, object]) -> None:
    fail(world, "HeadBucket", {"kind": Kind.ERROR, "code": "NoSuchBucket", "status": 404})
    fail(world, "ListMultipartUploads", {"kind": Kind.ERROR, **listing})
    async with world.services() as services:
        with pytest.raises(RefusedAtStartError, match="NoSuchBucket"):
            await check_reachable(services, create_bucket=False)


async def test_a_start_does_not_wait_for_a_listing_that_would_explain_a_forbidden_head(world: World) -> None:
    fail(world, "HeadBucket", {"kind": Kind.ERROR, "code": "AccessDenied"})
    fail(world, "ListMultipartUploads", {"kind": Kind.ERROR, "code": "InternalError"})
    async with world.services() as services, trio.open_nursery() as nursery:
        nursery.start_soon(services.s3_breaker.run)
        with trio.fail_after(120):
            await check_reachable(services, create_bucket=False)
        nursery.cancel_scope.cancel()


async def test_while_an_optional_call_fails_one_task_retries_it_and_all_others_go_on(autojump_clock: MockClock) -> None:
    asked = 0

    async def call() -> None:
        nonlocal asked
        asked += 1
        await trio.sleep(1)
        raise S3OperationError("list_parts", "no", transient=True, status=500)

    async def reach() -> None:
        await trio.lowlevel.checkpoint()

    best_effort = BestEffort()

    async def attempt() -> None:
        await best_effort.attempt("list_parts", call, reach=reach)

    async def attempt_by_many() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(attempt)

    await attempt()
    assert asked == TRIES
    await attempt_by_many()
    assert asked == TRIES
    await trio.sleep(PAUSE_SECONDS)
    await attempt_by_many()
    assert asked == 2 * TRIES
    assert list(best_effort.failing) == ["list_parts"]


async def test_p6_a_call_that_fails_and_works_at_once_ends_not_the_task_that_tries_it_again(
    autojump_clock: MockClock,
) -> None:
    best_effort, works = BestEffort(), False

    async def call() -> bool:
        if not works:
            raise S3OperationError("list_parts", "no", transient=True, status=500)
        return True

    async def reach() -> None:
        await trio.lowlevel.checkpoint()

    async def call_while_another_fails() -> bool:
        return await best_effort.attempt("list_parts", call, reach=reach) is None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(best_effort.retry_failing, reach)
        await wait_all_tasks_blocked()
        assert await best_effort.attempt("list_parts", call_while_another_fails, reach=reach)
        assert not best_effort.failing
        assert await best_effort.attempt("list_parts", call, reach=reach) is None
        assert best_effort.failing
        works = True
        await trio.sleep(PAUSE_SECONDS + 1)
        assert not best_effort.failing
        nursery.cancel_scope.cancel()


class OtherOwners:
    """What other owners know, on a node of a cluster that does not work until some time."""

    def __init__(self, until: float) -> None:
        self._until = until

    async def known_elsewhere(self, stream_ids: Collection[str], *, mixed: bool) -> frozenset[str]:
        if trio.current_time() < self._until:
            raise RedisOperationError("known_elsewhere", "CLUSTERDOWN Hash slot not served", transient=True)
        return frozenset(sorted(stream_ids)[:1])


async def silent(operation: str, _moment: CallMoment) -> None:
    raise RedisOperationError(operation, "the server did not answer", transient=True)


async def test_kind8_what_other_owners_know_is_waited_for_as_long_as_a_failover_takes(world: World) -> None:
    """Their node of a cluster was dead: no new recording began, and every few seconds an outage of all began."""
    async with world.daemon() as daemon:
        for seconds, known in ((20, {"a"}), (inf, {"a", "b"})):
            began = trio.current_time()
            others = OtherOwners(began + seconds)
            services = replace(daemon.services, owners=others)  # type: ignore[arg-type]
            assert await services.known_elsewhere({"a", "b"}) == known
            assert trio.current_time() - began < WAY_IN_SECONDS
        world.store.fault = silent
        with pytest.raises(RedisOperationError):  # it is our own Redis that does not work
            await services.known_elsewhere({"a", "b"})
        world.store.fault = None
    assert "known_elsewhere" in REDIS_NOT_RETRIED, "such a failure is no outage"
