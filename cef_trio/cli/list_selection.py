"""Which streams ``cef-trio list`` shows, and in which order. Pure."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from cef_trio.checkpoint import ENDED, FAILED, Status, StreamMeta, StreamSet, StreamSummary, advice_on
from cef_trio.observability import RISK_ADVICE, Reason

if TYPE_CHECKING:
    from cef_trio.observability import Fleet


class State(StrEnum):
    """A value of ``--state``: the set that a stream is in, or what its task waits for."""

    OPEN = "open"
    ACTIVE = "active"
    PENDING_COMPLETION = "pending_completion"
    COMPLETED = "completed"
    FAILED = "failed"
    RETRYING = "retrying"
    INTERRUPTED = "interrupted"
    DELETED = "deleted"
    LET_GO = "let_go"


SETS: Final[Mapping[State, frozenset[StreamSet]]] = MappingProxyType(
    {
        State.OPEN: frozenset({StreamSet.ACTIVE, StreamSet.PENDING_COMPLETION}),
        State.ACTIVE: frozenset({StreamSet.ACTIVE}),
        State.PENDING_COMPLETION: frozenset({StreamSet.PENDING_COMPLETION}),
        State.COMPLETED: frozenset({StreamSet.COMPLETED}),
        State.FAILED: frozenset({StreamSet.FAILED}),
        State.RETRYING: frozenset({StreamSet.ACTIVE, StreamSet.PENDING_COMPLETION}),
        State.INTERRUPTED: frozenset({StreamSet.ACTIVE, StreamSet.PENDING_COMPLETION}),
        State.DELETED: frozenset({StreamSet.FAILED}),
        State.LET_GO: frozenset({StreamSet.FAILED}),
    }
)
"""The sets whose records have to be read for a state; others hold none of it."""
AT_RISK_SETS: Final = frozenset({StreamSet.ACTIVE, StreamSet.PENDING_COMPLETION, StreamSet.FAILED})


_STATUSES: Final[Mapping[State, frozenset[Status]]] = MappingProxyType(
    {
        State.OPEN: frozenset(Status) - ENDED,
        State.FAILED: frozenset(FAILED),
        State.DELETED: frozenset({Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS}),
        State.RETRYING: frozenset({Status.RETRYING}),
        State.INTERRUPTED: frozenset({Status.INTERRUPTED_SHUTDOWN, Status.INTERRUPTED_CANCELLED}),
    }
)
"""The other states are sets."""


class Sort(StrEnum):
    """A value of ``--sort``."""

    ACTIVITY = "activity"
    STARTED = "started"
    SENT = "sent"
    SIZE = "size"
    NAME = "name"
    STATUS = "status"


_KEYS: Final[Mapping[Sort, Callable[[StreamSummary], Any]]] = MappingProxyType(
    {
        Sort.ACTIVITY: lambda one: one.meta.last_activity_at_utc,
        Sort.STARTED: lambda one: one.meta.started_at_utc,
        Sort.SENT: lambda one: one.meta.total_bytes_sent,
        Sort.SIZE: lambda one: one.meta.verified_size_bytes or one.meta.total_bytes_sent,
        Sort.NAME: lambda one: one.meta.current_path,
        Sort.STATUS: lambda one: one.meta.status.value,
    }
)
_BY_TEXT: Final = frozenset({Sort.NAME, Sort.STATUS})


def in_state(known: StreamSummary, state: State | None) -> bool:
    """Return whether a stream is listed under ``state``; with ``None`` every one that was not let go is.

    ``failed`` excludes streams whose recording was deleted: ``cef-trio retry --all`` does not retry them.
    """
    if known.meta.let_go_at_utc is not None or state is State.LET_GO:
        return known.meta.let_go_at_utc is not None and state is State.LET_GO
    if state is None:
        return True
    statuses = _STATUSES.get(state)
    return known.stream_set.value == state.value if statuses is None else known.meta.status in statuses


def hindrances(holders: Mapping[str, str], stream_ids: Iterable[str], fleet: Fleet) -> dict[str, str]:
    """Return the open streams whose bytes get to S3 by no daemon now, and what to do about it.

    No daemon holds the stream's lease, or the one that does reports that S3 or Redis is down for more than a minute.
    ``holders``: lease values by stream id.
    """
    down: dict[str, str] = {}
    for report in fleet.living:
        for risk in report.risks:
            if risk.reason in _OUTAGES:
                down.setdefault(report.process, risk.advice)
    found = {}
    for stream_id in stream_ids:
        holder = holders.get(stream_id)
        advice = _START_A_DAEMON if holder is None else down.get(holder.rpartition("/")[2])
        if advice is not None:
            found[stream_id] = advice
    return found


def is_at_risk(known: StreamSummary, hindered: Collection[str]) -> bool:
    """Return whether bytes of the recording are not getting to S3, as far as records, leases and reports show.

    It failed (and was neither aborted nor let go), waits after an error, or is open and one of the ``hindered``.
    """
    status = known.meta.status
    if known.meta.let_go_at_utc is not None:
        return False
    if status in FAILED:
        return status is not Status.FAILED_ABORTED
    return status not in ENDED and (status is Status.RETRYING or known.meta.stream_id in hindered)


def advice_about(meta: StreamMeta, hindered: Mapping[str, str]) -> str | None:
    """Return what to do about a stream that failed, waits after an error, or is open and one of the ``hindered``."""
    if meta.status in FAILED:
        return advice_on(meta.status)
    if meta.status in ENDED:
        return None
    return hindered.get(meta.stream_id) or (RISK_ADVICE[Reason.NOT_MOVING] if meta.status is Status.RETRYING else None)


_OUTAGES: Final = frozenset({Reason.S3_DOWN, Reason.REDIS_DOWN})
_START_A_DAEMON: Final = "no daemon works on it: start its daemon, or look at its log; `cef-trio fleet` shows all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The arguments of ``list``."""

    state: State | None = None
    at_risk: bool = False
    broken: bool = False
    """Only completed recordings that cannot be played, or not to their end."""
    name: str | None = None
    """A pattern with ``*`` and ``?``, without regard to case: of the path if it holds a ``/``, else of the name."""
    since: datetime | None = None
    """The earliest time of the last activity."""
    before: datetime | None = None
    """The last activity was earlier."""
    sort: Sort = Sort.ACTIVITY
    reverse: bool = False
    limit: int | None = None

    @property
    def sets(self) -> frozenset[StreamSet]:
        """The sets whose records have to be read."""
        wanted = SETS[self.state] if self.state is not None else frozenset(StreamSet)
        wanted &= frozenset({StreamSet.COMPLETED}) if self.broken else wanted
        return wanted & AT_RISK_SETS if self.at_risk else wanted

    def matches(self, known: StreamSummary, folders: Collection[str], hindered: Collection[str]) -> bool:
        """Return whether a stream is shown; ``hindered``: the keys of :func:`hindrances`."""
        meta, at = known.meta, known.meta.last_activity_at_utc
        return (
            in_state(known, self.state)
            and (meta.broken is not None or not self.broken)
            and (self.since is None or at >= self.since)
            and (self.before is None or at < self.before)
            and (self.name is None or _is_named(meta.current_path, self.name, folders))
            and (not self.at_risk or is_at_risk(known, hindered))
        )

    def order(self, streams: Iterable[StreamSummary]) -> list[StreamSummary]:
        """Return the streams to show, in order: with ``limit`` the latest, the largest, or the first by name."""
        key = _KEYS[self.sort]
        ordered = sorted(streams, key=lambda one: (key(one), one.meta.stream_id))
        if self.sort in _BY_TEXT:
            ordered = list(reversed(ordered)) if self.reverse else ordered
            return ordered if self.limit is None else ordered[: self.limit]
        chosen = ordered if self.limit is None else ordered[max(0, len(ordered) - self.limit) :]
        return list(reversed(chosen)) if self.reverse else chosen


@dataclass(frozen=True, slots=True)
class Listed:
    """What ``list`` shows."""

    streams: Sequence[StreamSummary] = ()
    hindered: Mapping[str, str] = field(default_factory=dict)
    """The open ones whose bytes get to S3 by no daemon now, as far as that was asked for, and what to do about it."""
    known: int = 0
    """Streams that were read, also those that do not match."""
    left_out: int = 0
    """Streams that match, beyond the limit."""
    folders: Collection[str] = field(default_factory=tuple)
    """The watch folders that are known."""


def folders_of(texts: Iterable[str]) -> frozenset[str]:
    """Return the folders of several ``WATCH_DIR``, each a folder or several between colons."""
    return frozenset(folder for text in texts for folder in text.split(":") if folder)


def relative_path(path: str, folders: Collection[str]) -> str:
    """Return the path below the only watch folder; the whole path if it is elsewhere, or there are several folders."""
    if len(folders) != 1:
        return path
    [folder] = folders
    inside = folder.rstrip("/") + "/"
    return path[len(inside) :] if path.startswith(inside) and len(path) > len(inside) else path


def _is_named(path: str, pattern: str, folders: Collection[str]) -> bool:
    wanted = pattern.lower()
    if "/" not in pattern:
        return fnmatchcase(os.path.basename(path).lower(), wanted)  # noqa: PTH119 - paths may hold any byte
    return any(fnmatchcase(text.lower(), wanted) for text in (path, relative_path(path, folders)))
