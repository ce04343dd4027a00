"""Both checkpoint stores behind one fixture, so that each test runs against both."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from checkpoint.examples import Subject
from servers.valkey import ValkeyServer, valkey_server

from cef_trio.checkpoint.memory import MemoryCheckpointStore, StoreSnapshot
from cef_trio.checkpoint.redis import codec
from cef_trio.checkpoint.redis.keys import Keys
from cef_trio.checkpoint.redis.store import RedisCheckpointStore


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[ValkeyServer]:
    with valkey_server(tcp=True) as server:
        yield server


@pytest.fixture
def valkey(shared_valkey: ValkeyServer) -> ValkeyServer:
    """A running, empty server. A test that freezes or kills it starts its own."""
    shared_valkey.flush()
    return shared_valkey


@pytest.fixture
def raw(valkey: ValkeyServer) -> Iterator[Any]:
    """What redis-cli would see."""
    with redis.Redis(unix_socket_path=str(valkey.socket_path)) as client:
        yield client


def dump(client: Any) -> dict[bytes, tuple[bytes, bool]]:
    """Every key, its serialized value, and whether it has a TTL; without an index of paths that has none."""
    keys = [
        key
        for key in client.execute_command("KEYS", "*")
        if not key.endswith(b"streams:by_path")
        or client.execute_command("TYPE", key) != b"hash"
        or client.execute_command("HKEYS", key) != [codec.COUNT_FIELD]
    ]
    return {key: (client.execute_command("DUMP", key), client.execute_command("PTTL", key) > 0) for key in sorted(keys)}


def memory_subject() -> Subject:
    now = [1000.0]
    store = MemoryCheckpointStore(clock=lambda: now[0])

    def expire(stream_id: str) -> None:
        held = store._leases.get(stream_id)
        if held is not None:
            held.expires_at = now[0]

    def wipe_record(stream_id: str) -> None:
        held = store.snapshot()
        streams = {key: stream for key, stream in held.streams.items() if key != stream_id}
        store.restore(StoreSnapshot(streams, held.by_path, held.leases, held.pending_webhooks))

    def wait(seconds: float) -> None:
        now[0] += seconds

    def note_abort_request(stream_id: str) -> None:
        store.note_abort_requests([stream_id])

    return Subject(
        store,
        expire,
        store.snapshot,
        wipe_record,
        store.corrupt,
        wait,
        store.repair,
        store.set_schema,
        note_abort_request,
    )


def redis_subject(store: RedisCheckpointStore, client: Any) -> Subject:
    keys = Keys()

    def corrupt(key: str) -> None:
        client.delete(key)
        client.rpush(key, "x")

    def set_schema(stream_id: str, number: int) -> None:
        if number == 1:
            client.hdel(keys.meta(stream_id), "schema")
        else:
            client.hset(keys.meta(stream_id), "schema", str(number))

    return Subject(
        store,
        expire=lambda stream_id: client.execute_command("PEXPIRE", keys.lease(stream_id), "0") and None,
        dump=lambda: dump(client),
        wipe_record=lambda stream_id: client.execute_command("DEL", keys.meta(stream_id)) and None,
        corrupt=corrupt,
        wait=time.sleep,
        repair=lambda key: client.delete(key) and None,
        set_schema=set_schema,
        note_abort_request=lambda stream_id: client.sadd(keys.abort_requests, stream_id) and None,
    )


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.real)])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield memory_subject()
        return
    valkey: ValkeyServer = request.getfixturevalue("valkey")
    raw = request.getfixturevalue("raw")
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        yield redis_subject(store, raw)
