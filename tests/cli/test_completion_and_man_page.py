"""The completion scripts and the man page are made from the parsers, and the programs that read them accept them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cef_trio.cli.command_line import commands_of
from cef_trio.cli.completion import SCRIPTS
from cef_trio.cli.main import ALL_COMMANDS, COMMANDS, main, make_parser
from cef_trio.cli.man_page import man_page

PAGE = Path(__file__).parents[2] / "docs" / "man" / "cef-trio.1"
ALL = commands_of(make_parser(COMMANDS), ALL_COMMANDS)


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def said(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout


def test_the_man_page_is_what_the_parsers_say() -> None:
    assert PAGE.read_text() == man_page(ALL), "python -m cef_trio.cli.man_page > docs/man/cef-trio.1"


def test_every_command_and_option_is_in_the_page_and_in_the_scripts() -> None:
    shown = make_parser(COMMANDS).format_help().partition("COMMAND\n")[2]
    assert [command.name for command in ALL] == re.findall(r"^    ([a-z]+)\b", shown, re.MULTILINE)
    scripts = {shell: make(ALL) for shell, make in SCRIPTS.items()}
    texts = [man_page(ALL).replace("\\-", "-"), scripts["bash"], scripts["zsh"]]
    for command in ALL:
        assert all(command.name in text for text in [*texts, scripts["fish"]])
        for name in (name for option in command.options for name in option.names):
            assert all(name in text for text in texts), name
            assert name.lstrip("-") in scripts["fish"]


@pytest.mark.real
@pytest.mark.parametrize(
    "command",
    [
        ["groff", "-man", "-ww", "-z", "-Tutf8", str(PAGE)],
        ["man", "--warnings", "-l", str(PAGE)],
        ["mandoc", "-T", "lint", "-W", "warning", str(PAGE)],
    ],
    ids=lambda command: command[0],
)
def test_the_man_page_is_read_without_a_warning(command: list[str]) -> None:
    needs(command[0])
    out = said(*command)
    assert "WARNING" not in out
    assert command[0] != "man" or "cef-trio list" in out


@pytest.mark.real
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_has_valid_syntax(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    program = needs(shell)
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert said(program, "-n", str(script)) == ""


def by_bash(line: str, folder: Path) -> list[str]:
    words = line.split(" ")
    asked = " ".join(f"'{word}'" for word in words)
    run = f"cd {folder}\n{SCRIPTS['bash'](ALL)}\nCOMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; _cef_trio\n"
    return said(needs("bash"), "-s", stdin=run + "printf '%s\\n' \"${COMPREPLY[@]}\"").split()


def by_fish(line: str, folder: Path) -> list[str]:
    run = f"cd {folder}\n{SCRIPTS['fish'](ALL)}\ncomplete -C '{line}'"
    return [one.partition("\t")[0] for one in said(needs("fish"), "--no-config", stdin=run).splitlines()]


@pytest.mark.real
@pytest.mark.parametrize("complete", [by_bash, by_fish])
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cef-trio li", ["list"]),
        ("cef-trio la", ["lab"]),
        ("cef-trio list --st", ["--state"]),
        ("cef-trio list --state in", ["interrupted"]),
        ("cef-trio list --sort na", ["name"]),
        ("cef-trio list --env-file set", ["settings.env"]),
        ("cef-trio completion z", ["zsh"]),
        ("cef-trio fleet re", ["retire"]),
        ("cef-trio verify rec", ["rec.mp4"]),
    ],
)
def test_what_a_shell_offers(complete: object, line: str, offered: list[str], tmp_path: Path) -> None:
    for name in ("settings.env", "rec.mp4"):
        (tmp_path / name).touch()
    assert callable(complete)
    assert complete(line, tmp_path) == offered
