"""The unit, run by a real systemd: process 1 of a container that is made of the image under test.

Only where ``CEF_TRIO_IMAGE`` names an image that podman has here (CONTRIBUTING.md says how to build one).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.daemon import settings_for
from servers.endpoints import Endpoint
from servers.hostile_mp4 import claims
from servers.podman import IMAGE, podman
from servers.recordings import make
from servers.store import look_into
from servers.systemd_machine import LOG_IN, Machine
from servers.systemd_machine import machine as booted
from servers.valkey import valkey_server
from waiting import wait_until

pytestmark = [pytest.mark.real, pytest.mark.skipif(not IMAGE, reason="CEF_TRIO_IMAGE names no image")]
DEPLOYED = Path(__file__).parents[2] / "deploy" / "systemd"
WITH_SYSTEMD = "localhost/cef-trio-under-systemd"
CONTAINERFILE = f"""
FROM {IMAGE}
USER 0
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends systemd
COPY cef-trio.service /etc/systemd/system/
COPY secrets.conf /etc/systemd/system/cef-trio.service.d/
COPY cef-trio.sysusers /usr/lib/sysusers.d/cef-trio.conf
CMD []
"""
STOP_SECONDS = 10.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    context = tmp_path_factory.mktemp("image")
    (context / "Containerfile").write_text(CONTAINERFILE)
    for file in ("cef-trio.service", "cef-trio.sysusers", "secrets.conf"):
        shutil.copy(DEPLOYED / file, context)
    podman("build", "--network=host", "--tag", WITH_SYSTEMD, str(context), seconds=300)
    return WITH_SYSTEMD


@pytest.fixture
def machine(tmp_path: Path, image: str, endpoint: Endpoint) -> Iterator[Machine]:
    watch_dir, settings = tmp_path / "watch", tmp_path / "settings"
    for folder in (watch_dir, settings, settings / "live"):
        folder.mkdir(mode=0o755)
    (settings / "secrets").mkdir(mode=0o700)
    with valkey_server(append_only=True, tcp=True) as redis:
        # Without CAP_LEASE, and on files of another user, silence alone is an end.
        soon = {"stream_timeout_seconds": 1, "stale_check_seconds": 0.2, "close_grace_seconds": 0.2}
        given = settings_for(watch_dir, endpoint, redis.url, owner_name="", **soon) | {"WATCH_DIR": "/srv/recordings"}
        del given["LOG_LEVEL"]
        for name in ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "REDIS_URL"):
            (settings / "secrets" / name.lower().replace("_", "-")).write_text(given.pop(name))
        lines = [f"{name}={value}\n" for name, value in given.items()]
        (settings / "cef-trio.env").write_text("".join(lines))
        with booted(image, watch_dir, f"--volume={settings}:/etc/cef-trio:ro") as machine:
            machine.run("systemctl", "start", "cef-trio")  # returns when the service says that it is ready
            yield machine


def test_the_unit_uploads_and_probes_within_its_limits_is_reloaded_and_stops_in_time(
    machine: Machine, endpoint: Endpoint, tmp_path: Path
) -> None:
    assert machine.property("ActiveState") == "active"
    machine.wait_for("daemon_started")
    make(tmp_path / "real.mp4", "plain", seconds=1)
    shutil.copy(tmp_path / "real.mp4", machine.watch_dir)
    (machine.watch_dir / "claims.mp4").write_bytes(claims(60_000_000))
    for name in ("real.mp4", "claims.mp4"):
        machine.wait_for("stream_completed", file=f"/srv/recordings/{name}")
    seen = [entry["event"] for entry in machine.events()]
    assert "ffprobe_limits_refused" not in seen, "the filter of system calls lets prlimit64 through"
    assert "boot_id_not_readable" not in seen
    machine.run(*LOG_IN, "/opt/cef-trio/bin/cef-trio", "doctor")  # without a problem; for root, without any export
    looking = look_into(endpoint)
    assert looking.metadata(looking.key_of("real.mp4"))["duration_seconds"] == pytest.approx(1, abs=0.5)
    looking.client.close()

    (tmp_path / "settings" / "live" / ".env").write_text("LOG_LEVEL=DEBUG\n")
    machine.run("systemctl", "reload", "cef-trio")
    assert machine.wait_for("settings_reloaded")["applied"] == {"LOG_LEVEL": "DEBUG"}

    began = time.monotonic()
    machine.run("systemctl", "stop", "cef-trio")
    assert time.monotonic() - began <= STOP_SECONDS
    assert (machine.property("Result"), machine.property("NRestarts")) == ("success", "0")


def test_a_watchdog_that_is_not_fed_brings_the_service_back(machine: Machine) -> None:
    machine.run("systemctl", "kill", "--signal=ABRT", "cef-trio")  # what the watchdog sends
    wait_until(lambda: machine.property("NRestarts") != "0" and machine.property("ActiveState") == "active")
    recording = machine.watch_dir / "after.mp4"
    recording.write_bytes(os.urandom(1000))
    machine.wait_for("stream_completed", file="/srv/recordings/after.mp4")
