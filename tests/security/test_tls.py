"""TLS to S3 and Redis, on real sockets: who is trusted, who is not, and what a person is told."""

from __future__ import annotations

import ast
import os
import resource
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from servers.authority import Authority
from servers.command import command
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.endpoints import free_port
from servers.store import Store
from servers.tls_front import tls_front
from servers.valkey import ValkeyServer
from structlog.testing import capture_logs

import cef_trio
from cef_trio.checkpoint.redis.address import parse_address
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.exceptions import OperationError, RedisOperationError, S3OperationError, WebhookOperationError
from cef_trio.http.tls import TrustedCertificates, client_context, explain_refused_certificate
from cef_trio.s3.client import S3Client
from cef_trio.s3.config import S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.signing import Credentials
from cef_trio.webhook.client import Delivery, WebhookClient

PACKAGE = Path(cef_trio.__file__).parent


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def s3_port(embedded: Store) -> int:
    port = urlsplit(embedded.endpoint.url).port
    assert port is not None
    return port


# -- Redis -------------------------------------------------------------------------------------------------------------


async def ping(url: str, ca_file: Path | None) -> None:
    async with RedisCheckpointStore(url, ca_file=ca_file, socket_timeout_seconds=5) as store:
        await store.ping()


async def refused_ping(url: str, ca_file: Path | None) -> RedisOperationError:
    with pytest.raises(RedisOperationError) as caught:
        await ping(url, ca_file)
    return caught.value


@pytest.mark.real
async def test_redis_is_trusted_by_its_authority_its_name_and_its_dates(
    tmp_path: Path, authority: Authority, valkey: ValkeyServer
) -> None:
    other = Authority(tmp_path, "another authority")
    with tls_front(tmp_path, authority.certificate("127.0.0.1"), to_port=valkey.port) as port:
        await ping(f"rediss://127.0.0.1:{port}/0", authority.file)
        for ca_file in (None, other.file):
            error = await refused_ping(f"rediss://127.0.0.1:{port}/0", ca_file)
            assert error.certificate_refused
            assert "the server's certificate is not trusted (unable to get local issuer certificate)" in str(error)
            assert "set REDIS_CA_FILE" in str(error)
        error = await refused_ping(f"rediss://localhost:{port}/0", authority.file)
        assert error.certificate_refused
        assert "Hostname mismatch" in str(error)
        assert "REDIS_URL must name the host as its certificate does" in str(error)
    with tls_front(tmp_path, authority.certificate("127.0.0.1", hours=-1), to_port=valkey.port) as port:
        error = await refused_ping(f"rediss://127.0.0.1:{port}/0", authority.file)
        assert error.certificate_refused
        assert "expired" in str(error)


@pytest.mark.real
async def test_redis_over_an_old_protocol_is_not_spoken_to(
    tmp_path: Path, authority: Authority, valkey: ValkeyServer
) -> None:
    with tls_front(tmp_path, authority.certificate("127.0.0.1"), to_port=valkey.port, old=True) as port:
        context = ssl.create_default_context(cafile=authority.file)
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as spoken,
        ):
            assert spoken.version() == "TLSv1.1", "the server accepts it"
        error = await refused_ping(f"rediss://127.0.0.1:{port}/0", authority.file)
        assert "PROTOCOL" in str(error).upper()


@pytest.mark.real
async def test_a_redis_that_asks_for_a_clients_certificate_gets_the_urls(
    tmp_path: Path, authority: Authority, valkey: ValkeyServer
) -> None:
    own = authority.certificate("a-daemon")
    certificate = authority.certificate("127.0.0.1")
    with tls_front(tmp_path, certificate, to_port=valkey.port, client_authority=authority.file) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        await ping(f"{url}?ssl_certfile={own}", authority.file)
        await ping(f"{url}?ssl_certfile={own}&ssl_keyfile={own}", authority.file)
        error = await refused_ping(url, authority.file)
        assert error.certificate_refused
        assert "the server requires a client certificate that it trusts" in str(error)
        other = Authority(tmp_path, "another authority").certificate("a-daemon")
        assert (await refused_ping(f"{url}?ssl_certfile={other}", authority.file)).certificate_refused


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h/0?ssl_certfile=/x.pem", "unknown option 'ssl_certfile'"),
        ("rediss://h/0?ssl_keyfile=/x.pem", "belongs to an ssl_certfile"),
        ("rediss://h/0?ssl_cert_reqs=none", "unknown option 'ssl_cert_reqs'"),
        ("rediss://h/0?ssl_check_hostname=false", "unknown option 'ssl_check_hostname'"),
    ],
)
def test_a_url_can_name_a_clients_certificate_and_turn_nothing_off(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_address(url)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_clients_certificate_that_cannot_be_read_is_reported_at_once(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "client.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"REDIS_URL: no client's certificate and key can be read from '{path}'"):
        RedisCheckpointStore(f"rediss://h/0?ssl_certfile={path}")


# -- S3 ----------------------------------------------------------------------------------------------------------------


def s3_config(embedded: Store, url: str, ca_file: Path | None) -> S3Config:
    keys = Credentials(embedded.endpoint.access_key, embedded.endpoint.secret_key, None)
    return S3Config(
        bucket=embedded.endpoint.bucket, credentials=StaticCredentials(keys), endpoint_url=url, ca_file=ca_file
    )


async def refused_head(config: S3Config) -> S3OperationError:
    async with S3Client(config) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.head_bucket()
    return caught.value


@pytest.mark.real
async def test_s3_is_trusted_by_its_authority_its_name_and_its_dates(
    tmp_path: Path, authority: Authority, embedded: Store
) -> None:
    with tls_front(tmp_path, authority.certificate("127.0.0.1"), to_port=s3_port(embedded)) as port:
        url = f"https://127.0.0.1:{port}"
        async with S3Client(s3_config(embedded, url, authority.file)) as client:
            await client.head_bucket()
        error = await refused_head(s3_config(embedded, url, None))
        assert error.certificate_refused
        assert "is not trusted (unable to get local issuer certificate); set S3_CA_FILE" in str(error)
        error = await refused_head(s3_config(embedded, f"https://localhost:{port}", authority.file))
        assert error.certificate_refused
        assert "S3_ENDPOINT_URL must name the host as its certificate does" in str(error)
    with tls_front(tmp_path, authority.certificate("127.0.0.1", hours=-1), to_port=s3_port(embedded)) as port:
        error = await refused_head(s3_config(embedded, f"https://127.0.0.1:{port}", authority.file))
        assert error.certificate_refused
        assert "renew it on the server" in str(error)


@pytest.mark.real
async def test_s3_over_an_old_protocol_is_not_spoken_to(tmp_path: Path, authority: Authority, embedded: Store) -> None:
    with tls_front(tmp_path, authority.certificate("127.0.0.1"), to_port=s3_port(embedded), old=True) as port:
        error = await refused_head(s3_config(embedded, f"https://127.0.0.1:{port}", authority.file))
        assert "PROTOCOL" in str(error).upper()


# -- the daemon --------------------------------------------------------------------------------------------------------


@pytest.fixture
def over_tls(
    tmp_path: Path, watch_dir: Path, authority: Authority, embedded: Store, valkey: ValkeyServer
) -> Iterator[Mapping[str, str]]:
    """The settings of a daemon whose S3 and Redis speak TLS, by a certificate of our authority."""
    certificate = authority.certificate("127.0.0.1")
    with (
        tls_front(tmp_path, certificate, to_port=valkey.port) as redis_port,
        tls_front(tmp_path, certificate, to_port=s3_port(embedded)) as port,
    ):
        bucket = replace(embedded.endpoint, url=f"https://127.0.0.1:{port}")
        yield settings_for(
            watch_dir,
            bucket,
            f"rediss://127.0.0.1:{redis_port}/0",
            s3_ca_file=authority.file,
            redis_ca_file=authority.file,
            close_grace_seconds=0.2,
        )


@pytest.mark.real
def test_a_recording_arrives_over_tls(over_tls: Mapping[str, str], watch_dir: Path, embedded: Store) -> None:
    with daemon(over_tls) as process:
        (watch_dir / "a.mp4").write_bytes(os.urandom((5 << 20) + 1))
        process.wait_for("stream_completed")
        assert process.stop() == 0
    embedded.assert_identical(watch_dir / "a.mp4")


@pytest.mark.real
@pytest.mark.parametrize("variable", ["S3_CA_FILE", "REDIS_CA_FILE"])
def test_a_start_does_not_wait_for_an_authority_that_is_not_configured(
    over_tls: Mapping[str, str], variable: str
) -> None:
    settings = {name: value for name, value in over_tls.items() if name != variable}
    with daemon(settings, wait_started=False) as process:
        assert process.wait() == 4
        assert f"set {variable}" in refused_at_start(process)
    asked = command("list", settings=settings, code=None)
    # It asks Redis alone.
    assert (asked.returncode, "set REDIS_CA_FILE" in asked.stderr) == (
        (4, True) if variable == "REDIS_CA_FILE" else (0, False)
    )


def refused_at_start(process: DaemonProcess) -> str:
    (event,) = [event for event in process.events if event["event"] == "refused_at_start"]
    return str(event["error"])


@pytest.mark.real
def test_a_certificate_that_runs_out_while_the_daemon_runs_is_an_outage_that_ends_no_stream(
    tmp_path: Path, watch_dir: Path, authority: Authority, embedded: Store, valkey: ValkeyServer
) -> None:
    good, expired = authority.certificate("127.0.0.1"), authority.certificate("127.0.0.1", hours=-1)
    front = partial(tls_front, tmp_path, to_port=s3_port(embedded), port=free_port())
    with ExitStack() as stack:
        with front(good) as port:
            settings = settings_for(
                watch_dir,
                replace(embedded.endpoint, url=f"https://127.0.0.1:{port}"),
                valkey.url,
                s3_ca_file=authority.file,
                close_grace_seconds=0.2,
                retry_attempts=2,
                retry_initial_seconds=0.05,
                retry_max_seconds=0.2,
                retry_stream_max_seconds=0.5,
            )
            process = stack.enter_context(daemon(settings))
        with front(expired):
            (watch_dir / "a.mp4").write_bytes(b"x" * 1000)
            assert "renew it on the server" in str(process.wait_for("outage_started", service="s3")["error"])
        with front(good):
            process.wait_for("stream_completed")
        assert process.count("stream_failed") == 0
        assert process.stop() == 0
    embedded.assert_identical(watch_dir / "a.mp4")


@pytest.mark.real
def test_p6_renewed_certificates_are_read_again_and_uploads_go_on_without_a_restart(
    tmp_path: Path, watch_dir: Path, authority: Authority, embedded: Store, valkey: ValkeyServer
) -> None:
    """The servers come back with certificates of a new authority; its own reaches the daemon's file a moment later."""
    new = Authority(tmp_path, "a new authority")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.file.read_bytes())
    ports = {s3_port(embedded): free_port(), valkey.port: free_port()}

    def serve(stack: ExitStack, signer: Authority) -> None:
        certificate = signer.certificate("127.0.0.1")
        for to_port, port in ports.items():
            stack.enter_context(tls_front(tmp_path, certificate, to_port=to_port, port=port))

    settings = settings_for(
        watch_dir,
        replace(embedded.endpoint, url=f"https://127.0.0.1:{ports[s3_port(embedded)]}"),
        f"rediss://127.0.0.1:{ports[valkey.port]}/0",
        s3_ca_file=ca_file,
        redis_ca_file=ca_file,
        close_grace_seconds=0.2,
        retry_attempts=2,
        retry_initial_seconds=0.05,
        retry_max_seconds=0.2,
        retry_stream_max_seconds=0.5,
    )
    with ExitStack() as stack:
        with ExitStack() as before:
            serve(before, authority)
            process = stack.enter_context(daemon(settings))
            writer = stack.enter_context((watch_dir / "a.mp4").open("wb"))
            writer.write(os.urandom(5 << 20))
            writer.flush()
            process.wait_for("part_uploaded", part_number=1)
        serve(stack, new)
        writer.write(os.urandom(5 << 20))
        writer.flush()
        for service in ("s3", "redis"):
            process.wait_for("outage_started", service=service)
        ca_file.write_bytes(new.file.read_bytes())
        writer.close()
        process.wait_for("stream_completed")
        assert process.count("certificates_reloaded", setting="S3_CA_FILE") == 1
        assert process.count("stream_failed") == 0
        assert process.stop() == 0
    embedded.assert_identical(watch_dir / "a.mp4")


@pytest.mark.real
async def test_a_new_connection_takes_the_certificates_as_they_are_and_a_renewal_opens_one(
    tmp_path: Path, authority: Authority, embedded: Store
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.file.read_bytes())
    with tls_front(tmp_path, authority.certificate("127.0.0.1"), to_port=s3_port(embedded)) as port:
        async with S3Client(s3_config(embedded, f"https://127.0.0.1:{port}", ca_file)) as client:
            await client.head_bucket()
            ca_file.write_bytes(b"half of a certif")  # during a replacement
            client.renew_connections()
            await client.head_bucket()
            ca_file.write_bytes(Authority(tmp_path, "another authority").file.read_bytes())
            await client.head_bucket()  # on the connection that there is
            client.renew_connections()  # what SIGHUP does
            with pytest.raises(S3OperationError, match="set S3_CA_FILE"):
                await client.head_bucket()
            ca_file.write_bytes(authority.file.read_bytes())
            await client.head_bucket()


@pytest.mark.real
async def test_a_webhooks_receiver_with_a_renewed_certificate_is_trusted_without_a_restart(
    tmp_path: Path, authority: Authority, embedded: Store
) -> None:
    new = Authority(tmp_path, "a new authority")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.file.read_bytes())
    port = free_port()
    delivery = Delivery("id", "stream", b"{}")
    async with WebhookClient(
        f"https://127.0.0.1:{port}/", secret=None, timeout_seconds=10, now=lambda: datetime.now(UTC), ca_file=ca_file
    ) as client:
        for signer in (authority, new):
            with tls_front(tmp_path, signer.certificate("127.0.0.1"), to_port=s3_port(embedded), port=port):
                if signer is new:
                    with pytest.raises(WebhookOperationError, match="set WEBHOOK_CA_FILE"):
                        async with client.post(delivery):
                            pass
                    ca_file.write_bytes(new.file.read_bytes())
                async with client.post(delivery) as answer:
                    assert answer.status  # any: it was the receiver's


# -- the source --------------------------------------------------------------------------------------------------------

OFF = {"CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context", "_create_stdlib_context", "PROTOCOL_TLS"}


def turned_off(source: str) -> list[str]:
    """Every place in the source that could turn a verification off."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in OFF:
                found.append(name)
            case ast.keyword(arg=("verify" | "check_hostname" | "ssl_check_hostname"), value=ast.Constant(value=False)):
                found.append(str(node.arg))
            case ast.Dict(keys=keys, values=values):
                named = {getattr(key, "value", None): value for key, value in zip(keys, values, strict=True)}
                for name, right in (("ssl_check_hostname", True), ("ssl_cert_reqs", "required")):
                    if name in named and getattr(named[name], "value", None) != right:
                        found.append(name)
            case ast.Assign(targets=[ast.Attribute(attr=("check_hostname" | "verify_mode") as name)]):
                found.append(name)
    return found


def test_no_line_of_ours_turns_a_verification_off() -> None:
    found = {path.name: turned_off(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert len(found) > 100
    assert {name: places for name, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "line",
    [
        "x.verify_mode = ssl.CERT_NONE",
        "httpx.Client(verify=False)",
        "context.check_hostname = False",
        "ssl._create_unverified_context()",
        "{'ssl_cert_reqs': 'none'}",
        "{'ssl_check_hostname': False}",
    ],
)
def test_the_check_of_the_source_finds_each_way(line: str) -> None:
    assert turned_off(line)


def test_only_tls_1_2_and_newer_and_only_verified(tmp_path: Path, authority: Authority) -> None:
    for ca_file in (None, authority.file):
        context = client_context(ca_file)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert len(client_context(authority.file).get_ca_certs()) == 1, "that authority, and no other"


def test_a_system_without_certificates_has_those_that_come_with_us(monkeypatch: pytest.MonkeyPatch) -> None:
    class Paths:
        cafile = None
        capath = None

    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    monkeypatch.setenv("SSL_CERT_DIR", "/no/such/folder")
    assert len(client_context(None).get_ca_certs()) > 50


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Refuse to open anything, as when all descriptors are in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("whose", ["ours", "the system's"])
async def test_p6_certificates_that_change_while_there_is_no_descriptor_are_read_later(
    whose: str, tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were never read again, and the renewed server stayed an outage until a restart."""
    file, folder = tmp_path / "ca.pem", tmp_path / "no certificates"
    file.write_bytes(authority.file.read_bytes())
    folder.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    trusted = TrustedCertificates("S3_CA_FILE", file if whose == "ours" else None)
    before = (await trusted.current_context()).get_ca_certs()
    assert len(before) == 1
    with capture_logs() as events:
        file.write_bytes(authority.file.read_bytes() + Authority(tmp_path, "another authority").file.read_bytes())
        with without_descriptors():
            for _ in range(3):
                assert (await trusted.current_context()).get_ca_certs() == before
        for _ in range(3):
            assert len((await trusted.current_context()).get_ca_certs()) == 2
    assert [event["event"] for event in events] == ["certificates_not_read", "certificates_reloaded"]


def test_an_error_that_has_nothing_to_do_with_certificates_is_none_of_theirs() -> None:
    looped = OperationError("x", "y")
    looped.__context__ = OperationError("x", "z")
    looped.__context__.__context__ = looped
    for error in (looped, ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), OSError("x")):
        assert explain_refused_certificate(error, ca_setting="A", address_setting="B") is None
