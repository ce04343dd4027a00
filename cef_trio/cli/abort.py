"""``cef-trio abort``: abort a stream's upload, in S3 and in Redis. The recording itself is never touched.

A stream that a daemon works on is aborted by that daemon: from here, parts in flight would race the abort, and the
daemon would start the upload again. The command records the request in Redis, which the daemon reads within
``STALE_CHECK_SECONDS`` (``upload/idle_checker.py``), and waits. If the daemon ends meanwhile, the command aborts the
stream, or the next daemon does.

Of a stream without a daemon the order is: set ``failed_aborted`` in Redis, abort in S3, remove the upload id from
Redis. An interruption in between leaves an upload that Redis still names and that no daemon continues; the same command
again, or ``cef-trio gc``, aborts it.

A stream whose object is complete, and whose metadata JSON is not written, is ended in the same way: its object stays.
So the streams of a host that is gone can all be ended, and its owner be retired.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

import trio

from cef_trio.checkpoint import ENDED, Change, Status, StreamMeta
from cef_trio.cli import output
from cef_trio.cli.arguments import NO_FOLDER, STREAM_ID_HELP, add_common, add_owner
from cef_trio.cli.redis_session import command_settings
from cef_trio.cli.result_lines import Report
from cef_trio.cli.session import CommandContext, aborting_until, run_command
from cef_trio.cli.status_model import instance_of
from cef_trio.cli.stream_selection import select_all
from cef_trio.exceptions import RecordUnreadableError, S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.s3 import StoredObject
from cef_trio.upload import STREAM_ID_METADATA, abort_uploads, aborted_because

_HALF_ABORTED: Final = (
    "not aborted in S3: its status in Redis is failed_aborted, so no daemon continues it, but S3 still has the upload; "
    "repeat the command"
)
_RETRY: Final = "`cef-trio retry` uploads the recording again"
_NOT_YET: Final = (
    "not aborted yet: {instance} works on it, and was asked to abort it; it does so once it reaches Redis and S3, and "
    "so does a daemon that takes the stream over. A daemon of an earlier version ignores the request: stop it, and "
    "repeat the command"
)
_POLL_SECONDS: Final = 0.5
_WAIT_SECONDS: Final = 30.0
_MOST_SECONDS: Final = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``abort``."""
    add_common(
        parser,
        more="The recording is left alone, also if it grows, and is not uploaded again until `cef-trio retry ID`. A "
        "stream that a daemon works on is aborted by that daemon, which goes on with its other streams.",
        exit_codes="5 a stream was not aborted, or not yet; the output gives the reason",
        examples=(
            "cef-trio abort 0b6f0c4e",
            "cef-trio abort --owner node-7 0b6f0c4e",
        ),
    )
    add_owner(parser)
    parser.add_argument("streams", nargs="+", metavar="ID", help=STREAM_ID_HELP)
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=_WAIT_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for daemons, 0 to 3600 ({_WAIT_SECONDS:g}); the request stays in any case",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``abort`` and return its exit code."""
    settings = command_settings(arguments, NO_FOLDER)
    return run_command(
        settings,
        lambda context: abort_streams(context, arguments.streams, wait_seconds=arguments.wait, as_json=arguments.json),
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"takes seconds from 0 to {_MOST_SECONDS:g}, not {text!r}")
    return seconds


def why_not(meta: StreamMeta, bucket: str) -> str | None:
    """Return why a stream without a lease cannot be aborted, or ``None`` if it can. Pure."""
    if meta.s3_bucket != bucket:
        return f"not aborted: its upload is in bucket {meta.s3_bucket!r}, and S3_BUCKET_NAME is {bucket!r}"
    if meta.object_etag is not None and meta.status in ENDED - {Status.FAILED_ABORTED}:
        return "not aborted: its object is complete, so no upload is open"
    if meta.status in {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS}:
        return "not aborted: its upload was aborted when its recording was deleted"
    if meta.status is Status.FAILED_ABORTED and meta.s3_upload_id is None:
        return "not aborted: it was aborted before"
    return None


async def abort_streams(
    context: CommandContext, given: Sequence[str], *, wait_seconds: float, as_json: bool
) -> ExitCode:
    """Abort the uploads of the streams whose ids are or begin with these.

    Those that daemons work on are aborted by the daemons: they are asked, and awaited for ``wait_seconds``. One that S3
    refuses to abort keeps none of the others from it.

    Raises:
        NoSuchStreamError: no stream matches one of them, or several do.
        S3OperationError: S3 refused. The stream is ``failed_aborted`` by then, and its record still has the upload id.
    """
    stream_ids = await select_all(context.store, given)
    with Report(as_json=as_json) as report:
        busy: list[str] = []
        refused: list[S3OperationError] = []
        for stream_id in stream_ids:
            if await _is_free(context, stream_id) and await _abort_here(context, stream_id, report, refused):
                continue
            busy.append(stream_id)
        if busy:
            await _have_aborted(context, busy, report, refused, wait_seconds)
        for error in refused:
            raise error
    return report.code


async def _is_free(context: CommandContext, stream_id: str) -> bool:
    return stream_id not in await context.store.holders([stream_id])


async def _abort_here(
    context: CommandContext,
    stream_id: str,
    report: Report,
    refused: list[S3OperationError],
    *,
    asked: bool = False,
) -> bool:
    """Abort a stream under this command's lease and report it; return false if a daemon has the lease.

    ``refused`` gets the error of S3 if that refuses this one. ``asked``: a daemon was asked to abort it, and may have
    done so.
    """
    deadline = context.abort_deadline()
    async with context.hold_lease(stream_id) as held:
        if not held:
            return False
        try:
            checkpoint = await context.store.load(stream_id)
        except RecordUnreadableError as error:
            report.add(stream_id, f"not aborted: {error}", ok=False)
            return True
        if checkpoint is None:
            report.add(stream_id, "not aborted: its record has just been deleted", ok=False)
            return True
        meta, parts = checkpoint.meta, len(checkpoint.parts)
        if asked and meta.status is Status.FAILED_ABORTED and meta.s3_upload_id is None:
            report.add(stream_id, _done_by_daemon(meta, parts), parts=parts)
            return True
        refusal = why_not(meta, context.bucket)
        if refusal is not None:
            report.add(stream_id, refusal, ok=False)
            return True
        try:
            outcome = await _abort(context, meta, deadline, discarded=output.count(parts, "part"))
        except S3OperationError as error:
            report.add(stream_id, _HALF_ABORTED, ok=False, parts=parts)
            if error.transient:
                raise
            refused.append(error)
        else:
            report.add(stream_id, outcome, parts=parts)
        return True


async def _have_aborted(
    context: CommandContext,
    stream_ids: Sequence[str],
    report: Report,
    refused: list[S3OperationError],
    wait_seconds: float,
) -> None:
    """Ask the daemons that work on these streams to abort them, and report what they did."""
    store, gives_up_at = context.store, trio.current_time() + wait_seconds
    await store.request_abort(stream_ids)
    pending = list(stream_ids)
    while True:
        holders = await store.holders(pending)
        for stream_id in [one for one in pending if one not in holders]:  # its daemon has ended it, or has gone
            if await _abort_here(context, stream_id, report, refused, asked=True):
                pending.remove(stream_id)
        if not pending or trio.current_time() >= gives_up_at:
            break
        await trio.sleep(_POLL_SECONDS)
    for stream_id in pending:
        instance = instance_of(holders[stream_id]) if stream_id in holders else "another process"
        report.add(stream_id, _NOT_YET.format(instance=instance), ok=False, requested=True)


def _done_by_daemon(meta: StreamMeta, parts: int) -> str:
    if meta.object_etag is not None:
        return f"ended by its daemon: its object is complete and stays: {meta.s3_key_prefix}"
    return f"aborted by its daemon: {output.count(parts, 'part')} discarded in S3; {_RETRY}"


async def _abort(context: CommandContext, meta: StreamMeta, deadline: float, *, discarded: str) -> str:
    change = Change({"failure_reason": aborted_because(meta), "last_activity_at_utc": context.utc_now()})
    await context.store.transition(meta.stream_id, context.lease, Status.FAILED_ABORTED, change)
    with aborting_until(deadline):
        await abort_uploads(context.s3, meta)
    of_upload = ["s3_upload_id"] if meta.object_etag is not None else ["s3_upload_id", "checksum_algorithm"]
    await context.store.update(meta.stream_id, context.lease, Change(dict.fromkeys(of_upload)))
    if meta.object_etag is not None:
        return f"ended: its object is complete and stays: {meta.s3_key_prefix}; `cef-trio retry` writes its metadata"
    aborted = f"aborted: {discarded} discarded in S3"
    if meta.verified_size_bytes is not None:  # Complete may have succeeded without being recorded
        stored = await context.s3.head_object(meta.s3_key_prefix)
        if stored is not None and stored.metadata.get(STREAM_ID_METADATA) == meta.stream_id:
            if _has_its_bytes(stored, meta):
                return f"{aborted}; its object was already complete, and is kept: {meta.s3_key_prefix}"
            return f"{aborted}; an object without its bytes is left, and may be deleted: {meta.s3_key_prefix}"
    return f"{aborted}; {_RETRY}"


def _has_its_bytes(stored: StoredObject, meta: StreamMeta) -> bool:
    """Return whether an object is the verified recording, as far as sizes and checksums show."""
    checksums = {stored.crc64nvme, meta.verified_crc64nvme} - {None}
    return stored.size_bytes == meta.verified_size_bytes and len(checksums) <= 1
