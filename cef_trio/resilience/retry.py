"""When to try again, and how long to wait: one policy for every call to S3 and Redis.

- :class:`ServiceRetrier` runs one operation: exponential back-off with full jitter
  (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), a cap, ``Retry-After`` honoured. What is
  transient is said by the error itself (``CefMp4ProcessorError.transient``), which the edges set from their tables.
- Out of attempts, or refused, it asks the service's :class:`~cef_trio.resilience.outage.CircuitBreaker` whether that
  strikes all. What does is transient from then on, whatever it is called: the caller waits for the outage's end, and
  comes back.
- A refusal that only this call runs into is repeated as often as a transient error before it is believed: keys and
  rights that were changed a moment ago are not known to all of a store's servers at once.

A wait is ``trio.sleep``: cancelled at once. tenacity catches ``BaseException`` inside, so the predicate is a type check
that Cancelled cannot pass, and the exception itself is raised, not a ``RetryError``. Between an attempt's success and
the return of :meth:`ServiceRetrier.call` there is no checkpoint: an acknowledged part cannot be lost there (P2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar

import structlog
import tenacity
import trio

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.resilience.outage import (
    CircuitBreaker,
    Need,
    Outage,
    RetryPolicy,
    is_outage,
    is_probing,
    is_refusal,
    need_of,
)

__all__ = (
    "MAX_RETRY_AFTER_SECONDS",
    "CircuitBreaker",
    "FailedAttempt",
    "Need",
    "Outage",
    "Retrier",
    "RetryObserver",
    "RetryPolicy",
    "ServiceRetrier",
    "SingleAttempt",
    "is_outage",
    "is_transient",
)

T = TypeVar("T")
log = structlog.get_logger(__name__)

MAX_RETRY_AFTER_SECONDS = 300.0
"""A server that asks for a longer wait than this is asked again after this."""


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


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later. Never true of ``trio.Cancelled``, nor of anything that is not ours."""
    return isinstance(error, CefMp4ProcessorError) and error.transient


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that failed, for whoever counts: it will be retried, or it was the operation's last."""

    service: str
    operation: str
    error: BaseException
    retried: bool


RetryObserver = Callable[[FailedAttempt], None]
"""Called for every retry, and once for every operation that failed for good; must not raise, and cannot wait."""


def _no_observer(_failed: FailedAttempt) -> None:
    """The observer that is not there."""


class _OutageError(Exception):
    """A refusal that strikes all: this call is not repeated before the outage is over."""

    def __init__(self, error: CefMp4ProcessorError) -> None:
        self.error = error
        super().__init__()


class ServiceRetrier:
    """The one policy of a service's calls.

    ``once`` names the operations that are tried a single time and never wait for the breaker: those that are bounded by
    their caller, on the way out, where nobody may queue behind a dead server (promise P4). A breaker's probe is tried
    once too, whatever call it makes. ``observer`` hears of every failed attempt, right where the log does.
    """

    def __init__(
        self,
        breaker: CircuitBreaker,
        policy: RetryPolicy,
        *,
        once: frozenset[str] = frozenset(),
        random: Random | None = None,
        observer: RetryObserver = _no_observer,
    ) -> None:
        self._breaker = breaker
        self._policy = policy
        self._once = once
        self._observer = observer
        self._random = random or Random()  # noqa: S311 - jitter, not a secret

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run ``attempt`` up to ``policy.attempts`` times.

        Raises:
            CefMp4ProcessorError: the last attempt's error; where it strikes all, the breaker is open by now and the
                error is transient, a refusal too.
            trio.Cancelled: at once, during the attempt and during the wait.
        """
        try:
            return await self._call(operation, attempt)
        except CefMp4ProcessorError as error:
            self._observer(FailedAttempt(self._breaker.service, operation, error, retried=False))
            raise

    async def _call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        if operation in self._once or is_probing():
            return await self._attempt(attempt)
        retrying = tenacity.AsyncRetrying(
            sleep=trio.sleep,
            stop=tenacity.stop_after_attempt(self._policy.attempts),
            wait=self._wait_seconds,
            retry=tenacity.retry_if_exception(lambda error: is_transient(error) or error in own_refusal),
            before_sleep=lambda state: self._log_retry(operation, state),
            reraise=True,
        )
        own_refusal: list[BaseException] = []
        """The last refusal, if it is this call's own."""

        async def one_attempt() -> T:
            own_refusal.clear()
            await self._breaker.wait_up()
            try:
                return await self._attempt(attempt)
            except CefMp4ProcessorError as error:
                if is_refusal(error) and not self._breaker.starting:
                    if await self._breaker.affects_all_calls(error, need_of(operation)):
                        raise _OutageError(error) from error
                    own_refusal.append(error)
                raise

        try:
            return await retrying(one_attempt)
        except _OutageError as outage:
            outage.error.transient = True
            raise outage.error from outage.error.__cause__
        except CefMp4ProcessorError as error:
            if is_outage(error):
                await self._breaker.affects_all_calls(error, need_of(operation))
            raise

    async def _attempt(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await attempt()
        except CefMp4ProcessorError as error:
            if is_outage(error):
                self._breaker.note_failure()
            raise
        self._breaker.note_success()
        return result

    def _wait_seconds(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        wait = self._random.uniform(0, self._policy.ceiling_seconds(state.attempt_number))
        asked = getattr(error, "retry_after_seconds", None)
        return wait if asked is None else max(wait, min(asked, MAX_RETRY_AFTER_SECONDS))

    def _log_retry(self, operation: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning(
            "retry",
            service=self._breaker.service,
            operation=operation,
            attempt=state.attempt_number,
            attempts=self._policy.attempts,
            wait_seconds=round(state.next_action.sleep, 3) if state.next_action else 0,
            error=str(error),
        )
        if error is not None:
            self._observer(FailedAttempt(self._breaker.service, operation, error, retried=True))
