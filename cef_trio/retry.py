"""When to try again and how long to wait (placeholder of the interface; the policy follows)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Retrier(Protocol):
    """Runs an attempt until it succeeds, fails for good, or is out of attempts."""

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run ``attempt``; no checkpoint between its success and this call's return (promise P2)."""
        ...


class SingleAttempt:
    """The retrier that never retries."""

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run ``attempt`` once."""
        return await attempt()
