"""P2, P6: a proxy that responds in the store's place for a while costs only time (real processes)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.endpoints import Endpoint
from servers.ingress import Ingress, ingress
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
