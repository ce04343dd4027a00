"""P2, P6: a proxy that responds in the store's place for a while costs only time (real processes)."""

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers.command import answer
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.endpoints import Endpoint
from servers.http_proxy import http_proxy
from servers.ingress import Ingress, ingress
from servers.relay import Relay, address_of
from servers.s3_control import arm, calls
from servers.store import look_into
from servers.valkey import ValkeyServer
from waiting import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024
PART = 5 * MIB


@pytest.fixture
def door(endpoint: Endpoint) -> Iterator[Ingress]:
    with ingress(endpoint.url) as between:
        yield between


def wait_for_error(process: DaemonProcess, words: str) -> None:
    """Wait until the last error of its log has these words."""
    wait_until(
        lambda: words in str([entry["error"] for entry in process.events if "error" in entry][-1:]),
        otherwise=process.tail,
    )


def test_an_ingress_that_answers_pages_for_a_while_loses_nothing(
    endpoint: Endpoint, door: Ingress, valkey: ValkeyServer, watch_dir: Path
) -> None:
    settings = settings_for(
        watch_dir,
        replace(endpoint, url=door.url),
        valkey.url,
        close_grace_seconds=0.2,
        stale_check_seconds=0.5,
        retry_attempts=2,
        retry_max_seconds=0.5,
        retry_stream_max_seconds=1,
        http_proxy="http://127.0.0.1:9",
    )
    path = watch_dir / "camera.mp4"
    with daemon(settings) as process:
        process.wait_for("http_proxy_not_used")
        with path.open("wb") as file:
            file.write(os.urandom(PART + MIB))
            file.flush()
            process.wait_for("part_uploaded", part_number=1)
            door.answer_page(404)
            file.write(os.urandom(PART))
            file.flush()
            began = process.wait_for("outage_started")
            assert "not from the S3 store" in began["error"]
            assert "nginx" in began["error"]
            for status in (403, 413, 200):
                door.answer_page(status)
                wait_for_error(process, f"HTTP {status}")
            door.pass_on()
            process.wait_for("part_uploaded", part_number=2)
        process.wait_for("stream_completed")
        assert process.count("upload_lost") == process.count("stream_failed") == 0
        assert process.count("http_proxy_not_used") == 1
        assert process.stop() == 0
    look_into(endpoint).assert_identical(path)
    assert calls(endpoint)["CreateMultipartUpload"] == 1
    assert calls(endpoint)["UploadPart"] == 3


class HeaderRemover(Relay):
    """A proxy that takes the ETag out of every response, for as long as it is to."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = address_of(upstream)
        self.removes = False
        self.removed = 0

    def serve_one(self, client: socket.socket) -> None:
        with socket.create_connection(self._upstream) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is server and self.removes:
                        data, count = re.subn(rb"\r\netag:[^\r]*", b"", data, flags=re.IGNORECASE)
                        self.removed += count
                    (server if source is client else client).sendall(data)


def test_p6_a_proxy_that_removes_etags_for_a_while_costs_no_recording(
    endpoint: Endpoint, valkey: ValkeyServer, watch_dir: Path
) -> None:
    """Each part, small recording and metadata JSON that was acknowledged without one failed its stream for good."""
    with HeaderRemover(endpoint.url).running() as front:
        settings = settings_for(
            watch_dir,
            replace(endpoint, url=front.url),
            valkey.url,
            close_grace_seconds=0.2,
            retry_attempts=2,
            retry_initial_seconds=0.1,
            retry_max_seconds=0.5,
            retry_stream_max_seconds=1,
        )
        growing, small = watch_dir / "growing.mp4", watch_dir / "small.mp4"
        with daemon(settings) as process:
            with growing.open("wb") as file:
                file.write(os.urandom(PART))
                file.flush()
                process.wait_for("part_uploaded", part_number=1)
                front.removes = True
                file.write(os.urandom(PART))
                file.flush()
                small.write_bytes(os.urandom(1000))
                wait_for_error(process, "without an ETag")
                process.wait_for("outage_probe_failed", count=3)
                front.removes = False
            for path in (growing, small):
                process.wait_for("stream_completed", file=str(path))
            assert process.count("stream_failed") == 0
            assert process.stop() == 0
    for path in (growing, small):
        look_into(endpoint).assert_identical(path)


def test_p2_a_proxy_to_s3_that_dies_while_a_part_is_sent_costs_only_time(
    endpoint: Endpoint, valkey: ValkeyServer, watch_dir: Path, tmp_path: Path
) -> None:
    """`S3_PROXY_URL` from a file, with a password that no log shows; `doctor` names the proxy, and its failure."""
    path, secret = watch_dir / "camera.mp4", tmp_path / "proxy-url"
    with http_proxy("recorder:DISTINCT pass") as proxy:
        secret.write_text(proxy.url_with("recorder:DISTINCT%20pass") + "\n")
        settings = settings_for(
            watch_dir,
            endpoint,
            valkey.url,
            close_grace_seconds=0.2,
            retry_attempts=2,
            retry_max_seconds=0.5,
            retry_stream_max_seconds=1,
            s3_proxy_url_file=secret,
            https_proxy="http://127.0.0.1:9",
        )
        with daemon(settings) as process:
            with path.open("wb") as file:
                file.write(os.urandom(PART))
                file.flush()
                process.wait_for("part_uploaded", part_number=1)
                proxy.dies_after_bytes = 2 * MIB
                file.write(os.urandom(PART))
                file.flush()
                wait_until(lambda: proxy.dies_after_bytes is None, otherwise=process.tail)
                process.wait_for("part_uploaded", part_number=2)
                proxy.refusal = 502
                file.write(os.urandom(PART))
                file.flush()
                began = process.wait_for("outage_started")
                assert f"the proxy 127.0.0.1:{proxy.port} of S3_PROXY_URL" in began["error"]
                assert "Bad Gateway" in began["error"]
                (problem,) = [one for one in doctor(settings)["findings"] if one["subject"] == "s3"]
                assert f"the proxy 127.0.0.1:{proxy.port}" in problem["says"]
                proxy.refusal = None
                process.wait_for("part_uploaded", part_number=3)
            process.wait_for("stream_completed")
            assert process.count("upload_lost") == process.count("stream_failed") == 0
            assert process.count("http_proxy_not_used") == 0
            text = process.log_path.read_text()
            assert process.stop() == 0
        found = {one["subject"]: one for one in doctor(settings)["findings"]}
        assert f"through 127.0.0.1:{proxy.port} by requests in plain http" in found["proxy"]["says"]
        assert {target.partition("/recordings")[0] for _, target in proxy.requests} == {endpoint.url}
    look_into(endpoint).assert_identical(path)
    assert calls(endpoint)["CreateMultipartUpload"] == 2  # one by doctor
    assert "DISTINCT" not in text


def doctor(settings: Mapping[str, str]) -> Any:
    return answer("doctor", settings=settings, code=None)


def test_a_completion_that_is_always_refused_ends_with_a_name_and_a_hint(
    endpoint: Endpoint, valkey: ValkeyServer, watch_dir: Path
) -> None:
    """P6: a store that wants equal parts was asked to complete for ever."""
    arm(endpoint, {"kind": "error", "operation": "CompleteMultipartUpload", "code": "InvalidPart", "times": None})
    settings = settings_for(watch_dir, endpoint, valkey.url, close_grace_seconds=0.2, retry_stream_max_seconds=0.2)
    path = watch_dir / "camera.mp4"
    with daemon(settings) as process:
        path.write_bytes(os.urandom(PART + MIB))
        failed = process.wait_for("stream_failed")
        assert "S3_EQUAL_PARTS" in failed["error"]
        assert process.stop() == 0
    assert calls(endpoint)["CompleteMultipartUpload"] == 5
    assert calls(endpoint)["UploadPart"] == 2
