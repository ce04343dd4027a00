"""``cef-trio retry``: retry failed streams. The daemon that watches their folder resumes them within seconds.

Each stream is one atomic step under this command's lease: Ctrl-C cannot leave it half-done. The daemon then handles it
like any open stream without a lease (``upload/idle_checker.py``, ``upload/recovery.py``).
"""

from __future__ import annotations

import argparse

from cef_trio.checkpoint import FAILED, Change, Checkpoint, History, Status, ended_streams
from cef_trio.cli.arguments import REDIS_ONLY, STREAM_ID_HELP, add_common, add_owner
from cef_trio.cli.redis_session import command_settings
from cef_trio.cli.result_lines import Report
from cef_trio.cli.retry_plan import Presence, RetryPath, RetryPlan, plan_retry, presence_of, reason_of_status
from cef_trio.cli.session import CommandContext, run_command
from cef_trio.cli.stream_selection import select_all
from cef_trio.exceptions import (
    ChunkProcessingError,
    LeaseLostError,
    RecordingChangedError,
    RecordUnreadableError,
    RedisOperationError,
    S3OperationError,
)
from cef_trio.exit_codes import ExitCode
from cef_trio.files import FileStat, is_same_mount, root_of
from cef_trio.upload import KEEPS_ITS_UPLOAD, Claim, abort_uploads, identify, recognize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``retry``."""
    add_common(
        parser,
        more="A stream whose upload was kept continues it, one whose upload was aborted starts over. A stream whose "
        "recording is gone or replaced is refused. A running daemon resumes them within STALE_CHECK_SECONDS. "
        "--all skips streams that `cef-trio abort` aborted.",
        exit_codes="5 a stream was not retried; the output gives the reason",
        examples=(
            "cef-trio retry 0b6f0c4e",
            "cef-trio retry --all",
        ),
    )
    add_owner(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("streams", nargs="*", default=[], metavar="ID", help=STREAM_ID_HELP)
    which.add_argument("--all", action="store_true", help="every failed stream")


def run(arguments: argparse.Namespace) -> int:
    """Run ``retry`` and return its exit code."""
    settings = command_settings(arguments, REDIS_ONLY)
    return run_command(
        settings, lambda context: retry_streams(context, arguments.streams, every=arguments.all, as_json=arguments.json)
    )


async def retry_streams(context: CommandContext, given: list[str], *, every: bool, as_json: bool) -> ExitCode:
    """Retry the given streams, or every failed one except those that ``cef-trio abort`` aborted.

    Raises:
        NoSuchStreamError: one of the ids matches no stream, or several.
    """
    stream_ids = await _every_failed(context) if every else await select_all(context.store, given)
    with Report(as_json=as_json) as report:
        for stream_id in stream_ids:
            plan = await retry_stream(context, stream_id)
            report.add(stream_id, plan.says, ok=plan.way is not None, way=plan.way.value if plan.way else None)
        if not stream_ids:
            report.remark("No failed streams.")
    return report.code


async def _every_failed(context: CommandContext) -> list[str]:
    wanted = FAILED - {Status.FAILED_ABORTED}
    found = list[str]()
    async for known in ended_streams(context.store, History.FAILED):
        ours, _ = context.ownership.divide(known)
        found += [stream_id for stream_id, one in ours.items() if one.meta.status in wanted]
    return sorted(found)


async def retry_stream(context: CommandContext, stream_id: str) -> RetryPlan:
    """Retry one stream, if possible."""
    async with context.hold_lease(stream_id) as held:
        if not held:
            return RetryPlan(None, "not retried: another process is working on it")
        try:
            checkpoint = await context.store.load(stream_id)
        except RecordUnreadableError as error:
            return RetryPlan(None, f"not retried: {error}")
        if checkpoint is None:
            return RetryPlan(None, "not retried: its record has just been deleted")
        meta = checkpoint.meta
        claim = context.ownership.claim(meta)
        presence, stat = await find_file(context, checkpoint)
        size_bytes = stat.size_bytes if stat is not None else None
        if claim is Claim.OTHER_OWNER or (claim is Claim.PERHAPS and presence is not Presence.SAME):
            return RetryPlan(
                None, "not retried: it belongs to another host, or to another folder of that name: retry it there"
            )
        plan = plan_retry(meta, presence, size_bytes, part_size=context.part_size, equal_parts=context.equal_parts)
        change = Change(plan.fields)
        try:
            match plan.way:
                case RetryPath.GO_ON:
                    await context.store.transition(stream_id, context.lease, Status.ACTIVE, change)
                case RetryPath.START_OVER:
                    if reason_of_status(meta.status) in KEEPS_ITS_UPLOAD:
                        await abort_uploads(
                            context.s3, meta
                        )  # otherwise the daemon would find it by its key and continue it
                    await context.store.start_over(stream_id, context.lease, change)
                case RetryPath.FINISH:
                    await context.store.transition(stream_id, context.lease, Status.S3_COMPLETED, change)
        except (LeaseLostError, RedisOperationError, S3OperationError) as error:
            if error.transient:
                raise
            return RetryPlan(None, f"not retried: {error}")  # of this stream only: continue with the next
        return plan


async def find_file(context: CommandContext, checkpoint: Checkpoint) -> tuple[Presence, FileStat | None]:
    """Return what is at the path of the stream's file; if it is the recording, also its stat."""
    meta = checkpoint.meta
    path = meta.current_path
    found = await context.store.find_by_path([path], owner=context.ownership.name_at)
    if path in found.unreadable:
        return Presence.TAKEN, None  # by another record, as this one was read
    named = found.get(path)
    led = named is not None and context.ownership.claim(named.meta) is not Claim.OTHER_OWNER
    if led and named is not None and named.meta.stream_id != meta.stream_id:
        return Presence.TAKEN, None
    try:
        async with context.disk.open(path) as recording:
            stat = await recording.stat()
            observed = await identify(recording, stat, meta.identity.head_size_bytes)
            identity_match = await recognize(meta, checkpoint.parts, recording)
    except RecordingChangedError:
        folder = root_of(path, context.folders)
        if folder is None:  # whether the folder that it was in is there, or not mounted, cannot be told
            return Presence.NOT_SEEN, None
        place = await context.disk.mount_around(path, within=folder)
        gone = place is not None and is_same_mount(meta.identity, place)
        return (Presence.GONE if gone else Presence.NOT_SEEN), None
    except ChunkProcessingError:
        return Presence.NOT_SEEN, None
    presence = presence_of(meta.identity, observed, identity_match)
    return presence, stat if presence is Presence.SAME else None
