"""P4: a connection to Redis is open or has failed within one time-out, whatever name service and addresses do."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from servers.authority import Authority
from servers.scripted import scripted_server
from servers.valkey import ValkeyServer

from cef_trio.checkpoint.redis.connection import BoundedConnection
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.exceptions import RedisOperationError

NOBODY = "redis.test"


@pytest.fixture
def dead_name_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """``getaddrinfo`` as it is when no resolver answers; the event is set while a thread waits in it."""
    real = socket.getaddrinfo
    asked, given_up = threading.Event(), threading.Event()

    def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        if host not in {NOBODY, NOBODY.encode()}:
            return real(host, *arguments, **named)
        if named.get("flags", 0) & socket.AI_NUMERICHOST or (len(arguments) > 4 and arguments[4]):
            raise socket.gaierror(socket.EAI_NONAME, "it is a name")
        asked.set()
        given_up.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    given_up.set()


async def test_a_dead_name_service_is_a_transient_error_after_the_time_out(dead_name_service: threading.Event) -> None:
    async with RedisCheckpointStore(f"redis://{NOBODY}", socket_timeout_seconds=0.2) as store:
        with pytest.raises(RedisOperationError, match="Timeout connecting") as caught:
            await store.ping()
    assert caught.value.transient
    assert dead_name_service.is_set()


@pytest.mark.parametrize("url", [f"redis://{NOBODY}", f"rediss://{NOBODY}", f"redis+sentinel://{NOBODY}/master"])
async def test_p4_a_cancellation_does_not_wait_for_the_name_service(
    dead_name_service: threading.Event, url: str
) -> None:
    """The time-out is an hour, so whatever comes back sooner came by the cancellation."""
    async with RedisCheckpointStore(url, socket_timeout_seconds=3600) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.ping)
        await trio.to_thread.run_sync(dead_name_service.wait)
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught


@pytest.mark.real
async def test_a_server_is_found_by_its_name(valkey: ValkeyServer) -> None:
    async with RedisCheckpointStore(f"redis://localhost:{valkey.port}", socket_timeout_seconds=10) as store:
        await store.ping()
        await store.ping()


def pong_over_tls(certificate: Path) -> Callable[[socket.socket, int], None]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def serve(connection: socket.socket, _number: int) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            while encrypted.recv(4096):
                encrypted.sendall(b"+PONG\r\n")

    return serve


async def test_over_tls_the_server_must_show_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with scripted_server(pong_over_tls(authority.certificate("127.0.0.1"))) as server:
        url = server.url.replace("redis://", "rediss://")
        async with RedisCheckpointStore(url, ca_file=authority.file, socket_timeout_seconds=10) as store:
            await store.ping()
            await store.ping()
        assert server.connections == 1
        async with RedisCheckpointStore(url, socket_timeout_seconds=10) as store:
            with pytest.raises(RedisOperationError, match="certificate") as caught:
                await store.ping()
        assert caught.value.certificate_refused


async def test_p4_a_tls_server_that_never_shakes_hands_is_a_transient_error() -> None:
    seen = threading.Event()

    def say_nothing(connection: socket.socket, _number: int) -> None:
        while connection.recv(4096):
            seen.set()

    with scripted_server(say_nothing) as server:
        async with RedisCheckpointStore(server.url.replace("redis:", "rediss:"), socket_timeout_seconds=0.2) as store:
            with pytest.raises(RedisOperationError) as caught:
                await store.ping()
        assert caught.value.transient
        assert seen.wait(60)


async def test_the_addresses_of_a_host_share_the_time_out_of_one_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four addresses, none of which answers: redis-py would wait for each of them in full."""
    now = time.monotonic()
    clock = [now]
    waits: list[float] = []

    def black_hole(_self: BoundedConnection, opened: socket.socket, _address: object, seconds: float) -> socket.socket:
        opened.close()
        waits.append(seconds)
        clock[0] += min(seconds, 2.0)
        raise TimeoutError("timed out")

    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (f"192.0.2.{last}", 6379)) for last in range(1, 5)]

    async def four(*_: object, **__: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return addresses

    monkeypatch.setattr(trio.socket, "getaddrinfo", four)
    monkeypatch.setattr(BoundedConnection, "_open", black_hole)
    connection = BoundedConnection(host=NOBODY, socket_connect_timeout=5.0)  # type: ignore[no-untyped-call]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with pytest.raises(TimeoutError):
        await trio.to_thread.run_sync(connection._connect)
    assert waits == [5.0, 3.0, 1.0]
    assert clock[0] - now == 5.0


async def test_a_host_without_an_address_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_: object, **__: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return []

    monkeypatch.setattr(trio.socket, "getaddrinfo", none)
    async with RedisCheckpointStore(f"redis://{NOBODY}") as store:
        with pytest.raises(RedisOperationError, match=f"{NOBODY}.*has no address") as caught:
            await store.ping()
    assert caught.value.transient


@pytest.mark.parametrize("host", ["redis..example", "r" * 64, "r\u200d.example"])
async def test_what_is_no_host_name_is_an_error_that_says_so(host: str) -> None:
    """Sentinels and nodes of a cluster name hosts, too."""
    connection = BoundedConnection(host=host, socket_connect_timeout=5.0)  # type: ignore[no-untyped-call]
    with pytest.raises(OSError, match="is no host name"):
        await trio.to_thread.run_sync(connection._connect)


async def test_a_host_name_that_is_none_is_not_told_as_a_foreign_reply() -> None:
    async with RedisCheckpointStore("redis://r\u200d.example") as store:
        with pytest.raises(RedisOperationError, match="is no host name") as caught:
            await store.ping()
    assert caught.value.transient
    assert not caught.value.unreadable
