"""Requests to abort open streams: both stores keep them until the stream ends, is retried, or is forgotten."""

from __future__ import annotations

from checkpoint.examples import OURS, Subject, meta

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.protocols import Beat
from cef_trio.checkpoint.states import ENDED, Status


async def test_only_open_streams_can_be_requested_and_each_beat_names_them(subject: Subject) -> None:
    store = subject.store
    for number, status in enumerate([Status.ACTIVE, Status.S3_COMPLETED, *sorted(ENDED)]):
        await store.create(meta(f"s{number}", status=status, path=f"/rec/{number}.mp4"), OURS)
    ids = [f"s{number}" for number in range(2 + len(ENDED))]
    for _ in range(2):
        assert await store.request_abort([*ids, "unknown"]) == {"s0", "s1"}
    assert await store.request_abort([]) == frozenset()
    assert await store.abort_requests() == {"s0", "s1"}
    assert (await store.expired(0)).abort_requests == {"s0", "s1"}
    reply = await store.beat(Beat(lease=OURS, expired_since_ms=0))
    assert reply.expired is not None
    assert reply.expired.abort_requests == {"s0", "s1"}
    await store.withdraw_aborts(["s0", "unknown"])
    await store.withdraw_aborts([])
    assert await store.abort_requests() == {"s1"}


async def test_a_request_ends_with_its_stream_and_does_not_come_back_with_a_retry(subject: Subject) -> None:
    store = subject.store
    for number, status in enumerate(sorted(ENDED)):
        name = f"s{number}"
        first = Status.S3_COMPLETED if status is Status.COMPLETED else Status.ACTIVE
        await store.create(meta(name, status=first, path=f"/rec/{number}.mp4"), OURS)
        await store.request_abort([name])
        if first is Status.ACTIVE:
            await store.transition(name, OURS, Status.PENDING_COMPLETION, Change())  # still open
            assert await store.abort_requests() == {name}
        await store.transition(name, OURS, status, Change())
        assert await store.abort_requests() == frozenset()
        await store.forget(name)


async def test_a_retry_removes_what_an_earlier_version_has_left(subject: Subject) -> None:
    store = subject.store
    await store.create(meta("s1", status=Status.FAILED_ABORTED), OURS)
    subject.note_abort_request("s1")
    await store.start_over("s1", OURS, Change())
    assert await store.abort_requests() == frozenset()
    await store.request_abort(["s1"])
    await store.transition("s1", OURS, Status.FAILED_UNEXPECTED, Change())
    subject.note_abort_request("s1")
    await store.forget("s1")
    assert await store.abort_requests() == frozenset()
