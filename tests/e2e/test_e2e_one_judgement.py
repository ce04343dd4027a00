"""P10: at one moment readyz, metrics, page, ``systemctl status``, ``status``, ``fleet`` and ``doctor`` of a real daemon
say the same word and the same number of bytes. The minute is a second and a half here.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from servers.command import ROOT, answer, command
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint, free_port
from servers.fuse_mount import fuse_mount
from servers.ordinary_user import ORDINARY
from servers.s3_control import arm, disarm_all
from servers.valkey import ValkeyServer, valkey_server
from thoroughness import LONG
from waiting import wait_until

from cef_trio import amounts
from cef_trio.observability.at_risk import RISK_ADVICE, SENTENCES, Reason

pytestmark = pytest.mark.real
MIB = 1024 * 1024
HURRY = """
import sys
if sys.orig_argv[-1] == "run":
    from cef_trio.upload import reporter
    from cef_trio.observability import at_risk
    from cef_trio.daemon import systemd
    at_risk.PATIENCE_SECONDS = 1.5
    reporter.PERIOD_SECONDS = 0.3
    systemd._STATUS_SECONDS = 0.3
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a signal says of the daemon."""

    state: str
    size_bytes: int
    """At risk."""
    reasons: list[str]

    def is_in(self, text: str) -> bool:
        """Whether a text for people has these bytes and these reasons, and no others."""
        amount = f"{amounts.size(self.size_bytes)} of"
        reasons = sorted(reason for reason in Reason if SENTENCES[reason] in text)
        return (amount in text) == (self.size_bytes > 0) and reasons == self.reasons


class Scene:
    def __init__(self, process: DaemonProcess, settings: dict[str, str], manager: socket.socket) -> None:
        self.process, self.settings, self._manager = process, settings, manager
        port = int(process.wait_for("admin_server_started")["port"])
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)
        self._line = ""

    def _get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def systemctl_line(self) -> str:
        """The latest status line."""
        self._manager.setblocking(False)
        try:
            while True:
                for line in self._manager.recv(4096).decode().split("\n"):
                    self._line = line.removeprefix("STATUS=") if line.startswith("STATUS=") else self._line
        except BlockingIOError:
            return self._line

    def page(self) -> Said:
        with self.http.stream("GET", "/events") as events:
            for line in events.iter_lines():
                if line.startswith("data: {"):
                    page = json.loads(line[6:])
                    reasons = sorted(risk["reason"] for risk in page["at_risk"])
                    return Said(page["state"], page["bytes_at_risk"], reasons)
        raise AssertionError("no page")

    def metrics(self) -> tuple[bool, int, list[str]]:
        lines = [line for line in self._get("/metrics").text.splitlines() if not line.startswith("#")]
        values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
        at_risk = {
            name.partition('risk="')[2].partition('"')[0]: int(value)
            for name, value in values.items()
            if name.startswith("cef_trio_bytes_at_risk{")
        }
        return bool(values["cef_trio_ready"]), sum(at_risk.values()), sorted(at_risk)

    def of_the_daemon(self, said: Said) -> dict[str, bool]:
        """Whether what the daemon itself shows is this."""
        ready, line = self._get("/readyz"), self.systemctl_line()
        return {
            "page": self.page() == said,
            "metrics": self.metrics() == (said.state == "ready", said.size_bytes, said.reasons),
            "readyz": (ready.status_code == 200) == (said.state == "ready") and said.is_in(ready.text),
            "systemctl": line.startswith(said.state) and said.is_in(line),
        }

    def status(self) -> Said:
        """What ``status`` says, which it has from the daemon's report."""
        status = answer("status", settings=self.settings)
        reasons = sorted(risk["reason"] for one in status["at_risk"] for risk in one["risks"])
        return Said(status["state"], status["bytes_at_risk"], reasons)

    def of_commands(self, said: Said) -> dict[str, bool]:
        urgent = 5 if said.state == "at risk" else 0
        (fleet,) = answer("fleet", settings=self.settings, code=urgent)["daemons"]
        for_people = command("status", settings=self.settings).stdout
        return {
            "status": self.status() == said,
            "status for people": said.state in for_people and said.is_in(for_people),
            "fleet": Said(fleet["state"], fleet["bytes_at_risk"], sorted(fleet["risks"])) == said,
        }

    def of_doctor(self, said: Said) -> dict[str, bool]:
        findings = answer("doctor", settings=self.settings, code=None)["findings"]
        problems = [one for one in findings if one["subject"] == "at risk" and one["severity"] == "problem"]
        return {
            "doctor": bool(problems) == (said.state == "at risk")
            and said.is_in("\n".join(one["says"] for one in problems))
            and sorted(one["todo"] for one in problems) == sorted(RISK_ADVICE[Reason(one)] for one in said.reasons),
        }

    def all_say(
        self, state: str, size_bytes: int = 0, *reasons: Reason, commands: bool = True, doctor: bool = True
    ) -> None:
        said = Said(state, size_bytes, sorted(reasons))
        wait_until(lambda: self.page() == said, otherwise=lambda: str((self.page(), said)), longest_pause=0.5)
        wait_until(
            lambda: all(self.of_the_daemon(said).values()),
            otherwise=lambda: str((self.of_the_daemon(said), self.page(), self.metrics(), self.systemctl_line())),
        )
        if commands:
            wait_until(lambda: self.status() == said, otherwise=lambda: str((self.status(), said)))  # the next report
            found = {**self.of_commands(said), **(self.of_doctor(said) if doctor else {})}
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


@contextmanager
def running(
    tmp_path: Path,
    endpoint: Endpoint,
    redis: ValkeyServer,
    *,
    under: Sequence[str] = (),
    wait_started: bool = True,
    **more: object,
) -> Iterator[Scene]:
    """A daemon for which a minute is short; ``more`` are settings."""
    (tmp_path / "sitecustomize.py").write_text(HURRY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        quick = {"close_grace_seconds": 0.2, "stale_check_seconds": 1, "rescan_seconds": 1, "retry_attempts": 2}
        settings = {
            **settings_for(tmp_path / "recordings", endpoint, redis.url, **{**quick, "retry_max_seconds": 0.5, **more}),
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }
        with daemon(settings, under=under, wait_started=wait_started) as process:
            scene = Scene(process, {name: settings[name] for name in settings.keys() - {"PYTHONPATH"}}, manager)
            with scene.http:
                yield scene


@pytest.fixture
def scene(tmp_path: Path, watch: Path, endpoint: Endpoint, redis: ValkeyServer) -> Iterator[Scene]:
    with running(tmp_path, endpoint, redis) as found:
        yield found


def test_p10_healthy_then_s3_refuses_then_a_stream_has_failed(scene: Scene, watch: Path, endpoint: Endpoint) -> None:
    (watch / "well.mp4").write_bytes(b"\1" * 6 * MIB)
    scene.process.wait_for("stream_completed")
    scene.all_say("ready")
    arm(endpoint, {"kind": "error", "operation": "*", "code": "AccessDenied", "status": 403, "times": None})
    (watch / "held.mp4").write_bytes(b"\1" * 7 * MIB)
    scene.all_say("at risk", 7 * MIB, Reason.S3_DOWN)
    with (watch / "growing.mp4").open("wb") as writer:  # less than a part, in an outage
        writer.write(b"\1" * MIB)
        writer.flush()
        scene.all_say("at risk", 8 * MIB, Reason.S3_DOWN, commands=False)
    disarm_all(endpoint)
    scene.process.wait_for("stream_completed", count=3)
    scene.all_say("ready", commands=False)
    refusal = {"kind": "error", "operation": "CompleteMultipartUpload", "code": "KeyTooLongError", "status": 400}
    arm(endpoint, {**refusal, "times": None})
    (watch / "fails.mp4").write_bytes(b"\1" * 9 * MIB)
    scene.process.wait_for("stream_failed")
    scene.all_say("at risk", 9 * MIB, Reason.FAILED)


def test_p10_redis_does_not_respond(scene: Scene, watch: Path, redis: ValkeyServer) -> None:
    scene.all_say("ready", commands=False)
    redis.freeze()
    (watch / "held.mp4").write_bytes(b"\1" * 6 * MIB)
    scene.all_say("at risk", 6 * MIB, Reason.REDIS_DOWN, commands=False)
    command("status", settings=scene.settings, code=4)
    redis.thaw()
    scene.process.wait_for("stream_completed")
    scene.all_say("ready")


def test_p10_s3_is_dead(tmp_path: Path, watch: Path, redis: ValkeyServer) -> None:
    """Its connections are refused; it comes back at its address."""
    (tmp_path / "s3").mkdir()
    with ExitStack() as server:
        endpoint = server.enter_context(
            embedded_s3_server(tmp_path, bucket="recordings", data=tmp_path / "s3", port=free_port())
        )
        with running(tmp_path, endpoint, redis) as scene:
            scene.all_say("ready", commands=False)
            server.close()
            (watch / "held.mp4").write_bytes(b"\1" * 6 * MIB)
            scene.all_say("at risk", 6 * MIB, Reason.S3_DOWN)
            port = int(endpoint.url.rpartition(":")[2])
            server.enter_context(embedded_s3_server(tmp_path, bucket="recordings", data=tmp_path / "s3", port=port))
            scene.process.wait_for("stream_completed")
            scene.all_say("ready", commands=False)


def test_p10_a_start_waits_for_s3_after_a_stop_in_good_order(
    tmp_path: Path, watch: Path, endpoint: Endpoint, redis: ValkeyServer
) -> None:
    with running(tmp_path, endpoint, redis) as scene:
        with (watch / "open.mp4").open("wb") as writer:
            writer.write(b"\1" * 6 * MIB)
            writer.flush()
            scene.process.wait_for("part_uploaded")
            assert scene.process.stop() == 0
        assert answer("status", settings=scene.settings)["state"] == "stopped"
    (tmp_path / "notify").unlink()
    nobodys = replace(endpoint, url=f"http://127.0.0.1:{free_port()}")
    with running(tmp_path, nobodys, redis, wait_started=False) as scene:
        said = Said("at risk", 0, [Reason.S3_DOWN])
        wait_until(lambda: scene.page() == said and answer("status", settings=scene.settings)["state"] == "at risk")
        found = {**scene.of_commands(said), **scene.of_doctor(said)}
        assert all(found.values()), found
        findings = answer("doctor", settings=scene.settings, code=None)["findings"]
        [without] = [one["says"] for one in findings if one["subject"] == "daemon"]
        assert without == "no daemon works on 1 open stream; under-test is still starting"
        assert scene.process.stop() == 0
    assert answer("status", settings=scene.settings)["state"] == "stopped"


@pytest.mark.skipif(bool(ORDINARY) and shutil.which("setpriv") is None, reason="root needs setpriv (util-linux)")
def test_p10_a_recording_cannot_be_read(tmp_path: Path, watch: Path, endpoint: Endpoint, redis: ValkeyServer) -> None:
    with running(tmp_path, endpoint, redis, under=ORDINARY) as scene:
        scene.process.wait_for("admin_server_started")
        kept = watch / "kept.mp4"
        descriptor = os.open(kept, os.O_CREAT | os.O_WRONLY, 0)
        os.write(descriptor, b"\1" * 6 * MIB)
        os.close(descriptor)
        scene.all_say("at risk", 6 * MIB, Reason.FILE_UNREADABLE)
        kept.chmod(0o600)
        scene.process.wait_for("stream_completed")
        scene.all_say("ready", commands=False)


def test_p10_a_mount_hangs(tmp_path: Path, watch: Path, endpoint: Endpoint, redis: ValkeyServer) -> None:
    with (
        fuse_mount(tmp_path, watch / "mount") as mounted,
        running(tmp_path, endpoint, redis, file_system_timeout_seconds=0.5) as scene,
        (mounted.mount / "growing.mp4").open("ab", buffering=0) as writer,
    ):
        writer.write(b"\1" * 6 * MIB)
        scene.process.wait_for("part_uploaded")
        with mounted.stopped():
            scene.process.wait_for("mount_hung")
            scene.all_say("at risk", MIB, Reason.MOUNT_HUNG, doctor=LONG)  # it waits for the mount for half a minute
        scene.all_say("ready", commands=False)


def test_p10_all_slots_are_taken(tmp_path: Path, watch: Path, endpoint: Endpoint, redis: ValkeyServer) -> None:
    """Who waits for a turn is at risk if nothing moves any more, and not while others are sent."""
    with running(
        tmp_path,
        endpoint,
        redis,
        max_concurrent_streams=1,
        max_concurrent_parts=1,
        s3_read_timeout_seconds=600,  # however long all are asked: the frozen call is not given up
        s3_write_timeout_seconds=600,
    ) as scene:
        scene.process.wait_for("admin_server_started")
        arm(endpoint, {"kind": "freeze", "operation": "UploadPart", "times": 1})
        for number in range(3):
            (watch / f"{number}.mp4").write_bytes(bytes([number]) * 6 * MIB)
        scene.all_say("at risk", 18 * MIB, Reason.NOT_MOVING)
        disarm_all(endpoint)
        scene.process.wait_for("stream_completed", count=3)
        scene.all_say("ready", commands=False)
