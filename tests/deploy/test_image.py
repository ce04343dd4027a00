"""The built image, run as it is meant to be run: read-only, without rights, stopped by SIGTERM to process 1.

Only where ``CEF_TRIO_IMAGE`` names an image that podman has here (CONTRIBUTING.md says how to build one)::

    CEF_TRIO_IMAGE=localhost/cef-trio .ci/test tests/deploy/test_image.py
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.daemon import settings_for
from servers.endpoints import Endpoint
from servers.podman import IMAGE, RESTRICTED, Container, container, podman
from servers.store import look_into
from servers.valkey import ValkeyServer

import cef_trio

pytestmark = [pytest.mark.real, pytest.mark.skipif(not IMAGE, reason="CEF_TRIO_IMAGE names no image")]
P4_SECONDS = 6 + 2 + 1
MIB = 1024 * 1024


@contextlib.contextmanager
def running(watch_dir: Path, settings: dict[str, str]) -> Iterator[Container]:
    variables = [f"--env={name}={value}" for name, value in settings.items() if name != "WATCH_DIR"]
    with container(*RESTRICTED, f"--volume={watch_dir}:/recordings:ro", *variables, IMAGE) as name:
        yield Container(name)


@pytest.fixture
def watch_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "watch"
    folder.mkdir()
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(0o755)  # user 1001 reads it
    return folder


def test_a_recording_is_uploaded_without_rights_and_with_a_read_only_root(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    recording = os.urandom(12 * MIB)
    with running(watch_dir, settings_for(watch_dir, endpoint, valkey.url, stream_timeout_seconds=1)) as daemon:
        daemon.wait_for("daemon_started")
        look = "id -u; touch /x 2>/dev/null || echo read-only; cat /proc/1/comm"
        status = podman("exec", daemon.name, "sh", "-c", look)
        assert status.split() == ["1001", "read-only", "cef-trio"]
        (watch_dir / "a.mp4").write_bytes(recording)
        daemon.wait_for("stream_completed")
        code, seconds = daemon.stop()
        assert code == 0
        assert seconds <= P4_SECONDS
    looking = look_into(endpoint)
    (key,) = [
        item["Key"]
        for item in looking.client.list_objects_v2(Bucket=endpoint.bucket)["Contents"]
        if item["Key"].endswith("a.mp4")
    ]
    assert looking.client.get_object(Bucket=endpoint.bucket, Key=key)["Body"].read() == recording
    looking.client.close()


def test_p4_sigterm_ends_process_1_in_time_while_redis_is_frozen(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    path = watch_dir / "a.mp4"
    path.write_bytes(os.urandom(6 * MIB))
    with path.open("ab"), running(watch_dir, settings_for(watch_dir, endpoint, valkey.url)) as daemon:
        daemon.wait_for("part_uploaded")
        valkey.freeze()
        code, seconds = daemon.stop()
        assert code == 3  # not saved, and said
        assert seconds <= P4_SECONDS


def test_sigterm_ends_process_1_while_it_waits_for_redis(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer
) -> None:
    valkey.freeze()
    with running(watch_dir, settings_for(watch_dir, endpoint, valkey.url)) as daemon:
        daemon.wait_for("waiting_for_service")
        code, seconds = daemon.stop()
        assert code == 0
        assert seconds <= P4_SECONDS


def test_the_image_has_labels_and_runs_as_documented() -> None:
    (image,) = json.loads(podman("image", "inspect", IMAGE))
    config = image["Config"]
    assert config["User"] == "1001:1001"
    assert config["StopSignal"] in {"SIGTERM", "15"}
    assert config["Entrypoint"] == ["cef-trio"]
    assert image["Healthcheck"]["Test"] == ["CMD", "cef-trio", "health"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == cef_trio.__version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert podman("run", "--rm", *RESTRICTED, IMAGE, "--version").strip() == f"cef-trio {cef_trio.__version__}"
    assert "ffprobe version" in podman("run", "--rm", *RESTRICTED, "--entrypoint=ffprobe", IMAGE, "-version")
