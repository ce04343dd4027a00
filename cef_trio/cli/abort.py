"""``cef-trio abort``: a person gives a stream's upload up, in S3 and in Redis. The recording itself is never touched.

A stream that a daemon works on is refused: parts in flight would race the abort, and a daemon that is told nothing
would begin again. The lease of a daemon that died runs out within its ``LEASE_SECONDS``.

The order is: Redis says ``failed_aborted``, S3 aborts, Redis forgets the upload. So whoever stops in between leaves an
upload that Redis still names and that no daemon goes on with; the same command again, or ``cef-trio gc``, ends it.
"""

from __future__ import annotations

import argparse
from typing import Final

import trio

from cef_trio.checkpoint import FAILED, SENTENCES, Change, FailureReason, Status, StreamMeta
from cef_trio.cli import output
from cef_trio.cli.arguments import NO_FOLDER, STREAM_ID_HELP, add_common
from cef_trio.cli.result_lines import Report
from cef_trio.cli.session import CommandContext, run_command
from cef_trio.cli.status_model import instance_of
from cef_trio.cli.stream_selection import select_all
from cef_trio.exceptions import S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.settings import load_settings
from cef_trio.upload import STREAM_ID_METADATA, abort_uploads

_MARGIN_SECONDS: Final = 1.0
"""By how much the abort ends before the lease under which it is made; a lease has 3 seconds at least."""
_HALF: Final = (
    "not aborted in S3: Redis says failed_aborted, so no daemon goes on with it, and S3 has its upload still; "
    "give the command again"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``abort``."""
    add_common(
        parser,
        more="The recording is left alone, and is not uploaded again until `cef-trio retry ID`. A stream that "
        "a daemon works on is refused: stop it first, or delete the recording: then the daemon aborts it itself.",
        exit_codes="5 it was not aborted; the output gives the reason",
    )
    parser.add_argument("stream", metavar="ID", help=STREAM_ID_HELP)


def run(arguments: argparse.Namespace) -> int:
    """Run ``abort`` and return its exit code."""
    settings = load_settings(arguments.env_file, unneeded=NO_FOLDER)
    return run_command(settings, lambda context: abort_stream(context, arguments.stream, as_json=arguments.json))


def why_not(meta: StreamMeta, bucket: str) -> str | None:
    """Why a stream that nobody works on cannot be aborted; ``None`` if it can. Pure."""
    if meta.s3_bucket != bucket:
        return f"not aborted: its upload is in bucket {meta.s3_bucket!r}, and S3_BUCKET_NAME is {bucket!r}"
    if meta.object_etag is not None:
        return "not aborted: its object is complete, so no upload is open"
    if meta.status in {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS}:
        return "not aborted: its upload was given up when its recording was deleted"
    if meta.status is Status.FAILED_ABORTED and meta.s3_upload_id is None:
        return "not aborted: it was aborted before"
    return None


async def abort_stream(context: CommandContext, given: str, *, as_json: bool) -> ExitCode:
    """Abort the stream that ``given`` means.

    Raises:
        NoSuchStreamError: it means none, or several.
        S3OperationError: S3 refused; Redis knows the stream as aborted by then, and names the upload still.
    """
    [stream_id] = await select_all(context.store, [given])
    with Report(as_json=as_json) as report:
        ours_until = trio.current_time() + context.lease.ttl_seconds - _MARGIN_SECONDS
        async with context.holding(stream_id) as held:
            checkpoint = await context.store.load(stream_id)
            if not held:
                refusal: str | None = await _busy(context, stream_id)
            elif checkpoint is None:
                refusal = "not aborted: it was forgotten just now"
            else:
                refusal = why_not(checkpoint.meta, context.bucket)
            if refusal is not None or checkpoint is None:
                report.add(stream_id, refusal or "not aborted", ok=False)
                return report.code
            parts = len(checkpoint.parts)
            try:
                says = await _abort(context, checkpoint.meta, ours_until)
            except S3OperationError:
                report.add(stream_id, _HALF, ok=False, parts=parts)
                raise
            given_up = output.count(parts, "part")
            report.add(stream_id, f"aborted: {given_up} given up in S3; {says}", parts=parts)
    return report.code


async def _busy(context: CommandContext, stream_id: str) -> str:
    holder = (await context.store.holders([stream_id])).get(stream_id)
    who = instance_of(holder) if holder else "another process"
    return (
        f"not aborted: {who} works on it; stop that daemon first, or delete the recording: then it aborts the upload "
        "itself. If it is dead, its lease runs out within its LEASE_SECONDS"
    )


async def _abort(context: CommandContext, meta: StreamMeta, ours_until: float) -> str:
    await context.store.transition(
        meta.stream_id, context.lease, Status.FAILED_ABORTED, Change({"failure_reason": _in_words(meta)})
    )
    with trio.move_on_at(ours_until) as scope:
        await abort_uploads(context.s3, meta)
    if scope.cancelled_caught:
        # Once the lease is over a `retry` may have opened a new upload under the same key, which must not be aborted.
        raise S3OperationError("abort_multipart_upload", "no answer while its stream was ours", transient=True)
    await context.store.update(
        meta.stream_id, context.lease, Change({"s3_upload_id": None, "checksum_algorithm": None})
    )
    if (
        meta.verified_size_bytes is not None
    ):  # it was about to be completed: perhaps it was, and only the record is lost
        stored = await context.s3.head_object(meta.s3_key_prefix)
        if stored is not None and stored.metadata.get(STREAM_ID_METADATA) == meta.stream_id:
            return f"its object had been completed before, and is left as it is: {meta.s3_key_prefix}"
    return "`cef-trio retry` would upload the recording anew"


def _in_words(meta: StreamMeta) -> str:
    sentence = SENTENCES[FailureReason.ABORTED]
    if meta.status in FAILED - {Status.FAILED_ABORTED} and meta.failure_reason:
        return f"{sentence} Before that: {meta.failure_reason}"
    return meta.failure_reason or sentence if meta.status is Status.FAILED_ABORTED else sentence
