"""The completion scripts and the man page are made from the parsers, and the programs that read them accept them."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable
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
    words = line.replace("=", " = ").split(" ")  # as COMP_WORDBREAKS splits it
    asked = " ".join(f"'{word}'" for word in words)
    run = f"cd {folder}\n{SCRIPTS['bash'](ALL)}\nCOMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; _cef_trio\n"
    return said(needs("bash"), "-s", stdin=run + "printf '%s\\n' \"${COMPREPLY[@]}\"").split()


def by_fish(line: str, folder: Path) -> list[str]:
    run = f"cd {folder}\n{SCRIPTS['fish'](ALL)}\ncomplete -C '{line}'"
    return [one.partition("\t")[0] for one in said(needs("fish"), "--no-config", stdin=run).splitlines()]


def by_zsh(line: str, folder: Path) -> list[str]:
    """Type the line and a tab in an interactive zsh; its answer is the line as it is then."""
    (folder / ".zshrc").write_text(
        f"autoload -Uz compinit; compinit -u -D\n{SCRIPTS['zsh'](ALL)}\n"
        "answer() { print -r -- \"<$BUFFER>\"; exit }\nzle -N answer; bindkey '^O' answer\n"
        "unset zle_bracketed_paste\nPS1='ready'\n"
    )
    terminal, inner = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "ZDOTDIR": str(folder)}
    with subprocess.Popen(
        [needs("zsh"), "-d", "-i"], stdin=inner, stdout=inner, stderr=inner, cwd=folder, env=environment,
        start_new_session=True,
    ) as shell:  # fmt: skip
        os.close(inner)
        try:
            out = read_until(terminal, "ready")
            os.write(terminal, f"{line}\t\x0f".encode())
            out += read_until(terminal, ">")
        finally:
            shell.kill()
            os.close(terminal)
    assert "_arguments" not in out, out
    last = out.rpartition("<")[2].partition(">")[0].split()[-1:]
    return [word.removesuffix("=") for word in last]  # a blank in its place removes it


def read_until(terminal: int, end: str) -> str:
    out, deadline = "", time.monotonic() + 30
    while end not in out:
        assert time.monotonic() < deadline, out
        if select.select([terminal], [], [], 1)[0]:
            out += os.read(terminal, 65536).decode(errors="replace")
    return out


@pytest.mark.real
@pytest.mark.parametrize("command", [command.name for command in ALL])
def test_zsh_understands_the_arguments_of_each_command(command: str, tmp_path: Path) -> None:
    """Its syntax may be right, and `_arguments` refuse it, on the terminal, while one types."""
    assert by_zsh(f"cef-trio {command} --he", tmp_path) == ["--help"]


@pytest.mark.real
@pytest.mark.parametrize("complete", [by_bash, by_fish, by_zsh])
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
        ("cef-trio fleet retire --fo", ["--forget-history"]),
        ("cef-trio retry --al", ["--all"]),
        ("cef-trio verify rec", ["rec.mp4"]),
    ],
)
def test_what_a_shell_offers(complete: object, line: str, offered: list[str], tmp_path: Path) -> None:
    for name in ("settings.env", "rec.mp4"):
        (tmp_path / name).touch()
    assert callable(complete)
    assert complete(line, tmp_path) == offered


@pytest.mark.real
@pytest.mark.parametrize(
    ("complete", "offered"),
    [(by_bash, "interrupted"), (by_fish, "--state=interrupted"), (by_zsh, "--state=interrupted")],
)
def test_a_value_behind_an_equals_sign(
    complete: Callable[[str, Path], list[str]], offered: str, tmp_path: Path
) -> None:
    assert complete("cef-trio list --state=in", tmp_path) == [offered]
