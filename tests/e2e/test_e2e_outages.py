"""Outages of real servers: what strikes all is one outage, which ends when what failed works, and costs no recording.

The embedded S3 endpoint as a process with its faults, real Valkeys, a TCP proxy where an address is to lead elsewhere.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.endpoints import Endpoint
from servers.s3_control import arm, disarm_all
from servers.tcp_proxy import tcp_proxy
from servers.valkey import ValkeyServer, valkey_server
from thoroughness import only_long
from waiting import wait_until

pytestmark = pytest.mark.real
PART = 5 << 20
QUICK = {
    "close_grace_seconds": 0.2,
    "stale_check_seconds": 0.5,
    "rescan_seconds": 1,
    "retry_attempts": 2,
    "retry_initial_seconds": 0.1,
    "retry_max_seconds": 0.5,
    "retry_stream_max_seconds": 1,
    "lease_seconds": 10,
}
LONGER = only_long("one of a kind")
REFUSED = [
    ("AccessDenied", "*"),
    ("AccessDenied", "UploadPart"),
    pytest.param("AccessDenied", "CreateMultipartUpload", marks=LONGER),
    pytest.param("QuotaExceeded", "CompleteMultipartUpload", marks=LONGER),
    *(
        pytest.param(code, "*", marks=LONGER)
        for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "QuotaExceeded")
    ),
]


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    with valkey_server(tcp=True) as server:
        yield server


def settings(watch_dir: Path, endpoint: Endpoint, redis_url: str, **more: object) -> dict[str, str]:
    return settings_for(watch_dir, endpoint, redis_url, **{**QUICK, **more})


def uploads_all(process: DaemonProcess, *paths: Path) -> None:
    for path in paths:
        process.wait_for("stream_completed", file=str(path))
    assert process.count("stream_failed") == 0
    assert process.stop() == 0


@pytest.mark.parametrize(("code", "operation"), REFUSED)
def test_p6_a_rejection_of_everything_that_passes_costs_no_recording(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer, code: str, operation: str
) -> None:
    paths = [watch_dir / f"{number}.mp4" for number in range(3)]
    with daemon(settings(watch_dir, endpoint, valkey.url)) as process:
        arm(endpoint, {"kind": "error", "operation": operation, "code": code, "times": None})
        for path in paths:
            path.write_bytes(os.urandom(PART + 1))
        process.wait_for("outage_probe_failed", count=4)
        disarm_all(endpoint)
        uploads_all(process, *paths)
        assert process.count("outage_started", service="s3") == process.count("outage_ended", service="s3") == 1


def test_p10_puts_that_fail_while_heads_succeed_are_one_outage(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    with daemon(settings(watch_dir, endpoint, valkey.url)) as process:
        for operation in ("CreateMultipartUpload", "UploadPart", "PutObject"):
            arm(endpoint, {"kind": "error", "operation": operation, "code": "ServiceUnavailable", "times": None})
        path = watch_dir / "a.mp4"
        path.write_bytes(os.urandom(PART + 1))
        process.wait_for("outage_probe_failed", service="s3", count=6)
        assert process.count("outage_ended", service="s3") == 0
        assert httpx.get(f"http://127.0.0.1:{_port(process)}/readyz", trust_env=False).status_code == 503
        disarm_all(endpoint)
        uploads_all(process, path)
        assert process.count("outage_started", service="s3") == 1


@pytest.mark.parametrize(
    "retry_after", ["Fri, 31 Dec 9999 23:59:59 GMT", pytest.param("86400", marks=LONGER)], ids=["year 9999", "a day"]
)
def test_p10_a_pause_that_s3_asks_for_does_not_outlast_the_outage(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer, retry_after: str
) -> None:
    path = watch_dir / "a.mp4"
    with daemon(settings(watch_dir, endpoint, valkey.url)) as process:
        arm(
            endpoint, {"kind": "error", "operation": "*", "code": "SlowDown", "times": None, "retry_after": retry_after}
        )
        path.write_bytes(os.urandom(PART + 1))
        process.wait_for("outage_probe_failed", count=3)
        disarm_all(endpoint)
        uploads_all(process, path)


def _port(process: DaemonProcess) -> int:
    return int(process.wait_for("admin_server_started")["port"])


@pytest.mark.parametrize(
    ("breaks", "mends"),
    [
        (("maxmemory", "1"), ("maxmemory", "0")),
        pytest.param(("min-replicas-to-write", "1"), ("min-replicas-to-write", "0"), marks=LONGER),
    ],
    ids=["OOM", "NOREPLICAS"],
)
def test_p10_a_redis_that_refuses_writes_and_answers_ping_is_one_outage(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer, breaks: tuple[str, str], mends: tuple[str, str]
) -> None:
    with daemon(settings(watch_dir, endpoint, valkey.url)) as process:
        assert valkey.command("CONFIG", "SET", *breaks) == b"+OK\r\n"
        path = watch_dir / "a.mp4"
        path.write_bytes(os.urandom(PART + 1))
        process.wait_for("outage_probe_failed", service="redis", count=6)
        assert process.count("outage_ended", service="redis") == 0
        assert valkey.command("CONFIG", "SET", *mends) == b"+OK\r\n"
        uploads_all(process, path)
        assert process.count("outage_started", service="redis") == 1


@pytest.mark.parametrize("told", [False, pytest.param(True, marks=LONGER)], ids=["by itself", "by SIGHUP"])
def test_p6_a_password_that_is_changed_is_read_again_from_its_file(
    tmp_path: Path, watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer, told: bool
) -> None:
    secret = tmp_path / "redis_url"

    def change(password: str) -> None:
        assert valkey.command("ACL", "SETUSER", "daemon", "on", f">{password}", "~*", "&*", "+@all") == b"+OK\r\n"
        secret.write_text(f"redis://daemon:{password}@127.0.0.1:{valkey.port}/0\n")
        secret.chmod(0o600)

    change("the-first-password")
    given = settings(watch_dir, endpoint, "")
    del given["REDIS_URL"]
    with daemon({**given, "REDIS_URL_FILE": str(secret)}) as process:
        change("another-password")
        if told:
            process.signal(signal.SIGHUP)
            process.wait_for("settings_reloaded", renewed=["REDIS_URL"])
        assert valkey.command("ACL", "SETUSER", "daemon", "<the-first-password").startswith(b"+OK")
        valkey.command("CLIENT", "KILL", "USER", "daemon")
        path = watch_dir / "a.mp4"
        path.write_bytes(os.urandom(PART + 1))
        uploads_all(process, path)
        assert process.count("credentials_renewed", service="redis") == 1
        assert "another-password" not in process.log_path.read_text()


def offset(server: ValkeyServer) -> bytes:
    """How far a server is in the stream of the replication."""
    (found,) = re.findall(rb"\bmaster_repl_offset:(\d+)", server.command("INFO", "replication"))
    return bytes(found)


def test_p10_redis_that_fails_over_behind_its_address_is_followed_to_the_new_master(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    """The old master becomes a replica, which answers PING and every read, over connections that stay open."""
    with valkey_server(tcp=True, arguments=["--replicaof", "127.0.0.1", str(valkey.port)]) as other:
        wait_until(lambda: b"master_link_status:up" in other.command("INFO", "replication"))
        with (
            tcp_proxy(valkey.port) as proxy,
            daemon(settings(watch_dir, endpoint, f"redis://127.0.0.1:{proxy.port}/0")) as process,
        ):
            path = watch_dir / "a.mp4"
            with path.open("wb") as writer:
                writer.write(os.urandom(PART))
                writer.flush()
                process.wait_for("part_uploaded", part_number=1)
                wait_until(lambda: offset(other) == offset(valkey))  # it has the stream's record
                assert other.command("REPLICAOF", "NO", "ONE") == b"+OK\r\n"
                assert valkey.command("REPLICAOF", "127.0.0.1", str(other.port)) == b"+OK\r\n"
                proxy.lead_to(other.port)
                writer.write(os.urandom(PART))
                writer.flush()
                process.wait_for("part_uploaded", part_number=2)
            uploads_all(process, path)
            assert process.count("outage_started") <= 1
            assert process.count("lease_lost") == 0


def test_p10_s3_connections_to_a_dead_backend_are_not_kept(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    with tcp_proxy(int(endpoint.url.rpartition(":")[2])) as proxy:
        # Long enough for a slow machine, whose late answers would be retries too.
        given = settings(watch_dir, endpoint, valkey.url, s3_read_timeout_seconds=5, s3_write_timeout_seconds=5)
        given["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"
        with daemon(given) as process:
            path = watch_dir / "a.mp4"
            with path.open("wb") as writer:
                writer.write(os.urandom(2 * PART))
                writer.flush()
                process.wait_for("part_uploaded", count=2)
                proxy.swallow()
                writer.write(os.urandom(2 * PART))
            uploads_all(process, path)
            assert process.count("retry") <= 4, "one call finds out, and no other waits for the same backend"


@LONGER
def test_p10_an_s3_that_dies_while_nothing_grows_is_seen_within_two_minutes(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    with tcp_proxy(int(endpoint.url.rpartition(":")[2])) as proxy:
        given = settings(watch_dir, endpoint, valkey.url)
        given["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"
        with daemon(given) as process:
            proxy.lead_to(1)
            process.wait_for("outage_started", service="s3", seconds=120)
            assert httpx.get(f"http://127.0.0.1:{_port(process)}/readyz", trust_env=False).status_code == 503
            proxy.lead_to(int(endpoint.url.rpartition(":")[2]))
            process.wait_for("outage_ended", service="s3")
            assert process.stop() == 0
