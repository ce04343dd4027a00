"""Circuit breaker for S3 and for Redis: distinguishes an outage from the failure of a single call.

All calls to a service share its :class:`CircuitBreaker`. While it is open, calls wait, and one probe with its own
back-off detects the recovery. Rules:

- **Probe what failed.** A successful PING does not prove that writes work, nor a HEAD that a PUT works, nor a PUT that
  a multipart upload works. :class:`ProbeKind` states what the probe must do.
- **No response means outage.** A call that got no response in any attempt opens the breaker at once. One that no upload
  needs (:data:`BESIDE_UPLOADS`) does so only if a write fails too: a proxy may reset these alone.
- **Confirm an error response.** A rejection or a server error may concern a single call. The probe, a small write to a
  key of its own (after an error of a multipart upload: such an upload too), decides
  (:meth:`CircuitBreaker.affects_all_calls`). If the probe fails too, it is an outage, whatever the error code (unknown
  key, quota, missing bucket); the breaker stays open until the probe succeeds. If the probe succeeds, the error belongs
  to the call.
- **A quota counts bytes.** What is left of it may take the probe's few bytes and not a part, so the success of a probe
  does not show that the refusal is this call's own: ``retry.py`` makes it transient.
- **Check an idle service.** If nothing was acknowledged for ``idle_seconds``, one read is sent. Again a write decides
  what its failure means.

The probe needs the permissions that every upload needs (``SECURITY.md``). If only the probe's key is denied, the probe
can never succeed. A rejection seen by the probe alone therefore blocks other calls for ``UNPROVEN_REJECTION_SECONDS``
at most, unless it is a quota's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import IntEnum
from random import Random
from typing import Final

import structlog
import trio
from trio_util import AsyncBool

from cef_trio.exceptions import CefMp4ProcessorError, OperationError
from cef_trio.resilience.backoff import RetryPolicy

log = structlog.get_logger(__name__)

UNPROVEN_REJECTION_SECONDS: Final = 60.0
"""How long calls wait for a probe that is refused and has never succeeded."""
IDLE_SECONDS: Final = 60.0
"""Default idle time before a service is probed."""
PROBE_MAX_SECONDS: Final = 3.0
"""Longest pause before the next probe of a service that does not work, so that uploads continue soon after it is back.
A service that rejects all calls is repaired by hand; its probes have the pauses of the policy.
"""
MAX_ENDED: Final = 10
"""Number of past outages that are remembered."""
_IDLE_RETRY_SECONDS: Final = 1.0
"""Delay before the second idle probe; if that fails too, it is an outage."""

_probing: ContextVar[bool] = ContextVar("probing", default=False)
"""Set while a task probes: its calls are neither retried nor blocked by the breaker."""


def is_probing() -> bool:
    """Whether this task is running a probe."""
    return _probing.get()


class ProbeKind(IntEnum):
    """Kind of call that failed; a probe must make the same kind to prove recovery. Each includes those before it."""

    READ = 1
    """For an idle service only. No outage is of this kind, since a write decides whether it is one."""
    WRITE = 2
    UPLOAD = 3
    """A multipart upload: a policy or a proxy may let PutObject through, and not these."""


Probe = Callable[[ProbeKind], Awaitable[None]]
"""Makes the cheapest call of that kind; raises what a normal call would raise."""

BESIDE_UPLOADS: Final = frozenset(
    {
        "abort_multipart_upload",
        "delete_object",
        "get_bucket_lifecycle",
        "get_object",
        "head_bucket",
        "head_object",
        "list_multipart_uploads",
        "list_objects",
        "list_parts",
        "upload_part_copy",
    }
)
"""S3 operations that send no recording: reads, removals, and a copy, without which the part is sent. Redis has no such
list, since its reads are followed by writes.
"""

UPLOADS: Final = frozenset({"create_multipart_upload", "upload_part", "complete_multipart_upload"})
"""S3 operations that may fail although PutObject does not."""

_NOT_IMPLEMENTED: Final = 501

_SINGLE_CALL_CODES: Final = frozenset(
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
"""Codes of errors caused by one call's bytes, clock or response, not by the service. They may pass."""


def is_outage(error: BaseException) -> bool:
    """Return whether a transient error may be caused by the whole service."""
    return isinstance(error, OperationError) and error.transient and not is_single_call_code(error)


def is_single_call_code(error: BaseException) -> bool:
    """Return whether an error's code is about one call's bytes, clock or response."""
    return getattr(error, "code", None) in _SINGLE_CALL_CODES


def is_rejected(error: BaseException) -> bool:
    """Return whether a permanent error may affect all calls (credentials, permission, quota, bucket)."""
    return isinstance(error, OperationError) and not error.transient and error.rejected


def is_over_quota(error: BaseException) -> bool:
    """Return whether a quota has no room for the call's bytes."""
    return isinstance(error, OperationError) and error.over_quota


def got_no_response(error: BaseException) -> bool:
    """Return whether there was no response, or one about the whole server; neither needs a probe to confirm."""
    if not isinstance(error, OperationError) or error.unreadable:
        return False
    return error.transient and getattr(error, "status", None) is None


def probe_kind_of(operation: str) -> ProbeKind:
    """Return the kind of probe that shows whether an error of ``operation`` that may pass affects all calls."""
    if operation in BESIDE_UPLOADS:
        return ProbeKind.READ
    return ProbeKind.UPLOAD if operation in UPLOADS else ProbeKind.WRITE


def probe_kind_of_rejected(operation: str, error: BaseException) -> ProbeKind:
    """Return the kind of probe that shows whether a rejection of ``operation`` affects all calls of its kind.

    What a store does not implement (501: a part that is sent twice, a header) is about the request.
    """
    is_upload = operation in UPLOADS and getattr(error, "status", None) != _NOT_IMPLEMENTED
    return ProbeKind.UPLOAD if is_upload else ProbeKind.WRITE


@dataclass(frozen=True, slots=True)
class Outage:
    """State of an outage."""

    began: float
    """``trio.current_time()`` when the breaker opened."""
    since: float
    """``trio.current_time()`` of the first failure after the last success."""
    error: str
    """Error of the last attempt."""
    probes: int = 0
    kind: ProbeKind = ProbeKind.WRITE
    refused: bool = False
    """Whether the service responds but rejects all calls."""
    cause: str = ""
    """Error that began it."""
    probed_at: float | None = None
    """``trio.current_time()`` of the last probe's end; ``None`` before the first."""


@dataclass(frozen=True, slots=True)
class EndedOutage:
    """An outage that is over. Times are ``trio.current_time()``."""

    began: float
    ended: float
    cause: str
    probes: int


class CircuitBreaker:
    """Circuit breaker of one service. Open means that the service is down.

    Exactly one task runs :meth:`run`, which probes while the breaker is open, with the delays of ``policy`` (at most
    ``PROBE_MAX_SECONDS``), or the service is idle for ``idle_seconds``; ``None`` disables idle probes. ``service`` is
    its name in the log.
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
        """``trio.current_time()`` of the last failure that counts as an outage."""
        self.last_success_time = -float("inf")
        """``trio.current_time()`` of the last success, probes included."""
        self._failing_since: float | None = None
        """``trio.current_time()`` of the first failure after the last success; ``None``: none failed since."""
        self.outage: Outage | None = None
        """The current outage; ``None`` while the breaker is closed."""
        self.ended: deque[EndedOutage] = deque(maxlen=MAX_ENDED)
        """The last outages, oldest first."""
        self.up_since = -float("inf")
        """``trio.current_time()`` when the last outage ended."""
        self.recovered_at = -float("inf")
        """``trio.current_time()`` when a probe last ended an outage by its success; others are ended to find out."""
        self.starting = False
        """Set during the start-up check: a rejection is raised at once, neither retried nor treated as an outage."""
        self._probe = probe
        self._refused_policy = policy
        self._policy = replace(policy, max_seconds=min(policy.max_seconds, PROBE_MAX_SECONDS))
        self._random = random or Random()  # noqa: S311 - jitter, not a secret
        self._idle_seconds = idle_seconds
        self.probes = 0
        """Number of probes since the start, idle ones included."""
        self.probe_failures = 0
        self._probe_lock = trio.Lock()
        """Held during a probe, except reads of an idle service: two at once would go on with the same upload."""
        self._proved_at = dict.fromkeys(ProbeKind, -float("inf"))
        """Start time of the last probe of each kind that succeeded."""

    def note_failure(self) -> None:
        """Record a failure that counts as an outage."""
        self.last_failure_time = trio.current_time()
        if self._failing_since is None:
            self._failing_since = self.last_failure_time

    def note_success(self) -> None:
        """Record a success."""
        self.last_success_time, self._failing_since = trio.current_time(), None

    def trip(self, error: BaseException, kind: ProbeKind = ProbeKind.WRITE) -> None:
        """Open the breaker: all calls wait until a probe succeeds."""
        if self.outage is None:
            log.warning("outage_started", service=self.service, error=str(error))
            now, cause = trio.current_time(), str(error)
            since = now if self._failing_since is None else self._failing_since
            self.outage = Outage(now, since, cause, kind=kind, refused=is_rejected(error), cause=cause)
            self.up.value = False
        elif kind > self.outage.kind:
            self.outage = replace(self.outage, kind=kind)

    async def wait_up(self) -> None:
        """Wait until the breaker is closed; no checkpoint if it already is."""
        if not self.up.value:
            await self.up.wait_value(True)

    async def affects_all_calls(self, error: CefMp4ProcessorError, kind: ProbeKind) -> bool:
        """Return whether an error affects all calls; if so, the breaker is open on return. Safe to cancel.

        One caller probes, at least by a write; concurrent callers share its result.
        """
        if got_no_response(error) and kind is not ProbeKind.READ:
            self.trip(error, kind)
        if not self.up.value:
            return True
        called_at, kind = trio.current_time(), max(kind, ProbeKind.WRITE)
        async with self._probe_lock:
            if not self.up.value or self._proved_at[kind] >= called_at:
                return not self.up.value
            with suppress(CefMp4ProcessorError):
                await self._probe_or_trip(kind)
            return not self.up.value

    async def probe_write(self) -> None:
        """Probe by a write, also while the breaker is open. Safe to cancel.

        Raises:
            CefMp4ProcessorError: the probe's own error; if it affects all calls, the breaker is open.
        """
        async with self._probe_lock:
            await self._probe_or_trip(ProbeKind.WRITE)

    async def _probe_or_trip(self, kind: ProbeKind) -> None:
        try:
            await self._run_probe(kind)
        except CefMp4ProcessorError as found:
            if found.transient or is_rejected(found):
                self.trip(found, kind)
            raise

    async def run(self) -> None:
        """Probe while the breaker is open, until it closes; probe occasionally while the service is idle."""
        last_success_at = trio.current_time()
        while True:
            last_success_at = max(last_success_at, self.last_success_time)
            probe_at = float("inf") if self._idle_seconds is None else last_success_at + self._idle_seconds
            with trio.move_on_at(probe_at):
                await self.up.wait_value(False)
            if not self.up.value:
                await self._probe_until_up()
            elif self.last_success_time <= last_success_at:
                await self._probe_if_idle()
                last_success_at = trio.current_time()

    async def _probe_until_up(self) -> None:
        outage = self.outage
        if outage is None:
            return
        began, since, attempt = outage.began, outage.since, 0
        while not self.up.value:
            attempt += 1
            policy = self._refused_policy if outage.refused else self._policy
            await trio.sleep(policy.equal_jitter_seconds(attempt, self._random))
            try:
                async with self._probe_lock:
                    outage = self.outage or outage
                    await self._run_probe(outage.kind)
            except CefMp4ProcessorError as error:
                log.info("outage_probe_failed", service=self.service, probes=attempt, error=str(error))
                refused = is_rejected(error)
                kind = (self.outage or outage).kind
                self.outage = replace(
                    self.outage or outage,
                    error=str(error),
                    probes=attempt,
                    refused=refused,
                    probed_at=trio.current_time(),
                )
                # Only the probe may be refused. Let calls through to find out; a quota has no room for them either.
                unproved = self._proved_at[kind] == -float("inf") and not is_over_quota(error)
                untested = unproved and trio.current_time() >= began + UNPROVEN_REJECTION_SECONDS
                self.up.value = not error.transient and (not refused or untested)
            else:
                # A call that failed during the probe may need a stronger one.
                self.up.value = self.outage is None or self.outage.kind is outage.kind
                if self.up.value:
                    self.recovered_at = trio.current_time()
        self.outage, self.up_since = None, trio.current_time()
        self.ended.append(EndedOutage(since, self.up_since, outage.cause, attempt))
        log.warning("outage_ended", service=self.service, seconds=round(trio.current_time() - began, 3), probes=attempt)

    async def _probe_if_idle(self) -> None:
        try:
            await self._run_probe(ProbeKind.READ)
        except CefMp4ProcessorError:
            await trio.sleep(_IDLE_RETRY_SECONDS)
        else:
            return
        if not self.up.value:
            return
        try:
            await self._run_probe(ProbeKind.READ)
        except CefMp4ProcessorError as error:
            if error.transient or is_rejected(error):
                await self.affects_all_calls(error, ProbeKind.READ)

    async def _run_probe(self, kind: ProbeKind) -> None:
        token = _probing.set(True)
        began = trio.current_time()
        self.probes += 1
        try:
            await self._probe(kind)
        except CefMp4ProcessorError:
            self.probe_failures += 1
            raise
        finally:
            _probing.reset(token)
        self.note_success()
        for proved in ProbeKind:
            if proved <= kind:
                self._proved_at[proved] = began
