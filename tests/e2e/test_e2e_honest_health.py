"""P10, honest health, on a real process: each of readyz, metrics, ``status``, page and ``doctor`` says what is at risk
and why, and nothing when it is over. The minute is a second and a half here.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from servers.command import ROOT, answer
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.ingress import Ingress, ingress
from servers.s3_control import arm, disarm_all
from servers.valkey import ValkeyServer, valkey_server
from thoroughness import only_long
from waiting import wait_until

pytestmark = pytest.mark.real
MIB = 1024 * 1024
HURRY = """
from cef_trio.upload import reporter
from cef_trio.observability import at_risk, daemon_report
at_risk.PATIENCE_SECONDS = 1.5
daemon_report.OLD_SECONDS = 10.0
reporter.PERIOD_SECONDS = 0.3
"""
RIGHTS = "-dac_override,-dac_read_search"
"""By which root reads what nobody may."""


LONGER = only_long("takes long")


@dataclass(frozen=True)
class Scene:
    process: DaemonProcess
    settings: Mapping[str, str]
    watch: Path
    endpoint: Endpoint
    door: Ingress
    redis: ValkeyServer
    port: int

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False, timeout=60)

    def page(self) -> set[str]:
        with httpx.stream("GET", f"http://127.0.0.1:{self.port}/events", trust_env=False, timeout=60) as events:
            for line in events.iter_lines():
                if line.startswith("data: {"):
                    return {risk["reason"] for risk in json.loads(line[6:])["at_risk"]}
        raise AssertionError("no snapshot")

    def readyz_and_metrics(self) -> tuple[set[str], set[str]]:
        ready, metrics = self.get("/readyz"), self.get("/metrics").text
        told = {line.split('risk="')[1].split('"')[0] for line in metrics.splitlines() if "bytes_at_risk{" in line}
        said = {line for line in ready.text.splitlines() if line.startswith("NOT OK: ") and " s: " in line}
        assert (ready.status_code == 503) >= bool(said)
        return said, told

    def wait_for(self, what: Callable[[], bool]) -> None:
        wait_until(what, otherwise=lambda: str((self.readyz_and_metrics(), self.page(), self.process.tail())))

    def all_say(self, reason: str, *, commands: bool = True) -> None:
        """Everybody says it within the patience and some seconds."""
        self.wait_for(lambda: reason in self.readyz_and_metrics()[1])
        said, _ = self.readyz_and_metrics()
        assert len(said) >= 1
        assert reason in self.page()
        assert self.get("/healthz").status_code == 200
        if commands:
            self.wait_for(lambda: reason in self.by_commands())
            findings = answer("doctor", settings=self.settings, code=5)["findings"]
            assert [one for one in findings if one["subject"] == "at risk" and one["severity"] == "problem"]

    def by_commands(self) -> set[str]:
        told = answer("status", settings=self.settings)["at_risk"]
        return {risk["reason"] for report in told for risk in report["risks"]}

    def none_cries(self) -> None:
        self.wait_for(lambda: self.readyz_and_metrics() == (set(), set()) and self.get("/readyz").status_code == 200)
        assert self.page() == set()
        self.wait_for(lambda: self.by_commands() == set())
        findings = answer("doctor", settings=self.settings)["findings"]
        assert not [one for one in findings if one["subject"] == "at risk"]


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A daemon that may not read everything, not even as root. Its parameter: a link that leads to the watch folder."""
    base = Path(tempfile.mkdtemp(prefix="honest-"))
    try:
        watch = base / "watch"
        watch.mkdir()
        named = base / getattr(request, "param", "watch")
        if named != watch:
            named.symlink_to(watch)
        (base / "sitecustomize.py").write_text(HURRY)
        prefix: list[str] = []
        if os.geteuid() == 0:
            if shutil.which("setpriv") is None:
                pytest.skip("setpriv (util-linux) is not here, and root may read everything")
            prefix = ["setpriv", f"--inh-caps={RIGHTS}", f"--bounding-set={RIGHTS}"]
        with (
            embedded_s3_server(tmp_path, bucket="recordings", arguments=["--control"]) as endpoint,
            ingress(endpoint.url) as door,
            valkey_server(append_only=True, tcp=True) as redis,
        ):
            settings = {
                **settings_for(
                    named,
                    replace(endpoint, url=door.url),
                    redis.url,
                    close_grace_seconds=0.2,
                    stale_check_seconds=1,
                    rescan_seconds=1,
                    retry_attempts=2,
                    retry_max_seconds=0.5,
                ),
                "PYTHONPATH": f"{base}:{ROOT}",
            }
            with daemon(settings, under=prefix) as process:
                port = int(process.wait_for("admin_server_started")["port"])
                yield Scene(process, settings, watch, endpoint, door, redis, port)
    finally:
        shutil.rmtree(base)


def record(path: Path, size_bytes: int = 6 * MIB) -> None:
    path.write_bytes(b"\1" * size_bytes)


def test_p10_an_outage_of_s3_is_reported_everywhere_with_the_reason_until_it_is_over(
    scene: Scene,
) -> None:
    record(scene.watch / "well.mp4")
    scene.process.wait_for("stream_completed")
    scene.none_cries()
    with (scene.watch / "slow.mp4").open("wb") as writer:  # a small part that waits to be full is no risk
        writer.write(b"\1" * MIB)
        writer.flush()
        scene.process.wait_for("stream_started", count=2)
        scene.door.answer_page(503)
        record(scene.watch / "held.mp4")
        scene.all_say("s3_down")
        scene.door.pass_on()
        scene.process.wait_for("stream_completed", file=str(scene.watch / "held.mp4"))
        scene.none_cries()


@LONGER
def test_p10_a_redis_that_takes_no_writes_is_reported_everywhere(scene: Scene) -> None:
    record(scene.watch / "well.mp4")
    scene.process.wait_for("stream_completed")
    scene.redis.command("CONFIG", "SET", "maxmemory", "1")
    record(scene.watch / "held.mp4")
    scene.wait_for(lambda: bool(scene.readyz_and_metrics()[1] & {"redis_down", "not_moving"}))
    assert scene.page() & {"redis_down", "not_moving"}
    # Nothing can be written down for commands now: that it is missing says it, and doctor asks Redis itself.
    scene.wait_for(lambda: any(one["silent"] for one in answer("status", settings=scene.settings)["at_risk"]))
    findings = answer("doctor", settings=scene.settings, code=5)["findings"]
    assert [one for one in findings if one["subject"] == "fleet" and "1 daemon reported no more" in one["says"]]
    assert [one for one in findings if one["subject"] == "redis" and "it refuses writes" in one["says"]]
    scene.redis.command("CONFIG", "SET", "maxmemory", "0")
    scene.process.wait_for("stream_completed", file=str(scene.watch / "held.mp4"))
    scene.none_cries()


@pytest.mark.parametrize("scene", ["today"], indirect=True)
def test_p10_a_watch_folder_whose_name_leads_elsewhere_is_reported_everywhere(scene: Scene) -> None:
    """A recorder turns a link to a new folder each day: what it records from then on is missed."""
    link = scene.watch.with_name("today")
    record(link / "well.mp4")
    scene.process.wait_for("stream_completed")
    tomorrow = scene.watch.with_name("tomorrow")
    tomorrow.mkdir()
    link.unlink()
    link.symlink_to(tomorrow)
    record(link / "missed.mp4")
    scene.all_say("folder_lost", commands=False)
    scene.wait_for(lambda: scene.by_commands() == {"folder_lost"})
    (risk,) = (one for one in answer("status", settings=scene.settings)["at_risk"][0]["risks"])
    assert f"{link} leads to {tomorrow} now" in risk["why"]
    link.unlink()
    link.symlink_to(scene.watch)
    scene.wait_for(lambda: scene.readyz_and_metrics() == (set(), set()))


@LONGER
def test_p10_a_folder_and_a_file_that_may_not_be_read_are_reported_everywhere(scene: Scene) -> None:
    folder, file = scene.watch / "closed", scene.watch / "closed.mp4"
    folder.mkdir()
    folder.chmod(0)
    scene.all_say("folder_unreadable")
    folder.chmod(0o755)
    scene.none_cries()
    with file.open("wb") as writer:
        file.chmod(0)
        writer.write(b"\1" * MIB)
    scene.all_say("file_unreadable")
    file.unlink()
    scene.none_cries()


@LONGER
def test_p10_one_upload_that_s3_denies_is_reported_everywhere_until_its_file_is_gone_or_it_is_retried(
    scene: Scene,
) -> None:
    refusal = {"kind": "error", "operation": "CompleteMultipartUpload", "code": "KeyTooLongError", "status": 400}
    arm(scene.endpoint, {**refusal, "times": None})
    record(scene.watch / "refused.mp4")
    scene.process.wait_for("stream_failed")
    scene.all_say("failed")
    disarm_all(scene.endpoint)
    assert answer("retry", "--all", settings=scene.settings)["results"][0]["ok"]
    scene.process.wait_for("stream_completed")
    scene.none_cries()
