"""Faults that can be switched on: what goes wrong, in which call, at which moment. With counts of their hits.

A ``Fault`` says which calls it is for (operation, key, part number, a predicate; the nth of them) and what happens: at
which ``Moment``, of which ``Kind``. ``KINDS`` tells which kinds make sense at which moments; others are refused, so
that a test cannot switch on a fault that never happens. ``ArmedFault.hits`` counts how often it was applied.

The faults are those of real stores and networks: a reply lost after the effect, a Complete that answers 200 with an
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


class ConnectionDropped(Exception):  # noqa: N818 - what happens, not what went wrong
    """The transport must drop the connection without a word."""


class Moment(StrEnum):
    """When a fault is applied."""

    BEFORE = "before"
    """Before the call has any effect; its body has not been read."""
    BODY = "body"
    """While the request's body arrives, after ``after_bytes`` of it. No effect yet."""
    REPLY = "reply"
    """After the effect, before the reply: the lost reply."""
    AFTER = "after"
    """After the reply was sent whole."""


class Kind(StrEnum):
    """What happens."""

    ERROR = "error"
    """S3 answers ``code`` with ``status``, and ``Retry-After`` if ``retry_after`` is given."""
    RESET = "reset"
    """The connection is reset."""
    FREEZE = "freeze"
    """Nothing ever comes, until the fault is disarmed (then the connection is dropped)."""
    SLOW = "slow"
    """``seconds`` pass."""
    TRUNCATE = "truncate"
    """Half of the reply's body comes, then the connection is dropped."""
    ERROR_IN_200 = "error-in-200"
    """Status 200 with an ``<Error>`` body of ``code``; what CompleteMultipartUpload is known for."""
    EMPTY_ETAG = "empty-etag"
    """CompleteMultipartUpload answers with an empty ``<ETag/>``, as Ceph does."""
    IGNORE_CHECKSUMS = "ignore-checksums"
    """The store ignores ``x-amz-checksum-*``: not verified, not kept, not returned."""
    REJECT_CHECKSUMS = "reject-checksums"
    """The store answers 400 to every request that carries such a header."""
    STALE_PARTS = "stale-parts"
    """ListParts leaves out the newest ``count`` parts."""
    DAMAGE = "damage"
    """The store damages a body after it has compared it, and answers with the checksums of what it then has."""
    SKEW = "skew"
    """The store's clock is off by ``seconds``: in what it checks and in its ``Date``."""


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
"""Which moments each kind can have. Those with ``BEFORE`` alone change how the whole call is treated."""


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What a fault may choose its calls by."""

    operation: str
    bucket: str | None
    key: str | None
    upload_id: str | None
    part_number: int | None


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault to switch on.

    Args:
        kind: what happens.
        operation: S3's name of the call (``UploadPart``), or ``*`` for every one.
        moment: when.
        nth: the first matching call it strikes, counted from 1 since it was armed.
        times: how many matching calls it strikes from there on; ``None``: all.
        key: only calls on this key.
        part_number: only calls on this part.
        predicate: only calls it is true of.
        code: error code of ``ERROR`` and ``ERROR_IN_200``.
        status: status of ``ERROR``; that of the code by default.
        retry_after: ``Retry-After`` of ``ERROR``, as it is to stand there.
        seconds: of ``SLOW`` and ``SKEW``.
        after_bytes: of ``Moment.BODY``.
        count: of ``STALE_PARTS``.

    Raises:
        ValueError: kind and moment do not go together, or a number is out of range.
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
    """A fault that is switched on. ``seen`` counts matching calls, ``hits`` those to which it was applied."""

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
    """The faults that are switched on."""

    def __init__(self) -> None:
        self._armed: dict[int, ArmedFault] = {}
        self._numbers = itertools.count(1)

    def arm(self, fault: Fault) -> ArmedFault:
        """Switch a fault on."""
        armed = ArmedFault(next(self._numbers), fault)
        self._armed[armed.number] = armed
        return armed

    def disarm(self, armed: ArmedFault) -> None:
        """Switch a fault off; connections that it froze are dropped."""
        self._armed.pop(armed.number, None)
        armed.disarmed.set()

    def clear(self) -> None:
        """Switch every fault off."""
        for armed in list(self._armed.values()):
            self.disarm(armed)

    def armed(self) -> list[ArmedFault]:
        """What is switched on, oldest first."""
        return list(self._armed.values())

    def of_call(self, info: CallInfo) -> CallFaults:
        """The faults of one call that begins now."""
        return CallFaults([armed for armed in self._armed.values() if armed.applies_to(info)])


class CallFaults:
    """The faults of one call."""

    def __init__(self, armed: list[ArmedFault]) -> None:
        self._armed = armed
        self.applied: list[str] = []

    def find(self, kind: Kind) -> Fault | None:
        """The fault of that kind that changes how the call is treated; counted as a hit."""
        for armed in self._armed:
            if armed.fault.kind is kind:
                self._count(armed)
                return armed.fault
        return None

    async def at(self, moment: Moment) -> None:
        """Apply the faults of this moment.

        Raises:
            S3Error: this is to be answered.
            ConnectionDropped: nothing is to be answered.
        """
        for armed in self._armed:
            if armed.fault.moment is moment:
                await self._apply(armed)

    async def while_receiving(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The body, with what happens while it arrives.

        Raises:
            S3Error: this is to be answered.
            ConnectionDropped: nothing is to be answered.
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
        """Whether the reply is to be truncated; counted as a hit."""
        return self.find(Kind.TRUNCATE) is not None

    def drops_after_reply(self) -> bool:
        """Whether the connection is to be dropped after the reply; counted as a hit."""
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
