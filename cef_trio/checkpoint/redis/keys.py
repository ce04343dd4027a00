"""The names of our keys in Redis (the table of DESIGN 4), behind the prefix of ``REDIS_KEY_PREFIX``. Pure.

Nothing else in the project spells a key. In a cluster every key that one script touches must be in one hash slot, so
the prefix must carry a hash tag there (``{node-a}:``): then all our keys are in the slot of ``node-a``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cef_trio.checkpoint.states import StreamSet


def job_lock_name(stream_id: str, work: str) -> str:
    """The name under which work on an *ended* stream is claimed by one daemon.

    It is given to ``acquire``, ``renew`` and ``release`` where a live stream's id is, and so makes a lease of its own:
    two kinds of work on one stream do not stand in each other's way, nor in the way of the stream's own lease.
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
        """The four sets, in the order of :class:`StreamSet`: scripts count on that order."""
        return {stream_set: self.set(stream_set) for stream_set in StreamSet}

    def set(self, stream_set: StreamSet) -> str:
        """The set of stream ids of that name."""
        return f"{self.prefix}streams:{stream_set.value}"

    @property
    def reports(self) -> str:
        """The hash instance → how that daemon stands, in its own words (``observability/daemon_report.py``)."""
        return f"{self.prefix}streams:reports"

    @property
    def pending_webhooks(self) -> str:
        """The set of the ids of completed streams whose webhook was not delivered yet."""
        return f"{self.prefix}webhooks:owed"

    @property
    def probe(self) -> str:
        """A string that is set to see whether anything can be; it has a TTL."""
        return f"{self.prefix}stream:cef-trio-probe"

    def meta(self, stream_id: str) -> str:
        """The hash of the stream's record."""
        return f"{self.prefix}stream:{stream_id}:meta"

    def parts(self, stream_id: str) -> str:
        """The hash part number → JSON."""
        return f"{self.prefix}stream:{stream_id}:parts"

    def lease(self, stream_id: str) -> str:
        """The string that says who owns the stream; it has a TTL."""
        return f"{self.prefix}stream:{stream_id}:lease"

    @property
    def hash_tag(self) -> str:
        """What a cluster hashes of our keys; empty if the prefix holds no hash tag.

        The rule is the cluster specification's: what stands between the first ``{`` and the first ``}`` after it,
        unless that is nothing.
        """
        _, _, after = self.prefix.partition("{")
        tag, closing, _ = after.partition("}")
        return tag if closing else ""
