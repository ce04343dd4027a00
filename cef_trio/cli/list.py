"""``cef-trio list``: the streams as Redis has them. Read only."""

from __future__ import annotations

import argparse
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from cef_trio.checkpoint import FAILED, Status, StreamSummary
from cef_trio.cli import output
from cef_trio.cli.arguments import REDIS_ONLY, add_common, add_owner, owner_override
from cef_trio.cli.output import Column, Row
from cef_trio.cli.session import CommandContext, run_command
from cef_trio.cli.stream_selection import all_ids
from cef_trio.exit_codes import ExitCode
from cef_trio.settings import load_settings


class State(StrEnum):
    """A value of ``--state``: the set that a stream is in, or what its task waits for."""

    ACTIVE = "active"
    PENDING_COMPLETION = "pending_completion"
    COMPLETED = "completed"
    FAILED = "failed"
    RETRYING = "retrying"
    INTERRUPTED = "interrupted"
    DELETED = "deleted"
    LET_GO = "let_go"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``list``."""
    add_common(
        parser,
        more="A stream is active, pending_completion, completed, failed, or its recording was deleted; of the open "
        "ones some are retrying (they wait for an outage to end) or interrupted (their daemon was stopped). Failed "
        "streams that `cef-trio forget` let go are listed with --state let_go only.",
        examples=(
            "cef-trio list --state failed",
            "cef-trio list --json",
        ),
    )
    add_owner(parser)
    states = [state.value for state in State]
    parser.add_argument(
        "--state", choices=states, metavar="STATE", help=f"only those in this state: {', '.join(states)}"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``list`` and return its exit code."""
    state = State(arguments.state) if arguments.state else None
    settings = load_settings(arguments.env_file, unneeded=REDIS_ONLY, **owner_override(arguments))
    return run_command(settings, lambda context: list_streams(context, state, as_json=arguments.json))


def in_state(known: StreamSummary, state: State | None) -> bool:  # noqa: PLR0911 - it is a table
    """Return whether a stream is listed under ``state``; with ``None`` every stream is that was not let go. Pure.

    ``failed`` excludes streams whose recording was deleted: ``cef-trio retry --all`` does not retry them.
    """
    if known.meta.let_go_at_utc is not None:
        return state is State.LET_GO
    match state:
        case None:
            return True
        case State.FAILED:
            return known.meta.status in FAILED
        case State.DELETED:
            return known.meta.status in {Status.DELETED_LOCALLY, Status.ABORTED_NO_PARTS}
        case State.LET_GO:
            return False
        case State.RETRYING:
            return known.meta.status is Status.RETRYING
        case State.INTERRUPTED:
            return known.meta.status in {Status.INTERRUPTED_SHUTDOWN, Status.INTERRUPTED_CANCELLED}
        case _:
            return known.stream_set.value == state.value


async def list_streams(context: CommandContext, state: State | None, *, as_json: bool) -> ExitCode:
    """Print the streams, the latest activity last, each with its error, if any."""
    known = (await context.store.load_metas(await all_ids(context.store))).values()
    chosen = sorted((one for one in known if in_state(one, state)), key=lambda one: one.meta.last_activity_at_utc)
    if as_json:
        output.print_json(
            {
                "streams": [summary(one) for one in chosen],
                "unreadable": [{"key": key, "why": why} for key, why in context.store.unreadable.known.items()],
                "newer": [{"key": key, "why": why} for key, why in context.store.unreadable.newer.items()],
            }
        )
        return ExitCode.DONE
    if chosen:
        output.console().print(output.table(_COLUMNS, [_row(one, context.utc_now()) for one in chosen]))
    else:
        output.console().print(f"No {state.value} streams." if state else "No streams.")
    for why in context.store.unreadable.known.values():
        output.console().print(output.safe(f"cannot be read, skipped: {why}", "bold red"))
    for why in context.store.unreadable.newer.values():
        output.console().print(output.safe(f"not shown: {why}", "bold"))
    return ExitCode.DONE


def summary(known: StreamSummary) -> dict[str, Any]:
    """Return one stream for ``--json``: the fields of its record, and its set."""
    meta = known.meta
    return {
        "stream_id": meta.stream_id,
        "state": known.stream_set.value,
        "status": meta.status.value,
        "failure_reason": meta.failure_reason,
        "path": meta.current_path,
        "s3_key": meta.s3_key_prefix,
        "total_bytes_sent": meta.total_bytes_sent,
        "size_bytes": meta.verified_size_bytes,
        "started_at_utc": meta.started_at_utc,
        "last_activity_at_utc": meta.last_activity_at_utc,
        "completed_at_utc": meta.completed_at_utc,
        "let_go_at_utc": meta.let_go_at_utc,
        "retry_at_utc": meta.retry_at_utc,
    }


_COLUMNS: Final = (
    Column("id"),
    Column("status", most=21),
    Column("sent", right=True, spare=1),
    Column("idle", right=True),
    Column("file", flexible=True),
)


def _row(one: StreamSummary, now: datetime) -> Row:
    return Row(
        (
            output.short_id(one.meta.stream_id),
            output.status(one.meta.status, one.stream_set),
            output.size(one.meta.total_bytes_sent),
            output.duration((now - one.meta.last_activity_at_utc).total_seconds()),
            output.safe(output.short_path(one.meta.current_path)),
        ),
        note=output.safe(one.meta.failure_reason) if one.meta.failure_reason else None,
    )
