"""Journal and counters of calls, and the largest number of concurrent calls. For tests.

The journal keeps the newest ``JOURNAL_ENTRIES`` calls; counters are per operation; neither grows with the number of
calls (received bytes grow with the number of distinct parts, and ``reset`` forgets them).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import trio

from cef_trio.s3_endpoint.faults import CallInfo, ConnectionDropped

JOURNAL_ENTRIES: Final = 100_000


@dataclass(slots=True)
class LoggedCall:
    """A call. ``outcome`` is ``"200"``, ``"404 NoSuchUpload"``, ``"dropped"``, ``"cancelled"``, or ``"…"`` before that.

    ``size_bytes`` counts the received bytes of the body, without framing. ``faults`` names those that were applied.
    """

    at: float
    operation: str
    bucket: str | None
    key: str | None
    upload_id: str | None
    part_number: int | None
    size_bytes: int = 0
    outcome: str = "…"
    faults: list[str] = field(default_factory=list)


class CallLog:
    """The journal and its counters.

    ``calls`` counts the calls that began, by operation; ``outcomes`` by operation and outcome; ``received_bytes`` the
    received bytes by (key, part number), including repetitions, with number 1 for PutObject; ``max_concurrent`` the
    largest number of concurrent calls by operation.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset journal and counters; calls in progress are counted when they end."""
        self.journal: deque[LoggedCall] = deque(maxlen=JOURNAL_ENTRIES)
        self.calls: Counter[str] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.received_bytes: Counter[tuple[str, int]] = Counter()
        self.max_concurrent: Counter[str] = Counter()
        self._current: Counter[str] = Counter()

    @contextmanager
    def record(self, info: CallInfo, at: float) -> Iterator[LoggedCall]:
        """Record a call while it is served; the block sets ``outcome``."""
        entry = LoggedCall(at, info.operation, info.bucket, info.key, info.upload_id, info.part_number)
        self.journal.append(entry)
        self.calls[info.operation] += 1
        current = self._current
        current[info.operation] += 1
        self.max_concurrent[info.operation] = max(self.max_concurrent[info.operation], current[info.operation])
        try:
            yield entry
        except ConnectionDropped:
            entry.outcome = "dropped"
            raise
        except trio.Cancelled:
            entry.outcome = "cancelled"
            raise
        finally:
            current[info.operation] -= 1
            self.outcomes[info.operation, entry.outcome] += 1

    def received(self, entry: LoggedCall, size_bytes: int) -> None:
        """Count received bytes."""
        entry.size_bytes += size_bytes
        part_number = 1 if entry.operation == "PutObject" else entry.part_number
        if entry.key is not None and part_number is not None:
            self.received_bytes[entry.key, part_number] += size_bytes

    def of(self, operation: str) -> list[LoggedCall]:
        """Return the calls of one operation in the journal."""
        return [entry for entry in self.journal if entry.operation == operation]

    def to_json(self) -> dict[str, Any]:
        """Return journal and counters as JSON values."""
        return {
            "calls": dict(self.calls),
            "outcomes": [
                {"operation": operation, "outcome": outcome, "count": count}
                for (operation, outcome), count in self.outcomes.items()
            ],
            "received_bytes": [
                {"key": key, "part_number": number, "size_bytes": size}
                for (key, number), size in self.received_bytes.items()
            ],
            "max_concurrent": dict(self.max_concurrent),
            "journal": [asdict(entry) for entry in self.journal],
        }
