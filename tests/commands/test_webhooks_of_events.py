"""Starts and failures are announced at least once, in the step that records them; a retry that fails is another one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from provoked_failures import of_recording
from structlog.typing import EventDict
from waiting import completed, until, until_idle

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.states import SENTENCES, FailureReason, Status
from cef_trio.cli.retry import retry_stream
from cef_trio.cli.session import CommandContext
from cef_trio.lab.world import BUCKET, PART, World
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload.webhook_events import HINTS, stream_of

HOUR = 3600.0


@pytest.fixture
def world(world: World) -> World:
    world.webhooks_of_events = True
    return world


def received(world: World, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """The ids and documents of a kind that the receiver accepted."""
    found = [(one.headers["webhook-id"], json.loads(one.body)) for one in world.receiver.received if one.status == 204]
    return [(name, document) for name, document in found if document["type"] == kind]


async def delivered(world: World) -> None:
    async def nothing_is_pending() -> bool:
        return not await world.store.pending_events()

    await until(nothing_is_pending, 2 * HOUR)


async def test_a_start_is_announced_before_the_recording_ends_and_signed(world: World) -> None:
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.seen()
        await trio.sleep(5)
        (live,) = await world.checkpoints()
        [(name, document)] = received(world, "stream.started")
        assert name == f"started_{live.meta.stream_id}"
        assert document["data"]["file_path"] == world.path()
        assert (document["data"]["s3_bucket"], document["data"]["s3_key"]) == (BUCKET, live.meta.s3_key_prefix)
        assert world.receiver.received[0].headers["webhook-signature"].startswith("v1,")
        daemon.closed()
        await completed(world)
    assert len(world.receiver.received) == 1  # nothing failed, and completions have a webhook of their own


async def test_a_failure_says_why_and_what_to_do_and_each_failure_is_its_own(
    world: World, context: CommandContext
) -> None:
    fault = Fault(Kind.ERROR, "CompleteMultipartUpload", code="AccessDenied", times=None, predicate=of_recording())
    world.endpoint.faults.arm(fault)
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.closed()
        (failed,) = await until_idle(world, Status.FAILED_ACCESS_DENIED)
        await delivered(world)
        assert (await retry_stream(context, failed.meta.stream_id)).way is not None
        await trio.sleep(10)
        await until_idle(world, Status.FAILED_ACCESS_DENIED)
        await delivered(world)
    [(first, document), (second, _)] = received(world, "stream.failed")
    assert first != second
    assert stream_of(first) == stream_of(second) == ("failed", failed.meta.stream_id)
    data = document["data"]
    assert (data["reason"], data["sentence"]) == ("access_denied", SENTENCES[FailureReason.ACCESS_DENIED])
    assert "complete_multipart_upload" in data["error"]
    assert f"`cef-trio retry {failed.meta.stream_id}`" in data["hint"]
    assert (data["file_path"], data["s3_key"]) == (world.path(), failed.meta.s3_key_prefix)


async def test_a_crash_after_the_record_loses_no_announcement(world: World) -> None:
    world.receiver.statuses.extend([0] * 3)
    world.append(2 * PART)
    async with world.killed_daemon() as daemon:
        daemon.seen()
        await trio.sleep(2)
        world.life.end()
    assert len(await world.store.pending_events()) == 1
    async with world.daemon():
        await delivered(world)
    assert len(received(world, "stream.started")) == 1


async def test_a_receiver_that_never_accepts_is_given_up_after_its_time(world: World, logged: list[EventDict]) -> None:
    world.receiver.statuses.extend([503] * 1000)
    world.webhook_retry_seconds = HOUR
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
        await trio.sleep(2 * HOUR)
        assert await world.store.pending_events() == frozenset()
    (event,) = [entry for entry in logged if entry["event"] == "webhook_given_up"]
    assert event["stream_id"]


async def test_p6_an_outbox_that_is_full_of_starts_is_told_and_takes_a_failure(
    world: World, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_STARTS", 1)
    monkeypatch.setattr(rules, "MAX_EVENTS", 3)
    world.receiver.statuses.extend([503] * 1000)
    fault = Fault(Kind.ERROR, "CompleteMultipartUpload", code="AccessDenied", times=None, predicate=of_recording())
    world.endpoint.faults.arm(fault)
    world.append(2 * PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await until_idle(world, Status.FAILED_ACCESS_DENIED)
        pending = await world.store.pending_events()
    assert sorted(stream_of(one)[0] for one in pending) == ["failed", "started"]
    assert "webhook_events_full" in [entry["event"] for entry in logged]


async def test_without_receivers_nothing_is_recorded(world: World) -> None:
    world.webhooks_of_events = False
    world.append(PART)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert await world.store.pending_events() == frozenset()


def test_each_failure_has_a_hint() -> None:
    assert set(HINTS) == set(FailureReason)
