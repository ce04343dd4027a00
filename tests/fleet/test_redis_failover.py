"""Redis as its users run it: three sentinels, a cluster of 3 + 3, one address that fails over; all real processes.

While a daemon uploads growing recordings, a primary is killed or frozen, or its slots move. Proved each time: the
objects are the files (P1), no part was sent twice, health was honest (P10), and the daemon wrote to Redis again within
five seconds after Redis accepted writes.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
import pytest
from checkpoint import examples
from security.test_least_rights import ACL, PAGE, PASSWORD
from servers.daemon import DaemonProcess, daemon, settings_for
from servers.embedded_s3 import embedded_s3_server
from servers.endpoints import Endpoint
from servers.s3_control import call_log
from servers.store import look_into
from servers.tcp_proxy import tcp_proxy
from servers.valkey import ValkeyServer, valkey_server
from servers.valkey_fleet import (
    ValkeyCluster,
    accepts_writes,
    scripts_run,
    sentinel_trio,
    valkey_cluster,
)
from thoroughness import only_long
from waiting import wait_until

from cef_trio.checkpoint.redis.keys import FLEET
from cef_trio.checkpoint.redis.store import RedisCheckpointStore
from cef_trio.checkpoint.states import StreamSet

pytestmark = pytest.mark.real
LONGER = only_long("the longer forms")
PART: Final = 5 << 20
BLOCK: Final = 1 << 20
RECOVERY_SECONDS: Final = 5.0
RIGHTS_IN_A_CLUSTER: Final = ("+cluster|slots", "+command", "+asking")
RIGHTS_ON_SENTINELS: Final = ("+sentinel|masters",)
EXIT_SECONDS: Final = 6.0 + 2.0 + 1.0
"""The bound of an exit with the default settings (P4)."""


class Recorder:
    """Writes recordings side by side: slowly, and a part of each when asked to, until it is told to close them."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._files = [path.open("wb") for path in paths]
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_slowly)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self.close()

    def write(self, size_bytes: int) -> None:
        """Write so much to each."""
        with self._lock:
            for file in self._files:
                file.write(os.urandom(size_bytes))
                file.flush()

    def close(self) -> None:
        """Close the recordings, each with a part that is not full."""
        self._stop.set()
        self._thread.join()
        for file in self._files:
            file.close()

    def _write_slowly(self) -> None:
        while not self._stop.wait(0.5):
            self.write(BLOCK + 1)


@dataclass(slots=True)
class Upload:
    """A daemon that uploads growing recordings."""

    process: DaemonProcess
    recorder: Recorder
    endpoint: Endpoint

    def wait_for_parts(self, more: int = 2) -> None:
        """Wait until so many more parts are recorded."""
        before = self.process.count("part_uploaded")
        self.recorder.write(PART)
        self.process.wait_for("part_uploaded", count=before + more)

    def ready(self) -> bool:
        port = self.process.wait_for("admin_server_started")["port"]
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60, trust_env=False).is_success

    def wait_for_recovery(self, accepting: Callable[[], ValkeyServer | None]) -> float:
        """Wait until a server accepts writes, then until the daemon has written to it; return the seconds between."""
        found: list[ValkeyServer] = []

        def accepted() -> bool:
            server = accepting()
            if server is not None:
                found.append(server)
            return bool(found)

        wait_until(accepted)
        accepted_at, before = time.monotonic(), scripts_run(found[0])
        wait_until(lambda: scripts_run(found[0]) > before)
        took = time.monotonic() - accepted_at
        print(f"recovered {took:.2f} s after the server accepted writes")  # noqa: T201 - a number for docs/operations.md
        return took

    def finish(self, *others: Path, leases_lost: bool = False) -> None:
        """Let the recordings end, and prove that each is in S3 as it is on the disk, and was sent once."""
        self.recorder.close()
        paths = [*self.recorder.paths, *others]
        for path in paths:
            self.process.wait_for("stream_completed", file=str(path))
        wait_until(self.ready)
        looking = look_into(self.endpoint)
        try:
            for path in paths:
                looking.assert_identical(path)
            assert looking.open_uploads() == []
        finally:
            looking.client.close()
        assert self.sent_twice() == []
        for event in ("stream_failed", "upload_lost", *(() if leases_lost else ("lease_lost",))):
            assert self.process.count(event) == 0, event
        assert self.process.stop() == 0
        assert "Traceback" not in self.process.log_path.read_text()

    def sent_twice(self) -> list[tuple[str, int]]:
        journal = call_log(self.endpoint)["journal"]
        sent = Counter(
            (entry["key"], entry["part_number"])
            for entry in journal
            if entry["bucket"] == self.endpoint.bucket and entry["operation"] == "UploadPart"
        )
        return [part for part, times in sent.items() if times > 1]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("s3")
    with embedded_s3_server(folder, data=folder / "objects", arguments=["--control"]) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with valkey_cluster() as running:
        yield running


@contextmanager
def uploading(folder: Path, s3: Endpoint, redis_url: str, *, name: str, **more: object) -> Iterator[Upload]:
    """A daemon that has begun to upload two growing recordings; ``name`` is the bucket's, and the keys' prefix."""
    endpoint = Endpoint(s3.url, s3.access_key, s3.secret_key, s3.region, name)
    watch_dir = folder / "watch"
    watch_dir.mkdir(exist_ok=True)
    given: dict[str, object] = {
        "owner_name": name,
        "close_grace_seconds": 0.2,
        "rescan_seconds": 1,
        "stale_check_seconds": 0.5,
        **more,
    }
    recorder = Recorder([watch_dir / f"{name}-{number}.mp4" for number in range(2)])
    with daemon(settings_for(watch_dir, endpoint, redis_url, **given)) as process, recorder.running():
        upload = Upload(process, recorder, endpoint)
        upload.wait_for_parts()
        yield upload


def another(servers: Sequence[ValkeyServer], old: ValkeyServer) -> Callable[[], ValkeyServer | None]:
    """Look for a primary among the servers other than ``old``."""
    others = [server for server in servers if server is not old and server.running]
    return lambda: next((server for server in others if accepts_writes(server)), None)


def allow(*servers: ValkeyServer, more: Sequence[str] = ()) -> None:
    """Let the servers have the user of ``SECURITY.md``."""
    for server in servers:
        words = ["ACL", "SETUSER", *ACL.replace(">PASSWORD", f">{PASSWORD}").split(), *more]
        assert server.command(*words) == b"+OK\r\n"


def assert_nothing_refused(*servers: ValkeyServer) -> None:
    assert {server.command("ACL", "LOG") for server in servers if server.running} == {b"*0\r\n"}


# ---- sentinels -------------------------------------------------------------------------------------------------------


def test_primaries_that_die_and_freeze_are_replaced_by_the_sentinels_and_followed(tmp_path: Path, s3: Endpoint) -> None:
    """One that is thawed takes itself for the primary for some seconds more: the daemon writes nothing there.

    The daemon has no rights but those of ``SECURITY.md``.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(sentinel_trio())
        allow(*redis.servers)
        assert f"`{' '.join(RIGHTS_ON_SENTINELS)}`" in PAGE
        for sentinel in redis.sentinels:
            user = ["cef-trio", "on", f">{PASSWORD}", "nocommands", *RIGHTS_ON_SENTINELS]
            assert sentinel.command("ACL", "SETUSER", *user) == b"+OK\r\n"
        url = redis.url.replace("//", f"//cef-trio:{PASSWORD}@")
        url += f"?sentinel_username=cef-trio&sentinel_password={PASSWORD}"
        upload = stack.enter_context(uploading(tmp_path, s3, url, name="sentinels"))
        killed = redis.primary()
        killed.kill()
        assert upload.wait_for_recovery(another(redis.servers, killed)) < RECOVERY_SECONDS
        upload.wait_for_parts()
        frozen = redis.primary()
        assert frozen is not killed
        frozen.freeze()
        assert upload.wait_for_recovery(another(redis.servers, frozen)) < RECOVERY_SECONDS
        frozen.thaw()
        before = scripts_run(frozen)
        upload.wait_for_parts()
        assert scripts_run(frozen) == before
        upload.finish()
        assert_nothing_refused(*redis.servers, *redis.sentinels)


# ---- one address -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("away_seconds", [0, pytest.param(60, marks=LONGER)])
def test_a_failover_behind_one_address_that_loses_acknowledged_writes_costs_no_byte(
    tmp_path: Path, s3: Endpoint, away_seconds: int
) -> None:
    """The promoted replica lacks the records of some parts, and of a whole stream."""
    with (
        valkey_server(tcp=True) as primary,
        valkey_server(tcp=True, arguments=["--replicaof", "127.0.0.1", str(primary.port)]) as replica,
        tcp_proxy(primary.port) as proxy,
        uploading(tmp_path, s3, f"redis://127.0.0.1:{proxy.port}/0", name=f"lost-writes-{away_seconds}") as upload,
    ):
        wait_until(lambda: b"master_link_status:up" in replica.command("INFO", "replication"))
        upload.wait_for_parts(1)
        assert replica.command("REPLICAOF", "NO", "ONE") == b"+OK\r\n"
        late = tmp_path / "watch" / "late.mp4"
        with late.open("wb") as writer:  # held open: once closed, it would soon be complete
            writer.write(os.urandom(PART + BLOCK))
            writer.flush()
            upload.process.wait_for("part_uploaded", file=str(late))
            primary.kill()
            back_at = time.monotonic() + away_seconds
            wait_until(lambda: time.monotonic() > back_at, seconds=2 * away_seconds + 1)
            proxy.lead_to(replica.port)
            assert upload.wait_for_recovery(lambda: replica) < RECOVERY_SECONDS
            upload.wait_for_parts()
            writer.write(b"the end")
        upload.finish(late, leases_lost=True)


# ---- a cluster -------------------------------------------------------------------------------------------------------


def test_a_cluster_whose_slot_moves_and_whose_primary_dies_is_followed(
    cluster: ValkeyCluster, tmp_path: Path, s3: Endpoint
) -> None:
    """The slot moves to a node that no client knows yet, and back.

    Half moved, the slot refuses scripts on both sides (TRYAGAIN), since some of their keys are missing on each. Moved,
    it is reached by ASK, except for scripts of which a key does not exist. Valkey 9 can move it without that.

    The daemon has no rights but those of ``SECURITY.md``.
    """
    assert f"with a cluster, `{' '.join(RIGHTS_IN_A_CLUSTER)}`" in " ".join(PAGE.split())
    allow(*cluster.servers, cluster.spare, more=RIGHTS_IN_A_CLUSTER)
    url = cluster.url.replace("//", f"//cef-trio:{PASSWORD}@")
    key = "{moved}:x"
    home = cluster.primary_of(key)
    with uploading(tmp_path, s3, url, name="moved", retry_attempts=2) as upload:
        steps = cluster.migrate_slot(key, cluster.spare, batch=3)
        assert next(steps) == "moved some"
        upload.process.wait_for("outage_started")
        assert not upload.ready()
        upload.process.wait_for("outage_probe_failed", count=2)
        assert set(steps) == {"moved some", "moved all"}
        assert upload.wait_for_recovery(lambda: cluster.spare) < RECOVERY_SECONDS
        assert upload.process.count("outage_started", service="redis") == 1
        upload.wait_for_parts()
        cluster.migrate_slot_at_once(key, home)
        assert upload.wait_for_recovery(lambda: home) < RECOVERY_SECONDS
        upload.wait_for_parts()
        home.kill()

        def promoted() -> ValkeyServer | None:
            primary = cluster.primary_of(key)
            return primary if primary is not home and accepts_writes(primary) else None

        assert upload.wait_for_recovery(promoted) < RECOVERY_SECONDS
        upload.wait_for_parts()
        upload.finish()
    assert_nothing_refused(*cluster.servers, cluster.spare)
    home.start()
    cluster.wait_until_whole()


async def test_owners_spread_over_the_nodes_of_a_cluster_and_each_is_whole_on_one(cluster: ValkeyCluster) -> None:
    homes = set()
    for owner in ("node-1", "node-2", "node-3"):
        async with RedisCheckpointStore(cluster.url, owner=owner, socket_timeout_seconds=10) as store:
            await store.create(examples.meta("s1"), examples.OURS, [examples.part(1)])
            assert await store.members(StreamSet.ACTIVE) == {"s1"}
            home = cluster.primary_of(store.keys.prefix)
            assert home.command("EXISTS", store.keys.meta("s1"), store.keys.parts("s1")) == b":2\r\n"
            homes.add(home)
    assert len(homes) > 1


@LONGER
def test_a_primary_of_the_cluster_that_freezes_is_replaced_and_followed(
    cluster: ValkeyCluster, tmp_path: Path, s3: Endpoint
) -> None:
    key = "{frozen}:x"
    primary = cluster.primary_of(key)
    with uploading(tmp_path, s3, cluster.url, name="frozen") as upload:
        primary.freeze()
        asked = next(server for server in cluster.servers if server is not primary)
        wait_until(lambda: cluster.primary_of(key, by=asked) is not primary)
        promoted = cluster.primary_of(key, by=asked)
        assert upload.wait_for_recovery(lambda: promoted) < RECOVERY_SECONDS
        primary.thaw()
        upload.wait_for_parts()
        upload.finish()
    cluster.wait_until_whole()


@LONGER
def test_uploads_go_on_while_the_part_of_the_cluster_that_has_the_registry_of_daemons_is_dead(
    cluster: ValkeyCluster, tmp_path: Path, s3: Endpoint
) -> None:
    registry = cluster.primary_of(f"{FLEET}:daemons")
    name = next(
        name for number in range(99) if cluster.primary_of(f"{{{(name := f'node-{number}')}}}:x") is not registry
    )
    for server in cluster.servers:
        assert server.command("CONFIG", "SET", "cluster-require-full-coverage", "no") == b"+OK\r\n"
    dead = [registry, *cluster.replicas_of(registry)]
    with uploading(tmp_path, s3, cluster.url, name=name) as upload:
        for server in dead:
            server.kill()
        upload.process.wait_for("report_not_written", count=2)
        upload.wait_for_parts()
        upload.finish()
        assert upload.process.count("outage_started") == 0
    for server in dead:
        server.start()
    cluster.wait_until_whole()


@LONGER
def test_kind8_new_recordings_are_begun_while_the_part_of_the_cluster_that_has_the_names_of_the_owners_is_dead(
    cluster: ValkeyCluster, tmp_path: Path, s3: Endpoint
) -> None:
    """An open upload that Redis does not know may be another owner's: whether it is cannot be read."""
    names = cluster.primary_of(f"{FLEET}:owners")
    name = next(name for number in range(99) if cluster.primary_of(f"{{{(name := f'new-{number}')}}}:x") is not names)
    for server in cluster.servers:
        assert server.command("CONFIG", "SET", "cluster-require-full-coverage", "no") == b"+OK\r\n"
    looking = look_into(Endpoint(s3.url, s3.access_key, s3.secret_key, s3.region, name))
    looking.client.create_bucket(Bucket=name)
    looking.client.create_multipart_upload(Bucket=name, Key=f"streams/{name}/{uuid4()}/lost.mp4")
    looking.client.close()
    dead = [names, *cluster.replicas_of(names)]
    for server in dead:
        server.kill()
    (watch_dir := tmp_path / "watch").mkdir()
    (watch_dir / "new.mp4").write_bytes(os.urandom(BLOCK))
    with daemon(settings_for(watch_dir, looking.endpoint, cluster.url, owner_name=name)) as process:
        process.wait_for("stream_completed")
        assert process.count("outage_started") == 0
    for server in dead:
        server.start()
    cluster.wait_until_whole()


@LONGER
def test_a_cluster_that_was_frozen_for_a_minute_is_used_again_within_seconds_and_an_exit_does_not_wait_for_it(
    cluster: ValkeyCluster, tmp_path: Path, s3: Endpoint
) -> None:
    """Each of its nodes accepts connections and answers nothing, so each that is asked costs a time-out."""
    with uploading(tmp_path, s3, cluster.url, name="all-frozen") as upload:
        for server in cluster.servers:
            server.freeze()
        upload.process.wait_for("outage_started")
        thaw_at = time.monotonic() + 60
        wait_until(lambda: time.monotonic() > thaw_at, seconds=70)
        assert not upload.ready()
        for server in cluster.servers:
            server.thaw()
        key = "{all-frozen}:x"
        wait_until(lambda: accepts_writes(cluster.primary_of(key)))
        assert upload.wait_for_recovery(lambda: cluster.primary_of(key)) < RECOVERY_SECONDS
        upload.wait_for_parts()
        upload.finish(leases_lost=True)
    with uploading(tmp_path, s3, cluster.url, name="exit-frozen") as upload:
        for server in cluster.servers:
            server.freeze()
        upload.wait_for_parts(0)
        asked = time.monotonic()
        code = upload.process.stop()
        took = time.monotonic() - asked
        for server in cluster.servers:
            server.thaw()
        print(f"exit {code} after {took:.2f} s")  # noqa: T201
        assert code in {0, 3}
        assert took < EXIT_SECONDS
    cluster.wait_until_whole()
