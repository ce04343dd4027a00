"""A cancelled call either happened or did not, whichever moment it is cancelled at, and the store knows which."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing
from checkpoint.examples import OURS, START, meta, part
from servers.valkey import ValkeyServer

from cef_trio.checkpoint import schema
from cef_trio.checkpoint.commit import Change, ExitState
from cef_trio.checkpoint.memory import MemoryCheckpointStore, Moment
from cef_trio.checkpoint.model import WebhookEvent
from cef_trio.checkpoint.protocols import Beat, BeatReply, CheckpointStore, StoredReports
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import History, Status, StreamSet
from cef_trio.daemon.wiring import REDIS_NOT_RETRIED
from cef_trio.exceptions import RedisOperationError

CALLS: dict[str, Callable[[CheckpointStore], Awaitable[object]]] = {
    "ping": lambda store: store.ping(),
    "check_writable": lambda store: store.check_writable(),
    "create": lambda store: store.create(meta("s2"), OURS),
    "acquire": lambda store: store.acquire("s3", OURS),
    "renew": lambda store: store.renew(["s1"], OURS),
    "release": lambda store: store.release(["s1"], OURS),
    "holders": lambda store: store.holders(["s1"]),
    "load": lambda store: store.load("s1"),
    "load_metas": lambda store: store.load_metas(["s1"]),
    "members": lambda store: store.members(StreamSet.ACTIVE),
    "count": lambda store: store.count(),
    "ids_beginning_with": lambda store: store.ids_beginning_with("s"),
    "count_ended": lambda store: store.count_ended(),
    "ended": lambda store: store.ended(History.COMPLETED, before_ms=10**13),
    "latest": lambda store: store.latest(History.COMPLETED, 1),
    "date": lambda store: store.date(History.COMPLETED, "ended", 1),
    "completed_like": lambda store: store.completed_like([1], [1]),
    "mend_history": lambda store: store.mend_history(),
    "expired": lambda store: store.expired(0),
    "is_persistent": lambda store: store.is_persistent(),
    "raise_schema": lambda store: store.raise_schema(),
    "find_by_path": lambda store: store.find_by_path(["/rec/s1.mp4"]),
    "update": lambda store: store.update("s1", OURS, Change({"part_size": 1})),
    "record_part": lambda store: store.record_part("s1", OURS, part()),
    "adopt_parts": lambda store: store.adopt_parts("s1", OURS, [part()]),
    "record_put": lambda store: store.record_put("s1", OURS, part(), Change({})),
    "cut_parts": lambda store: store.cut_parts("s1", OURS, 1),
    "start_over": lambda store: store.start_over("s1", OURS, Change({"part_size": 1})),
    "transition": lambda store: store.transition("s1", OURS, Status.PENDING_COMPLETION, Change({})),
    "rename": lambda store: store.rename("s1", OURS, "/rec/new.mp4"),
    "save_interrupted": lambda store: store.save_interrupted(
        [ExitState("s1", Status.INTERRUPTED_SHUTDOWN, START)], OURS
    ),
    "pending_webhooks": lambda store: store.pending_webhooks(),
    "is_webhook_pending": lambda store: store.is_webhook_pending("ended"),
    "ack_webhook": lambda store: store.ack_webhook("ended"),
    "pending_events": lambda store: store.pending_events(),
    "pending_event": lambda store: store.pending_event("failed_ended_1"),
    "ack_event": lambda store: store.ack_event("failed_ended_1"),
    "request_abort": lambda store: store.request_abort(["s1"]),
    "abort_requests": lambda store: store.abort_requests(),
    "withdraw_aborts": lambda store: store.withdraw_aborts(["gone"]),
    "forget": lambda store: store.forget("ended"),
    "report": lambda store: store.report("host-a", "well", beginning="host-"),
    "reports": lambda store: store.reports(),
    "beat": lambda store: store.beat(
        Beat(lease=OURS, renewed_ids=["s1"], expired_since_ms=0, report=("host-a", "well", "host-"))
    ),
    "forget_reports": lambda store: store.forget_reports(["host-b"]),
}
WRITING = frozenset(CALLS) - {
    "ping",
    "check_writable",  # it writes nothing of a stream
    "holders",
    "load",
    "load_metas",
    "members",
    "count",
    "ids_beginning_with",
    "count_ended",
    "ended",
    "latest",
    "completed_like",
    "mend_history",
    "expired",
    "is_persistent",
    "find_by_path",
    "pending_webhooks",
    "is_webhook_pending",
    "pending_events",
    "pending_event",
    "abort_requests",
    "reports",
}


def test_every_write_but_reports_and_the_last_words_and_every_connect_is_under_the_retry_policy() -> None:
    elsewhere = {"known_elsewhere", "register_owner", "verification"}  # owners.py, verifications.py
    assert set(CALLS) >= REDIS_NOT_RETRIED - elsewhere
    assert {"beat", "forget_reports", "report", "save_interrupted"} == WRITING & REDIS_NOT_RETRIED


def test_every_operation_of_the_interface_is_cancelled_here() -> None:
    assert set(CALLS) == {
        name for name in dir(CheckpointStore) if not name.startswith("_") and callable(getattr(CheckpointStore, name))
    }


async def prepared() -> MemoryCheckpointStore:
    ticks = itertools.count(1)
    store = MemoryCheckpointStore(clock=lambda: float(next(ticks)))  # so that a renewal shows
    await store.create(meta("s1"), OURS)
    await store.create(meta("ended", status=Status.S3_COMPLETED), OURS)
    event = WebhookEvent("failed_ended_1", b"{}")
    await store.transition("ended", OURS, Status.COMPLETED, Change({}), enqueue_webhook=True, event=event)
    store.note_abort_requests(["gone"])
    await store.report("host-b", "gone", beginning="")
    return store


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_into_a_cancelled_scope_does_nothing(name: str) -> None:
    store = await prepared()
    before = store.snapshot()
    with trio.CancelScope() as scope:
        scope.cancel()
        await CALLS[name](store)
    assert scope.cancelled_caught
    assert store.snapshot() == before


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_cancelled_at_any_moment_happened_or_did_not(
    name: str, moment: Moment, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    store = await prepared()
    before = store.snapshot()
    reached: list[str] = []

    async def cancel_here(operation: str, at: Moment) -> None:
        if at is moment:
            reached.append(operation)
            scope.cancel()
            await trio.lowlevel.checkpoint()

    store.fault = cancel_here
    returned = False
    with trio.CancelScope() as scope:
        await CALLS[name](store)
        returned = True
    assert reached == [name]
    # Sent is sent: from then on the call returns, and its effect is there.
    assert returned == (moment is not Moment.BEFORE)
    assert scope.cancelled_caught != returned
    assert (store.snapshot() == before) == (not returned or name not in WRITING)


@pytest.mark.parametrize("moment", [Moment.SENT, Moment.AFTER])
@pytest.mark.parametrize("name", CALLS)
async def test_a_frozen_store_ends_each_call_with_a_transient_error(
    name: str, moment: Moment, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    store = await prepared()
    before = store.snapshot()

    async def freeze(operation: str, at: Moment) -> None:
        if at is moment:
            await trio.sleep_forever()

    store.fault = freeze
    started = trio.current_time()
    with pytest.raises(RedisOperationError, match=name) as caught:
        await CALLS[name](store)
    assert caught.value.transient
    assert trio.current_time() - started == 1.0
    assert (store.snapshot() == before) == (moment is Moment.SENT or name not in WRITING)


async def test_a_lost_reply_is_repeated_without_harm() -> None:
    """The effect happened, its answer did not come, the retrier calls again: every write is idempotent."""
    for name in sorted(WRITING):
        once, twice = await prepared(), await prepared()
        await CALLS[name](once)
        lost: list[str] = []

        async def lose_first_reply(operation: str, at: Moment, lost: list[str] = lost) -> None:
            if at is Moment.AFTER and not lost:
                lost.append(operation)
                raise RedisOperationError(operation, "the reply was lost", transient=True)

        twice.fault = lose_first_reply
        with pytest.raises(RedisOperationError):
            await CALLS[name](twice)
        answer = await CALLS[name](twice)
        assert lost == [name]
        expected: tuple[object, ...] = (None, True, frozenset(), frozenset({"s1"}), schema.CURRENT)
        assert isinstance(answer, StoredReports | BeatReply) or answer in expected
        assert _without_times(twice) == _without_times(once)


def _without_times(store: MemoryCheckpointStore) -> object:
    held = store.snapshot()
    return held.streams, held.by_path, {key: lease.holder for key, lease in held.leases.items()}


@pytest.mark.real
@pytest.mark.parametrize(
    "name", [name for name in CALLS if name != "check_writable"]
)  # it opens a connection, and sends nothing
async def test_a_call_to_redis_that_is_cancelled_while_sent_still_returns(name: str, valkey: ValkeyServer) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(RedisCheckpointStore(valkey.url, socket_timeout_seconds=10))
        await store.create(meta("s1"), OURS)
        await store.create(meta("ended", status=Status.COMPLETED), OURS)
        with trio.CancelScope() as scope:
            scope.cancel()
            await CALLS[name](store)
        assert scope.cancelled_caught

        returned: list[str] = []
        valkey.freeze()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    await CALLS[name](store)
                    returned.append(name)

                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                valkey.thaw()
        assert returned == [name]
        assert await store.load("s1") is not None
