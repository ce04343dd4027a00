"""The daemon as a process of its own, for tests: started by its command, watched by its log.

    with daemon(settings) as process:
        process.wait_for("stream_completed", file=str(path))

``settings`` are environment variables; nothing of this process's environment but PATH gets through, so that a test
means the same on every machine. The log is JSON lines (``APP_ENV=production``); waiting is for its events.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
from servers.endpoints import Endpoint
from servers.fork_server import Process, start
from waiting import wait_until

from cef_trio.checkpoint.redis.keys import Keys

EVENT_SECONDS = 60.0
OWNER = "under-test"
"""``OWNER_NAME`` of the daemons under test."""
NAMESPACE = Keys("", OWNER).prefix
"""What their keys in Redis begin with, if ``REDIS_KEY_PREFIX`` is empty."""
_POLL_SECONDS = 0.01
_SAME_ROUND_SECONDS = 0.02

Event = Mapping[str, Any]


SOON_FINAL: Final = {"retry_stream_max_seconds": "0.1", "retry_attempts": "2"}
"""Settings with which a rejection of one recording is final after seconds, not minutes."""


def settings_for(watch_dir: Path, endpoint: Endpoint, redis_url: str, **more: object) -> dict[str, str]:
    """The settings of a daemon under test; ``more`` are variables in lower case."""
    given = {
        "WATCH_DIR": watch_dir,
        "S3_ENDPOINT_URL": endpoint.url,
        "S3_ACCESS_KEY_ID": endpoint.access_key,
        "S3_SECRET_ACCESS_KEY": endpoint.secret_key,
        "S3_BUCKET_NAME": endpoint.bucket,
        "S3_REGION_NAME": endpoint.region,
        "S3_CREATE_BUCKET": "true",
        "REDIS_URL": redis_url,
        "CHUNK_SIZE_BYTES": 5 * 1024 * 1024,
        "APP_ENV": "production",
        "LOG_LEVEL": "DEBUG",
        "INSTANCE_ID": "under-test",
        "OWNER_NAME": OWNER,
        "PROM_PORT": "0",
        **{name.upper(): value for name, value in more.items()},
    }
    return {name: str(value) for name, value in given.items()}


class DaemonProcess:
    """A running daemon; ``events`` is its log so far."""

    def __init__(
        self,
        settings: Mapping[str, str],
        folder: Path,
        arguments: Sequence[str] = (),
        terminal: int | None = None,
        under: Sequence[str] = (),
    ) -> None:
        """``terminal`` is a descriptor of the terminal that it is started in; it has none by default.

        ``under`` is a program, with its arguments, that starts it (``setpriv``).
        """
        self.log_path = folder / "log.jsonl"
        self._log = self.log_path.open("wb")
        self._process: Process
        command = [*under, sys.executable, "-m", "cef_trio", "run", *arguments]
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **settings}
        log = self._log.fileno()
        if terminal is None:
            self._process = start(command, env=environment, cwd=folder, stdout=log, stderr=log)
        else:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=terminal,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def events(self) -> list[Event]:
        """What it logged so far; lines that are no JSON (a traceback at import) are events named by their text."""
        found = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"event": line})
        return found

    def wait_for(self, event: str, *, seconds: float = EVENT_SECONDS, count: int = 1, **fields: object) -> Event:
        """Wait until it has logged ``event`` with these fields (``count`` times); returns the last of them."""
        deadline, read = time.monotonic() + seconds, -1
        while True:
            running = self.running
            if (size_bytes := self.log_path.stat().st_size) != read:
                read = size_bytes
                found = [entry for entry in self.events if _matches(entry, event, fields)]
                if len(found) >= count:
                    return found[-1]
            if not running or time.monotonic() > deadline:
                why = "the daemon ended" if not running else f"not within {seconds} s"
                raise AssertionError(f"no event {event!r} {fields} ({why}); its log:\n{self.tail()}")
            # Its log is a file: there is nothing to wait on but another look.
            time.sleep(_POLL_SECONDS)

    def count(self, event: str, **fields: object) -> int:
        return sum(_matches(entry, event, fields) for entry in self.events)

    def metric(self, name: str) -> float:
        """The value of ``cef_trio_<name>``, with its labels if it has any, as a scrape shows it."""
        port = self.wait_for("admin_server_started")["port"]
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60, trust_env=False).text
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"cef_trio_{name} ")))

    def wait_for_rounds(self, count: int) -> None:
        """Wait until the idle checker has begun so many more rounds: before a test asserts that nothing happened."""
        begun = [self.metric("idle_checker_last_run_timestamp_seconds")]

        def enough() -> bool:
            last = self.metric("idle_checker_last_run_timestamp_seconds")
            # The metric is converted from another clock at each scrape: that of one round varies by microseconds.
            if last > begun[-1] + _SAME_ROUND_SECONDS:
                begun.append(last)
            return len(begun) > count

        wait_until(enough)

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """``kill -9``, and wait for its end."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def wait(self, seconds: float = EVENT_SECONDS) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon did not end within {seconds} s; its log:\n{self.tail()}") from None

    def stop(self, seconds: float = EVENT_SECONDS) -> int:
        """SIGTERM, and wait; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)


def _matches(entry: Event, event: str, fields: Mapping[str, object]) -> bool:
    return entry.get("event") == event and all(entry.get(name) == value for name, value in fields.items())


@contextlib.contextmanager
def daemon(
    settings: Mapping[str, str],
    *,
    wait_started: bool = True,
    arguments: Sequence[str] = (),
    terminal: int | None = None,
    under: Sequence[str] = (),
) -> Iterator[DaemonProcess]:
    """A running daemon that watches by the time the block begins; it is gone afterwards, however the block is left."""
    with tempfile.TemporaryDirectory(prefix="cef-trio-") as folder:
        process = DaemonProcess(settings, Path(folder), arguments, terminal, under)
        try:
            if wait_started:
                process.wait_for("daemon_started")
            yield process
        finally:
            process.kill()
