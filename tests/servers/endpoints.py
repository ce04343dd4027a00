"""The address and keys of an S3 server of the tests, and how its process is started and ended.

``running`` starts a process in a session of its own, waits until its port answers, and ends it whatever happens:
SIGTERM, then SIGKILL. What it wrote to stderr is shown when it fails.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.config
from servers.fork_server import Process, start

READY_SECONDS = 60.0
END_SECONDS = 10.0
_CHANCE = random.SystemRandom()
"""Not the one that a test may seed: processes that run side by side would choose the same ports."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An S3 server that is ready, and a bucket in it."""

    url: str
    access_key: str
    secret_key: str
    region: str
    bucket: str

    def client(self, **differences: Any) -> Any:
        """A boto3 client of it, path-style, that tries once; keyword arguments go to ``boto3.client``."""
        arguments: dict[str, Any] = {
            "endpoint_url": self.url,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": self.region,
            "config": botocore.config.Config(
                s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, read_timeout=60
            ),
        }
        return boto3.client("s3", **(arguments | differences))


def free_port(ports: Sequence[int] = range(26_100, 32_700), beside: int = 0) -> int:
    """Return a free port of the loopback; the one that is ``beside`` so many above is free too, if that is not 0.

    It is below the range from which the kernel takes the ports of outgoing connections, and of listeners that leave the
    choice to it: none of the tests that run beside this one takes it before its server does, or while that restarts.
    """
    for port in _CHANCE.sample(ports, 200):
        with contextlib.suppress(OSError):
            for needed in {port, port + beside}:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", needed))
            return port
    raise RuntimeError(f"no free port in {ports}")


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of the loopback at which nobody listens, and that nobody else can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextlib.contextmanager
def running(
    command: Sequence[str], *, ports: Sequence[int], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A process whose ports answer; ``log`` takes its stdout and stderr."""
    with log.open("ab") as output:
        process = start(
            command,
            env={**os.environ, **(environment or {})},
            cwd=Path.cwd(),
            stdout=output.fileno(),
            stderr=output.fileno(),
        )
    try:
        for port in ports:
            _wait_until_answering(process, port, log)
        yield
    finally:
        _end(process)


def _wait_until_answering(process: Process, port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    state = f"ended with {process.returncode}" if process.returncode is not None else f"no answer on port {port}"
    raise RuntimeError(f"{process.args!r}: {state}\n{log.read_text(errors='replace')[-4000:]}")


def _end(process: Process) -> None:
    # The whole session, since servers may have children; the process was started by us, so the group is ours.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
