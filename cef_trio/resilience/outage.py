"""One outage is one outage: the circuit breaker of a service, and how it is told from one call's own trouble.

All calls to a service share its :class:`CircuitBreaker`. While it is open they wait instead of knocking, one probe with
a back-off of its own notices the end, and all go on. Four rules:

- **The probe does what failed.** A PING that succeeds says nothing of writes that are refused, nor a HEAD of a PUT. So
  the probe is told what was needed (:class:`Need`): a small write if a write failed, a read if only reads did.
- **No answer is everybody's.** A call that got none in all its attempts opens the breaker at once.
- **An answer is checked.** A refusal or a server error may be about this one call. The probe, a small write on a key of
  its own, decides (:meth:`CircuitBreaker.is_everybodys`): what it runs into too is an outage, held and probed until the
  probe succeeds, whatever S3 or Redis calls it (a key that is not known, a quota, a bucket that is not there). What it
  does not run into is that call's own.
- **Idle is no proof.** While nothing was acknowledged for ``idle_seconds`` the service is asked once, by one read.

The probe needs the rights that every upload needs (``SECURITY.md``). Where somebody took them from the probe's key
alone, it can never succeed; so a refusal that only it runs into holds the others back for ``UNPROVED_SECONDS`` at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Final

import structlog
import trio
from trio_util import AsyncBool

from cef_trio.exceptions import CefMp4ProcessorError, OperationError

log = structlog.get_logger(__name__)

UNPROVED_SECONDS: Final = 60.0
"""How long the refusals of a probe that has never succeeded hold all others back at a time."""
IDLE_SECONDS: Final = 60.0
"""How often a service is asked that nobody needs."""
_ASK_AGAIN_SECONDS: Final = 1.0
"""Before a service that did not answer while idle is asked the second time; then it is an outage."""

_probing: ContextVar[bool] = ContextVar("probing", default=False)
"""Set while a task probes: its calls are the breaker's own attempts, neither repeated nor waiting for it."""


def is_probing() -> bool:
    """Whether this task's calls are a probe's."""
    return _probing.get()


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


class Need(Enum):
    """What of a service failed, and so what a probe must do to prove its end."""

    READ = "read"
    WRITE = "write"


Probe = Callable[[Need], Awaitable[None]]
"""Does as little as proves the need; raises what a call would raise."""

READS: Final = frozenset(
    {
        "get_bucket_lifecycle",
        "get_object",
        "head_bucket",
        "head_object",
        "list_multipart_uploads",
        "list_objects",
        "list_parts",
    }
)
"""S3's operations that change nothing. Redis has no such list: what reads there soon writes."""

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
    """Whether a transient error may speak of the whole service, and not of this call's own bytes, clock or answer."""
    return isinstance(error, OperationError) and error.transient and getattr(error, "code", None) not in _OF_ONE_CALL


def is_refusal(error: BaseException) -> bool:
    """Whether a permanent error may be everybody's: it says no to us, and names nothing that only this call has."""
    return isinstance(error, OperationError) and not error.transient and error.refusal


def got_no_answer(error: BaseException) -> bool:
    """Whether nothing answered, or what answered spoke of the whole server: no probe has to confirm that."""
    return isinstance(error, OperationError) and error.transient and getattr(error, "status", None) is None


def need_of(operation: str) -> Need:
    """What the end of an outage has to be proved by, if that operation failed."""
    return Need.READ if operation in READS else Need.WRITE


@dataclass(frozen=True, slots=True)
class Outage:
    """A service that is down, as far as is known."""

    began: float
    """``trio.current_time()``."""
    error: str
    """What the last attempt ran into."""
    probes: int = 0
    need: Need = Need.WRITE
    refused: bool = False
    """Whether it answers, and refuses everybody."""


class CircuitBreaker:
    """Whether a service is up, for all who need it. Open means down, as in an electric circuit.

    Exactly one task runs :meth:`run`; it probes while the breaker is open, and now and then while nobody calls.

    Args:
        service: its name in the log.
        probe: proves that the service does what is needed.
        policy: how far apart the probes are.
        random: the jitter of that.
        idle_seconds: how long nothing may be acknowledged before the service is asked; ``None``: it is never asked.
    """

    def __init__(
        self,
        service: str,
        probe: Probe,
        policy: RetryPolicy,
        random: Random | None = None,
        *,
        idle_seconds: float | None = None,
    ) -> None:
        self.service = service
        self.up = AsyncBool(True)
        self.last_failure_time = -float("inf")
        """``trio.current_time()`` of the last attempt that failed for an outage's reason."""
        self.last_success_time = -float("inf")
        """``trio.current_time()`` of the last attempt that succeeded, a probe's too."""
        self.outage: Outage | None = None
        """While the breaker is open."""
        self.up_since = -float("inf")
        """``trio.current_time()`` when the last outage ended."""
        self.starting = False
        """While the start asks whether we are let in at all a refusal is the answer: neither held nor repeated."""
        self._probe = probe
        self._policy = policy
        self._random = random or Random()  # noqa: S311 - jitter, not a secret
        self._idle_seconds = idle_seconds
        self._judging = trio.Lock()
        self._proved_at = -float("inf")
        """When the last probe that a write of ours succeeded in began."""

    def note_failure(self) -> None:
        """An attempt failed as in an outage; others will tell whether it is one."""
        self.last_failure_time = trio.current_time()

    def note_success(self) -> None:
        """An attempt succeeded."""
        self.last_success_time = trio.current_time()

    def trip(self, error: BaseException, need: Need = Need.WRITE) -> None:
        """Hold everybody back until a probe succeeds."""
        if self.outage is None:
            log.warning("outage_started", service=self.service, error=str(error))
            self.outage = Outage(trio.current_time(), str(error), need=need, refused=is_refusal(error))
            self.up.value = False
        elif need is Need.WRITE and self.outage.need is Need.READ:
            self.outage = replace(self.outage, need=need)

    async def wait_up(self) -> None:
        """Wait until the service is believed to be up; returns without a checkpoint if it is."""
        if not self.up.value:
            await self.up.wait_value(True)

    async def is_everybodys(self, error: CefMp4ProcessorError, need: Need) -> bool:
        """Whether what one call ran into would strike all; then the breaker is open by now. Cancelled: nothing changed.

        One caller probes, and who waits for it takes its result.
        """
        if got_no_answer(error):
            self.trip(error, need)
            return True
        asked_at = trio.current_time()
        async with self._judging:
            if not self.up.value or self._proved_at >= asked_at:
                return not self.up.value
            try:
                await self._prove(Need.WRITE)
            except CefMp4ProcessorError as found:
                if found.transient or is_refusal(found):
                    self.trip(found, Need.WRITE)
            return not self.up.value

    async def run(self) -> None:
        """Probe while the breaker is open, for as long as it takes; while nobody calls, ask now and then."""
        heard_at = trio.current_time()
        while True:
            heard_at = max(heard_at, self.last_success_time)
            ask_at = float("inf") if self._idle_seconds is None else heard_at + self._idle_seconds
            with trio.move_on_at(ask_at):
                await self.up.wait_value(False)
            if not self.up.value:
                await self._probe_until_up()
            elif self.last_success_time <= heard_at:
                await self._ask_if_idle()
                heard_at = trio.current_time()

    async def _probe_until_up(self) -> None:
        outage = self.outage
        if outage is None:
            return
        began, attempt = outage.began, 0
        while not self.up.value:
            attempt += 1
            ceiling = self._policy.ceiling_seconds(attempt)
            await trio.sleep(ceiling / 2 + self._random.uniform(0, ceiling / 2))
            outage = self.outage or outage
            try:
                await self._prove(outage.need)
            except CefMp4ProcessorError as error:
                log.info("outage_probe_failed", service=self.service, probes=attempt, error=str(error))
                refused = is_refusal(error)
                need = (
                    Need.WRITE if refused else (self.outage or outage).need
                )  # what a refused read means, a write tells
                self.outage = replace(
                    self.outage or outage, error=str(error), probes=attempt, refused=refused, need=need
                )
                # A refusal that nothing but the probe may run into: the calls themselves are to find that out.
                unproved = self._proved_at == -float("inf") and trio.current_time() >= began + UNPROVED_SECONDS
                self.up.value = not error.transient and (not refused or unproved)
            else:
                # What failed meanwhile may need more than this probe has done.
                self.up.value = self.outage is None or self.outage.need is outage.need
        self.outage, self.up_since = None, trio.current_time()
        log.warning("outage_ended", service=self.service, seconds=round(trio.current_time() - began, 3), probes=attempt)

    async def _ask_if_idle(self) -> None:
        """Make sure of a service that nobody has heard of for a while."""
        try:
            await self._prove(Need.READ)
        except CefMp4ProcessorError:
            await trio.sleep(_ASK_AGAIN_SECONDS)
        else:
            return
        if not self.up.value:
            return
        try:
            await self._prove(Need.READ)
        except CefMp4ProcessorError as error:
            if error.transient or (is_refusal(error) and await self.is_everybodys(error, Need.WRITE)):
                self.trip(error, Need.READ)

    async def _prove(self, need: Need) -> None:
        token = _probing.set(True)
        began = trio.current_time()
        try:
            await self._probe(need)
        finally:
            _probing.reset(token)
        self.note_success()
        if need is Need.WRITE:
            self._proved_at = began
