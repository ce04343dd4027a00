"""Each completed recording is announced at least once, however the daemon ends, and no stream waits for it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict
from waiting import completed

from cef_trio.checkpoint.model import Lease, StreamMeta
from cef_trio.checkpoint.redis.keys import job_lock_name
from cef_trio.lab.receiver import Received
from cef_trio.lab.world import BUCKET, PART, WEBHOOK_SECRET, World
from cef_trio.postprocess.retention import Retention
from cef_trio.postprocess.webhook_sources import Completions
from cef_trio.s3_endpoint import Fault, Kind, Moment
from cef_trio.upload.object_key import metadata_key

HOUR = 3600.0


@pytest.fixture
def world(world: World) -> World:
    world.webhook = True
    return world


async def settled(world: World, seconds: float = 2 * HOUR) -> None:
    """Wait until no webhook is pending."""
    await completed(world)
    with trio.fail_after(seconds):
        while True:
            if not world.pending_webhooks:
                return
            await trio.sleep(0.1)


def events(logged: list[EventDict], event: str) -> list[EventDict]:
    return [entry for entry in logged if entry["event"] == event]


def statuses(world: World) -> list[int]:
    return [one.status for one in world.receiver.received]


def assert_signed(received: Received) -> None:
    """Check the signature as a receiver does, with the secret only."""
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode() + received.body
    key = base64.b64decode(WEBHOOK_SECRET.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert received.headers["webhook-signature"] == f"v1,{digest}"


async def record_one(world: World, size_bytes: int = PART + 5, name: str = "a.mp4") -> None:
    """Complete a recording with a daemon that is then stopped, so that its webhook is still pending."""
    world.receiver.statuses.append(0)
    world.append(size_bytes, name)
    async with world.daemon() as daemon:
        daemon.closed(name)
        await completed(world)
    assert len(world.pending_webhooks) == 1


async def test_the_metadata_is_delivered_byte_for_byte_and_signed(world: World, logged: list[EventDict]) -> None:
    world.append(PART + 5)
    async with world.daemon() as daemon:
        daemon.closed()
        await settled(world)
        (checkpoint,) = world.known()
        (received,) = world.receiver.received
        assert received.body == world.objects()[metadata_key(checkpoint.meta.s3_key_prefix)]
        assert json.loads(received.body)["stream_id"] == received.stream_id == checkpoint.meta.stream_id
        assert received.headers["webhook-id"] == f"completed_{checkpoint.meta.stream_id}"
        assert_signed(received)
        await trio.sleep(HOUR)
    assert len(world.receiver.received) == 1
    assert [event["status"] for event in events(logged, "webhook_delivered")] == [204]


async def test_without_a_url_no_webhook_is_pending(world: World) -> None:
    world.webhook = False
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await completed(world)
    assert world.pending_webhooks == frozenset()


async def test_a_failed_delivery_is_repeated_with_growing_pauses_and_the_same_id(
    world: World, logged: list[EventDict]
) -> None:
    world.receiver.statuses.extend([500, 503, 408, 302, 429, 425])
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await settled(world)
    assert statuses(world) == [500, 503, 408, 302, 429, 425, 204]
    assert len({one.headers["webhook-id"] for one in world.receiver.received}) == 1
    times = [int(one.headers["webhook-timestamp"]) for one in world.receiver.received]
    assert times == sorted(set(times)), "each attempt has a time of its own"
    for received in world.receiver.received:
        assert_signed(received)
    waits = [event["wait_seconds"] for event in events(logged, "webhook_retrying")]
    assert [5 * 2**n / 2 <= wait <= 5 * 2**n for n, wait in enumerate(waits)] == [True] * 6


async def test_retry_after_is_honoured(world: World) -> None:
    world.receiver.statuses.append(503)
    world.receiver.retry_after = "200"
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await settled(world)
    first, second = (int(one.headers["webhook-timestamp"]) for one in world.receiver.received)
    assert 200 <= second - first <= 202


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
async def test_a_rejection_is_final_and_logged_once(world: World, logged: list[EventDict], status: int) -> None:
    world.receiver.statuses.append(status)
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await settled(world)
        await trio.sleep(HOUR)
    assert statuses(world) == [status]
    (event,) = events(logged, "webhook_refused")
    assert event["status"] == status


async def test_a_delivery_is_abandoned_after_the_configured_hours(world: World, logged: list[EventDict]) -> None:
    world.webhook_retry_seconds = HOUR
    world.receiver.statuses.extend([500] * 1000)
    world.append(10)
    async with world.daemon() as daemon:
        daemon.closed()
        await settled(world)
    assert 60 * 60 <= trio.current_time() <= 60 * 60 + 900 + 60
    assert len(events(logged, "webhook_given_up")) == 1
    assert 8 <= len(world.receiver.received) <= 20


async def test_a_delivery_that_expired_while_no_daemon_ran_is_tried_once_more(world: World) -> None:
    world.webhook_retry_seconds = HOUR
    await record_one(world)
    await trio.sleep(50 * HOUR)
    async with world.daemon():
        await settled(world)
    assert statuses(world)[-1] == 204


async def test_p3_a_pending_webhook_is_delivered_by_the_next_daemon(world: World) -> None:
    await record_one(world)
    async with world.daemon():
        await settled(world)
    assert statuses(world) == [0, 204]


async def test_a_stream_never_waits_for_its_webhook(world: World) -> None:
    world.receiver.statuses.extend([0] * 1000)
    async with world.daemon() as daemon:
        for number in range(5):
            world.append(10, f"{number}.mp4")
            daemon.closed(f"{number}.mp4")
        await trio.sleep(5)
        assert len(await completed(world)) == 5
        left_at = trio.current_time()
    assert trio.current_time() - left_at < 1, "the exit does not wait for it either"
    assert len(world.pending_webhooks) == 5


async def test_a_silent_receiver_is_not_flooded_with_all_pending_webhooks(world: World) -> None:
    """One pause for all: with 40 pending webhooks the receiver gets as many attempts as with one."""
    for number in range(40):
        world.append(1, f"{number}.mp4")
    world.receiver.statuses.extend([0] * 10_000)
    async with world.daemon() as daemon:
        for number in range(40):
            daemon.closed(f"{number}.mp4")
        assert len(await completed(world)) == 40
        await trio.sleep(HOUR)
        asked = len(world.receiver.received)
        assert asked < 4 * 20  # four at once, in so many growing rounds
        world.receiver.statuses.clear()
        await settled(world)
    delivered = [one.stream_id for one in world.receiver.received if one.status == 204]
    assert sorted(delivered) == sorted(checkpoint.meta.stream_id for checkpoint in world.known())


async def test_a_delivery_that_the_receiver_rejects_delays_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    respond = world.receiver.respond

    async def choke(request):  # type: ignore[no-untyped-def]
        if b'"total_size_bytes": 1,' in await request.aread():
            await trio.sleep_forever()
        return await respond(request)

    monkeypatch.setattr(world.receiver, "respond", choke)
    world.append(1, "0.mp4")
    async with world.daemon() as daemon:
        daemon.closed("0.mp4")
        await completed(world)
        await trio.sleep(60)
        for number in range(1, 8):
            world.append(10, f"{number}.mp4")
            daemon.closed(f"{number}.mp4")
        await trio.sleep(20 * 60)
        assert len(world.pending_webhooks) == 1
    assert len(world.receiver.received) == 7


async def test_webhooks_of_another_daemons_streams_are_not_delivered(world: World, tmp_path: Path) -> None:
    await record_one(world)
    another = tmp_path / "another"
    another.mkdir()
    world.host = replace(world.host, folder=another, seen_as=another)
    async with world.daemon():
        await trio.sleep(HOUR)
    assert statuses(world) == [0]
    assert len(world.pending_webhooks) == 1


async def test_two_daemons_on_one_folder_deliver_once(world: World) -> None:
    await record_one(world)
    (stream_id,) = world.pending_webhooks
    other, name = Lease("another", "1", 100.0), job_lock_name(stream_id, "webhook")
    await trio.sleep(31)  # our own claim has run out
    assert await world.store.acquire(name, other)
    async with world.daemon():
        await trio.sleep(90)
        assert statuses(world) == [0]
        await settled(world)
    assert statuses(world) == [0, 204]


async def test_a_webhook_whose_metadata_s3_denies_for_a_while_is_delivered(
    world: World, logged: list[EventDict]
) -> None:
    """A stale replica, or a cache: the first NoSuchKey ended the delivery."""
    await record_one(world)
    denied = world.endpoint.faults.arm(Fault(Kind.ERROR, "GetObject", code="NoSuchKey", times=None))
    async with world.daemon():
        await trio.sleep(600)
        assert world.pending_webhooks
        world.endpoint.faults.disarm(denied)
        await settled(world)
    assert statuses(world) == [0, 204]
    assert "NoSuchKey" in events(logged, "webhook_retrying")[-1]["error"]


async def test_a_webhook_whose_metadata_is_gone_from_s3_is_given_up_after_its_hours(
    world: World, logged: list[EventDict]
) -> None:
    world.webhook_retry_seconds = HOUR
    await record_one(world)
    (checkpoint,) = world.known()
    world.endpoint.model.delete_object(BUCKET, metadata_key(checkpoint.meta.s3_key_prefix))
    async with world.daemon():
        await settled(world)
    assert statuses(world) == [0]
    (event,) = events(logged, "webhook_given_up")
    assert "NoSuchKey" in event["error"]
    assert HOUR <= trio.current_time() <= HOUR + 900 + 60


async def test_a_webhook_whose_metadata_is_in_another_bucket_is_tried_for_its_hours(
    world: World, logged: list[EventDict]
) -> None:
    """A changed bucket setting may be changed back."""
    world.webhook_retry_seconds = HOUR
    await record_one(world)
    (stream,) = world.store._streams.values()
    forged = replace(stream, meta=replace(stream.meta, s3_bucket="another"))
    world.store._streams[stream.meta.stream_id] = forged
    async with world.daemon():
        await trio.sleep(HOUR / 2)
        assert world.pending_webhooks
        await settled(world)
    assert statuses(world) == [0]
    assert "another bucket" in events(logged, "webhook_given_up")[0]["error"]


async def test_an_outage_of_s3_is_waited_for_however_long_it_is(world: World) -> None:
    world.webhook_retry_seconds = 60.0
    await record_one(world)
    armed = world.endpoint.faults.arm(Fault(Kind.RESET, "*", Moment.BEFORE, times=None))
    async with world.daemon():
        await trio.sleep(300)
        world.endpoint.faults.disarm(armed)
        await settled(world)
    assert statuses(world)[-1] == 204


async def test_a_stream_with_a_pending_webhook_is_not_forgotten(world: World) -> None:
    await record_one(world)
    Path(world.path()).unlink()
    await trio.sleep(10 * HOUR)
    world.receiver.statuses.append(500)
    async with world.daemon() as daemon:
        assert await Retention(daemon.services, timedelta(hours=1)).forget_now() == 0
        await settled(world)
        assert await Retention(daemon.services, timedelta(hours=1)).forget_now() == 1


async def test_attempts_are_counted_and_pending_webhooks_are_a_gauge(world: World) -> None:
    world.receiver.statuses.extend([500, 0])
    world.append(10, "a.mp4")
    async with world.daemon() as daemon:
        registry = daemon.services.metrics.registry

        def value(outcome: str) -> float | None:
            return registry.get_sample_value("cef_trio_webhook_attempts_total", {"outcome": outcome})

        assert registry.get_sample_value("cef_trio_webhooks_pending") == 0
        daemon.closed("a.mp4")
        await completed(world)
        await trio.sleep(2)
        assert registry.get_sample_value("cef_trio_webhooks_pending") == 1
        await settled(world)
        await trio.sleep(60)
        assert registry.get_sample_value("cef_trio_webhooks_pending") == 0
        world.receiver.statuses.append(410)
        world.append(10, "b.mp4")
        daemon.closed("b.mp4")
        await trio.sleep(2)
        await settled(world)
        found = {outcome: value(outcome) for outcome in ("delivered", "failed", "refused", "given_up")}
    assert found == {"delivered": 1, "failed": 2, "refused": 1, "given_up": 0}


@pytest.mark.parametrize("stream_id", ["with.a.stop", "of-a-stränger", "two\nlines"])
async def test_an_id_that_no_header_can_carry_is_given_up_and_ends_nothing(
    world: World, logged: list[EventDict], stream_id: str
) -> None:
    """No daemon creates such an id; a user with write access to Redis can."""
    await record_one(world)
    (checkpoint,) = world.known()
    forged = replace(checkpoint.meta, stream_id=stream_id)
    world.store._streams[stream_id] = replace(world.store._streams[checkpoint.meta.stream_id], meta=forged)
    world.store._pending_webhooks.add(stream_id)
    async with world.daemon():
        await settled(world)
    assert [received.stream_id for received in world.receiver.received if received.status == 204] == [
        checkpoint.meta.stream_id
    ]
    (event,) = events(logged, "webhook_given_up")
    assert event["stream_id"] == stream_id


async def test_p6_an_unexpected_error_of_one_delivery_ends_neither_the_others_nor_the_streams(
    world: World, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_one(world)
    body, failed_ids = Completions._body, list[str]()

    async def unforeseen(self: Completions, meta: StreamMeta) -> bytes:
        if not failed_ids:
            failed_ids.append(meta.stream_id)
            raise KeyError("unforeseen")
        return await body(self, meta)

    monkeypatch.setattr(Completions, "_body", unforeseen)
    world.append(10, "b.mp4")
    async with world.daemon() as daemon:
        daemon.closed("b.mp4")
        await settled(world)
    assert failed_ids
    assert [one.status for one in world.receiver.received][-2:] == [204, 204]
    (event,) = events(logged, "webhook_error")
    assert event["stream_id"] == failed_ids[0]
