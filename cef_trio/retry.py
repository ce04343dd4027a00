"""When to try again, how long to wait, and how one outage is one outage.

Two pieces, and one policy for every call to S3 and Redis:

- :class:`ServiceRetrier` runs one operation: exponential back-off with full jitter
  (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), a cap, ``Retry-After`` honoured. What is
  transient is said by the error itself (``CefMp4ProcessorError.transient``), which the edges set from their tables.
- :class:`CircuitBreaker` is shared by all operations of a service. When one is out of attempts the breaker opens: every
  other call waits for it instead of knocking, one probe with a back-off of its own notices the end, and all go on.

A wait is ``trio.sleep``: cancelled at once. tenacity catches ``BaseException`` inside, so the predicate is a type check
that Cancelled cannot pass, and the exception itself is raised, not a ``RetryError``. Between an attempt's success and
the return of :meth:`ServiceRetrier.call` there is no checkpoint: an acknowledged part cannot be lost there (P2).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol, TypeVar

import structlog
import tenacity
import trio
from trio_util import AsyncBool

from cef_trio.exceptions import CefMp4ProcessorError, OperationError

T = TypeVar("T")
log = structlog.get_logger(__name__)

_probing: ContextVar[bool] = ContextVar("probing", default=False)
"""Set in the task that probes: its calls are the breaker's own attempts, neither repeated nor waiting for it."""

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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how far apart. Seconds; ``attempts`` counts the first one too."""

    attempts: int = 5
    initial_seconds: float = 0.2
    max_seconds: float = 10.0

    def ceiling_seconds(self, attempt: int) -> float:
        """The longest wait after that attempt (1, 2, …): doubled each time, up to the cap."""
        exponent = min(attempt - 1, 63)  # a float overflows long before an outage of a year does
        return float(min(self.max_seconds, self.initial_seconds * 2**exponent))


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later. Never true of ``trio.Cancelled``, nor of anything that is not ours."""
    return isinstance(error, CefMp4ProcessorError) and error.transient


_OF_ONE_CALL: Final = frozenset(
    {
        "BadDigest",
        "ChecksumMismatch",
        "ChecksumNotConfirmed",
        "IncompleteBody",
        "RequestTimeTooSkewed",
        "UnreadableAnswer",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
"""Codes of transient errors that say nothing of the service for others: this call's bytes, clock or answer."""


def is_outage(error: BaseException) -> bool:
    """Whether a transient error speaks of the whole service, and not of this call's own bytes, clock or answer."""
    return isinstance(error, OperationError) and error.transient and getattr(error, "code", None) not in _OF_ONE_CALL


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that failed, for whoever counts: it will be retried, or it was the operation's last."""

    service: str
    operation: str
    error: BaseException
    retried: bool


RetryObserver = Callable[[FailedAttempt], None]
"""Called for every retry, and once for every operation that failed for good; must not raise, and cannot wait."""


def _nobody(_failed: FailedAttempt) -> None:
    """The observer that is not there."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A service that is down, as far as is known."""

    began: float
    """``trio.current_time()``."""
    error: str
    """What the last attempt ran into."""
    probes: int = 0


class CircuitBreaker:
    """Whether a service is up, for all who need it. Open means down, as in an electric circuit.

    Exactly one task runs :meth:`run`; it probes while the breaker is open.
    """

    def __init__(
        self, service: str, probe: Callable[[], Awaitable[None]], policy: RetryPolicy, random: Random | None = None
    ) -> None:
        self.service = service
        self.up = AsyncBool(True)
        self.last_failure_time = -float("inf")
        """``trio.current_time()`` of the last attempt that failed for an outage's reason."""
        self.outage: Outage | None = None
        """While the breaker is open."""
        self.up_since = -float("inf")
        """``trio.current_time()`` when the last outage ended."""
        self._probe = probe
        self._policy = policy
        self._random = random or Random()  # noqa: S311 - jitter, not a secret

    def note_failure(self) -> None:
        """An attempt failed as in an outage; others will tell whether it is one."""
        self.last_failure_time = trio.current_time()

    def trip(self, error: BaseException) -> None:
        """An operation is out of attempts: hold the others back until a probe succeeds."""
        if self.up.value:
            log.warning("outage_began", service=self.service, error=str(error))
            self.outage = Outage(trio.current_time(), str(error))
            self.up.value = False

    async def wait_up(self) -> None:
        """Wait until the service is believed to be up; returns without a checkpoint if it is."""
        if not self.up.value:
            await self.up.wait_value(True)

    async def run(self) -> None:
        """Probe while the breaker is open, for as long as it takes."""
        _probing.set(True)  # in this task's own context
        while True:
            await self.up.wait_value(False)
            began = trio.current_time()
            attempt = 0
            while not self.up.value:
                attempt += 1
                ceiling = self._policy.ceiling_seconds(attempt)
                await trio.sleep(ceiling / 2 + self._random.uniform(0, ceiling / 2))
                try:
                    await self._probe()
                except CefMp4ProcessorError as error:
                    if not error.transient:
                        # It answers, and refuses: that is for the operations themselves to run into and to report.
                        self.up.value = True
                    log.info("outage_goes_on", service=self.service, probes=attempt, error=str(error))
                    self.outage = Outage(began, str(error), attempt)
                else:
                    self.up.value = True
            self.outage, self.up_since = None, trio.current_time()
            log.warning(
                "outage_ended", service=self.service, seconds=round(trio.current_time() - began, 3), probes=attempt
            )


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
        observer: RetryObserver = _nobody,
    ) -> None:
        self._breaker = breaker
        self._policy = policy
        self._once = once
        self._observer = observer
        self._random = random or Random()  # noqa: S311 - jitter, not a secret

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run ``attempt`` up to ``policy.attempts`` times.

        Raises:
            CefMp4ProcessorError: the last attempt's error; if it is transient, the breaker is open by now where the
                error speaks of the whole service.
            trio.Cancelled: at once, during the attempt and during the wait.
        """
        try:
            return await self._call(operation, attempt)
        except CefMp4ProcessorError as error:
            self._observer(FailedAttempt(self._breaker.service, operation, error, retried=False))
            raise

    async def _call(self, operation: str, attempt: Callable[[], Awaitable[T]]) -> T:
        if operation in self._once or _probing.get():
            return await self._noting_failures(attempt)
        retrying = tenacity.AsyncRetrying(
            sleep=trio.sleep,
            stop=tenacity.stop_after_attempt(self._policy.attempts),
            wait=self._wait_seconds,
            retry=tenacity.retry_if_exception(is_transient),
            before_sleep=lambda state: self._tell_retry(operation, state),
            reraise=True,
        )

        async def one_attempt() -> T:
            await self._breaker.wait_up()
            return await self._noting_failures(attempt)

        try:
            return await retrying(one_attempt)
        except CefMp4ProcessorError as error:
            if is_outage(error):
                self._breaker.trip(error)
            raise

    async def _noting_failures(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await attempt()
        except CefMp4ProcessorError as error:
            if is_outage(error):
                self._breaker.note_failure()
            raise

    def _wait_seconds(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        wait = self._random.uniform(0, self._policy.ceiling_seconds(state.attempt_number))
        asked = getattr(error, "retry_after_seconds", None)
        return wait if asked is None else max(wait, min(asked, MAX_RETRY_AFTER_SECONDS))

    def _tell_retry(self, operation: str, state: tenacity.RetryCallState) -> None:
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
