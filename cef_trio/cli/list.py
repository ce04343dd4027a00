"""``cef-trio list``: the streams as Redis has them. Read only."""

from __future__ import annotations

import argparse
import os
from datetime import datetime
from typing import Any, Final

from cef_trio.checkpoint import ENDED, StreamSummary
from cef_trio.cli import output
from cef_trio.cli.arguments import REDIS_ONLY, add_common, add_owner, moment, number, pattern
from cef_trio.cli.list_selection import (
    Listed,
    Selection,
    Sort,
    State,
    advice_about,
    folders_of,
    hindrances,
    relative_path,
)
from cef_trio.cli.output import Column, Row
from cef_trio.cli.redis_session import RedisContext, command_settings, run_on_redis
from cef_trio.exit_codes import ExitCode
from cef_trio.settings import STAND_INS, Settings, SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``list``."""
    add_common(
        parser,
        more="A stream is active, pending_completion, completed, failed, or its recording was deleted; of the open "
        "ones some are retrying (they wait for an outage to end) or interrupted (their daemon was stopped). Files are "
        "named below the watch folder, where one folder is known; else with their whole path. Failed streams that "
        "`cef-trio forget` let go are listed with --state let_go only.",
        examples=(
            "cef-trio list --failed",
            "cef-trio list --at-risk",
            "cef-trio list --broken",
            "cef-trio list --name 'gate*.mp4' --since 7d",
            "cef-trio list --state completed --older-than 2026-07-01 --sort size --reverse --limit 20",
            "cef-trio list --json | jq -r '.streams[].path'",
        ),
    )
    add_owner(parser)
    states = [state.value for state in State]
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--state", choices=states, metavar="STATE", help=f"only those in this state: {', '.join(states)}"
    )
    which.add_argument(
        "--failed", action="store_const", dest="state", const="failed", help="the same as --state failed"
    )
    parser.add_argument(
        "--at-risk",
        action="store_true",
        help="only those whose bytes are not getting to S3: failed, retrying, open without a daemon, or in an outage",
    )
    parser.add_argument(
        "--broken", action="store_true", help="only completed recordings that cannot be played, or not to their end"
    )
    parser.add_argument(
        "--name",
        type=pattern,
        metavar="GLOB",
        help="only recordings of this name, a pattern with * and ?; with a / in it, of this path",
    )
    age = "an age (90s, 30m, 24h, 7d) or a time in UTC (2026-07-01, 2026-07-01T12:30)"
    parser.add_argument("--since", type=moment, metavar="WHEN", help=f"only those active since then: {age}")
    parser.add_argument("--older-than", type=moment, metavar="WHEN", help="only those without activity since then")
    sorts = [sort.value for sort in Sort]
    parser.add_argument(
        "--sort", choices=sorts, default="activity", metavar="KEY", help=f"order: {', '.join(sorts)} (activity)"
    )
    parser.add_argument("--reverse", action="store_true", help="in reverse order: the latest or largest first")
    parser.add_argument("--keys", action="store_true", help="show the key of each object in S3 too")
    parser.add_argument(
        "--limit", type=number, metavar="N", help="at most N streams: the latest, the largest, or the first by name"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``list`` and return its exit code."""
    settings = command_settings(arguments, REDIS_ONLY)
    selection = Selection(
        state=State(arguments.state) if arguments.state else None,
        at_risk=arguments.at_risk,
        broken=arguments.broken,
        name=arguments.name,
        since=arguments.since,
        before=arguments.older_than,
        sort=Sort(arguments.sort),
        reverse=arguments.reverse,
        limit=arguments.limit,
    )
    if selection.since and selection.before and selection.since >= selection.before:
        raise SettingsError(["--since must be before --older-than: no stream can match both"])
    folder = _watch_folder(settings)
    return run_on_redis(
        settings,
        lambda context: list_streams(context, selection, folder, keys=arguments.keys, as_json=arguments.json),
    )


def _watch_folder(settings: Settings) -> str | None:
    folder = settings.watch_dir
    return None if folder == STAND_INS["watch_dir"] else os.fspath(folder)


async def list_streams(
    context: RedisContext, selection: Selection, folder: str | None = None, *, keys: bool = False, as_json: bool
) -> ExitCode:
    """Print the streams, each with its error, if any; ``folder``: the watch folder, if the settings have it.

    ``keys``: with the keys of their objects, which a JSON document always has.
    """
    listed = await read_streams(context, selection, folder)
    unreadable = context.store.unreadable
    if as_json:
        output.print_json(
            {
                "streams": [summary(one, listed) for one in listed.streams],
                "left_out": listed.left_out,
                "unreadable": [{"key": key, "why": why} for key, why in unreadable.known.items()],
                "newer": [{"key": key, "why": why} for key, why in unreadable.newer.items()],
            }
        )
        return ExitCode.DONE
    out, now = output.console(), context.utc_now()
    if listed.streams:
        columns = (*_COLUMNS, *((Column("object", flexible=True),) if keys else ()))
        out.print(output.table(columns, [_row(one, now, listed, keys=keys) for one in listed.streams]))
    else:
        out.print(f"No {selection.state.value} streams." if selection.state else "No streams.")
        if not listed.known and context.owners is not None and not await context.owners.has(context.owner_name):
            out.print(
                f"No daemon has ever worked as owner {context.owner_name}; `cef-trio fleet` shows the owners, and "
                "--owner chooses one.",
                soft_wrap=True,
            )
    if listed.left_out and out.is_terminal:
        out.print(output.safe(f"and {listed.left_out:,} more", "dim"))
    for why in unreadable.known.values():
        out.print(output.safe(f"cannot be read, skipped: {why}", "bold red"))
    for why in unreadable.newer.values():
        out.print(output.safe(f"not shown: {why}", "bold"))
    return ExitCode.DONE


async def read_streams(context: RedisContext, selection: Selection, folder: str | None) -> Listed:
    """Read the streams of the selection. Records of sets that cannot match are not read."""
    store, ids = context.store, set[str]()
    for stream_set in selection.sets:
        ids |= await store.members(stream_set)
    known = (await store.load_metas(ids)).values()
    folders, hindered = folders_of([folder] if folder else ()), dict[str, str]()
    if selection.at_risk or not folder:
        from cef_trio.observability import read_fleet  # only if it is needed: the judgement of daemons is large

        fleet = read_fleet(await store.reports()).of_owner(context.owner_name)
        folders = folders or folders_of(one.folder for one in fleet.reports)
        if selection.at_risk:
            opened = [one.meta.stream_id for one in known if one.meta.status not in ENDED]
            hindered = hindrances(await store.holders(opened), opened, fleet)
    matching = [one for one in known if selection.matches(one, folders, hindered)]
    chosen = selection.order(matching)
    return Listed(
        known=len(known), streams=chosen, hindered=hindered, left_out=len(matching) - len(chosen), folders=folders
    )


def summary(known: StreamSummary, listed: Listed) -> dict[str, Any]:
    """Return one stream for ``--json``: the fields of its record, its set, and what to do about it, if anything."""
    meta = known.meta
    return {
        "stream_id": meta.stream_id,
        "state": known.stream_set.value,
        "status": meta.status.value,
        "failure_reason": meta.failure_reason,
        "advice": advice_about(meta, listed.hindered),
        "path": meta.current_path,
        "relative_path": relative_path(meta.current_path, listed.folders),
        "s3_key": meta.s3_key_prefix,
        "total_bytes_sent": meta.total_bytes_sent,
        "size_bytes": meta.verified_size_bytes,
        "started_at_utc": meta.started_at_utc,
        "last_activity_at_utc": meta.last_activity_at_utc,
        "completed_at_utc": meta.completed_at_utc,
        "let_go_at_utc": meta.let_go_at_utc,
        "broken": meta.broken,
        "retry_at_utc": meta.retry_at_utc,
    }


_COLUMNS: Final = (
    Column("id"),
    Column("status", most=21),
    Column("sent", right=True, spare=1),
    Column("idle", right=True),
    Column("file", flexible=True),
)


def _row(one: StreamSummary, now: datetime, listed: Listed, *, keys: bool) -> Row:
    note = one.meta.failure_reason or (f"BROKEN: {one.meta.broken}" if one.meta.broken else None)
    advice = advice_about(one.meta, listed.hindered)
    return Row(
        (
            output.short_id(one.meta.stream_id),
            output.status(one.meta.status, one.stream_set),
            output.size(one.meta.total_bytes_sent),
            output.duration((now - one.meta.last_activity_at_utc).total_seconds()),
            output.safe(relative_path(one.meta.current_path, listed.folders)),
            *((output.safe(one.meta.s3_key_prefix),) if keys else ()),
        ),
        note=output.safe(note) if note else None,
        advice=output.safe(f"→ {advice}") if advice else None,
    )
