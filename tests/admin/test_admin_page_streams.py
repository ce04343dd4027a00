"""Many streams, search, sort, keys, one stream's detail and the last hour, in a real browser before the real server."""

from __future__ import annotations

import time
from dataclasses import replace
from random import Random

import pytest
from admin.admin_scene import SetSource, serving, snapshot_of, stream
from admin.pictures import scene
from servers.chromium import PROGRAM, Tab, chromium

from cef_trio.admin.status_page import CompletedStream, Detail, FailedStream, HistoryPage, Outage, StreamRow
from cef_trio.checkpoint.states import ADVICE, FailureReason
from cef_trio.observability import LogLine, PartRun, PartState, StreamActivity, StreamDetail
from cef_trio.observability.snapshot import OUTAGE_ADVICE

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (apt-get install chromium)"),
]
ROWS = "[...document.querySelectorAll('#streams tr[data-key]')]"
NAMES = f"{ROWS}.map((row) => row.querySelector('button').textContent)"
COVERED = """(() => {
  const found = [], leaves = (row) => [...row.querySelectorAll("td span, td small, td canvas, td progress")].filter((one) => !one.children.length && one.offsetWidth);
  for (const row of document.querySelectorAll("#streams tr[data-key]")) {
    const boxes = leaves(row).map((one) => [one.textContent, one.getBoundingClientRect()]);
    boxes.forEach(([text, a], index) => boxes.slice(index + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left), high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > -3 && high > 3) found.push([text, other]);
    }));
  }
  return found;
})()"""  # noqa: E501
"""The texts in a row that cover, or touch, each other."""
HOSTILE = "<img src=x onerror=\"document.title='pwned'\">"


def many(count: int) -> tuple[StreamRow, ...]:
    return tuple(
        replace(stream(f"id-{number:04}", f"hall-{number % 7}/cam-{number:04}.mp4"), lag_bytes=number)
        for number in range(count)
    )


async def look(tab: Tab, port: int, count: int) -> None:
    await tab.open(f"http://127.0.0.1:{port}/")
    await tab.window(1280, 900)
    await tab.until(f"document.getElementById('streams-table').ariaRowCount === '{count + 1}'")


async def choose(tab: Tab, control: str, value: str) -> None:
    event = "input" if control == "search" else "change"
    await tab.evaluate(
        f"(() => {{ const c = document.getElementById('{control}'); c.value = '{value}';"
        f" c.dispatchEvent(new Event('{event}', {{bubbles: true}})); }})()"
    )


async def test_rows_that_are_not_in_view_are_made_some_in_each_frame_until_all_are_there() -> None:
    """So that no frame takes long; all of them, so that the browser's own search finds them."""
    source = SetSource(snapshot_of(*many(1)))
    async with serving(source) as port, chromium() as tab:
        await look(tab, port, 1)
        await tab.evaluate(
            "window.made = []; new MutationObserver((all) => window.made.push(all.flatMap((one) => [...one.addedNodes])"
            ".filter((node) => node.dataset.key).length))"
            ".observe(document.getElementById('streams'), {childList: true})"
        )
        source.now = snapshot_of(*many(100))
        await tab.until(f"{ROWS}.length === 100")
        assert await tab.evaluate(f"{ROWS}.map((row) => row.ariaRowIndex)") == [str(n) for n in range(2, 102)]
        assert await tab.evaluate("document.querySelectorAll('#streams tr.gap').length") == 0
        assert len(await tab.evaluate("window.made.filter((count) => count)")) > 2
        assert max(await tab.evaluate("window.made")) <= 60
        assert tab.console == []


async def test_of_a_thousand_streams_only_the_rows_in_view_are_in_the_document() -> None:
    source = SetSource(snapshot_of(*many(1000)))
    async with serving(source) as port, chromium() as tab:
        await look(tab, port, 1000)
        assert 10 < await tab.evaluate(f"{ROWS}.length") < 60
        assert await tab.evaluate("document.querySelectorAll('*').length") < 2000
        whole = f"document.getElementById('streams').offsetHeight / {ROWS}[3].offsetHeight"
        await tab.until(f"Math.abs({whole} - 1000) < 20")
        await tab.evaluate("scrollTo(0, document.getElementById('streams').offsetHeight / 2)")
        await tab.until(f"{ROWS}.some((row) => row.ariaRowIndex === '502')")
        assert await tab.evaluate(f"{ROWS}.length") < 60
        await tab.evaluate("window.row = document.querySelector('#streams tr[data-key=id-0500]')")
        await tab.evaluate(
            "window.changes = []; new MutationObserver((all) => window.changes.push(...all))"
            ".observe(document.getElementById('streams'), {childList: true})"
        )
        before = many(1000)
        source.now = snapshot_of(*before[:500], replace(before[500], acknowledged_bytes=77), *before[501:])
        shown = "document.querySelector('#streams tr[data-key=id-0500]')"
        await tab.until(f"{shown} && {shown}.innerText.includes('77%')")
        assert await tab.evaluate(f"{shown} === window.row")
        assert await tab.evaluate("window.changes.length") == 0
        source.now = snapshot_of(*before[:10])  # they have ended
        await tab.until(f"{ROWS}.length === 10")
        assert await tab.evaluate(f"{NAMES}[0]") == "hall-0/cam-0000.mp4"
        assert tab.console == []


async def test_streams_are_searched_filtered_and_sorted() -> None:
    rows = many(300)
    held = replace(rows[7], state=StreamActivity.RETRYING, note=f"denied {HOSTILE}")
    source = SetSource(snapshot_of(*rows[:7], held, *rows[8:]))
    async with serving(source) as port, chromium() as tab:
        await look(tab, port, 300)
        await choose(tab, "search", "HALL-3/cam-01")
        await tab.until(f"{NAMES}.length && {NAMES}.every((one) => one.startsWith('hall-3/cam-01'))")
        expected = [row.file for row in rows if row.file.startswith("hall-3/cam-01")]
        assert await tab.evaluate(NAMES) == expected
        assert f"{len(expected)} of 300 streams" in await tab.evaluate("document.getElementById('left-out').innerText")
        await tab.until(f"document.getElementById('matches').textContent === '{len(expected)} streams shown'")
        await choose(tab, "search", "nothing like that")
        await tab.until("document.body.innerText.includes('No stream matches the filter.')")
        await choose(tab, "search", "id-0123")
        await tab.until(f"{ROWS}.length === 1")
        await choose(tab, "search", "")
        await choose(tab, "state", "attention")
        await tab.until(f"{ROWS}.length === 1")
        await tab.until("document.querySelector('#streams').innerText.includes('onerror')")
        assert HOSTILE in await tab.evaluate("document.querySelector('#streams').innerText")
        assert await tab.evaluate("document.querySelectorAll('main img').length") == 0
        await choose(tab, "state", "")
        await tab.evaluate("document.querySelector('[data-sort=lag_bytes]').click()")
        await tab.until(f"{NAMES}[0] === '{rows[299].file}'")  # the largest lag first
        assert await tab.evaluate("document.querySelector('th[aria-sort=descending]').innerText.trim()") == "Lag"
        await tab.evaluate("document.querySelector('[data-sort=lag_bytes]').click()")
        await tab.until(f"{NAMES}[0] === '{rows[0].file}'")
        assert tab.console == []


async def test_keys_move_through_the_rows_and_the_focused_one_stays_in_the_document() -> None:
    source = SetSource(snapshot_of(*many(1000)))
    focused = "document.activeElement.textContent"
    async with serving(source) as port, chromium() as tab:
        await look(tab, port, 1000)
        await tab.press("j", "j", "j", "k")
        names = await tab.evaluate(NAMES)
        assert await tab.evaluate(focused) == names[1]
        await tab.evaluate("scrollTo(0, document.getElementById('streams').offsetHeight)")
        last = max(row.file for row in many(1000))
        await tab.until(f"{NAMES}.at(-1) === '{last}'")
        assert await tab.evaluate(focused) == names[1]
        await tab.press("ArrowDown")
        assert await tab.evaluate(focused) == names[2]
        assert await tab.evaluate("document.activeElement.getBoundingClientRect().top") > 0
        await tab.press("/")
        assert await tab.evaluate("document.activeElement.id") == "search"
        await tab.press("j")  # typed
        assert await tab.evaluate("document.getElementById('search').value") == "j"
        await tab.press("Escape")
        await tab.until("document.getElementById('search').value === ''")
        await tab.press("?")
        assert await tab.evaluate("document.getElementById('keys').open")
        await tab.evaluate("document.getElementById('keys-on').click()")
        await tab.press("Escape", "/")
        assert await tab.evaluate("document.activeElement.id") != "search"  # letters are keys no more
        assert tab.console == []


def detail_of(shown: StreamRow, **changes: object) -> Detail:
    known = StreamDetail(
        stream_id=str(shown.stream_id), status="active", bucket="recordings", key=f"streams/o/{HOSTILE}.mp4",
        upload_id="upload-1", started_at=time.time() - 100, part_size=5 << 20, size_bytes=100 << 20,
        total_bytes_sent=90 << 20, parts_rewritten=1, bytes_rewritten=5 << 20, verified_parts=7,
        parts=(PartRun(PartState.REWRITTEN, 1), PartRun(PartState.STORED, 17), PartRun(PartState.IN_FLIGHT, 2)),
        requests={"upload_part": 20, "create_multipart_upload": 1}, retries={"s3 upload_part": 3},
    )  # fmt: skip
    log = (LogLine("2026-01-02T03:04:05.678901Z", "warning", "retry", f"error={HOSTILE}"),)
    detail = Detail(
        stream_id=str(shown.stream_id), file=shown.file, known=known, history_at=time.time(),
        bytes_per_second=(1024, 2048), lag_bytes=(0, 4096), log=log,
    )  # fmt: skip
    return replace(detail, **changes)  # type: ignore[arg-type]


async def test_a_stream_can_be_opened_followed_linked_to_and_closed() -> None:
    row = stream("id-1", "a.mp4")
    source = SetSource(snapshot_of(row, stream("id-2", "b.mp4")), details={"id-1": detail_of(row)})
    text = "document.getElementById('detail').innerText"
    async with serving(source) as port, chromium() as tab:
        await look(tab, port, 2)
        await tab.press("j", "Enter")
        await tab.until("document.querySelectorAll('#detail-log li').length === 1")
        says = await tab.evaluate(text)
        for wanted in (
            f"recordings/streams/o/{HOSTILE}.mp4", "upload-1", "1 part rewritten (5.0 MiB)",
            "21: upload_part 20, create_multipart_upload 1", "3: s3 upload_part 3", "20 parts, the first of 5.0 MiB",
            "17 in S3", "1 rewritten", "2 being sent", "7 verified", "03:04:05.678", f"error={HOSTILE}",
        ):  # fmt: skip
            assert wanted in says, wanted
        assert await tab.evaluate("document.querySelectorAll('img').length") == 0
        label = await tab.evaluate("document.getElementById('parts').getAttribute('aria-label')")
        assert label == "Parts: 17 in S3, 1 rewritten, 2 being sent, 7 verified"
        assert await tab.evaluate("location.hash") == "#stream=id-1"
        known = source.details["id-1"].known
        assert known is not None
        source.details["id-1"] = detail_of(row, known=replace(known, verified_parts=20))
        await tab.until(f"{text}.includes('20 verified')")  # by itself
        await tab.press("Escape")
        await tab.until("!document.getElementById('detail').open && location.hash === ''")
        assert await tab.evaluate("document.activeElement.textContent") == "a.mp4"  # where it was before
        await tab.evaluate("location.hash = 'stream=gone'")
        await tab.until(f"{text}.includes('knows no open stream of that id')")
        await tab.evaluate("location.hash = 'stream=id-1'; 0")
        await tab.until(f"{text}.includes('20 verified')")
        await tab.call("Page.reload")
        await tab.until(f"document.querySelector('#detail-log li') && {text}.includes('20 verified')")
        await tab.evaluate("history.back()")
        assert tab.console == []


async def test_completions_failures_with_their_advice_and_outages_are_told() -> None:
    now = time.time()
    failed = FailedStream(
        stream_id="f1", file="bad.mp4", sentence="S3 lost it.", detail=HOSTILE, at=now - 60,
        advice=ADVICE[FailureReason.FINALIZATION],
    )  # fmt: skip
    done = CompletedStream(stream_id="c1", file=f"{HOSTILE}.mp4", size_bytes=3 << 20, started_at=now - 90, at=now - 30)
    over = Outage(service="redis", since=now - 500, until=now - 440, cause=f"refused {HOSTILE}", probes=9)
    going = Outage(
        service="s3", since=now - 100, cause="no route to host", probes=12, error="denied", probed_at=now - 2,
        advice=OUTAGE_ADVICE[True],
    )  # fmt: skip
    source = SetSource()
    source.change(failed=(failed,), completed=(done,), past_outages=(over,), outages=(going,))
    source.details = {
        "f1": Detail(stream_id="f1", file="bad.mp4", why="S3 lost it.", known=replace(_known("f1"), status="failed_x"))
    }
    async with serving(source) as port, chromium() as tab:
        await look(tab, port, 1)
        await tab.until("document.querySelectorAll('#failed tr').length === 1")
        text = await tab.evaluate("document.querySelector('main').innerText")
        assert "What to do: read its error: a store that requires equal parts (InvalidPart, EntityTooSmall)" in text
        assert "cef-trio retry f1" in text
        assert await tab.evaluate("document.querySelectorAll('#failed .advice code').length") == 4
        notice = await tab.evaluate("document.getElementById('notices').innerText")
        assert "S3 is not reachable" in notice
        assert ", for 1m" in notice
        assert "Probed 12 times since, the last" in notice
        assert "Cause: no route to host" in notice
        assert "Last probe: denied" in notice
        assert "What to do: correct what the error names: credentials" in notice
        assert "1m00s" in await tab.evaluate("document.getElementById('completions').innerText")
        ended = await tab.evaluate("document.getElementById('outages').innerText")
        assert "Redis" in ended
        assert "ended after 9 probes" in ended
        assert HOSTILE in ended
        await tab.evaluate("document.querySelector('#failed button.open').click()")
        await tab.until("document.getElementById('detail-body').innerText.includes('failed_x')")
        says = await tab.evaluate("document.getElementById('detail').innerText")
        assert "read its error" in says
        assert "cef-trio retry f1" in says
        assert await tab.evaluate("document.querySelectorAll('img').length") == 0
        assert tab.console == []


def _known(stream_id: str) -> StreamDetail:
    known = detail_of(stream(stream_id, "x.mp4")).known
    assert known is not None
    return replace(known, parts=())


async def test_the_last_hour_is_drawn_and_goes_on() -> None:
    source = SetSource(snapshot_of(stream("id-1", "a.mp4")), sparks={"id-1": [1, 5, 3]})
    source.past = HistoryPage(period_seconds=10, at=(100, 110), bytes_per_second=(0, 2048), lag_bytes=(9, 5 << 20))
    rate = "document.querySelector('#chart-rate canvas').getAttribute('aria-label')"
    drawn = "document.querySelector('#chart-rate canvas').toDataURL()"
    spark = "document.querySelector('#streams canvas')"
    async with serving(source) as port, chromium() as tab:
        await look(tab, port, 1)
        await tab.until(f"{rate} === 'Throughput of the last hour: now 2.0 KiB/s, at most 2.0 KiB/s'")
        await tab.until(f"{spark}.getAttribute('aria-label') === 'Rate of the last ten minutes, at most 5 B/s'")
        await tab.evaluate(f"window.drawn = {drawn}; window.spark = {spark}.toDataURL(); 0")
        source.past = HistoryPage(
            period_seconds=10, at=(100, 110, 120), bytes_per_second=(0, 2048, 4096), lag_bytes=(9, 5 << 20, 0)
        )
        await tab.until(f"{rate} === 'Throughput of the last hour: now 4.0 KiB/s, at most 4.0 KiB/s'")
        await tab.until(f"{drawn} !== window.drawn && {spark}.toDataURL() !== window.spark")
        assert (
            await tab.evaluate(f"{spark}.getAttribute('aria-label')")
            == "Rate of the last ten minutes, at most 2.0 KiB/s"
        )
        await tab.evaluate(f"window.drawn = {drawn}; 0")
        await tab.theme("dark")
        await tab.until(f"{drawn} !== window.drawn")  # its colours follow
        assert tab.console == []


async def test_a_phone_shows_all_of_a_row_and_a_stream_without_scrolling_sideways() -> None:
    source = scene(time.time(), Random(3))
    async with serving(source) as port, chromium() as tab:
        await look(tab, port, 11)
        for width in (320, 390, 700, 900):
            await tab.window(width, 800)
            await tab.until(f"innerWidth === {width}")
            assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
            ends = "getBoundingClientRect().bottom"
            cut = f"{ROWS}.filter((row) => [...row.children].some((cell) => cell.{ends} > row.{ends} + 1))"
            assert await tab.evaluate(f"{cut}.length") == 0, width
            assert await tab.evaluate(COVERED) == [], width
        await tab.window(320, 640)
        await tab.evaluate("document.querySelector('#streams button.open').click()")
        await tab.until("document.querySelectorAll('#detail-log li').length === 4")
        assert await tab.evaluate("document.getElementById('detail').scrollWidth <= innerWidth")
