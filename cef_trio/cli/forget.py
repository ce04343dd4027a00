"""``cef-trio forget``: let failed streams go: abort the uploads that they keep, and count them no more.

The recording itself is never touched, and is not uploaded as a new one:

- If the file is gone, or another one has its name, the record is removed.
- If the file is there, or cannot be seen from here, the record stays, marked (``StreamMeta.let_go_at_utc``): it is
  neither failed nor at risk, and its file is settled until it changes. A changed file is a new recording
  (``upload/file_triage.py``). ``cef-trio retry ID`` takes the stream up again. The daemon removes the record once the
  file has been gone for a while (``postprocess/retention.py``).

The order is: set ``failed_aborted`` in Redis, abort in S3, let go in Redis. If it is interrupted, the stream counts as
failed as before, and the same command again finishes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from cef_trio.checkpoint import (
    ENDED,
    FAILED,
    Change,
    Checkpoint,
    FailureReason,
    History,
    Status,
    StreamMeta,
    ended_streams,
)
from cef_trio.cli import output
from cef_trio.cli.arguments import NO_FOLDER, STREAM_ID_HELP, add_common, add_owner, age
from cef_trio.cli.redis_session import command_settings
from cef_trio.cli.result_lines import Report
from cef_trio.cli.retry import find_file
from cef_trio.cli.retry_plan import Presence, reason_of_status
from cef_trio.cli.session import CommandContext, aborting_until, run_command
from cef_trio.cli.stream_selection import select_all
from cef_trio.exceptions import (
    LeaseLostError,
    RecordUnreadableError,
    RedisOperationError,
    S3OperationError,
)
from cef_trio.exit_codes import ExitCode
from cef_trio.files import FileStat
from cef_trio.settings import SettingsError
from cef_trio.upload import FILE_WAS_GONE, Claim, abort_uploads

_SENTENCE: Final = "An operator let the stream go (cef-trio forget)."
_MANY_NEED_YES: Final = "forget --failed and --deleted take --yes, or --dry-run to see what would be let go"
_NO_SUCH_BUCKET: Final = "NoSuchBucket"


class End(Enum):
    """What becomes of the record of a stream that is let go."""

    REMOVED = "removed"
    KEPT = "kept"
    """Marked as let go, as its file is or may be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which ended streams are let go, if no ids are given."""

    failed: bool = False
    deleted: bool = False
    reasons: frozenset[FailureReason] = frozenset()
    """Of the failed ones; empty: any."""
    ended_before: datetime | None = None

    @property
    def histories(self) -> Sequence[History]:
        """The histories in which they are."""
        wanted = {History.FAILED: self.failed, History.DELETED: self.deleted}
        return [history for history, is_wanted in wanted.items() if is_wanted]

    def includes(self, meta: StreamMeta) -> bool:
        """Return whether an ended stream that is not completed is let go. Pure."""
        if self.ended_before is not None and meta.last_activity_at_utc >= self.ended_before:
            return False
        if meta.status not in FAILED:
            return self.deleted
        reason = reason_of_status(meta.status)
        return self.failed and meta.let_go_at_utc is None and (not self.reasons or reason in self.reasons)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``forget``."""
    add_common(
        parser,
        more="The recordings are left alone, and are not uploaded again until they change, or `cef-trio retry ID`. "
        "Objects in S3 stay. A stream that is open is refused: `cef-trio abort ID` first.",
        exit_codes="5 a stream was not let go; the output gives the reason",
        examples=(
            "cef-trio forget 3f2a",
            "cef-trio forget --failed --older-than 30d --dry-run",
            "cef-trio forget --failed --reason access_denied --yes",
        ),
    )
    add_owner(parser)
    parser.add_argument("streams", nargs="*", default=[], metavar="ID", help=STREAM_ID_HELP)
    parser.add_argument("--failed", action="store_true", help="every failed stream, in place of ids; with --yes")
    parser.add_argument(
        "--deleted", action="store_true", help="every stream whose recording was deleted, in place of ids; with --yes"
    )
    parser.add_argument(
        "--older-than", type=age, metavar="AGE", help="of these only those that ended longer ago: 90s, 30m, 24h, 7d"
    )
    parser.add_argument(
        "--reason",
        action="append",
        default=[],
        choices=[reason.value for reason in FailureReason],
        metavar="REASON",
        help="of the failed ones only those that failed for this reason (access_denied for failed_access_denied); may "
        "be given several times",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be let go")
    parser.add_argument("--yes", action="store_true", help="let go all that --failed and --deleted choose")


def run(arguments: argparse.Namespace) -> int:
    """Run ``forget`` and return its exit code."""
    many = arguments.failed or arguments.deleted
    if many == bool(arguments.streams):
        raise SettingsError(["forget takes ids of streams, or --failed, or --deleted"])
    if (arguments.older_than or arguments.reason) and not many:
        raise SettingsError(["--older-than and --reason are for --failed and --deleted"])
    if arguments.reason and not arguments.failed:
        raise SettingsError(["--reason is for --failed: a stream whose recording was deleted has none"])
    if many and not (arguments.yes or arguments.dry_run):
        raise SettingsError([_MANY_NEED_YES])
    settings = command_settings(arguments, NO_FOLDER)
    older_than: timedelta | None = arguments.older_than

    async def work(context: CommandContext) -> ExitCode:
        wanted = Wanted(
            failed=arguments.failed,
            deleted=arguments.deleted,
            reasons=frozenset(map(FailureReason, arguments.reason)),
            ended_before=context.utc_now() - older_than if older_than is not None else None,
        )
        return await forget_streams(
            context, arguments.streams, wanted, dry_run=arguments.dry_run, as_json=arguments.json
        )

    return run_command(settings, work)


async def forget_streams(
    context: CommandContext, given: Sequence[str], wanted: Wanted, *, dry_run: bool, as_json: bool
) -> ExitCode:
    """Let go the given streams, or else those that are ``wanted``.

    Raises:
        NoSuchStreamError: one of the ids matches no stream, or several.
        S3OperationError, RedisOperationError: S3 or Redis is unavailable. Repeat the command.
    """
    stream_ids = await select_all(context.store, given) if given else await _find(context, wanted)
    with Report(as_json=as_json, dry_run=dry_run) as report:
        refused = 0
        for stream_id in stream_ids:
            end, says = await _forget_one(context, stream_id, None if given else wanted, dry_run=dry_run)
            refused += end is None
            report.add(stream_id, says, ok=end is not None, record=end.value if end is not None else None)
        if not given:
            number, verb = (len(stream_ids) - refused, "would be let go") if dry_run else (len(stream_ids), "chosen")
            report.remark(f"{output.count(number, 'stream')} {verb}.")
    return report.code


async def _find(context: CommandContext, wanted: Wanted) -> list[str]:
    found = list[str]()
    for history in wanted.histories:
        async for known in ended_streams(context.store, history):
            ours, _ = context.ownership.divide(known)
            found += [stream_id for stream_id, one in ours.items() if wanted.includes(one.meta)]
    return sorted(set(found))


def why_not(meta: StreamMeta, claim: Claim, presence: Presence, bucket: str) -> str | None:
    """Return why a stream without a lease is not let go, or ``None`` if it is. Pure."""
    if claim is Claim.OTHER_OWNER or (claim is Claim.PERHAPS and presence is not Presence.SAME):
        return "not let go: it belongs to another host, or to another folder of that name: let it go there"
    if meta.status not in ENDED:
        return f"not let go: it is open ({meta.status.value}); `cef-trio abort {meta.stream_id}` ends it"
    if meta.status is Status.COMPLETED:
        return "not let go: it is completed; its record is removed COMPLETED_RETENTION_DAYS after its file"
    if meta.let_go_at_utc is not None and presence in _MAY_BE_THERE and meta.s3_upload_id is None:
        return "not let go: it was let go before, and its recording is there; `cef-trio retry` takes it up again"
    if meta.s3_upload_id is not None and meta.s3_bucket != bucket:
        return f"not let go: its upload is in bucket {meta.s3_bucket!r}, and S3_BUCKET_NAME is {bucket!r}"
    return None


_MAY_BE_THERE: Final = frozenset({Presence.SAME, Presence.NOT_SEEN})


def end_of(meta: StreamMeta, presence: Presence) -> End:
    """Return what becomes of the record. Pure.

    It stays while the file may be there, as the file would else be a new recording. A file that is found where the
    stream's file was gone, or replaced, is one anyway.
    """
    return End.KEPT if presence in _MAY_BE_THERE and meta.status not in FILE_WAS_GONE else End.REMOVED


@dataclass(frozen=True, slots=True)
class _LetGo:
    """A stream that may be let go."""

    checkpoint: Checkpoint
    presence: Presence
    stat: FileStat | None
    end: End

    @property
    def about(self) -> str:
        """What becomes of it."""
        return _about(self.checkpoint, self.end, self.presence)


async def _forget_one(
    context: CommandContext, stream_id: str, wanted: Wanted | None, *, dry_run: bool
) -> tuple[End | None, str]:
    """Let one stream go; return what became of its record, ``None`` if it was not let go, and a sentence."""
    if dry_run:
        held = stream_id in await context.store.holders([stream_id])
        found = await _judge(context, stream_id, wanted, held_elsewhere=held)
        return (None, found) if isinstance(found, str) else (found.end, f"would be let go: {found.about}")
    deadline = context.abort_deadline()
    async with context.hold_lease(stream_id) as lease:
        found = await _judge(context, stream_id, wanted, held_elsewhere=lease is None)
        if isinstance(found, str):
            return None, found
        try:
            await _let_go(context, found, deadline)
        except (LeaseLostError, RedisOperationError, S3OperationError) as error:
            if error.transient:
                raise
            return None, f"not let go: {error}"  # of this stream only: continue with the next
    return found.end, f"let go: {found.about}"


async def _judge(
    context: CommandContext, stream_id: str, wanted: Wanted | None, *, held_elsewhere: bool
) -> _LetGo | str:
    """Return the stream, or why it is not let go."""
    try:
        checkpoint = await context.store.load(stream_id)
    except RecordUnreadableError as error:
        return f"not let go: {error}"
    if checkpoint is None:
        return "not let go: its record has just been deleted"
    meta = checkpoint.meta
    if held_elsewhere:
        ends_it = "" if meta.status in ENDED else f"; `cef-trio abort {stream_id}` ends it"
        return f"not let go: another process works on it{ends_it}"
    if wanted is not None and not wanted.includes(meta):
        return "not let go: it was retried, or let go, meanwhile"
    presence, stat = await find_file(context, checkpoint)
    refusal = why_not(meta, context.ownership.claim(meta), presence, context.bucket)
    return refusal or _LetGo(checkpoint, presence, stat, end_of(meta, presence))


async def _let_go(context: CommandContext, found: _LetGo, deadline: float) -> None:
    """``deadline``: when the stream's lease is not ours any more, by ``trio.current_time()``."""
    meta, stat = found.checkpoint.meta, found.stat
    await _abort(context, meta, deadline)
    if found.end is End.REMOVED:
        await context.store.forget(meta.stream_id)
        return
    fields = {
        "let_go_at_utc": context.utc_now(),
        "let_go_size_bytes": stat.size_bytes if stat is not None else None,
        "let_go_mtime_ns": stat.mtime_ns if stat is not None else None,
        "s3_upload_id": None,
        "failure_reason": _reason(meta),
    }
    await context.store.transition(meta.stream_id, context.lease, Status.FAILED_ABORTED, Change(fields))


async def _abort(context: CommandContext, meta: StreamMeta, deadline: float) -> None:
    """Abort the upload that a failed stream keeps. Streams whose recording was deleted keep none."""
    if meta.status not in FAILED:
        return
    reason = meta.failure_reason if meta.status is Status.FAILED_ABORTED else _reason(meta)
    change = Change({"failure_reason": reason, "last_activity_at_utc": context.utc_now()})
    await context.store.transition(meta.stream_id, context.lease, Status.FAILED_ABORTED, change)
    if meta.s3_bucket != context.bucket:
        return  # it has no upload (why_not)
    try:
        with aborting_until(deadline):
            await abort_uploads(context.s3, meta)
    except S3OperationError as error:
        if error.code != _NO_SUCH_BUCKET:  # nor is there an upload then
            raise


def _reason(meta: StreamMeta) -> str:
    before = meta.failure_reason or ""
    if before.startswith(_SENTENCE):
        return before
    return f"{_SENTENCE} Before that: {before}" if before else _SENTENCE


def _about(checkpoint: Checkpoint, end: End, presence: Presence) -> str:
    meta, parts = checkpoint.meta, len(checkpoint.parts)
    says = [meta.current_path]
    if meta.object_etag is not None:
        says.append(f"its object is complete and stays: {meta.s3_key_prefix}")
    elif meta.s3_upload_id is not None:
        says.append(f"{output.count(parts, 'part')} in S3 discarded")
    if end is End.REMOVED:
        says.append("its record is removed")
    elif presence is Presence.SAME:
        says.append("its recording stays, and is not uploaded unless it changes")
    else:
        says.append("its recording cannot be seen from here; if it is there, it is not uploaded")
    return "; ".join(says)
