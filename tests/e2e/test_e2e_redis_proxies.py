"""P6, P10: something that is not Redis responds at its address for a while (a real Valkey behind a proxy).

The siblings for S3 are in ``test_e2e_proxy_responses.py``.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from servers.daemon import daemon, settings_for
from servers.endpoints import Endpoint
from servers.relay import Relay, pass_on
from servers.store import look_into
from servers.valkey import ValkeyServer
from thoroughness import only_long

pytestmark = pytest.mark.real
PART = 5 << 20
LONGER = only_long("tests/checkpoint/test_redis_replies.py has each reply to each call")
REPLIES = [
    pytest.param(
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\n\r\n<html>no server</html>", id="page"
    ),
    pytest.param(b"+OK\r\n", id="ok"),
    pytest.param(b"$one\r\n", id="no-length", marks=LONGER),
    pytest.param(b"*0\r\n", id="empty", marks=LONGER),
    pytest.param(b"*-1\r\n", id="nil", marks=LONGER),
    pytest.param(b"\x15\x03\x03\x00\x02\x02F\r\n", id="tls", marks=LONGER),
]


class Front(Relay):
    """Passes commands on, or replies to each itself; switching cuts the connections."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._reply: bytes | None = None

    def reply(self, reply: bytes | None) -> None:
        self._reply = reply
        self.cut()

    def serve_one(self, client: socket.socket) -> None:
        reply = self._reply
        if reply is None:
            pass_on(client, ("127.0.0.1", self._port))
            return
        while client.recv(65536):
            client.sendall(reply)


@pytest.mark.parametrize("reply", REPLIES)
def test_p6_p10_what_is_not_redis_at_its_address_is_one_outage_and_costs_no_recording(
    watch_dir: Path, endpoint: Endpoint, valkey: ValkeyServer, reply: bytes
) -> None:
    growing, new = watch_dir / "growing.mp4", watch_dir / "new.mp4"
    with Front(valkey.port).running() as front:
        settings = settings_for(
            watch_dir,
            endpoint,
            f"redis://127.0.0.1:{front.port}/0",
            close_grace_seconds=0.2,
            stale_check_seconds=0.5,
            rescan_seconds=1,
            retry_attempts=2,
            retry_initial_seconds=0.1,
            retry_max_seconds=0.5,
            retry_stream_max_seconds=1,
        )
        with daemon(settings) as process:
            with growing.open("wb") as file:
                file.write(os.urandom(PART + 1))
                file.flush()
                process.wait_for("part_uploaded", part_number=1)
                front.reply(reply)
                file.write(os.urandom(PART))
                file.flush()
                new.write_bytes(os.urandom(1000))
                process.wait_for("outage_probe_failed", count=3)
                assert "the reply is not one of Redis" in process.wait_for("outage_started", service="redis")["error"]
                front.reply(None)
            for path in (growing, new):
                process.wait_for("stream_completed", file=str(path))
            assert process.count("stream_failed") == 0
            for event in ("outage_started", "outage_ended"):
                assert process.count(event, service="redis") == 1, event
            assert process.stop() == 0
    look_into(endpoint).assert_identical(growing)
