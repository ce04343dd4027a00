"""A TCP server whose responses, and their times, a test sets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass
class ScriptedServer:
    """Calls ``serve(connection, number)`` in a thread for each connection; numbers count from 0."""

    port: int
    connections: int = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextlib.contextmanager
def scripted_server(serve: Callable[[socket.socket, int], None]) -> Iterator[ScriptedServer]:
    """A listening server; when the block is left, its connections are cut and its threads have ended."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        server = ScriptedServer(listener.getsockname()[1])
        threads: list[threading.Thread] = []

        def one(connection: socket.socket, number: int) -> None:
            with contextlib.suppress(OSError), connection:
                serve(connection, number)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    stack.callback(_cut, connection)
                    threads.append(threading.Thread(target=one, args=(connection, server.connections), daemon=True))
                    server.connections += 1
                    threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield server
        finally:
            _cut(listener)
            accepting.join(10)
            stack.close()
            for thread in threads:
                thread.join(10)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
