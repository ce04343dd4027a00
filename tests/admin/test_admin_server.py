"""The admin server over real sockets: what it answers, and that no client can hold its end back."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest
import structlog
import trio
from admin.admin_scene import SetSource, registry, serving, stream
from waiting import WAIT_SECONDS, until

from cef_trio.admin import app, server
from cef_trio.admin.connection_limits import ConnectionLimiter, ConnectionSlot, client_of
from cef_trio.admin.origins import is_foreign, is_ours
from cef_trio.admin.server import AdminPortError, serve_admin
from cef_trio.admin.status_page import Phase, ReadyFacts


async def get(port: int, path: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as client:
        return await client.request(method, f"http://127.0.0.1:{port}{path}")


async def test_metrics_are_the_registrys_in_prometheus_text_format() -> None:
    async with serving(SetSource()) as port:
        answer = await get(port, "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "cef_trio_parts_uploaded_total 3.0" in answer.text


async def test_health_and_readiness_are_a_line_a_fact_and_a_status() -> None:
    source = SetSource()
    async with serving(source) as port:
        assert (await get(port, "/healthz")).status_code == 200
        assert (await get(port, "/readyz")).text.splitlines() == [
            "ok: the daemon is running",
            "ok: redis is reachable",
            "ok: s3 is reachable",
        ]
        source.facts = replace(source.facts, watcher_silent_seconds=500.0)
        source.redis_up = False
        unhealthy, unready = await get(port, "/healthz"), await get(port, "/readyz")
    assert unhealthy.status_code == unready.status_code == 503
    assert "NOT OK: the watcher has been silent for 500 s" in unhealthy.text.splitlines()
    assert "NOT OK: redis is not reachable" in unready.text.splitlines()


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "//", "/page.html", "/events/1", "/fleet/", "/fleet.html"])
async def test_other_addresses_are_not_found(path: str) -> None:
    async with serving(SetSource()) as port:
        assert (await get(port, path)).status_code == 404


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/readyz", "/events", "/fleet", "/fleet.json"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_nothing_but_reading_is_allowed(path: str, method: str) -> None:
    async with serving(SetSource()) as port:
        answer = await get(port, path, method)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/healthz", "/readyz", "/events", "/fleet", "/fleet.json", "/nothing"]
)
async def test_no_response_is_cached_or_sniffed_or_may_load_anything(path: str) -> None:
    async with serving(SetSource()) as port:
        answer = await get(port, path, "HEAD")
    assert answer.content == b""
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        *((host, True) for host in ("127.0.0.1:8000", "[::1]:8000", "localhost", "LOCALHOST.:8000", "cef-trio:8000")),
        *((host, True) for host in ("10.0.0.7", "recorder.localhost", "status.example.com:443", "Status.Example.Com.")),
        *((host, False) for host in ("evil.example", "evil.example.:8000", "127.0.0.1.evil.example", "a.b:c", "[x.y]")),
        *((host, False) for host in ("127.0.0.1@evil.example", "evil.example/127.0.0.1", "status.example.com.evil")),
    ],
)
def test_a_request_for_an_unknown_host_name_is_rejected(host: str, ours: bool) -> None:
    assert is_ours(host, {"status.example.com"}) is ours
    assert is_ours(None, ())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/", 421), ("/events", 421), ("/fleet", 421), ("/fleet.json", 421)),
        *(("/metrics", 200), ("/healthz", 200), ("/readyz", 200)),
    ],
)
async def test_names_of_files_are_not_for_a_website_that_took_our_address(path: str, status: int) -> None:
    async with serving(SetSource()) as port, httpx.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}", headers={"host": f"evil.example:{port}"})
    assert answer.status_code == status
    assert ("PROM_ALLOWED_HOSTS" in answer.text) == (status == 421)


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://127.0.0.1:8000/healthz?x", "127.0.0.1:8000", 200),
        ("HTTP://cef-trio/", "cef-trio", 200),
        ("http://cef-trio", "cef-trio", 200),
        ("http://127.0.0.1/../healthz", "127.0.0.1", 404),
        ("http://evil.example/fleet", "127.0.0.1", 421),
        ("http://127.0.0.1@evil.example/", "127.0.0.1", 421),
        ("http:///healthz", "127.0.0.1", 404),
    ],
)
async def test_a_request_in_absolute_form_is_for_the_host_that_it_names(target: str, host: str, status: int) -> None:
    """https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2: servers must accept it, and ignore the header then."""
    async with serving(SetSource()) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join([block async for block in stream])
    assert answer.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(("path", "file"), [("/", "page.html"), ("/fleet", "fleet.html")])
async def test_a_page_is_one_file_that_names_nothing_outside(path: str, file: str) -> None:
    async with serving(SetSource()) as port:
        answer = await get(port, path)
    assert "--accent:" in answer.text  # both have one style
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style="):
        assert word not in answer.text
    assert dict(app.page(file).more_headers)["content-security-policy"].count("'sha256-") == 2


async def test_the_fleet_is_json_and_a_503_until_it_has_been_read() -> None:
    source = SetSource()
    async with serving(source) as port:
        answer = await get(port, "/fleet.json")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        source.known_fleet = '{"daemons":[]}'
        answer = await get(port, "/fleet.json")
    assert (answer.status_code, answer.headers["content-type"], answer.json()) == (
        200,
        "application/json",
        {"daemons": []},
    )


async def test_events_begin_with_a_snapshot_and_go_on_with_changes_and_heartbeats() -> None:
    source = SetSource()
    async with serving(source) as port, listening(port) as events:
        assert (await events.snapshot())["streams"][0]["acknowledged_bytes"] == 40
        assert b"content-type: text/event-stream; charset=utf-8" in events.seen
        ticks = 0
        while ticks < 2:  # nothing changed: only heartbeats come
            line = await events.line()
            assert not line.startswith(b"data: {")
            ticks += line == b"event: tick"
        source.change(streams=(stream("id-1", "a.mp4", acknowledged_bytes=90),))
        assert (await events.snapshot())["streams"][0]["acknowledged_bytes"] == 90
        source.change(phase=Phase.DRAINING)
        assert (await events.snapshot())["phase"] == "draining"


async def test_listeners_have_a_limit_and_those_that_left_count_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_LISTENERS", 1)
    async with serving(SetSource()) as port:
        async with listening(port) as events:
            await events.snapshot()
            assert (await get(port, "/events", "HEAD")).status_code == 503
            assert (await get(port, "/healthz")).status_code == 200
        await until_status(port, "/events", 200)


async def test_a_client_has_its_share_of_the_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_LISTENERS_OF_A_CLIENT", 1)
    async with serving(SetSource()) as port:
        async with listening(port) as events:
            await events.snapshot()
            assert (await get(port, "/events", "HEAD")).status_code == 503
        await until_status(port, "/events", 200)


async def test_a_connection_that_waits_gives_way_to_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    async with serving(SetSource()) as port, httpx.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/metrics")).status_code == 200
        assert (await get(port, "/metrics")).status_code == 200
        assert (await client.get(f"http://127.0.0.1:{port}/metrics")).status_code == 200


async def test_when_all_places_are_taken_only_health_gets_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    async with serving(SetSource()) as port, listening(port) as events:
        await events.snapshot()
        assert (await get(port, "/metrics")).status_code == 503
        for path in ("/healthz", "/readyz"):
            answer = await get(port, path)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        monkeypatch.setattr(server, "RESERVED_CONNECTIONS", 0)
    monkeypatch.setattr(server, "RESERVED_CONNECTIONS", 0)
    async with serving(SetSource()) as port, listening(port) as events:
        await events.snapshot()
        with pytest.raises(httpx.TransportError):
            await get(port, "/healthz")


async def test_a_hundred_silent_connections_keep_no_client_out() -> None:
    async with serving(SetSource()) as port, AsyncExitStack() as silent:
        for _ in range(server.MAX_CONNECTIONS + server.RESERVED_CONNECTIONS + 10):
            client = await silent.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            await client.send_all(b"GET /")
        for path in ("/healthz", "/metrics", "/"):
            assert (await get(port, path)).status_code == 200


async def test_silent_connections_do_not_hold_the_reserve_for_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every place in use, eight of them refused the health checks of all, and so had the container restarted."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    async with serving(SetSource()) as port, listening(port) as events, AsyncExitStack() as silent:
        await events.snapshot()
        for _ in range(server.RESERVED_CONNECTIONS + 2):
            await silent.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
        for path in ("/healthz", "/readyz"):
            assert (await get(port, path)).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n", 405), (b"\x00\r\n\r\n", 400)],
)
async def test_a_client_that_has_its_response_does_not_hold_the_reserve(
    sent: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(server, "RESERVED_CONNECTIONS", 1)
    monkeypatch.setattr(server, "_DISCARD_SECONDS", 1000.0)
    async with serving(SetSource()) as port, listening(port) as events:
        await events.snapshot()
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(sent)
            assert (await client.receive_some()).startswith(f"HTTP/1.1 {status} ".encode())
            assert (await get(port, "/healthz")).status_code == 200


async def test_a_connection_without_a_request_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.1)
    async with serving(SetSource()) as port, await trio.open_tcp_stream("127.0.0.1", port) as client:
        # On a slow machine the server may have closed it before this is sent: then it is broken, not at its end.
        with trio.fail_after(WAIT_SECONDS), suppress(trio.BrokenResourceError):
            await client.send_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
            assert await client.receive_some() == b""


def leaving(left: list[str], name: str) -> Callable[[], None]:
    return lambda: left.append(name)


def test_a_new_connection_displaces_the_oldest_one_that_waits() -> None:
    left: list[str] = []
    limiter = ConnectionLimiter(total=3, for_a_client=2, reserve=1)
    taken: dict[str, ConnectionSlot | None] = {}
    for name in ("a1", "a2", "b1"):
        taken[name] = limiter.acquire(name[0], leaving(left, name))
    assert all(slot is not None and not slot.reserved for slot in taken.values())
    assert limiter.acquire("a", leaving(left, "a3")) is not None
    assert left == ["a1"], "a client with its share makes its own oldest one leave"
    assert limiter.acquire("c", leaving(left, "c1")) is not None
    assert left == ["a1", "a2"], "when all are taken, the oldest one that waits leaves"


def test_places_that_work_do_not_give_way_and_the_reserve_is_last() -> None:
    left: list[str] = []
    limiter = ConnectionLimiter(total=2, for_a_client=2, reserve=1)
    for _ in range(2):
        slot = limiter.acquire("a", leaving(left, "a"))
        assert slot is not None
        slot.idle = False
    reserved = limiter.acquire("b", leaving(left, "b"))
    assert reserved is not None
    assert reserved.reserved
    reserved.idle = False
    assert limiter.acquire("c", leaving(left, "c")) is None
    limiter.release(reserved)
    assert limiter.acquire("c", leaving(left, "c")) is not None
    assert left == []


def test_in_the_reserve_too_those_that_wait_give_way_a_clients_own_first() -> None:
    left: list[str] = []
    limiter = ConnectionLimiter(total=2, for_a_client=2, reserve=2)
    for _ in range(2):
        slot = limiter.acquire("a", leaving(left, "a"))
        assert slot is not None
        slot.idle = False
    for name in ("probe", "a1", "a2", "a3"):
        reserved = limiter.acquire(name[0], leaving(left, name))
        assert reserved is not None
        assert reserved.reserved
    assert left == ["a1", "a2"], "the client's own, not those of others"
    assert limiter.acquire("q", leaving(left, "q")) is not None
    assert left == ["a1", "a2", "probe"], "the oldest one, for a client without any"


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("no address", "no address"),
    ],
)
def test_a_client_is_an_address_or_a_network_of_ipv6(address: str, client: str) -> None:
    assert client_of(address) == client


_LINK = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("headers", "of_the_page", "of_others"),
    [
        ({}, False, False),
        ({"sec-fetch-site": "none"}, False, False),
        ({"sec-fetch-site": "same-origin"}, False, False),
        ({"sec-fetch-site": "same-site"}, True, True),
        ({"sec-fetch-site": "cross-site"}, True, True),
        ({"sec-fetch-site": "cross-site", **_LINK}, False, True),
        ({"sec-fetch-site": "cross-site", **_LINK, "sec-fetch-dest": "iframe"}, True, True),
        ({"origin": "http://recorder:8000"}, False, False),
        ({"origin": "https://RECORDER:8000"}, False, False),
        ({"origin": "http://recorder:9000"}, True, True),
        ({"origin": "http://evil.example"}, True, True),
        ({"origin": "null"}, True, True),
        ({"origin": "http://["}, True, True),
        ({"origin": ""}, True, True),
    ],
)
def test_a_request_from_another_website_is_distinguished_from_the_operators_own(
    headers: dict[str, str], of_the_page: bool, of_others: bool
) -> None:
    header = {"host": "recorder:8000", **headers}.get
    assert is_foreign(header, may_be_opened=True) is of_the_page
    assert is_foreign(header, may_be_opened=False) is of_others


@pytest.mark.parametrize("path", ["/", "/events", "/metrics", "/healthz", "/readyz"])
async def test_another_website_gets_no_answer_and_no_place_among_the_listeners(path: str) -> None:
    async with serving(SetSource()) as port, httpx.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as client:
        for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
            answer = await client.get(f"http://127.0.0.1:{port}{path}", headers=headers)
            assert answer.status_code == 403


UPGRADES = {
    "h2c": b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAMAAABkAAQAAP__\r\n\r\n",
    "websocket": b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize("how", UPGRADES)
async def test_nothing_but_http_1_1_is_spoken(how: str) -> None:
    async with serving(SetSource()) as port, await trio.open_tcp_stream("127.0.0.1", port) as client:
        await client.send_all(UPGRADES[how])
        answer = await client.receive_some()
    status = b"HTTP/1.1 4" if how == "prior knowledge" else b"HTTP/1.1 200"
    assert answer.startswith(status)
    assert b"upgrade" not in answer.lower()


async def test_a_machine_without_descriptors_is_an_outage_of_new_connections_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept, refusals = trio.SocketListener.accept, 3

    async def without(self: trio.SocketListener) -> trio.SocketStream:
        nonlocal refusals
        await trio.lowlevel.checkpoint()
        if refusals:
            refusals -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await accept(self)

    monkeypatch.setattr(server, "_ACCEPT_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(trio.SocketListener, "accept", without)
    with structlog.testing.capture_logs() as events:
        async with serving(SetSource()) as port:
            assert (await get(port, "/healthz")).status_code == 200
    assert [event["event"] for event in events].count("admin_connection_refused") == 1


async def test_a_cancelled_server_ends_at_once_with_a_listener() -> None:
    with trio.fail_after(20):
        async with AsyncExitStack() as still_open:
            async with serving(SetSource()) as port:
                events = await still_open.enter_async_context(listening(port))
                await events.snapshot()
            assert await events.ended()


async def test_a_cancelled_server_ends_at_once_with_a_client_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "SEND_SECONDS", 1000.0)
    source = SetSource()
    source.change(streams=tuple(stream(f"id-{n}", "x" * 5000) for n in range(4000)))
    blocked = trio.Event()
    send_all = trio.SocketStream.send_all

    async def watched(self: trio.SocketStream, data: bytes) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell_when_slow, blocked)
                await send_all(self, data)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught

    monkeypatch.setattr(trio.SocketStream, "send_all", watched)
    with trio.fail_after(30):
        async with serving(source) as port:
            client = await _silent_client(port)
            await blocked.wait()
        await client.aclose()


async def test_a_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_SECONDS", 0.2)
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    source = SetSource()
    source.change(streams=tuple(stream(f"id-{n}", "x" * 5000) for n in range(4000)))
    async with serving(source) as port:
        client = await _silent_client(port)
        await until_status(port, "/metrics", 200)  # unlike health, it has no place in reserve
        await client.aclose()


NONSENSE = [
    b"\x00\xff\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxxxxxx",
    b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 40_000,
    b"",
]


@pytest.mark.parametrize("said", NONSENSE)
async def test_a_client_that_speaks_nonsense_ends_nothing_but_itself(said: bytes) -> None:
    async with serving(SetSource()) as port:
        client = await trio.open_tcp_stream("127.0.0.1", port)
        async with client:
            await client.send_all(said)
        assert (await get(port, "/healthz")).status_code == 200


class ReadyThat(SetSource):
    """A source whose facts are made by a function."""

    def __init__(self, ready: Callable[[], ReadyFacts]) -> None:
        super().__init__()
        self._ready = ready

    def ready(self) -> ReadyFacts:
        return self._ready()


async def test_a_bug_in_a_response_is_a_500_and_ends_nothing_else() -> None:
    def fail() -> ReadyFacts:
        raise ValueError("a bug")

    async with serving(ReadyThat(fail)) as port:
        with structlog.testing.capture_logs() as logs:
            answer = await get(port, "/readyz")
        assert (answer.status_code, answer.text) == (500, "internal error: see the daemon's log\n")
        assert [(one["event"], one["path"]) for one in logs] == [("admin_request_failed", "/readyz")]
        assert (await get(port, "/healthz")).status_code == 200


async def test_a_fact_that_names_a_folder_of_any_bytes_is_one_line_of_text() -> None:
    waits_for = os.fsdecode(b"/caf\xe9\nok: all")
    facts = ReadyFacts(phase=Phase.STARTING, redis_up=True, s3_up=True, waits_for=waits_for)
    async with serving(ReadyThat(lambda: facts)) as port:
        answer = await get(port, "/readyz")
    assert answer.status_code == 503
    assert any("/caf\\udce9\\nok: all" in line for line in answer.text.splitlines())
    assert "ok: all" not in answer.text.splitlines()


@pytest.mark.parametrize("asks", [b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"])
async def test_a_client_that_left_frees_its_place(asks: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    async with serving(SetSource()) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            if asks:
                await client.send_all(asks)
                assert (await client.receive_some()).startswith(b"HTTP/1.1 200")
        await until_status(port, "/healthz", 200)


async def test_a_port_that_is_taken_is_one_clear_line() -> None:
    async with serving(SetSource()) as port:
        with pytest.raises(AdminPortError) as caught:
            await serve_admin(SetSource(), registry(), "127.0.0.1", port)
    assert str(caught.value) == (
        f"PROM_HOST, PROM_PORT: cannot listen at 127.0.0.1 port {port}: Address already in use"
    )


class Events:
    """What a listener of ``/events`` reads, line by line."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._rest = b""
        self.seen: list[bytes] = []

    async def line(self) -> bytes:
        while b"\n" not in self._rest:
            received = await self._stream.receive_some()
            assert received, "the events ended"
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        self.seen.append(line.rstrip(b"\r"))
        return self.seen[-1]

    async def snapshot(self) -> Any:
        while not (line := await self.line()).startswith(b"data: {"):
            pass
        return json.loads(line.removeprefix(b"data: "))

    async def ended(self) -> bool:
        try:
            while await self._stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass  # by a reset
        return True


@asynccontextmanager
async def listening(port: int) -> AsyncIterator[Events]:
    async with await _silent_client(port) as stream:
        yield Events(stream)


async def until_status(port: int, path: str, status: int) -> None:
    async def answered() -> bool:
        with suppress(httpx.TransportError):
            return (await get(port, path, "HEAD")).status_code == status
        return False

    await until(answered)


async def _silent_client(port: int) -> trio.SocketStream:
    client = await trio.open_tcp_stream("127.0.0.1", port)
    await client.send_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
    return client


async def _tell_when_slow(blocked: trio.Event) -> None:
    await trio.sleep(0.5)
    blocked.set()
