"""The names of all keys in Redis, with the prefix ``REDIS_KEY_PREFIX``. Pure.

In a cluster all keys of one script must be in one hash slot, so the prefix must contain a hash tag there
(``{node-a}:``), which puts all keys into the slot of ``node-a``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cef_trio.checkpoint.states import StreamSet


def job_lock_name(stream_id: str, work: str) -> str:
    """Return the name of the lease for one kind of work on an *ended* stream.

    Pass it to ``acquire``, ``renew`` and ``release`` in place of a stream id. The lease is independent of the stream's
    own lease and of those for other kinds of work.
    """
    return f"{stream_id}:{work}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Every key name, behind one prefix (empty by default)."""

    prefix: str = ""

    @property
    def by_path(self) -> str:
        """The hash path → stream id."""
        return f"{self.prefix}streams:by_path"

    @property
    def sets(self) -> Mapping[StreamSet, str]:
        """The four sets in the order of :class:`StreamSet`, on which the scripts depend."""
        return {stream_set: self.set(stream_set) for stream_set in StreamSet}

    def set(self, stream_set: StreamSet) -> str:
        """The set of stream ids of that name."""
        return f"{self.prefix}streams:{stream_set.value}"

    @property
    def reports(self) -> str:
        """The hash instance → last report of that daemon (``observability/daemon_report.py``)."""
        return f"{self.prefix}streams:reports"

    @property
    def pending_webhooks(self) -> str:
        """The set of ids of completed streams whose webhook is not yet delivered."""
        return f"{self.prefix}webhooks:owed"

    @property
    def schema(self) -> str:
        """The string with the namespace's schema (``checkpoint/schema.py``)."""
        return f"{self.prefix}schema"

    @property
    def probe(self) -> str:
        """A string with a TTL, written to test whether writes succeed."""
        return f"{self.prefix}stream:cef-trio-probe"

    @property
    def absent(self) -> str:
        """A key that never exists; the probe names it (``scripts/probe.lua``)."""
        return f"{self.prefix}stream:cef-trio-absent"

    def meta(self, stream_id: str) -> str:
        """The hash of the stream's record."""
        return f"{self.prefix}stream:{stream_id}:meta"

    def parts(self, stream_id: str) -> str:
        """The hash part number → JSON."""
        return f"{self.prefix}stream:{stream_id}:parts"

    def lease(self, stream_id: str) -> str:
        """The string with a TTL that names the stream's holder."""
        return f"{self.prefix}stream:{stream_id}:lease"

    @property
    def hash_tag(self) -> str:
        """The hash tag of the prefix; empty if it has none.

        By the cluster specification it is the text between the first ``{`` and the first ``}`` after it, if not empty.
        """
        _, _, after = self.prefix.partition("{")
        tag, closing, _ = after.partition("}")
        return tag if closing else ""
