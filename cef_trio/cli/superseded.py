"""``cef-trio gc --superseded``: delete the objects that a later one of the same recording has replaced.

A recording that grows, or is cut, after its completion gets a new object (``upload/copy_from_previous.py``). The
earlier one stays, since a webhook may have announced it and a daemon needs no permission to delete; the new stream's
record and its metadata JSON name it (``supersedes``). This command deletes it, with its metadata JSON and its record.

Deleted is only what cannot be missed (promises P8, P9): the later stream is completed, and its object is in S3 with its
stream id and size; the earlier object is the earlier stream's; its file is the later stream's now, and no webhook waits
for it. The earliest object goes first, and one whose predecessor is kept is kept: it is the only one to name it.

The record goes first, under the stream's lease: a record without an object would settle a file that is not in S3.
The object goes last: interrupted before that, repeat the command, as the later record still names the object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

from cef_trio.checkpoint import History, Status, StreamMeta, ended_streams
from cef_trio.cli import output
from cef_trio.cli.result_lines import Report
from cef_trio.cli.session import CommandContext
from cef_trio.exceptions import S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.s3 import StoredObject
from cef_trio.upload import STREAM_ID_METADATA, metadata_key

GONE: Final = "it is gone already"
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


def why_kept(  # noqa: PLR0911 - it is a table
    later: StreamMeta,
    earlier: StreamMeta | None,
    *,
    completed_before: datetime,
    bucket: str,
    is_ours: bool,
    webhook_pending: bool,
    predecessor_kept: bool,
) -> str | None:
    """Return why the object that ``later`` supersedes is kept; ``None`` if it may be deleted. Pure.

    ``earlier`` is ``None`` if its record is gone. The objects in S3 are judged by :func:`why_object_kept`.
    """
    if later.status is not Status.COMPLETED or later.completed_at_utc is None:
        return f"the later recording is not completed ({later.status.value})"
    if later.completed_at_utc > completed_before:
        return "the later object is younger than --older-than"
    if later.s3_bucket != bucket or later.s3_key_prefix == later.supersedes_key:
        return "it is in another bucket"
    if not is_ours:
        return "it belongs to another host: run `cef-trio gc` there"
    if predecessor_kept:
        return "only it names a still earlier object, which is kept"
    if earlier is None:
        return None
    if earlier.s3_bucket != bucket or earlier.s3_key_prefix != later.supersedes_key:
        return "it is in another bucket"
    if earlier.status is not Status.COMPLETED:
        return f"its own stream is not completed ({earlier.status.value})"
    if earlier.current_path not in {later.original_path, later.current_path}:
        return f"another file has its bytes: {earlier.current_path}"
    return "its webhook is pending" if webhook_pending else None


def why_object_kept(later: StreamMeta, newer: StoredObject | None, older: StoredObject | None) -> str | None:
    """Return why S3's objects do not allow the deletion of the older one. Pure."""
    if newer is None or newer.metadata.get(STREAM_ID_METADATA) != later.stream_id:
        return f"the later object is not in S3: {later.s3_key_prefix}"
    if newer.size_bytes != later.verified_size_bytes:
        return f"the later object has another size: {later.s3_key_prefix}"
    if older is not None and older.metadata.get(STREAM_ID_METADATA) != later.supersedes_stream_id:
        return "it is not the object of that stream"
    return None


async def collect_superseded(
    context: CommandContext, older_than: timedelta, *, dry_run: bool, as_json: bool
) -> ExitCode:
    """Delete the superseded objects; with ``dry_run`` only list them.

    Raises:
        S3OperationError: S3 is unavailable.
        RedisOperationError: Redis cannot be read.
    """
    completed_before = context.utc_now() - older_than
    later_ones = [
        known.meta
        async for page in ended_streams(context.store, History.COMPLETED)
        for known in page.values()
        if known.meta.supersedes_stream_id and known.meta.supersedes_key
    ]
    later_ones.sort(key=lambda meta: (meta.completed_at_utc or _LONG_AGO, meta.stream_id))
    keep: set[str] = set()
    deleted, kept = 0, Counter[str]()
    with Report(as_json=as_json) as report:
        for later in later_ones:
            why, refusal = await _delete(context, later, completed_before, keep=keep, dry_run=dry_run)
            if why not in {None, GONE} or refusal is not None:
                keep.add(later.stream_id)
            deleted += why is None and refusal is None
            kept[why or ""] += why is not None
            done = "would be deleted" if dry_run else "deleted"
            report.add(
                later.supersedes_key or "",
                refusal or (f"kept: {why}" if why else f"{done}: superseded by {later.s3_key_prefix}"),
                ok=refusal is None,
                shown=why is None,
                superseded_by=later.s3_key_prefix,
                deleted=why is None and refusal is None and not dry_run,
            )
        verb = "would be deleted" if dry_run else "deleted"
        report.remark(f"{output.count(len(later_ones), 'superseded object')}: {deleted} {verb}")
        for why, number in sorted(kept.items()):
            if number:
                report.remark(f"  {number} kept: {why}")
    return report.code


async def _delete(
    context: CommandContext, later: StreamMeta, completed_before: datetime, *, keep: Collection[str], dry_run: bool
) -> tuple[str | None, str | None]:
    """Judge an object under its stream's lease, and delete it. Return why it is kept, or why S3 refused."""
    stream_id, key = later.supersedes_stream_id or "", later.supersedes_key or ""
    async with context.hold_lease(stream_id) as held:
        if not held:
            return "another process works on its stream", None
        checkpoint = await context.store.load(stream_id)
        earlier = checkpoint.meta if checkpoint is not None else None
        why = why_kept(
            later,
            earlier,
            completed_before=completed_before,
            bucket=context.bucket,
            is_ours=all(context.ownership.is_ours(meta) for meta in (later, earlier) if meta is not None),
            webhook_pending=await context.store.is_webhook_pending(stream_id),
            predecessor_kept=stream_id in keep,
        )
        if why is not None:
            return why, None
        try:
            older = await context.s3.head_object(key)
            if older is None and earlier is None:
                return GONE, None
            why = why_object_kept(later, await context.s3.head_object(later.s3_key_prefix), older)
            if why is not None or dry_run:
                return why, None
            await context.store.forget(stream_id)
            await context.s3.delete_object(metadata_key(key))
            await context.s3.delete_object(key)
        except S3OperationError as error:
            if error.transient:
                raise
            return None, f"NOT deleted: {error}"
        return None, None
