"""``cef-trio list`` and ``cef-trio show``: what Redis knows, as it stands there. They change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from rich.text import Text

from cef_trio.checkpoint import FAILED, Checkpoint, KnownPath, PartRecord, Status, StreamMeta, StreamSet
from cef_trio.cli import output
from cef_trio.cli.output import Column, Lines, Row
from cef_trio.cli.session import CommandContext
from cef_trio.cli.stream_selection import NoSuchStreamError, all_ids, select_all
from cef_trio.exit_codes import ExitCode
from cef_trio.s3 import crc64nvme_to_base64
from cef_trio.upload import bulk_load

_SHORT_ID: Final = 8
_STYLES: Final = {
    StreamSet.ACTIVE: "cyan",
    StreamSet.PENDING_COMPLETION: "yellow",
    StreamSet.COMPLETED: "green",
    StreamSet.FAILED: "red",
}


class State(StrEnum):
    """What ``--state`` takes: the set that a stream is in, or what its task waits for."""

    ACTIVE = "active"
    PENDING_COMPLETION = "pending_completion"
    COMPLETED = "completed"
    FAILED = "failed"
    RETRYING = "retrying"
    INTERRUPTED = "interrupted"
    DELETED = "deleted"


def in_state(known: KnownPath, state: State | None) -> bool:
    """Whether a stream is listed under ``state`` (``None``: all are). Pure.

    ``failed`` are those that ``cef-trio retry --all`` is about, so a recording that was deleted is not among them.
    """
    match state:
        case None:
            return True
        case State.FAILED:
            return known.meta.status in FAILED
        case State.DELETED:
            return known.meta.status in {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS}
        case State.RETRYING:
            return known.meta.status is Status.RETRYING
        case State.INTERRUPTED:
            return known.meta.status in {Status.INTERRUPTED_SHUTDOWN, Status.INTERRUPTED_CANCELLED}
        case _:
            return known.stream_set.value == state.value


async def list_streams(desk: CommandContext, state: State | None, *, as_json: bool) -> ExitCode:
    """Print the streams, the latest activity last, each with the error that it waits or has ended for."""
    known = (await bulk_load.load_metas(desk.store, await all_ids(desk.store))).values()
    chosen = sorted((one for one in known if in_state(one, state)), key=lambda one: one.meta.last_activity_at_utc)
    if as_json:
        output.print_json(
            {
                "streams": [summary(one) for one in chosen],
                "unreadable": [{"key": key, "why": why} for key, why in desk.store.unreadable.known.items()],
            }
        )
        return ExitCode.DONE
    if chosen:
        output.console().print(_table(chosen, desk.utc_now()))
    else:
        output.console().print(f"No {state.value} streams." if state else "No streams.")
    for why in desk.store.unreadable.known.values():
        output.console().print(output.safe(f"cannot be read, left alone: {why}", "bold red"))
    return ExitCode.DONE


def summary(known: KnownPath) -> dict[str, Any]:
    """One stream for ``--json``: the record's own words, and its set."""
    meta = known.meta
    return {
        "stream_id": meta.stream_id,
        "state": known.stream_set.value,
        "status": meta.status.value,
        "failure_reason": meta.failure_reason,
        "path": meta.current_path,
        "s3_key": meta.s3_key_prefix,
        "total_bytes_sent": meta.total_bytes_sent,
        "size_bytes": meta.verified_size_bytes,
        "started_at_utc": meta.started_at_utc,
        "last_activity_at_utc": meta.last_activity_at_utc,
        "completed_at_utc": meta.completed_at_utc,
        "retry_at_utc": meta.retry_at_utc,
    }


_COLUMNS: Final = (
    Column("id"),
    Column("status", most=21),
    Column("sent", right=True, spare=1),
    Column("idle", right=True),
    Column("file", flexible=True),
)


def _table(streams: Iterable[KnownPath], now: datetime) -> Lines:
    rows = [_row(one, now) for one in streams]
    return output.table(_COLUMNS, rows)


def _row(one: KnownPath, now: datetime) -> Row:
    return Row(
        (
            one.meta.stream_id[:_SHORT_ID],
            output.safe(one.meta.status.value, _STYLES[one.stream_set]),
            output.size(one.meta.total_bytes_sent),
            output.duration((now - one.meta.last_activity_at_utc).total_seconds()),
            output.safe(output.short_path(one.meta.current_path)),
        ),
        note=output.safe(one.meta.failure_reason) if one.meta.failure_reason else None,
    )


async def show_stream(desk: CommandContext, given: str, *, as_json: bool) -> ExitCode:
    """Print all that is known of one stream.

    Raises:
        NoSuchStreamError: ``given`` means none, or several.
    """
    [stream_id] = await select_all(desk.store, [given])
    checkpoint = await desk.store.load(stream_id)
    if checkpoint is None:
        raise NoSuchStreamError(f"stream {stream_id} was forgotten just now")
    holder = (await desk.store.holders([stream_id])).get(stream_id)
    enqueue_webhook = stream_id in await desk.store.pending_webhooks()
    if as_json:
        output.print_json({**details(checkpoint, holder), "webhook_owed": enqueue_webhook})
    else:
        facts = _facts(checkpoint, holder, desk.utc_now())
        if enqueue_webhook:
            facts.append(("webhook", "owed: not delivered yet"))
        output.console().print(output.facts(facts))
    return ExitCode.DONE


def details(checkpoint: Checkpoint, holder: str | None) -> dict[str, Any]:
    """One stream with everything, for ``--json``. Checksums are base64, as S3 writes them."""
    document = asdict(checkpoint.meta)
    document["status"] = checkpoint.meta.status.value
    document["state"] = checkpoint.stream_set.value
    document["object_crc64nvme"] = _checksum(checkpoint.meta.object_crc64nvme)
    document["lease"] = holder
    document["parts"] = [
        {**asdict(part), "crc64nvme": _checksum(part.crc64nvme)} for part in in_order(checkpoint.parts.values())
    ]
    return document


def in_order(parts: Iterable[PartRecord]) -> Sequence[PartRecord]:
    """The parts by their numbers."""
    return sorted(parts, key=lambda part: part.part_number)


def _checksum(value: int | None) -> str | None:
    return None if value is None else crc64nvme_to_base64(value)


def _facts(checkpoint: Checkpoint, holder: str | None, now: datetime) -> list[tuple[str, Text | str]]:
    meta = checkpoint.meta
    acknowledged = output.size(sum(part.size_bytes for part in checkpoint.parts.values()))
    parts = output.count(len(checkpoint.parts), "part")
    rows: list[tuple[str, Text | str | None]] = [
        ("stream", meta.stream_id),
        ("status", output.safe(meta.status.value, _STYLES[checkpoint.stream_set])),
        ("why", meta.failure_reason),
        ("file", meta.current_path),
        ("was", meta.original_path if meta.original_path != meta.current_path else None),
        ("object", f"{meta.s3_bucket}/{meta.s3_key_prefix}"),
        ("upload", meta.s3_upload_id),
        ("lease", holder or "nobody works on it"),
        ("started", _moment(meta.started_at_utc, now)),
        ("last activity", _moment(meta.last_activity_at_utc, now)),
        ("completed", _moment(meta.completed_at_utc, now)),
        ("tried again", _retry(meta, now)),
        (
            "acknowledged",
            f"{acknowledged} in {parts} of {_part_size(meta)}",
        ),
        ("sent in all", output.size(meta.total_bytes_sent)),
        ("rewritten", f"{output.count(meta.parts_rewritten, 'part')}, {output.size(meta.bytes_rewritten)}"),
        ("verified", f"{meta.verified_size_bytes:,} bytes" if meta.verified_size_bytes is not None else None),
        ("etag", meta.object_etag),
        ("crc64nvme", _checksum(meta.object_crc64nvme)),
        ("duration", f"{meta.duration_seconds:.3f} s" if meta.duration_seconds is not None else None),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _part_size(meta: StreamMeta) -> str:
    return output.size(meta.part_size) + ("" if meta.equal_parts else " at first")


def _moment(at: datetime | None, now: datetime) -> str | None:
    if at is None:
        return None
    return f"{at:%Y-%m-%d %H:%M:%S} UTC ({output.duration((now - at).total_seconds())} ago)"


def _retry(meta: StreamMeta, now: datetime) -> str | None:
    if meta.retry_at_utc is None:
        return None
    seconds = max(0.0, (meta.retry_at_utc - now).total_seconds())
    return f"in {output.duration(seconds)}, for the {meta.retry_attempts}. time"
