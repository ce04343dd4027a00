"""What only the store in Redis can do wrong: time-outs, connections, scripts, damaged data, clusters and sentinels."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from checkpoint.examples import OURS, START, meta, part
from checkpoint.test_checkpoint_cancellation import CALLS
from servers.authority import Authority
from servers.endpoints import closed_port
from servers.scripted import scripted_server
from servers.tcp_proxy import tcp_proxy
from servers.tls_front import tls_front
from servers.valkey import ValkeyServer, valkey_server
from waiting import until

from cef_trio.checkpoint.commit import Change, ExitState
from cef_trio.checkpoint.redis import scripts
from cef_trio.checkpoint.redis.cluster import Cluster
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import Status, StreamSet
from cef_trio.exceptions import RedisOperationError

T = TypeVar("T")
NOTHING = Change({})


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A server that the test may freeze or kill."""
    with valkey_server() as server:
        yield server


# ---- time-outs -------------------------------------------------------------------------------------------------------


async def is_connected(store: RedisCheckpointStore) -> bool:
    with suppress(RedisOperationError):
        await store.ping()
        return True
    return False


@pytest.mark.real
async def test_each_call_to_a_frozen_server_ends_with_a_transient_error(own_valkey: ValkeyServer) -> None:
    """New connections too: the kernel accepts them for a stopped process, and only the answer never comes."""
    for connected in (False, True):
        for name, call in CALLS.items():
            async with RedisCheckpointStore(own_valkey.url, socket_timeout_seconds=0.05) as store:
                if connected:
                    await until(partial(is_connected, store))  # its time-out is short for a busy machine
                own_valkey.freeze()
                with pytest.raises(RedisOperationError, match=rf"'{name}' failed: Timeout") as caught:
                    with trio.fail_after(20):
                        await call(store)
                assert caught.value.transient
                own_valkey.thaw()


@pytest.mark.real
async def test_two_hundred_streams_do_not_queue_behind_a_frozen_server(own_valkey: ValkeyServer) -> None:
    """One time-out for all who wait, not one each: 200 times 0.5 s over 2 connections would be 50 s."""
    outcomes: list[str] = []
    async with RedisCheckpointStore(own_valkey.url, socket_timeout_seconds=0.5, connections=2) as store:
        await until(partial(is_connected, store))
        own_valkey.freeze()

        async def save(number: int) -> None:
            with pytest.raises(RedisOperationError) as caught:
                await store.transition(f"s{number}", OURS, Status.INTERRUPTED_SHUTDOWN, NOTHING)
            assert caught.value.transient
            outcomes.append(caught.value.message)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(save, number)
        assert len(outcomes) == 200
        assert sum("Timeout" in text for text in outcomes) == 2
        assert sum("another call" in text for text in outcomes) == 198

        exit_states = [ExitState(f"s{number}", Status.INTERRUPTED_SHUTDOWN, START) for number in range(200)]
        with pytest.raises(RedisOperationError, match=r"save_interrupted.*Timeout"):
            await store.save_interrupted(exit_states, OURS)
        own_valkey.thaw()
        await until(partial(is_connected, store))


def read_command(stream: Any) -> list[bytes]:
    """One RESP command; empty at the end of the connection."""
    head = stream.readline()
    if not head:
        return []
    words = []
    for _ in range(int(head[1:])):
        words.append(stream.read(int(stream.readline()[1:])))
        stream.read(2)
    return words


async def test_a_late_reply_is_never_the_next_calls_answer() -> None:
    """The server answers the first call after its time-out; the next call, on a new connection, gets its own answer."""
    asked_again = threading.Event()
    numbers: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        stream = connection.makefile("rb")
        while command := read_command(stream):
            if command[0] != b"SMEMBERS":
                connection.sendall(b"-ERR unexpected\r\n")
                continue
            numbers.append(number)
            name = command[1].rpartition(b":")[2]
            if len(numbers) == 1:
                asked_again.wait(20)
            connection.sendall(b"*1\r\n$%d\r\n%s\r\n" % (len(name), name))

    with scripted_server(serve) as server:
        async with RedisCheckpointStore(server.url, socket_timeout_seconds=0.2, connections=1) as store:
            with pytest.raises(RedisOperationError, match="'members' failed: Timeout"):
                await store.members(StreamSet.ACTIVE)
            asked_again.set()
            [connection] = store._redis._client.connection_pool._get_free_connections()  # type: ignore[union-attr]
            connection.socket_timeout = connection.socket_connect_timeout = 60.0  # only the first reply is to be late
            assert await store.members(StreamSet.PENDING_COMPLETION) == {"pending_completion"}
            assert await store.members(StreamSet.ACTIVE) == {"active"}
    assert numbers == [0, 1, 1]


async def test_a_call_sends_its_script_and_nothing_else_on_a_new_connection() -> None:
    """No HELLO, no CLIENT SETINFO, no health check: each is a round trip that a slow server makes longer."""
    commands: list[bytes] = []

    def serve(connection: socket.socket, _number: int) -> None:
        stream = connection.makefile("rb")
        while command := read_command(stream):
            commands.append(command[0])
            connection.sendall(b"-LOADING the dataset is loaded into memory\r\n")

    with scripted_server(serve) as server:
        async with RedisCheckpointStore(server.url, socket_timeout_seconds=10) as store:
            with pytest.raises(RedisOperationError, match="LOADING") as caught:
                await store.update("s1", OURS, NOTHING)
            assert caught.value.transient
    assert commands == [b"EVALSHA"]


async def test_a_store_that_is_not_there_is_transient_and_named_without_its_password() -> None:
    with closed_port() as port:
        for url in (f"redis://u:hunter2@127.0.0.1:{port}", "unix://:hunter2@/nowhere/redis.sock"):
            async with RedisCheckpointStore(url) as store:
                with pytest.raises(RedisOperationError) as caught:
                    await store.ping()
            assert caught.value.transient
            assert "hunter2" not in f"{caught.value!r} {store!r} {vars(store)} {vars(store._redis)}"


async def test_a_closed_store_refuses_calls() -> None:
    async with RedisCheckpointStore("redis://127.0.0.1:1") as store:
        pass
    with pytest.raises(RedisOperationError, match="closed") as caught:
        await store.ping()
    assert not caught.value.transient


@pytest.mark.real
async def test_closing_does_not_wait_for_a_frozen_server(own_valkey: ValkeyServer) -> None:
    order: list[str] = []

    async def call() -> None:
        with pytest.raises(RedisOperationError, match="Timeout"):
            await store.ping()
        order.append("the call under way ended by its own time-out")

    async with trio.open_nursery() as nursery:
        async with RedisCheckpointStore(own_valkey.url, socket_timeout_seconds=3) as store:
            await until(partial(is_connected, store))
            own_valkey.freeze()
            nursery.start_soon(call)
            await until(lambda: store._redis._limiter.borrowed_tokens == 1)
            await until(lambda: bool(store._redis._client.connection_pool._in_use_connections))  # type: ignore[union-attr]
        order.append("closed")
    assert order == ["closed", "the call under way ended by its own time-out"]
    assert all(connection._sock is None for connection in store._redis._client.connection_pool._get_free_connections())  # type: ignore[union-attr]


@pytest.mark.real
async def test_a_restarted_server_is_found_again_with_what_it_had() -> None:
    with valkey_server(append_only=True) as server:
        async with RedisCheckpointStore(server.url, socket_timeout_seconds=10) as store:
            await store.create(meta(), OURS, [part()])
            server.restart()
            await store.record_part("s1", OURS, part(2))  # the scripts are gone with the old process: NOSCRIPT
            checkpoint = await store.load("s1")
            assert checkpoint is not None
            assert sorted(checkpoint.parts) == [1, 2]
            server.kill()
            with pytest.raises(RedisOperationError) as caught:
                await store.ping()
            assert caught.value.transient


# ---- the retrier -----------------------------------------------------------------------------------------------------


class Twice:
    """A retrier that tries once more."""

    def __init__(self) -> None:
        self.operations: list[str] = []

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        self.operations.append(operation)
        try:
            return await attempt()
        except RedisOperationError:
            return await attempt()


async def test_every_operation_goes_through_the_retrier() -> None:
    retrier = Twice()
    async with RedisCheckpointStore("unix:///nowhere/redis.sock", retrier=retrier) as store:
        for call in CALLS.values():
            with pytest.raises(RedisOperationError):
                await call(store)
    assert retrier.operations == list(CALLS)


# ---- scripts ---------------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_a_script_is_known_to_the_server_by_our_digest_and_names_no_key_itself(
    script: scripts.Script, raw: Any
) -> None:
    assert raw.execute_command("SCRIPT", "LOAD", script.source) == script.sha.encode()
    assert "stream:" not in script.source
    assert "streams:" not in script.source


@pytest.mark.real
async def test_p3_five_thousand_streams_are_saved_and_released_at_once(valkey: ValkeyServer, raw: Any) -> None:
    ids = [f"s{number}" for number in range(5000)]
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        keys = store.keys
        with raw.pipeline() as pipeline:
            for stream_id in ids:
                pipeline.hset(keys.meta(stream_id), "status", "active")
                pipeline.set(keys.lease(stream_id), OURS.value)
                pipeline.sadd(keys.set(StreamSet.ACTIVE), stream_id)
                pipeline.zadd(keys.leases, {stream_id: 1})
            pipeline.execute()
        states = [ExitState(stream_id, Status.INTERRUPTED_SHUTDOWN, START) for stream_id in ids]
        assert await store.save_interrupted(states, OURS) == frozenset()
        assert raw.zcount(keys.leases, 2, "+inf") == len(ids)


@pytest.mark.real
async def test_a_lease_has_its_time_to_live(valkey: ValkeyServer, raw: Any) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        for set_it in (partial(store.create, meta(), OURS), partial(store.renew, ["s1"], OURS)):
            began = time.monotonic()
            await set_it()
            left, took = raw.pttl("stream:s1:lease"), time.monotonic() - began
            assert 29_990 - took * 1000 < left <= 30_000
            assert raw.get("stream:s1:lease") == b"host-a/token-1"
            raw.pexpire("stream:s1:lease", 20_000)
        assert raw.pttl("stream:s1:meta") == -1


@pytest.mark.real
async def test_every_key_of_a_stream_is_behind_the_prefix(valkey: ValkeyServer, raw: Any) -> None:
    async with RedisCheckpointStore(valkey.url, key_prefix="{node-a}:", socket_timeout_seconds=10) as store:
        await store.create(meta(), OURS, [part()])
        assert set(raw.keys()) == {
            b"{node-a}:leases",
            b"{node-a}:streams:active",
            b"{node-a}:streams:by_path",
            b"{node-a}:stream:s1:meta",
            b"{node-a}:stream:s1:parts",
            b"{node-a}:stream:s1:lease",
        }


@pytest.mark.real
async def test_fields_of_a_newer_version_survive_every_write(valkey: ValkeyServer, raw: Any) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta(), OURS)
        raw.hset("stream:s1:meta", "from_the_future", b"\xff")
        await store.record_part("s1", OURS, part())
        await store.start_over("s1", OURS, Change({"part_size": 1}))
        await store.rename("s1", OURS, "/rec/new.mp4")
        await store.transition("s1", OURS, Status.PENDING_COMPLETION, Change({"failure_reason": None}))
        await store.save_interrupted([ExitState("s1", Status.INTERRUPTED_SHUTDOWN, START)], OURS)
        assert raw.hget("stream:s1:meta", "from_the_future") == b"\xff"
        assert await store.load("s1") is not None


# ---- damaged data ----------------------------------------------------------------------------------------------------


@pytest.mark.real
async def test_a_corrupt_record_is_a_permanent_error_that_names_key_and_field(valkey: ValkeyServer, raw: Any) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta(), OURS, [part(7)])
        raw.hset("stream:s1:parts", "7", "{}")
        with pytest.raises(RedisOperationError, match=r"'load' failed: stream:s1:parts field '7'") as caught:
            await store.load("s1")
        assert not caught.value.transient
        raw.hset("stream:s1:meta", "part_size", "many")
        with pytest.raises(RedisOperationError, match=r"stream:s1:meta field 'part_size' cannot be read") as caught:
            await store.load("s1")
        assert not caught.value.transient
        for found in (await store.load_metas(["s1"]), await store.find_by_path(["/rec/s1.mp4"])):
            assert len(found) == 0
            [why] = found.unreadable.values()
            assert why.startswith("stream:s1:meta field 'part_size' cannot be read")


@pytest.mark.real
async def test_a_corrupt_next_part_keeps_no_stream_from_its_end_and_no_part_is_counted(
    valkey: ValkeyServer, raw: Any
) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta(), OURS, [part(1)])
        raw.hset("stream:s1:meta", "next_part_to_upload", "many")
        before = raw.hgetall("stream:s1:meta")
        with pytest.raises(RedisOperationError) as caught:
            await store.record_part("s1", OURS, part(2))
        assert not caught.value.transient
        assert (raw.hgetall("stream:s1:meta"), raw.hlen("stream:s1:parts")) == (before, 1)
        await store.rename("s1", OURS, "/rec/new.mp4")
        await store.transition("s1", OURS, Status.FAILED_REDIS_UPDATE, NOTHING)
        after = {b"status": b"failed_redis_update", b"current_path": b"/rec/new.mp4"}
        assert raw.hgetall("stream:s1:meta") == before | after
        assert raw.sismember("streams:failed", "s1")


@pytest.mark.real
async def test_a_status_of_a_newer_version_is_neither_written_over_nor_forgotten(
    valkey: ValkeyServer, raw: Any
) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta(), OURS)
        raw.hset("stream:s1:meta", "status", "paused_by_moon")
        for write in (
            store.transition("s1", OURS, Status.PENDING_COMPLETION, NOTHING),
            store.start_over("s1", OURS, NOTHING),
        ):
            with pytest.raises(RedisOperationError, match=r"stream:s1:meta field 'status'.*paused_by_moon"):
                await write
        await store.forget("s1")
        assert raw.hget("stream:s1:meta", "status") == b"paused_by_moon"


@pytest.mark.real
async def test_a_stream_that_is_in_no_set_any_more_is_put_back_where_its_status_belongs(
    valkey: ValkeyServer, raw: Any
) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta(status=Status.S3_COMPLETED), OURS)
        raw.srem("streams:pending_completion", "s1")
        assert (await store.load_metas(["s1"]))["s1"].stream_set is StreamSet.PENDING_COMPLETION
        raw.sadd("streams:active", "s1")
        raw.sadd("streams:failed", "s1")
        await store.transition("s1", OURS, Status.COMPLETED, NOTHING)
        held = [stream_set for stream_set in StreamSet if raw.sismember(f"streams:{stream_set.value}", "s1")]
        assert held == [StreamSet.COMPLETED]


@pytest.mark.real
async def test_what_is_no_text_among_the_ids_leads_to_no_record_and_raises_nothing_of_pythons(
    valkey: ValkeyServer, raw: Any
) -> None:
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta("s1"), OURS)
        raw.sadd("streams:active", b"\xff\xfe")
        raw.hset("streams:by_path", "/rec/junk.mp4", b"\xff\xfe")
        ids = await store.members(StreamSet.ACTIVE)
        assert set(await store.load_metas(ids)) == {"s1"}
        assert await store.find_by_path(["/rec/junk.mp4"]) == {}


@pytest.mark.real
async def test_a_key_of_another_type_is_a_permanent_error(valkey: ValkeyServer, raw: Any) -> None:
    raw.set("stream:s1:meta", "text")
    async with RedisCheckpointStore(valkey.url, socket_timeout_seconds=10) as store:
        with pytest.raises(RedisOperationError, match="stream:s1:meta is no hash") as caught:
            await store.load("s1")
        assert not caught.value.transient


# ---- what a server refuses -------------------------------------------------------------------------------------------


@pytest.mark.real
async def test_a_server_without_memory_refuses_writes_whole_and_for_the_time_being(own_valkey: ValkeyServer) -> None:
    async with RedisCheckpointStore(own_valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta(), OURS)
        before = await store.load("s1")
        assert own_valkey.command("CONFIG", "SET", "maxmemory", "1") == b"+OK\r\n"
        for write in (
            store.record_part("s1", OURS, part()),
            store.transition("s1", OURS, Status.PENDING_COMPLETION, NOTHING),
        ):
            with pytest.raises(RedisOperationError, match="OOM") as caught:
                await write
            assert caught.value.transient
        assert own_valkey.command("CONFIG", "SET", "maxmemory", "0") == b"+OK\r\n"
        assert await store.load("s1") == before


@pytest.mark.real
async def test_a_replica_refuses_writes_for_the_time_being(own_valkey: ValkeyServer) -> None:
    async with RedisCheckpointStore(own_valkey.url, socket_timeout_seconds=10) as store:
        await store.create(meta(), OURS)
        own_valkey.command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(RedisOperationError, match=r"READONLY|MASTERDOWN") as caught:
            await store.record_part("s1", OURS, part())
        assert caught.value.transient


@pytest.mark.real
async def test_wrong_credentials_and_missing_rights_are_permanent_and_not_shown(own_valkey: ValkeyServer) -> None:
    rules = ("resetkeys", "~streams:*", "+@all")
    assert own_valkey.command("ACL", "SETUSER", "guest", "on", ">hunter2", *rules) == b"+OK\r\n"
    for login in ("guest:hunter3", "nobody:hunter3"):
        async with RedisCheckpointStore(f"unix://{login}@{own_valkey.socket_path}", socket_timeout_seconds=10) as store:
            with pytest.raises(RedisOperationError, match="WRONGPASS") as caught:
                await store.ping()
            assert not caught.value.transient
            assert "hunter3" not in str(caught.value)
    url = f"unix://guest:hunter2@{own_valkey.socket_path}"
    async with RedisCheckpointStore(url, socket_timeout_seconds=10) as store:
        await store.ping()
        with pytest.raises(RedisOperationError, match="NOPERM") as caught:
            await store.create(meta(), OURS)
        assert not caught.value.transient


@pytest.mark.real
async def test_the_server_info_has_what_doctor_checks() -> None:
    with valkey_server(append_only=True, arguments=["--maxmemory-policy", "allkeys-lru"]) as server:
        async with RedisCheckpointStore(server.url, socket_timeout_seconds=10) as store:
            info = await store.info()
    assert info.product == "valkey"
    assert info.version.split(".")[0].isdigit()
    assert info.append_only
    assert info.last_save_ok
    assert info.eviction_policy == "allkeys-lru"
    assert info.max_memory_bytes == 0
    assert (info.is_replica, info.append_fsync, info.save) == (False, "everysec", "")
    assert (info.replicas, info.min_replicas_to_write, info.min_replicas_max_lag_seconds) == ((), 0, 10)
    assert 0 < info.used_memory_bytes < info.system_memory_bytes


@pytest.mark.real
async def test_the_server_info_has_the_replicas_that_follow() -> None:
    with (
        valkey_server(
            tcp=True, arguments=["--min-replicas-to-write", "1", "--repl-diskless-sync-delay", "0"]
        ) as primary,
        valkey_server(tcp=True, arguments=["--replicaof", "127.0.0.1", str(primary.port)]) as replica,
    ):
        async with (
            RedisCheckpointStore(primary.url, socket_timeout_seconds=10) as store,
            RedisCheckpointStore(replica.url, socket_timeout_seconds=10) as other,
        ):
            await until(lambda: _follows(store, f"127.0.0.1:{replica.port}"))
            assert (await store.info()).min_replicas_to_write == 1
            assert (await other.info()).is_replica


async def _follows(store: RedisCheckpointStore, address: str) -> bool:
    found = [(one.address, one.online, one.lag_seconds <= 1) for one in (await store.info()).replicas]
    return found == [(address, True, True)]


@pytest.mark.real
async def test_a_server_that_denies_its_settings_reports_the_rest(own_valkey: ValkeyServer) -> None:
    rules = ("~*", "+@all", "-config")
    assert own_valkey.command("ACL", "SETUSER", "guest", "on", ">hunter2", *rules) == b"+OK\r\n"
    url = f"unix://guest:hunter2@{own_valkey.socket_path}"
    async with RedisCheckpointStore(url, socket_timeout_seconds=10) as store:
        info = await store.info()
    assert (info.product, info.append_fsync, info.save) == ("valkey", None, None)


# ---- clusters and sentinels ------------------------------------------------------------------------------------------


@pytest.mark.real
async def test_a_cluster_keeps_all_our_keys_in_one_slot() -> None:
    with valkey_server(tcp=True, arguments=["--cluster-enabled", "yes", "--cluster-node-timeout", "500"]) as server:
        async with RedisCheckpointStore(
            f"redis+cluster://127.0.0.1:{server.port}", key_prefix="{node-a}:", socket_timeout_seconds=5
        ) as store:
            with pytest.raises(RedisOperationError) as caught:
                await store.create(meta(), OURS)
            assert caught.value.transient
            assert server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
            await until(lambda: b"cluster_state:ok" in server.command("CLUSTER", "INFO"))
            for name, call in CALLS.items():
                if name == "ping":
                    await store.create(meta("s1"), OURS)
                    await store.create(meta("ended", status=Status.COMPLETED), OURS)
                await store.acquire("s1", OURS)
                await call(store)
            assert (await store.info()).product == "valkey"
            server.command("SCRIPT", "FLUSH", "SYNC")
            assert await store.load("s1") is not None


@pytest.mark.real
async def test_a_cluster_over_tls_is_reached_and_an_error_of_its_client_costs_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    with (
        valkey_server(tcp=True, arguments=["--cluster-enabled", "yes"]) as server,
        tls_front(tmp_path, authority.certificate("127.0.0.1"), to_port=server.port) as port,
    ):
        assert server.command("CONFIG", "SET", "cluster-announce-port", str(port)) == b"+OK\r\n"
        assert server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
        await until(lambda: b"cluster_state:ok" in server.command("CLUSTER", "INFO"))
        url = f"rediss+cluster://127.0.0.1:{port}"
        async with RedisCheckpointStore(url, owner="node-a", socket_timeout_seconds=5) as store:
            with pytest.raises(RedisOperationError, match="certificate"):
                await store.ping()
        async with RedisCheckpointStore(url, owner="node-a", ca_file=authority.file, socket_timeout_seconds=5) as store:
            await store.create(meta(), OURS)
            with monkeypatch.context() as patched:
                patched.setattr(Cluster, "get_redis_connection", lambda _self, node: node.gone)
                with pytest.raises(RedisOperationError, match="gone") as caught:
                    await store.load("s1")
            assert caught.value.transient
            assert await store.load("s1") is not None


@pytest.mark.real
async def test_a_cluster_whose_nodes_all_have_new_addresses_is_found_by_that_of_the_url() -> None:
    """As in Kubernetes, where each pod that restarts has a new address behind the same name."""
    arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "500"]
    with (
        valkey_server(tcp=True, arguments=arguments) as old,
        valkey_server(tcp=True, arguments=arguments) as new,
        tcp_proxy(old.port) as name,
    ):
        for server in (old, new):
            assert server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
            await until(lambda: b"cluster_state:ok" in server.command("CLUSTER", "INFO"))  # noqa: B023 - called here
        async with RedisCheckpointStore(
            f"redis+cluster://127.0.0.1:{name.port}", key_prefix="{node-a}:", socket_timeout_seconds=5
        ) as store:
            await store.ping()
            old.kill()
            name.lead_to(new.port)
            await until(partial(is_connected, store))
            await store.create(meta(), OURS)
            assert new.command("EXISTS", "{node-a}:stream:s1:meta") == b":1\r\n"


async def test_a_call_to_a_cluster_does_not_wait_for_each_of_many_nodes_that_do_not_answer() -> None:
    """redis-py asks one after another, and gives each a time-out."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(10)]
        hosts = ",".join(f"127.0.0.1:{node.getsockname()[1]}" for node in nodes)
        async with RedisCheckpointStore(
            f"redis+cluster://{hosts}", key_prefix="{node-a}:", socket_timeout_seconds=0.1
        ) as store:
            with pytest.raises(RedisOperationError, match="cannot be connected") as caught:
                await store.ping()
        assert caught.value.transient
        asked, _, _ = select.select(nodes, [], [], 0)
        assert 1 <= len(asked) <= 4


@pytest.mark.real
async def test_the_address_of_the_master_comes_from_a_sentinel() -> None:
    with (
        valkey_server(tcp=True) as master,
        valkey_server(tcp=True, sentinel_of=f"main 127.0.0.1 {master.port}") as sentinel,
    ):
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}"
        async with RedisCheckpointStore(f"{url}/main", socket_timeout_seconds=2) as store:
            await until(partial(is_connected, store))
            await store.create(meta(), OURS)
            assert await store.members(StreamSet.ACTIVE) == {"s1"}
            master.freeze()
            with pytest.raises(RedisOperationError) as caught:
                await store.ping()
            assert caught.value.transient
            master.thaw()
            await until(partial(is_connected, store))
        async with RedisCheckpointStore(f"{url}/other") as store:
            with pytest.raises(RedisOperationError, match="no master") as caught:
                await store.ping()
            assert caught.value.transient
        async with RedisCheckpointStore("redis+sentinel://127.0.0.1:1,localhost:2/main") as store:
            with pytest.raises(RedisOperationError) as caught:
                await store.ping()
            assert str(caught.value).endswith(
                "no master: No master found for 'main'; these sentinels do not answer: 127.0.0.1:1, localhost:2"
            )
