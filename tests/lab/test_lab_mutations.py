"""Every mutation is detected: without any one shield, write or check, a promise is violated."""

from __future__ import annotations

import ast
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

import cef_trio
from cef_trio.lab.checks import CHECKS
from cef_trio.lab.mutation_check import check_mutation
from cef_trio.lab.mutations import MUTATIONS, VARIANTS
from cef_trio.lab.mutations.model import replace_in
from cef_trio.lab.run import Plan, run_plan
from cef_trio.lab.scenarios import SCENARIOS

OUTSIDE = {
    "checkpoint call in flight",  # tests/checkpoint
    "ffprobe's end",
    "killed daemon",
    "embedded Valkey's shutdown",
    "command's lease",
    "copy's removal",  # to another file system: tests/upload/test_after_upload.py
    "doctor's abort",
    "doctor's abort after a failure",
    "file's close",
    "watch folder's lock",
    "daemon's last report",
    "end of the wait",  # for the owner's name: tests/fleet/test_owner_claim.py
    "owner's claim",
    "probe's abort",  # tests/s3/test_store_probe.py
}
"""Shields outside of the laboratory: of real processes, and of commands. No stream depends on them."""
KINDS = {*(str(number) for number in range(1, 17)), "P9", "P10"}
"""The kinds of external faults, by the number of their section in ``docs/correctness.md``, and promises."""


@pytest.mark.parametrize("name", [*MUTATIONS, *VARIANTS])
@pytest.mark.timeout(600)
def test_a_mutation_is_detected(name: str) -> None:
    finding = check_mutation(name, enough=1)
    assert finding.found
    assert set(finding.broken) & set((MUTATIONS | VARIANTS)[name].breaks)
    assert finding.example is not None
    # A TypeError is not the mutation's effect: it replaces a function whose parameters are others by now.
    assert "TypeError(" not in " ".join(run_plan(finding.example).violations)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_has_no_violations_without_a_mutation(name: str) -> None:
    assert run_plan(Plan(name)).violations == []


def test_each_kind_of_external_fault_has_a_mutation() -> None:
    assert {mutation.kind for mutation in MUTATIONS.values()} - {""} == KINDS


def test_the_mutations_that_the_documents_name_exist() -> None:
    themes = "|".join({name.partition(":")[0] for name in MUTATIONS})
    text = " ".join((Path(__file__).parents[2] / "docs/correctness.md").read_text().split())
    named = set(re.findall(rf'"((?:{themes}): [^"]+)"', text))
    assert len(named) > len(KINDS)
    assert named <= MUTATIONS.keys()


def test_each_mutation_names_a_scenario_or_check_and_each_check_has_a_mutation() -> None:
    shown_by = {mutation.shows_in for mutation in (MUTATIONS | VARIANTS).values()}
    assert shown_by <= SCENARIOS.keys() | CHECKS.keys()
    assert CHECKS.keys() <= shown_by
    assert not SCENARIOS.keys() & CHECKS.keys()  # `lab replay` takes both


def test_a_mutation_ends_with_its_run() -> None:
    run_plan(Plan("first-part", mutation="naive: no state saved"))
    assert run_plan(Plan("first-part")).violations == []


def test_each_shield_of_a_stream_has_a_mutation() -> None:
    named = set()
    for file in Path(cef_trio.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "saving" and isinstance(node.value, ast.Constant):
                named.add(node.value.value)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "record_effect":
                named |= {word.value for word in node.args if isinstance(word, ast.Constant)}
    taken = {name.removeprefix("no shield: ") for name in MUTATIONS if name.startswith("no shield: ")}
    assert named == taken | OUTSIDE


def test_a_replacement_that_lacks_a_parameter_is_refused() -> None:
    class Owner:
        def method(self, one: int, *, two: int = 2) -> None: ...

    def lacks_two(_self: Owner, _one: int) -> None: ...
    def lacks_one(_self: Owner, *, two: int) -> None: ...
    def takes_all(_self: Owner, *_: int, **__: int) -> None: ...

    with ExitStack() as stack:
        for replacement, lacking in ((lacks_two, "two"), (lacks_one, "one")):
            with pytest.raises(TypeError, match=f"lacks parameters of .*: {lacking}$"):
                replace_in(stack, Owner, "method", replacement)
        replace_in(stack, Owner, "method", takes_all)
        assert vars(Owner)["method"] is takes_all
    assert vars(Owner)["method"] is not takes_all
