"""What each write does to a checkpoint, as functions of values. Pure.

The in-process store runs these; the scripts of the Redis store do the same in Lua, and a stateful test holds the two
against each other. Which status may follow which is not decided here but in ``states.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any, Final

from cef_trio.checkpoint.model import Lease, PartRecord, StreamMeta
from cef_trio.checkpoint.protocols import Change, Saving
from cef_trio.checkpoint.states import HOME, INTERRUPTED, TRANSITIONS, Status, StreamSet
from cef_trio.exceptions import LeaseLostError, PathTakenError

_DEFAULTS: Final[dict[str, Any]] = {f.name: f.default for f in fields(StreamMeta) if f.default is not MISSING}
_NAMES: Final = frozenset(field.name for field in fields(StreamMeta))
_NOT_BY_CHANGE: Final = frozenset({"stream_id", "status", "current_path"})

FORGOTTEN_BY_START_OVER: Final = (
    "s3_upload_id",
    "checksum_algorithm",
    "object_etag",
    "object_crc64nvme",
    "verified_size_bytes",
    "verified_mtime_ns",
    "completed_at_utc",
)
"""The upload and whatever came of it: kept, they would say of the new upload what was true of the old one."""


def check_change(change: Change) -> None:
    """Refuse a change that no store may apply.

    Raises:
        ValueError: it names an unknown field, one that only another operation may set, or takes a required one away.
    """
    for name, value in change.fields.items():
        if name not in _NAMES or name in _NOT_BY_CHANGE:
            raise ValueError(f"a change cannot set {name!r}")
        if value is None and name not in _DEFAULTS:
            raise ValueError(f"a change cannot remove {name!r}: every record has it")


def apply_change(meta: StreamMeta, change: Change) -> StreamMeta:
    """The record after ``change``; a removed field reads as its default."""
    return replace(meta, **{name: _DEFAULTS[name] if value is None else value for name, value in change.fields.items()})


def starting_over(change: Change) -> Change:
    """The whole change of a start over: forget the upload, begin with part 1, then what the caller asked for."""
    check_change(change)
    return Change({**dict.fromkeys(FORGOTTEN_BY_START_OVER), "next_part_to_upload": 1, **change.fields})


def may_take(holder: str | None, lease: Lease) -> bool:
    """Whether a lease held so may be taken: free, ours, or an earlier process's of our instance."""
    return holder is None or holder.rpartition("/")[0] == lease.holder


def before(status: Status) -> frozenset[Status]:
    """The statuses that ``status`` may follow."""
    return frozenset(current for current, following in TRANSITIONS.items() if status in following)


def first_home(status: Status) -> StreamSet:
    """The set of a stream of that status if nobody knows in which set it was."""
    return HOME[status] or StreamSet.ACTIVE


def past(parts: Iterable[PartRecord]) -> int:
    """One past the highest part number; 1 for no parts."""
    return max((part.part_number for part in parts), default=0) + 1


def count_part(meta: StreamMeta, part: PartRecord, *, rewritten: bool) -> StreamMeta:
    """The record once ``part`` was sent."""
    return replace(
        _unverified(meta),
        total_bytes_sent=meta.total_bytes_sent + part.size_bytes,
        next_part_to_upload=max(meta.next_part_to_upload, part.part_number + 1),
        last_activity_at_utc=part.uploaded_at_utc,
        parts_rewritten=meta.parts_rewritten + rewritten,
        bytes_rewritten=meta.bytes_rewritten + part.size_bytes * rewritten,
    )


def count_adopted(meta: StreamMeta, parts: Sequence[PartRecord]) -> StreamMeta:
    """The record once these parts were found in S3; nothing counts as sent."""
    following = max(meta.next_part_to_upload, past(parts))
    return replace(_unverified(meta) if parts else meta, next_part_to_upload=following)


def cut_off(meta: StreamMeta, keep_to: int) -> StreamMeta:
    """The record once the parts behind ``keep_to`` are forgotten."""
    return replace(_unverified(meta), next_part_to_upload=keep_to + 1)


def _unverified(meta: StreamMeta) -> StreamMeta:
    """The record without a verification: what was verified were other parts than there are now.

    If it stayed, a daemon that finds the file gone would take these parts for what was verified, and complete them into
    an object that the file never was (promise P1).
    """
    return replace(meta, verified_size_bytes=None, verified_mtime_ns=None)


def check_savings(savings: Sequence[Saving]) -> None:
    """Refuse savings that are not interruptions.

    Raises:
        ValueError: one of them names another status (``transition`` is there for those).
    """
    for saving in savings:
        if saving.status not in INTERRUPTED:
            raise ValueError(f"{saving.status.value!r} is not a way to be interrupted")


def lease_lost(stream_id: str, holder: str | None) -> LeaseLostError:
    """The error of a write whose lease is not the stream's."""
    who = "nobody's" if holder is None else f"{holder}'s"
    return LeaseLostError(f"the lease of stream {stream_id} is not ours but {who}; nothing was written")


def path_taken(stream_id: str, there: str) -> PathTakenError:
    """The error of a stream that cannot begin, since its file's path leads to the stream ``there`` by now."""
    if there == stream_id:
        return PathTakenError(f"stream {stream_id} was begun for another file just now; nothing was written")
    return PathTakenError(f"stream {stream_id} was not begun: stream {there} was, for the same file, just now")


def record_gone(stream_id: str) -> LeaseLostError:
    """The error of a write to a stream whose record the store has lost: there is nothing left that we could own."""
    return LeaseLostError(f"the record of stream {stream_id} is gone; nothing was written")


def not_allowed(stream_id: str, current: Status, following: Status) -> ValueError:
    """The error of a transition that the table does not have."""
    return ValueError(f"stream {stream_id}: {following.value!r} may not follow {current.value!r}")
