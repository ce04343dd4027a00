"""The results of a command, subject by subject: lines as they happen, or one JSON document at the end.

The document is printed also if the command is cancelled or fails; ``finished``: whether it came to its end; ``error``:
why not.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any, Self

import trio

from cef_trio.cli.output import print_json
from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.exit_codes import ExitCode
from cef_trio.safe_text import printable


def describe_failure(error: BaseException) -> list[str]:
    """Return the lines of an error of ours; for another exception, such as a cancellation, its type."""
    if isinstance(error, CefMp4ProcessorError):
        return [printable(line) for line in str(error).splitlines()]
    return ["interrupted" if isinstance(error, trio.Cancelled) else type(error).__name__]


class Report:
    """A context manager; :attr:`code` is the command's exit code. ``about`` holds further fields of the document."""

    def __init__(self, *, as_json: bool, **about: Any) -> None:
        self.about = about
        self._as_json = as_json
        self._results: list[dict[str, Any]] = []
        self._refused = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._as_json:
            return
        failure = {} if error is None else {"error": {"lines": describe_failure(error)}}
        # A closed pipe must not hide the error that ended the block.
        with suppress(BrokenPipeError) if error is not None else nullcontext():
            print_json({"finished": kind is None, **failure, **self.about, "results": self._results})

    def add(self, subject: str, says: str, *, ok: bool = True, shown: bool = True, **more: Any) -> None:
        """Add the result of one subject (a stream's id, a key).

        ``says`` is what was done, or why not; ``ok`` is false if the request was not carried out. The JSON document has
        it always, with the fields ``more``, also if it is not ``shown``.
        """
        self._refused += not ok
        self._results.append({"subject": subject, "ok": ok, "says": says, **more})
        if shown and not self._as_json:
            sys.stdout.write(f"{printable(subject)}: {printable(says)}\n")
            sys.stdout.flush()

    def remark(self, text: str) -> None:
        """Print a line that is not part of the JSON document."""
        if not self._as_json:
            sys.stdout.write(f"{printable(text)}\n")

    @property
    def code(self) -> ExitCode:
        """``ANSWER_IS_NO`` if any request was not carried out."""
        return ExitCode.ANSWER_IS_NO if self._refused else ExitCode.DONE
