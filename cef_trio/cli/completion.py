"""``cef-trio completion SHELL``: print the completion script of a shell, made from the parsers.

It completes commands, options, their choices and files. Stream ids are not completed: Redis would have to be asked at
each press of the key.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from shlex import quote
from types import MappingProxyType
from typing import Final

from cef_trio.cli.arguments import add_epilog
from cef_trio.cli.command_line import Argument, Command, commands_of
from cef_trio.exit_codes import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``completion``."""
    parser.description = (
        f"{parser.description} bash: source <(cef-trio completion bash), in ~/.bashrc. zsh: the same in ~/.zshrc, "
        "after compinit. fish: into ~/.config/fish/completions/cef-trio.fish."
    )
    examples = (
        "cef-trio completion bash > /etc/bash_completion.d/cef-trio",
        "cef-trio completion zsh > /usr/local/share/zsh/site-functions/_cef-trio",
        "cef-trio completion fish > ~/.config/fish/completions/cef-trio.fish",
    )
    add_epilog(parser, "Exit codes: 0 done, 2 wrong arguments.", examples)
    parser.add_argument("shell", choices=sorted(SCRIPTS), help="the shell")


def run(arguments: argparse.Namespace) -> ExitCode:
    """Print the script."""
    from cef_trio.cli.main import ALL_COMMANDS, COMMANDS, make_parser  # main.py imports this module

    sys.stdout.write(SCRIPTS[arguments.shell](commands_of(make_parser(COMMANDS), ALL_COMMANDS)))
    return ExitCode.DONE


def bash(commands: Sequence[Command]) -> str:
    """Return the script for bash. Pure."""
    values, words = [], []
    for command in commands:
        for option in command.options:
            names = option.names if option.metavar else ()
            values += [f'        "{command.name} {name}") {_bash_value(option)} return ;;' for name in names]
        offered = [name for option in command.options for name in option.names]
        offered += [choice for one in command.arguments if not one.names for choice in one.choices]
        files = any(one.takes_file for one in command.arguments if not one.names)
        words.append(f'        {command.name}) words="{" ".join(offered)}"{" files=1" if files else ""} ;;')
    all_names = " ".join(command.name for command in commands)
    return "\n".join([
        "# bash completion of cef-trio; made by `cef-trio completion bash`",
        "_cef_trio() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
        '    [[ $previous == = ]] && previous="${COMP_WORDS[COMP_CWORD-2]}"  # --option=value is three words',
        '    [[ $current == = ]] && current=""',
        '    local chosen="" word words files=""',
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '        if [[ $word != -* ]]; then chosen="$word"; break; fi',
        "    done",
        "    COMPREPLY=()",
        '    case "$chosen $previous" in',
        *values,
        "    esac",
        '    case "$chosen" in',
        f'        "") words="{all_names} --help --version" ;;',
        *words,
        "        *) return ;;",
        "    esac",
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")',
        "    if [[ -n $files && $current != -* ]]; then",
        '        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$current")',
        "    fi",
        "}",
        "complete -o filenames -F _cef_trio cef-trio",
        "",
    ])  # fmt: skip


def _bash_value(option: Argument) -> str:
    if option.choices:
        return f'mapfile -t COMPREPLY < <(compgen -W "{" ".join(option.choices)}" -- "$current");'
    return 'mapfile -t COMPREPLY < <(compgen -f -- "$current");' if option.takes_file else ""


def zsh(commands: Sequence[Command]) -> str:
    """Return the script for zsh. Pure."""
    described = [f"        {quote(f'{_zsh_text(one.name)}:{_zsh_text(one.help)}')}" for one in commands]
    cases = []
    for command in commands:
        specs = [spec for option in command.options for spec in _zsh_options(option)]
        specs += _zsh_positions([argument for argument in command.arguments if not argument.names])
        cases.append(f"        {command.name}) _arguments {' '.join(quote(spec) for spec in specs)} ;;")
    return "\n".join([
        "#compdef cef-trio",
        "# zsh completion of cef-trio; made by `cef-trio completion zsh`",
        "_cef_trio() {",
        "    local -a commands",
        "    commands=(",
        *described,
        "    )",
        "    if (( CURRENT == 2 )); then",
        "        _describe command commands",
        "        return",
        "    fi",
        "    local chosen=$words[2]",
        "    shift words",
        "    (( CURRENT-- ))",
        "    case $chosen in",
        *cases,
        "    esac",
        "}",
        'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _cef_trio "$@"; else compdef _cef_trio cef-trio; fi',
        "",
    ])  # fmt: skip


def _zsh_options(option: Argument) -> list[str]:
    # With =, the value may follow = as well as a blank.
    equals = {name: "=" if option.metavar and name.startswith("--") else "" for name in option.names}
    return [f"{name}{equals[name]}[{_zsh_text(option.help)}]{_zsh_value(option)}" for name in option.names]


def _zsh_positions(arguments: Sequence[Argument]) -> list[str]:
    """Return the positional arguments; the last one stands for all that follow, which only one may do."""
    numbered = [f"{number}{_zsh_value(argument)}" for number, argument in enumerate(arguments, 1)]
    return [*numbered[:-1], *(f"*{_zsh_value(argument)}" for argument in arguments[-1:])]


def _zsh_value(argument: Argument) -> str:
    shown = _zsh_text(argument.metavar)
    # With a blank in place of _message, zsh would offer no option in the place of a positional argument.
    other = "_files" if argument.takes_file else f"_message {shown}"
    action = f"({' '.join(argument.choices)})" if argument.choices else other
    return f":{shown}:{action}" if argument.metavar else ""


def _zsh_text(text: str) -> str:
    for character in "\\:[]":
        text = text.replace(character, f"\\{character}")
    return text


def fish(commands: Sequence[Command]) -> str:
    """Return the script for fish. Pure."""
    names = " ".join(command.name for command in commands)
    lines = [
        "# fish completion of cef-trio; made by `cef-trio completion fish`",
        "complete -c cef-trio -f",
    ]
    for command in commands:
        first = f"complete -c cef-trio -n 'not __fish_seen_subcommand_from {names}'"
        lines.append(f"{first} -a {command.name} -d {_fish_text(command.help)}")
        within = f"complete -c cef-trio -n '__fish_seen_subcommand_from {command.name}'"
        for argument in command.arguments:
            named = "".join(f" -{'l' if name.startswith('--') else 's'} {name.lstrip('-')}" for name in argument.names)
            words = f" -a {_fish_text(' '.join(argument.choices))}" if argument.choices else ""
            if not argument.names:
                lines += [f"{within}{words or ' -F'}"] if words or argument.takes_file else []
                continue
            takes = "" if not argument.metavar else " -r -F" if argument.takes_file else " -x"
            lines.append(f"{within}{named}{takes}{words} -d {_fish_text(argument.help)}")
    return "\n".join([*lines, ""])


def _fish_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SCRIPTS: Final[Mapping[str, Callable[[Sequence[Command]], str]]] = MappingProxyType(
    {"bash": bash, "fish": fish, "zsh": zsh}
)
