"""Measure the status page with many streams in real Chromium, and what the daemon spends on it.

    PYTHONPATH=tests:. python benchmarks/status_page.py [STREAMS] [SECONDS]

Every second a third of the streams changes. Shown are the elements in the document, the tasks of the page's main thread
that took longer than 50 ms (a person notices these), by CPU time and by the clock, as on a busy machine they wait for a
CPU; and the CPU time of all of them in a second. Needs Chromium.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any, Final

import trio
from admin.admin_scene import SetSource, serving, snapshot_of, stream
from servers.chromium import Tab, chromium

from cef_trio.admin.page_events import Listener, PageState
from cef_trio.admin.status_page import StreamRow

MIB = 1 << 20
BEGAN = time.time()
LONG_MS: Final = 50.0


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


async def measure(tab: Tab, what: str, seconds: float, *, scroll: bool = False, first: str = "") -> None:
    """Measure for so long; ``first``: evaluated at the beginning."""
    await tab.begin_trace()
    if first:
        await tab.evaluate(first)
    ends = time.monotonic() + seconds
    place = 0
    while time.monotonic() < ends:
        if scroll:
            place = (place + 900) % 60_000
            await tab.evaluate(f"scrollTo(0, {place})")
        await trio.sleep(0.1)
    tasks = tasks_of_the_page(await tab.end_trace())
    elements = await tab.evaluate("document.querySelectorAll('*').length")
    cpu, clock = [cpu for cpu, _ in tasks], [clock for _, clock in tasks]
    print(
        f"{what}: {elements} elements; {longest(cpu, 'CPU')}; {longest(clock, 'by the clock')}; "
        f"{sum(cpu) / seconds:.0f} ms CPU a second"
    )


def longest(tasks: list[float], measured: str) -> str:
    return f"{sum(one > LONG_MS for one in tasks)} long tasks, at most {max(tasks, default=0):.0f} ms ({measured})"


def tasks_of_the_page(events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """CPU time and duration in ms of each task of the busiest main thread of a page: an empty tab has one too."""
    main = {(one["pid"], one["tid"]) for one in events if one.get("args", {}).get("name") == "CrRendererMain"}
    found = dict[tuple[int, int], list[tuple[float, float]]]()
    for one in events:
        thread = one["pid"], one["tid"]
        if one["name"] == "RunTask" and one["ph"] == "X" and thread in main:
            found.setdefault(thread, []).append((one.get("tdur", 0) / 1000, one["dur"] / 1000))
    return max(found.values(), key=lambda tasks: sum(cpu for cpu, _ in tasks), default=[])


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
        await tab.until(f"document.getElementById('streams-table').ariaRowCount === '{count + 1}'")
        await measure(tab, "loaded", seconds, first="location.reload()")
        await measure(tab, "still", seconds)
        await measure(tab, "scrolled", seconds, scroll=True)
        by_lag = "document.querySelector('[data-sort=lag_bytes]').click()"
        await measure(tab, "sorted by lag, scrolled", seconds, scroll=True, first=by_lag)
        search = "document.getElementById('search')"
        await measure(
            tab, "filtered", seconds, first=f"{search}.value = 'hall-3'; {search}.dispatchEvent(new Event('input'))"
        )
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int((sys.argv[1:] or ["1000"])[0]), float((sys.argv[2:] or ["10"])[0]))
