"""Hypercorn on trio, one server in the daemon's nursery, that can never hold the daemon back (promise P4).

Hypercorn sends inside a shield that has no end (``hypercorn.trio.tcp_server.TCPServer.protocol_send``): a client that
stops reading would keep a cancelled daemon for ever. So hypercorn is given streams of ours. Each send on them has a
time limit, and when the server is cancelled all of them are closed at once, from outside: whatever waits on one of
them, in whichever shield, is woken by that. Its accept loop is trio's, for the same reason.

What goes wrong with a client ends that client's connection, never the daemon. Connections have a limit (promise P7).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from functools import partial
from typing import Final

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from prometheus_client import CollectorRegistry

from cef_trio.admin.app import AdminApp
from cef_trio.admin.source import SnapshotSource
from cef_trio.exceptions import CefMp4ProcessorError

log = structlog.get_logger(__name__)

MAX_CONNECTIONS: Final = 100
SEND_SECONDS: Final = 10.0
"""How long a client may take to read what is sent to it at once."""
_IDLE_SECONDS: Final = 75
"""How long a connection is kept for the next request, longer than Prometheus' usual interval of scrapes."""
_LAST_SECONDS: Final = 1.0
"""Hypercorn alone would keep the place of a client that left for ``_IDLE_SECONDS``."""


class AdminPortError(CefMp4ProcessorError):
    """The admin server cannot listen at ``PROM_HOST:PROM_PORT``."""


async def serve_admin(
    source: SnapshotSource,
    registry: CollectorRegistry,
    host: str,
    port: int,
    *,
    allowed_hosts: Collection[str] = (),
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; then every connection is closed at once, whatever it is in the middle of.

    Started (``nursery.start``) gives the port, which is another one than ``port`` if that is 0.

    Raises:
        AdminPortError: the address cannot be listened at.
    """
    listeners = await _listen(host, port)
    streams: set[_BoundedStream] = set()
    app = AdminApp(source, registry, allowed_hosts)
    serve = partial(_serve_connection, app, _config(), WorkerContext(max_requests=None), streams)
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(trio.serve_listeners, serve, listeners)
            bound: int = listeners[0].socket.getsockname()[1]
            log.info("admin_server_started", host=host, port=bound)
            task_status.started(bound)
            await trio.sleep_forever()
        finally:
            for stream in streams:
                stream.close()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number is not None and number > 0 else str(error)
        raise AdminPortError(f"PROM_HOST, PROM_PORT: cannot listen at {host} port {port}: {reason}") from error


def _config() -> Config:
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")  # into our log, in its shape; no access log
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = _IDLE_SECONDS
    config.h11_max_incomplete_size = 16 * 1024
    return config


async def _serve_connection(
    app: AdminApp,
    config: Config,
    context: WorkerContext,
    streams: set[_BoundedStream],
    accepted: trio.SocketStream,
) -> None:
    if len(streams) >= MAX_CONNECTIONS:
        await accepted.aclose()
        return
    stream = _BoundedStream(accepted)
    streams.add(stream)
    try:
        with stream.scope:
            await TCPServer(ASGIWrapper(app), config, context, ConnectionState({}), stream)
    except Exception:  # a client, or a bug in what serves it, must not end the daemon
        log.exception("admin_connection_failed")
    finally:
        streams.discard(stream)
        stream.close()


class _BoundedStream:
    """The part of ``trio.SocketStream`` that hypercorn uses, with an end to everything that could wait."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.socket = stream.socket
        self.scope = trio.CancelScope()
        """Whoever serves the client. Hypercorn's wait for a next request goes on after the stream was closed."""
        self._stream = stream

    def close(self) -> None:
        """Close it at once; whoever waits on it, in whichever shield, is woken with ``trio.ClosedResourceError``."""
        self.socket.close()
        self.scope.cancel()

    async def send_all(self, data: bytes) -> None:
        """Send, or give the client up.

        Raises:
            trio.BrokenResourceError: the client is gone, or did not read for ``SEND_SECONDS``.
        """
        with trio.move_on_after(SEND_SECONDS) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            self.close()
            raise trio.BrokenResourceError(f"the client read nothing for {SEND_SECONDS} s")

    async def receive_some(self, max_bytes: int) -> bytes:
        """Receive what is there; a client that says no more has ``_LAST_SECONDS`` to read its answer."""
        data = bytes(await self._stream.receive_some(max_bytes))
        if not data:
            self.scope.deadline = trio.current_time() + _LAST_SECONDS
        return data

    async def send_eof(self) -> None:
        """Say that nothing more comes."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close it."""
        self.close()
        await trio.lowlevel.checkpoint()
