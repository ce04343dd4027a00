"""What happened in a run, in order and by the virtual clock: the calls, the log, and what the laboratory did.

The report draws its time line from it, and two runs are the same run if their journals are (``digest``).
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
    """Who speaks."""

    DAEMON = "daemon"
    S3 = "s3"
    REDIS = "redis"
    WEBHOOK = "webhook"
    FILE = "file"
    LAB = "lab"


@dataclass(slots=True)
class Entry:
    """Something that happened. Times are virtual seconds; ``ended`` is ``None`` for what has no length."""

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
        """Something happened now."""
        self.entries.append(Entry(lane, trio.current_time(), text))

    @contextmanager
    def call(self, lane: Lane, text: str) -> Iterator[Entry]:
        """A call is made; ``outcome`` is set by whoever knows it, or is the exception that ends it."""
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
        """A fingerprint of all of it; ``without`` is the folder's name, which is another one in each run."""
        told = "\n".join(
            f"{entry.lane} {entry.began:.6f} {entry.ended or 0:.6f} {entry.text} {entry.outcome}"
            for entry in self.entries
        )
        return hashlib.sha256(told.replace(without, "").encode()).hexdigest()


@contextmanager
def logging_into(journal: Journal) -> Iterator[None]:
    """Let what is logged go into the journal, and nowhere else."""

    def take(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        fields = {
            name: value for name, value in sorted(event.items()) if name not in {"event", "log_level", "exc_info"}
        }
        said = " ".join(f"{name}={value}" for name, value in fields.items())
        with suppress(RuntimeError):  # outside of trio.run there is no clock, and nothing to tell
            journal.note(Lane.DAEMON, f"{event['event']} {said}".strip())
        raise structlog.DropEvent

    # In place, as structlog.testing.capture_logs does: loggers that were used already hold this very list.
    processors = structlog.get_config()["processors"]
    before = processors.copy()
    processors[:] = [structlog.contextvars.merge_contextvars, take]
    structlog.configure(processors=processors)
    try:
        yield
    finally:
        processors[:] = before
        structlog.configure(processors=processors)
