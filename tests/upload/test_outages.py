"""Kinds 6, 8 and 10: a policy that denies only the probe's key is no outage; a quota that takes the probe's few bytes
fails no recording; a recovered call is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from failing_calls import of_a_recording
from provoked_failures import ended
from structlog.testing import capture_logs
from waiting import completed

from cef_trio.checkpoint.states import Status
from cef_trio.lab.world import PART, World
from cef_trio.observability.at_risk import Reason
from cef_trio.resilience.best_effort import PAUSE_SECONDS
from cef_trio.s3_endpoint import CallInfo, Fault, Kind

PROBE = "cef-trio-probe"
WAYS = ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"]
"""The calls by which a recording is stored."""


def deny(world: World, operation: str, denied: Callable[[str], bool]) -> None:
    world.endpoint.faults.arm(
        Fault(Kind.ERROR, operation, code="AccessDenied", times=None, predicate=lambda call: denied(call.key or ""))
    )


async def test_p6_a_policy_that_denies_the_probes_key_alone_makes_no_outage_of_one_recordings_rejection(
    world: World,
) -> None:
    deny(world, "PutObject", lambda key: key.endswith(PROBE))
    deny(world, "UploadPart", lambda key: key.endswith("/refused.mp4"))
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            world.append(2 * PART, "refused.mp4")
            daemon.closed("refused.mp4")
            for number in range(3):
                world.append(2 * PART, f"{number}.mp4")
                daemon.closed(f"{number}.mp4")
            await ended(world, Status.FAILED_ACCESS_DENIED, "refused.mp4")
    events = [entry["event"] for entry in logs]
    assert "outage_started" not in events
    assert events.count("probe_key_refused") == 1
    assert len(world.recordings()) == 3
    statuses = {known.meta.current_path: known.meta.status for known in world.known()}
    assert statuses[world.path("refused.mp4")] is Status.FAILED_ACCESS_DENIED
    assert [key for key in world.objects() if PROBE in key] == [], "the trial leaves nothing"
    assert [key for key in world.open_uploads() if PROBE in str(key)] == []


@pytest.mark.parametrize("also", ["CreateMultipartUpload", "UploadPart"])
async def test_p6_what_is_denied_to_uploads_too_is_one_outage_and_passes(world: World, also: str) -> None:
    deny(world, "PutObject", lambda _: True)
    deny(world, also, lambda _: True)
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            world.append(2 * PART)
            daemon.closed()
            await trio.sleep(300)
            world.endpoint.faults.clear()
            await completed(world)
    events = [entry["event"] for entry in logs]
    assert "probe_key_refused" not in events
    assert "stream_failed" not in events
    assert world.recordings() == [world.content()]


@pytest.mark.parametrize("operation", WAYS)
async def test_p6_what_is_denied_to_one_way_of_uploading_alone_is_one_outage_and_passes(
    world: World, operation: str
) -> None:
    """The probe, or its trial at a recording's key, went the other way, which works: each recording failed for good."""
    deny(world, operation, lambda _: True)
    size = PART // 2 if operation == "PutObject" else 2 * PART
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            for number in range(3):
                world.append(size, f"{number}.mp4")
                daemon.closed(f"{number}.mp4")
            await trio.sleep(300)
            world.endpoint.faults.clear()
            await trio.sleep(30)
    assert "stream_failed" not in [entry["event"] for entry in logs]
    assert len(world.recordings()) == 3
    assert [key for key in world.objects() if PROBE in key] == []
    assert [key for key in world.open_uploads() if PROBE in str(key)] == []


@pytest.mark.parametrize("operation", ["*", *WAYS])
async def test_p6_what_is_denied_for_seconds_to_the_keys_of_all_recordings_fails_none(
    world: World, operation: str
) -> None:
    """The probe's key was accepted, so each rejection was its recording's own, and final within two seconds."""
    size = PART // 2 if operation == "PutObject" else 2 * PART
    names = [f"{number}.mp4" for number in range(6)]
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            deny(world, operation, lambda key: not key.endswith(PROBE))
            for name in names:
                world.append(size, name)
                daemon.closed(name)
            await trio.sleep(8)
            world.endpoint.faults.clear()
            await completed(world, seconds=60)
    events = [entry["event"] for entry in logs]
    assert "stream_failed" not in events
    assert events.count("outage_started") <= 1
    assert sorted(world.recordings()) == sorted(world.content(name) for name in names)
    assert [key for key in world.open_uploads() if PROBE in str(key)] == []


@pytest.mark.parametrize("operation", ["UploadPart", "CompleteMultipartUpload", "PutObject"])
async def test_p6_what_is_denied_to_one_recording_alone_fails_it_within_two_minutes_and_holds_up_no_other(
    world: World, operation: str
) -> None:
    size = PART // 2 if operation == "PutObject" else 6 * PART
    deny(world, operation, lambda key: key.endswith("/refused.mp4"))
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            for name in ("refused.mp4", "a.mp4"):
                world.append(size, name)
                daemon.closed(name)
            await trio.sleep(5)
            assert world.recordings() == [world.content("a.mp4")]
            refused = next(one for one in world.known() if one.meta.current_path == world.path("refused.mp4"))
            assert refused.meta.status is Status.RETRYING
            assert "AccessDenied" in (refused.meta.failure_reason or "")
            failed = await ended(world, Status.FAILED_ACCESS_DENIED, "refused.mp4")
            assert 60 < trio.current_time() < 120
    assert "the same answer" in (failed.meta.failure_reason or "")
    assert "outage_started" not in [entry["event"] for entry in logs]


@pytest.mark.parametrize("how", [{"kind": Kind.RESET}, {"kind": Kind.ERROR, "code": "ServiceUnavailable"}])
async def test_p10_parts_that_get_no_response_are_one_outage_and_go_on_seconds_after_it(
    world: World, how: dict[str, Any]
) -> None:
    world.endpoint.faults.arm(Fault(operation="UploadPart", times=None, **how))
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            for number in range(10):
                world.append(2 * PART + 10, f"{number}.mp4")
                daemon.closed(f"{number}.mp4")
            await trio.sleep(600)
            assert [entry["event"] for entry in logs].count("outage_started") == 1
            assert not daemon.services.s3_breaker.up.value
            world.endpoint.faults.clear()
            await completed(world, seconds=10)
    assert len(world.recordings()) == 10
    assert [key for key in world.open_uploads() if PROBE in str(key)] == []


@pytest.mark.parametrize(
    ("operation", "code", "status"),
    [
        ("UploadPart", "QuotaExceeded", 403),
        ("UploadPart", "XMinioAdminBucketQuotaExceeded", 400),
        ("UploadPart", "XMinioStorageFull", 507),
        ("CompleteMultipartUpload", "QuotaOfSomeStore", 403),
        ("PutObject", "QuotaExceeded", 403),
        ("UploadPart", "EntityTooLarge", 400),
        ("UploadPart", "EntityTooLarge", 413),
        ("CompleteMultipartUpload", "EntityTooLarge", 400),
        ("PutObject", "EntityTooLarge", 413),
        ("UploadPart", "Insufficient Storage", 507),
    ],
)
async def test_p6_a_quota_with_room_for_the_probes_few_bytes_fails_no_recording_and_is_told(
    world: World, operation: str, code: str, status: int
) -> None:
    """Quotas count sizes, so the probe was accepted; each recording failed for good within seconds."""
    world.endpoint.faults.arm(
        Fault(Kind.ERROR, operation, code=code, status=status, times=None, predicate=of_a_recording)
    )
    size = PART // 2 if operation == "PutObject" else 2 * PART
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            for number in range(2):
                world.append(size, f"{number}.mp4")
                daemon.closed(f"{number}.mp4")
            await trio.sleep(120)
            assert {known.meta.status for known in world.known()} == {Status.RETRYING}
            (risk,) = daemon.at_risk
            assert (risk.reason, risk.size_bytes, risk.recordings) == (Reason.NOT_MOVING, 2 * size, 2)
            assert code in risk.why
            assert "continue by themselves" in risk.why, "the hint of s3/errors.py"
            world.endpoint.faults.clear()
            await completed(world)
    assert {"stream_failed", "outage_started"}.isdisjoint(entry["event"] for entry in logs)
    assert sorted(world.recordings()) == sorted(world.content(f"{number}.mp4") for number in range(2))


def refuse_and_abort(world: World, *, probes: bool) -> None:
    """As Garage, whose parts need no room: the completion is refused, and aborts the upload."""

    def refused(call: CallInfo) -> bool:
        if (call.key or "").endswith(".mp4"):
            return world.endpoint.model._uploads.pop(call.upload_id or "", None) is not None
        return probes

    fault = Fault(Kind.ERROR, "CompleteMultipartUpload", code="QuotaExceeded", status=403, times=None)
    world.endpoint.faults.arm(replace(fault, predicate=refused))


def rounds_of(world: World, size_bytes: int) -> float:
    """How often all bytes of the recordings were sent."""
    received = world.endpoint.log.received_bytes
    return sum(count for (key, _), count in received.items() if key.endswith(".mp4") and PROBE not in key) / size_bytes


@pytest.mark.parametrize("lists", [True, False])
async def test_p6_a_quota_that_has_the_upload_aborted_does_not_have_all_sent_again_and_again(
    world: World, lists: bool
) -> None:
    """All bytes were sent again at once, without a pause, and the sixth time the recording failed for good."""
    refuse_and_abort(world, probes=False)
    if not lists:
        world.endpoint.faults.arm(Fault(Kind.ERROR, "ListParts", code="NotImplemented", status=501, times=None))
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            world.append(3 * PART)
            daemon.closed()
            await trio.sleep(1200)
            assert [known.meta.status for known in world.known()] == [Status.RETRYING]
            (risk,) = daemon.at_risk
            assert (risk.reason, risk.size_bytes) == (Reason.NOT_MOVING, 3 * PART)
            assert "QuotaExceeded" in risk.why
            assert rounds_of(world, 3 * PART) == 3, "after 300 seconds, the longest pause of a stream, and 600 more"
            world.endpoint.faults.clear()
            await completed(world, seconds=1000)  # the next pause is of 1200
    assert {"stream_failed", "outage_started"}.isdisjoint(entry["event"] for entry in logs)
    assert world.recordings() == [world.content()]
    assert world.open_uploads() == []


async def test_p6_an_upload_that_is_lost_long_after_a_quota_refused_it_is_sent_again_at_once(world: World) -> None:
    """The store keeps an upload whose completion a quota refuses, and the recording goes on."""
    refused = Fault(Kind.ERROR, "CompleteMultipartUpload", code="QuotaExceeded", status=403, times=None)
    world.endpoint.faults.arm(replace(refused, predicate=lambda call: PROBE not in (call.key or "")))
    world.stream_timeout_seconds = 1e6
    async with world.daemon() as daemon:
        world.append(3 * PART)
        daemon.closed()
        await trio.sleep(3)
        world.endpoint.faults.clear()
        world.append(2 * PART)
        daemon.seen()
        await trio.sleep(300)
        assert rounds_of(world, 5 * PART) == 1
        world.endpoint.model._uploads.clear()
        world.append(2 * PART)
        daemon.closed()
        (checkpoint,) = await completed(world, seconds=60)
    assert checkpoint.meta.uploads_restarted == 1
    assert world.recordings() == [world.content()]


async def test_p6_after_a_quota_without_any_room_the_recording_is_sent_as_soon_as_the_outage_is_over(
    world: World,
) -> None:
    refuse_and_abort(world, probes=True)
    async with world.daemon() as daemon:
        world.append(3 * PART)
        daemon.closed()
        await trio.sleep(600)
        assert rounds_of(world, 3 * PART) == 1
        assert [risk.reason for risk in daemon.at_risk] == [Reason.S3_DOWN]
        world.endpoint.faults.clear()
        await completed(world, seconds=30)
    assert world.recordings() == [world.content()]


@pytest.mark.parametrize("operation", ["ListMultipartUploads", "ListParts"])
async def test_p10_an_optional_call_that_works_again_is_known_to_without_a_need_for_it(
    world: World, operation: str
) -> None:
    world.append(PART)
    async with world.daemon():
        await trio.sleep(1)
    world.endpoint.faults.arm(Fault(Kind.ERROR, operation, code="InternalError", times=None))
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            await trio.sleep(5)
            world.append(PART)
            daemon.closed()
            await completed(world, seconds=200)

            def failing() -> float | None:
                return daemon.services.metrics.registry.get_sample_value("cef_trio_optional_calls_failing")

            await trio.sleep(3 * PAUSE_SECONDS)
            assert failing() == 1
            world.endpoint.faults.clear()
            await trio.sleep(2 * PAUSE_SECONDS)
            assert failing() == 0
    assert [entry["event"] for entry in logs].count("optional_call_failing") == 1, "the same error is logged once"
