"""The whole daemon's admin server: there from the first moment, and no burden on the way out."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import structlog
import trio
from servers.daemon import settings_for
from servers.endpoints import Endpoint
from servers.valkey import valkey_server
from waiting import WAIT_SECONDS, until

from cef_trio.daemon.main import run_daemon
from cef_trio.exit_codes import ExitCode
from cef_trio.settings.model import Settings, load_settings

pytestmark = pytest.mark.real


@asynccontextmanager
async def running(settings: Settings, codes: list[ExitCode]) -> AsyncIterator[int]:
    """A daemon whose admin server answers; SIGTERM ends it."""

    async def run() -> None:
        codes.append(await run_daemon(settings))

    ports: list[int] = []

    def started() -> bool:
        ports.extend(event["port"] for event in events if event["event"] == "admin_server_started")
        return bool(ports)

    with structlog.testing.capture_logs() as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(started)
            yield ports[0]
            if not codes:
                os.kill(os.getpid(), signal.SIGTERM)


def settings_of(watch_dir: Path, endpoint: Endpoint, redis_url: str, port: int = 0) -> Settings:
    fields = {name.lower(): value for name, value in settings_for(watch_dir, endpoint, redis_url).items()}
    return load_settings(None, **{**fields, "prom_port": str(port)})


async def says(port: int, path: str) -> tuple[int, list[str]]:
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}")
    return answer.status_code, answer.text.splitlines()


async def test_a_daemon_that_still_waits_for_redis_is_healthy_and_not_ready(
    watch_dir: Path, endpoint: Endpoint
) -> None:
    settings = settings_of(watch_dir, endpoint, "redis://127.0.0.1:1/0")
    codes: list[ExitCode] = []
    async with running(settings, codes) as port:
        assert (await says(port, "/healthz"))[0] == 200
        status, lines = await says(port, "/readyz")
        assert status == 503
        assert "NOT OK: the daemon is starting" in lines
        assert not [line for line in lines if "reachable" in line and "not reachable" not in line]  # none has responded
    assert len(codes) == 1


async def test_a_daemon_ends_in_good_order_with_a_listener_that_does_not_read(
    watch_dir: Path, endpoint: Endpoint
) -> None:
    codes: list[ExitCode] = []
    with valkey_server() as server:
        async with running(settings_of(watch_dir, endpoint, server.url), codes) as port:
            (watch_dir / "a.mp4").write_bytes(b"x" * 1000)

            async def ready() -> bool:
                return (await says(port, "/readyz"))[0] == 200

            await until(ready)
            async with await trio.open_tcp_stream("127.0.0.1", port) as listener:
                await listener.send_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n")
                assert b"200" in await listener.receive_some()
                os.kill(os.getpid(), signal.SIGTERM)
                await until(lambda: bool(codes))
    assert codes == [ExitCode.DONE]


async def test_a_port_that_is_taken_refuses_the_start(watch_dir: Path, endpoint: Endpoint) -> None:
    (taken,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with taken:
        port = taken.socket.getsockname()[1]
        with structlog.testing.capture_logs() as events:
            settings = settings_of(watch_dir, endpoint, "redis://127.0.0.1:1/0", port)
            assert await run_daemon(settings) is ExitCode.BAD_SETTINGS
    (refused,) = [event for event in events if event["event"] == "refused_at_start"]
    assert f"cannot listen at 127.0.0.1 port {port}: Address already in use" in refused["error"]
