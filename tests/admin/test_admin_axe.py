"""No rule of accessibility that axe-core checks is broken: light, dark, narrow, with every part of the page in use."""

from __future__ import annotations

import time
from dataclasses import replace
from random import Random

import pytest
from admin.admin_scene import serving
from admin.pictures import scene
from servers import axe
from servers.chromium import PROGRAM, Tab, chromium

from cef_trio.admin.status_page import Outage
from cef_trio.observability import OUTAGE_ADVICE
from cef_trio.observability.at_risk import Reason, Risk

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (apt-get install chromium)"),
    pytest.mark.skipif(axe.SCRIPT is None, reason="axe-core is not in the cache (.ci/test downloads it by npm)"),
]


async def in_every_look(tab: Tab) -> None:
    for scheme in ("light", "dark"):
        await tab.theme(scheme)
        for width in (1240, 390):
            await tab.window(width, 900)
            assert await axe.violations(tab) == [], (scheme, width)
            assert not await tab.evaluate("document.documentElement.scrollWidth > innerWidth"), width


async def test_the_page_its_notices_a_stream_and_the_keys_break_no_rule() -> None:
    now = time.time()
    source = scene(now, Random(1))
    outage = Outage(
        service="s3", since=now - 60, cause="no route", probes=3, error="refused", advice=OUTAGE_ADVICE[True]
    )
    risk = Risk(Reason.NOT_MOVING, now - 90, 1 << 20, 1, "uploads stand still")
    source.now = replace(source.now, outages=(outage,), at_risk=(risk,))
    async with serving(source) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until(
            "document.querySelectorAll('#streams tr').length === 11 && document.querySelectorAll('#failed tr').length"
        )
        await in_every_look(tab)
        await tab.evaluate("document.querySelector('#streams button.open').click()")
        await tab.until("document.querySelectorAll('#detail-log li').length === 4")
        await in_every_look(tab)
        await tab.press("Escape")
        await tab.until("!document.getElementById('detail').open")
        await tab.press("?")
        await tab.until("document.getElementById('keys').open")
        await in_every_look(tab)
        assert tab.console == []


async def test_the_fleets_page_breaks_no_rule() -> None:
    async with serving(scene(time.time(), Random(1))) as port, chromium() as tab:
        await tab.open(f"http://127.0.0.1:{port}/fleet")
        await tab.until("document.getElementById('phase').textContent === 'waiting'")
        await in_every_look(tab)
