"""What should be in S3 and is not getting there, since when, and why: one judgement for everybody who tells it. Pure.

Promise P10: while bytes that should be in S3 are not getting there for longer than a minute, ``/readyz``, the metrics,
``status``, the status page and ``doctor`` say so, and why; otherwise none of them does. So each of them shows what
:func:`find_risks` says, and none judges by itself.

What is no risk: a part that is not full yet while its recording is written, however slowly; an upload that moves,
however slowly; a stream that waits for its turn while others move (``MAX_UPLOAD_RATE``, slots); an upload that a person
gave up; a daemon that leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

PATIENCE_SECONDS: Final = 60.0
"""How long something may stand still before it is told. The ``minute`` of P10."""
_COMPLETING: Final = 5
"""So many times longer S3 may take to put the parts of a large object together: all bytes are there by then."""


class Reason(StrEnum):
    """Why bytes are not getting to S3: the label ``reason`` of the gauges."""

    S3_DOWN = "s3_down"
    REDIS_DOWN = "redis_down"
    NOT_MOVING = "not_moving"
    NOT_LOOKED_UP = "not_looked_up"
    FAILED = "failed"
    FILE_UNREADABLE = "file_unreadable"
    MOUNT_HUNG = "mount_hung"
    RECORD_UNREADABLE = "record_unreadable"
    FOLDER_UNREADABLE = "folder_unreadable"
    FOLDER_LOST = "folder_lost"


SENTENCES: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.S3_DOWN: "S3 cannot be reached, or refuses everything",
        Reason.REDIS_DOWN: "Redis cannot be reached, or takes no writes",
        Reason.NOT_MOVING: "uploads stand still",
        Reason.NOT_LOOKED_UP: "new files wait: Redis or S3 cannot be asked about them",
        Reason.FAILED: "uploads failed for good, and their files are still here; `cef-trio retry` brings them back",
        Reason.FILE_UNREADABLE: "recordings cannot be read: the file system refuses",
        Reason.MOUNT_HUNG: "a mount does not answer, so recordings on it are neither read nor seen",
        Reason.RECORD_UNREADABLE: "records in Redis cannot be read; `cef-trio doctor` names them",
        Reason.FOLDER_UNREADABLE: "folders cannot be read, so recordings in them are not seen",
        Reason.FOLDER_LOST: "the watch folder cannot be read, so recordings are not seen",
    }
)
"""Without any name of a file: ``/readyz`` answers everybody."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Bytes that wait since a moment, and what is known of why."""

    since: float
    size_bytes: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A stream whose task has something to do."""

    moved_at: float
    size_bytes: int
    """What S3 does not have; of a recording that has ended, all of it, since there is no object yet."""
    lags: bool
    """Whether bytes wait; false: only Complete or the metadata does."""
    queues: bool
    """Whether it may be waiting for its turn: for a slot, or under ``MAX_UPLOAD_RATE``."""
    trouble: str | None
    """The error of its last attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is judged. Times are of one clock, in seconds."""

    outages: Mapping[Reason, Waiting]
    uploads: tuple[Upload, ...] = ()
    last_moved_at: float = -float("inf")
    """When anything moved last, in any stream."""
    not_looked_up: tuple[Waiting, ...] = ()
    failed: tuple[Waiting, ...] = ()
    unreadable_files: tuple[Waiting, ...] = ()
    """Not among ``uploads``: they are told as what they are, whatever else is down."""
    hung_mounts: tuple[Waiting, ...] = ()
    """The mounts that do not answer, and the streams that wait for them; those are not among ``unreadable_files``."""
    unreadable_records: tuple[Waiting, ...] = ()
    unreadable_folders: tuple[Waiting, ...] = ()
    folder_lost: Waiting | None = None


@dataclass(frozen=True, slots=True)
class Risk:
    """One reason, with all that it holds back."""

    reason: Reason
    since: float
    size_bytes: int
    """0 where it is not known how many bytes it holds back."""
    recordings: int
    why: str
    """In words, for a person: it may name files."""


def describe_amount(risk: Risk) -> str:
    """How much is held back, in words."""
    if not risk.recordings:
        return "at risk"
    recordings = "1 recording does" if risk.recordings == 1 else f"{risk.recordings} recordings do"
    return f"{risk.size_bytes} bytes of {recordings} not get to S3"


def find_risks(facts: Facts, now: float, *, patience_seconds: float | None = None) -> tuple[Risk, ...]:
    """What is at risk now, one entry a reason, in the order of :class:`Reason`."""
    patience = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
    still = [one for one in facts.uploads if _stands_still(one, facts, now, patience)]
    found: dict[Reason, list[Waiting]] = {reason: [] for reason in Reason}
    down = [reason for reason, outage in facts.outages.items() if now - outage.since > patience]
    for reason in down:
        found[reason].append(Waiting(facts.outages[reason].since, 0, facts.outages[reason].why))
    held_by = down[0] if down else Reason.NOT_MOVING
    found[held_by] += [Waiting(one.moved_at, one.size_bytes, one.trouble or "") for one in still]
    found[down[0] if down else Reason.NOT_LOOKED_UP] += _late(facts.not_looked_up, now, patience)
    found[Reason.FAILED] += _late(facts.failed, now, patience)
    found[Reason.FILE_UNREADABLE] += _late(facts.unreadable_files, now, patience)
    found[Reason.MOUNT_HUNG] += _late(facts.hung_mounts, now, patience)
    found[Reason.RECORD_UNREADABLE] += _late(facts.unreadable_records, now, patience)
    found[Reason.FOLDER_UNREADABLE] += _late(facts.unreadable_folders, now, patience)
    if facts.folder_lost is not None:
        found[Reason.FOLDER_LOST] += _late([facts.folder_lost], now, patience)
    return tuple(_risk(reason, waiting) for reason, waiting in found.items() if waiting)


def _stands_still(one: Upload, facts: Facts, now: float, patience: float) -> bool:
    allowed = patience if one.lags or one.trouble is not None else patience * _COMPLETING
    if now - one.moved_at <= allowed:
        return False
    others_move = now - facts.last_moved_at <= patience
    return not (one.queues and one.trouble is None and others_move)


def _late(waiting: Iterable[Waiting], now: float, patience: float) -> list[Waiting]:
    return [one for one in waiting if now - one.since > patience]


def _risk(reason: Reason, waiting: list[Waiting]) -> Risk:
    first = min(waiting, key=lambda one: one.since)
    why = next((one.why for one in sorted(waiting, key=lambda one: one.since) if one.why), "")
    return Risk(
        reason,
        first.since,
        sum(one.size_bytes for one in waiting),
        sum(one.size_bytes > 0 for one in waiting),
        f"{SENTENCES[reason]}: {why}" if why else SENTENCES[reason],
    )
