"""The effect of each write on a checkpoint, as functions of values. Pure.

The in-process store runs these functions. The Lua scripts of the Redis store do the same, and a stateful test
(``tests/checkpoint/test_stores_agree.py``) compares the two. ``states.py`` has the allowed transitions.
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
"""Fields of the upload and its results, which would be wrong for the new upload."""


def check_change(change: Change) -> None:
    """Check that a store may apply a change.

    Raises:
        ValueError: it names an unknown field, sets one that belongs to another operation, or removes a required one.
    """
    for name, value in change.fields.items():
        if name not in _NAMES or name in _NOT_BY_CHANGE:
            raise ValueError(f"a change cannot set {name!r}")
        if value is None and name not in _DEFAULTS:
            raise ValueError(f"a change cannot remove {name!r}: every record has it")


def apply_change(meta: StreamMeta, change: Change) -> StreamMeta:
    """Return the record after ``change``; a removed field gets its default."""
    return replace(meta, **{name: _DEFAULTS[name] if value is None else value for name, value in change.fields.items()})


def starting_over(change: Change) -> Change:
    """Return the whole change of a start over: remove the upload, begin with part 1, then apply ``change``."""
    check_change(change)
    return Change({**dict.fromkeys(FORGOTTEN_BY_START_OVER), "next_part_to_upload": 1, **change.fields})


def may_take(holder: str | None, lease: Lease) -> bool:
    """Return whether a lease may be taken: free, ours, or held by an earlier process of our instance."""
    return holder is None or holder.rpartition("/")[0] == lease.holder


def before(status: Status) -> frozenset[Status]:
    """Return the statuses that ``status`` may follow."""
    return frozenset(current for current, following in TRANSITIONS.items() if status in following)


def first_home(status: Status) -> StreamSet:
    """Return the set of a stream of that status whose previous set is unknown."""
    return HOME[status] or StreamSet.ACTIVE


def past(parts: Iterable[PartRecord]) -> int:
    """Return one past the highest part number; 1 for no parts."""
    return max((part.part_number for part in parts), default=0) + 1


def count_part(meta: StreamMeta, part: PartRecord, *, rewritten: bool) -> StreamMeta:
    """Return the record after ``part`` was sent."""
    return replace(
        _unverified(meta),
        total_bytes_sent=meta.total_bytes_sent + part.size_bytes,
        next_part_to_upload=max(meta.next_part_to_upload, part.part_number + 1),
        last_activity_at_utc=part.uploaded_at_utc,
        parts_rewritten=meta.parts_rewritten + rewritten,
        bytes_rewritten=meta.bytes_rewritten + part.size_bytes * rewritten,
    )


def count_adopted(meta: StreamMeta, parts: Sequence[PartRecord]) -> StreamMeta:
    """Return the record after these parts were found in S3; they do not count as sent."""
    following = max(meta.next_part_to_upload, past(parts))
    return replace(_unverified(meta) if parts else meta, next_part_to_upload=following)


def cut_off(meta: StreamMeta, keep_to: int) -> StreamMeta:
    """Return the record after the parts above ``keep_to`` were removed."""
    return replace(_unverified(meta), next_part_to_upload=keep_to + 1)


def _unverified(meta: StreamMeta) -> StreamMeta:
    """Return the record without its verification, because the parts have changed since.

    Otherwise a daemon that finds the file gone would take the current parts for the verified ones and complete them to
    an object that never equalled the file (promise P1).
    """
    return replace(meta, verified_size_bytes=None, verified_mtime_ns=None)


def check_savings(savings: Sequence[Saving]) -> None:
    """Check that all savings are interruptions.

    Raises:
        ValueError: one has another status; use ``transition`` for it.
    """
    for saving in savings:
        if saving.status not in INTERRUPTED:
            raise ValueError(f"{saving.status.value!r} is not the status of an interrupted stream")


def lease_lost(stream_id: str, holder: str | None) -> LeaseLostError:
    """Return the error for a write under a lease that is not the stream's."""
    return LeaseLostError(
        f"the lease of stream {stream_id} is {f'held by {holder}' if holder else 'not held'}; nothing was written"
    )


def path_taken(stream_id: str, there: str) -> PathTakenError:
    """Return the error for a stream that cannot be created because stream ``there`` has its path."""
    if there == stream_id:
        return PathTakenError(f"stream {stream_id} exists already, for another file; nothing was written")
    return PathTakenError(f"stream {stream_id} was not created: stream {there} exists for the same file")


def record_gone(stream_id: str) -> LeaseLostError:
    """Return the error for a write to a stream whose record the store has lost."""
    return LeaseLostError(f"the record of stream {stream_id} does not exist; nothing was written")


def not_allowed(stream_id: str, current: Status, following: Status) -> ValueError:
    """Return the error for a transition that ``states.TRANSITIONS`` does not allow."""
    return ValueError(f"stream {stream_id}: {following.value!r} may not follow {current.value!r}")
