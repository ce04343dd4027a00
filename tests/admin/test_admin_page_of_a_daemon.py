"""The page of a real daemon, in a real browser, with a real Redis that goes away and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.chromium import PROGRAM, chromium
from servers.daemon import daemon, settings_for
from servers.store import Store
from servers.valkey import valkey_server

PART = 5 << 20

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (apt-get install chromium)"),
]


async def test_a_recording_can_be_followed_and_an_outage_is_told_from_its_cause_to_its_end(
    watch_dir: Path, embedded: Store
) -> None:
    detail, notices = "document.getElementById('detail').innerText", "document.getElementById('notices').innerText"
    with valkey_server(tcp=True) as redis:
        settings = settings_for(watch_dir, embedded.endpoint, redis.url, close_grace_seconds=0.1)
        with daemon(settings) as process, (watch_dir / "a.mp4").open("wb") as recorder:
            recorder.write(b"x" * (2 * PART + 1000))
            recorder.flush()
            port = process.wait_for("admin_server_started")["port"]
            started = process.wait_for("upload_created")
            async with chromium() as tab:
                await tab.open(f"http://127.0.0.1:{port}/")
                await tab.until("document.getElementById('streams').innerText.includes('a.mp4')")
                await tab.evaluate("document.querySelector('#streams button.open').click()")
                await tab.until(f"{detail}.includes('2 in S3') && {detail}.includes('1 waiting')")
                says = await tab.evaluate(detail)
                assert f"recordings/{started['key']}" in says
                assert "upload_part 2" in says
                assert "upload_created" in says  # its log
                redis.kill()
                process.wait_for("outage_started", service="redis")
                await tab.until(f"{notices}.includes('Redis is not reachable') && {notices}.includes('What to do: ')")
                assert "Cause: Redis operation" in await tab.evaluate(notices)
                redis.start()
                await tab.until("document.getElementById('outages').innerText.includes('Redis')")
                await tab.until(f"!{notices}.includes('Redis is not reachable')")
                recorder.close()
                await tab.until("document.getElementById('completions').innerText.includes('a.mp4')")
                await tab.until(f"{detail}.includes('Completed') && {detail}.includes('stream_completed')")
                assert tab.console == []
