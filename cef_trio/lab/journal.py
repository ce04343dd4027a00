"""The journal of a run, on the virtual clock: calls, log events and actions of the laboratory.

The report draws its timeline from it. Two runs are identical if the digests of their journals are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import structlog
import trio


class Lane(StrEnum):
    """The source of a journal entry."""

    DAEMON = "daemon"
    S3 = "s3"
    REDIS = "redis"
    WEBHOOK = "webhook"
    FILE = "file"
    LAB = "lab"


@dataclass(slots=True)
class Entry:
    """One event or call. Times are virtual seconds; ``ended`` is ``None`` for an event without duration."""

    lane: Lane
    began: float
    text: str
    ended: float | None = None
    outcome: str = ""


@dataclass(slots=True)
class Journal:
    """The entries of a run, in order of their beginning."""

    entries: list[Entry] = field(default_factory=list)

    def note(self, lane: Lane, text: str) -> None:
        """Add an event at the current time."""
        self.entries.append(Entry(lane, trio.current_time(), text))

    @contextmanager
    def call(self, lane: Lane, text: str) -> Iterator[Entry]:
        """Add a call that lasts as long as the block, which may set ``outcome`` (default: the exception's name)."""
        entry = Entry(lane, trio.current_time(), text)
        self.entries.append(entry)
        try:
            yield entry
        except BaseException as error:
            entry.outcome = entry.outcome or type(error).__name__
            raise
        finally:
            entry.ended = trio.current_time()

    def digest(self, *, without: str) -> str:
        """Return a SHA-256 over all entries. ``without``: the folder's name, removed since it differs between runs."""
        text = "\n".join(
            f"{entry.lane} {entry.began:.6f} {entry.ended or 0:.6f} {entry.text} {entry.outcome}"
            for entry in self.entries
        )
        return hashlib.sha256(text.replace(without, "").encode()).hexdigest()


@contextmanager
def logging_into(journal: Journal) -> Iterator[None]:
    """Redirect log events to the journal."""

    def add_entry(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        fields = {
            name: value for name, value in sorted(event.items()) if name not in {"event", "log_level", "exc_info"}
        }
        details = " ".join(f"{name}={value}" for name, value in fields.items())
        with suppress(RuntimeError):  # outside of trio.run there is no clock
            journal.note(Lane.DAEMON, f"{event['event']} {details}".strip())
        raise structlog.DropEvent

    # In place, as structlog.testing.capture_logs does: loggers that were used already hold this very list.
    processors = structlog.get_config()["processors"]
    before = processors.copy()
    processors[:] = [structlog.contextvars.merge_contextvars, add_entry]
    structlog.configure(processors=processors)
    try:
        yield
    finally:
        processors[:] = before
        structlog.configure(processors=processors)
