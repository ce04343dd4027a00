"""The command line as data, read from the parsers: for completion and the man page. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_FILES: Final = frozenset({"FILE", "DIR", "FOLDER", "ID|FILE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """An option, or a positional argument (without names)."""

    names: tuple[str, ...]
    metavar: str
    """Empty: it takes no value."""
    help: str
    choices: tuple[str, ...] = ()

    @property
    def takes_file(self) -> bool:
        """Whether its value is a path."""
        return self.metavar in _FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command with its arguments."""

    name: str
    help: str
    """The line in ``cef-trio --help``."""
    description: str
    usage: str
    epilog: str
    arguments: tuple[Argument, ...]

    @property
    def options(self) -> tuple[Argument, ...]:
        """The arguments with names."""
        return tuple(one for one in self.arguments if one.names)


def commands_of(parser: argparse.ArgumentParser, helps: Mapping[str, str]) -> list[Command]:
    """Return the commands of the parser, in their order; ``helps``: a line for each."""
    [subparsers] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    return [
        Command(
            name=name,
            help=helps[name],
            description=inner.description or "",
            usage=" ".join(inner.format_usage().removeprefix("usage: ").split()),
            epilog=inner.epilog or "",
            arguments=tuple(_argument(action) for action in inner._actions),  # noqa: SLF001 - argparse has no other way
        )
        for name, inner in subparsers.choices.items()
        if name in helps
    ]


def _argument(action: argparse.Action) -> Argument:
    choices: Sequence[str] = [str(one) for one in action.choices or ()]
    takes_value = action.nargs != 0
    metavar = action.metavar if isinstance(action.metavar, str) else "|".join(choices) or action.dest.upper()
    return Argument(
        names=tuple(action.option_strings),
        metavar=metavar if takes_value else "",
        help=(action.help or "").replace("%%", "%"),
        choices=tuple(choices),
    )
