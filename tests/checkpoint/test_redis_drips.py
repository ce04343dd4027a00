"""P4, P10: a Redis, or a proxy before it, that answers byte by byte fails a call; an honest slow answer does not."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
from servers.authority import Authority
from servers.scripted import scripted_server

from cef_trio.checkpoint.redis.connection import (
    BoundedConnection,
    BoundedSentinelConnection,
    BoundedSentinelTlsConnection,
    BoundedSocket,
)
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.exceptions import RedisOperationError

TIMEOUT = 10.0


class SlowSocket:
    """A socket on which each reception takes some seconds of the patched clock, or times out."""

    def __init__(self, clock: list[float], arrivals: Iterable[tuple[float, int]]) -> None:
        self._clock, self._arrivals = clock, iter(arrivals)
        self.timeout: float | None = TIMEOUT
        self.waits: list[float | None] = []

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, seconds: float | None) -> None:
        self.timeout = seconds

    def sendall(self, _data: bytes) -> None: ...

    def recv(self, size: int, _flags: int = 0) -> bytes:
        self.waits.append(self.timeout)
        if self.timeout == 0.0:
            raise BlockingIOError
        seconds, received = next(self._arrivals)
        assert received <= size
        assert self.timeout is not None
        self._clock[0] += min(seconds, self.timeout)
        if seconds > self.timeout:
            raise TimeoutError("timed out")
        return b"x" * received

    def recv_into(self, buffer: bytearray) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: now[0])
        yield now


def bounded(slow: SlowSocket) -> BoundedSocket:
    return BoundedSocket(slow)  # type: ignore[arg-type]


def for_ever(receive: Callable[[], object]) -> None:
    while True:
        receive()


@pytest.mark.parametrize("into", [False, True])
def test_p4_a_reply_that_drips_fails_after_three_time_outs(clock: list[float], into: bool) -> None:
    opened = bounded(SlowSocket(clock, ((9.0, 1) for _ in range(1000))))
    opened.sendall(b"GET")
    began = clock[0]
    receive = partial(opened.recv_into, bytearray(100)) if into else partial(opened.recv, 100)
    with pytest.raises(TimeoutError):
        for_ever(receive)
    assert clock[0] - began == 3 * TIMEOUT


def test_p4_silence_fails_after_one_time_out_as_before(clock: list[float]) -> None:
    opened = bounded(SlowSocket(clock, [(9.0, 1), (60.0, 1)]))
    opened.sendall(b"GET")
    began = clock[0]
    opened.recv(100)
    with pytest.raises(TimeoutError):
        opened.recv(100)
    assert clock[0] - began == 9.0 + TIMEOUT


def test_a_large_reply_on_a_slow_line_arrives(clock: list[float]) -> None:
    """A megabyte, at 16 KiB in 27 seconds: 0.6 KiB a second."""
    opened = bounded(SlowSocket(clock, [(9.0, 5462)] * 192))
    opened.sendall(b"GET")
    received = sum(len(opened.recv(65536)) for _ in range(192))
    assert received >= 2**20


def test_a_large_beginning_earns_no_time_for_a_rest_that_drips(clock: list[float]) -> None:
    opened = bounded(SlowSocket(clock, [(0.0, 65536)] * 100 + [(9.0, 1)] * 1000))
    opened.sendall(b"GET")
    began = clock[0]
    with pytest.raises(TimeoutError):
        for_ever(partial(opened.recv, 65536))
    assert clock[0] - began == 3 * TIMEOUT


def test_each_call_of_a_connection_has_its_own_time_and_a_pause_between_two_counts_for_none(clock: list[float]) -> None:
    slow = SlowSocket(clock, [(9.0, 1)] * 30)
    opened = bounded(slow)
    for _ in range(10):
        opened.sendall(b"GET")
        for _ in range(3):
            opened.recv(100)
        clock[0] += 3600.0
        assert slow.timeout == TIMEOUT, "what is sent next has all of it"


def test_the_pools_look_for_stray_data_does_not_wait(clock: list[float]) -> None:
    slow = SlowSocket(clock, [(9.0, 1)] * 2)
    opened = bounded(slow)
    opened.sendall(b"GET")
    opened.recv(100)
    opened.settimeout(0.0)
    with pytest.raises(BlockingIOError):
        opened.recv(100)
    assert slow.waits == [TIMEOUT, 0.0]


class Dripping:
    """Answers a call byte by byte, until the client has had enough. That takes 20 seconds, if it does not."""

    def __init__(self) -> None:
        self.finished = 0

    def __call__(self, connection: socket.socket) -> None:
        connection.recv(4096)
        for byte in b"$4000\r\n" + b"x" * 4000 + b"\r\n":
            connection.sendall(bytes([byte]))
            threading.Event().wait(0.005)
        self.finished += 1

    def over_tls(self, certificate: Path) -> Callable[[socket.socket, int], None]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)

        def serve(connection: socket.socket, _number: int) -> None:
            with context.wrap_socket(connection, server_side=True) as encrypted:
                self(encrypted)

        return serve


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster"])
async def test_p10_a_server_that_drips_is_an_outage(scheme: str, tmp_path: Path) -> None:
    dripping = Dripping()
    ca_file, serve = None, lambda connection, _: dripping(connection)
    if scheme.startswith("rediss"):
        authority = Authority(tmp_path)
        ca_file, serve = authority.file, dripping.over_tls(authority.certificate("127.0.0.1"))
    with scripted_server(serve) as server:
        url = f"{scheme}://127.0.0.1:{server.port}" + ("/master" if "sentinel" in scheme else "")
        async with RedisCheckpointStore(url, owner="o", ca_file=ca_file, socket_timeout_seconds=0.3) as store:
            with pytest.raises(RedisOperationError) as caught:
                await store.ping()
        assert caught.value.transient
        assert server.connections
    assert not dripping.finished


async def test_p10_a_server_that_drips_on_a_unix_socket_is_an_outage(tmp_path: Path) -> None:
    dripping, path = Dripping(), tmp_path / "redis.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                dripping(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        async with RedisCheckpointStore(f"unix://{path}", socket_timeout_seconds=0.3) as store:
            with pytest.raises(RedisOperationError, match="Timeout") as caught:
                await store.ping()
        thread.join(60)
    assert caught.value.transient
    assert not dripping.finished


@pytest.mark.parametrize("kind", [BoundedSentinelConnection, BoundedSentinelTlsConnection])
def test_the_connections_to_a_sentinels_master_are_bounded_too(kind: type) -> None:
    """Outermost, as TLS wraps the socket of the class below it."""
    assert kind.__mro__[1] is BoundedConnection.__mro__[1]
