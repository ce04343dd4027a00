"""``cef-trio status``: totals of one owner and its most urgent open streams; ``--watch`` refreshes them. Read only.

The data come from Redis, and the sizes of files from this machine's disk where they exist. The number of calls to Redis
does not grow with the number of streams but for their ids and leases (``status_model.py``). If the screen has too few
lines, the streams that lag least are left out.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from itertools import zip_longest
from typing import Any, Final

import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cef_trio.checkpoint import Checkpoint, Status, StreamSet, StreamSummary, VerificationTotals, count_known
from cef_trio.cli import output
from cef_trio.cli.arguments import REDIS_ONLY, add_common, add_owner
from cef_trio.cli.list_selection import folders_of, relative_path
from cef_trio.cli.output import Column, Lines
from cef_trio.cli.redis_session import RedisContext, command_settings, run_on_redis
from cef_trio.cli.status_model import MAX_COMPLETED, Found, OpenStream, Overview, choose, observe
from cef_trio.cli.watch_keys import View, has_keys, keys, single_keys
from cef_trio.exceptions import ChunkProcessingError, RecordUnreadableError, RedisOperationError
from cef_trio.exit_codes import ExitCode
from cef_trio.files import FileStat
from cef_trio.observability import DaemonReport, Fleet, State, describe_problems, judge_fleet, read_fleet
from cef_trio.resilience import Periodic
from cef_trio.settings import SettingsError

_WATCH_SECONDS: Final = 2.0
_NOT_SHOWN: Final = {"meta", "stream_set", "at", "reported_lag"}
_ALL: Final = "; `cef-trio list` shows all"
_STATE_STYLES: Final = {State.READY: "green", State.AT_RISK: "bold red"}
_BAR_WIDTH: Final = 12
_LINES_AROUND: Final = 4
"""The blank line, the table's header, the line of what is left out, and the cursor's line."""
_IN_SHORT: Final = {
    Status.PENDING_COMPLETION: "completing",
    Status.INTERRUPTED_SHUTDOWN: "interrupted",
    Status.INTERRUPTED_CANCELLED: "interrupted",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``status``."""
    add_common(
        parser,
        more="Throughput is what S3 acknowledged in the last minute. Lag is what is on disk and not yet acknowledged; "
        "it and the progress are known only where the recordings can be seen. No daemon works on a stream in red.",
        examples=(
            "cef-trio status",
            "cef-trio status --watch",
        ),
    )
    add_owner(parser)
    parser.add_argument(
        "--watch",
        action="store_true",
        help="keep it on the screen until q or Ctrl-C; ? shows the keys (not with --json)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``status`` and return its exit code."""
    if arguments.watch and arguments.json:
        raise SettingsError(["--watch is for a terminal: it cannot be combined with --json"])
    if arguments.watch and not output.console().is_terminal:
        raise SettingsError(
            ["--watch is for a terminal: it cannot be written to a pipe or a file; repeat `cef-trio status`"]
        )
    if arguments.watch and output.console().is_dumb_terminal:
        term = os.environ.get("TERM", "")
        raise SettingsError([f"--watch cannot redraw this terminal (TERM={term}); repeat `cef-trio status`"])
    settings = command_settings(arguments, REDIS_ONLY)
    return run_on_redis(settings, lambda context: show_status(context, watch=arguments.watch, as_json=arguments.json))


class StatusReader:
    """Reads the state of an owner's streams."""

    def __init__(self, context: RedisContext) -> None:
        self._context = context

    async def read(self) -> Overview:
        """Return the current state.

        Raises:
            RedisOperationError: Redis cannot be read.
        """
        context, store, now = self._context, self._context.store, self._context.utc_now()
        counts = count_known(await store.count(), await store.count_ended())
        open_ids = await store.members(StreamSet.ACTIVE) | await store.members(StreamSet.PENDING_COMPLETION)
        found = Found(
            counts=counts,
            open_ids=open_ids,
            holders=await store.holders(open_ids),
            completed=await self._completed(counts.get(StreamSet.COMPLETED, 0)),
            fleet=read_fleet(await store.reports()),
            owner=context.owner_name,
        )
        checkpoints: dict[str, Checkpoint] = {}
        for stream_id in choose(found, now):
            with suppress(RecordUnreadableError):  # the store has noted it
                checkpoint = await store.load(stream_id)
                if checkpoint is not None:
                    checkpoints[stream_id] = checkpoint
        files = {key: await self._stat(one) for key, one in checkpoints.items()}
        overview = observe(replace(found, checkpoints=checkpoints, files=files), now)
        totals = await context.verifications.totals() if context.verifications is not None else None
        return replace(overview, unreadable=store.unreadable.known, newer=store.unreadable.newer, verification=totals)

    async def _completed(self, number: int) -> Collection[StreamSummary] | None:
        """Return the records of the completed streams; ``None`` if they are too many."""
        store = self._context.store
        if number > MAX_COMPLETED:
            return None
        return tuple((await store.load_metas(await store.members(StreamSet.COMPLETED))).values())

    async def _stat(self, checkpoint: Checkpoint) -> FileStat | None:
        try:
            return await self._context.disk.stat(checkpoint.meta.current_path)
        except ChunkProcessingError:  # no permission: as on another machine
            return None


async def show_status(context: RedisContext, *, watch: bool, as_json: bool) -> ExitCode:
    """Print the status; with ``watch``, refresh it on the screen until a signal ends it."""
    reader = StatusReader(context)
    if not watch:
        overview = await reader.read()
        if as_json:
            output.print_json(document(overview))
        else:
            output.console().print(render(overview))
        return ExitCode.DONE
    await _watch(reader)
    return ExitCode.DONE


async def _watch(reader: StatusReader) -> None:
    """Show the status until a signal, or the key q, ends it. The terminal is restored in any case."""
    out: Console = output.console()
    first = Text("asking Redis …")
    with (
        single_keys() if has_keys() else nullcontext() as descriptor,
        Live(first, console=out, auto_refresh=False, screen=out.is_terminal) as live,
    ):
        screen = _Screen(reader, live, first, height=lambda: out.height if out.is_terminal else None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(screen.keep_up_to_date)
            if descriptor is not None:
                await screen.follow(descriptor)
                nursery.cancel_scope.cancel()


class _Screen:
    """What is on the screen, and how it changes."""

    def __init__(
        self, reader: StatusReader, live: Live, first: RenderableType, *, height: Callable[[], int | None]
    ) -> None:
        self._reader, self._live, self._height = reader, live, height
        self._view = View()
        self._first = first
        self._overview: Overview | None = None
        self._trouble: RedisOperationError | None = None

    async def keep_up_to_date(self) -> None:
        """Read and draw, every ``_WATCH_SECONDS`` unless paused."""
        async for _ in Periodic(_WATCH_SECONDS):
            if self._view.paused:
                continue
            try:
                self._overview = await self._reader.read()
                self._trouble = None
            except RedisOperationError as error:
                if not error.transient:
                    raise
                self._trouble = error
            self._draw()

    async def follow(self, descriptor: int) -> None:
        """Do what the keys say, until it is to quit. If the terminal is gone, wait for a signal."""
        async for key in keys(descriptor):
            view = self._view.press(key)
            if view is None:
                return
            self._view = view
            self._draw()
        await trio.sleep_forever()

    def _draw(self) -> None:
        shown = self._first
        if self._overview is not None:
            shown = render(self._overview, height=self._height(), view=self._view)
        if self._trouble is not None:
            shown = Group(output.safe(f"Out of date: {self._trouble}", "bold red"), Text(), shown)
        self._live.update(shown, refresh=True)


def document(overview: Overview) -> dict[str, Any]:
    """Return the document of ``--json``."""
    judged = overview.own.judgement
    return {
        "at_utc": overview.at_utc,
        "owner": overview.owner,
        "streams": dict(overview.counts),
        "completed_bytes": overview.completed_bytes,
        "superseded": overview.superseded,
        "verification": None if overview.verification is None else asdict(overview.verification),
        "bytes_per_second": overview.bytes_per_second,
        "upload_limits": dict(overview.upload_limits),
        "lag_bytes": overview.lag_bytes,
        "daemons": dict(overview.daemons),
        "state": overview.own.state,
        "bytes_at_risk": judged.size_bytes if judged is not None else None,
        "recordings_at_risk": judged.recordings if judged is not None else None,
        "at_risk": [_risk_document(report, overview.fleet.now) for report in overview.own.reports],
        "unreadable": [{"key": key, "why": why} for key, why in overview.unreadable.items()],
        "newer": [{"key": key, "why": why} for key, why in overview.newer.items()],
        "open_streams": [_stream_document(stream) for stream in overview.open_streams],
        "open_streams_left_out": overview.left_out,
        "fleet": {
            "daemons": len(overview.fleet.living),
            "owners": len({one.owner for one in overview.fleet.living}),
            "need_attention": len(overview.fleet.needing_attention()),
            "problems": [one.problem.value for one in judge_fleet(overview.fleet)],
        },
    }


def _risk_document(report: DaemonReport, now: float) -> dict[str, Any]:
    return {
        "instance": report.instance_id,
        "folder": report.folder,
        "reported_at": report.at,
        "silent": report.is_silent(now),
        "risks": [asdict(risk) for risk in report.risks],
        "says": [one.says for one in describe_problems(report, now)],
    }


def _stream_document(stream: OpenStream) -> dict[str, Any]:
    numbers = {name: value for name, value in asdict(stream).items() if name not in _NOT_SHOWN}
    return {
        "stream_id": stream.meta.stream_id,
        "path": stream.meta.current_path,
        "state": stream.stream_set.value,
        "status": stream.meta.status.value,
        **numbers,
        "lag_bytes": stream.lag_bytes,
        "lag_seconds": stream.lag_seconds,
        "progress": stream.progress,
        "failure_reason": stream.meta.failure_reason,
        "retry_at_utc": stream.meta.retry_at_utc,
    }


def render(overview: Overview, *, height: int | None = None, view: View | None = None) -> RenderableType:
    """Render the status for a terminal; with ``height``, in at most that many lines if they are wide enough."""
    view = view or View()
    totals = _totals(overview)
    chosen: Sequence[OpenStream] = view.select(overview.open_streams)
    shown = chosen
    if height is not None:
        shown = most_urgent(shown, max(1, height - len(totals) - _LINES_AROUND - bool(view.says)))
    parts: list[RenderableType] = [output.facts(totals)]
    if shown:
        parts += [Text(), _streams(shown, folders_of(one.folder for one in overview.own.reports))]
    if left_out := overview.left_out + len(chosen) - len(shown):
        parts.append(Text(f"and {left_out:,} more, which lag less{_ALL if overview.left_out else ''}", style="dim"))
    if view.says:
        parts.append(Text(view.says, style="bold cyan"))
    return Group(*parts)


def most_urgent(streams: Sequence[OpenStream], most: int) -> Sequence[OpenStream]:
    """Return at most ``most`` streams, in their order: first those without a daemon, then those that lag most. Pure."""
    if len(streams) <= most:
        return streams
    urgent = sorted(streams, key=lambda one: (one.holder is None, one.lag_bytes or 0), reverse=True)[:most]
    chosen = {one.meta.stream_id for one in urgent}
    return [one for one in streams if one.meta.stream_id in chosen]


def _throughput(overview: Overview) -> Text | str:
    text = f"{output.size(overview.bytes_per_second)}/s in the last minute"
    limits = [f"{name} {output.size(rate)}/s" for name, rate in sorted(overview.upload_limits.items())]
    return output.safe(f"{text}; MAX_UPLOAD_RATE now: {', '.join(limits)}") if limits else text


def _totals(overview: Overview) -> list[tuple[str, Text | str]]:
    counts = overview.counts
    open_streams = f"{counts['active']} active"
    if counts["pending_completion"]:
        open_streams += f", {counts['pending_completion']} being completed"
    failed = Text(f"{counts['failed']}", style="bold red" if counts["failed"] else "")
    if counts["failed"]:
        failed.append("; `cef-trio list --state failed` shows why", style="not bold default")
    completed = f"{counts['completed']:,}"
    if overview.completed_bytes is not None:
        completed += f", {output.size(overview.completed_bytes)}"
    if overview.superseded:
        completed += f"; {overview.superseded} superseded by a later object: `cef-trio gc --superseded` deletes them"
    rows: list[tuple[str, Text | str]] = [
        ("at", f"{overview.at_utc:%Y-%m-%d %H:%M:%S} UTC"),
        ("state", _state(overview.own)),
        ("daemons", _daemons(overview)),
        ("fleet", _fleet(overview)),
        ("open", open_streams),
        ("completed", completed),
        ("failed", failed),
        ("throughput", _throughput(overview)),
        ("lag", _lag(overview)),
    ]
    if overview.verification is not None:
        rows.append(("verified", _verification(overview.verification, overview)))
    if counts["retrying"]:
        rows.append(("retrying", _retrying(overview)))
    rows += _problems(overview)
    if overview.unreadable:
        rows.append(("unreadable", describe_unreadable(overview.unreadable)))
    if overview.newer:
        rows.append(("newer", describe_newer(overview.newer)))
    if counts["deleted"]:
        rows.append(("deleted", f"{counts['deleted']} whose recording was deleted before its end, or that were let go"))
    return rows


def _problems(overview: Overview) -> list[tuple[str, Text | str]]:
    """Return what is wrong with each daemon, and what to do: once below problems that follow with the same advice."""
    rows: list[tuple[str, Text | str]] = []
    own, now = overview.own.needing_attention(), overview.fleet.now
    problems = [(report.instance_id, one) for report in own for one in describe_problems(report, now)]
    for (instance, one), following in zip_longest(problems, problems[1:]):
        rows.append(("AT RISK", output.safe(f"{instance}: {one.says}", "bold red")))
        if following is None or following[1].advice != one.advice:
            rows.append(("what to do", output.safe(one.advice)))
    return rows


def _verification(totals: VerificationTotals, overview: Overview) -> Text:
    """Return what `verify --all` found, and how long ago."""
    now_ms = overview.at_utc.timestamp() * 1000
    last, oldest = (output.duration(max(0.0, (now_ms - at) / 1000)) for at in (totals.at_ms, totals.oldest_ms))
    says = (
        f"{totals.objects:,} of {overview.counts['completed']:,} objects, the last {last} ago, the first {oldest} ago"
    )
    if not totals.mismatches:
        return output.safe(says)
    ids = ", ".join(map(output.short_id, totals.mismatched))
    return output.safe(f"{output.count(totals.mismatches, 'object')} NOT as recorded: {ids}; {says}", "bold red")


def describe_unreadable(unreadable: Mapping[str, str]) -> Text:
    """Return how many keys of Redis are unreadable, and why the first is. For a terminal."""
    number, why = len(unreadable), next(iter(unreadable.values()))
    more = f" (and {number - 1} more)" if number > 1 else ""
    keys = output.count(number, "key")
    return output.safe(f"{keys} of Redis cannot be read, skipped: {why}{more}", "bold red")


def describe_newer(newer: Mapping[str, str]) -> Text:
    """Return how many records are of a newer schema, and the first of them. For a terminal."""
    return output.safe(f"{output.count(len(newer), 'record')} left alone: {next(iter(newer.values()))}", "bold")


def _retrying(overview: Overview) -> Text:
    """Return how many streams wait after an error, and the latest error: in an outage all have the same."""
    waiting = [one.meta for one in overview.open_streams if one.meta.status is Status.RETRYING]
    latest = max(waiting, key=lambda meta: meta.last_activity_at_utc, default=None)
    why = f": {latest.failure_reason}" if latest is not None and latest.failure_reason else ""
    return output.safe(f"{overview.counts['retrying']} of the open ones{why}", "yellow")


def _lag(overview: Overview) -> str:
    longest = overview.lag_seconds
    since = f", the oldest byte waits for {output.duration(longest)}" if longest >= 1 else ""
    if overview.lag_bytes is not None:
        reported = " by the daemons' reports" if overview.left_out else ""
        return output.size(overview.lag_bytes) + reported + since
    known = [stream.lag_bytes for stream in overview.open_streams if stream.lag_bytes is not None]
    if not known:
        return "not known here: no recording can be seen"
    number = len(overview.open_streams) + overview.left_out
    return f"{output.size(sum(known))} or more; {len(known)} of {number:,} recordings can be seen here"


def _fleet(overview: Overview) -> Text:
    """Return the owner, how many daemons all have, and whether `cef-trio fleet` shows more than is shown here."""
    fleet = overview.fleet
    owners = len({one.owner for one in fleet.living})
    text = f"owner {overview.owner or '-'}; in all {output.count(len(fleet.living), 'running daemon')}"
    text += f" of {output.count(owners, 'owner')}"
    others = len(fleet.needing_attention()) - len(overview.own.needing_attention())
    if not others and not judge_fleet(fleet):
        return output.safe(text)
    more = f"; {output.count(others, 'other')} need{'s' if others == 1 else ''} attention" if others else ""
    return output.safe(f"{text}{more}; see `cef-trio fleet`", "bold red" if others else "yellow")


def _state(own: Fleet) -> Text:
    """Return whether all is safe by the reports of the owner's daemons: their word, and what is at risk."""
    state, judged = own.state, own.judgement
    if state is None:
        return Text("unknown: no daemon has reported", style="bold red")
    if judged is None or state == "silent":
        silent = "a daemon has not reported for a minute" if state == "silent" else "no daemon runs"
        return Text(f"{state}: {silent}", style="bold red" if state == "silent" else "bold yellow")
    return Text(judged.describe(), style=_STATE_STYLES.get(judged.state, "yellow"))


def _daemons(overview: Overview) -> Text:
    if overview.daemons:
        daemons = [f"{name} ({output.count(count, 'stream')})" for name, count in sorted(overview.daemons.items())]
        return output.safe(", ".join(daemons), "green")
    if overview.open_streams:
        return Text("no leases: no daemon works on the open streams", style="bold red")
    return Text("no leases, and no stream is open")


_COLUMNS: Final = (
    Column("id"),
    Column("status"),
    Column("progress", spare=1),
    Column("", right=True),
    Column("sent", right=True, spare=3),
    Column("lag", right=True),
    Column("rate", right=True, spare=2),
    Column("file", flexible=True),
)


def _streams(streams: Sequence[OpenStream], folders: Collection[str]) -> Lines:
    rows = []
    for stream in streams:
        bar, percent = _progress(stream)
        style = "red" if stream.holder is None else "yellow" if stream.meta.status is Status.RETRYING else ""
        rows.append(
            (
                output.short_id(stream.meta.stream_id),
                output.safe(stream.activity or _IN_SHORT.get(stream.meta.status, stream.meta.status.value), style),
                bar,
                percent,
                output.size(stream.acknowledged_bytes),
                output.size(stream.lag_bytes),
                f"{output.size(stream.bytes_per_second)}/s",
                output.safe(relative_path(stream.meta.current_path, folders)),
            )
        )
    return output.table(_COLUMNS, rows)


def _progress(stream: OpenStream) -> tuple[Text, str]:
    progress = stream.progress
    if progress is None:
        return Text("?".center(_BAR_WIDTH), style="dim"), ""
    # Rounded down: 100% means complete.
    return _bar(progress), f"{math.floor(progress * 100)}%"


def _bar(progress: float) -> Text:
    """Return a bar that is readable without colours."""
    full = math.floor(progress * _BAR_WIDTH)
    bar = Text("━" * full, style="green" if full == _BAR_WIDTH else "cyan")
    return bar.append("─" * (_BAR_WIDTH - full), style="dim")
