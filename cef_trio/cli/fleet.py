"""``cef-trio fleet``: the daemons of all owners, one a line, and what is wrong with them; ``fleet retire`` removes one.

Both read the registry in Redis (``observability/fleet.py``), whatever the number of streams. ``fleet retire NAME``
refuses an owner with a running daemon or with open streams. The registry alone does not tell that: it may have lost a
report. So the claim of the name and the leases count as well. It removes the owner's reports, and with
``--forget-history`` the records of its ended streams; recordings and objects are never touched. Repeating it is safe.
Of an owner whose other daemons run, as those of a shared folder, ``--instance`` removes one that is gone, also while
another one of the same INSTANCE_ID runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from typing import Final

import trio
from rich.text import Text

from cef_trio.checkpoint import CheckpointStore, Claimant, History, StreamSet
from cef_trio.cli import output
from cef_trio.cli.arguments import REDIS_ONLY, add_common, named
from cef_trio.cli.checks import judge_fleet_reports
from cef_trio.cli.findings import print_findings
from cef_trio.cli.output import Column
from cef_trio.cli.redis_session import RedisContext, command_settings, run_on_redis
from cef_trio.cli.result_lines import Report
from cef_trio.cli.status_model import instance_of
from cef_trio.exit_codes import ExitCode
from cef_trio.observability import DaemonReport, Fleet, fleet_document, is_urgent, read_fleet
from cef_trio.settings import SettingsError, is_owner_name

_RETIRE: Final = "retire"
_NO_OWNER: Final = "none"
"""An owner's name for a command that reads no owner's streams, so that none has to be derived."""
_FORGET_TASKS: Final = 8
_FAR_MS: Final = 1 << 52
_NAMED: Final = 5
_KILLED: Final = "what a killed one has held is free after LEASE_SECONDS"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``fleet``."""
    add_common(
        parser,
        more="A daemon reports every 15 seconds, and is kept in the registry for seven days after its last report. "
        "`fleet retire NAME` removes an owner whose daemon is stopped and whose streams have all ended.",
        exit_codes="5 a problem was found, or the owner was not retired; the output gives the reason",
        examples=(
            "cef-trio fleet",
            "cef-trio fleet retire node-7 --forget-history",
            "cef-trio fleet retire studio --instance encoder-2",
        ),
    )
    parser.add_argument("action", nargs="?", choices=[_RETIRE], help="retire an owner: remove it from the registry")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the owner to retire (OWNER_NAME)")
    parser.add_argument(
        "--forget-history",
        action="store_true",
        help="with retire: remove the records of its ended streams too; objects and recordings stay",
    )
    parser.add_argument(
        "--instance",
        type=named,
        metavar="ID",
        help="with retire: remove one daemon that is gone (its INSTANCE_ID), while others of the same owner run",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``fleet`` and return its exit code.

    Raises:
        SettingsError: the arguments do not fit together.
    """
    name, forget, instance = arguments.name, arguments.forget_history, arguments.instance
    if arguments.action is None:
        if forget or instance is not None:
            raise SettingsError(["--forget-history and --instance are for `cef-trio fleet retire NAME`"])
    elif forget and instance is not None:
        raise SettingsError(["--instance removes one daemon of an owner, --forget-history is for the whole owner"])
    elif name is None or not is_owner_name(name):
        given = "" if name is None else f", not {name!r}"
        raise SettingsError([f"fleet retire takes the name of an owner, as `cef-trio fleet` shows it{given}"])
    settings = command_settings(arguments, REDIS_ONLY, owner_name=name or _NO_OWNER)
    if arguments.action is None:
        return run_on_redis(settings, lambda context: show_fleet(context, as_json=arguments.json))
    if instance is not None:
        return run_on_redis(settings, lambda context: retire_one(context, instance, as_json=arguments.json))
    return run_on_redis(settings, lambda context: retire(context, forget_history=forget, as_json=arguments.json))


async def show_fleet(context: RedisContext, *, as_json: bool) -> ExitCode:
    """Print the daemons and the problems; ``ANSWER_IS_NO`` if one is urgent."""
    fleet = read_fleet(await context.store.reports())
    if as_json:
        output.print_json(fleet_document(fleet))
    else:
        shown = fleet.shown
        rows = [_row(one, fleet) for one in shown]
        if rows or not fleet.unreadable:
            output.console().print(output.table(_COLUMNS, rows) if rows else Text("No daemon has reported."))
        if left_out := len(fleet.reports) - len(shown):
            output.console().print(Text(f"and {left_out:,} more", style="dim"))
        for why in fleet.unreadable[:_NAMED]:
            output.console().print(output.safe(why, "bold red"))
        if left_out := len(fleet.unreadable[_NAMED:]):
            more = output.count(left_out, "more report")
            output.console().print(output.safe(f"{more} cannot be read", "bold red"))
        print_findings(judge_fleet_reports(fleet))
    return ExitCode.ANSWER_IS_NO if is_urgent(fleet) else ExitCode.DONE


_COLUMNS: Final = (
    Column("owner"),
    Column("instance", flexible=True),
    Column("host", spare=3),
    Column("version", spare=4),
    Column("state"),
    Column("seen", right=True, spare=2),
    Column("streams", right=True),
    Column("behind", right=True),
    Column("oldest", right=True, spare=1),
    Column("rate", right=True),
    Column("folder", flexible=True),
)
_STYLES: Final = {
    "ready": "green",
    "at risk": "bold red",
    "silent": "bold red",
    "lost its name": "bold red",
    "waits": "yellow",
}


def _row(one: DaemonReport, fleet: Fleet) -> tuple[Text | str, ...]:
    state = fleet.state_of(one)
    behind = one.behind
    return (
        output.safe(one.owner),
        output.safe(one.instance_id),
        output.safe(one.host),
        output.safe(one.version),
        Text(state, style=_STYLES.get(state, "dim")),
        output.duration(max(0.0, fleet.now - one.seen_at)),
        f"{one.active_streams:,}",
        output.size(behind.size_bytes),
        output.duration(one.age(behind, fleet.now)),
        f"{output.size(one.bytes_per_second)}/s",
        output.safe(f"{one.folder} ({one.share})" if one.share else one.folder),
    )


async def retire(context: RedisContext, *, forget_history: bool, as_json: bool) -> ExitCode:
    """Remove the owner of the context from the registry, unless its daemon runs or it has open streams."""
    store, owner = context.store, context.owner_name
    with Report(as_json=as_json) as report:
        own = read_fleet(await store.reports()).of_owner(owner)
        refusal = await _refusal(context, own, forget_history=forget_history)
        if refusal is not None:
            report.add(owner, f"not retired: {refusal}", ok=False)
            return report.code
        known = bool(own.reports) or (context.owners is not None and await context.owners.has(owner))
        if not known and await _count(store, *StreamSet) == 0:
            says = "not retired: no daemon, and no stream, of that name is known; `cef-trio fleet` shows the names"
            report.add(owner, says, ok=False)
            return report.code
        await store.forget_reports([one.instance for one in own.reports])
        says = f"retired: {output.count(len(own.reports), 'report')} removed"
        if forget_history:
            forgotten = await _forget_ended(store)
            if context.verifications is not None:
                await context.verifications.clear()
            says += f", {output.count(forgotten, 'ended stream')} forgotten"
            if kept := await _count(store, *StreamSet):
                stay = "stays, whose record" if kept == 1 else "stay, whose records"
                says += f"; {output.count(kept, 'stream')} {stay} this version cannot read"
        elif ended := await _count(store, StreamSet.COMPLETED, StreamSet.FAILED):
            says += f"; the records of {output.count(ended, 'ended stream')} stay (--forget-history removes them)"
        if context.owners is not None and await _count(store, *StreamSet) == 0:
            await context.owners.retire(owner)
        report.add(owner, says, reports=len(own.reports))
        again = read_fleet(await store.reports()).of_owner(owner).living
        if again:
            if context.owners is not None:
                await context.owners.register()
            report.add(owner, f"a daemon of it has begun meanwhile: {_names(again)}", ok=False)
    return report.code


async def retire_one(context: RedisContext, instance: str, *, as_json: bool) -> ExitCode:
    """Remove one daemon of the context's owner from the registry, if it is gone and others of the owner run.

    Several may have that INSTANCE_ID, each with a folder of its own, or one had another folder before: those that run
    stay.
    """
    store, owner = context.store, context.owner_name
    with Report(as_json=as_json) as report:
        own = read_fleet(await store.reports()).of_owner(owner)
        same = [one for one in own.reports if one.instance_id == instance]
        gone = [one for one in same if not one.lives(own.now)]
        if not same:
            refusal = "no daemon of that INSTANCE_ID has reported; `cef-trio fleet` shows them"
        elif not gone:
            refusal = f"it runs, stop it first: {_names(same)}"
        elif held := await _held_by(store, gone):
            refusal = f"it runs, stop it first: {output.count(held, 'lease')} held by it; {_KILLED}"
        elif not own.living:
            refusal = f"no other daemon of {owner} runs, so retire the owner: `cef-trio fleet retire {owner}`"
        else:
            await store.forget_reports([one.instance for one in gone])
            folders = _named(sorted({one.folder for one in gone}))
            says = (
                f"{instance} retired: {output.count(len(gone), 'report')} removed, of {folders}; of {owner} run "
                f"{_names(own.living)}"
            )
            report.add(owner, says, reports=len(gone))
            return report.code
        report.add(owner, f"{instance} not retired: {refusal}", ok=False)
    return report.code


async def _refusal(context: RedisContext, own: Fleet, *, forget_history: bool) -> str | None:
    """Return why the owner cannot be retired."""
    store, owner = context.store, context.owner_name
    if own.living:
        return f"its daemon runs, stop it first: {_names(own.living)}"
    found = await context.claim.look() if context.claim is not None else None
    if isinstance(found, Claimant):
        return f"its daemon runs, stop it first: {found.host or 'a host'} has the name; {_KILLED}"
    await store.mend_history()  # a set that Redis lost would hide its streams
    if holders := await _holders(store):
        named = _named(sorted({instance_of(holder) for holder in holders}))
        return f"its daemon runs, stop it first: {output.count(len(holders), 'lease')} held by {named}; {_KILLED}"
    if opened := await _count(store, StreamSet.ACTIVE, StreamSet.PENDING_COMPLETION):
        return (
            f"{output.count(opened, 'stream')} open; start its daemon and wait until they are uploaded, or abort them: "
            f"`cef-trio list --owner {owner}` shows them, `cef-trio abort --owner {owner} ID` aborts one"
        )
    pending = len(await store.pending_webhooks()) if forget_history else 0
    if pending:
        return f"{output.count(pending, 'webhook')} not delivered yet; start its daemon and wait"
    return None


async def _held_by(store: CheckpointStore, daemons: Collection[DaemonReport]) -> int:
    """Return how many leases of open streams these daemons hold."""
    processes = {one.process for one in daemons}
    return sum(holder.rpartition("/")[2] in processes for holder in await _holders(store))


async def _holders(store: CheckpointStore) -> list[str]:
    """Return the holder of each open stream's lease."""
    opened = await store.members(StreamSet.ACTIVE) | await store.members(StreamSet.PENDING_COMPLETION)
    return sorted((await store.holders(opened)).values()) if opened else []


def _names(daemons: Collection[DaemonReport]) -> str:
    return _named([f"{one.instance_id} on {one.host or 'a host'}" for one in daemons])


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


async def _count(store: CheckpointStore, *sets: StreamSet) -> int:
    counts = await store.count()
    return sum(counts.get(one, 0) for one in sets)


async def _forget_ended(store: CheckpointStore) -> int:
    """Forget all ended streams, some hundred at a time; return how many."""
    await store.mend_history()
    forgotten = 0
    limiter = trio.CapacityLimiter(_FORGET_TASKS)

    async def forget(stream_id: str) -> None:
        async with limiter:
            await store.forget(stream_id)

    for history in History:
        left = await _count_ended(store, history)
        while left and (page := await store.ended(history, before_ms=_FAR_MS)):
            async with trio.open_nursery() as nursery:
                for stream_id, _ in page:
                    nursery.start_soon(forget, stream_id)
            before, left = left, await _count_ended(store, history)
            forgotten += max(0, before - left)
            if left >= before:
                break  # an open stream is in the index by mistake
    return forgotten


async def _count_ended(store: CheckpointStore, history: History) -> int:
    return (await store.count_ended()).get(history, 0)
