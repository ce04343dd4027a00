"""Responses of the admin server.

Read-only: GET and HEAD of seven paths; request bodies are ignored, and so are parameters but one of ``/events``.
Responses are never cached, and the page may load nothing from elsewhere: its own style and script are allowed by their
hashes, so that a file name that contains HTML is never executed. ``origins.py`` decides which websites may send a
browser here.

``/events`` is the only response without an end (server-sent events,
https://html.spec.whatwg.org/multipage/server-sent-events.html). The number of listeners is limited, per client and in
total. It continues while the daemon drains. ``server.py`` disconnects slow clients, and all clients at the end. What it
sends is in ``page_events.py``; with ``?stream=ID`` also that stream's detail.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from functools import cache
from importlib.resources import files
from typing import Final
from urllib.parse import parse_qsl

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cef_trio.admin.origins import is_foreign, is_ours
from cef_trio.admin.page_events import Listener, PageState
from cef_trio.admin.page_source import PageSource
from cef_trio.admin.status_page import Fact, judge_health, judge_ready
from cef_trio.http import HTTPRequest
from cef_trio.safe_text import printable

MAX_LISTENERS: Final = 32
MAX_LISTENERS_OF_A_CLIENT: Final = 8
TICK_SECONDS: Final = 1.0
_RECONNECT_MILLISECONDS: Final = 2000
_MAX_QUERY: Final = 200
_PAGES: Final = frozenset({"/", "/fleet"})
_NAMES_FILES: Final = _PAGES | {"/events", "/fleet.json"}
"""Paths that show the names of recordings, folders or hosts."""
_NOT_READ: Final = (
    b"the reports of the fleet are read while someone asks for them: ask again in a second; "
    b"if they do not come, Redis does not respond\n"
)
_MISDIRECTED: Final = b"this host name is not allowed: use an address, or add the name to PROM_ALLOWED_HOSTS\n"
HEALTH: Final = frozenset({"/healthz", "/readyz"})
"""Paths with reserved connections: without a response a container is restarted."""
_FOREIGN: Final = b"requests from other websites are refused; open the page by its own address\n"
_TEXT: Final = "text/plain; charset=utf-8"
_EVENTS: Final = "text/event-stream; charset=utf-8"
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Response:
    """A response; if ``lasts``, its body is :meth:`AdminApp.events`, which has no end."""

    body: bytes
    content_type: str = _TEXT
    status: int = 200
    more_headers: tuple[tuple[str, str], ...] = ()
    lasts: bool = False

    def headers(self) -> list[tuple[str, str]]:
        """Return all headers."""
        headers = {**_HEADERS, "date": formatdate(usegmt=True), "content-type": self.content_type}
        if not self.lasts:
            headers["content-length"] = str(len(self.body))
        return list({**headers, **dict(self.more_headers)}.items())


@cache
def page(file: str = "page.html") -> Response:
    """Return a packaged page; its content security policy has the hashes of its style and script.

    All pages have the style of ``pages.css``, and begin their scripts with ``pages.js``.
    """
    html = _read(file).replace(b"<style></style>", b"<style>\n%b</style>" % _read("pages.css"), 1)
    for script_file in ("pages.js", "page.js"):
        html = html.replace(b"// %b\n" % script_file.encode(), _read(script_file), 1)
    style, script = (
        " ".join(f"'sha256-{_hash(text)}'" for text in re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), html, re.DOTALL))
        for tag in (b"style", b"script")
    )
    icon = "img-src data:"  # the inline icon
    rest = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    policy = f"default-src 'none'; connect-src 'self'; style-src {style}; script-src {script}; {icon}; {rest}"
    return Response(html, "text/html; charset=utf-8", more_headers=(("content-security-policy", policy),))


def _read(file: str) -> bytes:
    return files("cef_trio.admin").joinpath(file).read_bytes()


def _hash(text: bytes) -> str:
    return base64.b64encode(hashlib.sha256(text).digest()).decode()


class AdminApp:
    """Responds to requests; ``/metrics`` shows ``registry``, and ``allowed_hosts`` are the accepted host names."""

    def __init__(self, source: PageSource, registry: CollectorRegistry, allowed_hosts: Collection[str] = ()) -> None:
        self._source = source
        self._allowed_hosts = frozenset(allowed_hosts)
        self._routes: dict[str, Callable[[], Response]] = {
            "/": page,
            "/metrics": lambda: Response(generate_latest(registry), CONTENT_TYPE_LATEST),
            "/healthz": lambda: _facts(judge_health(source.health())),
            "/readyz": lambda: _facts(judge_ready(source.ready())),
            "/fleet": lambda: page("fleet.html"),
            "/fleet.json": lambda: _fleet(source.fleet()),
        }
        self._listening: Counter[str] = Counter()
        self._made_at = -float("inf")
        self._made: PageState | None = None

    def respond(self, request: HTTPRequest, client: str) -> Response:
        """Return the response to a request; ``client`` is the address of the client."""
        if rejection := self._rejection(request):
            return rejection
        if request.path != "/events":
            return self._routes[request.path]()
        if self._listening.total() >= MAX_LISTENERS or self._listening[client] >= MAX_LISTENERS_OF_A_CLIENT:
            return Response(b"too many listeners\n", status=503, more_headers=(("retry-after", "10"),))
        return Response(b"", _EVENTS, more_headers=(("x-accel-buffering", "no"),), lasts=True)

    def _rejection(self, request: HTTPRequest) -> Response | None:
        path = request.path
        if path not in self._routes and path != "/events":
            return Response(b"not found\n", status=404)
        if request.method not in {"GET", "HEAD"}:
            return Response(b"read-only: use GET or HEAD\n", status=405, more_headers=(("allow", "GET, HEAD"),))
        if is_foreign(request.header, may_be_opened=path in _PAGES):
            return Response(_FOREIGN, status=403)
        if path in _NAMES_FILES and not is_ours(request.header("host"), self._allowed_hosts):
            return Response(_MISDIRECTED, status=421)
        return None

    # -- /events ------------------------------------------------------------------------------------------------------

    @contextmanager
    def listening(self, client: str) -> Iterator[None]:
        """Count a listener during the block."""
        self._listening[client] += 1
        try:
            yield
        finally:
            self._listening[client] -= 1
            self._listening += Counter()  # drops zero counts

    async def events(self, stream_id: str | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the time at every tick, and what has changed, until closed; of one stream also its detail."""
        listener = Listener(stream_id)
        yield f"retry: {_RECONNECT_MILLISECONDS}\n\n".encode()
        while True:
            state = self._page_state()
            yield f"event: tick\ndata: {time.time():.0f}\n\n".encode()
            for text in listener.news(state):
                yield text
            await trio.sleep(TICK_SECONDS)

    def _page_state(self) -> PageState:
        """Return what the page shows now, the same for all listeners of one tick."""
        now = trio.current_time()
        if self._made is None or now - self._made_at >= TICK_SECONDS / 2:
            self._made_at, self._made = now, PageState.of(self._source, self._made)
        return self._made


def asked_stream(query: str) -> str | None:
    """Return the stream that a request of ``/events`` names, if any."""
    found = dict(parse_qsl(query[:_MAX_QUERY]))
    return found.get("stream")


def _fleet(document: str | None) -> Response:
    if document is None:
        return Response(_NOT_READ, status=503, more_headers=(("retry-after", "1"),))
    return Response(document.encode(), "application/json")


def _facts(facts: tuple[Fact, ...]) -> Response:
    lines = "".join(f"{'ok' if fact.good else 'NOT OK'}: {printable(fact.says)}\n" for fact in facts)
    return Response(lines.encode(), status=200 if all(fact.good for fact in facts) else 503)
