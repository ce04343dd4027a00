"""The man page ``docs/man/cef-trio.1``, made from the parsers: ``python -m cef_trio.cli.man_page``.

A test compares the file with it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cef_trio import __version__
from cef_trio.cli.command_line import Argument, Command, commands_of
from cef_trio.cli.main import ALL_COMMANDS, COMMANDS, make_parser

_DATE = "2026-11-29"
"""Of the last change of the page's form; the page must not change with the day on which it is made."""
_EXAMPLES = "Examples:\n"
_CODES = (
    ("0", "done"),
    ("1", "a bug; of health: not healthy"),
    ("2", "a setting or an argument is wrong"),
    ("3", "something could not be saved at the exit"),
    ("4", "S3 or Redis refused access, or cannot be reached"),
    ("5", "the result is negative: not identical, not retried, a problem found"),
)


def man_page(commands: Sequence[Command]) -> str:
    """Return the page in the macros of ``man(7)``. Pure."""
    lines = [
        '.\\" Made by python -m cef_trio.cli.man_page.',
        f'.TH CEF\\-TRIO 1 {_DATE} "cef\\-trio {_text(__version__)}" "User Commands"',
        ".SH NAME",
        "cef\\-trio \\- upload growing video recordings to S3 while they are being written",
        ".SH SYNOPSIS",
        ".B cef\\-trio",
        ".I COMMAND",
        "[\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        "The daemon, \\fBcef\\-trio run\\fR, watches a folder and uploads each recording to S3\\-compatible storage",
        "while it grows. Every part is recorded in Redis or Valkey, so that a crash loses only the parts in flight.",
        "The other commands show and repair, beside the daemon or on another machine with the same settings.",
        ".SH COMMANDS",
    ]
    for command in commands:
        lines += _command(command)
    lines += [".SH EXIT STATUS"]
    for code, meaning in _CODES:
        lines += [".TP", f".B {code}", _text(meaning)]
    lines += [
        ".SH ENVIRONMENT",
        "Each setting is a variable of the environment, or a line of the settings file; the environment wins.",
        "\\fBcef\\-trio check\\fR shows them all with their sources.",
        ".SH FILES",
        ".TP",
        ".I .env",
        "The settings, in the working directory.",
        ".TP",
        ".I /etc/cef\\-trio/cef\\-trio.env",
        "The settings of the systemd service.",
    ]
    return "\n".join([*lines, ""])


def _command(command: Command) -> list[str]:
    codes, _, examples = command.epilog.partition(_EXAMPLES)
    lines = [f".SS cef\\-trio {_text(command.name)}", _text(command.description), ".PP", ".nf"]
    lines += [_text(line) for line in _wrapped(command.usage)]
    lines += [".fi"]
    for argument in command.arguments:
        lines += [".TP", _term(argument), _text(argument.help) or "."]
    if codes:
        lines += [".PP", _text(" ".join(codes.split()))]
    if examples:
        lines += [".PP", "Examples:", ".PP", ".nf", ".RS", *(_text(one.strip()) for one in examples.splitlines())]
        lines += [".RE", ".fi"]
    return lines


def _wrapped(usage: str) -> list[str]:
    """Return the usage on lines of 78 characters."""
    lines = [""]
    for word in usage.replace("] [", "]\n[").split("\n"):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > 70:  # noqa: PLR2004 - the width of a page, with its indent
            lines.append("    ")
        lines[-1] += word if not lines[-1].strip() else f" {word}"
    return lines


def _term(argument: Argument) -> str:
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in argument.names)
    return f"{names} \\fI{_text(argument.metavar)}\\fR".strip() if argument.metavar else names


def _text(text: str) -> str:
    """Return plain text for roff: no escape, no macro at its beginning."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    escaped = escaped.replace("…", "...")
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped


if __name__ == "__main__":
    sys.stdout.write(man_page(commands_of(make_parser(COMMANDS), ALL_COMMANDS)))
