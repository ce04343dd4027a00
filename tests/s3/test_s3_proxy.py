"""``S3_PROXY_URL``: both forms on real sockets, a log-in, and whose every failure is."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from pydantic import SecretStr
from servers.authority import Authority
from servers.endpoints import closed_port
from servers.http_proxy import HttpProxy as ProxyServer
from servers.http_proxy import http_proxy
from servers.store import Store
from servers.tls_front import tls_front
from waiting import WAIT_SECONDS

from cef_trio.exceptions import S3OperationError, WebhookOperationError
from cef_trio.http import HttpProxy
from cef_trio.resilience.outage import is_outage
from cef_trio.s3.body import BytesSource
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.signing import Credentials
from cef_trio.settings import values
from cef_trio.webhook.client import Delivery, WebhookClient

pytestmark = pytest.mark.real
LOGIN = "an%20user:pa%3Ass"
DECODED = "an user:pa:ss"
NAMES = ("a.mp4", "a b/ä+?#%.mp4", "x/../y", "./z")


def config_of(
    embedded: Store,
    proxy_url: str,
    url: str = "",
    ca_file: Path | None = None,
    *,
    connect_seconds: float = WAIT_SECONDS,
) -> S3Config:
    keys = Credentials(embedded.endpoint.access_key, embedded.endpoint.secret_key)
    url = url or embedded.endpoint.url
    return S3Config(
        bucket=embedded.endpoint.bucket,
        credentials=StaticCredentials(keys),
        endpoint_url=url,
        ca_file=ca_file,
        proxy=HttpProxy.of_url(proxy_url, setting="S3_PROXY_URL", tls=url.startswith("https")),
        connect_timeout_seconds=connect_seconds,
        read_timeout_seconds=WAIT_SECONDS,
    )


async def refused(config: S3Config) -> S3OperationError:
    async with S3Client(config) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.head_bucket()
    assert caught.value.transient
    assert is_outage(caught.value)
    assert "pa" + ":ss" not in str(caught.value)
    return caught.value


async def put_and_read(config: S3Config) -> None:
    """Every kind of name, so that the signed target is the one that S3 sees."""
    async with S3Client(config) as client:
        for name in NAMES:
            await client.put_object(f"streams/{name}", BytesSource(name.encode()), content_type="text/plain")
            stored = await client.head_object(f"streams/{name}")
            assert stored is not None
            assert stored.size_bytes == len(name.encode())


async def test_plain_http_goes_to_the_proxy_in_absolute_form(embedded: Store) -> None:
    with http_proxy(DECODED) as proxy:
        await put_and_read(config_of(embedded, proxy.url_with(LOGIN)))
        assert {method for method, _ in proxy.requests} == {"PUT", "HEAD"}
        assert all(target.startswith(f"{embedded.endpoint.url}/") for _, target in proxy.requests)


async def test_https_goes_through_a_tunnel_and_the_servers_certificate_is_checked(
    tmp_path: Path, embedded: Store
) -> None:
    authority = Authority(tmp_path)
    to_port = urlsplit(embedded.endpoint.url).port or 0
    with (
        tls_front(tmp_path, authority.certificate("127.0.0.1"), to_port=to_port) as port,
        http_proxy(DECODED) as proxy,
    ):
        url = f"https://127.0.0.1:{port}"
        await put_and_read(config_of(embedded, proxy.url_with(LOGIN), url, authority.file))
        assert set(proxy.requests) == {("CONNECT", f"127.0.0.1:{port}")}
        assert all(b"authorization: AWS4" not in head for head in proxy.heads)
        opened = proxy.opened
        assert opened < len(NAMES)  # a tunnel is kept alive
        error = await refused_certificate(config_of(embedded, proxy.url_with(LOGIN), url))
        assert "set S3_CA_FILE" in str(error)


async def refused_certificate(config: S3Config) -> S3OperationError:
    async with S3Client(config) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.head_bucket()
    assert caught.value.certificate_refused
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_log_in_that_is_missing_is_the_proxys_and_says_what_to_do(embedded: Store, scheme: str) -> None:
    with http_proxy(DECODED) as proxy:
        url = embedded.endpoint.url.replace("http", scheme)
        error = await refused(config_of(embedded, proxy.url_with("an:other"), url))
        assert "407" in str(error)
        assert "set its user and password in S3_PROXY_URL" in str(error)
        assert f"127.0.0.1:{proxy.port} of S3_PROXY_URL" in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("status", [403, 404, 500, 502, 503, 504])
async def test_a_refusal_of_the_proxy_says_nothing_about_the_bucket(embedded: Store, scheme: str, status: int) -> None:
    with http_proxy() as proxy:
        proxy.refusal = status
        error = await refused(config_of(embedded, proxy.url, embedded.endpoint.url.replace("http", scheme)))
        assert str(status) in str(error)
        assert f"the proxy 127.0.0.1:{proxy.port} of S3_PROXY_URL" in str(error)
        assert error.code == ("ProxyError" if scheme == "https" else "NotS3Answer")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_not_there_is_named(embedded: Store, scheme: str) -> None:
    url = embedded.endpoint.url.replace("http", scheme)
    with closed_port() as port:
        error = await refused(config_of(embedded, f"http://127.0.0.1:{port}", url))
    assert error.code == "ProxyError"
    assert "of S3_PROXY_URL cannot be reached" in str(error)


def is_silent(proxy: ProxyServer) -> None:
    proxy.is_silent = True


def answers_itself(proxy: ProxyServer) -> None:
    proxy.serve_one = lambda client: client.sendall(b"220 mail.example.com ESMTP\r\n")  # type: ignore[method-assign]


def hangs_up(proxy: ProxyServer) -> None:
    proxy.serve_one = lambda client: None  # type: ignore[method-assign]


def reads_and_hangs_up(proxy: ProxyServer) -> None:
    def serve_one(client: socket.socket) -> None:
        client.recv(65536)

    proxy.serve_one = serve_one  # type: ignore[method-assign]


@pytest.mark.parametrize("behave", [is_silent, answers_itself, hangs_up, reads_and_hangs_up])
async def test_a_proxy_that_does_not_speak_http_is_named_in_time(
    embedded: Store, behave: Callable[[ProxyServer], None]
) -> None:
    with http_proxy() as proxy:
        behave(proxy)
        url = embedded.endpoint.url.replace("http", "https")
        with trio.fail_after(WAIT_SECONDS):
            error = await refused(config_of(embedded, proxy.url, url, connect_seconds=0.5))
        assert error.code == "ProxyError"
        assert f"the proxy 127.0.0.1:{proxy.port} of S3_PROXY_URL" in str(error)
        assert "event type" not in str(error), "words of h11 are no operator's"


async def test_p7_failed_and_cancelled_tunnels_leave_no_place_in_the_pool_taken(
    tmp_path: Path, embedded: Store
) -> None:
    """More often than the pool has places: a server that never begins TLS, and one whose certificate is refused."""
    authority = Authority(tmp_path)
    to_port = urlsplit(embedded.endpoint.url).port or 0
    with (
        tls_front(tmp_path, authority.certificate("127.0.0.1"), to_port=to_port) as port,
        http_proxy() as silent,
        http_proxy() as proxy,
    ):
        silent.is_silent = True
        untrusted = config_of(embedded, proxy.url, f"https://127.0.0.1:{port}")
        stuck = config_of(embedded, proxy.url, f"https://127.0.0.1:{silent.port}", authority.file)
        for config in (untrusted, stuck):
            async with S3Client(replace(config, max_connections=2)) as client:
                for _ in range(6):
                    with trio.move_on_after(0.2), pytest.raises(S3OperationError):
                        await client.head_bucket()
                assert len(client._transport._transport._pool.connections) == 0  # type: ignore[attr-defined]


async def test_a_webhook_has_a_proxy_of_its_own(embedded: Store) -> None:
    with http_proxy(DECODED) as proxy:
        for login in (LOGIN, "an:other"):
            client = WebhookClient(
                f"{embedded.endpoint.url}/hook",
                secret=None,
                timeout_seconds=WAIT_SECONDS,
                now=lambda: datetime.now(UTC),
                proxy=HttpProxy.of_url(proxy.url_with(login), setting="WEBHOOK_PROXY_URL", tls=False),
            )
            async with client, client.post(Delivery("1", "1", b"{}")) as response:
                assert (response.status == 407) == (login != LOGIN)  # a response, which the deliverer judges
        assert proxy.requests[0] == ("POST", f"{embedded.endpoint.url}/hook")
    client = WebhookClient(
        "https://127.0.0.1:9/hook",
        secret=None,
        timeout_seconds=WAIT_SECONDS,
        now=lambda: datetime.now(UTC),
        proxy=HttpProxy.of_url(proxy.url, setting="WEBHOOK_PROXY_URL", tls=True),
    )
    async with client:
        with pytest.raises(WebhookOperationError, match="of WEBHOOK_PROXY_URL cannot be reached"):
            async with client.post(Delivery("1", "1", b"{}")):
                pass


# ---- the setting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "login"),
    [
        ("http://proxy", "proxy", 80, None),
        ("http://proxy:3128/", "proxy", 3128, None),
        ("http://a%40b:c%3Ad@proxy:3128", "proxy", 3128, b"Basic YUBiOmM6ZA=="),
        ("http://user@[::1]:3128", "::1", 3128, b"Basic dXNlcjo="),
    ],
)
def test_a_url_is_understood_and_its_password_not_shown(url: str, host: str, port: int, login: bytes | None) -> None:
    assert values.proxy_url(SecretStr(url)).get_secret_value() == url
    proxy = HttpProxy.of_url(url, setting="S3_PROXY_URL", tls=True)
    assert proxy is not None
    assert (proxy.host, proxy.port, proxy.authorization) == (host, port, login)
    assert "Basic" not in repr(proxy)
    assert HttpProxy.of_url(None, setting="S3_PROXY_URL", tls=True) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://proxy:3128", "must begin with http://"),
        ("socks5://proxy:1080", "must be a URL such as http://proxy.example.com:3128"),
        ("proxy:3128", "must be a URL"),
        ("http://", "must be a URL"),
        ("http://pro xy:3128", "must be a URL"),
        ("http://proxy:0", "must be a URL"),
        ("http://us#er:x@proxy", "must be a URL"),
        ("http://proxy:3128/path", "nothing after the port"),
    ],
)
def test_what_is_no_url_of_a_proxy_is_refused_without_showing_it(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        values.proxy_url(SecretStr(url))
    assert "proxy:" not in str(caught.value)
