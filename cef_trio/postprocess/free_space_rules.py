"""``MIN_FREE_SPACE``: when the disk is short of space, which recordings go, and when to stop. Pure.

The oldest completed recordings go first, and no more than as many as are missing. Deleting need not free anything:
other names of a file (hard links), a snapshot (btrfs, zfs) or a program that has it open keep its bytes. And some file
systems free them only seconds later. So the free space is measured after each deletion, and a :class:`Round` stops

- when enough is free, or the deleted recordings occupied as much as was missing when the round began;
- after one recording, unless an earlier round has shown that deleting frees space there (``proven``);
- after three recordings in a row that S3 refused. They wait for their next try, so the next round takes others.

A round counts as successful if the free space rose by half of what was deleted, from its lowest value since the round
began: what is written meanwhile lowers it. After a failed round nothing more is deleted there for ``FUTILE_SECONDS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cef_trio.checkpoint import FileIdentity
from cef_trio.settings import MOST_WANTED_PERCENT, MinFreeSpace

PERIOD_SECONDS: Final = 10.0
"""How often the free space is measured."""
MOST_PER_ROUND: Final = 100
"""How many recordings one round may look at."""
MOST_REFUSALS: Final = 3
"""How many S3 may refuse one after another before the round ends: it may refuse all, and each call is repeated."""
SETTLE_SECONDS: Final = 40.0
"""How long a file system may take to free what was deleted: btrfs does it with its next commit, after 30 s at most."""
FUTILE_SECONDS: Final = 3600.0
"""The pause after a round that freed nothing."""
_MAX_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class KeptRecording:
    """A completed recording that stays for now."""

    path: str
    stream_id: str
    completed_at: float
    """Unix time."""
    identity: FileIdentity
    again_at: float = float("-inf")
    """``trio.current_time()`` from when it may be tried again, after a failure."""
    failures: int = 0
    refusal: str = ""
    """Why the last try failed; empty: there was none."""


class SpaceState(StrEnum):
    """Whether a file system has the free space that is wanted."""

    ENOUGH = "enough"
    SHORT = "short"
    UNKNOWN = "its file system does not report its size"
    TOO_MUCH_WANTED = "MIN_FREE_SPACE is more than this disk could have free"


def judge_space(rule: MinFreeSpace, total_bytes: int, free_bytes: int) -> tuple[SpaceState, int]:
    """Return the state of a file system, and how many bytes are missing (0 unless it is short).

    More than ``MOST_WANTED_PERCENT`` of its size is never made free: a disk that is too small for the setting, such as
    the system's below an unmounted one, would lose every recording.
    """
    if total_bytes <= 0 or not 0 <= free_bytes <= total_bytes:
        return SpaceState.UNKNOWN, 0
    wanted = rule.wanted_bytes(total_bytes)
    if free_bytes >= wanted:
        return SpaceState.ENOUGH, 0
    if wanted > total_bytes * MOST_WANTED_PERCENT / 100:
        return SpaceState.TOO_MUCH_WANTED, 0
    return SpaceState.SHORT, wanted - free_bytes


def oldest_first(kept: Iterable[KeptRecording], now: float) -> list[KeptRecording]:
    """Return the recordings that may be tried now, those that were completed first at the beginning."""
    return sorted((one for one in kept if one.again_at <= now), key=lambda one: (one.completed_at, one.path))


@dataclass(eq=False, slots=True)
class Round:
    """One round of deletions on a file system. Sizes in bytes."""

    missing_bytes: int
    lowest_free_bytes: int
    """At first what was free when it began."""
    proven: bool
    """Whether deleting has freed space there before."""
    deleted_bytes: int = 0
    """What the deleted recordings occupied."""
    waited_bytes: int = 0
    """What those occupy that must be unchanged for a while first; they are not deleted in this round."""
    looked_at: int = 0
    refusals: int = 0
    """How many S3 refused since it last let one go."""
    any_refused: bool = False
    """Whether a recording could not be checked, or not be deleted."""
    freed: bool = False
    """Whether the free space rose."""

    @property
    def may_go_on(self) -> bool:
        """Whether one more recording may be deleted."""
        if self.looked_at >= MOST_PER_ROUND or self.refusals >= MOST_REFUSALS:
            return False
        if self.deleted_bytes and not (self.proven or self.freed):
            return False
        return self.deleted_bytes + self.waited_bytes < self.missing_bytes

    def deleted(self, size_bytes: int) -> None:
        """Count a recording that was deleted."""
        self.deleted_bytes += size_bytes
        self.refusals = 0

    def refused(self, *, by_s3: bool) -> None:
        """Count a recording that could not be checked, or not be deleted."""
        self.refusals = self.refusals + 1 if by_s3 else 0
        self.any_refused = True

    def measured(self, free_bytes: int) -> None:
        """Take a measurement."""
        self.lowest_free_bytes = min(self.lowest_free_bytes, free_bytes)
        self.freed = 2 * (free_bytes - self.lowest_free_bytes) >= self.deleted_bytes > 0


def why_short(*, obstacle: str, paused: bool, unverified: Sequence[str]) -> str:
    """Return why no more space can be made free, as text for the operator.

    ``obstacle``: what hindered the last round; ``paused``: whether a round freed nothing.
    """
    reason = "no completed recording is left there that may be deleted"
    if obstacle:
        reason = obstacle
    elif paused:
        reason = "deleting recordings frees nothing there (snapshots, hard links, or a program that has them open)"
    if not unverified:
        return reason
    more = f" and {len(unverified) - _MAX_NAMED} more" if len(unverified) > _MAX_NAMED else ""
    return f"{reason}; not in S3 yet: {', '.join(sorted(unverified)[:_MAX_NAMED])}{more}"
