"""Measure the status page with many streams in real Chromium, and what the daemon spends on it.

    PYTHONPATH=tests:. python benchmarks/status_page.py [STREAMS] [SECONDS]

Every second a third of the streams changes. Shown are the elements in the document, the tasks that took longer than
50 ms, and the time of scripts and layout in a second. Needs Chromium.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import trio
from admin.admin_scene import SetSource, serving, snapshot_of, stream
from servers.chromium import Tab, chromium

from cef_trio.admin.page_events import Listener, PageState
from cef_trio.admin.status_page import StreamRow

MIB = 1 << 20
BEGAN = time.time()


def rows(count: int, turn: int) -> tuple[StreamRow, ...]:
    return tuple(
        replace(
            stream(f"{number:08}-0000", f"hall-{number % 7}/camera-{number:04}.mp4"),
            acknowledged_bytes=(step := (turn + number % 3) // 3) * MIB,
            size_on_disk_bytes=2000 * MIB,
            bytes_per_second=MIB * (1 + (number + step) % 5),
            lag_bytes=MIB * ((number * 7 + step) % 90),
            lag_since=BEGAN - number % 50,
        )
        for number in range(count)
    )


async def change(source: SetSource, count: int) -> None:
    for turn in range(1, 10_000):
        source.now = snapshot_of(*rows(count, turn))
        await trio.sleep(1)


async def measure(tab: Tab, what: str, seconds: float, *, scroll: bool) -> None:
    before = await metrics(tab)
    await tab.evaluate("window.tasks.length = 0")
    ends = time.monotonic() + seconds
    place = 0
    while time.monotonic() < ends:
        if scroll:
            place = (place + 900) % 60_000
            await tab.evaluate(f"scrollTo(0, {place})")
        await trio.sleep(0.1)
    after = await metrics(tab)
    spent = {name: after[name] - before[name] for name in ("ScriptDuration", "LayoutDuration", "TaskDuration")}
    tasks = await tab.evaluate("window.tasks")
    elements = await tab.evaluate("document.querySelectorAll('*').length")
    print(
        f"{what}: {elements} elements, {len(tasks)} long tasks of at most {max(tasks, default=0):.0f} ms in "
        f"{seconds:.0f} s; " + ", ".join(f"{name} {1000 * value / seconds:.0f} ms/s" for name, value in spent.items())
    )


async def metrics(tab: Tab) -> dict[str, float]:
    found = await tab.call("Performance.getMetrics")
    return {one["name"]: one["value"] for one in found["metrics"]}


def spent_by_the_daemon(count: int) -> None:
    source = SetSource(snapshot_of(*rows(count, 0)))
    state, listener, size, turns = PageState.of(source), Listener(), 0, 20
    first = sum(map(len, listener.news(state)))
    began = time.perf_counter()
    for turn in range(1, turns + 1):
        source.now = snapshot_of(*rows(count, turn))
    made = time.perf_counter() - began
    began = time.perf_counter()
    for turn in range(1, turns + 1):
        source.now = snapshot_of(*rows(count, turn))
        state = PageState.of(source, state)
        size += sum(map(len, listener.news(state)))
    took = time.perf_counter() - began - made
    print(
        f"daemon: {first / 1024:.0f} KiB at first, then {size / turns / 1024:.0f} KiB and "
        f"{1000 * took / turns:.1f} ms a second"
    )


async def main(count: int, seconds: float) -> None:
    spent_by_the_daemon(count)
    source = SetSource(snapshot_of(*rows(count, 0)))
    async with serving(source) as port, chromium() as tab, trio.open_nursery() as nursery:
        nursery.start_soon(change, source, count)
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.window(1280, 900)
        await tab.call("Performance.enable")
        await tab.until(f"document.getElementById('streams-table').ariaRowCount === '{count + 1}'")
        await tab.evaluate(
            "window.tasks = []; new PerformanceObserver((list) => { for (const one of list.getEntries())"
            " tasks.push(one.duration); }).observe({entryTypes: ['longtask']})"
        )
        await measure(tab, "still", seconds, scroll=False)
        await measure(tab, "scrolled", seconds, scroll=True)
        await tab.evaluate("document.querySelector('[data-sort=lag_bytes]').click()")
        await measure(tab, "sorted by lag, scrolled", seconds, scroll=True)
        await tab.evaluate(
            "document.getElementById('search').value = 'hall-3';"
            "document.getElementById('search').dispatchEvent(new Event('input'))"
        )
        await measure(tab, "filtered", seconds, scroll=False)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int((sys.argv[1:] or ["1000"])[0]), float((sys.argv[2:] or ["10"])[0]))
