"""The output of ``cef-trio lab``: tables, a self-contained report, and one-line errors."""

from __future__ import annotations

import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cef_trio.cli.main import main
from cef_trio.exit_codes import ExitCode
from cef_trio.lab import command
from cef_trio.lab.explorers import cancellations
from cef_trio.lab.run import Plan


class Page(HTMLParser):
    """The links, tags and text of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_scenario_is_explored_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "out.html"
    words = ["lab", "cancel", "--scenario", "empty", "--processes", "1", "--drain-every", "50", "--report", str(report)]
    assert main(words) == ExitCode.DONE
    assert re.search(r"empty\s*│\s*\d+ │", capsys.readouterr().out)
    page = Page(report.read_text())
    assert page.loads == []
    assert "No violations." in page.text
    assert "upload/processor.py" in page.text  # where faults were injected
    assert "circle" in page.tags  # the timeline of one run
    assert "cef-trio lab replay empty cancel@" in page.text


def test_a_violation_is_printed_with_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Plan("first-part", mutation="naive: no state saved")

    def mutated(scenario: str, *, seed: int, **_: int) -> list[Plan]:
        return [
            Plan(scenario, plan.injections, seed, broken.mutation) for plan in list(real(scenario, seed=seed))[::20]
        ]

    real = cancellations
    monkeypatch.setattr(command, "cancellations", mutated)
    assert main(["lab", "cancel", "--scenario", "first-part", "--processes", "1"]) == ExitCode.ANSWER_IS_NO
    again = re.search(r"cef-trio lab replay (.*)", capsys.readouterr().out)
    assert again is not None
    assert main(["lab", "replay", *shlex.split(again[1])]) == ExitCode.ANSWER_IS_NO
    assert "P3: " in capsys.readouterr().out


def test_a_simulated_world_is_replayed_by_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "replay", "simulated", "--seed", "7"]) == ExitCode.DONE
    first = capsys.readouterr().out
    assert main(["lab", "replay", "simulated", "--seed", "7"]) == ExitCode.DONE
    assert re.sub(r"cef-lab-\w+", "", first) == re.sub(r"cef-lab-\w+", "", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cancel", "--scenario", "nothing-such"], "invalid choice: 'nothing-such'"),
        (["replay", "empty", "explode@3"], "takes FAULT@N"),
        (["simulate", "--worlds", "0"], "takes a whole number from 1, not '0'"),
        (["simulate", "--seed", "-1"], "takes a whole number from 0, not '-1'"),
        (
            ["mutations", "--only", "nothing-such"],
            "takes a part of a name, not 'nothing-such'; the names are: no shield: ",
        ),
        (["variants", "--only", "nothing-such"], "takes a part of a name, not 'nothing-such'; the names are: naive: "),
        (["mutations", "--report", "out.html"], "unrecognized arguments: --report"),
    ],
)
def test_an_invalid_argument_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", *words]) == ExitCode.BAD_SETTINGS
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_check_is_replayed_and_takes_no_faults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "replay", "busy-client"]) == ExitCode.DONE
    assert (
        main(["lab", "replay", "busy-client", "--mutation", "unbounded: admin connections of one client"])
        == ExitCode.ANSWER_IS_NO
    )
    assert "P10: one client uses every connection" in capsys.readouterr().out
    assert main(["lab", "replay", "busy-client", "cancel@3"]) == ExitCode.BAD_SETTINGS
    assert capsys.readouterr().err.strip().endswith("busy-client is a check without a daemon, so it takes no faults")


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lab", "replay", "empty", "--report", str(tmp_path / "no" / "out.html")]
    assert main(words) == ExitCode.BAD_SETTINGS
    assert "cannot write the report to" in capsys.readouterr().err
