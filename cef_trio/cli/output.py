"""The output of commands: rich text, or one JSON document.

File names, keys and S3's messages are untrusted. All of them pass through :func:`safe`, which escapes control
characters, so that a file name cannot forge a line or a colour, and returns a ``rich.text.Text``, in which rich reads
no markup. JSON is pure ASCII: a name that is not UTF-8 has ``\\udcXX`` in it.

In a narrow terminal a table drops its optional columns, then cuts names at their beginning, since the end of a path
identifies the recording. In a pipe nothing is cut or wrapped, so that ``grep`` works. No line ends in blanks.

Results go to standard output, errors to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.text import Text

from cef_trio import amounts
from cef_trio.checkpoint import Status, StreamSet
from cef_trio.cli.json_document import note_error, print_document
from cef_trio.safe_text import printable

_STATE_STYLES: Final = {
    StreamSet.ACTIVE: "cyan",
    StreamSet.PENDING_COMPLETION: "yellow",
    StreamSet.COMPLETED: "green",
    StreamSet.FAILED: "red",
}
size, duration = amounts.size, amounts.duration
_LEAST_FLEXIBLE: Final = 22
"""Optional columns are dropped before a name gets fewer cells than this."""
_LEAST_WRAPPED: Final = 20
"""The least width of wrapped text, in cells; below it the indent shrinks."""
_LEAST_INDENT: Final = 2
_GAP: Final = 1
_PIPE_WIDTH: Final = 1_000_000
"""The width without a terminal: nothing is cut."""
_DUMB: Final = frozenset({"dumb", "unknown"})
"""Values of ``TERM``, as rich knows them."""
_UNKNOWN_SIZES: Final = frozenset({("COLUMNS", "0"), ("LINES", "0")})


def safe(text: str, style: str = "") -> Text:
    """Return untrusted text for rich: one line, no markup."""
    return Text(printable(text), style=style)


def status(status: Status, stream_set: StreamSet) -> Text:
    """Return a stream's status, coloured by its set."""
    return Text(status.value, style=_STATE_STYLES[stream_set])


class _Output(Console):
    """Standard output. On a closed pipe rich would exit the process; ``main`` handles that instead."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """Return standard output, as wide as the terminal; unlimited without one."""
    plain = {"highlight": False, "markup": False, "emoji": False}
    if not sys.stdout.isatty():
        return _Output(**plain, width=_PIPE_WIDTH)  # type: ignore[arg-type]
    # COLUMNS=0 is an unknown width, as of a serial console; rich would print nothing.
    known = {name: value for name, value in os.environ.items() if (name, value) not in _UNKNOWN_SIZES}
    return _Output(**plain, _environ=known)  # type: ignore[arg-type]


def print_json(document: Mapping[str, Any]) -> None:
    """Print the command's one JSON document; see ``json_document.py``."""
    print_document(document)


def print_error(message: str) -> None:
    """Print one line on standard error."""
    line = printable(message)
    note_error(line)
    sys.stderr.write(f"cef-trio: {line}\n")


def _can_erase() -> bool:
    """Return whether standard error is a terminal on which a line can be erased."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in _DUMB


@contextmanager
def waiting_message(text: str) -> Iterator[None]:
    """Show a text on the terminal during the block, and erase it afterwards."""
    shown = _can_erase()
    if shown:
        sys.stderr.write(text)
        sys.stderr.flush()
    try:
        yield
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class ProgressLine:
    """A line such as ``object 3 of 40 …`` on standard error, on a terminal only; a context manager that erases it."""

    def __init__(self, what: str, total: int, *, quiet: bool) -> None:
        self._what, self._total = what, total
        self._shown = not quiet and _can_erase()

    def show(self, number: int) -> None:
        """Show that work on the item of this number begins."""
        self._write(f"\r\x1b[K{self._what} {number:,} of {self._total:,} …")

    def erase(self) -> None:
        """Make room for a line of the results."""
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(text)
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.erase()


def short_id(stream_id: str) -> str:
    """Return the beginning of a stream's id, which commands accept if it is unambiguous."""
    return stream_id[:8]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    right: bool = False
    flexible: bool = False
    """Cut in a narrow terminal; other columns are not."""
    most: int | None = None
    """The maximum width in cells on a terminal, if not flexible."""
    spare: int = 0
    """Optional columns are dropped, the highest number first; 0: never."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row; its cells are :func:`safe` texts or trusted strings.

    ``note`` is printed below it, indented, on two lines at most; ``advice`` below that, whole, and once below rows that
    follow each other with the same. In a pipe both are at the end of the line.
    """

    cells: Sequence[Text | str]
    note: Text | None = None
    advice: Text | None = None


@dataclass(frozen=True, slots=True)
class _Shown:
    column: Column
    number: int
    width: int


class Lines:
    """A table without frames, one line a row, laid out for the width at which it is printed."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        self._columns, self._rows = columns, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._fit(options.max_width)
        yield _line([Text(one.column.name, style="bold") for one in shown], shown)
        for row, following in zip_longest(self._rows, self._rows[1:]):
            line = _line([_as_text(row.cells[one.number]) for one in shown], shown)
            if options.max_width >= _PIPE_WIDTH:
                more = [text for text in (row.note, row.advice) if text is not None]
                yield Text(" " * _GAP).join([line, *more])
                continue
            yield line
            indent = shown[0].width + _GAP
            if row.note is not None:
                yield from _indented(row.note, indent, console, options.max_width, most=2)
            if row.advice is not None and (following is None or following.advice != row.advice):
                yield from _indented(row.advice, indent, console, options.max_width)

    def _fit(self, width: int) -> list[_Shown]:
        """Return the columns to show, with their widths."""
        whole = width >= _PIPE_WIDTH
        natural = [self._natural(number, whole=whole) for number in range(len(self._columns))]
        kept = list(range(len(self._columns)))

        def least(number: int) -> int:
            return min(natural[number], _LEAST_FLEXIBLE) if self._columns[number].flexible else natural[number]

        while sum(map(least, kept)) + _GAP * (len(kept) - 1) > width:
            spare = [number for number in kept if self._columns[number].spare]
            if not spare:
                break
            kept.remove(max(spare, key=lambda number: self._columns[number].spare))
        fixed = sum(natural[number] for number in kept if not self._columns[number].flexible)
        room = max(0, width - fixed - _GAP * (len(kept) - 1))
        flexible = sorted((n for n in kept if self._columns[n].flexible), key=lambda number: natural[number])
        widths = dict(enumerate(natural))
        for done, number in enumerate(flexible):  # the narrow ones first: the others share what is left
            widths[number] = max(1, min(natural[number], room // (len(flexible) - done)))
            room -= widths[number]
        return [_Shown(self._columns[number], number, widths[number]) for number in kept]

    def _natural(self, number: int, *, whole: bool) -> int:
        column = self._columns[number]
        widest = max([cell_len(column.name), *(_as_text(row.cells[number]).cell_len for row in self._rows)])
        return widest if whole else min(widest, column.most or widest)


def table(columns: Sequence[Column], rows: Sequence[Row | Sequence[Text | str]]) -> Lines:
    """Return a table; a row without a note may be given as its cells."""
    return Lines(columns, [row if isinstance(row, Row) else Row(row) for row in rows])


def _as_text(cell: Text | str) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _line(cells: Sequence[Text], shown: Sequence[_Shown]) -> Text:
    line = Text(no_wrap=True, overflow="crop")
    for cell, one in zip(cells, shown, strict=True):
        if one is not shown[0]:
            line.append(" " * _GAP)
        text = truncate(cell, one.width, keep_end=one.column.flexible)
        blanks = " " * (one.width - text.cell_len)
        line.append(blanks if one.column.right else "").append_text(text).append("" if one.column.right else blanks)
    line.rstrip()
    return line


def truncate(text: Text, width: int, *, keep_end: bool) -> Text:
    """Return the text in ``width`` cells at most, with an ellipsis where it was cut."""
    if text.cell_len <= width:
        return text
    kept, room = "", width - 1
    for character in reversed(text.plain) if keep_end else text.plain:
        room -= cell_len(character)
        if room < 0:
            break
        kept = character + kept if keep_end else kept + character
    return Text(f"…{kept}" if keep_end else f"{kept}…", style=text.style)


def _indented(text: Text, indent: int, console: Console, width: int, most: int | None = None) -> Iterator[Text]:
    """Wrap the text with an indent, in cells; what does not fit into ``most`` lines is cut."""
    room = max(1, width - indent)
    lines = list(text.wrap(console, room, overflow="fold"))
    if most is not None and len(lines) > most:
        rest = Text(" ".join(line.plain.strip() for line in lines[most - 1 :]), style=text.style)
        lines = [*lines[: most - 1], truncate(rest, room, keep_end=False)]
    for line in lines:
        line.rstrip()
        yield Text(" " * indent, no_wrap=True, overflow="crop").append_text(line)


class HangingIndent:
    """A word at the left, and a text with a hanging indent beside it. Nothing is cut."""

    def __init__(self, word: Text, text: Text, indent: int) -> None:
        self._word, self._text, self._indent = word, text, indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        indent = min(self._indent, max(_LEAST_INDENT, options.max_width - _LEAST_WRAPPED))
        first, *others = _indented(self._text, indent, console, options.max_width)
        beginning = Text(no_wrap=True, overflow="crop").append_text(self._word)
        if self._word.cell_len < indent:
            first = beginning.append(" " * (indent - self._word.cell_len)).append_text(first[indent:])
            first.rstrip()
        else:  # no room beside the word
            yield beginning
        yield from (first, *others)


def facts(rows: Sequence[tuple[str, Text | str]]) -> Group:
    """Return names and values, one a line; long values are wrapped, never cut."""
    indent = 2 + max((cell_len(name) for name, _ in rows), default=0)
    texts = [(name, Text(printable(value)) if isinstance(value, str) else value) for name, value in rows]
    return Group(*(HangingIndent(Text(name, style="bold"), text, indent) for name, text in texts))


def count(number: int, what: str) -> str:
    """Return a count with its noun: ``1 part``, ``2 parts``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
