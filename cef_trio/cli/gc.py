"""``cef-trio gc``: abort the open uploads under our prefix that no stream owns (promise P5).

It must never abort what a daemon works on, whatever happens meanwhile. Why it cannot:

- S3 is listed before Redis is asked. A daemon records a stream before it opens its upload, so the stream of every
  upload in the list is in Redis by then, unless Redis lost its memory; the age is for that case: the daemon that finds
  its records gone takes its uploads over within seconds, under the same ids.
- Each upload is judged again under its stream's lease, just before it is aborted: no daemon and no ``cef-trio retry``
  can take the stream up in between. Where somebody else holds the lease, the upload is left alone.
- A record that cannot be read keeps its upload; a Redis that knows no stream at all (the wrong one?) keeps them all.

- What was judged under a lease is aborted within that lease's time, or not at all: an S3 that takes longer to answer
  ends the command.

Ctrl-C stops between two uploads; what was done is printed however it ends.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import trio

from cef_trio.checkpoint import ENDED, Records, StreamMeta
from cef_trio.cli import output
from cef_trio.cli.arguments import NO_FOLDER, add_common
from cef_trio.cli.result_lines import Report
from cef_trio.cli.session import CommandContext, run_command
from cef_trio.cli.stream_selection import all_ids
from cef_trio.exceptions import RecordUnreadableError, S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.s3 import ListedUpload
from cef_trio.settings import load_settings
from cef_trio.upload import bulk_load, is_orphan

_EMPTY: Final = (
    "Redis knows no stream at all; with the wrong REDIS_URL or REDIS_KEY_PREFIX this would abort uploads that are "
    "alive. Nothing was aborted. If it is the right one, say --redis-is-empty"
)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_ABORT: Final = "abort_multipart_upload"
_MARGIN_SECONDS: Final = 1.0
"""By how much an abort ends before the lease under which it was judged; a lease has 3 seconds at least."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``gc``."""
    add_common(
        parser,
        more="Those are uploads of streams that Redis does not know, or that have ended without keeping their upload "
        "for `cef-trio retry`. An upload of a live stream is never aborted. Every daemon that shares the bucket and "
        "the fixed part of S3_KEY_TEMPLATE must share this Redis and REDIS_KEY_PREFIX: else its uploads look unowned.",
        exit_codes="5 an upload could not be aborted, or Redis is empty",
    )
    parser.add_argument(
        "--older-than",
        type=_age,
        default="24h",
        metavar="AGE",
        help="leave younger ones alone: 90s, 30m, 24h, 7d (24h)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be aborted")
    parser.add_argument(
        "--redis-is-empty",
        action="store_true",
        help="go on although Redis knows no stream at all, as it does with a wrong REDIS_URL or REDIS_KEY_PREFIX",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``gc`` and return its exit code."""
    settings = load_settings(arguments.env_file, unneeded=NO_FOLDER)
    return run_command(
        settings,
        lambda context: collect(
            context,
            arguments.older_than,
            dry_run=arguments.dry_run,
            redis_is_empty=arguments.redis_is_empty,
            as_json=arguments.json,
        ),
    )


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"takes an age such as 90s, 30m, 24h or 7d, not {text!r}")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of an upload, and why."""

    abort: bool
    why: str


def judge_upload(  # noqa: PLR0911 - it is a table
    upload: ListedUpload,
    stream_id: str | None,
    meta: StreamMeta | None,
    *,
    born_before: datetime,
    anothers: bool = False,
) -> Fate:
    """Judge one upload. Pure.

    Args:
        upload: as S3 lists it.
        stream_id: the stream's id in its key; ``None`` if the key is none of our template's.
        meta: what Redis knows of that stream; ``None``: nothing.
        born_before: younger uploads are left alone.
        anothers: whether the stream is another host's.
    """
    if stream_id is None:
        return Fate(abort=False, why="its key is not of S3_KEY_TEMPLATE")
    if upload.initiated_at_utc > born_before:
        return Fate(abort=False, why="it is younger than --older-than")
    if meta is None:
        return Fate(abort=True, why="Redis knows no such stream")
    if meta.status not in ENDED:
        return Fate(abort=False, why=f"its stream is alive ({meta.status.value})")
    if not is_orphan(meta, upload.upload_id):
        return Fate(abort=False, why=f"`cef-trio retry` goes on with it ({meta.status.value})")
    if anothers:
        return Fate(abort=False, why="its stream is another host's: `cef-trio gc` there looks after it")
    return Fate(abort=True, why=f"its stream has ended ({meta.status.value})")


_UNREADABLE: Final = Fate(abort=False, why="its stream's record cannot be read")


async def collect(
    context: CommandContext, older_than: timedelta, *, dry_run: bool, redis_is_empty: bool, as_json: bool
) -> ExitCode:
    """Abort what nobody owns, or say what would be.

    Raises:
        S3OperationError: the uploads cannot be listed, or S3 is away.
        RedisOperationError: the store cannot be asked.
    """
    born_before = context.utc_now() - older_than
    uploads = await context.s3.list_multipart_uploads(context.key_template.prefix)
    known_ids = await all_ids(context.store)  # only now: see above
    aborted, kept = 0, Counter[str]()
    with Report(as_json=as_json) as report:
        if not known_ids and uploads and not redis_is_empty:
            output.complain(_EMPTY)
            report.add("redis", _EMPTY, ok=False, shown=False)
            return report.code
        records = await _records(context, uploads)
        for upload in uploads:
            fate = _first_judgement(context, upload, records, born_before)
            refusal = None
            if fate.abort and not dry_run:
                fate, refusal = await _abort(context, upload, born_before)
            aborted += fate.abort
            kept[fate.why] += not fate.abort and refusal is None
            report.add(
                upload.key,
                refusal or f"{_verb(fate, dry_run=dry_run)}: {fate.why}",
                ok=refusal is None,
                shown=fate.abort or refusal is not None,
                upload_id=upload.upload_id,
                initiated_at_utc=upload.initiated_at_utc,
                aborted=fate.abort and not dry_run,
                abort=fate.abort,
            )
        verb = "would be aborted" if dry_run else "aborted"
        uploads_in_all = output.count(len(uploads), "open upload")
        report.remark(f"{uploads_in_all} under {context.key_template.prefix!r}: {aborted} {verb}")
        for why, number in sorted(kept.items()):
            if number:
                report.remark(f"  {number} kept: {why}")
    return report.code


def _verb(fate: Fate, *, dry_run: bool) -> str:
    if not fate.abort:
        return "kept"
    return "would be aborted" if dry_run else "aborted"


def _id_in(context: CommandContext, upload: ListedUpload) -> str | None:
    proposed = context.key_template.parse(upload.key)
    return proposed.stream_id if proposed else None


async def _records(context: CommandContext, uploads: Collection[ListedUpload]) -> Records:
    ids = {stream_id for upload in uploads if (stream_id := _id_in(context, upload))}
    return await bulk_load.load_metas(context.store, ids)


def _first_judgement(context: CommandContext, upload: ListedUpload, records: Records, born_before: datetime) -> Fate:
    stream_id = _id_in(context, upload) or ""
    if stream_id in records.unreadable:
        return _UNREADABLE
    known = records.get(stream_id)
    return _judge(context, upload, stream_id or None, known.meta if known else None, born_before)


def _judge(
    context: CommandContext, upload: ListedUpload, stream_id: str | None, meta: StreamMeta | None, born_before: datetime
) -> Fate:
    anothers = meta is not None and not context.ownership.is_ours(meta)
    return judge_upload(upload, stream_id, meta, born_before=born_before, anothers=anothers)


async def _abort(context: CommandContext, upload: ListedUpload, born_before: datetime) -> tuple[Fate, str | None]:
    """Judge it again with its stream in our hand, and abort it; returns why S3 refused, if it did."""
    stream_id = _id_in(context, upload)
    if stream_id is None:
        return Fate(abort=False, why="its key is not of S3_KEY_TEMPLATE"), None
    ours_until = trio.current_time() + context.lease.ttl_seconds - _MARGIN_SECONDS
    async with context.holding(stream_id) as held:
        if not held:
            return Fate(abort=False, why="somebody works on its stream"), None
        try:
            checkpoint = await context.store.load(stream_id)
        except RecordUnreadableError:
            return _UNREADABLE, None
        fate = _judge(context, upload, stream_id, checkpoint.meta if checkpoint else None, born_before)
        if fate.abort:
            try:
                await _abort_until(ours_until, context, upload)
            except S3OperationError as error:
                if error.transient:
                    raise
                return Fate(abort=False, why=fate.why), f"NOT aborted: {error}"
        return fate, None


async def _abort_until(deadline: float, context: CommandContext, upload: ListedUpload) -> None:
    with trio.move_on_at(deadline) as scope:
        await context.s3.abort_multipart_upload(upload.key, upload.upload_id)
    if scope.cancelled_caught:
        raise S3OperationError(_ABORT, "no answer while its stream was ours; try again", transient=True)
