"""podman, and containers that end with their test."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from waiting import wait_until

IMAGE = os.environ.get("CEF_TRIO_IMAGE", "")
"""The image under test; CONTRIBUTING.md says how to build one."""
_SECONDS = 60.0
RESTRICTED = [
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop=all", "--security-opt=no-new-privileges"),
    *("--memory=512m", "--pids-limit=200", "--network=host"),
]
"""Options of ``podman run`` that leave a container no rights, as ``deploy/`` does."""


def podman(*arguments: str, seconds: float = _SECONDS) -> str:
    """Run it; what it printed."""
    done = subprocess.run(["podman", *arguments], check=False, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def container(*arguments: str) -> Iterator[str]:
    """A container that runs; gives its name. ``arguments`` are those of ``podman run``."""
    name = f"cef-trio-test-{uuid4().hex[:8]}"
    try:
        podman("run", "--detach", "--name", name, *arguments)
        yield name
    finally:
        podman("rm", "--force", "--ignore", "--volumes", "--time=0", name, seconds=600)


class Container:
    """A container that runs the daemon."""

    def __init__(self, name: str) -> None:
        self.name = name

    def events(self) -> list[dict[str, Any]]:
        done = subprocess.run(["podman", "logs", self.name], check=True, capture_output=True, text=True)
        return [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]

    def wait_for(self, event: str, *, count: int = 1) -> dict[str, Any]:
        """Wait until it has logged ``event`` so often; returns the first of them."""

        def found() -> list[dict[str, Any]]:
            return [entry for entry in self.events() if entry["event"] == event]

        wait_until(lambda: len(found()) >= count, otherwise=lambda: f"no {event!r} in {self.events()}")
        return found()[0]

    def count(self, event: str) -> int:
        return sum(entry["event"] == event for entry in self.events())

    def stop(self) -> tuple[int, float]:
        """SIGTERM to process 1; returns the exit code and how long it took."""
        began = time.monotonic()
        podman("kill", "--signal=TERM", self.name)
        code = int(podman("wait", self.name))
        return code, time.monotonic() - began
