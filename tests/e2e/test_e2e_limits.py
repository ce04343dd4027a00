"""P7 on the real process: parts in flight, threads, sockets and memory have limits that hold, however much there is."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import httpx
import pytest
from servers.daemon import daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import free_port
from servers.s3_control import arm, call_log
from servers.valkey import ValkeyServer
from thoroughness import only_long

pytestmark = pytest.mark.real
MIB = 1024 * 1024
PART = 32 * MIB
BIG, IDLE = 5, 150
LISTENERS = 32
PARTS = 3
REDIS_CONNECTIONS = 8
THREADS = 1 + REDIS_CONNECTIONS + 8 + 8 + 2 + 2 + 4
"""The loop; Redis; reading, closing; scans; who has it open; trio's own few (a process, a name)."""
SOCKETS = PARTS + 8 + REDIS_CONNECTIONS + 4
"""S3; Redis; the admin server, the loop's own pair."""


def status_kib(pid: int, field: str) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def sockets_of(pid: int) -> int:
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(entry.readlink()).startswith("socket:")
    return found


def test_p7_parts_threads_sockets_and_memory_have_limits_that_hold(
    watch_dir: Path, tmp_path: Path, valkey: ValkeyServer
) -> None:
    """150 streams are open and idle; five recordings come, whose parts do not fit into the memory that is allowed."""
    with contextlib.ExitStack() as open_files:
        endpoint = open_files.enter_context(
            embedded_s3_server(tmp_path, data=tmp_path / "objects", bucket="recordings", arguments=["--control"])
        )
        for number in range(IDLE):
            open_files.enter_context((watch_dir / f"idle-{number:03}.mp4").open("wb")).write(b"idle")
        settings = settings_for(
            watch_dir,
            endpoint,
            valkey.url,
            chunk_size_bytes=PART,
            max_concurrent_parts=PARTS,
            close_grace_seconds=0.1,
            stream_timeout_seconds=600,  # the idle ones do not end
        )
        arm(endpoint, {"kind": "slow", "operation": "UploadPart", "moment": "reply", "seconds": 0.3, "times": None})
        process = open_files.enter_context(daemon(settings))
        process.wait_for("stream_started", count=IDLE)
        pid, resident = process.pid, status_kib(process.pid, "VmRSS:")
        for number in range(BIG):
            with (watch_dir / f"big-{number}.mp4").open("wb") as file:
                file.truncate(PART + MIB)
        most_threads = most_sockets = 0
        deadline = time.monotonic() + 180
        while process.count("stream_completed") < BIG:
            assert time.monotonic() < deadline, process.tail()
            most_threads = max(most_threads, len(list(Path(f"/proc/{pid}/task").iterdir())))
            most_sockets = max(most_sockets, sockets_of(pid))
            time.sleep(0.02)  # looks at another process, as often as can be
        grown_mib = (status_kib(pid, "VmHWM:") - resident) / 1024
        counted = call_log(endpoint)
    assert counted["max_concurrent"]["UploadPart"] == PARTS, "reached, and never exceeded"
    assert most_threads <= THREADS
    assert most_sockets <= SOCKETS
    assert grown_mib < PART / MIB, "not even one part is ever held in memory"


@only_long("it waits until the kernel's buffers are full")
def test_p7_listeners_of_the_page_that_never_read_cost_no_memory_and_are_dropped(
    watch_dir: Path, tmp_path: Path, valkey: ValkeyServer
) -> None:
    """As many as are let in, of four clients; each snapshot is long, and another one than the last."""
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(embedded_s3_server(tmp_path, bucket="recordings"))
        files = [
            stack.enter_context((watch_dir / f"{'n' * 200}-{number:03}.mp4").open("wb", buffering=0))
            for number in range(IDLE)
        ]
        port = free_port()
        process = stack.enter_context(daemon(settings_for(watch_dir, endpoint, valkey.url, prom_port=port)))
        process.wait_for("stream_started", count=IDLE)
        httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).raise_for_status()
        before, resident = sockets_of(process.pid), status_kib(process.pid, "VmRSS:")
        for number in range(LISTENERS):
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            listener.bind((f"127.0.0.{1 + number % 4}", 0))
            listener.connect(("127.0.0.1", port))
            listener.sendall(b"GET /events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        deadline = time.monotonic() + 180
        while sockets_of(process.pid) < before + LISTENERS:
            assert time.monotonic() < deadline
            time.sleep(0.02)  # looks at another process
        while sockets_of(process.pid) > before:
            assert time.monotonic() < deadline, process.tail()
            for file in files:
                file.write(b"x")
            assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
            time.sleep(0.5)  # the recorders' pause
        grown_mib = (status_kib(process.pid, "VmHWM:") - resident) / 1024
        assert process.stop() == 0
    assert grown_mib < LISTENERS, "less than a MiB for each, whatever was to be told"
