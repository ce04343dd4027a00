"""Calls to Redis: redis-py's synchronous client in trio's worker threads.

A call is never abandoned, so no connection carries the reply of an earlier call. Cancellation is delivered before a
call is sent; once sent, the call returns or raises within the time-out.

If the server does not reply to a call, the calls waiting for a thread at that moment fail at once with the same
transient error, so 200 streams do not queue behind a dead server (P4). Later calls try again.

Defaults of redis-py 8 that are overridden here, and why:

- ``socket_timeout`` and ``socket_connect_timeout`` are always set: a frozen server must not delay an exit (P4).
- No retries (``Retry(NoBackoff(), 0)``; the default is ten with back-off): ``resilience/retry.py`` retries, and a
  hidden retry would multiply the time-out.
- RESP2: no ``HELLO``, hence no maintenance notifications (on by default in RESP3), which relax the time-outs.
- No ``CLIENT SETINFO`` (two round trips and an ACL right for each connection), no health check (every connection is
  tested for stray data and for its end when it is taken from the pool; a ``PING`` proves nothing about the next call).
- A connection that failed or timed out is closed before it goes back to the pool: its late reply cannot become the
  reply to the next call (redis-py issues 2624, 2665).

After a failover behind one address an open connection stays with the old node, which may be a replica now. So every
transient error (``READONLY``, ``LOADING``, ``OOM``, a time-out) and ``MAX_AGE_SECONDS`` close the idle connections; the
next call resolves the name and connects again. Sentinels are asked for the primary at each connect, a cluster for its
nodes at each such renewal.

So a call lasts at most one connect (its name's resolution and all its addresses included) and one reply. Each is
bounded by the time-out; a reply that comes slowly, by three for each 16 KiB (``connection.py``). For sentinels there
is one such pair for every one that has to be asked, for a cluster for as many as are asked in three time-outs.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import trio
from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from cef_trio.checkpoint.redis.address import RedisAddress, Topology
from cef_trio.checkpoint.redis.cluster import Cluster
from cef_trio.checkpoint.redis.connection import (
    BoundedConnection,
    BoundedSentinelConnection,
    BoundedSentinelTlsConnection,
    BoundedTlsConnection,
    BoundedUnixConnection,
    connects_for,
)
from cef_trio.checkpoint.redis.errors import MAPPED, is_rejected, is_unreachable, mapped, redis_error_is_transient
from cef_trio.checkpoint.redis.scripts import Script
from cef_trio.checkpoint.redis.scripts.arguments import Argument
from cef_trio.exceptions import RedisOperationError
from cef_trio.http import tls
from cef_trio.resilience import Retrier, SingleAttempt, run_in_thread

MAX_AGE_SECONDS: Final = 300.0
"""The age at which idle connections are closed, so that a failover behind one address is noticed."""

_FIRST_WORDS: Final = frozenset({b"ok", b"lost", b"taken", b"gone", b"newer", b"refused", b"other", b"free"})
"""How the replies of our scripts begin. Any other reply is a proxy's, or another server's."""
_MISREAD: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What redis-py, and the reading of a reply, raise for one that is not of the form that Redis sends."""

_CLUSTER_CONNECTS: Final = 3
"""The time-outs for which a call to a cluster goes on connecting to one node after another. The order is random."""

T = TypeVar("T")
Client = Any
"""``Redis`` or ``Cluster``. redis-py annotates the calls we need for its synchronous and asynchronous clients at
once, so their results fit neither."""


class RedisClient:
    """The calls to one Redis, at most ``connections`` at a time. :class:`RedisCheckpointStore` documents the arguments.

    ``home_key`` is a key of ours: in a cluster, commands that have no key go to the node that holds it.

    Raises:
        ValueError: the time-out is not positive and finite, or the client's certificate cannot be read.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        home_key: str,
        ca_file: Path | None,
        socket_timeout_seconds: float,
        connections: int,
        retrier: Retrier | None,
    ) -> None:
        if not 0 < socket_timeout_seconds < math.inf:
            raise ValueError(f"a socket time-out is positive and finite, not {socket_timeout_seconds!r}")
        _check_client_certificate(address)
        self.address = address
        self._home_key = home_key
        self._ca_file = ca_file
        self._bounds = {
            "socket_timeout": socket_timeout_seconds,
            "socket_connect_timeout": socket_timeout_seconds,
            "max_connections": connections,
        }
        self._connecting_seconds = (
            _CLUSTER_CONNECTS * socket_timeout_seconds if address.topology is Topology.CLUSTER else math.inf
        )
        self._limiter = trio.CapacityLimiter(connections)
        self._retrier: Retrier = SingleAttempt() if retrier is None else retrier
        self._opening = threading.Lock()
        self._client: Client | None = None
        self._closed = False
        self._unreachable_at = -math.inf
        self._renew_at = math.inf
        self.refused = False
        """Whether the server has rejected a call permanently since this was last reset."""

    async def call(self, operation: str, work: Callable[[Client], T]) -> T:
        """Run ``work`` in a worker thread, as often as the retrier wants.

        Raises:
            RedisOperationError: it failed.
        """

        async def attempt() -> T:
            asked_at = time.monotonic()
            with mapped(operation, self.address.secrets):
                return await run_in_thread(partial(self._in_thread, operation, work, asked_at), limiter=self._limiter)

        return await self._retrier.call(operation, attempt)

    def command(self, client: Client, name: str, *arguments: str) -> Any:
        """Run a command that has no key. For ``work``, in its thread."""
        if self.address.topology is Topology.CLUSTER:
            return client.execute_command(name, *arguments, target_nodes=client.get_node_from_key(self._home_key))
        return client.execute_command(name, *arguments)

    def log_in_as(self, address: RedisAddress) -> None:
        """Use other credentials from now on. Calls in progress finish on the old connections, which are then closed."""
        with self._opening:
            old, self._client, self.address = self._client, None, address
        if old is not None:
            _close_idle(old)

    def renew_connections(self) -> None:
        """Have later calls open new connections."""
        self._renew_at = -math.inf

    def close(self) -> None:
        """Close the idle sockets. Sends nothing, waits for nothing; later calls fail.

        A call still under way ends as it would have, at most a time-out later, and closes its own: a socket must not be
        closed under a thread that reads from it, since its number may by then be another file's.
        """
        self._closed = True
        if self._client is not None:
            _close_idle(self._client)

    def _in_thread(self, operation: str, work: Callable[[Client], T], asked_at: float) -> T:
        with connects_for(self._connecting_seconds):
            client = self._connected(operation, asked_at)
            try:
                return self._observed(work, client)
            finally:
                if self._closed or client is not self._client:
                    _close_idle(client)

    def _observed(self, work: Callable[[Client], T], client: Client) -> T:
        try:
            result = _read(work, client)
        except MAPPED as error:
            if is_unreachable(error):
                self._unreachable_at = time.monotonic()
            if redis_error_is_transient(error):
                self.renew_connections()
            elif is_rejected(error):
                self.refused = True
            raise
        self._unreachable_at = -math.inf
        return result

    def _connected(self, operation: str, asked_at: float) -> Client:
        with self._opening:
            if self._closed:
                raise RedisOperationError(operation, "the store is closed")
            if self._unreachable_at >= asked_at:
                raise RedisOperationError(
                    operation, "the server did not answer another call while this one waited", transient=True
                )
            if self._client is None:
                self._client = self._observed(lambda _: open_client(self.address, self._bounds, self._ca_file), None)
                self._renew_at = time.monotonic() + MAX_AGE_SECONDS
            elif time.monotonic() >= self._renew_at:
                self._renew_at = time.monotonic() + MAX_AGE_SECONDS
                _close_idle(self._client)
                if isinstance(self._client, Cluster):
                    self._observed(lambda client: client.refresh(self._home_key), self._client)
            return self._client


def _read(work: Callable[[Client], T], client: Client) -> T:
    """Run ``work``; a reply that it cannot read is not Redis's.

    Raises:
        InvalidResponse: the reply has another form.
        redis exceptions: of the call.
    """
    try:
        return work(client)
    except MAPPED:
        raise
    except _MISREAD as error:
        raise InvalidResponse(f"{type(error).__name__}: {error}") from error


def run_script(client: Client, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
    """Run a script, by its digest where the server knows it, else by its source (which it then knows).

    Raises:
        InvalidResponse: the reply is not one of our scripts.
        redis exceptions: of the call.
    """
    try:
        reply = client.evalsha(script.sha, len(keys), *keys, *arguments)
    except NoScriptError:
        reply = client.eval(script.source, len(keys), *keys, *arguments)
    return _of_script(reply)


def _of_script(reply: Any) -> Any:
    """Return the reply of a script if it is one.

    Raises:
        InvalidResponse: it is not.
    """
    if isinstance(reply, list) and reply and isinstance(reply[0], bytes) and reply[0] in _FIRST_WORDS:
        return reply
    raise InvalidResponse(f"{reply!r:.80} to a script")


def run_scripts(client: Client, calls: Sequence[tuple[Script, Sequence[str], Sequence[Argument]]]) -> list[Any]:
    """Run scripts one after the other in one round trip; return the reply of each, or the error that it had.

    The first is run first. In a cluster each is a round trip.

    Raises:
        InvalidResponse: a reply is not one of our scripts.
        redis exceptions: the server cannot be reached.
    """
    replies: list[Any] = [None] * len(calls)
    if not isinstance(client, Cluster):
        with client.pipeline(transaction=False) as pipeline:
            for script, keys, given in calls:
                pipeline.evalsha(script.sha, len(keys), *keys, *given)
            replies = pipeline.execute(raise_on_error=False)
    for number, (script, keys, given) in enumerate(calls):
        if replies[number] is None or isinstance(replies[number], NoScriptError):
            try:
                replies[number] = run_script(client, script, keys, given)
            except ResponseError as error:
                replies[number] = error
        elif not isinstance(replies[number], Exception):
            _of_script(replies[number])
    return replies


def open_client(address: RedisAddress, bounds: Mapping[str, Any], ca_file: Path | None = None) -> Client:
    """The client of that address. A cluster's is connected at once, the others at their first command.

    Raises:
        redis exceptions: a cluster's nodes cannot be reached.
    """
    common = {**_FIXED, **bounds}
    login: dict[str, Any] = {"username": address.username, "password": address.password}
    certificates = _certificates(address, ca_file) if address.tls else {}
    one_by_one = BoundedTlsConnection if address.tls else BoundedConnection
    if address.topology is Topology.CLUSTER:
        return Cluster(address.hosts, one_by_one, **common, **login, **certificates)
    if address.topology is Topology.SENTINEL:
        sentinel_login: dict[str, Any] = {"username": address.sentinel_username, "password": address.sentinel_password}
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            list(address.hosts), sentinel_kwargs={**common, **sentinel_login, "ssl": address.tls, **certificates}
        )
        for server in sentinel.sentinels:  # redis-py has no option for their connections' class
            server.connection_pool.connection_class = one_by_one
        return sentinel.master_for(  # type: ignore[no-untyped-call]
            address.master or "",
            db=address.db,
            connection_class=BoundedSentinelTlsConnection if address.tls else BoundedSentinelConnection,
            **common,
            **login,
            **certificates,
        )
    if address.topology is Topology.UNIX:
        pool = ConnectionPool(
            connection_class=BoundedUnixConnection, path=address.socket_path, db=address.db, **common, **login
        )
    else:
        [(host, port)] = address.hosts
        pool = ConnectionPool(
            connection_class=one_by_one, host=host, port=port, db=address.db, **common, **login, **certificates
        )
    return Redis.from_pool(pool)


def _close_idle(client: Client) -> None:
    if isinstance(client, Cluster):
        servers = [node.redis_connection for node in client.get_nodes()]  # type: ignore[no-untyped-call]
    else:
        sentinel = getattr(client.connection_pool, "sentinel_manager", None)
        servers = [client, *(sentinel.sentinels if sentinel is not None else ())]
    for server in servers:
        if server is not None:
            server.connection_pool.disconnect(inuse_connections=False)


_FIXED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "decode_responses": False,
        "protocol": 2,
        "driver_info": None,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }
)


def _certificates(address: RedisAddress, ca_file: Path | None) -> dict[str, Any]:
    trusted = tls.trusted_file(ca_file)
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        "ssl_ca_certs": str(trusted) if trusted else None,
        "ssl_certfile": address.client_certificate_file,
        "ssl_keyfile": address.client_key_file,
        # Read for each connection: a renewed key that is encrypted is an error, and not a question at a terminal.
        "ssl_password": "",
    }


def _check_client_certificate(address: RedisAddress) -> None:
    """Read the certificate at the start, since an error at a connection would be retried like a network error."""
    if address.client_certificate_file is None:
        return
    try:
        context = ssl.create_default_context()
        # An empty password: a key that is encrypted is an error, and not a question at a terminal.
        context.load_cert_chain(address.client_certificate_file, address.client_key_file, password="")
    except OSError as error:  # ssl's errors are among them
        files = " and ".join(repr(file) for file in (address.client_certificate_file, address.client_key_file) if file)
        raise ValueError(f"REDIS_URL: no client's certificate and key can be read from {files} ({error})") from error
