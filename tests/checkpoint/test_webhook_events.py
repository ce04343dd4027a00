"""Events of the webhook outbox: added in the step that creates or ends a stream, kept until acknowledged, bounded."""

from __future__ import annotations

import pytest
from checkpoint.examples import OURS, THEIRS, Subject, meta

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.model import WebhookEvent
from cef_trio.checkpoint.redis import scripts
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import LeaseLostError, PathTakenError

STARTED = WebhookEvent("started_s1", b'{"type":"stream.started"}')
FAILED = WebhookEvent("failed_s1_7", "{\u00fc}".encode())


async def test_an_event_is_recorded_with_its_step_until_it_is_acknowledged(subject: Subject) -> None:
    store = subject.store
    for _ in range(2):  # repeated, as the reply was lost
        await store.create(meta(), OURS, event=STARTED)
    assert await store.pending_events() == {"started_s1"}
    for _ in range(2):
        await store.transition("s1", OURS, Status.FAILED_UNEXPECTED, Change(), event=FAILED)
    assert await store.pending_events() == {"started_s1", "failed_s1_7"}
    assert await store.pending_event("failed_s1_7") == FAILED.body
    await store.forget("s1")  # they are delivered all the same
    for _ in range(2):
        await store.ack_event("started_s1")
    assert await store.pending_event("started_s1") is None
    assert await store.pending_events() == {"failed_s1_7"}


async def test_a_refused_step_records_no_event(subject: Subject) -> None:
    store = subject.store
    await store.create(meta(), OURS)
    with pytest.raises(LeaseLostError):
        await store.transition("s1", THEIRS, Status.FAILED_UNEXPECTED, Change(), event=FAILED)
    with pytest.raises(PathTakenError):
        await store.create(meta("s2", path=meta().current_path), OURS, event=STARTED)
    await store.transition("s1", OURS, Status.FAILED_UNEXPECTED, Change())
    with pytest.raises(ValueError, match="may not follow"):
        await store.transition("s1", OURS, Status.COMPLETED, Change(), event=FAILED)
    assert await store.pending_events() == frozenset()


async def test_p7_events_beyond_the_limit_are_dropped(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_EVENTS", 2)
    monkeypatch.setattr(scripts, "COMMIT", scripts._read("commit"))
    await subject.store.create(meta(), OURS)
    for number in range(4):
        event = WebhookEvent(f"failed_s1_{number}", b"{}")
        await subject.store.transition("s1", OURS, Status.FAILED_UNEXPECTED, Change(), event=event)
    assert await subject.store.pending_events() == {"failed_s1_0", "failed_s1_1"}


async def test_p6_starts_that_a_receiver_does_not_take_leave_room_for_failures(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_STARTS", 2)
    monkeypatch.setattr(rules, "MAX_EVENTS", 4)
    for name in ("CREATE", "COMMIT"):
        monkeypatch.setattr(scripts, name, scripts._read(name.lower()))
    for number in range(3):
        stream = meta(f"s{number}", path=f"/watch/{number}.mp4")
        await subject.store.create(stream, OURS, event=WebhookEvent(f"started_s{number}", b"{}"))
    for number in range(3):
        event = WebhookEvent(f"failed_s1_{number}", b"{}")
        await subject.store.transition("s1", OURS, Status.FAILED_UNEXPECTED, Change(), event=event)
    assert await subject.store.pending_events() == {"started_s0", "started_s1", "failed_s1_0", "failed_s1_1"}
