"""The names of all keys in Redis. Pure.

The keys of an owner are in a namespace of their own, behind ``REDIS_KEY_PREFIX`` and ``{<owner>}:``. The braces are a
hash tag: in a cluster all keys of one script must be in one hash slot, and owners spread over the slots. A hash tag in
``REDIS_KEY_PREFIX`` comes first and counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cef_trio.checkpoint.states import History, StreamSet

FLEET: Final = "{fleet}"
"""The namespace of the registry of daemons, which all owners share."""


def job_lock_name(stream_id: str, work: str) -> str:
    """Return the name of the lease for one kind of work on an *ended* stream.

    Pass it to ``acquire``, ``renew`` and ``release`` in place of a stream id. The lease is independent of the stream's
    own lease and of those for other kinds of work.
    """
    return f"{stream_id}:{work}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Every key name of one owner. Without an owner, as in earlier versions: behind ``base`` alone."""

    base: str = ""
    """``REDIS_KEY_PREFIX``."""
    owner: str = ""

    @property
    def prefix(self) -> str:
        """What all keys of the owner begin with."""
        return f"{self.base}{{{self.owner}}}:" if self.owner else self.base

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

    def history(self, history: History) -> str:
        """The sorted set stream id → when it ended, in milliseconds of Unix time."""
        return f"{self.prefix}streams:{history.value}_at"

    @property
    def by_inode(self) -> str:
        """The sorted set id of a completed stream → inode number of its file."""
        return f"{self.prefix}streams:by_inode"

    @property
    def by_mtime(self) -> str:
        """The sorted set id of a completed stream → modification time of its file in ns, as far as a double has it."""
        return f"{self.prefix}streams:by_mtime"

    @property
    def leases(self) -> str:
        """The sorted set id of an open stream → when its lease expires or was released, in ms by the server's clock."""
        return f"{self.prefix}leases"

    @property
    def indexes(self) -> list[str]:
        """The sorted sets of stream ids, in the order of :attr:`homes`."""
        return [*map(self.history, History), self.by_inode, self.by_mtime, self.leases]

    @property
    def homes(self) -> list[str]:
        """The sets, and the indexes of their streams, in the order that ``settle`` in the scripts' prelude expects."""
        return [*self.sets.values(), *self.indexes]

    @property
    def types(self) -> Mapping[str, str]:
        """The Redis type of each key that is not of one stream."""
        kinds = {
            "set": [*self.sets.values(), self.owners, self.pending_webhooks, self.abort_requests],
            "zset": [*self.indexes, self.daemons_seen, self.daemons_by_name],
            "hash": [self.by_path, self.daemons, self.webhook_events, self.verified, self.verification, self.claim],
            "string": [self.schema, self.legacy_left],
        }
        return {key: kind for kind, keys in kinds.items() for key in keys}

    @property
    def daemons(self) -> str:
        """The hash name of a daemon → time and last report (``observability/daemon_report.py``), of all owners."""
        return f"{self.base}{FLEET}:daemons"

    @property
    def daemons_seen(self) -> str:
        """The sorted set of these names by the time of their reports."""
        return f"{self.base}{FLEET}:seen"

    @property
    def daemons_by_name(self) -> str:
        """The sorted set of these names, so that those of one owner are found."""
        return f"{self.base}{FLEET}:names"

    @property
    def owners(self) -> str:
        """The set of the names of all owners that have had a daemon (``owners.py``)."""
        return f"{self.base}{FLEET}:owners"

    @property
    def pending_webhooks(self) -> str:
        """The set of ids of completed streams whose webhook is not yet delivered."""
        return f"{self.prefix}webhooks:owed"

    @property
    def webhook_events(self) -> str:
        """The hash event id → body of the events that are not yet delivered."""
        return f"{self.prefix}webhooks:events"

    @property
    def abort_requests(self) -> str:
        """The set of ids of open streams that an operator wants aborted."""
        return f"{self.prefix}streams:to_abort"

    @property
    def verified(self) -> str:
        """The hash stream id → when its object was last verified, and what differed (``verifications.py``)."""
        return f"{self.prefix}verified"

    @property
    def verification(self) -> str:
        """The hash with the totals of these."""
        return f"{self.prefix}verification"

    @property
    def schema(self) -> str:
        """The string with the namespace's schema (``checkpoint/schema.py``)."""
        return f"{self.prefix}schema"

    @property
    def legacy_left(self) -> str:
        """The string that tells how many streams of earlier versions are others' (``daemon/upgrade.py``)."""
        return f"{self.prefix}legacy_left"

    @property
    def claim(self) -> str:
        """The hash with a TTL that names the running system that has the owner's name (``owner_claim.py``)."""
        return f"{self.prefix}owner"

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
