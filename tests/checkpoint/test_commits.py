"""Each write of ``rules.py``, for each status: Redis holds what the pure rule computes, also after a repetition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from typing import Any, Final

import pytest
from checkpoint.examples import OURS, later, meta, part
from servers.valkey import ValkeyServer

from cef_trio.checkpoint import rules
from cef_trio.checkpoint.commit import Change, Commit
from cef_trio.checkpoint.model import Checkpoint, FileIdentity, StreamMeta
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import INTERRUPTED, Status

CHANGE: Final = Change(
    {"identity": FileIdentity(1, 2), "failure_reason": "why", "retry_attempts": 3, "s3_endpoint": None, "part_size": 7}
)
COMMITS: Final = {
    "update": rules.update(CHANGE),
    "update nothing": rules.update(Change()),
    "a new part": rules.record_part(part(5)),
    "a part of an earlier number": rules.record_part(part(1, 7, seconds=9)),
    "a rewritten part": rules.record_part(part(2, 7, seconds=9), rewritten=True),
    "a part that is recorded": rules.record_part(part(3), rewritten=True),
    "adopted parts": rules.adopt_parts([part(2, 7), part(4), part(6)]),
    "no adopted parts": rules.adopt_parts([]),
    "all parts cut": rules.cut_parts(0),
    "some parts cut": rules.cut_parts(2),
    "no parts cut": rules.cut_parts(9),
    "start over": rules.start_over(CHANGE),
    "a put object": rules.record_put(part(1, 7, seconds=9), CHANGE),
    "a put object that is recorded": rules.record_put(part(1), CHANGE),
    "rename": rules.rename("/rec/\udcff.mp4"),
    **{f"to {status}": rules.transition(status, CHANGE, enqueue_webhook=True) for status in Status},
}
FULL: Final[Mapping[str, Any]] = {
    "s3_upload_id": "u",
    "checksum_algorithm": "md5",
    "total_bytes_sent": 300,
    "next_part_to_upload": 4,
    "parts_rewritten": 2,
    "bytes_rewritten": 50,
    "object_etag": "e",
    "verified_size_bytes": 300,
    "verified_mtime_ns": 1,
    "verified_crc64nvme": 77,
    "completed_at_utc": later(3),
    "s3_endpoint": "https://s3",
}
PARTS: Final = (part(1), part(2), part(3))


async def outcome(store: RedisCheckpointStore, commit: Commit, given: StreamMeta) -> object:
    """Return the checkpoint after a commit, or the error."""
    try:
        await store._commit(given.stream_id, OURS, commit)
    except ValueError as error:
        return str(error)
    return await store.load(given.stream_id)


def expected(commit: Commit, before: Checkpoint) -> object:
    try:
        return commit.checkpoint_after(before)
    except ValueError as error:
        return str(error)


@pytest.mark.real
@pytest.mark.parametrize("status", Status)
async def test_redis_holds_what_the_rule_computes(valkey: ValkeyServer, raw: Any, status: Status) -> None:
    async with RedisCheckpointStore(valkey.unix_url, socket_timeout_seconds=10) as store:
        for number, ((name, commit), fields) in enumerate(
            (one, some) for one in COMMITS.items() for some in ({}, FULL)
        ):
            given = meta(f"s{number}", status=status, **fields)
            await store.create(given, OURS, PARTS if fields else ())
            before = await store.load(given.stream_id)
            assert before is not None
            result = await outcome(store, commit, given)
            assert result == expected(commit, before), name
            if isinstance(result, Checkpoint):
                assert await outcome(store, commit, given) == result, name
                webhook = given.stream_id in await store.pending_webhooks()
                assert webhook == commit.enqueue_webhook, name
                found = await store.find_by_path([result.meta.current_path])
                assert found[result.meta.current_path].meta == result.meta, name
            else:
                assert await store.load(given.stream_id) == before, name
            raw.delete(Keys().by_path)


@pytest.mark.parametrize(
    "doubtful",
    [
        {"add": {"total_bytes_sent": 1}},
        {"add": {"total_bytes_sent": 1}, "fields": {"total_bytes_sent": 2}, "once": True},
        {"add": {"next_part_to_upload": 1}, "raise_next_part_to": 2, "once": True},
        {"fields": {"next_part_to_upload": 1}, "raise_next_part_to": 2},
    ],
)
def test_a_write_whose_effect_depends_on_an_order_or_on_a_repetition_is_refused(doubtful: Any) -> None:
    with pytest.raises(ValueError, match="idempotent"):
        Commit(operation="update", **doubtful)


def test_both_interruptions_may_follow_the_same_statuses() -> None:
    assert {rules.predecessors_of(status) for status in INTERRUPTED} == {rules.INTERRUPTIBLE}


async def test_parts_in_flight_may_be_recorded_in_any_order() -> None:
    commits = [rules.record_part(part(1)), rules.record_part(part(4, 7)), rules.record_part(part(2), rewritten=True)]
    results = []
    for order in permutations(commits):
        checkpoint = Checkpoint(meta(), rules.default_set(Status.ACTIVE))
        for commit in order:
            checkpoint = commit.checkpoint_after(checkpoint)
        last = replace(checkpoint.meta, last_activity_at_utc=later(0))
        results.append((last, dict(sorted(checkpoint.parts.items()))))
    assert all(result == results[0] for result in results)
    assert results[0][0].total_bytes_sent == 207
    assert results[0][0].next_part_to_upload == 5
