"""P9 on real processes: two hosts with one Redis and one bucket, whose folders and recordings are called alike.

A host is a mount namespace of its own: at one and the same path each has a disk of its own, and its own machine-id.
Files are written, and looked at, through ``/proc/<pid>/root``.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis as redis_py
from servers.daemon import NAMESPACE, settings_for
from servers.endpoints import Endpoint
from servers.host import Host, require_namespaces
from servers.store import Store
from servers.valkey import ValkeyServer
from waiting import wait_until

MIB = 1 << 20
FILES = 3
SIZE = 6 * MIB

pytestmark = [pytest.mark.real]


@pytest.fixture(autouse=True)
def _mount_namespaces() -> None:
    require_namespaces()


@contextmanager
def hosts(tmp_path: Path, valkey: ValkeyServer, endpoint: Endpoint, *, one_machine: bool) -> Iterator[list[Host]]:
    """Two; both have one INSTANCE_ID, as they did that were installed with the unit that was shipped once."""
    watched = tmp_path / "recordings"
    watched.mkdir()
    found = []
    for number, name in enumerate(("one", "two"), start=1):
        identity = tmp_path / f"machine-id-{name}"
        identity.write_text(f"{1 if one_machine else number:032x}\n")
        mounts = [
            f"mount -t tmpfs none {watched}",
            f"if [ -e /etc/machine-id ]; then mount --bind {identity} /etc/machine-id; fi",
        ]
        settings = settings_for(watched, endpoint, valkey.url, lease_seconds=9, rescan_seconds=1, stale_check_seconds=1)
        found.append(Host(name, {**settings, "CLOSE_GRACE_SECONDS": "0.2"}, mounts))
    try:
        yield found
    finally:
        for host in found:
            host.close()


def statuses(valkey: ValkeyServer) -> Counter[bytes]:
    with redis_py.Redis.from_url(valkey.url) as raw:
        return Counter(raw.hget(key, "status") for key in raw.keys(f"{NAMESPACE}stream:*:meta"))


@pytest.mark.parametrize("one_machine", [False, True], ids=["two machines", "two containers of one machine"])
def test_p9_hosts_whose_recordings_are_called_alike_have_each_of_theirs_in_s3_once_and_a_restarted_one_finds_its_own(
    tmp_path: Path, valkey: ValkeyServer, endpoint: Endpoint, embedded: Store, one_machine: bool
) -> None:
    with hosts(tmp_path, valkey, endpoint, one_machine=one_machine) as (one, two), ExitStack() as lives:
        contents = {host.name: [os.urandom(SIZE) for _ in range(FILES)] for host in (one, two)}
        contents["two"][0] = contents["one"][0]  # not even the bytes differ
        first = lives.enter_context(one.daemon())
        with two.daemon() as second:
            for number in range(FILES):
                for host in (one, two):
                    (host.folder / f"{number}.mp4").write_bytes(contents[host.name][number])
                assert len({(host.folder / f"{number}.mp4").stat().st_ino for host in (one, two)}) == 1
            first.wait_for("stream_completed", count=FILES)
            second.wait_for("stream_completed", count=1)
            second.kill()
        with redis_py.Redis.from_url(valkey.url) as raw:
            records = {key: raw.hgetall(key) for key in raw.keys(f"{NAMESPACE}stream:*:meta")}
        with two.daemon() as second:
            wait_until(lambda: statuses(valkey) == {b"completed": 2 * FILES}, otherwise=second.tail)
            first.signal(signal.SIGTERM)
            lives.close()
            with one.daemon() as first:
                first.wait_for_rounds(3)
                assert first.count("stream_started") == first.count("lease_lost") == 0, first.tail()
            assert second.count("stream_failed") == second.count("lease_lost") == 0, second.tail()
    expected = Counter(content for host in contents.values() for content in host)
    assert embedded.contents() == expected
    assert not embedded.open_uploads()
    with redis_py.Redis.from_url(valkey.url) as raw:
        owners = Counter(raw.hget(key, "owner") for key in raw.keys(f"{NAMESPACE}stream:*:meta"))
        assert sorted(owners.values()) == [FILES, FILES]
        completed = {key for key, record in records.items() if record[b"status"] == b"completed"}
        assert {key: raw.hgetall(key) for key in completed} == {key: records[key] for key in completed}
        reports = [json.loads(entry.partition(b" ")[2]) for entry in raw.hgetall("{fleet}:daemons").values()]
        assert {report["name"] for report in reports} == {"under-test"}
