"""The admin server's answers, as a small ASGI application of our own.

Reads only: GET and HEAD, five addresses, no parameters, no body is looked at, nothing that is asked changes anything.
No answer is kept by a cache, and the page may load nothing from anywhere: its own style and script are allowed by
their hashes, so that a file name that is HTML stays a name even if the script that shows it had a mistake. Which
websites may have sent a browser here is said in ``hosts.py``.

``/events`` is the one answer that lasts (server-sent events,
https://html.spec.whatwg.org/multipage/server-sent-events.html). It has a limit of listeners, reads its own client to
see it go, and goes on while the daemon drains, so that this can be watched. Who is slow, and who is still there at the
end, is cut off by the server below.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cef_trio.admin.hosts import is_ours
from cef_trio.admin.snapshot import Fact, judge_health, judge_ready, to_json
from cef_trio.admin.source import SnapshotSource

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_LISTENERS: Final = 32
TICK_SECONDS: Final = 1.0
_RECONNECT_MILLISECONDS: Final = 2000
_NAMES_FILES: Final = frozenset({"/", "/events"})
"""What tells the names of recordings; metrics and health do not."""
_MISDIRECTED: Final = b"this server does not answer to that name: use its address, or list it in PROM_ALLOWED_HOSTS\n"
_TEXT: Final = "text/plain; charset=utf-8"
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    content_type: str = _TEXT
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """The status page, and what a browser may do with it."""

    html: bytes
    policy: str


@cache
def page() -> Page:
    """The packaged page, with the hashes of the style and the script that are in it."""
    html = files("cef_trio.admin").joinpath("page.html").read_bytes()
    style, script = (
        " ".join(f"'sha256-{_hash(text)}'" for text in re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), html, re.DOTALL))
        for tag in (b"style", b"script")
    )
    icon = "img-src data:"  # its own, which is in it
    rest = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return Page(html, f"default-src 'none'; connect-src 'self'; style-src {style}; script-src {script}; {icon}; {rest}")


def _hash(text: bytes) -> str:
    return base64.b64encode(hashlib.sha256(text).digest()).decode()


class AdminApp:
    """The application; ``registry`` is what ``/metrics`` shows, ``allowed_hosts`` by which names a browser may ask."""

    def __init__(
        self, source: SnapshotSource, registry: CollectorRegistry, allowed_hosts: Collection[str] = ()
    ) -> None:
        self._source = source
        self._allowed_hosts = frozenset(allowed_hosts)
        self._answers: dict[str, Callable[[], _Answer]] = {
            "/": lambda: _Answer(page().html, "text/html; charset=utf-8", 200, _policy(page().policy)),
            "/metrics": lambda: _Answer(generate_latest(registry), CONTENT_TYPE_LATEST),
            "/healthz": lambda: _facts(judge_health(source.health())),
            "/readyz": lambda: _facts(judge_ready(source.ready())),
        }
        self._listeners = 0
        self._made: tuple[float, str] = (-float("inf"), "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            raise NotImplementedError(f"ASGI {scope['type']}")
        method, path = scope["method"], scope["path"]
        if path not in self._answers and path != "/events":
            await _send(send, _Answer(b"not found\n", status=404), method)
        elif method not in {"GET", "HEAD"}:
            await _send(
                send, _Answer(b"this can only be read\n", status=405, headers=(("allow", "GET, HEAD"),)), method
            )
        elif path in _NAMES_FILES and not is_ours(_host(scope), self._allowed_hosts):
            await _send(send, _Answer(_MISDIRECTED, status=421), method)
        elif path != "/events":
            await _send(send, self._answers[path](), method)
        elif self._listeners >= MAX_LISTENERS:
            await _send(send, _Answer(b"too many listeners\n", status=503, headers=(("retry-after", "10"),)), method)
        else:
            self._listeners += 1
            try:
                await self._events(receive, send, method)
            finally:
                self._listeners -= 1

    # -- /events ------------------------------------------------------------------------------------------------------

    async def _events(self, receive: Receive, send: Send, method: str) -> None:
        await send(_start(_Answer(b"", "text/event-stream; charset=utf-8", headers=(("x-accel-buffering", "no"),))))
        if method == "GET":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                await self._tell(send)
                nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _tell(self, send: Send) -> None:
        """A snapshot whenever it changed, the time of day otherwise, for ever."""
        await _send_event(send, f"retry: {_RECONNECT_MILLISECONDS}\n\n")
        told = ""
        while True:
            text = self._snapshot()
            await _send_event(send, f"event: tick\ndata: {time.time():.0f}\n\n")
            if text != told:
                await _send_event(send, f"data: {text}\n\n")
            told = text
            await trio.sleep(TICK_SECONDS)

    def _snapshot(self) -> str:
        """The snapshot as JSON, made once a tick however many listen."""
        now = trio.current_time()
        if now - self._made[0] >= TICK_SECONDS / 2:
            self._made = now, to_json(self._source.snapshot())
        return self._made[1]


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _send_event(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _send(send: Send, answer: _Answer, method: str) -> None:
    await send(_start(answer, length=len(answer.body)))
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})


def _start(answer: _Answer, length: int | None = None) -> MutableMapping[str, Any]:
    headers = {**_HEADERS, "content-type": answer.content_type, **dict(answer.headers)}
    if length is not None:
        headers["content-length"] = str(length)
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": answer.status, "headers": encoded}


def _host(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"), None)


def _policy(policy: str) -> tuple[tuple[str, str], ...]:
    return (("content-security-policy", policy),)


def _facts(facts: tuple[Fact, ...]) -> _Answer:
    lines = "".join(f"{'ok' if fact.good else 'NOT OK'}: {fact.says}\n" for fact in facts)
    return _Answer(lines.encode(), status=200 if all(fact.good for fact in facts) else 503)
