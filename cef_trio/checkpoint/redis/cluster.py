"""redis-py's client of a cluster, with its flaws mended.

- While a slot moves, its old node redirects to the new one (ASK), which ``CLUSTER SLOTS`` does not list as long as it
  has no slot of its own; redis-py then fails with ``AttributeError`` (``RedisCluster.get_node`` returns ``None``).
- redis-py asks for the nodes again only after a call has failed, and only the nodes that it found last. After a long
  outage that costs one call more than necessary; and if all nodes have new addresses (restarted pods), it never finds
  them. :meth:`Cluster.refresh` also asks the nodes of ``REDIS_URL``.
- If it finds none, it raises the error of the node that it asked last. A dead one would always hide that all others
  refuse the login, so after a failure :meth:`Cluster.refresh` asks in any order.
- Its other ``AttributeError``, ``IndexError`` and ``KeyError``, when a node disappears under a call, are errors of that
  call, which may be repeated.
- redis-py asks one node after another, each for a time-out, and concurrent calls do so in turn: a cluster of six nodes
  that do not answer held up a call for 11 seconds. See :func:`~cef_trio.checkpoint.redis.connection.connects_for`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from redis.cluster import PRIMARY, ClusterNode, RedisCluster
from redis.connection import Connection, ConnectionPool
from redis.exceptions import ClusterError
from redis.retry import Retry


class Cluster(RedisCluster):
    """A client of a cluster; ``options`` are those of its connections.

    Raises:
        redis exceptions: no node can be reached.
    """

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]],
        connection_class: type[Connection],
        *,
        retry: Retry,
        protocol: int,
        **options: Any,
    ) -> None:
        self._hosts = hosts
        self._is_lost = False
        # redis-py takes a pool of one's own only with a URL. Its host is then one of the nodes to start with.
        host, port = hosts[0]
        super().__init__(
            url=f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}",
            startup_nodes=self._nodes_of_url(),
            connection_pool_class=partial(ConnectionPool, connection_class=connection_class, **options),
            retry=retry,
            protocol=protocol,
        )

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Run a command."""
        try:
            return super().execute_command(*arguments, **options)  # type: ignore[no-untyped-call]
        except (AttributeError, IndexError, KeyError) as error:
            raise ClusterError(f"redis-py failed, as it may while nodes come and go: {error!r}") from error

    def get_node(self, host: str | None = None, port: int | None = None, node_name: str | None = None) -> Any:
        """Return a node, which may be new."""
        known = super().get_node(host, port, node_name)  # type: ignore[no-untyped-call]
        if known is not None or node_name is None:
            return known
        named_host, _, named_port = node_name.rpartition(":")
        node = ClusterNode(named_host, int(named_port), PRIMARY)  # type: ignore[no-untyped-call]
        return self.nodes_manager.nodes_cache.setdefault(node_name, node)

    def refresh(self, key: str) -> None:
        """Ask for the nodes and their slots again; at first the node of ``key``, which may have failed, last.

        Raises:
            redis exceptions: no node can be reached.
        """
        nodes = self.nodes_manager
        nodes.startup_nodes = {**{node.name: node for node in self._nodes_of_url()}, **nodes.startup_nodes}
        asked_last = None if self._is_lost else self.get_node_from_key(key)  # type: ignore[no-untyped-call]
        self._is_lost = True
        nodes.initialize(last_failed_node_name=asked_last and asked_last.name)
        self._is_lost = False

    def _nodes_of_url(self) -> list[ClusterNode]:
        return [ClusterNode(host, port) for host, port in self._hosts]  # type: ignore[no-untyped-call]
