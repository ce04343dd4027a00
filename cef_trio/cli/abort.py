"""``cef-trio abort``: abort a stream's upload, in S3 and in Redis. The recording itself is never touched.

A stream that a daemon works on is refused: parts in flight would race the abort, and the daemon would start the upload
again. The lease of a daemon that crashed expires within its ``LEASE_SECONDS``.

The order is: set ``failed_aborted`` in Redis, abort in S3, remove the upload id from Redis. An interruption in between
leaves an upload that Redis still names and that no daemon continues; the same command again, or ``cef-trio gc``, aborts
it.

A stream whose object is complete, and whose metadata JSON is not written, is ended in the same way: its object stays.
So the streams of a host that is gone can all be ended, and its owner be retired.
"""

from __future__ import annotations

import argparse
from typing import Final

from cef_trio.checkpoint import ENDED, FAILED, SENTENCES, Change, FailureReason, Status, StreamMeta
from cef_trio.cli import output
from cef_trio.cli.arguments import NO_FOLDER, STREAM_ID_HELP, add_common, add_owner, owner_override
from cef_trio.cli.result_lines import Report
from cef_trio.cli.session import CommandContext, aborting_until, run_command
from cef_trio.cli.status_model import instance_of
from cef_trio.cli.stream_selection import select_all
from cef_trio.exceptions import S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.settings import load_settings
from cef_trio.upload import STREAM_ID_METADATA, abort_uploads

_HALF_ABORTED: Final = (
    "not aborted in S3: its status in Redis is failed_aborted, so no daemon continues it, but S3 still has the upload; "
    "repeat the command"
)
_OBJECT_STAYS: Final = "Its object is complete in S3 and stays; its metadata JSON was not written."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``abort``."""
    add_common(
        parser,
        more="The recording is left alone, and is not uploaded again until `cef-trio retry ID`. A stream that "
        "a daemon works on is refused: stop it first, or delete the recording: then the daemon aborts it itself.",
        exit_codes="5 it was not aborted; the output gives the reason",
        examples=(
            "cef-trio abort 0b6f0c4e",
            "cef-trio abort --owner node-7 0b6f0c4e",
        ),
    )
    add_owner(parser)
    parser.add_argument("stream", metavar="ID", help=STREAM_ID_HELP)


def run(arguments: argparse.Namespace) -> int:
    """Run ``abort`` and return its exit code."""
    settings = load_settings(arguments.env_file, unneeded=NO_FOLDER, **owner_override(arguments))
    return run_command(settings, lambda context: abort_stream(context, arguments.stream, as_json=arguments.json))


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


async def abort_stream(context: CommandContext, given: str, *, as_json: bool) -> ExitCode:
    """Abort the upload of the stream whose id is or begins with ``given``.

    Raises:
        NoSuchStreamError: no stream matches, or several do.
        S3OperationError: S3 refused. The stream is ``failed_aborted`` by then, and its record still has the upload id.
    """
    [stream_id] = await select_all(context.store, [given])
    with Report(as_json=as_json) as report:
        deadline = context.abort_deadline()
        async with context.hold_lease(stream_id) as held:
            checkpoint = await context.store.load(stream_id)
            if not held:
                refusal: str | None = await _busy(context, stream_id)
            elif checkpoint is None:
                refusal = "not aborted: its record has just been deleted"
            else:
                refusal = why_not(checkpoint.meta, context.bucket)
            if refusal is not None or checkpoint is None:
                report.add(stream_id, refusal or "not aborted", ok=False)
                return report.code
            parts = len(checkpoint.parts)
            try:
                outcome = await _abort(context, checkpoint.meta, deadline, discarded=output.count(parts, "part"))
            except S3OperationError:
                report.add(stream_id, _HALF_ABORTED, ok=False, parts=parts)
                raise
            report.add(stream_id, outcome, parts=parts)
    return report.code


async def _busy(context: CommandContext, stream_id: str) -> str:
    holder = (await context.store.holders([stream_id])).get(stream_id)
    instance = instance_of(holder) if holder else "another process"
    return (
        f"not aborted: {instance} works on it; stop that daemon first, or delete the recording: then it aborts the "
        "upload itself. If the daemon has crashed, its lease expires within its LEASE_SECONDS"
    )


async def _abort(context: CommandContext, meta: StreamMeta, deadline: float, *, discarded: str) -> str:
    change = Change({"failure_reason": _failure_reason(meta), "last_activity_at_utc": context.utc_now()})
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
            return f"{aborted}; its object was already complete, and is kept: {meta.s3_key_prefix}"
    return f"{aborted}; `cef-trio retry` uploads the recording again"


def _failure_reason(meta: StreamMeta) -> str:
    if meta.status is Status.FAILED_ABORTED and meta.failure_reason:
        return meta.failure_reason  # the command is repeated
    says = SENTENCES[FailureReason.ABORTED]
    if meta.object_etag is not None:
        says += f" {_OBJECT_STAYS}"
    if meta.status in FAILED and meta.failure_reason:
        says += f" Before that: {meta.failure_reason}"
    return says
