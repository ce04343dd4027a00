"""P3, P6: a Redis user that may not run one command: nothing is written by halves, and all goes on once it may."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import redis as redis_py
from checkpoint.examples import OURS, meta, part
from servers.valkey import ValkeyServer, valkey_server

from cef_trio.checkpoint.commit import Change
from cef_trio.checkpoint.model import WebhookEvent
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import Status
from cef_trio.exceptions import RedisOperationError

pytestmark = pytest.mark.real
WRITES = ["del", "hdel", "hincrby", "hset", "sadd", "set", "srem", "zadd", "zrem"]
READS = ["hget", "hlen", "hmget", "sismember", "time"]
EVENT = WebhookEvent("stream.failed_1", b"{}")


@pytest.fixture
def restricted() -> Iterator[ValkeyServer]:
    with valkey_server(tcp=True) as server:
        yield server


def allow(server: ValkeyServer, *rules: str) -> None:
    assert server.command("ACL", "SETUSER", "daemon", "on", ">secret", "~*", "&*", "+@all", *rules) == b"+OK\r\n"


def content(server: ValkeyServer) -> dict[bytes, bytes | None]:
    """Everything but the lease, whose time to live runs, and the index of leases."""
    with redis_py.Redis.from_url(server.url) as raw:
        return {key: raw.dump(key) for key in raw.scan_iter() if b"lease" not in key}


@pytest.mark.parametrize("command", WRITES + READS)
async def test_p3_what_one_command_is_denied_for_writes_nothing(restricted: ValkeyServer, command: str) -> None:
    """A transition without HDEL wrote the status, then failed: the stream's task ended by an exception of its own.

    A new stream without TIME, which only reads, had no entry of its path: its file was uploaded again after a restart.
    """
    allow(restricted)
    url = restricted.url.replace("redis://", "redis://daemon:secret@")
    async with RedisCheckpointStore(url, socket_timeout_seconds=10) as store:
        steps = [
            partial(store.create, meta("s1"), OURS, event=EVENT),
            partial(store.record_part, "s1", OURS, part()),
            partial(store.update, "s1", OURS, Change({"failure_reason": None})),
            partial(store.rename, "s1", OURS, "/rec/renamed.mp4"),
            partial(store.cut_parts, "s1", OURS, 0),
            partial(store.transition, "s1", OURS, Status.PENDING_COMPLETION, Change({"failure_reason": None})),
            partial(store.transition, "s1", OURS, Status.S3_COMPLETED, Change({}), event=EVENT),
            partial(store.transition, "s1", OURS, Status.COMPLETED, Change({"failure_reason": None})),
            partial(store.forget, "s1"),
        ]
        refused = 0
        for step in steps:
            before = content(restricted)
            allow(restricted, f"-{command}")
            try:
                await step()
            except RedisOperationError as error:
                refused += 1
                assert error.rejected, "a person can grant it: the stream waits"
                assert command in error.message
                assert content(restricted) == before
                allow(restricted)
                await step()
            allow(restricted)
        assert refused
        assert await store.load("s1") is None
