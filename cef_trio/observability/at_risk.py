"""Finds bytes that should be in S3 and make no progress, since when, and why. Pure.

Promise P10: if bytes that should be in S3 make no progress for more than a minute, ``/readyz``, the metrics,
``status``, the status page and ``doctor`` show it with a reason; otherwise none of them does. All of them show the
result of :func:`find_risks`. ``upload/risks.py`` gathers its input.

No risk are: a part that is not full yet while its recording is written; an upload that progresses, however slowly; a
stream that waits for its turn (``MAX_UPLOAD_RATE``, slots) while others progress; an upload that the operator aborted;
a daemon that shuts down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

PATIENCE_SECONDS: Final = 60.0
"""How long something may stall before it is a risk: the minute of P10."""
_COMPLETE_FACTOR: Final = 5
"""Factor on the patience while S3 completes a large object; all bytes are uploaded by then."""


class Reason(StrEnum):
    """Why bytes do not reach S3: the label ``risk`` of the gauges."""

    S3_DOWN = "s3_down"
    REDIS_DOWN = "redis_down"
    NOT_MOVING = "not_moving"
    NOT_LOOKED_UP = "not_looked_up"
    FAILED = "failed"
    FILE_UNREADABLE = "file_unreadable"
    MOUNT_HUNG = "mount_hung"
    RECORD_UNREADABLE = "record_unreadable"
    RECORD_NEWER = "record_newer"
    FOLDER_UNREADABLE = "folder_unreadable"
    FOLDER_LOST = "folder_lost"
    NOT_STARTED = "not_started"
    DISK_SHORT = "disk_short"


SENTENCES: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.S3_DOWN: "S3 cannot be reached, or refuses everything",
        Reason.REDIS_DOWN: "Redis cannot be reached, or takes no writes",
        Reason.NOT_MOVING: "uploads stand still",
        Reason.NOT_LOOKED_UP: "new files wait: they cannot be looked up in Redis or S3",
        Reason.FAILED: "uploads failed for good, and their files are still here; `cef-trio retry` retries them",
        Reason.FILE_UNREADABLE: "recordings cannot be read: the file system refuses",
        Reason.MOUNT_HUNG: "a mount does not answer, so recordings on it are neither read nor seen",
        Reason.RECORD_UNREADABLE: "records in Redis cannot be read; `cef-trio doctor` names them",
        Reason.RECORD_NEWER: "records in Redis are of a newer version, and no daemon works on them: upgrade this one",
        Reason.FOLDER_UNREADABLE: "folders cannot be read, so recordings in them are not seen",
        Reason.FOLDER_LOST: "the watch folder cannot be read, so recordings are not seen",
        Reason.NOT_STARTED: "the daemon waits before it begins, so recordings are not seen",
        Reason.DISK_SHORT: "less than MIN_FREE_SPACE is free, and nothing more may be deleted: the disk will fill up",
    }
)
"""No file names, since ``/readyz`` is public."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Bytes that wait, since when, and why if known."""

    since: float
    size_bytes: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadProgress:
    """A stream whose task has work to do."""

    last_progress_at: float
    size_bytes: int
    """Bytes not in S3; for a recording that has ended, its whole size, since there is no object yet."""
    lags: bool
    """Whether bytes wait; false if only Complete or the metadata is missing."""
    queues: bool
    """Whether it may be waiting for a slot or for ``MAX_UPLOAD_RATE``."""
    trouble: str | None
    """Error of its last attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Input of :func:`find_risks`. Times are seconds of one clock."""

    outages: Mapping[Reason, Waiting]
    uploads: tuple[UploadProgress, ...] = ()
    last_progress_at: float = -float("inf")
    """Last progress of any stream."""
    not_looked_up: tuple[Waiting, ...] = ()
    failed: tuple[Waiting, ...] = ()
    unreadable_files: tuple[Waiting, ...] = ()
    """Not in ``uploads``: reported even during an outage."""
    hung_mounts: tuple[Waiting, ...] = ()
    """Mounts that do not respond, and streams that wait for them (not in ``unreadable_files``)."""
    unreadable_records: tuple[Waiting, ...] = ()
    newer_records: tuple[Waiting, ...] = ()
    unreadable_folders: tuple[Waiting, ...] = ()
    folder_lost: Waiting | None = None
    not_started: Waiting | None = None
    """Of a start that waits for the owner's name, or for streams of an earlier version."""
    disk_short: tuple[Waiting, ...] = ()
    """Disks with less than ``MIN_FREE_SPACE``, where no recording may be deleted."""


@dataclass(frozen=True, slots=True)
class Risk:
    """One reason and the bytes it affects."""

    reason: Reason
    since: float
    size_bytes: int
    """0 if unknown."""
    recordings: int
    why: str
    """Explanation for the operator; may name files."""


def describe_amount(risk: Risk) -> str:
    """Describe how many bytes and recordings are affected."""
    if not risk.recordings:
        return "at risk"
    recordings = "1 recording does" if risk.recordings == 1 else f"{risk.recordings} recordings do"
    return f"{risk.size_bytes} bytes of {recordings} not get to S3"


def find_risks(facts: Facts, now: float) -> tuple[Risk, ...]:
    """Return the current risks, one per reason, in the order of :class:`Reason`."""
    stalled = [one for one in facts.uploads if _is_stalled(one, facts, now)]
    found: dict[Reason, list[Waiting]] = {reason: [] for reason in Reason}
    down = [reason for reason, outage in facts.outages.items() if now - outage.since > PATIENCE_SECONDS]
    for reason in down:
        found[reason].append(Waiting(facts.outages[reason].since, 0, facts.outages[reason].why))
    upload_reason = down[0] if down else Reason.NOT_MOVING
    found[upload_reason] += [Waiting(one.last_progress_at, one.size_bytes, one.trouble or "") for one in stalled]
    found[down[0] if down else Reason.NOT_LOOKED_UP] += _overdue(facts.not_looked_up, now)
    found[Reason.FAILED] += _overdue(facts.failed, now)
    found[Reason.FILE_UNREADABLE] += _overdue(facts.unreadable_files, now)
    found[Reason.MOUNT_HUNG] += _overdue(facts.hung_mounts, now)
    found[Reason.RECORD_UNREADABLE] += _overdue(facts.unreadable_records, now)
    found[Reason.RECORD_NEWER] += _overdue(facts.newer_records, now)
    found[Reason.FOLDER_UNREADABLE] += _overdue(facts.unreadable_folders, now)
    if facts.folder_lost is not None:
        found[Reason.FOLDER_LOST] += _overdue([facts.folder_lost], now)
    if facts.not_started is not None:
        found[Reason.NOT_STARTED] += _overdue([facts.not_started], now)
    found[Reason.DISK_SHORT] += _overdue(facts.disk_short, now)
    return tuple(_risk(reason, waiting) for reason, waiting in found.items() if waiting)


def _is_stalled(one: UploadProgress, facts: Facts, now: float) -> bool:
    allowed = PATIENCE_SECONDS * (1 if one.lags or one.trouble is not None else _COMPLETE_FACTOR)
    if now - one.last_progress_at <= allowed:
        return False
    others_move = now - facts.last_progress_at <= PATIENCE_SECONDS
    return not (one.queues and one.trouble is None and others_move)


def _overdue(waiting: Iterable[Waiting], now: float) -> list[Waiting]:
    return [one for one in waiting if now - one.since > PATIENCE_SECONDS]


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
