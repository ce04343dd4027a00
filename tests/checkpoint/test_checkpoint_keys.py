"""Key names are the wire format: a person reads them in redis-cli, an older version reads what a newer one wrote."""

from __future__ import annotations

import pytest

from cef_trio.checkpoint.redis.keys import Keys, job_lock_name
from cef_trio.checkpoint.states import History, StreamSet


@pytest.mark.parametrize("prefix", ["", "{node-a}:"])
def test_the_key_names_are_as_documented(prefix: str) -> None:
    keys = Keys(prefix)
    assert list(keys.sets.values()) == [
        f"{prefix}streams:active",
        f"{prefix}streams:pending_completion",
        f"{prefix}streams:completed",
        f"{prefix}streams:failed",
    ]
    assert keys.set(StreamSet.FAILED) == f"{prefix}streams:failed"
    assert [keys.history(history) for history in History] == [
        f"{prefix}streams:completed_at",
        f"{prefix}streams:failed_at",
        f"{prefix}streams:deleted_at",
    ]
    assert keys.by_inode == f"{prefix}streams:by_inode"
    assert keys.by_mtime == f"{prefix}streams:by_mtime"
    assert keys.leases == f"{prefix}leases"
    assert keys.by_path == f"{prefix}streams:by_path"
    assert keys.meta("ID") == f"{prefix}stream:ID:meta"
    assert keys.parts("ID") == f"{prefix}stream:ID:parts"
    assert keys.lease("ID") == f"{prefix}stream:ID:lease"
    assert keys.lease(job_lock_name("ID", "webhook")) == f"{prefix}stream:ID:webhook:lease"
    assert (keys.daemons, keys.daemons_seen) == (f"{prefix}{{fleet}}:daemons", f"{prefix}{{fleet}}:seen")
    assert keys.pending_webhooks == f"{prefix}webhooks:owed"


@pytest.mark.parametrize(
    ("prefix", "tag"),
    [("", ""), ("cef:", ""), ("{a}:", "a"), ("x{a}y{b}", "a"), ("{}{a}", ""), ("{a", ""), ("a}", ""), ("{{a}}", "{a")],
)
def test_the_hash_tag_is_what_a_cluster_would_hash(prefix: str, tag: str) -> None:
    assert Keys(prefix).hash_tag == tag


def test_an_owners_keys_are_in_a_namespace_of_its_own_in_one_slot() -> None:
    keys = Keys("cef:", "node-7")
    assert keys.meta("ID") == "cef:{node-7}:stream:ID:meta"
    assert keys.by_path == "cef:{node-7}:streams:by_path"
    assert keys.hash_tag == "node-7"
    assert Keys("{all}:", "node-7").hash_tag == "all"
    assert (keys.daemons, keys.daemons_seen) == ("cef:{fleet}:daemons", "cef:{fleet}:seen")  # of all owners
    assert Keys("cef:").prefix == "cef:"
