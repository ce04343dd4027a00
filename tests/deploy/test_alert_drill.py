"""Which alert fires first in each outage, and when: metrics of a daemon in the laboratory, judged by promtool.

A recording grows all the time and another one ends every five minutes. After six good minutes, in which no alert may
fire, the outage begins and lasts for twenty. ``docs/operations.md`` has the table.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from prometheus_client import generate_latest
from servers.recorded_metrics import PERIOD_SECONDS, Recording, fired
from structlog.testing import capture_logs
from thoroughness import only_long

from cef_trio.lab.proxy import Interference, Rule
from cef_trio.lab.redis_faults import RedisFaults
from cef_trio.lab.world import PART, World, WorldDaemon
from cef_trio.lab.writers import Writers
from cef_trio.s3_endpoint import Fault, Kind
from cef_trio.upload.disk_survey import survey_disks

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's prometheus) is not here")
DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
GOOD_MINUTES = 6
OUTAGE_MINUTES = 20


@dataclass
class Stage:
    world: World
    daemon: WorldDaemon
    writers: Writers
    redis: RedisFaults
    answers: bool = True
    """Whether the daemon responds to a scrape."""
    fills: bool = False
    """Whether the disk fills up."""

    def s3(self, kind: Kind, operation: str = "*", *, code: str = "InternalError", status: int = 500) -> None:
        self.world.endpoint.faults.arm(Fault(kind, operation, code=code, status=status, times=None))


Outage = Callable[[Stage], Awaitable[None]]


async def s3_refuses(stage: Stage) -> None:
    stage.s3(Kind.ERROR, code="AccessDenied", status=403)


async def s3_freezes(stage: Stage) -> None:
    stage.s3(Kind.FREEZE)


async def s3_is_dead(stage: Stage) -> None:
    stage.s3(Kind.RESET)


async def token_expires(stage: Stage) -> None:
    stage.s3(Kind.ERROR, code="ExpiredToken", status=400)


async def proxy_responds(stage: Stage) -> None:
    stage.world.proxy.add(Rule(Interference.PAGE, "*", status=503, title="503 Service Unavailable"))


async def redis_is_read_only(stage: Stage) -> None:
    stage.redis.turn_read_only()


async def redis_is_full(stage: Stage) -> None:
    stage.redis.refusal = "OOM command not allowed when used memory > 'maxmemory'."


async def redis_freezes(stage: Stage) -> None:
    stage.redis.silent.value = True


async def redis_fails_over_again_and_again(stage: Stage) -> None:
    """Half a minute of refused writes in every two minutes: too short for an alert on the outage itself."""
    for _ in range(OUTAGE_MINUTES // 2):
        stage.redis.turn_read_only()
        await trio.sleep(30)
        stage.redis.refusal = ""
        await trio.sleep(90)


async def file_is_unreadable(stage: Stage) -> None:
    stage.writers.append(3 * PART, "secret.mp4")
    stage.world.kernel.inode(stage.world.folder / "secret.mp4").denied = True
    stage.writers.append(3 * PART, "secret.mp4")


async def folder_is_gone(stage: Stage) -> None:
    stage.world.folder.rename(stage.world.folder.with_name("away"))


async def mount_hangs(stage: Stage) -> None:
    """As ``files/mounts.py`` reports it; a real hung mount is in ``tests/e2e/test_e2e_hung_mount.py``."""
    stage.daemon.services.mounts.hung.value = {str(stage.world.folder): trio.current_time()}


async def listing_uploads_fails(stage: Stage) -> None:
    stage.s3(Kind.ERROR, "ListMultipartUploads")


async def disk_fills_up(stage: Stage) -> None:
    stage.fills = True


async def daemon_is_killed(stage: Stage) -> None:
    stage.answers = False


async def stream_fails(stage: Stage) -> None:
    fault = Fault(Kind.ERROR, "CompleteMultipartUpload", code="KeyTooLongError", status=400, times=1)
    stage.world.endpoint.faults.arm(fault)


async def webhook_is_refused(stage: Stage) -> None:
    stage.world.receiver.statuses.extend([400] * 1000)


async def clock_is_wrong(stage: Stage) -> None:
    object.__setattr__(stage.world.host, "clock_seconds", 90.0)  # a running host's clock is set


OUTAGES: dict[str, Outage] = {
    "S3 refuses everything (403)": s3_refuses,
    "S3 accepts connections and does not respond": s3_freezes,
    "S3 resets connections": s3_is_dead,
    "the session token has expired": token_expires,
    "a proxy responds with an HTML page": proxy_responds,
    "Redis is read-only": redis_is_read_only,
    "Redis has no memory left": redis_is_full,
    "Redis does not respond": redis_freezes,
    "Redis refuses writes for 30 s in every 2 min": redis_fails_over_again_and_again,
    "a recording cannot be read": file_is_unreadable,
    "the watch folder is gone": folder_is_gone,
    "the mount of the watch folder hangs": mount_hangs,
    "ListMultipartUploads fails": listing_uploads_fails,
    "the recordings' disk fills up": disk_fills_up,
    "the daemon is killed": daemon_is_killed,
    "a stream fails": stream_fails,
    "the webhook is refused": webhook_is_refused,
    "the host's clock is wrong": clock_is_wrong,
}


ALWAYS = frozenset({"S3 refuses everything (403)", "a recording cannot be read", "the daemon is killed"})
LONGER = only_long("takes long")


async def record(outage: Outage, folder: Path) -> Recording:
    """Return the metrics of the good minutes and of the outage."""
    world = World(folder / "watch", base=folder)
    world.disk_bytes = 400_000
    world.webhook = True
    world.store.persistent = True
    writers = Writers(world.kernel, world.folder, world.random, world.journal)
    recording = Recording(world.utc_now().timestamp())
    with capture_logs():  # thousands of lines
        await _record(outage, world, writers, recording)
    return recording


async def _record(outage: Outage, world: World, writers: Writers, recording: Recording) -> None:
    async with world.killed_daemon() as daemon, trio.open_nursery() as nursery:
        stage = Stage(world, daemon, writers, RedisFaults(world))
        nursery.start_soon(survey_disks, daemon.services, tuple)
        nursery.start_soon(write, stage)
        for number in range((GOOD_MINUTES + OUTAGE_MINUTES) * 60 // PERIOD_SECONDS + 1):
            if number * PERIOD_SECONDS == GOOD_MINUTES * 60:
                nursery.start_soon(outage, stage)
            metrics = generate_latest(daemon.services.metrics.registry).decode() if stage.answers else None
            recording.scraped(metrics)
            await trio.sleep(PERIOD_SECONDS)
        nursery.cancel_scope.cancel()


async def write(stage: Stage) -> None:
    """Write to a recording all the time, and end one every five minutes."""
    number = 0
    while True:
        name = f"{number}.mp4"
        for second in range(0, 300, 10):
            if stage.world.folder.exists():
                stage.writers.append(PART // 2, name)
                if stage.fills and second % 60 == 0:
                    stage.writers.append(24_000, name)
            await trio.sleep(10)
        if stage.world.folder.exists():
            stage.writers.close(name)
        number += 1


def documented() -> dict[str, tuple[str, int]]:
    """The table: the first alert of each outage, and after how many minutes."""
    rows = re.findall(r"^\| (.+?) \| \[(CefTrio\w+)\]\(#\w+\) \| (\d+) min \|$", DOCS.read_text(), re.MULTILINE)
    return {outage: (alert, int(minutes)) for outage, alert, minutes in rows}


def test_the_table_has_every_outage() -> None:
    assert set(documented()) == set(OUTAGES)


@pytest.mark.parametrize("name", [name if name in ALWAYS else pytest.param(name, marks=LONGER) for name in OUTAGES])
async def test_p10_an_alert_fires_in_the_outage_and_none_before(
    name: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    recording = await record(OUTAGES[name], tmp_path)
    assert PROMTOOL is not None
    found = fired(PROMTOOL, recording, tmp_path)
    early = {minute: alerts for minute, alerts in found.items() if alerts and minute <= GOOD_MINUTES}
    assert early == {}
    first = next((minute for minute, alerts in found.items() if alerts), None)
    assert first is not None, "no alert: nobody would know"
    minutes, alerts = first - GOOD_MINUTES, found[first]
    alert, told = documented().get(name, ("none", 0))
    right = f"| {name} | [{min(alerts)}](#{min(alerts).lower()}) | {minutes} min |"
    assert alert in alerts, right
    assert abs(minutes - told) <= 1, right
