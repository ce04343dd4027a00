"""A fence: it is asked before each request that must not be sent any more once another daemon owns the stream.

A request may wait within the retrier for as long as S3 is down, and a lease ends meanwhile. So the fence is asked in
each attempt, after that wait, and not once before the call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from cef_trio.exceptions import CefMp4ProcessorError

Fence = Callable[[], Awaitable[None]]
"""Raises if nothing may be changed under the key any more."""


class FenceError(Exception):
    """Carries an error of the fence past the retrier: it is not S3's, and must not open the breaker of S3."""

    def __init__(self, error: CefMp4ProcessorError) -> None:
        self.error = error
        super().__init__()


async def ask(fence: Fence | None) -> None:
    """Ask the fence, within an attempt.

    Raises:
        FenceError: the fence has failed; nothing may be sent.
    """
    if fence is None:
        return
    try:
        await fence()
    except CefMp4ProcessorError as error:
        raise FenceError(error) from error


@contextmanager
def errors_of_the_fence() -> Iterator[None]:
    """Raise the fence's own error, outside the retrier."""
    try:
        yield
    except FenceError as refused:
        raise refused.error from refused.error.__cause__
