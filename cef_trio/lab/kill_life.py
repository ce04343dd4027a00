"""A real daemon process and its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

import cef_trio
from cef_trio.local.servers import LocalServers
from cef_trio.resilience.shield import shielded
from cef_trio.upload.part_plan import MIN_PART_BYTES

_START_SECONDS: Final = 30.0
_REAP_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.01
_SETTINGS: Final = {
    "APP_ENV": "production",
    "CHUNK_SIZE_BYTES": MIN_PART_BYTES,
    "CLOSE_GRACE_SECONDS": 0.1,
    "INSTANCE_ID": "lab-kill",
    "LEASE_SECONDS": 3,
    "LOG_LEVEL": "DEBUG",
    "PROM_PORT": 0,
    "STALE_CHECK_SECONDS": 0.3,
}


@dataclass(frozen=True, slots=True)
class DaemonLife:
    """A running daemon, and its own log in JSON lines (``APP_ENV=production``)."""

    process: trio.Process
    log: Path

    async def logged(self, event: str) -> None:
        """Wait until it has logged that event or has ended, at most 30 s."""
        with trio.move_on_after(_START_SECONDS):
            # The log is a file, so it has to be polled.
            while self.process.poll() is None and event not in self.log.read_text(errors="replace"):  # noqa: ASYNC110
                await trio.sleep(_POLL_SECONDS)

    def last_event(self) -> str:
        """Return the last event in its log; an incomplete last line does not count."""
        for line in reversed(self.log.read_text(encoding="utf-8", errors="replace").splitlines()):
            try:
                return str(json.loads(line)["event"])
            except (ValueError, KeyError, TypeError):
                continue
        return "(nothing yet)"


def environment_for(watch_dir: Path, servers: LocalServers) -> dict[str, str]:
    """Return the complete environment of a daemon of this source tree; only PATH is inherited."""
    settings = {**servers.settings, "watch_dir": watch_dir, **_SETTINGS}
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(cef_trio.__file__).parents[1]),
        **{name.upper(): str(value) for name, value in settings.items() if value is not None},
    }


@asynccontextmanager
async def daemon_life(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[DaemonLife]:
    """Run ``cef-trio run`` in a folder; kill it (``-9``) at the end of the block.

    Raises:
        OSError: it cannot be started.
    """
    path = folder / "daemon.log"
    with path.open("wb") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "cef_trio", "run"],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield DaemonLife(process, path)
        finally:
            process.kill()
            with shielded(_REAP_SECONDS, saving="killed daemon"):
                await process.wait()
