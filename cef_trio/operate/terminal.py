"""What a command prints: rich for a person, one JSON document for a script.

Names of files, keys and S3's own words come from strangers. :func:`safe` is the only way into the output: control
characters and escapes are shown as such, so that a file's name cannot forge a line or a colour, and what it returns is
a ``rich.text.Text``, in which no markup is read. JSON is pure ASCII: a name that is not UTF-8 is a ``\\udcXX`` in it.

Answers go to standard output; what went wrong goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_KIBI: Final = 1024
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400
_LEAST_FLEXIBLE: Final = 12
_PIPE_WIDTH: Final = 200
"""How wide a table is where no terminal says."""


def printable(text: str) -> str:
    """The text on one line: everything that is not printable is written as an escape."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def safe(text: str, style: str = "") -> Text:
    """The text as rich may print it: one line, no markup, cut with an ellipsis where a column ends."""
    return Text(printable(text), style=style, overflow="ellipsis", no_wrap=True)


class _Output(Console):
    """Standard output. rich would end the process where it finds a pipe closed; that is for the command line to do."""

    def on_broken_pipe(self) -> None:
        """Say so like any other writer."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output; tables are as wide as the terminal, or 200 columns where there is none."""
    plain = {"highlight": False, "markup": False, "emoji": False}
    return _Output(**plain) if sys.stdout.isatty() else _Output(**plain, width=_PIPE_WIDTH)  # type: ignore[arg-type]


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document, ASCII only."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=True, default=_plain) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not for JSON")


def complain(message: str) -> None:
    """One line for a person on standard error."""
    sys.stderr.write(f"cef-trio: {printable(message)}\n")


def short_path(path: str) -> str:
    """The end of a path, which tells one recording from another: its folder and its name."""
    folder, name = os.path.split(path)
    parent = os.path.basename(folder)  # noqa: PTH119 - paths may hold any byte
    return f"…/{parent}/{name}" if os.path.dirname(folder) not in {"", "/"} else path  # noqa: PTH120 - as above


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Only ``flexible`` ones, whose cells are :func:`safe` texts, become narrower than these."""

    name: str
    right: bool = False
    flexible: bool = False
    most: int | None = None
    """The widest it may be, where it is not flexible."""


def table(columns: Sequence[Column], rows: Sequence[Sequence[RenderableType]]) -> Table:
    """A table without frames, one line a row; in a narrow terminal the flexible columns are cut, never the others."""
    made = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold", expand=False)
    for number, column in enumerate(columns):
        widest = max([cell_len(column.name), *(_width(row[number]) for row in rows)])
        width = None if column.flexible else min(widest, column.most or widest)
        made.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=not column.flexible,  # rich narrows only what may wrap; safe() keeps it from really doing so
            overflow="ellipsis",
            min_width=_LEAST_FLEXIBLE if column.flexible else width,
            max_width=width,
        )
    for row in rows:
        made.add_row(*row)
    return made


def _width(cell: RenderableType) -> int:
    if isinstance(cell, ProgressBar):
        return cell.width or 0
    return cell.cell_len if isinstance(cell, Text) else cell_len(str(cell))


def facts(rows: Sequence[tuple[str, Text | str]]) -> Table:
    """Names and values, one a line; values may take several lines, never lose their end."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        text = Text(printable(value)) if isinstance(value, str) else value.copy()
        text.no_wrap, text.overflow = False, "fold"
        made.add_row(name, text)
    return made


def size(size_bytes: float | None) -> str:
    """Bytes for a person: ``1.5 GiB``; a dash for what is not known."""
    if size_bytes is None:
        return "-"
    value = float(size_bytes)
    for unit in _UNITS[:-1]:
        if abs(value) < _KIBI:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIBI
    return f"{value:.1f} {_UNITS[-1]}"


def duration(seconds: float | None) -> str:
    """Seconds for a person: ``4s``, ``3m20s``, ``5h02m``, ``3d04h``; a dash for what is not known."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"
