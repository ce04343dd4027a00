"""The rules of checkpoints: the commit of each write, leases, and refusals. Pure.

Both stores and the memory of a stream's task (``upload/session.py``) use these commits. ``states.py`` has the allowed
transitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from cef_trio.checkpoint import schema
from cef_trio.checkpoint.commit import DEFAULTS, Change, Commit, ExitState
from cef_trio.checkpoint.model import Lease, PartRecord, StreamMeta, WebhookEvent
from cef_trio.checkpoint.states import FAILED, HOME, INTERRUPTED, TRANSITIONS, History, Status, StreamSet
from cef_trio.exceptions import LeaseLostError, PathTakenError, RecordUnreadableError

_NAMES: Final = frozenset(field.name for field in fields(StreamMeta))
_NOT_BY_CHANGE: Final = frozenset({"stream_id", "status", "current_path", schema.FIELD})

REPORT_SECONDS: Final = 7 * 86400.0
"""How long the registry keeps a daemon's last report."""
MAX_STARTS: Final = 10_000
"""With as many events in the webhook outbox, those of starts are dropped; one of a failure still has room (P6)."""
MAX_EVENTS: Final = 2 * MAX_STARTS
"""The most events in the outbox; with as many, those of failures are dropped too (P7)."""
MAX_REPORTS: Final = 5000
"""The most reports in the registry; containers that get a new name at each start leave many."""

FORGOTTEN_BY_START_OVER: Final = (
    "s3_upload_id",
    "checksum_algorithm",
    "object_etag",
    "object_crc64nvme",
    "verified_size_bytes",
    "verified_mtime_ns",
    "verified_crc64nvme",
    "completed_at_utc",
)
"""Fields of the upload and its results, which would be wrong for the new upload."""

_OF_THE_UPLOAD: Final = (
    "s3_bucket",
    "s3_endpoint",
    "s3_key_prefix",
    "original_path",
    "part_size",
    "equal_parts",
    *FORGOTTEN_BY_START_OVER,
)
"""The fields that name an upload and its object, say how it is cut into parts, and what became of it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_UNVERIFIED: Final[Mapping[str, Any]] = MappingProxyType(
    {"verified_size_bytes": None, "verified_mtime_ns": None, "verified_crc64nvme": None}
)
"""The verification is removed when the parts change.

Otherwise a daemon that finds the file gone would take the current parts for the verified ones and complete them to an
object that never equalled the file (promise P1).
"""


def fields_of_upload(meta: StreamMeta) -> dict[str, Any]:
    """Return all fields that say which upload or object a record is about, to be recorded together with a step of it.

    Redis may lose its last writes (a failover, a power cut) while a daemon goes on with what it knows. A step that sets
    its own fields only would make a record of two uploads: the completion of one, and the key of another, from before a
    rename (docs/correctness.md, world 1029799).
    """
    return {name: getattr(meta, name) for name in _OF_THE_UPLOAD}


# ---- the commit of each write (``protocols.StreamWrites`` documents them) -----------------------------------------


def update(change: Change) -> Commit:
    """Set or remove fields."""
    return Commit(operation="update", fields=_checked(change))


def record_part(part: PartRecord, *, rewritten: bool = False) -> Commit:
    """Record a part that was sent; ``rewritten``: its bytes replace others that were sent."""
    counts = {"parts_rewritten": 1, "bytes_rewritten": part.size_bytes} if rewritten else {}
    return Commit(
        operation="record_part",
        parts=(part,),
        once=True,
        add={"total_bytes_sent": part.size_bytes, **counts},
        fields={"last_activity_at_utc": part.uploaded_at_utc, **_UNVERIFIED},
        raise_next_part_to=next_part_number((part,)),
    )


def adopt_parts(parts: Sequence[PartRecord]) -> Commit:
    """Record parts that were found in S3; they do not count as sent."""
    changes = _UNVERIFIED if parts else {}
    return Commit(operation="adopt_parts", parts=parts, fields=changes, raise_next_part_to=next_part_number(parts))


def cut_parts(keep_to: int) -> Commit:
    """Remove the parts above ``keep_to``."""
    return Commit(operation="cut_parts", keep_to=keep_to, fields={"next_part_to_upload": keep_to + 1, **_UNVERIFIED})


def start_over(change: Change) -> Commit:
    """Remove the upload and all parts, begin with part 1, and apply ``change``."""
    forgotten = dict.fromkeys(FORGOTTEN_BY_START_OVER)
    changes = {**forgotten, "next_part_to_upload": 1, **_checked(change)}
    return Commit(operation="start_over", status=Status.ACTIVE, fields=changes, keep_to=0)


def transition(
    status: Status, change: Change, *, enqueue_webhook: bool = False, event: WebhookEvent | None = None
) -> Commit:
    """Set the status, and apply ``change``. A completed stream keeps no parts: its metadata JSON has them."""
    return Commit(
        operation="transition",
        status=status,
        fields=_checked(change),
        enqueue_webhook=enqueue_webhook,
        event=event,
        keep_to=0 if status is Status.COMPLETED else None,
    )


def record_put(part: PartRecord, change: Change) -> Commit:
    """Record a recording that was sent by one PutObject, as an object and as its only part."""
    return Commit(
        operation="record_put",
        status=Status.S3_COMPLETED,
        parts=(part,),
        once=True,
        add={"total_bytes_sent": part.size_bytes},
        fields=_checked(change),
        raise_next_part_to=next_part_number((part,)),
    )


def rename(new_path: str) -> Commit:
    """Set the current path."""
    return Commit(operation="rename", new_path=new_path)


def _checked(change: Change) -> Mapping[str, Any]:
    """Return the fields of a change.

    Raises:
        ValueError: it names an unknown field, sets one that belongs to another operation, or removes a required one.
    """
    for name, value in change.fields.items():
        if name not in _NAMES or name in _NOT_BY_CHANGE:
            raise ValueError(f"a change cannot set {name!r}")
        if value is None and name not in DEFAULTS:
            raise ValueError(f"a change cannot remove {name!r}: every record has it")
    return change.fields


def check_exit_states(exit_states: Sequence[ExitState]) -> None:
    """Check that all states are interruptions.

    Raises:
        ValueError: one has another status; use ``transition`` for it.
    """
    for exit_state in exit_states:
        if exit_state.status not in INTERRUPTED:
            raise ValueError(f"{exit_state.status.value!r} is not the status of an interrupted stream")


def after_exit(meta: StreamMeta, exit_state: ExitState) -> StreamMeta:
    """Return the record with its state at shutdown: unchanged, if the stream has ended.

    ``s3_completed`` is kept, as it names the next step.
    """
    if meta.status is not Status.S3_COMPLETED and meta.status not in INTERRUPTIBLE:
        return meta
    status = meta.status if meta.status is Status.S3_COMPLETED else exit_state.status
    return replace(meta, status=status, last_activity_at_utc=exit_state.at_utc, schema=schema.CURRENT)


# ---- conditions --------------------------------------------------------------------------------------------------


def may_take(holder: str | None, lease: Lease) -> bool:
    """Return whether a lease may be taken: free, ours, or held by an earlier process of our instance."""
    return holder is None or holder.rpartition("/")[0] == lease.holder


def predecessors_of(status: Status) -> frozenset[Status]:
    """Return the statuses that ``status`` may follow."""
    return frozenset(current for current, following in TRANSITIONS.items() if status in following)


INTERRUPTIBLE: Final = predecessors_of(Status.INTERRUPTED_SHUTDOWN)
"""The statuses that an interruption may follow; the same for both interruptions."""


def default_set(status: Status) -> StreamSet:
    """Return the set of a stream of that status whose previous set is unknown."""
    return HOME[status] or StreamSet.ACTIVE


def history_of(stream_set: StreamSet, meta: StreamMeta) -> History | None:
    """Return the index of ended streams that has a stream of that set and record; ``None`` for an open stream."""
    match stream_set:
        case StreamSet.COMPLETED:
            return History.COMPLETED
        case StreamSet.FAILED:
            return History.FAILED if meta.status in FAILED and meta.let_go_at_utc is None else History.DELETED
    return None


def ended_at_ms(meta: StreamMeta) -> int:
    """Return when an ended stream ended, in milliseconds of Unix time: the score in its ``History``."""
    at = meta.completed_at_utc if meta.status is Status.COMPLETED else None
    return unix_ms(at or meta.last_activity_at_utc)


def unix_ms(at_utc: datetime) -> int:
    """Return a time in milliseconds of Unix time, rounded down."""
    return (at_utc - _EPOCH) // timedelta(milliseconds=1)


def next_part_number(parts: Iterable[PartRecord]) -> int:
    """Return the highest part number plus 1; 1 for no parts."""
    return max((part.part_number for part in parts), default=0) + 1


# ---- refusals ----------------------------------------------------------------------------------------------------


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


def record_newer(operation: str, key: str, found: str | int) -> RecordUnreadableError:
    """Return the error for a write to a record of a newer schema."""
    return RecordUnreadableError(operation, f"{schema.why_newer(key, found)}; nothing was written")


def record_gone(stream_id: str) -> LeaseLostError:
    """Return the error for a write to a stream whose record the store has lost."""
    return LeaseLostError(f"the record of stream {stream_id} does not exist; nothing was written")
