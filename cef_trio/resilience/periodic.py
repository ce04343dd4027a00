"""Rounds of a loop at a fixed period."""

from __future__ import annotations

import trio


class Periodic:
    """Rounds that begin ``seconds`` after each other, the first one at once: ``async for _ in Periodic(30):``.

    The time of a round counts; after a round that took longer, the next one begins at once. Unlike an asynchronous
    generator it needs no ``aclosing``. Each round but the first begins with a checkpoint.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None

    def __aiter__(self) -> Periodic:
        return self

    async def __anext__(self) -> None:
        if self._began is not None:
            await trio.sleep_until(self._began + self._seconds)
        self._began = trio.current_time()
