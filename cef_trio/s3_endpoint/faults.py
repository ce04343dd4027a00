"""Injected faults: their calls, moments, effects, and how often they were applied.

A ``Fault`` selects calls (operation, key, part number, a predicate; the nth of them) and has a ``Kind``, which is what
happens, and a ``Moment``, which is when. ``KINDS`` has the moments of each kind; others are refused, so that a test
cannot arm a fault that never happens. ``ArmedFault.hits`` counts how often it was applied.

The faults are those of real stores and networks: a reply lost after the effect, a Complete with status 200 and an
error, Ceph's empty ETag, stores that ignore or reject checksum headers, stale part lists, a clock that is wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import trio

from cef_trio.s3_endpoint.errors import S3Error


class ConnectionDropped(Exception):  # noqa: N818 - not an error of the endpoint
    """The transport must drop the connection without a response."""


class Moment(StrEnum):
    """When a fault is applied."""

    BEFORE = "before"
    """Before the call has any effect; its body has not been read."""
    BODY = "body"
    """While the request's body arrives, after ``after_bytes`` of it. No effect yet."""
    REPLY = "reply"
    """After the effect, before the reply: the reply is lost."""
    AFTER = "after"
    """After the whole reply was sent."""


class Kind(StrEnum):
    """The effect of a fault."""

    ERROR = "error"
    """The response is the error ``code`` with ``status``, and with ``Retry-After`` if ``retry_after`` is given."""
    RESET = "reset"
    """The connection is reset."""
    FREEZE = "freeze"
    """There is no response. When the fault is disarmed, the connection is dropped."""
    SLOW = "slow"
    """The call is delayed by ``seconds``."""
    TRUNCATE = "truncate"
    """The connection is dropped after half of the reply's body."""
    ERROR_IN_200 = "error-in-200"
    """The response has status 200 and an ``<Error>`` body of ``code``, as CompleteMultipartUpload may have."""
    EMPTY_ETAG = "empty-etag"
    """The response of CompleteMultipartUpload has an empty ``<ETag/>``, as Ceph's may have."""
    IGNORE_CHECKSUMS = "ignore-checksums"
    """Headers ``x-amz-checksum-*`` are ignored: not verified, not kept, not returned."""
    REJECT_CHECKSUMS = "reject-checksums"
    """Requests with such a header are refused with status 400."""
    STALE_PARTS = "stale-parts"
    """ListParts omits the newest ``count`` parts."""
    DAMAGE = "damage"
    """The body is damaged after its verification; the response has the checksums of the damaged bytes."""
    SKEW = "skew"
    """The clock is off by ``seconds``, in the check of signatures and in ``Date``."""


_EARLY: Final = frozenset({Moment.BEFORE, Moment.BODY, Moment.REPLY})
_WHOLE: Final = frozenset({Moment.BEFORE})
KINDS: Final[Mapping[Kind, frozenset[Moment]]] = MappingProxyType(
    {
        Kind.ERROR: _EARLY,
        Kind.RESET: frozenset(Moment),
        Kind.FREEZE: _EARLY,
        Kind.SLOW: _EARLY,
        Kind.TRUNCATE: frozenset({Moment.REPLY}),
        Kind.ERROR_IN_200: frozenset({Moment.BEFORE, Moment.REPLY}),
        Kind.EMPTY_ETAG: _WHOLE,
        Kind.IGNORE_CHECKSUMS: _WHOLE,
        Kind.REJECT_CHECKSUMS: _WHOLE,
        Kind.STALE_PARTS: _WHOLE,
        Kind.DAMAGE: _WHOLE,
        Kind.SKEW: _WHOLE,
    }
)
"""The possible moments of each kind. Kinds with ``BEFORE`` alone change the processing of the whole call."""


@dataclass(frozen=True, slots=True)
class CallInfo:
    """The properties by which a fault selects calls."""

    operation: str
    bucket: str | None
    key: str | None
    upload_id: str | None
    part_number: int | None


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault to arm.

    Args:
        kind: what happens.
        operation: S3's name of the call (``UploadPart``), or ``*`` for every one.
        moment: when.
        nth: the first matching call to which it is applied, counted from 1 since it was armed.
        times: to how many matching calls it is applied from there on; ``None``: all.
        key: only calls on this key.
        part_number: only calls on this part.
        predicate: only calls for which it is true.
        code: error code of ``ERROR`` and ``ERROR_IN_200``.
        status: HTTP status of ``ERROR``; that of the code by default.
        retry_after: the value of ``Retry-After`` of ``ERROR``.
        seconds: of ``SLOW`` and ``SKEW``.
        after_bytes: of ``Moment.BODY``.
        count: of ``STALE_PARTS``.

    Raises:
        ValueError: the kind cannot have that moment, or a number is out of range.
    """

    kind: Kind
    operation: str = "*"
    moment: Moment = Moment.BEFORE
    nth: int = 1
    times: int | None = 1
    key: str | None = None
    part_number: int | None = None
    predicate: Callable[[CallInfo], bool] | None = None
    code: str = "InternalError"
    status: int | None = None
    retry_after: str | None = None
    seconds: float = 0.0
    after_bytes: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.moment not in KINDS[self.kind]:
            moments = ", ".join(sorted(KINDS[self.kind]))
            raise ValueError(f"a fault {self.kind.value!r} can have the moments {moments}, not {self.moment.value!r}")
        if self.nth < 1 or (self.times is not None and self.times < 1) or self.count < 1 or self.after_bytes < 0:
            raise ValueError("nth, times and count are at least 1, after_bytes at least 0")
        if not math.isfinite(self.seconds) or (self.kind is Kind.SLOW and self.seconds < 0):
            raise ValueError("seconds must be finite, and not negative for 'slow'")


@dataclass(slots=True, eq=False)
class ArmedFault:
    """An armed fault. ``seen`` counts matching calls, ``hits`` those to which it was applied."""

    number: int
    fault: Fault
    seen: int = 0
    hits: int = 0
    disarmed: trio.Event = field(default_factory=trio.Event)

    def applies_to(self, info: CallInfo) -> bool:
        """Count a call; return whether the fault applies to it."""
        fault = self.fault
        if fault.operation not in ("*", info.operation):
            return False
        if fault.key not in (None, info.key) or fault.part_number not in (None, info.part_number):
            return False
        if fault.predicate is not None and not fault.predicate(info):
            return False
        self.seen += 1
        return self.seen >= fault.nth and (fault.times is None or self.seen < fault.nth + fault.times)


class FaultTable:
    """The armed faults."""

    def __init__(self) -> None:
        self._armed: dict[int, ArmedFault] = {}
        self._numbers = itertools.count(1)

    def arm(self, fault: Fault) -> ArmedFault:
        """Arm a fault."""
        armed = ArmedFault(next(self._numbers), fault)
        self._armed[armed.number] = armed
        return armed

    def disarm(self, armed: ArmedFault) -> None:
        """Disarm a fault; connections that it froze are dropped."""
        self._armed.pop(armed.number, None)
        armed.disarmed.set()

    def clear(self) -> None:
        """Disarm all faults."""
        for armed in list(self._armed.values()):
            self.disarm(armed)

    def armed(self) -> list[ArmedFault]:
        """Return the armed faults, oldest first."""
        return list(self._armed.values())

    def of_call(self, info: CallInfo) -> CallFaults:
        """Return the faults of one call that begins now."""
        return CallFaults([armed for armed in self._armed.values() if armed.applies_to(info)])


class CallFaults:
    """The faults of one call."""

    def __init__(self, armed: list[ArmedFault]) -> None:
        self._armed = armed
        self.applied: list[str] = []

    def find(self, kind: Kind) -> Fault | None:
        """Return the fault of that kind, if any, and count a hit."""
        for armed in self._armed:
            if armed.fault.kind is kind:
                self._count(armed)
                return armed.fault
        return None

    async def at(self, moment: Moment) -> None:
        """Apply the faults of this moment.

        Raises:
            S3Error: the response.
            ConnectionDropped: there is no response.
        """
        for armed in self._armed:
            if armed.fault.moment is moment:
                await self._apply(armed)

    async def while_receiving(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Yield the body, and apply the faults that occur while it arrives.

        Raises:
            S3Error: the response.
            ConnectionDropped: there is no response.
        """
        waiting = sorted(
            (armed for armed in self._armed if armed.fault.moment is Moment.BODY),
            key=lambda armed: armed.fault.after_bytes,
        )
        seen = 0
        async with aclosing(body) as blocks:
            async for block in blocks:
                while waiting and seen + len(block) >= waiting[0].fault.after_bytes:
                    await self._apply(waiting.pop(0))
                seen += len(block)
                yield block

    def truncates_reply(self) -> bool:
        """Return whether to truncate the reply, and count a hit."""
        return self.find(Kind.TRUNCATE) is not None

    def drops_after_reply(self) -> bool:
        """Return whether to drop the connection after the reply, and count a hit."""
        for armed in self._armed:
            if armed.fault.moment is Moment.AFTER:
                self._count(armed)
                return True
        return False

    async def _apply(self, armed: ArmedFault) -> None:
        fault = armed.fault
        if fault.kind is Kind.ERROR:
            self._count(armed)
            headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            raise S3Error(fault.code, status=fault.status, headers=headers)
        if fault.kind is Kind.ERROR_IN_200:
            self._count(armed)
            raise S3Error(fault.code, status=200)
        if fault.kind is Kind.RESET:
            self._count(armed)
            raise ConnectionDropped(f"fault {armed.number}")
        if fault.kind is Kind.FREEZE:
            self._count(armed)
            await armed.disarmed.wait()
            raise ConnectionDropped(f"fault {armed.number}, disarmed")
        if fault.kind is Kind.SLOW:
            self._count(armed)
            await trio.sleep(fault.seconds)

    def _count(self, armed: ArmedFault) -> None:
        armed.hits += 1
        self.applied.append(f"{armed.number}:{armed.fault.kind.value}@{armed.fault.moment.value}")
