"""The commands in the pages for people: the blocks of shell, each with what a comment before it says of it.

``<!-- run: MACHINE -->``, or ``<!-- run: MACHINE, the last command in the background -->``, names the machine on which
the newcomer's protocol (tests/deploy/test_newcomer.py) executes a block. ``<!-- not run: REASON -->``: it does not.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ("README.md", "docs/operations.md")
MACHINES: Final = ("clone", "systemd", "package", "podman")
_BLOCK: Final = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_MARK: Final = re.compile(r" *<!-- (run|not run): (.*?) -->")
_IN_BACKGROUND: Final = "the last command in the background"


@dataclass(frozen=True)
class Block:
    """A block of commands; ``machine`` is empty if it is not run, for ``reason``."""

    page: str
    line: int
    text: str
    machine: str = ""
    in_background: bool = False
    reason: str = ""

    @property
    def place(self) -> str:
        """The page and line."""
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """Return the blocks of all pages, in the order in which a newcomer reads them."""
    return [block for page in PAGES for block in blocks_of(page, (ROOT / page).read_text())]


def blocks_of(page: str, text: str) -> list[Block]:
    """Return a page's blocks; one without a comment has neither a machine nor a reason."""
    found = []
    for match in _BLOCK.finditer(text):
        before = text[: match.start()]
        block = Block(page, before.count("\n") + 1, textwrap.dedent(match[2]))
        mark = _MARK.fullmatch(before.removesuffix("\n").rpartition("\n")[2])
        if mark is None:
            found.append(block)
        elif mark[1] == "not run":
            found.append(Block(page, block.line, block.text, reason=mark[2]))
        else:
            machine, _, how = mark[2].partition(", ")
            assert how in {"", _IN_BACKGROUND}, how
            found.append(Block(page, block.line, block.text, machine, in_background=bool(how)))
    return found
