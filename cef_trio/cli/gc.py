"""``cef-trio gc``: abort the open uploads under our prefix that no stream owns (promise P5).

An upload that a daemon works on is never aborted:

- S3 is listed before Redis is read. A daemon records a stream before it opens its upload, so the stream of every
  listed upload is in Redis by then, unless Redis lost its data. ``--older-than`` covers that case: a daemon whose
  records are gone adopts its uploads within seconds, under the same ids.
- Each upload is judged again under its stream's lease, just before it is aborted, so no daemon and no
  ``cef-trio retry`` can take the stream up in between. If the lease is held elsewhere, the upload is kept.
- Uploads whose streams another owner knows are kept: its ``S3_KEY_TEMPLATE`` may have its objects below our prefix.
- An unreadable record keeps its upload. A Redis without any stream (perhaps the wrong one) keeps them all.
- An abort ends before the lease under which it was judged. If S3 takes longer to respond, the command fails.

Ctrl-C stops between two uploads. The results so far are always printed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cef_trio.checkpoint import ENDED, Records, StreamMeta
from cef_trio.cli import output
from cef_trio.cli.arguments import NO_FOLDER, add_common, add_owner, age
from cef_trio.cli.redis_session import command_settings
from cef_trio.cli.result_lines import Report
from cef_trio.cli.session import CommandContext, aborting_until, run_command
from cef_trio.cli.superseded import collect_superseded
from cef_trio.exceptions import RecordUnreadableError, S3OperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.s3 import ListedUpload
from cef_trio.settings import SettingsError
from cef_trio.upload import is_orphan

_EMPTY: Final = (
    "Redis has no stream at all; with the wrong REDIS_URL or REDIS_KEY_PREFIX this would abort uploads that are "
    "in use. Nothing was aborted. If it is the right one, add --redis-is-empty"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``gc``."""
    add_common(
        parser,
        more="Those are uploads of streams that are not in Redis, or that have ended without keeping their upload "
        "for `cef-trio retry`. An upload of an open stream is never aborted. Looks below the fixed part of "
        "S3_KEY_TEMPLATE, with the owner's name; without {owner} in it, every daemon that shares the bucket and that "
        "part must share this Redis and REDIS_KEY_PREFIX: else its uploads look unowned.",
        exit_codes="5 an upload could not be aborted, an object not deleted, or Redis is empty",
        examples=(
            "cef-trio gc --dry-run",
            "cef-trio gc --older-than 7d",
            "cef-trio gc --superseded --dry-run",
        ),
    )
    add_owner(parser)
    parser.add_argument(
        "--older-than",
        type=age,
        default="24h",
        metavar="AGE",
        help="leave younger ones alone: 90s, 30m, 24h, 7d (24h)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be aborted or deleted")
    parser.add_argument(
        "--superseded",
        action="store_true",
        help="delete the objects of recordings that changed after their completion and have a later object, instead",
    )
    parser.add_argument(
        "--redis-is-empty",
        action="store_true",
        help="continue although Redis has no stream at all, as with a wrong REDIS_URL or REDIS_KEY_PREFIX",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``gc`` and return its exit code.

    Raises:
        SettingsError: the arguments do not fit together.
    """
    if arguments.superseded and arguments.redis_is_empty:
        raise SettingsError(["--redis-is-empty is for gc without --superseded"])
    settings = command_settings(arguments, NO_FOLDER)
    if arguments.superseded:
        return run_command(
            settings,
            lambda context: collect_superseded(
                context, arguments.older_than, dry_run=arguments.dry_run, as_json=arguments.json
            ),
        )
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


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether to abort an upload, and why."""

    abort: bool
    why: str


def judge_upload(  # noqa: PLR0911 - it is a table
    upload: ListedUpload,
    stream_id: str | None,
    meta: StreamMeta | None,
    *,
    born_before: datetime,
    of_another_host: bool = False,
    of_another_owner: bool = False,
) -> Judgement:
    """Judge one upload. Pure.

    ``stream_id`` is ``None`` if the key does not match the template, ``meta`` if Redis has no such stream.
    """
    if stream_id is None:
        return Judgement(abort=False, why="its key does not match S3_KEY_TEMPLATE")
    if upload.initiated_at_utc > born_before:
        return Judgement(abort=False, why="it is younger than --older-than")
    if of_another_owner:
        return Judgement(abort=False, why="its stream is another owner's, whose S3_KEY_TEMPLATE leads here")
    if meta is None:
        return Judgement(abort=True, why="Redis has no such stream")
    if meta.status not in ENDED:
        return Judgement(abort=False, why=f"its stream is open ({meta.status.value})")
    if not is_orphan(meta, upload.upload_id):
        return Judgement(abort=False, why=f"`cef-trio retry` can continue it ({meta.status.value})")
    if of_another_host:
        return Judgement(abort=False, why="its stream belongs to another host: run `cef-trio gc` there")
    return Judgement(abort=True, why=f"its stream has ended ({meta.status.value})")


_NO_STREAM: Final = str(UUID(int=0))
"""The stream id in the keys of probes (:attr:`KeyTemplate.probe_recording_key`)."""
_UNREADABLE: Final = Judgement(abort=False, why="its stream's record cannot be read")


async def collect(
    context: CommandContext, older_than: timedelta, *, dry_run: bool, redis_is_empty: bool, as_json: bool
) -> ExitCode:
    """Abort the uploads that no stream owns; with ``dry_run`` only list them.

    Raises:
        S3OperationError: the uploads cannot be listed, or S3 is unavailable.
        RedisOperationError: Redis cannot be read.
    """
    born_before = context.utc_now() - older_than
    uploads = await context.s3.list_multipart_uploads(context.key_template.prefix)
    known_streams = sum((await context.store.count()).values())  # after the listing: see the module's docstring
    aborted, kept = 0, Counter[str]()
    with Report(as_json=as_json) as report:
        if not known_streams and uploads and not redis_is_empty:
            output.print_error(_EMPTY)
            report.add("redis", _EMPTY, ok=False, shown=False)
            return report.code
        records = await context.store.load_metas({key for upload in uploads if (key := _id_in(context, upload))})
        elsewhere = await _known_elsewhere(context, uploads, records)
        with output.ProgressLine("upload", len(uploads), quiet=as_json) as progress:
            for number, upload in enumerate(uploads, 1):
                progress.show(number)
                judgement = _first_judgement(context, upload, records, elsewhere, born_before)
                refusal = None
                if judgement.abort and not dry_run:
                    judgement, refusal = await _abort(context, upload, born_before)
                aborted += judgement.abort
                kept[judgement.why] += not judgement.abort and refusal is None
                progress.erase()
                report.add(
                    upload.key,
                    refusal or f"{_verb(judgement, dry_run=dry_run)}: {judgement.why}",
                    ok=refusal is None,
                    shown=judgement.abort or refusal is not None,
                    upload_id=upload.upload_id,
                    initiated_at_utc=upload.initiated_at_utc,
                    aborted=judgement.abort and not dry_run,
                    abort=judgement.abort,
                )
        verb = "would be aborted" if dry_run else "aborted"
        uploads_in_all = output.count(len(uploads), "open upload")
        report.remark(f"{uploads_in_all} under {context.key_template.prefix!r}: {aborted} {verb}")
        for why, number in sorted(kept.items()):
            if number:
                report.remark(f"  {number} kept: {why}")
    return report.code


def _verb(judgement: Judgement, *, dry_run: bool) -> str:
    if not judgement.abort:
        return "kept"
    return "would be aborted" if dry_run else "aborted"


def _id_in(context: CommandContext, upload: ListedUpload) -> str | None:
    if upload.key == context.key_template.probe_key:
        return _NO_STREAM  # left by a probe that could not abort it
    proposed = context.key_template.parse(upload.key)
    return proposed.stream_id if proposed else None


async def _known_elsewhere(
    context: CommandContext, uploads: Collection[ListedUpload], records: Records
) -> frozenset[str]:
    """Return the streams of these uploads that Redis does not know here, and another owner knows."""
    if context.owners is None:
        return frozenset()
    ids = {key for upload in uploads if (key := _id_in(context, upload))} - records.keys() - records.unreadable.keys()
    return await context.owners.known_elsewhere(ids, mixed=context.key_template.mixes_owners)


def _first_judgement(
    context: CommandContext,
    upload: ListedUpload,
    records: Records,
    elsewhere: frozenset[str],
    born_before: datetime,
) -> Judgement:
    stream_id = _id_in(context, upload) or ""
    if stream_id in records.unreadable:
        return _UNREADABLE
    if stream_id in elsewhere:
        return judge_upload(upload, stream_id, None, born_before=born_before, of_another_owner=True)
    known = records.get(stream_id)
    return _judge(context, upload, stream_id or None, known.meta if known else None, born_before)


def _judge(
    context: CommandContext, upload: ListedUpload, stream_id: str | None, meta: StreamMeta | None, born_before: datetime
) -> Judgement:
    of_another_host = meta is not None and not context.ownership.is_ours(meta)
    return judge_upload(upload, stream_id, meta, born_before=born_before, of_another_host=of_another_host)


async def _abort(context: CommandContext, upload: ListedUpload, born_before: datetime) -> tuple[Judgement, str | None]:
    """Judge an upload again under its stream's lease, and abort it. Also return why S3 refused, if it did."""
    stream_id = _id_in(context, upload)
    if stream_id is None:
        return Judgement(abort=False, why="its key does not match S3_KEY_TEMPLATE"), None
    deadline = context.abort_deadline()
    async with context.hold_lease(stream_id) as held:
        if not held:
            return Judgement(abort=False, why="another process works on its stream"), None
        try:
            checkpoint = await context.store.load(stream_id)
        except RecordUnreadableError:
            return _UNREADABLE, None
        judgement = _judge(context, upload, stream_id, checkpoint.meta if checkpoint else None, born_before)
        if judgement.abort:
            try:
                with aborting_until(deadline):
                    await context.s3.abort_multipart_upload(upload.key, upload.upload_id)
            except S3OperationError as error:
                if error.transient:
                    raise
                return Judgement(abort=False, why=judgement.why), f"NOT aborted: {error}"
        return judgement, None
