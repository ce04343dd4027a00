"""``cef-trio show``: everything that Redis has of one stream. Read only."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.text import Text

from cef_trio.checkpoint import Checkpoint, Status, StreamMeta
from cef_trio.cli import output
from cef_trio.cli.arguments import REDIS_ONLY, STREAM_ID_HELP, add_common, add_owner
from cef_trio.cli.list_selection import advice_about, hindrances
from cef_trio.cli.redis_session import RedisContext, command_settings, run_on_redis
from cef_trio.cli.stream_selection import NoSuchStreamError, select_all
from cef_trio.exit_codes import ExitCode
from cef_trio.observability import read_fleet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``show``."""
    add_common(
        parser,
        examples=(
            "cef-trio show 0b6f0c4e",
            "cef-trio show 0b6f0c4e --json",
        ),
    )
    add_owner(parser)
    parser.add_argument("stream", metavar="ID", help=STREAM_ID_HELP)


def run(arguments: argparse.Namespace) -> int:
    """Run ``show`` and return its exit code."""
    settings = command_settings(arguments, REDIS_ONLY)
    return run_on_redis(settings, lambda context: show_stream(context, arguments.stream, as_json=arguments.json))


async def show_stream(context: RedisContext, given: str, *, as_json: bool) -> ExitCode:
    """Print everything that Redis has of one stream.

    Raises:
        NoSuchStreamError: no stream matches ``given``, or several do.
    """
    [stream_id] = await select_all(context.store, [given])
    checkpoint = await context.store.load(stream_id)
    if checkpoint is None:
        raise NoSuchStreamError(f"stream {stream_id} has just been deleted")
    holders = await context.store.holders([stream_id])
    fleet = read_fleet(await context.store.reports()).of_owner(context.owner_name)
    holder, hindered = holders.get(stream_id), hindrances(holders, [stream_id], fleet)
    webhook_pending = stream_id in await context.store.pending_webhooks()
    to_abort = stream_id in await context.store.abort_requests()
    if as_json:
        more = {"webhook_owed": webhook_pending, "abort_requested": to_abort}
        output.print_json({**details(checkpoint, holder, hindered), **more})
    else:
        facts = _facts(checkpoint, holder, hindered, context.utc_now())
        if to_abort:
            facts.append(("abort", "requested: its daemon does it, or the next one"))
        if webhook_pending:
            facts.append(("webhook", "pending: not delivered yet"))
        output.console().print(output.facts(facts))
    return ExitCode.DONE


def details(checkpoint: Checkpoint, holder: str | None, hindered: Mapping[str, str]) -> dict[str, Any]:
    """Return one stream with all fields, for ``--json``. Checksums are base64, as in S3's headers."""
    document = asdict(checkpoint.meta)
    document["status"] = checkpoint.meta.status.value
    document["state"] = checkpoint.stream_set.value
    document["object_crc64nvme"] = _checksum(checkpoint.meta.object_crc64nvme)
    document["lease"] = holder
    document["advice"] = advice_about(checkpoint.meta, hindered)
    document["parts"] = [
        {**asdict(part), "crc64nvme": _checksum(part.crc64nvme)} for _, part in sorted(checkpoint.parts.items())
    ]
    return document


def _checksum(value: int | None) -> str | None:
    from cef_trio.s3 import crc64nvme_to_base64  # the AWS library behind it is large

    return None if value is None else crc64nvme_to_base64(value)


def _facts(
    checkpoint: Checkpoint, holder: str | None, hindered: Mapping[str, str], now: datetime
) -> list[tuple[str, Text | str]]:
    meta = checkpoint.meta
    completed = meta.status is Status.COMPLETED and not checkpoint.parts  # then its metadata JSON has the parts
    size_bytes = sum(part.size_bytes for part in checkpoint.parts.values())
    acknowledged = output.size((meta.verified_size_bytes or 0) if completed else size_bytes)
    parts = output.count(meta.next_part_to_upload - 1 if completed else len(checkpoint.parts), "part")
    part_size = output.size(meta.part_size) + ("" if meta.equal_parts else " at first")
    rows: list[tuple[str, Text | str | None]] = [
        ("stream", meta.stream_id),
        ("status", output.status(meta.status, checkpoint.stream_set)),
        ("why", meta.failure_reason),
        ("what to do", advice_about(meta, hindered)),
        ("file", meta.current_path),
        ("was", meta.original_path if meta.original_path != meta.current_path else None),
        ("object", f"{meta.s3_bucket}/{meta.s3_key_prefix}"),
        ("began", _moment(meta.recording_began_at_utc, now)),
        ("supersedes", meta.supersedes_key),
        ("upload", meta.s3_upload_id),
        ("lease", holder or "none: no daemon works on it"),
        ("started", _moment(meta.started_at_utc, now)),
        ("last activity", _moment(meta.last_activity_at_utc, now)),
        ("completed", _moment(meta.completed_at_utc, now)),
        ("BROKEN", meta.broken),
        ("let go", _moment(meta.let_go_at_utc, now)),
        ("tried again", _retry(meta, now)),
        ("acknowledged", f"{acknowledged} in {parts} of {part_size}"),
        ("sent in all", output.size(meta.total_bytes_sent)),
        ("rewritten", f"{output.count(meta.parts_rewritten, 'part')}, {output.size(meta.bytes_rewritten)}"),
        ("verified", f"{meta.verified_size_bytes:,} bytes" if meta.verified_size_bytes is not None else None),
        ("etag", meta.object_etag),
        ("crc64nvme", _checksum(meta.object_crc64nvme)),
        ("duration", f"{meta.duration_seconds:.3f} s" if meta.duration_seconds is not None else None),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _moment(at: datetime | None, now: datetime) -> str | None:
    if at is None:
        return None
    return f"{at:%Y-%m-%d %H:%M:%S} UTC ({output.duration((now - at).total_seconds())} ago)"


def _retry(meta: StreamMeta, now: datetime) -> str | None:
    if meta.retry_at_utc is None:
        return None
    seconds = max(0.0, (meta.retry_at_utc - now).total_seconds())
    return f"in {output.duration(seconds)}, for the {meta.retry_attempts}. time"
