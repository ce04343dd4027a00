"""redis-py's client of a cluster, with two mends.

- While a slot moves, its old node redirects to the new one (ASK), which ``CLUSTER SLOTS`` does not list as long as it
  has no slot of its own; redis-py then fails with ``AttributeError`` (``RedisCluster.get_node`` returns ``None``).
- redis-py asks for the nodes again only after a call has failed, and only the nodes that it found last. After a long
  outage that costs one call more than necessary; and if all nodes have new addresses (restarted pods), it never finds
  them. :meth:`Cluster.refresh` also asks the nodes of ``REDIS_URL``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.cluster import PRIMARY, ClusterNode, RedisCluster


class Cluster(RedisCluster):
    """A client of a cluster.

    Raises:
        redis exceptions: no node can be reached.
    """

    def __init__(self, hosts: Sequence[tuple[str, int]], **options: Any) -> None:
        self._hosts = list(hosts)
        nodes = [ClusterNode(host, port) for host, port in hosts]  # type: ignore[no-untyped-call]
        super().__init__(startup_nodes=nodes, **options)

    def get_node(self, host: str | None = None, port: int | None = None, node_name: str | None = None) -> Any:
        """Return a node, which may be new."""
        known = super().get_node(host, port, node_name)  # type: ignore[no-untyped-call]
        if known is not None or node_name is None:
            return known
        named_host, _, named_port = node_name.rpartition(":")
        node = ClusterNode(named_host, int(named_port), PRIMARY)  # type: ignore[no-untyped-call]
        return self.nodes_manager.nodes_cache.setdefault(node_name, node)

    def refresh(self, key: str) -> None:
        """Ask for the nodes and their slots again; the node of ``key``, which may have failed, last.

        Raises:
            redis exceptions: no node can be reached.
        """
        asked_last = self.get_node_from_key(key)  # type: ignore[no-untyped-call]
        self.nodes_manager.initialize(
            additional_startup_nodes_info=self._hosts, last_failed_node_name=asked_last and asked_last.name
        )
