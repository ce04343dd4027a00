"""P10: at one moment readyz, metrics, page, ``systemctl status``, ``status``, ``fleet`` and ``doctor`` of a real daemon
say the same word and the same number of bytes. The minute is a second and a half here.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from servers.command import ROOT, answer, command
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.s3_control import arm, disarm_all
from servers.valkey import ValkeyServer, valkey_server
from waiting import wait_until

from cef_trio import amounts

pytestmark = pytest.mark.real
MIB = 1024 * 1024
HURRY = """
from cef_trio.upload import reporter
from cef_trio.observability import at_risk, daemon_report
from cef_trio.daemon import systemd
at_risk.PATIENCE_SECONDS = 1.5
daemon_report.OLD_SECONDS = 30.0
reporter.PERIOD_SECONDS = 0.3
systemd._STATUS_SECONDS = 0.3
"""


class Scene:
    def __init__(self, process: DaemonProcess, settings: dict[str, str], manager: socket.socket) -> None:
        self.process, self.settings, self._manager = process, settings, manager
        self._port = int(process.wait_for("admin_server_started")["port"])
        self._line = ""

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self._port}{path}", trust_env=False, timeout=60)

    def systemctl_line(self) -> str:
        """The latest status line."""
        self._manager.setblocking(False)
        try:
            while True:
                for line in self._manager.recv(4096).decode().split("\n"):
                    self._line = line.removeprefix("STATUS=") if line.startswith("STATUS=") else self._line
        except BlockingIOError:
            return self._line

    def page(self) -> tuple[str, int]:
        with httpx.stream("GET", f"http://127.0.0.1:{self._port}/events", trust_env=False, timeout=60) as events:
            for line in events.iter_lines():
                if line.startswith("data: {"):
                    page = json.loads(line[6:])
                    return page["state"], page["bytes_at_risk"]
        raise AssertionError("no page")

    def metrics(self) -> tuple[bool, int]:
        lines = [line for line in self._get("/metrics").text.splitlines() if not line.startswith("#")]
        values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
        at_risk = sum(int(value) for name, value in values.items() if name.startswith("cef_trio_bytes_at_risk"))
        return bool(values["cef_trio_ready"]), at_risk

    def of_the_daemon(self, state: str, size_bytes: int) -> dict[str, bool]:
        """Whether what the daemon itself shows is this."""
        ready, line = self._get("/readyz"), self.systemctl_line()
        amount = f"{amounts.size(size_bytes)} of"
        return {
            "page": self.page() == (state, size_bytes),
            "metrics": self.metrics() == (state == "ready", size_bytes),
            "readyz": (ready.status_code == 200) == (state == "ready") and (amount in ready.text) == (size_bytes > 0),
            "systemctl": line.startswith(state) and (amount in line) == (size_bytes > 0),
        }

    def of_commands(self, state: str, size_bytes: int) -> dict[str, bool]:
        status = answer("status", settings=self.settings)
        urgent = 5 if state == "at risk" else 0
        (fleet,) = answer("fleet", settings=self.settings, code=urgent)["daemons"]
        findings = answer("doctor", settings=self.settings, code=None)["findings"]
        problems = [one for one in findings if one["subject"] == "at risk" and one["severity"] == "problem"]
        amount = f"{amounts.size(size_bytes)} of"
        return {
            "status": (status["state"], status["bytes_at_risk"]) == (state, size_bytes),
            "status for people": state in command("status", settings=self.settings).stdout,
            "fleet": (fleet["state"], fleet["bytes_at_risk"]) == (state, size_bytes),
            "doctor": bool(problems) == (state == "at risk")
            and any(amount in one["says"] for one in problems) == (size_bytes > 0),
        }

    def all_say(self, state: str, size_bytes: int = 0, *, commands: bool = True) -> None:
        wait_until(
            lambda: all(self.of_the_daemon(state, size_bytes).values()),
            otherwise=lambda: str((self.of_the_daemon(state, size_bytes), self.page(), self.systemctl_line())),
        )
        if commands:
            found = self.of_commands(state, size_bytes)
            assert all(found.values()), found


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    with embedded_s3_server(tmp_path, bucket="recordings", arguments=["--control"]) as found:
        yield found


@pytest.fixture
def redis() -> Iterator[ValkeyServer]:
    with valkey_server(append_only=True, tcp=True) as found:
        yield found


@pytest.fixture
def watch(tmp_path: Path) -> Path:
    (tmp_path / "recordings").mkdir()
    return tmp_path / "recordings"


@pytest.fixture
def scene(tmp_path: Path, watch: Path, endpoint: Endpoint, redis: ValkeyServer) -> Iterator[Scene]:
    (tmp_path / "sitecustomize.py").write_text(HURRY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        quick = {"close_grace_seconds": 0.2, "stale_check_seconds": 1, "rescan_seconds": 1, "retry_attempts": 2}
        settings = {
            **settings_for(watch, endpoint, redis.url, retry_max_seconds=0.5, **quick),
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }
        with daemon(settings) as process:
            yield Scene(process, settings, manager)


def test_p10_healthy_then_s3_refuses_then_a_stream_has_failed(scene: Scene, watch: Path, endpoint: Endpoint) -> None:
    (watch / "well.mp4").write_bytes(b"\1" * 6 * MIB)
    scene.process.wait_for("stream_completed")
    scene.all_say("ready")
    arm(endpoint, {"kind": "error", "operation": "*", "code": "AccessDenied", "status": 403, "times": None})
    (watch / "held.mp4").write_bytes(b"\1" * 7 * MIB)
    scene.all_say("at risk", 7 * MIB)
    with (watch / "growing.mp4").open("wb") as writer:  # less than a part, in an outage
        writer.write(b"\1" * MIB)
        writer.flush()
        scene.all_say("at risk", 8 * MIB, commands=False)
    disarm_all(endpoint)
    scene.process.wait_for("stream_completed", count=3)
    scene.all_say("ready", commands=False)
    refusal = {"kind": "error", "operation": "CompleteMultipartUpload", "code": "EntityTooLarge", "status": 400}
    arm(endpoint, {**refusal, "times": None})
    (watch / "fails.mp4").write_bytes(b"\1" * 9 * MIB)
    scene.process.wait_for("stream_failed")
    scene.all_say("at risk", 9 * MIB)


def test_p10_redis_does_not_respond(scene: Scene, watch: Path, redis: ValkeyServer) -> None:
    scene.all_say("ready", commands=False)
    redis.freeze()
    (watch / "held.mp4").write_bytes(b"\1" * 6 * MIB)
    scene.all_say("at risk", 6 * MIB, commands=False)
    command("status", settings=scene.settings, code=4)
    redis.thaw()
    scene.process.wait_for("stream_completed")
    scene.all_say("ready")
