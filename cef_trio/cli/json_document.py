"""The one JSON document that a command prints with ``--json``. Standard library only, for ``cef-trio health``.

Each document has ``version`` first; it changes only if a field is removed or its meaning changes. The schemas are in
``docs/json/``. A command that fails before it has printed its document prints one with ``error``: ``print_failure``,
called by ``main.py``. So standard output always has exactly one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

VERSION: Final = 1


@dataclass(slots=True)
class _Printed:
    """What this process has printed so far."""

    document: bool = False
    errors: list[str] = field(default_factory=list)


_printed = _Printed()


def begin() -> None:
    """Forget what was printed; a command begins."""
    _printed.document = False
    _printed.errors.clear()


def note_error(line: str) -> None:
    """Remember an error that was printed, for :func:`print_failure`."""
    _printed.errors.append(line)


def print_document(document: Mapping[str, Any]) -> None:
    """Print the document, ASCII only: a name that is not UTF-8 has ``\\udcXX`` in it."""
    text = json.dumps({"version": VERSION, **document}, indent=2, ensure_ascii=True, default=_plain)
    _printed.document = True
    sys.stdout.write(f"{text}\n")


def print_failure(exit_code: int, *, instead: str) -> None:
    """Print a document with the errors that were noted, or ``instead``, unless a document was printed."""
    if not _printed.document:
        print_document({"error": {"exit_code": int(exit_code), "lines": _printed.errors or [instead]}})


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not serializable")
