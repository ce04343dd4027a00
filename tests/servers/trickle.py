"""A proxy that lets bytes through in drops: a server that is slow, but never silent long enough for a time-out."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from servers.relay import Relay, address_of, pass_on

_BLOCK_BYTES = 65536
_DROP_BYTES = 64
_DROP_SECONDS = 0.05


class Trickle(Relay):
    """Passes bytes on in full speed until :meth:`begin`, in drops from then on."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = address_of(upstream)
        self._slow = threading.Event()

    def begin(self) -> None:
        self._slow.set()

    def serve_one(self, client: socket.socket) -> None:
        pass_on(client, self._upstream, block_bytes=self._drop_bytes, lets_through=self._wait_its_turn)

    def _drop_bytes(self) -> int:
        return _DROP_BYTES if self._slow.is_set() else _BLOCK_BYTES

    def _wait_its_turn(self) -> bool:
        if self._slow.is_set():
            self.ended.wait(_DROP_SECONDS)  # the drop's pace, which is the fault itself
        return True


@contextlib.contextmanager
def trickling(upstream: str) -> Iterator[Trickle]:
    """A proxy of that URL's server."""
    with Trickle(upstream).running() as proxy:
        yield proxy
