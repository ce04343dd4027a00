"""The status page in a real browser (Debian's Chromium), before the real server."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from admin.admin_scene import SetSource, serving, snapshot_of, stream
from servers.chromium import PROGRAM, chromium
from servers.endpoints import free_port

from cef_trio import amounts
from cef_trio.admin.status_page import FailedStream, Phase
from cef_trio.observability.at_risk import RISK_ADVICE, Reason, Risk
from cef_trio.observability.daemon_report import DaemonReport
from cef_trio.observability.fleet import Fleet, fleet_document
from cef_trio.observability.lag import Lag
from cef_trio.observability.snapshot import ServiceOutage

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (apt-get install chromium)"),
]
HOSTILE = [
    "<img src=x onerror=\"document.title='pwned'\">.mp4",
    "<script>document.title='pwned'</script>.mp4",
    "'\"><svg onload=document.title='pwned'>.mp4",
    "javascript:alert(1)&lt;b&gt;.mp4",
    "line\nbreak\u2028\u202egnp.mp4",
    "__proto__",
]
PHASE = "document.getElementById('phase')?.textContent"  # none while the page is loading
SAID = "document.getElementById('summary').textContent"
ROWS = "[...document.querySelectorAll('#streams tr')]"


async def test_streams_are_shown_and_an_update_arrives_by_itself() -> None:
    source = SetSource(snapshot_of(stream("id-1", "a.mp4"), stream("id-2", "b.mp4", 1024, 2048)))
    async with serving(source) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until(f"{ROWS}.length === 2")
        text = await tab.evaluate("document.getElementById('streams').innerText")
        assert "a.mp4" in text
        assert "1.0 KiB of 2.0 KiB · 50%" in text
        assert "2.0 KiB/s" in text
        await tab.evaluate("window.first = document.querySelector('#streams tr')")
        source.now = snapshot_of(stream("id-1", "a.mp4", acknowledged_bytes=90), stream("id-3", "c.mp4"))
        await tab.until(f"{ROWS}[0].innerText.includes('90%') && {ROWS}[1].innerText.includes('c.mp4')")
        assert await tab.evaluate(f"{ROWS}[0] === window.first")  # a row stays the same node
        assert await tab.evaluate("document.querySelector('#streams progress').value") == 0.9
        assert tab.console == []


async def test_hostile_file_names_are_only_text() -> None:
    failed = tuple(
        FailedStream(stream_id=f"f{n}", file=name, sentence="It failed.", detail=name, at=1.7e9)
        for n, name in enumerate(HOSTILE)
    )
    now = snapshot_of(*(replace(stream(f"id-{n}", name), note=name) for n, name in enumerate(HOSTILE)))
    source = SetSource(replace(now, failed=failed, folder=HOSTILE[0], instance=HOSTILE[1]))
    async with serving(source) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until(f"{ROWS}.length === {len(HOSTILE)}")
        assert await tab.evaluate("document.querySelectorAll('main img, main svg, main script, main b').length") == 0
        assert "pwned" not in await tab.evaluate("document.title")
        shown = await tab.evaluate(f"{ROWS}.map((row) => row.querySelector('th span').textContent)")
        expected = [*HOSTILE[:4], "line\ufffdbreak\ufffd\ufffdgnp.mp4", HOSTILE[5]]
        assert shown == sorted(expected, key=str.lower)
        assert tab.console == []


async def test_a_script_that_got_into_the_page_would_not_run() -> None:
    async with serving(SetSource()) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until(f"{ROWS}.length === 1")
        await tab.evaluate("document.querySelector('main').innerHTML = '<img src=x onerror=\"window.ran = 1\">'")
        await tab.evaluate(
            "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            " document.body.append(s); })()"
        )
        await tab.until("document.scripts.length === 2")
        assert await tab.evaluate("window.ran === undefined")
        assert any("Content Security Policy" in line for line in tab.console)


async def test_outages_failures_draining_a_limit_and_a_lost_connection_are_shown() -> None:
    source = SetSource()
    outage = ServiceOutage(service="s3", since=1.7e9, error="connection refused", probes=4)
    async with chromium() as tab:
        async with serving(source, free_port()) as port:  # nobody takes it before the restart
            await tab.open(f"http://127.0.0.1:{port}/")
            await tab.until(f"{ROWS}.length === 1")
            source.change(outages=(outage,), unhealthy=("the watcher has been silent for 99 s",))
            await tab.until("document.querySelectorAll('.notice').length === 2")
            text = await tab.evaluate("document.getElementById('notices').innerText")
            assert "S3 is not reachable" in text
            assert "connection refused" in text
            assert "the watcher has been silent for 99 s" in text
            assert await tab.evaluate(PHASE) == "not healthy"
            source.change(unhealthy=())
            await tab.until(f"{PHASE} === 'waits'")
            assert await tab.evaluate("document.getElementById('rate').textContent") == "2.0 KiB/s"
            totals = replace(snapshot_of().totals, upload_limit_bytes_per_second=64 << 10)
            source.change(outages=(), phase=Phase.DRAINING, totals=totals)
            await tab.until("document.getElementById('limit').textContent === 'limit 64.0 KiB/s'")
            await tab.until(f"{PHASE} === 'stopping'")
        await tab.until(f"{PHASE} === 'no connection'")
        text = await tab.evaluate("document.getElementById('notices').innerText")
        assert "has stopped" in text
        assert "as it was at 20" in text
        async with serving(SetSource(), port) as again:  # the daemon is restarted
            assert again == port
            await tab.until(f"{PHASE} === 'ready'")
            assert await tab.evaluate("document.querySelectorAll('.notice').length") == 0


async def test_the_page_formats_sizes_and_durations_as_the_commands_do() -> None:
    sizes = [0, 1, 1023, 1024, 1536, 102_400, 1 << 20, 123 << 20, 5 << 30, 7 << 40, 1 << 50, 1 << 60]
    seconds = [0, 1, 59.9, 60, 61, 3599, 3600, 3661, 86_399, 86_400, 200_000, 9_999_999]
    async with serving(SetSource()) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until("typeof span === 'function'")
        assert await tab.evaluate(f"{sizes}.map(size)") == [amounts.size(one) for one in sizes]
        assert await tab.evaluate(f"{seconds}.map(span)") == [amounts.duration(one) for one in seconds]


async def test_p10_what_is_at_risk_is_shown_with_its_size_its_reason_and_since_when() -> None:
    since = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    still = Risk(Reason.NOT_MOVING, since, 3 << 20, 1, f"uploads stand still: {HOSTILE[0]}")
    folder = Risk(Reason.FOLDER_LOST, since, 0, 0, "the watch folder cannot be read")
    source = SetSource()
    async with serving(source) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until(f"{ROWS}.length === 1")
        source.change(at_risk=(still,))
        await tab.until(f"{PHASE} === 'at risk'")
        text = await tab.evaluate("document.getElementById('notices').innerText")
        assert "3.0 MiB of 1 recording do not get to S3" in text
        assert "Since 2026-01-02 03:04:05 UTC" in text
        assert f"Uploads stand still: {HOSTILE[0]}" in text
        assert await tab.evaluate("document.querySelectorAll('.notice.bad').length") == 1
        assert await tab.evaluate("document.querySelectorAll('main img').length") == 0
        source.change(at_risk=(replace(still, size_bytes=6 << 20, recordings=2), folder))
        await tab.until("document.querySelectorAll('.notice.bad').length === 2")
        text = await tab.evaluate("document.getElementById('notices').innerText")
        assert "6.0 MiB of 2 recordings do not get to S3" in text
        assert "Recordings are at risk" in text
        for risk in (still, folder):
            assert f"What to do: {risk.advice}.".replace("`", "") in text
        source.change(at_risk=())
        await tab.until(f"{PHASE} === 'ready' && document.querySelectorAll('.notice').length === 0")
        assert tab.console == []


async def test_what_failed_is_one_step_away_and_its_time_is_the_logs() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    failed = FailedStream(stream_id="f1", file="bad.mp4", sentence="It failed.", detail="no.", at=at)
    source = SetSource(replace(snapshot_of(*(stream(f"id-{n}", f"{n}.mp4") for n in range(100))), failed=(failed,)))
    source.change(totals=replace(source.now.totals, failed=1))
    async with serving(source) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until(f"{ROWS}.length === 100")
        await tab.evaluate("document.getElementById('failed-count').click()")
        await tab.until("document.getElementById('failed-title').getBoundingClientRect().top < innerHeight")
        text = await tab.evaluate("document.getElementById('failed-card').innerText")
        assert "2026-01-02 03:04:05 UTC" in text
        assert "cef-trio retry ID" in text
        assert tab.console == []


async def test_what_is_read_out_changes_when_something_happens_and_not_with_every_byte() -> None:
    source = SetSource()
    async with serving(source) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until(f"{ROWS}.length === 1")
        await tab.until(f"{SAID} === 'cef-trio: ready. 1 open stream, 0 failed.'")
        await tab.evaluate(
            "(() => { window.said = 0; new MutationObserver(() => window.said++)"
            ".observe(document.getElementById('summary'), {childList: true, characterData: true, subtree: true}); })()"
        )
        for uploaded in (50, 60):
            source.now = snapshot_of(stream("id-1", "a.mp4", uploaded))
            await tab.until(f"{ROWS}[0].innerText.includes('{uploaded}%')")
        assert await tab.evaluate("window.said") == 0
        source.change(outages=(ServiceOutage(service="redis", since=1.7e9, error="no", probes=1),))
        await tab.until(f"{SAID} === 'cef-trio: waits. Redis is not reachable. 1 open stream, 0 failed.'")
        assert await tab.evaluate("window.said") == 1


async def test_a_screen_reader_meets_tables_labelled_progress_and_a_live_summary() -> None:
    async with serving(SetSource()) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until(f"{ROWS}.length === 1")
        await tab.until(f"{SAID}.includes('1 open stream,')")
        for width in (1280, 400):  # a narrow window lays tables out as blocks; they stay tables
            await tab.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
            )
            nodes = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
            found = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]}
            assert ("progressbar", "a.mp4, uploaded of what is on disk") in found
            assert {"table", "columnheader", "rowheader", "cell", "status"} <= {role for role, _ in found}
            assert ("link", "Skip to the streams") in found
            assert not await tab.evaluate("document.documentElement.scrollWidth > innerWidth")


async def test_the_fleets_page_shows_daemons_and_problems_and_hostile_names_are_only_text() -> None:
    now = 1.7e9
    daemons = [
        DaemonReport(
            instance=f"o{number}", owner=f"o{number}", process=str(number), version="1",
            name=name, host=name, folder=name,
            at=now - 100 * number, received_at=now - 100 * number, behind=Lag(2048, now - 90), streams={"working": 3},
        )
        for number, name in enumerate(HOSTILE)
    ]  # fmt: skip
    source = SetSource()
    async with serving(source) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/fleet")
        await tab.until(f"{PHASE} === 'waiting'")
        source.known_fleet = json.dumps(fleet_document(Fleet(tuple(daemons), now)))
        await tab.until(f"document.querySelectorAll('#daemons tr').length === {len(HOSTILE)}")
        text = await tab.evaluate("document.body.innerText")
        assert "2.0 KiB" in text
        assert "for 1m30s" in text
        assert f"{len(HOSTILE) - 1} daemons reported no more" in text
        assert await tab.evaluate("document.querySelectorAll('main img, main svg, main script, main b').length") == 0
        assert "pwned" not in await tab.evaluate("document.title")
        await tab.window(390, 800)  # a phone: nothing is cut, each number has its word
        await tab.until("innerWidth === 390")
        cells = "[...document.querySelectorAll('#daemons td')]"
        assert await tab.evaluate(f"{cells}.filter((cell) => cell.getBoundingClientRect().right > 390).length") == 0
        labels = f"{cells}.filter((cell) => cell.matches('.number')).map((cell) => cell.dataset.label)"
        assert await tab.evaluate(labels) == ["streams", "rate", "behind"] * len(HOSTILE)
        lines = "[...document.querySelectorAll('#daemons td.state small')].map((one) => one.offsetHeight)"
        assert max(await tab.evaluate(lines)) < 30
        risks = (
            Risk(Reason.FILE_UNREADABLE, now - 90, 0, 1, "denied"),
            Risk(Reason.FILE_UNREADABLE, now - 80, 0, 1, "gone"),
        )
        at_risk = replace(
            daemons[0], at=now, received_at=now, risks=(*risks, Risk(Reason.S3_DOWN, now - 70, 0, 1, "403"))
        )
        source.known_fleet = json.dumps(fleet_document(Fleet((at_risk,), now)))
        await tab.until("document.querySelectorAll('#daemons tr').length === 1")
        lines = await tab.evaluate(
            "[...document.querySelectorAll('#daemons td.why small')].map((one) => one.innerText)"
        )
        assert [line.partition(" s: ")[2] or line for line in lines] == [
            "denied",
            "gone",
            f"What to do: {RISK_ADVICE[Reason.FILE_UNREADABLE]}.".replace("`", ""),
            "403",
            f"What to do: {RISK_ADVICE[Reason.S3_DOWN]}.".replace("`", ""),
        ]
        source.known_fleet = json.dumps(fleet_document(Fleet((), now)))
        await tab.until(f"{PHASE} === 'no problem' && document.querySelectorAll('#daemons tr').length === 0")
