"""``cef-trio lab``: the command line of the laboratory, with a progress bar, a table and an HTML report.

Exit code 0 without violations, 5 with any; then it prints the ``lab replay`` command of the first run with each.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.exit_codes import ExitCode
from cef_trio.lab.campaign import Tally, run_plans
from cef_trio.lab.checks import CHECKS
from cef_trio.lab.explorers import cancellations, crashes, worlds
from cef_trio.lab.faults import CRASH_MOMENTS, FaultKind, Injection
from cef_trio.lab.fleet_simulation import FLEET
from cef_trio.lab.kill import kill_campaign
from cef_trio.lab.mutation_check import MutationResult, check_mutation
from cef_trio.lab.mutations import MUTATIONS, VARIANTS
from cef_trio.lab.report import write_report
from cef_trio.lab.requests import PART_BYTES, SIZES, requests_of
from cef_trio.lab.run import Plan, run_plan
from cef_trio.lab.scenarios import EXPLORED, SCENARIOS
from cef_trio.lab.simulation import SIMULATED, injections_of
from cef_trio.upload.part_plan import MIB

_INJECTION: Final = re.compile(r"(?P<fault>[a-z-]+)@(?P<at>[1-9]\d*)(?:/(?P<life>[1-9]\d*))?")

Plans = Callable[[str], Iterator[Plan]]


def run_lab(words: Sequence[str], parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> ExitCode:
    """Run ``cef-trio lab`` with these arguments; return the exit code. ``parser_class``: the one of all commands."""
    arguments = make_parser(parser_class).parse_args(words)
    command: Callable[[argparse.Namespace], ExitCode] = arguments.command
    return command(arguments)


def make_parser(parser_class: type[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Return the parser of ``cef-trio lab``; those of its commands are of the same class."""
    lab = parser_class(
        prog="cef-trio lab",
        description="Run the daemon in simulated worlds on a virtual clock, and inject faults at chosen moments. Each "
        "run is reproducible. Its results are checked against the promises P1 to P10; see docs/correctness.md.",
        epilog="Exit codes: 0 no violations, 2 invalid arguments, 5 violations. "
        "How to add a scenario, a fault or a mutation: cef_trio/lab/__init__.py.\n\n"
        + _examples("simulate --worlds 100 --report worlds.html", "replay first-part cancel@17"),
    )
    kinds = lab.add_subparsers(title="explorers", required=True, metavar="EXPLORER")
    cancel = _add(
        kinds,
        "cancel",
        _cancel,
        "cancel and drain the daemon at every step of each scenario",
        examples=("cancel --scenario first-part", "cancel --drain-every 10 --pairs 20 --report cancel.html"),
    )
    _add_explorer(cancel, every="--drain-every", injections="drain at every N-th step")
    crash = _add(
        kinds,
        "crash",
        _crash,
        "crash the daemon in every call and at every step of each scenario",
        examples=("crash --scenario first-part", "crash --kill-every 10 --pairs 20 --report crash.html"),
    )
    _add_explorer(crash, every="--kill-every", injections="kill at every N-th step")
    simulate = _add(
        kinds,
        "simulate",
        _simulate,
        "run random worlds: writers, faults, crashes",
        examples=("simulate --worlds 100", "simulate --seed 500000 --processes 4 --report worlds.html"),
    )
    _add_report(simulate)
    _add_processes(simulate)
    simulate.add_argument("--worlds", type=_positive, default=1000, metavar="N", help="number of worlds (1000)")
    simulate.add_argument("--seed", type=_number, default=0, metavar="SEED", help="the first world's seed (0)")
    mutations = _add(
        kinds,
        "mutations",
        _mutations,
        "remove one shield, write or check at a time, and test that it is detected",
        examples=("mutations", "mutations --only 'no shield'"),
    )
    _add_check_mutations(mutations, list(MUTATIONS))
    variants = _add(
        kinds,
        "variants",
        _variants,
        "count the violations of naive implementations",
        examples=("variants", "variants --only naive"),
    )
    _add_check_mutations(variants, list(VARIANTS))
    _add(
        kinds,
        "requests",
        _requests,
        "count the requests of one recording to S3 and Redis, by operation",
        examples=("requests",),
    )
    kill = _add(kinds, "kill", _kill, "kill -9 a real daemon", examples=("kill --cycles 20 --seed 7 --keep",))
    kill.description = (
        "Kill -9 a real daemon again and again while recordings grow: "
        "a real Valkey, an S3 endpoint over a socket, the real clock. "
        "The seed determines the random choices, not the interleaving."
    )
    kill.add_argument("--cycles", type=_positive, default=100, metavar="N", help="number of kills (100)")
    kill.add_argument("--seed", type=_number, default=0, metavar="SEED", help="of the random choices (0)")
    kill.add_argument("--keep", action="store_true", help="keep all files, and print their folder")
    replay = _add(
        kinds,
        "replay",
        _replay,
        "repeat one run, and print its journal",
        examples=(
            "replay first-part cancel@17",
            "replay first-part kill@150 die-unanswered@9/2",
            "replay simulated --seed 7",
            "replay busy-client --mutation 'unbounded: admin connections of one client'",
        ),
    )
    _add_report(replay)
    replay.add_argument(
        "scenario",
        choices=[*SCENARIOS, SIMULATED, FLEET, *CHECKS],
        metavar="SCENARIO",
        help="name of a scenario or of a check, or `simulated` or `fleet`",
    )
    replay.add_argument(
        "injections",
        nargs="*",
        type=_parse_injection,
        metavar="FAULT@N[/LIFE]",
        help="cancel@17, die-before@3/2",
    )
    replay.add_argument("--seed", type=_number, default=0, metavar="SEED", help="of the scheduler and the world (0)")
    replay.add_argument("--mutation", choices=[*MUTATIONS, *VARIANTS], metavar="NAME", help="a mutation to apply")
    return lab


def _add(
    kinds: Any,
    name: str,
    command: Callable[[argparse.Namespace], ExitCode],
    summary: str,
    *,
    examples: Sequence[str],
) -> Any:
    description = f"{summary[0].upper()}{summary[1:]}."
    parser = kinds.add_parser(name, help=summary, description=description, epilog=_examples(*examples))
    parser.set_defaults(command=command)
    return parser


def _examples(*words: str) -> str:
    return "Examples:\n" + "\n".join(f"  cef-trio lab {one}" for one in words)


def _add_report(parser: Any) -> None:
    parser.add_argument("--report", type=Path, metavar="FILE", help="write an HTML report")


def _add_processes(parser: Any) -> None:
    parser.add_argument(
        "--processes",
        type=_positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="parallel runs (number of processors)",
    )


def _add_check_mutations(parser: Any, names: list[str]) -> None:
    def chosen(text: str) -> list[str]:
        # An empty selection would succeed without a single run.
        found = [name for name in names if text in name]
        if not found:
            raise argparse.ArgumentTypeError(f"takes a part of a name, not {text!r}; the names are: {'; '.join(names)}")
        return found

    _add_processes(parser)
    parser.add_argument("--only", type=chosen, default=names, metavar="TEXT", help="only names that contain this")


def _add_explorer(parser: Any, *, every: str, injections: str) -> None:
    _add_report(parser)
    _add_processes(parser)
    parser.add_argument(
        "--scenario",
        action="append",
        choices=list(SCENARIOS),
        metavar="NAME",
        help=f"only this one; may be given several times. Scenarios: {', '.join(SCENARIOS)}",
    )
    parser.add_argument("--seed", type=_number, default=0, metavar="SEED", help="of the scheduler and the world (0)")
    parser.add_argument(every, dest="every", type=_positive, default=1, metavar="N", help=f"{injections} only (1)")
    parser.add_argument(
        "--pairs", type=_number, default=0, metavar="N", help="runs with two injections, for each scenario (0)"
    )


def _positive(text: str) -> int:
    number = _number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"takes a whole number from 1, not {text!r}")
    return number


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"takes a whole number from 0, not {text!r}")
    return int(text)


def _parse_injection(text: str) -> Injection:
    found = _INJECTION.fullmatch(text)
    if found is None or found["fault"] not in list(FaultKind):
        raise argparse.ArgumentTypeError(
            f"takes FAULT@N or FAULT@N/LIFE with one of {', '.join(FaultKind)}, not {text!r}"
        )
    return Injection(FaultKind(found["fault"]), int(found["at"]), int(found["life"] or 1))


def _cancel(arguments: argparse.Namespace) -> ExitCode:
    def plans(scenario: str) -> Iterator[Plan]:
        return cancellations(scenario, seed=arguments.seed, drain_every=arguments.every, pairs=arguments.pairs)

    return _explore(arguments, "Cancellation at every step", arguments.scenario or list(EXPLORED), plans)


def _crash(arguments: argparse.Namespace) -> ExitCode:
    def plans(scenario: str) -> Iterator[Plan]:
        return crashes(scenario, seed=arguments.seed, kill_every=arguments.every, pairs=arguments.pairs)

    return _explore(arguments, "Crash in every call", arguments.scenario or list(EXPLORED), plans)


def _simulate(arguments: argparse.Namespace) -> ExitCode:
    def plans(_scenario: str) -> Iterator[Plan]:
        return worlds(arguments.seed, arguments.worlds)

    return _explore(arguments, "Random worlds", [SIMULATED], plans)


def _explore(arguments: argparse.Namespace, title: str, scenarios: Iterable[str], plans: Plans) -> ExitCode:
    console = Console()
    tallies: dict[str, Tally] = {}
    with _progress(console) as progress:
        for scenario in scenarios:
            tally = tallies[scenario] = Tally()
            listed = list(plans(scenario))
            bar = progress.add_task(scenario, total=len(listed))
            for report in run_plans(listed, processes=arguments.processes):
                for kind in tally.add(report):  # at once, before a long campaign ends
                    _print_violation(console, kind, report.plan)
                progress.advance(bar)
    console.print(_table(title, tallies))
    hits = sum((tally.hits for tally in tallies.values()), start=Tally().hits)
    if any(hits.values()):
        console.print("Events: " + ", ".join(f"{name} {hits[name]}" for name in sorted(hits)), highlight=False)
    broken = [plan for tally in tallies.values() for plan in tally.examples.values()]
    if arguments.report is not None:
        _write(arguments.report, title, tallies, broken[0] if broken else _shown(tallies))
    return ExitCode.ANSWER_IS_NO if broken else ExitCode.DONE


def _print_violation(console: Console, kind: str, plan: Plan) -> None:
    again = f"{kind}\n    cef-trio lab replay {arguments_of(plan)}"
    console.print(again, highlight=False, markup=False, soft_wrap=True, style="red")  # a line to copy


def _progress(console: Console) -> Progress:
    columns = ("[progress.description]{task.description}",)
    return Progress(
        *map(TextColumn, columns),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _table(title: str, tallies: dict[str, Tally]) -> Table:
    table = Table(title=title)
    table.add_column("scenario")
    for heading in ("runs", "injected", "locations", "violations", "longest exit"):
        table.add_column(heading, justify="right")
    for name, tally in tallies.items():
        table.add_row(
            name,
            str(tally.runs),
            str(tally.injected),
            str(len(tally.locations)),
            str(tally.violated),
            f"{tally.longest_exit_seconds:.1f} s",
            style="red" if tally.violated else "",
        )
    return table


def arguments_of(plan: Plan) -> str:
    """Return the arguments of ``cef-trio lab replay`` for a plan."""
    injections = () if plan.scenario == SIMULATED else plan.injections
    words = [plan.scenario, *(f"{injection.fault}@{injection.at}/{injection.life}" for injection in injections)]
    if plan.seed:
        words += ["--seed", str(plan.seed)]
    if plan.mutation:
        words += ["--mutation", f'"{plan.mutation}"']
    return " ".join(words)


def _shown(tallies: dict[str, Tally]) -> Plan:
    """Return a plan for the timeline: an injection in the middle of a run."""
    name = next(iter(tallies))
    if name == SIMULATED:
        return next(worlds(0, 1))
    middle = max(location.injected.total() for location in tallies[name].locations.values())
    return Plan(name, (Injection(FaultKind.CANCEL, middle),))


def _write(path: Path, title: str, tallies: dict[str, Tally], plan: Plan) -> None:
    shown = run_plan(plan, keep_journal=True)
    try:
        path.write_text(write_report(title, tallies, shown, again=arguments_of(plan)), encoding="utf-8")
    except OSError as error:
        raise CefMp4ProcessorError(f"cannot write the report to {path}: {error.strerror}") from error


def _mutations(arguments: argparse.Namespace) -> ExitCode:
    return _check_mutations(arguments, "Mutations")


def _variants(arguments: argparse.Namespace) -> ExitCode:
    return _check_mutations(arguments, "Naive variants")


def _check_mutations(arguments: argparse.Namespace, title: str) -> ExitCode:
    console = Console()
    chosen: list[str] = arguments.only
    results: list[MutationResult] = []
    with _progress(console) as progress:
        bar = progress.add_task(title, total=len(chosen))
        for name in chosen:
            results.append(check_mutation(name, processes=arguments.processes))
            progress.advance(bar)
    table = Table(title=title)
    for heading in ("mutation", "kind", "scenario", "fault", "violated", "runs", "first"):
        table.add_column(heading, justify="right" if heading == "runs" else "left")
    for finding in results:
        table.add_row(
            finding.mutation,
            (MUTATIONS | VARIANTS)[finding.mutation].kind or "-",
            finding.scenario,
            finding.fault or "-",
            ", ".join(f"{promise} {count}" for promise, count in sorted(finding.broken.items())) or "nothing",
            f"{finding.violated} of {finding.runs}",
            arguments_of(finding.example) if finding.example else "NOT FOUND",
            style="" if finding.found else "red",
        )
    console.print(table)
    return ExitCode.DONE if all(finding.found for finding in results) else ExitCode.ANSWER_IS_NO


def _requests(_arguments: argparse.Namespace) -> ExitCode:
    console = Console(width=None if os.isatty(1) else 100)
    counted = {size: requests_of(size_bytes) for size, size_bytes in SIZES.items()}
    for title, by_size in (
        ("Requests to S3", {size: found.s3 for size, found in counted.items()}),
        ("Calls to Redis", {size: found.redis for size, found in counted.items()}),
    ):
        table = Table(title=f"{title} of one recording, in parts of {PART_BYTES // MIB} MiB", show_footer=True)
        in_order = reversed(by_size.values())  # the largest recording has most operations, in the order of its calls
        operations = dict.fromkeys(operation for found in in_order for operation in found)
        table.add_column("operation", "all")
        for size, found in by_size.items():
            table.add_column(size, str(found.total()), justify="right")
        for operation in operations:
            table.add_row(operation, *(str(found[operation] or "") for found in by_size.values()))
        console.print(table)
    return ExitCode.DONE


def _kill(arguments: argparse.Namespace) -> ExitCode:
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="cef-trio-kill-"))
    began = time.monotonic()
    with ExitStack() as stack:
        if arguments.keep:
            console.print(f"The files are in {folder}", highlight=False, markup=False, soft_wrap=True)
        else:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        progress = stack.enter_context(_progress(console))
        bar = progress.add_task("kill -9", total=arguments.cycles)
        campaign = partial(
            kill_campaign,
            folder / "lab",
            cycles=arguments.cycles,
            seed=arguments.seed,
            on_cycle=lambda _: progress.advance(bar),
        )
        tally = trio.run(campaign)
    table = Table(title="Killed after")
    table.add_column("last event")
    table.add_column("kills", justify="right")
    for event, kills in tally.kills.most_common():
        table.add_row(escape(event), str(kills))
    console.print(table)
    console.print(
        f"{tally.cycles} kills in {time.monotonic() - began:.0f} s; {tally.files} files of "
        f"{tally.file_bytes / MIB:.0f} MiB, {tally.patches} patches; "
        f"{tally.parts} parts of {tally.size_bytes / MIB:.0f} MiB sent; violations: {len(tally.violations)}",
        highlight=False,
        soft_wrap=True,
    )
    for violation in tally.violations:
        console.print(violation, highlight=False, markup=False, style="red", soft_wrap=True)
    return ExitCode.ANSWER_IS_NO if tally.violations else ExitCode.DONE


def _replay(arguments: argparse.Namespace) -> ExitCode:
    injections = tuple(arguments.injections)
    if arguments.scenario in CHECKS and injections:
        raise CefMp4ProcessorError(f"{arguments.scenario} is a check without a daemon, so it takes no faults")
    if arguments.scenario == SIMULATED and not injections:
        injections = injections_of(arguments.seed)
    report = run_plan(Plan(arguments.scenario, injections, arguments.seed, arguments.mutation), keep_journal=True)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for entry in report.entries:
        console.print(f"{entry.began:9.3f}  {entry.lane:7} {entry.text} {entry.outcome}".rstrip())
    for injected in report.injected:
        console.print(f"Injected {injected.injection} at {injected.seconds:.3f}: {injected.location}")
    for saved in report.saved:
        console.print(f"Saved: {'; '.join(saved) or 'nothing'}")
    console.print(f"Fingerprint: {report.digest[:16]}")
    for violation in report.violations:
        console.print(violation)
    calls = [injection for injection in injections if injection.fault in CRASH_MOMENTS]
    if not report.all_injected and calls:
        console.print("Not every fault was injected: the daemon made fewer calls, or the call failed.")
    if arguments.report is not None:
        tally = Tally()
        tally.add(report)
        _write(arguments.report, "One run", {arguments.scenario: tally}, report.plan)
    return ExitCode.ANSWER_IS_NO if report.violations else ExitCode.DONE
