"""Checks of the admin server: idle connections, one client with many connections, requests from other websites."""

from __future__ import annotations

from typing import Any, Final

import trio
from prometheus_client import CollectorRegistry

from cef_trio.admin import server
from cef_trio.admin.app import AdminApp
from cef_trio.admin.connection_limits import ConnectionLimiter, ConnectionSlot
from cef_trio.http.server_connection import HTTPRequest
from cef_trio.lab.checks.model import Check

_FORBIDDEN: Final = 403
_MANY: Final = 300


def _limiter() -> ConnectionLimiter:
    return ConnectionLimiter(server.MAX_CONNECTIONS, server.MAX_CONNECTIONS_OF_A_CLIENT, server.RESERVED_CONNECTIONS)


def _ignore_eviction() -> None:
    """Close no connection."""


async def _idle_clients() -> list[str]:
    """Hundreds of connections are opened and stay idle."""
    await trio.lowlevel.checkpoint()
    limiter = _limiter()
    for number in range(_MANY):
        limiter.acquire(f"client {number}", _ignore_eviction)
    found = limiter.acquire("the operator", _ignore_eviction)
    return [] if found is not None and not found.reserved else ["P10: idle clients use every connection"]


async def _busy_client() -> list[str]:
    """One client has hundreds of open requests."""
    await trio.lowlevel.checkpoint()
    limiter = _limiter()
    taken: list[ConnectionSlot | None] = [limiter.acquire("one client", _ignore_eviction) for _ in range(_MANY)]
    for slot in taken:
        if slot is not None:
            slot.idle = False
    found = limiter.acquire("the operator", _ignore_eviction)
    return [] if found is not None and not found.reserved else ["P10: one client uses every connection"]


async def _cross_site_request() -> list[str]:
    """Another website in the operator's browser requests the page's events."""
    await trio.lowlevel.checkpoint()
    source: Any = None  # not used for a refused request
    app = AdminApp(source, CollectorRegistry())
    asked = HTTPRequest("GET", "/events", "", (("host", "127.0.0.1:9090"), ("sec-fetch-site", "cross-site")))
    status = app.respond(asked, "127.0.0.1").status
    return [] if status == _FORBIDDEN else [f"P10: a request from another website got status {status}"]


CHECKS: Final = (
    Check("idle-clients", "hundreds of connections are idle", _idle_clients),
    Check("busy-client", "one client opens hundreds of connections", _busy_client),
    Check("cross-site-request", "another website requests the page's events", _cross_site_request),
)
