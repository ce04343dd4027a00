"""``cef-trio verify --all``: read every object again, slowly, the one that was verified the longest ago first.

The time of each verification is recorded in Redis, so a run that was interrupted, or bounded by ``--limit`` or
``--for``, is continued by the next one. A mismatch stays on record until the object is verified again, or its stream is
forgotten: the daemon's metrics, ``status`` and ``doctor`` show it, and the exit code is 5. Only objects are read, no
recordings. Nothing but these records is changed.

An object that was begun, and not read to its end when the time was over, is the first of the next run. If all the time
of a run does not suffice for it, it comes after all others, which it would else keep from being read for ever. A run
that finds no object as recorded, though there are some, has exit code 5 too.

An object that S3 refuses to give (its KMS key is gone, a policy) is a mismatch too, once another one was read after it,
and the run goes on. Until then the credentials may be at fault: where all are refused, the run ends with the error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import trio

from cef_trio.checkpoint import (
    FIRST_TURN,
    Checkpoint,
    Status,
    StreamMeta,
    StreamSet,
    VerificationTotals,
    Verified,
    turn_of,
)
from cef_trio.cli import output
from cef_trio.cli.object_check import NOT_READ, Comparison, is_proven
from cef_trio.cli.result_lines import Report
from cef_trio.cli.session import CommandContext
from cef_trio.exceptions import RecordUnreadableError, S3OperationError
from cef_trio.exit_codes import ExitCode

LEAST_RATE: Final = 64 << 10
"""Bytes per second: S3 closes a connection from which nothing is read for long."""
_TOTALS_SECONDS: Final = 5.0
"""How often the totals in Redis are computed anew; at once after a mismatch, and at the end."""
_MOST_REASON: Final = 300
_MOST_REFUSED: Final = 20
"""After so many refusals, one after the other, S3 refuses everything."""


class Outcome(Enum):
    """What a verification showed."""

    IDENTICAL = "identical"
    UNPROVEN = "unproven"
    """It was read, and nothing on record has a checksum."""
    MISMATCH = "mismatch"
    SKIPPED = "skipped"
    """It was not read: it is in an archive class or in another bucket, its record has changed meanwhile, or it is too
    large for the run's rate and time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one run does; ``None``: no bound."""

    bytes_per_second: int | None = None
    objects: int | None = None
    seconds: float | None = None

    def why_too_large(self, size_bytes: int | None) -> str | None:
        """Return why an object of this size can never be read to its end within one run; ``None`` if it can."""
        if self.bytes_per_second is None or self.seconds is None:
            return None
        needed = (size_bytes or 0) / self.bytes_per_second
        if needed <= self.seconds:
            return None
        return f"not read: its {output.size(size_bytes)} need {output.duration(needed)} at --rate, more than --for"


class Pace:
    """Delays reading, so that it does not exceed a rate."""

    def __init__(self, bytes_per_second: int | None = None) -> None:
        self._rate = bytes_per_second
        self._due = 0.0

    async def wait_after(self, size_bytes: int) -> None:
        """Wait until the rate allows to go on after this many bytes."""
        if self._rate is not None:
            self._due = max(self._due, trio.current_time()) + size_bytes / self._rate
            await trio.sleep_until(self._due)


Compare = Callable[[Checkpoint, Pace], Awaitable[Sequence[Comparison]]]
"""Reads an object, and compares it with everything on record but the recording."""


def in_turn(stream_ids: Iterable[str], known: Mapping[str, Verified]) -> list[str]:
    """Return the streams in the order of their last verification, those that were never verified first. Pure."""
    return sorted(stream_ids, key=lambda one: (turn_of(known.get(one)), one))


def outcome_of(comparisons: Sequence[Comparison]) -> Outcome:
    """Return what the comparisons of one object show. Pure."""
    if any(one.name == NOT_READ for one in comparisons):
        return Outcome.SKIPPED
    if any(one.agrees is False for one in comparisons):
        return Outcome.MISMATCH
    return Outcome.IDENTICAL if is_proven(comparisons) else Outcome.UNPROVEN


async def verify_every(context: CommandContext, compare: Compare, bounds: Bounds, *, as_json: bool) -> ExitCode:
    """Verify the objects of all completed streams, within the bounds.

    ``ANSWER_IS_NO`` if one is not as recorded, or if there are objects and this run found none that is. Mismatches of
    earlier runs that this one did not come to count too.

    Raises:
        S3OperationError: S3 is unavailable, or refuses everything; what was verified is recorded.
        RedisOperationError: Redis cannot be read or written.
    """
    known = await context.verifications.known() if context.verifications is not None else {}
    completed = await context.store.members(StreamSet.COMPLETED)
    if gone := known.keys() - completed:
        known = {stream_id: one for stream_id, one in known.items() if stream_id in completed}
        if context.verifications is not None:
            await context.verifications.forget(gone)
    due = in_turn(completed, known)
    with Report(as_json=as_json, completed=len(completed), bounded=False, counts={}, mismatched=[]) as report:
        run = _Run(context, compare, bounds, known, report)
        deadline = trio.current_time() + (float("inf") if bounds.seconds is None else bounds.seconds)
        with output.ProgressLine("object", len(due), quiet=as_json) as progress:
            for number, stream_id in enumerate(due, 1):
                if run.asked == bounds.objects:
                    break
                progress.show(number)
                with trio.move_on_at(deadline) as scope:  # what was read by then is recorded after it
                    found = await run.verify(stream_id)
                progress.erase()
                if scope.cancelled_caught:
                    await run.out_of_time()
                    break
                for outcome in found:
                    await run.conclude(*outcome)
        run.end()
        await _record(context, None, known, with_totals=True)
        counts = run.counts
        report.about["bounded"] = sum(counts.values()) < len(due)
        mismatched = sorted(stream_id for stream_id, one in known.items() if one.mismatch)
        report.about["mismatched"] = mismatched
        done = output.count(counts[Outcome.IDENTICAL], "object")
        report.remark(
            f"{done} identical, {counts[Outcome.MISMATCH]} not as recorded, {counts[Outcome.UNPROVEN]} not proven, "
            f"{counts[Outcome.SKIPPED]} skipped; of {output.count(len(completed), 'object')}"
        )
        if mismatched:
            report.remark(f"NOT as recorded when last read: {', '.join(map(output.short_id, mismatched))}")
    none_is_proven = due and not counts[Outcome.IDENTICAL]
    return ExitCode.ANSWER_IS_NO if mismatched or run.refused or none_is_proven else ExitCode.DONE


class _Run:
    """One run: what it has found, and records."""

    def __init__(
        self, context: CommandContext, compare: Compare, bounds: Bounds, known: dict[str, Verified], report: Report
    ) -> None:
        self._context, self._compare, self._bounds, self._known, self._report = context, compare, bounds, known, report
        self._pace = Pace(bounds.bytes_per_second)
        self._totals_at = 0.0
        self._begun: StreamMeta | None = None
        """The object that was asked for last."""
        self.counts = dict.fromkeys(Outcome, 0)
        self.refused: dict[str, S3OperationError] = {}
        """Held back until an object was read after them: S3 may refuse all from then on."""

    @property
    def _read(self) -> int:
        """How many objects were read to their end."""
        return sum(self.counts.values()) - self.counts[Outcome.SKIPPED]

    @property
    def asked(self) -> int:
        """How many objects S3 gave or refused.

        Those that were skipped do not count: they stay first in turn, and would take the place of others in every run.
        """
        return self._read + len(self.refused)

    async def verify(self, stream_id: str) -> list[tuple[str, Outcome, str]]:
        """Verify one object; return what is known now: nothing yet, or of this one and those held back.

        Raises:
            S3OperationError: S3 is unavailable, or refuses everything.
        """
        try:
            outcome, says = await self._verify(stream_id)
        except S3OperationError as error:
            if error.transient or error.status is None or len(self.refused) == _MOST_REFUSED:
                raise
            self.refused[stream_id] = error
            return []
        held = {} if outcome is Outcome.SKIPPED else self.refused
        found = [(one, Outcome.MISMATCH, f"cannot be read: {error}") for one, error in held.items()]
        held.clear()
        return [*found, (stream_id, outcome, says)]

    async def _verify(self, stream_id: str) -> tuple[Outcome, str]:
        """Verify one object; return what that shows, and why."""
        context = self._context
        self._begun = None
        try:
            before = await context.store.load(stream_id)
            if before is None or before.meta.status is not Status.COMPLETED:
                return Outcome.SKIPPED, "its stream is not completed any more"
            if too_large := self._bounds.why_too_large(before.meta.verified_size_bytes):
                return Outcome.SKIPPED, too_large
            self._begun = before.meta
            comparisons = await self._compare(before, self._pace)
            outcome = outcome_of(comparisons)
            if (
                outcome is Outcome.MISMATCH
            ):  # a later version, or `gc --superseded`, may have replaced the object meanwhile
                after = await context.store.load(stream_id)
                if after is None or after.meta != before.meta:
                    return Outcome.SKIPPED, "its record has changed meanwhile"
        except RecordUnreadableError as error:
            return Outcome.SKIPPED, str(error)
        wanted = [one for one in comparisons if one.agrees is False] or list(comparisons)
        where = f"{before.meta.s3_bucket}/{before.meta.s3_key_prefix}"
        return outcome, f"{where}: {'; '.join(map(str, wanted))}"

    async def out_of_time(self) -> None:
        """Record the turn of the object that was begun and not read to its end, if any."""
        if self._begun is None:
            return
        meta, had_all_the_time = self._begun, not self._read
        turn = self._now_ms() if had_all_the_time else FIRST_TURN
        self._known[meta.stream_id] = replace(self._known.get(meta.stream_id, Verified(0)), turn_ms=turn)
        await _record(self._context, meta.stream_id, self._known, with_totals=False)
        if had_all_the_time:
            says = f"{output.size(meta.verified_size_bytes)} need longer than --for; the others are read before it now"
            self._report.add(meta.stream_id, f"not read to its end: its {says}", ok=False)

    def end(self) -> None:
        """Report the objects that are still held back.

        Raises:
            S3OperationError: nothing was read.
        """
        for stream_id, error in self.refused.items():
            if not self._read:
                raise error
            self._report.add(stream_id, f"cannot be read: {error}", ok=False)

    async def conclude(self, stream_id: str, outcome: Outcome, says: str) -> None:
        """Count, record and report what an object showed."""
        self.counts[outcome] += 1
        self._report.about["counts"] = {one.value: count for one, count in self.counts.items()}
        if outcome is not Outcome.SKIPPED:
            wrong = says[:_MOST_REASON] if outcome is Outcome.MISMATCH else ""
            self._known[stream_id] = Verified(self._now_ms(), wrong)
            is_due = bool(wrong) or trio.current_time() - self._totals_at >= _TOTALS_SECONDS
            self._totals_at = trio.current_time() if is_due else self._totals_at
            await _record(self._context, stream_id, self._known, with_totals=is_due)
        if outcome is not Outcome.IDENTICAL:
            self._report.add(stream_id, f"{outcome.value}: {says}", ok=outcome is not Outcome.MISMATCH)

    def _now_ms(self) -> int:
        return int(self._context.utc_now().timestamp() * 1000)


async def _record(
    context: CommandContext, stream_id: str | None, known: Mapping[str, Verified], *, with_totals: bool
) -> None:
    verifications = context.verifications
    if verifications is not None and stream_id is not None:
        await verifications.record(stream_id, known[stream_id])
    if verifications is not None and with_totals:
        await verifications.set_totals(VerificationTotals.of(known))
