"""One POST of a webhook: the request, what is read of the response, and the time-out."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from servers.authority import Authority
from servers.endpoints import closed_port
from thoroughness import LONG
from trio.testing import MockClock
from waiting import WAIT_SECONDS

from cef_trio.exceptions import WebhookOperationError
from cef_trio.http.client_transport import HttpTransport
from cef_trio.webhook.client import Delivery, WebhookClient
from cef_trio.webhook.outcome import DeliveryOutcome, outcome_of_status
from cef_trio.webhook.signature import decode_secret, signature

NOW = datetime(2026, 11, 25, 12, 0, 0, 900_000, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DELIVERY = Delivery("completed_1", "1", b'{"a": 1}\n')
Answering = Callable[[httpx.Request], Awaitable[httpx.Response]]


def client(
    transport: httpx.AsyncBaseTransport | None,
    url: str = "https://me.example:8443/x?token=T",
    secret: str | None = SECRET,
    seconds: float = 5.0,
) -> WebhookClient:
    return WebhookClient(url, secret=secret, timeout_seconds=seconds, now=lambda: NOW, transport=transport)


class Endless(httpx.AsyncByteStream):
    """An endless body."""

    closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    async def aclose(self) -> None:
        self.closed = True


async def test_the_request_is_the_document_signed_and_named() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(204)

    async with client(httpx.MockTransport(answer)) as webhooks, webhooks.post(DELIVERY) as answered:
        assert (answered.status, answered.retry_after_seconds) == (204, None)
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "https://me.example:8443/x?token=T")
    assert request.content == DELIVERY.body
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-length"] == str(len(DELIVERY.body))
    assert request.headers["webhook-id"] == "completed_1"
    assert request.headers["x-cef-trio-stream-id"] == "1"
    timestamp = int(request.headers["webhook-timestamp"])
    assert timestamp == int(NOW.timestamp())
    assert request.headers["webhook-signature"] == signature(
        decode_secret(SECRET), "completed_1", timestamp, DELIVERY.body
    )


async def test_without_a_secret_nothing_is_signed() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    async with client(httpx.MockTransport(answer), secret=None) as webhooks, webhooks.post(DELIVERY):
        pass
    assert "webhook-signature" not in seen[0].headers


async def test_a_redirect_is_not_followed_and_no_body_is_read() -> None:
    body = Endless()
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(307, headers={"location": "http://elsewhere/", "retry-after": "17"}, stream=body)

    async with client(httpx.MockTransport(answer)) as webhooks, webhooks.post(DELIVERY) as answered:
        assert (answered.status, answered.retry_after_seconds) == (307, 17.0)
    assert len(asked) == 1
    assert body.closed


class Slow(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()
        raise AssertionError


async def test_a_hung_receiver_is_abandoned_at_the_time_out(autojump_clock: MockClock) -> None:
    async with client(Slow()) as webhooks:
        with pytest.raises(WebhookOperationError, match="no response within 5 seconds") as caught:
            async with webhooks.post(DELIVERY):
                pass
    assert caught.value.transient
    assert trio.current_time() == 5.0


async def test_an_attempt_is_cancelled_at_once(autojump_clock: MockClock) -> None:
    async with client(Slow()) as webhooks:
        with trio.move_on_after(1) as scope:
            async with webhooks.post(DELIVERY):
                pass
    assert scope.cancelled_caught
    assert trio.current_time() == 1.0


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout])
async def test_no_answer_is_transient_and_no_text_holds_the_urls_token(kind: type[httpx.TransportError]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise kind("", request=request)

    async with client(httpx.MockTransport(answer)) as webhooks:
        with pytest.raises(WebhookOperationError) as caught:
            async with webhooks.post(DELIVERY):
                pass
    assert caught.value.transient
    assert caught.value.status is None
    assert str(caught.value) == f"Webhook operation 'deliver' failed: {kind.__name__} [https://me.example:8443]"


@pytest.mark.real
async def test_a_closed_port_is_an_error_without_a_response() -> None:
    with closed_port() as port:
        async with client(None, f"http://127.0.0.1:{port}/", seconds=WAIT_SECONDS) as webhooks:
            with pytest.raises(WebhookOperationError, match=f"ConnectError.*127.0.0.1:{port}"):
                async with webhooks.post(DELIVERY):
                    pass


@pytest.mark.real
async def test_what_answers_in_no_http_is_no_answer() -> None:
    async def babble(stream: trio.SocketStream) -> None:
        asked = b""
        while not asked.endswith(DELIVERY.body):  # what is left unread would be a reset
            asked += await stream.receive_some()
        await stream.send_all(b"SSH-2.0-hello\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, babble, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with client(None, f"http://127.0.0.1:{port}/", seconds=WAIT_SECONDS) as webhooks:
            with pytest.raises(WebhookOperationError, match="RemoteProtocolError"):
                async with webhooks.post(DELIVERY):
                    pass
        nursery.cancel_scope.cancel()


@pytest.mark.real
async def test_a_receiver_is_trusted_by_the_systems_certificates_as_s3_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator's authority is among the system's, and not in certifi's file."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.certificate("127.0.0.1"))

    async def take(stream: trio.SSLStream[trio.SocketStream]) -> None:
        asked = b""
        while not asked.endswith(DELIVERY.body):
            asked += await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_ssl_over_tcp, take, 0, context, host="127.0.0.1"))
        port = listeners[0].transport_listener.socket.getsockname()[1]
        trusting = client(None, f"https://127.0.0.1:{port}/", seconds=WAIT_SECONDS)
        async with trusting as webhooks, webhooks.post(DELIVERY) as answer:
            assert answer.status == 204
        nursery.cancel_scope.cancel()


def test_a_file_that_holds_no_certificates_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("none")
    with pytest.raises(ValueError, match="WEBHOOK_CA_FILE") as caught:
        WebhookClient("https://x.example", secret=None, timeout_seconds=1, now=lambda: NOW, ca_file=file)
    assert isinstance(caught.value.__cause__, ssl.SSLError)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413])
def test_p6_a_rejection_that_is_a_page_is_retried(status: int) -> None:
    """An ingress without a backend responded with 404, and the delivery was abandoned."""
    assert outcome_of_status(status, "text/html; charset=utf-8") is DeliveryOutcome.RETRY
    assert outcome_of_status(status, "application/json") is DeliveryOutcome.REFUSED
    assert outcome_of_status(410, "text/html") is DeliveryOutcome.REFUSED
    assert outcome_of_status(200, "text/html") is DeliveryOutcome.DELIVERED


class Bytes(httpcore.AsyncNetworkBackend):
    """Every connection sends the same bytes and ends."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        return httpcore.AsyncMockStream([self.raw, b""])


HEADS = st.sampled_from(
    ["200 OK", "404 Not Found", "100 Continue", "101 Switching Protocols", "204 x", "999 \x00", "1 "]
)
FIELDS = st.sampled_from(["retry-after", "content-length", "content-type", "transfer-encoding", "connection", "x"])
VALUES = st.sampled_from(
    ["Fri, 31 Dec 9999 23:59:59 -2359", "9" * 5000, "-1", "nan", "1e400", "chunked", "\xff", "text/html", "0", ""]
)


@settings(max_examples=1000 if LONG else 100, deadline=None)
@given(HEADS, st.lists(st.tuples(FIELDS, VALUES), max_size=4), st.binary(max_size=30), st.integers(0, 200))
def test_any_response_of_a_receiver_raises_only_our_own_exception(
    head: str, fields: list[tuple[str, str]], rest: bytes, cut: int
) -> None:
    raw = f"HTTP/1.1 {head}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"
    answer = (raw.encode("latin-1") + rest)[: cut or None]

    async def main() -> None:
        transport = HttpTransport(None, max_connections=8, keepalive_seconds=5, backend=Bytes(answer))
        async with client(transport, "http://me.example/") as webhooks:
            try:
                async with webhooks.post(DELIVERY) as answered:
                    outcome_of_status(answered.status, answered.content_type)
                    assert answered.retry_after_seconds is None or answered.retry_after_seconds >= 0
            except WebhookOperationError as error:
                assert len(str(error)) < 2000

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"x"])
async def test_endless_headers_hold_a_delivery_no_longer_than_the_time_out(
    piece: bytes, autojump_clock: MockClock
) -> None:
    class Dripping(httpcore.AsyncMockStream):
        first = True

        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            await trio.sleep(1)
            first, self.first = self.first, False
            return b"HTTP/1.1 " if first and piece == b"x" else piece

    class Backend(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
            await trio.lowlevel.checkpoint()
            return Dripping([])

    transport = HttpTransport(None, max_connections=8, keepalive_seconds=5, backend=Backend())
    async with client(transport, "http://me.example/") as webhooks:
        with pytest.raises(WebhookOperationError, match="no response within 5 seconds"):
            async with webhooks.post(DELIVERY):
                pass
    assert trio.current_time() == 5.0


async def test_p7_cookies_are_not_kept() -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(204, headers={"set-cookie": "route=x"})

    async with client(httpx.MockTransport(answer)) as webhooks:
        async with webhooks.post(DELIVERY) as answered:
            assert answered.status == 204
        assert len(webhooks._http.cookies.jar) == 0
