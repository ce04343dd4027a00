"""Pictures of the status page for the README, from the real server and a real browser: ``.ci/pictures``.

What they show is made up: a few cameras, one of which cannot be read, a failure, and an outage that is over.
"""

from __future__ import annotations

import base64
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from uuid import UUID

import trio
from admin.admin_scene import SetSource, serving, snapshot_of
from servers.chromium import PROGRAM, Tab, chromium

from cef_trio.admin.status_page import (
    CompletedStream,
    Detail,
    FailedStream,
    HistoryPage,
    Outage,
    StatusPage,
    StreamRow,
)
from cef_trio.checkpoint.states import ADVICE, SENTENCES, FailureReason
from cef_trio.observability import SENTENCES as RISKS
from cef_trio.observability import LogLine, PartRun, PartState, Reason, Risk, StreamActivity, StreamDetail

MIB = 1024 * 1024
FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
WIDTH = 1200
SMALLER = ("--hide-scrollbars", "--disable-lcd-text")
"""Flags for pictures that compress well."""
REFUSED = "ConnectError: Connection refused"


def scene(now: float, random: Random) -> SetSource:
    """Eleven cameras on an afternoon."""
    rows = tuple(_row(number, now, random) for number in range(11))
    source = SetSource(_page(rows, now))
    at = tuple(int(now) - 10 * (359 - index) for index in range(360))
    down = range(215, 243)
    rate = [16 * MIB + 3 * MIB * math.sin(index / 23) + random.gauss(0, MIB) for index in range(360)]
    lag = [150 * MIB + 25 * MIB * math.sin(index / 9) for index in range(360)]
    for index in range(215, 290):  # the outage, and what was caught up after it
        rate[index] = 0 if index in down else rate[index] + 9 * MIB
        lag[index] += MIB * max(0, 22 * min(index - 215, 28) - 16 * max(0, index - 243))
    source.past = HistoryPage(period_seconds=10, at=at, bytes_per_second=_whole(rate), lag_bytes=_whole(lag))
    source.sparks = {
        str(row.stream_id): list(
            _whole(row.bytes_per_second * (1 + 0.3 * math.sin(index / 4 + number)) for index in range(60))
        )
        for number, row in enumerate(rows)
        if row.bytes_per_second
    }
    first = rows[0]
    source.details = {str(first.stream_id): _detail(first, now, source.past)}
    return source


def _whole(series: Iterable[float]) -> tuple[int, ...]:
    return tuple(max(0, round(value)) for value in series)


def _row(number: int, now: float, random: Random) -> StreamRow:
    acknowledged = int((1 + number % 7) * 310 * MIB + number * 17 * MIB)
    state, note, rate = StreamActivity.UPLOADING, None, random.uniform(1.4, 3.2) * MIB
    if number == 4:
        state, rate, acknowledged = StreamActivity.RETRYING, 0.0, 80 * MIB
        note = "the recording cannot be read: Permission denied"
    elif number == 6:
        state, rate = StreamActivity.VERIFYING, 0.0
    elif number in {8, 9}:
        state = StreamActivity.WAITING
    lag = 96 * MIB if number == 4 else 0 if number == 6 else random.randint(2, 12) * MIB
    return StreamRow(
        stream_id=str(UUID(int=random.getrandbits(128), version=4)),
        file=f"entrance/camera-{number + 1:02}/2026-03-14T15-00-00.mp4",
        state=state,
        size_on_disk_bytes=acknowledged + lag,
        acknowledged_bytes=acknowledged,
        bytes_per_second=rate,
        lag_bytes=lag,
        lag_since=now - (340 if number == 4 else random.randint(1, 9)) if lag else None,
        note=note,
    )


def _page(rows: tuple[StreamRow, ...], now: float) -> StatusPage:
    page = snapshot_of(*rows)
    sentence = SENTENCES[FailureReason.FINALIZATION]
    return replace(
        page,
        version="1.0.0",
        instance="recorder-1",
        folder="/srv/recordings",
        started_at=now - 9 * 86400,
        totals=replace(
            page.totals,
            working=5,
            slots=8,
            lag_bytes=sum(row.lag_bytes for row in rows),
            lag_since=min(row.lag_since for row in rows if row.lag_since is not None),
            bytes_per_second=sum(row.bytes_per_second for row in rows),
            completed=4182,
            failed=1,
        ),
        at_risk=(
            Risk(Reason.FAILED, now - 4000, 2240 * MIB, 1, f"{RISKS[Reason.FAILED]}: {sentence}"),
            Risk(
                Reason.FILE_UNREADABLE, now - 340, 96 * MIB, 1, f"{RISKS[Reason.FILE_UNREADABLE]}: Permission denied"
            ),
        ),
        failed=(
            FailedStream(
                stream_id="7d0b7f6e-0d3f-4c0e-9d66-1c2a4f0f9b11",
                file="yard/camera-02/2026-03-14T13-00-00.mp4",
                sentence=sentence,
                detail="complete_multipart_upload: InvalidPart: all parts but the last must have one size",
                at=now - 4000,
                advice=ADVICE[FailureReason.FINALIZATION],
            ),
        ),
        completed=tuple(
            CompletedStream(
                stream_id=f"00000000-0000-4000-8000-00000000000{number}",
                file=f"entrance/camera-{number + 1:02}/2026-03-14T14-00-00.mp4",
                size_bytes=(2100 + 37 * number) * MIB,
                started_at=now - 3600 - 700 - 11 * number,
                at=now - 640 - 11 * number,
            )
            for number in range(4)
        ),
        past_outages=(
            Outage(service="s3", since=now - 1440, until=now - 1163, cause=f"upload_part: {REFUSED}", probes=96),
        ),
    )  # fmt: skip


def _detail(row: StreamRow, now: float, past: HistoryPage) -> Detail:
    lines = [
        ("info", "stream_resumed", "parts=11 covered_bytes=115343360", 3400),
        ("warning", "retry", f"service=s3 operation=upload_part attempt=1 attempts=5 error={REFUSED}", 1440),
        ("warning", "stream_retrying", f"error=upload_part: {REFUSED} wait_seconds=1.0 attempt=1", 1436),
        ("info", "upload_created", "key=streams/recorder-1/… checksum=crc64nvme part_size=10485760", 3599),
    ]  # fmt: skip
    known = StreamDetail(
        stream_id=str(row.stream_id),
        status="active",
        bucket="recordings",
        key=f"streams/recorder-1/{row.stream_id}/2026-03-14T15-00-00.mp4",
        upload_id="2~Zk9vT1pYb0VqU2p4",
        started_at=now - 3600,
        part_size=10 * MIB,
        size_bytes=row.size_on_disk_bytes,
        total_bytes_sent=row.acknowledged_bytes + 20 * MIB,
        parts_rewritten=2,
        bytes_rewritten=20 * MIB,
        parts=(
            PartRun(PartState.REWRITTEN, 1),
            PartRun(PartState.STORED, 11),
            PartRun(PartState.REWRITTEN, 1),
            PartRun(PartState.STORED, 17),
            PartRun(PartState.IN_FLIGHT, 2),
            PartRun(PartState.WAITING, 1),
        ),
        requests={"upload_part": 33, "create_multipart_upload": 1, "list_parts": 1},
        retries={"s3 upload_part": 2},
    )
    return Detail(
        stream_id=str(row.stream_id),
        file=row.file,
        known=known,
        history_at=now,
        bytes_per_second=tuple(one // 9 for one in past.bytes_per_second),
        lag_bytes=tuple(one // 11 for one in past.lag_bytes),
        log=tuple(
            LogLine(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now - ago)) + ".204000Z", level, event, text)
            for level, event, text, ago in sorted(lines, key=lambda line: -line[3])
        ),
    )


async def take(tab: Tab, file: Path, *, height: int, width: int = WIDTH, scale: float = 1) -> None:
    """Save a picture of the window."""
    await tab.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600
    )
    await trio.sleep(0.5)  # transitions
    shot = await tab.call("Page.captureScreenshot", format="png", optimizeForSpeed=False)
    file.write_bytes(base64.b64decode(shot["data"]))


async def main(folder: Path) -> None:
    """Take all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    source = scene(time.time(), Random(7))
    async with serving(source) as port, chromium(*SMALLER) as tab:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until("document.querySelectorAll('#streams tr').length === 11")
        for scheme in ("light", "dark"):
            await tab.theme(scheme)
            await take(tab, folder / f"page-{scheme}.png", height=1000)
        await tab.theme("light")
        await tab.evaluate("document.querySelector('#streams button.open').click()")
        await tab.until("document.querySelectorAll('#detail-log li').length === 4")
        await take(tab, folder / "stream-light.png", height=820)
        await tab.evaluate("document.querySelector('#detail .close').click()")
        await tab.theme("dark")
        await take(tab, folder / "phone-dark.png", height=844, width=390)
        await tab.evaluate("document.getElementById('streams-title').scrollIntoView()")
        await take(tab, folder / "phone-dark.png", height=844, width=390)


if __name__ == "__main__":
    if PROGRAM is None:
        sys.exit("chromium is not installed (apt-get install chromium)")
    trio.run(main, Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
