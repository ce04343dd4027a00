"""Namespaces in a Redis cluster of real processes: streams of earlier versions, and the claim of an owner's name.

With a cluster, earlier versions required a hash tag in ``REDIS_KEY_PREFIX``, so all their keys are in one slot. The
namespace is behind the same prefix, so it is in that slot too.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_py
from fleet.test_owner_claim import Machine
from fleet.test_upgrade_of_keys import TEMPLATE_BEFORE, make_keys_of_before
from servers.daemon import NAMESPACE, daemon, settings_for
from servers.endpoints import Endpoint
from servers.recordings import MIB
from servers.s3_control import calls
from servers.store import look_into
from servers.valkey import ValkeyServer
from servers.valkey_fleet import ValkeyCluster, accepts_writes, valkey_cluster
from waiting import wait_until

from cef_trio.checkpoint.redis.keys import Keys

pytestmark = pytest.mark.real
PREFIX = "{site}:cef:"
PART = 5 * MIB
HISTORY = 20_000
QUICK = {"close_grace_seconds": 0.2, "stale_check_seconds": 0.5, "rescan_seconds": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with valkey_cluster() as running:
        yield running


def connect(server: ValkeyServer) -> redis_py.Redis:
    return redis_py.Redis(unix_socket_path=str(server.socket_path), socket_timeout=10, protocol=2)


def kill_primary(cluster: ValkeyCluster, key: str) -> ValkeyServer:
    """Kill the primary that has ``key``, and return the one that has replaced it."""
    killed = cluster.primary_of(key)
    killed.kill()

    def replaced() -> bool:
        found = cluster.primary_of(key)
        return found is not killed and accepts_writes(found)

    wait_until(replaced)
    return cluster.primary_of(key)


def start_again(cluster: ValkeyCluster) -> None:
    for server in cluster.servers:
        if not server.running:
            server.start()
    cluster.wait_until_whole()


def test_streams_of_before_are_moved_while_the_primary_that_has_them_dies(
    cluster: ValkeyCluster, watch_dir: Path, endpoint: Endpoint
) -> None:
    """Each batch is one script, which a replica has whole or not: no stream is lost, none is in two places."""
    done, grows = watch_dir / "done.mp4", watch_dir / "grows.mp4"
    given = settings_for(watch_dir, endpoint, cluster.url, redis_key_prefix=PREFIX, lease_seconds=3, **QUICK)
    with grows.open("wb") as writer:
        with daemon(given | {"S3_KEY_TEMPLATE": TEMPLATE_BEFORE}) as process:
            done.write_bytes(os.urandom(6 * MIB))
            writer.write(os.urandom(2 * PART))
            writer.flush()
            process.wait_for("stream_completed", file=str(done))
            process.wait_for("part_uploaded", file=str(grows), count=2)
            process.kill()
        with connect(cluster.primary_of(PREFIX)) as raw:
            make_keys_of_before(raw, PREFIX)
            [stream_id] = raw.smembers(f"{PREFIX}streams:completed")
            record = raw.hgetall(f"{PREFIX}stream:{stream_id.decode()}:meta")
            with raw.pipeline(transaction=False) as pipeline:
                for number in range(HISTORY):
                    key, gone = str(uuid.UUID(int=number)), str(watch_dir / f"gone-{number}.mp4")
                    mapping = {**record, b"stream_id": key, b"current_path": gone}
                    pipeline.hset(f"{PREFIX}stream:{key}:meta", mapping=mapping)
                    pipeline.sadd(f"{PREFIX}streams:completed", key)
                pipeline.execute()
            raw.wait(1, 10_000)
            moved = f"{PREFIX}{NAMESPACE}streams:completed"
            sent = calls(endpoint)["UploadPart"]
            with daemon(given, wait_started=False) as process:
                wait_until(lambda: raw.scard(moved) > 0)
                promoted = kill_primary(cluster, PREFIX)
                process.wait_for("daemon_started", seconds=180)  # once it has moved them all
                writer.write(os.urandom(MIB))
                writer.close()
                process.wait_for("stream_completed", file=str(grows))
                assert process.count("stream_started") == process.count("upload_restarted") == 0, process.tail()
                assert process.stop() == 0
    with connect(promoted) as raw:
        assert raw.scard(moved) == HISTORY + 2
        assert raw.keys(f"{PREFIX}stream*") == []
        assert len(raw.keys(f"{PREFIX}{NAMESPACE}stream:*:meta")) == HISTORY + 2
    assert calls(endpoint)["UploadPart"] == sent + 1
    store = look_into(endpoint)
    for path in (done, grows):
        store.assert_identical(path)
    assert store.open_uploads() == []
    store.client.close()
    start_again(cluster)


def test_p9_a_clone_gets_no_name_by_a_failover_and_the_original_keeps_it(
    cluster: ValkeyCluster, tmp_path: Path, endpoint: Endpoint
) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None or not Path("/etc/machine-id").exists():
        pytest.skip("mount namespaces need root and unshare(1), and this machine a machine-id to replace")
    # The claim must outlive the failover; it is renewed every third of the lease.
    settings = settings_for(tmp_path, endpoint, cluster.url, owner_name="", lease_seconds=30, **QUICK)
    original, clone = (Machine(tmp_path / name, f"{name:0>8}", settings) for name in ("11", "22"))
    try:
        if not (original.is_mounted and clone.is_mounted):
            pytest.skip("this machine permits no such mount in an own namespace")
        (clone.watched / "a.mp4").write_bytes(os.urandom(MIB))
        with original.daemon() as first, clone.daemon(wait_started=False) as second:
            name = second.wait_for("owner_claimed_elsewhere")["owner"]
            claim = Keys("", name).claim
            with connect(cluster.primary_of(claim)) as raw:
                assert raw.exists(claim)
                raw.wait(1, 10_000)
            with connect(kill_primary(cluster, claim)) as raw:
                before = raw.pexpiretime(claim)
                assert before > 0, "the claim outlived the failover"
                wait_until(lambda: raw.pexpiretime(claim) > before)  # it was renewed
            (first_file := original.watched / "b.mp4").write_bytes(os.urandom(MIB))
            first.wait_for("stream_completed", file=str(first_file))
            assert first.count("owner_claim_lost") == 0
            assert second.count("owner_claimed") == second.count("stream_started") == 0
            assert first.stop() == 0
            second.wait_for("owner_claimed")
            second.wait_for("stream_completed")
            assert second.stop() == 0
    finally:
        original.close()
        clone.close()
    start_again(cluster)
