"""Judges whether all is safe: finds bytes that should be in S3 and make no progress, since when, and why. Pure.

Promise P10: if bytes that should be in S3 make no progress for more than a minute, ``/readyz``, the metrics,
``status``, ``fleet``, ``doctor``, ``systemctl status`` and the status page show it with a reason; otherwise none of
them does. All of them show one :class:`Judgement`, so they say the same word and the same number of bytes at the same
moment. ``upload/risks.py`` gathers its input.

No risk are: a part that is not full yet while its recording is written; an upload that progresses, however slowly; a
stream that waits for its turn (``MAX_UPLOAD_RATE``, slots) while others progress; an upload that the operator aborted;
a daemon that shuts down. In an outage of more than a minute all bytes that are only on the disk are at risk, also those
of a part that is not full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from cef_trio.amounts import size

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
    CHECKER_SILENT = "checker_silent"
    DISK_SHORT = "disk_short"


SENTENCES: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.S3_DOWN: "S3 cannot be reached, or refuses everything",
        Reason.REDIS_DOWN: "Redis cannot be reached, or takes no writes",
        Reason.NOT_MOVING: "uploads stand still",
        Reason.NOT_LOOKED_UP: "new files wait: they cannot be looked up in Redis or S3, or compared with their records",
        Reason.FAILED: "uploads failed for good, and their files are still here",
        Reason.FILE_UNREADABLE: "recordings cannot be read: the file system refuses",
        Reason.MOUNT_HUNG: "a mount does not answer, so recordings on it are neither read nor seen",
        Reason.RECORD_UNREADABLE: "records in Redis cannot be read",
        Reason.RECORD_NEWER: "records in Redis are of a newer version, and no daemon works on them",
        Reason.FOLDER_UNREADABLE: "folders or single files cannot be read, so recordings are not seen",
        Reason.FOLDER_LOST: "the watch folder cannot be read, or is another one now, so recordings are not seen",
        Reason.NOT_STARTED: "the daemon waits before it begins, so recordings are not seen",
        Reason.CHECKER_SILENT: "the idle checker hangs, so recordings without a writer are not completed",
        Reason.DISK_SHORT: "less than MIN_FREE_SPACE is free, and nothing more can be deleted: the disk will fill up",
    }
)
"""No file names, since ``/readyz`` is public."""

RISK_ADVICE: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.S3_DOWN: (
            "check the server, its address and the network, or what it refuses: credentials, a permission, a quota, "
            "the bucket; `cef-trio doctor` tries each step"
        ),
        Reason.REDIS_DOWN: (
            "check the server, its address and the network, or what it refuses: its password, ACL, memory, disk; "
            "`cef-trio doctor` tries each step"
        ),
        Reason.NOT_MOVING: (
            "the error names the cause: one key that the store refuses, a quota, a disk that hangs, a lost connection; "
            "the daemon keeps trying"
        ),
        Reason.NOT_LOOKED_UP: "correct what the error names, or the mount that is read slowly; the daemon keeps trying",
        Reason.FAILED: (
            "`cef-trio list --failed` shows what to do about each; then `cef-trio retry`, or `cef-trio forget` for "
            "those that are not needed"
        ),
        Reason.FILE_UNREADABLE: (
            "check the recording's mode, its mount (FUSE shows other users nothing without `allow_other`) and its "
            "disk; the daemon tries again when the file changes and at each scan"
        ),
        Reason.MOUNT_HUNG: (
            "repair the mount's server (a stopped FUSE server, a hard NFS mount), or unmount it; the daemon continues "
            "by itself when it responds or is replaced"
        ),
        Reason.RECORD_UNREADABLE: "`cef-trio doctor` names each key of Redis, and how to repair it",
        Reason.RECORD_NEWER: "upgrade this daemon, or start the newer one again",
        Reason.FOLDER_UNREADABLE: (
            "let the daemon's user read and enter the folder, or leave it out by `WATCH_EXCLUDE`; if it is one of "
            "`WATCH_DIR`, mount it, or leave it out if it is another one by a second name (the event's `same_as`); "
            "for a single file check its disk (`dmesg`)"
        ),
        Reason.FOLDER_LOST: (
            "check the disk or the mount of `WATCH_DIR`; the daemon continues by itself when the folder is back. If "
            "`WATCH_DIR` is a symbolic link that leads elsewhere now, restart the daemon"
        ),
        Reason.NOT_STARTED: (
            "if another running system has the owner's name, stop it, or give one of both an `OWNER_NAME`; if streams "
            "of an earlier version are moved, wait"
        ),
        Reason.CHECKER_SILENT: (
            "look for a disk that hangs (`dmesg`, the mount's server); otherwise restart the daemon, and report it "
            "with its log"
        ),
        Reason.DISK_SHORT: "mend what hinders the deletions, or keeps the named recordings from S3; or make room",
    }
)
"""What to do about each: on the status page, in ``status``, ``doctor``, and in ``docs/operations.md``."""


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
    growing: tuple[Waiting, ...] = ()
    """Streams that wait for their file to grow: what is on the disk is less than a part. A risk only in an outage."""
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
    checker_silent: Waiting | None = None
    """Of an idle checker that missed its rounds; not while it waits for Redis."""
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
    advice: str = field(init=False)
    """What to do: of ``RISK_ADVICE``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "advice", RISK_ADVICE[self.reason])


class State(StrEnum):
    """Whether all is safe, in one word: the same on every signal."""

    READY = "ready"
    """Nothing is at risk, and S3 and Redis are up."""
    STARTING = "starting"
    """The watch folder was not scanned yet."""
    WAITS = "waits"
    """A service is down, for a minute at most."""
    AT_RISK = "at risk"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether all is safe. Every signal shows its word, its bytes and its reasons."""

    state: State
    risks: tuple[Risk, ...] = ()
    waits_for: tuple[str, ...] = ()
    """The services that are down."""

    @property
    def size_bytes(self) -> int:
        """Bytes at risk, as far as their number is known."""
        return sum(risk.size_bytes for risk in self.risks)

    @property
    def recordings(self) -> int:
        """Recordings whose bytes are at risk."""
        return sum(risk.recordings for risk in self.risks)

    def describe(self) -> str:
        """Describe it in one line, without file names: ``at risk: 3.0 MiB of 2 recordings do not get to S3: …``."""
        match self.state:
            case State.AT_RISK:
                reasons = "; ".join(SENTENCES[risk.reason] for risk in self.risks)
                amount = f"{amount_at_risk(self.size_bytes, self.recordings)}: " if self.recordings else ""
                return f"{self.state.value}: {amount}{reasons}"
            case State.WAITS:
                return f"waits for {' and '.join(self.waits_for)}"
        return self.state.value


NOT_JUDGED: Final = Judgement(state=State.STARTING)
"""Of a daemon that has no services yet."""


def judge(
    risks: tuple[Risk, ...] = (), waits_for: tuple[str, ...] = (), *, starting: bool = False, stopping: bool = False
) -> Judgement:
    """Return the judgement of a daemon; ``waits_for`` are the services that are down."""
    if stopping:
        state = State.STOPPING
    elif risks:
        state = State.AT_RISK
    elif waits_for:
        state = State.WAITS
    else:
        state = State.STARTING if starting else State.READY
    return Judgement(state=state, risks=risks, waits_for=waits_for)


def amount_at_risk(size_bytes: int, recordings: int) -> str:
    """Describe how many bytes of how many recordings do not get to S3."""
    return f"{size(size_bytes)} of {recordings:,} recording{'' if recordings == 1 else 's'} do not get to S3"


def describe_amount(risk: Risk) -> str:
    """Describe how many bytes and recordings are affected."""
    return amount_at_risk(risk.size_bytes, risk.recordings) if risk.recordings else "at risk"


def find_risks(facts: Facts, now: float) -> tuple[Risk, ...]:
    """Return the current risks, one per reason, in the order of :class:`Reason`."""
    found: dict[Reason, list[Waiting]] = {reason: [] for reason in Reason}
    down = [reason for reason, outage in facts.outages.items() if now - outage.since > PATIENCE_SECONDS]
    for reason in down:
        found[reason].append(Waiting(facts.outages[reason].since, 0, facts.outages[reason].why))
    if down:  # what is on the disk only stays there until the end of the outage, however young it is
        found[down[0]] += [Waiting(now, one.size_bytes) for one in facts.uploads]
        found[down[0]] += [Waiting(now, one.size_bytes) for one in (*facts.growing, *facts.not_looked_up)]
    else:
        stalled = (one for one in facts.uploads if _is_stalled(one, facts, now))
        found[Reason.NOT_MOVING] += [
            Waiting(one.last_progress_at, one.size_bytes, one.trouble or "") for one in stalled
        ]
        found[Reason.NOT_LOOKED_UP] += _overdue(facts.not_looked_up, now)
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
    if facts.checker_silent is not None:
        found[Reason.CHECKER_SILENT] += _overdue([facts.checker_silent], now)
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
