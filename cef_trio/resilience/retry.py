"""Retry policy for all calls to S3 and Redis.

- :class:`ServiceRetrier` runs one operation with back-off, full jitter and ``Retry-After`` (``backoff.py``).
  ``CefMp4ProcessorError.transient``, set where the library is called, decides what is retried.
- After the last attempt or a rejection, :class:`~cef_trio.resilience.outage.CircuitBreaker` decides whether the error
  affects all calls. If so, the error becomes transient, and the caller waits for the end of the outage.
- A ``Retry-After`` that is longer than our own pauses is not waited for in an outage: the probe sees its end earlier.
- A rejection that affects this call alone is retried like a transient error: new keys and permissions reach the servers
  of a store with a delay. If its code is about the call's clock (``RequestTimeTooSkewed``), it becomes transient, since
  the probe was signed with the same clock and accepted.
- A quota's rejection of this call alone becomes transient at once. The same bytes are not sent again within seconds:
  their stream waits, with growing pauses, until there is room.

Delays are ``trio.sleep`` and end at once when cancelled. tenacity catches ``BaseException``, so the predicate checks
the type, which Cancelled does not match; the original exception is raised, not a ``RetryError``.
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
from cef_trio.resilience import stall
from cef_trio.resilience.backoff import RetryPolicy, at_least_retry_after
from cef_trio.resilience.outage import (
    CircuitBreaker,
    got_no_response,
    is_outage,
    is_over_quota,
    is_probing,
    is_rejected,
    is_single_call_code,
    probe_kind_of,
    probe_kind_of_rejected,
)

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Retrier(Protocol):
    """Runs an attempt until it succeeds, fails permanently, or no attempt is left."""

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run ``attempt``; no checkpoint between its success and this call's return (promise P2)."""
        ...


class SingleAttempt:
    """Retrier with a single attempt."""

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run ``attempt`` once."""
        return await attempt()


def is_transient(error: BaseException) -> bool:
    """Return whether the same call may succeed later; false for ``trio.Cancelled`` and foreign exceptions."""
    return isinstance(error, CefMp4ProcessorError) and error.transient


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A failed attempt, for metrics; ``retried`` is false for the last one of an operation."""

    service: str
    operation: str
    error: BaseException
    retried: bool


RetryObserver = Callable[[FailedAttempt], None]
"""Called for every retry and for every failed operation; must not raise."""


class _WaitError(Exception):
    """Carries an error that the caller waits out past tenacity; never leaves this module."""

    def __init__(self, error: CefMp4ProcessorError) -> None:
        self.error = error
        super().__init__()


class ServiceRetrier:
    """Retries the calls to one service.

    Operations in ``not_retried``, such as the save during shutdown (promise P4), are tried once and do not wait for the
    breaker; so are probes.
    """

    def __init__(
        self,
        breaker: CircuitBreaker,
        policy: RetryPolicy,
        *,
        not_retried: frozenset[str] = frozenset(),
        random: Random | None = None,
        observer: RetryObserver = lambda _failed: None,
    ) -> None:
        self._breaker = breaker
        self._policy = policy
        self._not_retried = not_retried
        self._observer = observer
        self._random = random or Random()  # noqa: S311 - jitter, not a secret

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run ``attempt`` up to ``policy.attempts`` times.

        Raises:
            CefMp4ProcessorError: the last attempt's error; if it affects all calls, the breaker is open and the error,
                even a rejection, is transient; so is that of a quota.
            trio.Cancelled: at once, during an attempt or a delay.
        """
        try:
            return await self._call(operation, attempt)
        except CefMp4ProcessorError as error:
            self._observer(FailedAttempt(self._breaker.service, operation, error, retried=False))
            raise

    async def _call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        if operation in self._not_retried or is_probing():
            return await self._attempt(attempt)
        retrying = tenacity.AsyncRetrying(
            sleep=trio.sleep,
            stop=tenacity.stop_after_attempt(self._policy.attempts),
            wait=self._wait_seconds,
            retry=tenacity.retry_if_exception(lambda error: is_transient(error) or error in rejected_alone),
            before_sleep=lambda state: self._log_retry(operation, state),
            reraise=True,
        )
        rejected_alone: list[BaseException] = []
        """The last rejection, if it affects this call alone."""

        async def one_attempt() -> T:
            rejected_alone.clear()
            await self._breaker.wait_up()
            try:
                return await self._attempt(attempt)
            except CefMp4ProcessorError as error:
                if is_rejected(error) and not self._breaker.starting:
                    affects_all = await self._breaker.affects_all_calls(error, probe_kind_of_rejected(operation, error))
                    if affects_all or is_over_quota(error):
                        raise _WaitError(error) from error
                    error.transient = is_single_call_code(error)
                    rejected_alone.append(error)
                elif self._asks_for_long(error) and await self._breaker.affects_all_calls(
                    error, probe_kind_of(operation)
                ):
                    raise _WaitError(error) from error
                raise

        try:
            return await retrying(one_attempt)
        except _WaitError as wait:
            wait.error.transient = True
            raise wait.error from wait.error.__cause__
        except CefMp4ProcessorError as error:
            if is_outage(error):
                await self._breaker.affects_all_calls(error, probe_kind_of(operation))
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

    def _asks_for_long(self, error: CefMp4ProcessorError) -> bool:
        """Return whether an error asks for a longer pause than ours: in an outage the probe sees its end earlier."""
        retry_after = getattr(error, "retry_after_seconds", None)
        if not is_outage(error) or got_no_response(error) or retry_after is None:
            return False
        return bool(retry_after > self._policy.max_seconds)

    def _wait_seconds(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        wait = self._policy.full_jitter_seconds(state.attempt_number, self._random)
        return at_least_retry_after(wait, getattr(error, "retry_after_seconds", None))

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
        stall.retried(self._breaker.service, operation)
        if error is not None:
            self._observer(FailedAttempt(self._breaker.service, operation, error, retried=True))
