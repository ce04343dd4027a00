"""Start ``python -m cef_trio`` as a fork of a process that has imported it already.

The imports are most of what a short command costs (0.4 to 0.9 s of processor time), and the tests start about a
thousand processes. Each is a process of its own all the same: its own session, arguments, environment and descriptors.

What only a real start shows is tested by real ones: the tests of the deployment, of the start time, of other users,
hosts and locales, and with ``CEF_TRIO_LONG`` all tests.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from thoroughness import LONG

TESTS: Final = Path(__file__).parents[1]
ROOT: Final = str(TESTS.parent)
PROGRAMS: Final = frozenset({"cef_trio", "cef_trio.s3_endpoint"})
_LOCALE: Final = "C.UTF-8"
_STATUS: Final = struct.Struct("i")
_MAX_REQUEST: Final = 1 << 17


class Process(Protocol):
    """The part of ``subprocess.Popen`` that a :class:`ForkedProcess` has too."""

    pid: int
    args: Any

    @property
    def returncode(self) -> Any: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


def start(
    command: Sequence[str | bytes], *, env: Mapping[str, str], cwd: str | Path, stdout: int, stderr: int
) -> Process:
    """Start a command in a session of its own, as a fork if it is one of ``PROGRAMS``; its standard input is empty.

    ``stdout`` and ``stderr`` are descriptors; ``env`` is the whole environment, and may ask for a real start.
    """
    words = [os.fsdecode(word) for word in command]
    is_ours = words[:2] == [sys.executable, "-m"] and words[2] in PROGRAMS
    if is_ours and not _asks_for_a_start(env) and not LONG:
        return _server().start(words, env, os.fspath(cwd), [stdout, stderr])
    return subprocess.Popen(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
    )


def _asks_for_a_start(env: Mapping[str, str]) -> bool:
    """Return whether a variable has a meaning for the interpreter's start: a ``sitecustomize.py``, another locale."""
    python = {name: value for name, value in env.items() if name.startswith("PYTHON")}
    python.pop("PYTHONDONTWRITEBYTECODE", None)
    locale = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or _LOCALE
    return python.pop("PYTHONPATH", ROOT) != ROOT or bool(python) or locale != _LOCALE


class ForkedProcess:
    """A process that the server started. Its monitor, which is its parent, writes its end to a pipe."""

    def __init__(self, args: Sequence[str], status: int) -> None:
        self.args = args
        self._status = os.fdopen(status, "rb", buffering=0)
        self._ended: int | None = None
        self._lock = threading.Lock()
        [self.pid] = _STATUS.unpack(self._status.read(_STATUS.size) or b"")

    @property
    def returncode(self) -> int | None:
        return self._ended

    def poll(self) -> int | None:
        with self._lock:
            if self._ended is None and select.select([self._status], [], [], 0)[0]:
                self._read()
            return self._ended

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:
            if self._ended is None:
                if not select.select([self._status], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                self._read()
            assert self._ended is not None
            return self._ended

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self) -> None:
        [status] = _STATUS.unpack(self._status.read(_STATUS.size) or b"")
        self._status.close()
        self._ended = os.waitstatus_to_exitcode(status)


class _ForkServer:
    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "servers.fork_server", str(theirs.fileno())],
                env={"PATH": os.environ["PATH"], "LANG": _LOCALE, "PYTHONPATH": f"{ROOT}:{TESTS}"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd="/",
                start_new_session=True,
            )
        atexit.register(self._close)

    def start(self, words: list[str], env: Mapping[str, str], cwd: str, streams: list[int]) -> ForkedProcess:
        request = json.dumps({"program": words[2], "arguments": words[3:], "env": dict(env), "cwd": cwd}).encode()
        assert len(request) < _MAX_REQUEST
        reading, writing = os.pipe()
        with self._lock:
            socket.send_fds(self._channel, [request], [*streams, writing])
        os.close(writing)
        return ForkedProcess(words, reading)

    def _close(self) -> None:
        self._channel.close()
        self._process.wait()


@cache
def _server() -> _ForkServer:
    return _ForkServer()


# ---- in the server ---------------------------------------------------------------------------------------------------


def _import_all() -> None:
    from cef_trio.cli.main import COMMANDS

    commands = [f"cef_trio.cli.{name}" for name in COMMANDS]
    for module in (*commands, "cef_trio.daemon.main", "cef_trio.s3_endpoint.__main__"):
        import_module(module)
    gc.collect()
    gc.freeze()


def _serve(channel: socket.socket) -> Mapping[str, Any] | None:
    """Fork for each request; return it in the process that is to do it, and ``None`` in the server at its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors leave no zombies
    while True:
        data, streams, _, _ = socket.recv_fds(channel, _MAX_REQUEST, 3)
        if not data:
            return None
        if os.fork() == 0:
            break
        for descriptor in streams:
            os.close(descriptor)
    channel.close()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, status = streams
    child = os.fork()
    if child:
        for descriptor in standard:
            os.close(descriptor)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(status, _STATUS.pack(child))
            os.write(status, _STATUS.pack(os.waitpid(child, 0)[1]))
        os._exit(0)
    for number, descriptor in enumerate(standard, start=1):  # standard input is the server's: /dev/null
        os.dup2(descriptor, number)
    os.closerange(3, max(streams) + 1)
    request: Mapping[str, Any] = json.loads(data)
    return request


def _become(request: Mapping[str, Any]) -> None:
    """Be as a process that was just started so."""
    import trio

    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    random.seed()
    trio._core._run._r.seed()
    sys.stdout = open(1, "w", encoding="utf-8", errors=sys.stdout.errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors=sys.stderr.errors, closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    _import_all()
    if (todo := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _become(todo)
        sys.argv = [todo["program"], *todo["arguments"]]
        runpy.run_module(todo["program"], run_name="__main__", alter_sys=True)
