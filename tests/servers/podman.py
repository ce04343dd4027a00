"""podman, and containers that end with their test."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from uuid import uuid4

IMAGE = os.environ.get("CEF_TRIO_IMAGE", "")
"""The image under test; CONTRIBUTING.md says how to build one."""
_SECONDS = 60.0


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
        podman("rm", "--force", "--ignore", "--time=0", name)
