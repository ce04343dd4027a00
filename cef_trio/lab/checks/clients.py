"""Strangers' clients at the admin server: none keeps the others out, and none is another website's (kind 16)."""

from __future__ import annotations

from typing import Any, Final

import trio
from prometheus_client import CollectorRegistry

from cef_trio.admin import server
from cef_trio.admin.app import AdminApp
from cef_trio.admin.connection_limits import ConnectionLimiter, ConnectionSlot
from cef_trio.http.server_connection import Request
from cef_trio.lab.checks.model import Check

_FORBIDDEN: Final = 403
_MANY: Final = 300


def _limiter() -> ConnectionLimiter:
    return ConnectionLimiter(server.MAX_CONNECTIONS, server.MAX_CONNECTIONS_OF_A_CLIENT, server.RESERVED_CONNECTIONS)


def _nothing() -> None:
    """Nobody has to leave in fact."""


async def _silent_clients() -> list[str]:
    """Hundreds of connections are opened, and say nothing."""
    await trio.lowlevel.checkpoint()
    limiter = _limiter()
    for number in range(_MANY):
        limiter.acquire(f"client {number}", _nothing)
    found = limiter.acquire("the operator", _nothing)
    return [] if found is not None and not found.reserved else ["P10: clients that say nothing keep everybody out"]


async def _busy_client() -> list[str]:
    """One client has as many answers on their way to it as it likes."""
    await trio.lowlevel.checkpoint()
    limiter = _limiter()
    taken: list[ConnectionSlot | None] = [limiter.acquire("one client", _nothing) for _ in range(_MANY)]
    for slot in taken:
        if slot is not None:
            slot.idle = False
    found = limiter.acquire("the operator", _nothing)
    return [] if found is not None and not found.reserved else ["P10: one client has all the places"]


async def _foreign_website() -> list[str]:
    """Another website, in the operator's browser, listens to the page's events."""
    await trio.lowlevel.checkpoint()
    source: Any = None  # who is refused is told nothing
    app = AdminApp(source, CollectorRegistry())
    asked = Request("GET", "/events", "", (("host", "127.0.0.1:9090"), ("sec-fetch-site", "cross-site")))
    status = app.answer(asked, "127.0.0.1").status
    return [] if status == _FORBIDDEN else [f"P10: another website is answered {status}, and takes a listener's place"]


CHECKS: Final = (
    Check("idle-clients", "hundreds of connections say nothing", _silent_clients),
    Check("busy-client", "one client takes all that it can get", _busy_client),
    Check("cross-site-request", "another website asks", _foreign_website),
)
