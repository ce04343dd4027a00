"""A retry must change something (kind 7; P2, P6): an error code is acted upon, not repeated for ever."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from provoked_failures import ended
from structlog.testing import capture_logs
from thoroughness import only_long
from waiting import completed

from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import ChunkProcessingError, S3OperationError
from cef_trio.lab.proxy import Interference, Rule
from cef_trio.lab.world import PART, PROBE, World, WorldDaemon
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.s3_endpoint.faults import CallInfo
from cef_trio.upload.repeated_errors import (
    DOUBTED_COMPLETIONS,
    MAX_DEFINITE,
    MAX_REJECTED,
    MAX_TRANSIENT,
    RepeatedErrors,
)

NAME = "camera.mp4"


def answer(code: str, *, transient: bool = False, part: int | None = None, rejected: bool = False) -> S3OperationError:
    error = S3OperationError("upload_part", code, code=code, transient=transient, part_number=part)
    error.rejected = rejected
    return error


def calls(world: World, operation: str) -> int:
    """How many calls of an operation there were, other than the probe's."""
    return sum(PROBE not in (call.key or "") for call in world.endpoint.log.of(operation))


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (answer("InvalidPart"), MAX_DEFINITE),
        (answer("NoSuchUpload"), MAX_DEFINITE),
        (answer("AccessDenied", rejected=True), MAX_REJECTED),
        (answer("BadDigest", transient=True), MAX_TRANSIENT),
        (answer("UnreadableAnswer", transient=True), MAX_TRANSIENT),
        (answer("ChecksumMismatch", transient=True), MAX_TRANSIENT),
        (answer("RequestTimeTooSkewed", transient=True), MAX_TRANSIENT),
    ],
)
def test_the_same_error_of_the_same_call_has_a_limit_and_a_hint(error: S3OperationError, limit: int) -> None:
    answers = RepeatedErrors()
    said = [answers.count(error, ("u",)) for _ in range(limit)]
    assert said[:-1] == [None] * (limit - 1)
    assert f"the same answer {limit} times" in (said[-1] or "")


@pytest.mark.parametrize(
    "error",
    [
        answer("SlowDown", transient=True),
        answer("NotS3Answer", transient=True),
        answer("ConnectError", transient=True),
        answer("AccessDenied"),
        answer("AccessDenied", transient=True, rejected=True),
        ChunkProcessingError("the disk", transient=True),
    ],
)
def test_outages_and_others_have_their_own_ends(error: Exception) -> None:
    answers = RepeatedErrors()
    assert {answers.count(error, ()) for _ in range(1000)} == {None}  # type: ignore[arg-type]


def test_another_part_upload_or_file_is_counted_separately() -> None:
    answers = RepeatedErrors()
    assert all(answers.count(answer("InvalidPart"), (upload,)) is None for upload in range(1000))
    assert all(answers.count(answer("BadDigest", transient=True, part=part), ()) is None for part in range(1000))


def test_transient_errors_are_reset_by_progress_and_definite_rejections_are_not() -> None:
    answers = RepeatedErrors()
    for _ in range(MAX_DEFINITE - 1):
        answers.count(answer("InvalidPart"), ())
        answers.count(answer("BadDigest", transient=True), ())
    answers.progressed()
    assert not answers._transient
    assert answers.count(answer("InvalidPart"), ()) is not None


def test_a_rejection_is_final_in_time_whichever_of_the_parts_in_flight_is_the_first() -> None:
    answers = RepeatedErrors()
    said = [answers.count(answer("AccessDenied", rejected=True, part=turn % 4), ()) for turn in range(MAX_REJECTED)]
    assert [one is None for one in said] == [True] * (MAX_REJECTED - 1) + [False]


def test_a_rejection_of_one_part_is_final_though_the_others_get_through_and_no_sum_of_several_parts_is() -> None:
    answers, denied = RepeatedErrors(), answer("AccessDenied", rejected=True, part=3)
    for part in range(10, 1000):
        assert answers.count(answer("AccessDenied", rejected=True, part=part), ()) is None
        answers.progressed()
    for _ in range(MAX_REJECTED - 1):
        assert answers.count(denied, ()) is None
        answers.progressed()
    assert answers.count(denied, ()) is not None


async def test_p2_an_acknowledged_part_that_the_store_lost_is_sent_again_and_no_other(world: World) -> None:
    """Complete returned InvalidPart and was repeated for ever."""
    world.append(5 * PART, NAME)
    async with world.daemon() as daemon:
        daemon.seen(NAME)
        await trio.sleep(5)
        (upload,) = world.endpoint.model._uploads.values()
        sent = calls(world, "UploadPart")
        lost = upload.parts.pop(2)
        world.endpoint.model.storage.remove_blob(lost.blob)
        daemon.closed(NAME)
        await ended(world, Status.COMPLETED, NAME)
    assert world.recordings() == [world.content(NAME)]
    assert calls(world, "UploadPart") == sent + 1
    assert calls(world, "CompleteMultipartUpload") == 2
    assert calls(world, "CreateMultipartUpload") == 1


@pytest.mark.parametrize(
    "refusal",
    [
        ("CompleteMultipartUpload", "InvalidPart", Status.FAILED_FINALIZATION, MAX_DEFINITE),
        ("CompleteMultipartUpload", "NoSuchUpload", Status.FAILED_FINALIZATION, MAX_DEFINITE),
        ("UploadPart", "NoSuchUpload", Status.FAILED_S3_UPLOAD, 100),
        ("UploadPart", "BadDigest", Status.FAILED_S3_UPLOAD, 1000),
        pytest.param(
            ("UploadPart", "RequestTimeTooSkewed", Status.FAILED_S3_UPLOAD, 1000), marks=only_long("as BadDigest")
        ),
        ("CompleteMultipartUpload", "BadDigest", Status.FAILED_FINALIZATION, 1000),
    ],
)
async def test_p6_a_store_that_repeats_an_error_for_ever_ends_in_a_failure_with_its_code(
    world: World, refusal: tuple[str, str, Status, int]
) -> None:
    operation, code, status, most = refusal
    world.append(3 * PART, NAME)
    world.append(PART, "good.mp4")

    def of_it(call: CallInfo) -> bool:
        return bool(call.key) and str(call.key).endswith(f"/{NAME}")

    armed = world.endpoint.faults.arm(Fault(Kind.ERROR, operation, code=code, times=None, predicate=of_it))
    async with world.daemon() as daemon:
        daemon.closed(NAME)
        daemon.closed("good.mp4")
        with trio.fail_after(24 * 3600):
            while not (failed := [one for one in world.known() if one.meta.status is status]):  # noqa: ASYNC110
                await trio.sleep(10)
        await ended(world, Status.COMPLETED, "good.mp4")
    reason = failed[0].meta.failure_reason or ""
    assert code in reason
    assert "the same answer" in reason
    if code == "InvalidPart":
        assert "S3_EQUAL_PARTS" in reason
    assert armed.hits <= most


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "yesterday"])
async def test_p6_a_wrong_clock_that_the_store_finds_in_parts_alone_passes(world: World, date: str) -> None:
    """The probe is accepted, so it is no outage; no Date header allows a clock correction."""
    body = "<Error><Code>RequestTimeTooSkewed</Code></Error>"
    rule = world.proxy.add(Rule(Interference.ANSWER, "UploadPart", status=403, headers={"date": date}, body=body))
    world.append(3 * PART, NAME)
    async with world.daemon() as daemon:
        daemon.closed(NAME)
        await trio.sleep(600)
        assert rule.hits > MAX_DEFINITE
        assert not any(one.meta.status.startswith("failed") for one in world.known())
        world.proxy.remove(rule)
        await ended(world, Status.COMPLETED, NAME)
    assert world.recordings() == [world.content(NAME)]


async def _complete_fails(world: World, daemon: WorldDaemon, how: dict[str, Any], *, lost: int | None = None) -> None:
    """Let a recording end whose completions fail, of its first upload alone if ``lost`` is a part that S3 lost."""
    world.append(3 * PART + 10, NAME)
    daemon.seen(NAME)
    await trio.sleep(3)
    (upload_id,) = world.endpoint.model._uploads
    upload = world.endpoint.model._uploads[upload_id]
    if lost is not None:
        world.endpoint.model.storage.remove_blob(upload.parts.pop(lost).blob)

    def of_it(call: CallInfo) -> bool:
        return call.upload_id == upload_id and (lost is None or lost not in upload.parts)

    world.endpoint.faults.arm(Fault(operation="CompleteMultipartUpload", times=None, predicate=of_it, **how))
    daemon.closed(NAME)


SERVER_ERRORS = [
    pytest.param({"kind": Kind.ERROR, "code": "InternalError"}, id="500"),
    pytest.param({"kind": Kind.ERROR, "code": "SlowDownRead", "status": 503}, id="no read quorum"),
    pytest.param({"kind": Kind.ERROR_IN_200, "code": "InternalError"}, id="error in a 200"),
]


@pytest.mark.parametrize("how", SERVER_ERRORS)
async def test_p2_a_part_that_the_store_lost_is_sent_again_though_it_says_so_by_a_server_error(
    world: World, how: dict[str, Any]
) -> None:
    """MinIO without its read quorum; Complete was repeated for ever."""
    with capture_logs() as logs:
        async with world.daemon() as daemon:
            await _complete_fails(world, daemon, how, lost=2)
            await ended(world, Status.COMPLETED, NAME)
    assert world.recordings() == [world.content(NAME)]
    assert calls(world, "CreateMultipartUpload") == 1
    assert world.received_bytes() == 4 * PART + 10, "no other part is sent again"
    (said,) = [line for line in logs if line["event"] == "completion_failing"]
    assert (said["times"], said["key"]) == (DOUBTED_COMPLETIONS, world.known()[0].meta.s3_key_prefix)


@pytest.mark.parametrize("lists_parts", [True, False])
async def test_p6_an_upload_that_is_never_completed_is_begun_again(world: World, *, lists_parts: bool) -> None:
    """Each part is listed, or none can be: nothing but another upload is left to try."""
    if not lists_parts:
        world.endpoint.faults.arm(Fault(Kind.ERROR, "ListParts", code="InternalError", times=None))
    async with world.daemon() as daemon:
        await _complete_fails(world, daemon, {"kind": Kind.ERROR, "code": "InternalError"})
        await trio.sleep(1800)
        (stream,) = world.known()
        assert (stream.meta.status, stream.meta.uploads_restarted) == (Status.RETRYING, 0)
        assert world.received_bytes() == 3 * PART + 10
        (checkpoint,) = await completed(world, seconds=7200)
    assert checkpoint.meta.uploads_restarted == 1
    assert world.recordings() == [world.content(NAME)]
    assert world.open_uploads() == []


async def test_p6_an_upload_that_is_never_completed_nor_aborted_is_not_found_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The creation of the next one fails at first, so the stream resumes without one, and S3 lists the left one."""
    monkeypatch.setattr("cef_trio.upload.processor.LOST_COMPLETIONS", DOUBTED_COMPLETIONS + 1)

    def of_a_recording(call: CallInfo) -> bool:
        return PROBE not in (call.key or "")

    with capture_logs() as logs:
        async with world.daemon() as daemon:
            await _complete_fails(world, daemon, {"kind": Kind.ERROR, "code": "InternalError"})
            (left,) = world.endpoint.model._uploads
            for operation, times in (("AbortMultipartUpload", None), ("CreateMultipartUpload", 3)):
                fault = Fault(Kind.ERROR, operation, code="InternalError", times=times, predicate=of_a_recording)
                world.endpoint.faults.arm(fault)
            (checkpoint,) = await completed(world, seconds=600)
            assert left in world.endpoint.model._uploads
    assert checkpoint.meta.uploads_restarted == 1
    assert world.recordings() == [world.content(NAME)]
    assert "parts_adopted" not in [line["event"] for line in logs]


async def test_p6_a_store_that_completes_nothing_fails_no_stream_and_gets_the_bytes_ever_more_seldom(
    world: World,
) -> None:
    """The probe's upload is completed, so it is no outage."""

    def of_a_recording(call: CallInfo) -> bool:
        return str(call.key).endswith(f"/{NAME}")

    armed = world.endpoint.faults.arm(
        Fault(Kind.ERROR, "CompleteMultipartUpload", code="InternalError", times=None, predicate=of_a_recording)
    )
    world.append(PART + 10, NAME)
    async with world.daemon() as daemon:
        daemon.closed(NAME)
        await trio.sleep(5 * 3600)
        (stream,) = world.known()
        assert stream.meta.status is Status.RETRYING
        assert "InternalError" in (stream.meta.failure_reason or "")
        assert stream.meta.uploads_restarted == 2  # after more than an hour, and more than two after that
        assert world.received_bytes() == 3 * (PART + 10)
        world.endpoint.faults.disarm(armed)
        await ended(world, Status.COMPLETED, NAME)
    assert world.recordings() == [world.content(NAME)]


async def test_completions_that_an_outage_or_a_quota_fails_make_nothing_doubtful(world: World) -> None:
    """They say themselves what to wait for."""
    answers = RepeatedErrors()
    quota = S3OperationError("complete_multipart_upload", "quota", code="QuotaExceeded", transient=True, status=403)
    quota.over_quota = quota.rejected = True
    assert answers.count_completion(quota, ()) == 0
    assert answers.count_completion(answer("InternalError", transient=True), ()) == 0, "of another call"
    async with world.daemon() as daemon:
        world.append(3 * PART + 10, NAME)
        daemon.seen(NAME)
        await trio.sleep(3)
        down = world.endpoint.faults.arm(Fault(Kind.ERROR, code="InternalError", times=None))
        daemon.closed(NAME)
        await trio.sleep(900)
        world.endpoint.faults.disarm(down)
        (checkpoint,) = await completed(world)
    assert checkpoint.meta.uploads_restarted == 0
    assert world.received_bytes() == 3 * PART + 10
    garbage = S3OperationError("complete_multipart_upload", "?", code="UnknownOutcome", transient=True, status=200)
    assert answers.count_completion(garbage, ()) == 1, "the store answers, and does not say what it did"
