"""Debian's Chromium without a window, driven over a pair of pipes (``--remote-debugging-pipe``): NUL-ended JSON.

https://chromedevtools.github.io/devtools-protocol/ has the methods.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from os import close, pipe
from typing import Any

import trio
from waiting import WAIT_SECONDS

PROGRAM = shutil.which("chromium")
_FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --remote-debugging-pipe"


class Tab:
    """One page. ``console`` is everything that it complained of."""

    def __init__(self, read: trio.lowlevel.FdStream, write: trio.lowlevel.FdStream) -> None:
        self._read, self._write = read, write
        self._buffer = b""
        self._last_id = 0
        self._session: str | None = None
        self.console: list[str] = []

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._write.send_all(json.dumps(message).encode() + b"\0")
        while (answer := await self._message()).get("id") != self._last_id:
            if answer.get("method") in {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}:
                self.console.append(json.dumps(answer["params"]))
        assert "error" not in answer, answer
        return dict(answer["result"])

    async def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            received = await self._read.receive_some()
            assert received, "chromium ended"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    async def open(self, url: str) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Log", "Runtime", "Page", "Accessibility"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        # It answers before the page is parsed: its elements may not exist yet.
        await self.until("location.href !== 'about:blank' && document.readyState !== 'loading'")

    async def evaluate(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def begin_trace(self) -> None:
        """Note the tasks of all threads until :meth:`end_trace`."""
        categories = {"includedCategories": ["toplevel", "disabled-by-default-devtools.timeline"]}
        await self.call("Tracing.start", transferMode="ReportEvents", traceConfig=categories)

    async def end_trace(self) -> list[dict[str, Any]]:
        """The events since :meth:`begin_trace`; ``dur`` is real time, ``tdur`` the thread's CPU time, in µs."""
        await self.call("Tracing.end")
        events: list[dict[str, Any]] = []
        while (message := await self._message()).get("method") != "Tracing.tracingComplete":
            if message.get("method") == "Tracing.dataCollected":
                events += message["params"]["value"]
        return events

    async def press(self, *keys: str) -> None:
        """Press and release each key: a character, or a name of https://www.w3.org/TR/uievents-key/."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            code = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowUp": 38, "ArrowDown": 40}.get(key, 0)
            await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
            await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    async def window(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def theme(self, scheme: str) -> None:
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def until(self, expression: str, seconds: float = WAIT_SECONDS) -> Any:
        """Wait until it is true; returns its value."""
        with trio.move_on_after(seconds):
            while True:
                if value := await self.evaluate(expression):
                    return value
                await trio.sleep(0.05)
        text = await self.evaluate("document.body.innerText")
        raise AssertionError(f"{expression} was not true within {seconds} s; the page says:\n{text}")


@asynccontextmanager
async def chromium(*more_flags: str) -> AsyncIterator[Tab]:
    """A running browser with nothing open."""
    assert PROGRAM is not None
    theirs_in, ours_out = pipe()
    ours_in, theirs_out = pipe()
    with tempfile.TemporaryDirectory(prefix="cef-trio-chromium-", ignore_cleanup_errors=True) as profile:
        async with trio.lowlevel.FdStream(ours_out) as write, trio.lowlevel.FdStream(ours_in) as read:
            flags = " ".join([_FLAGS, *more_flags])
            command = f'exec "$0" {flags} --user-data-dir="$1" 3<&{theirs_in} 4>&{theirs_out} >/dev/null 2>&1'
            process = await trio.lowlevel.open_process(
                ["bash", "-c", command, PROGRAM, profile], pass_fds=[theirs_in, theirs_out]
            )
            close(theirs_in)
            close(theirs_out)
            try:
                yield Tab(read, write)
            finally:
                process.kill()
                await process.wait()
