"""A login that Redis refuses is read again until it is the right one, by whichever way Redis is reached."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import pytest
import structlog
import trio
from servers.scripted import scripted_server
from servers.valkey import ValkeyServer, valkey_server
from waiting import until, wait_until

from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.daemon.start_checks import RefusedAtStartError, retry_until_reachable
from cef_trio.exceptions import RedisOperationError
from cef_trio.resilience import CircuitBreaker, RetryPolicy

CLUSTER = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500")
WRONG = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"


@contextmanager
def one_server() -> Iterator[tuple[Sequence[ValkeyServer], str]]:
    with valkey_server(tcp=True) as server:
        yield [server], f"redis://daemon:{{}}@127.0.0.1:{server.port}"


@contextmanager
def cluster() -> Iterator[tuple[Sequence[ValkeyServer], str]]:
    """Two nodes, the first of which has all slots, and is told of the second by the URL only."""
    with (
        valkey_server(tcp=True, arguments=CLUSTER) as home,
        valkey_server(tcp=True, arguments=CLUSTER) as other,
    ):
        assert home.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
        wait_until(lambda: b"cluster_state:ok" in home.command("CLUSTER", "INFO"))
        yield [home, other], f"redis+cluster://daemon:{{}}@127.0.0.1:{home.port},127.0.0.1:{other.port}"


@contextmanager
def sentinels() -> Iterator[tuple[Sequence[ValkeyServer], str]]:
    """Two sentinels with a login of their own; the server needs none."""
    with ExitStack() as stack:
        master = stack.enter_context(valkey_server(tcp=True))
        watched = f"main 127.0.0.1 {master.port}"
        asked = [stack.enter_context(valkey_server(tcp=True, sentinel_of=watched)) for _ in range(2)]
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in asked)
        yield asked, f"redis+sentinel://{hosts}/main?sentinel_username=daemon&sentinel_password={{}}"


def have_password(servers: Sequence[ValkeyServer], password: str) -> None:
    """Give the daemon's user another password, as an operator does; open connections stay logged in."""
    for server in servers:
        words = ("ACL", "SETUSER", "daemon", "on", "resetpass", f">{password}", "~*", "&*", "+@all")
        assert server.command(*words) == b"+OK\r\n"


class Answers:
    """``read_url``: the texts one after the other, the last one for ever."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        return self._texts[min(self.asked, len(self._texts)) - 1]


async def works(call: Callable[[], Awaitable[object]]) -> bool:
    with suppress(RedisOperationError):
        await call()
        return True
    return False


@pytest.mark.real
@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("servers_of", [one_server, cluster, sentinels])
async def test_a_password_that_was_changed_is_read_again_also_if_the_file_is_renewed_later(
    servers_of: Callable[[], Iterator[tuple[Sequence[ValkeyServer], str]]], late: int
) -> None:
    with servers_of() as (servers, url):  # type: ignore[attr-defined]
        old, new = url.format("old"), url.format("new")
        read_url = Answers(*[old] * late, new)
        have_password(servers, "old")
        async with RedisCheckpointStore(old, owner="a", socket_timeout_seconds=5, read_url=read_url) as store:
            await until(partial(works, store.ping))
            have_password(servers, "new")
            store.renew_connections()  # as after MAX_AGE_SECONDS, or a transient error
            with structlog.testing.capture_logs() as logs:
                for _ in range(1 + late):
                    with pytest.raises(RedisOperationError, match=r"WRONGPASS|refuse the login") as caught:
                        await store.check_writable()
                    assert (caught.value.transient, caught.value.rejected) == (False, True)
                await store.check_writable()
            assert [event["event"] for event in logs] == ["credentials_renewed"]
            assert read_url.asked == 1 + late
            await store.ping()


@pytest.mark.real
async def test_a_dead_node_of_a_cluster_does_not_hide_that_the_others_refuse_the_login() -> None:
    """redis-py raises the error of the node that it asked last, and asked the one that failed last each time."""
    with cluster() as (servers, url):
        home, _ = servers
        read_url = Answers(url.format("new"))
        have_password(servers, "old")
        store = RedisCheckpointStore(url.format("old"), owner="a", socket_timeout_seconds=5, read_url=read_url)
        async with store:
            await store.ping()
            have_password(servers, "new")
            home.kill()
            for _ in range(60):  # the order is random
                if read_url.asked:
                    break
                assert not await works(store.check_writable)
            assert read_url.asked


async def refused_start(url: str, step: Callable[[RedisCheckpointStore], Awaitable[None]]) -> str:
    """Return why a start does not wait for this server at one of its steps."""
    async with RedisCheckpointStore(url, owner="a", socket_timeout_seconds=5) as store:
        breaker = CircuitBreaker("redis", lambda _kind: store.check_writable(), RetryPolicy(1, 1, 1))
        with trio.fail_after(60), pytest.raises(RefusedAtStartError) as caught:
            await retry_until_reachable("start", partial(step, store), breaker)
    return str(caught.value)


@pytest.mark.real
async def test_a_start_does_not_wait_for_a_cluster_where_one_server_responds() -> None:
    with valkey_server(tcp=True) as server:
        says = await refused_start(f"redis+cluster://127.0.0.1:{server.port}", RedisCheckpointStore.ping)
    assert "the server is not in cluster mode" in says
    assert "redis://host:port/db" in says


@pytest.mark.real
async def test_a_start_does_not_wait_for_one_server_where_a_node_of_a_cluster_responds() -> None:
    """It answers PING; the first command with a key is redirected, which only a client of a cluster follows."""
    with cluster() as (servers, _):
        home, other = servers
        assert other.command("CLUSTER", "MEET", "127.0.0.1", str(home.port)) == b"+OK\r\n"
        wait_until(lambda: b"cluster_state:ok" in other.command("CLUSTER", "INFO"))
        says = await refused_start(f"redis://127.0.0.1:{other.port}", RedisCheckpointStore.check_writable)
    assert "node of a cluster" in says
    assert "redis+cluster://host:port" in says


def refuse_login(connection: socket.socket, _number: int) -> None:
    while connection.recv(4096):
        connection.sendall(WRONG)


SILENT = r"; these sentinels do not answer: 127\.0\.0\.1:1"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://:hunter2@{}", "WRONGPASS"),
        ("redis+cluster://:hunter2@{}", "WRONGPASS"),
        (
            "redis+sentinel://{},127.0.0.1:1/main?sentinel_password=hunter2",
            rf"refuse the login \(sentinel_username, sentinel_password\): [0-9.:]+{SILENT}$",
        ),
    ],
)
async def test_a_start_with_a_wrong_password_does_not_wait(url: str, says: str) -> None:
    with scripted_server(refuse_login) as server, trio.fail_after(60):
        async with RedisCheckpointStore(url.format(f"127.0.0.1:{server.port}"), owner="a") as store:
            breaker = CircuitBreaker("redis", lambda _kind: store.check_writable(), RetryPolicy(1, 1, 1))
            with pytest.raises(RefusedAtStartError, match=says) as caught:
                await retry_until_reachable("connect_redis", store.ping, breaker)
    assert "hunter2" not in str(caught.value)


async def test_p6_a_new_password_that_is_not_escaped_ends_nothing_and_the_corrected_one_is_taken() -> None:
    right = b"pa/ss"

    def serve(connection: socket.socket, _number: int) -> None:
        while received := connection.recv(4096):
            if b"AUTH" in received:
                connection.sendall(b"+OK\r\n" if right in received else WRONG)
            else:
                connection.sendall(b"*2\r\n$2\r\nok\r\n:1\r\n")

    with scripted_server(serve) as server:
        url = f"redis://daemon:{{}}@127.0.0.1:{server.port}"
        read_url = Answers(url.format("pa/ss"), url.format("pa/ss"), url.format("pa%2Fss"))
        async with RedisCheckpointStore(url.format("old"), read_url=read_url) as store:
            with pytest.raises(RedisOperationError, match="WRONGPASS"):
                await store.ping()
            with structlog.testing.capture_logs() as logs:
                for _ in range(2):
                    with pytest.raises(RedisOperationError, match="WRONGPASS"):
                        await store.check_writable()
                await store.check_writable()
    assert [event["event"] for event in logs] == ["credentials_not_read"] * 2 + ["credentials_renewed"]
    assert "'/' is written as %2F" in logs[0]["error"]
    assert "pa/ss" not in str(logs)
