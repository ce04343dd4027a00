"""Every exception of redis-py is mapped to one of ours, and marked as transient or not."""

from __future__ import annotations

import inspect
import socket
import ssl

import pytest
from redis import exceptions as redis_exceptions
from redis import sentinel as redis_sentinel

from cef_trio.checkpoint.redis.errors import MAPPED, is_unreachable, mapped, redis_error_is_transient, to_redis_error
from cef_trio.exceptions import RedisOperationError

TRANSIENT = {
    "AskError",
    "BusyLoadingError",
    "ClusterDownError",
    "ClusterError",
    "ConnectionError",
    "InvalidResponse",
    "MasterDownError",
    "MasterNotFoundError",
    "MaxConnectionsError",
    "MovedError",
    "NoScriptError",
    "OutOfMemoryError",
    "ReadOnlyError",
    "SlaveNotFoundError",
    "SlotNotCoveredError",
    "TimeoutError",
    "TryAgainError",
    "WatchError",
}
PERMANENT = {
    "AuthenticationError",
    "AuthenticationWrongNumberOfArgsError",
    "AuthorizationError",
    "ChildDeadlockedError",
    "ClusterCrossSlotError",
    "CrossSlotTransactionError",
    "DataError",
    "ExecAbortError",
    "ExternalAuthProviderError",
    "IncorrectPolicyType",
    "InvalidPipelineStack",
    "LockError",
    "LockNotOwnedError",
    "ModuleError",
    "NoPermissionError",
    "NoSuchFieldsetError",
    "PubSubError",
    "RedisClusterException",
    "RedisError",
    "ResponseError",
}
CLASSES = sorted(
    {
        value
        for module in (redis_exceptions, redis_sentinel)
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__.startswith("redis")
    },
    key=lambda value: value.__name__,
)


def test_every_class_is_decided_on() -> None:
    """A new redis-py may bring unknown classes; one that is gone is no failure."""
    assert {value.__name__ for value in CLASSES} <= TRANSIENT | PERMANENT
    assert len(CLASSES) > 20


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_exception_of_redis_becomes_ours(kind: type[Exception]) -> None:
    error = kind("12182 127.0.0.1:7001" if issubclass(kind, redis_exceptions.AskError) else "it failed: hunter2")
    with pytest.raises(RedisOperationError) as caught, mapped("load", ["hunter2"]):
        raise error
    assert caught.value.transient == (kind.__name__ in TRANSIENT)
    assert caught.value.__cause__ is error
    assert str(caught.value).startswith("Redis operation 'load' failed: ")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "transient"),
    [
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("BUSY Redis is busy running a script.", True),
        ("IOERR error or timeout reading", True),
        ("ERR Error running script (call to f_abc): @user_script:1: @user_script: 1: -READONLY You can't write", True),
        ("Error running script (call to f_abc): @user_script:9: -OOM command not allowed", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("ERR value is not an integer or out of range", False),
        ("ERR unknown command 'EVALSHA'", False),
        ("BUSYKEY Target key name already exists.", False),
    ],
)
def test_replies_without_a_class_are_distinguished_by_their_code(reply: str, transient: bool) -> None:
    error = redis_exceptions.ResponseError(reply)
    assert redis_error_is_transient(error) is transient
    assert not is_unreachable(error)
    with pytest.raises(RedisOperationError, match=reply.split(maxsplit=1)[0]), mapped("load"):
        raise error


def test_a_reply_keeps_the_code_that_redis_py_takes_off() -> None:
    with pytest.raises(RedisOperationError, match="READONLY You can't write"), mapped("update"):
        raise redis_exceptions.ReadOnlyError("You can't write against a read only replica.", status_code="READONLY")


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), socket.gaierror(-3, "Temporary failure")])
def test_errors_of_the_operating_system_pass_by_themselves(error: OSError) -> None:
    assert redis_error_is_transient(error)
    assert is_unreachable(error)


def test_an_unreachable_cluster_is_waited_for() -> None:
    text = "Redis Cluster cannot be connected. Please provide at least one reachable node: Timeout"
    assert redis_error_is_transient(redis_exceptions.RedisClusterException(text))
    assert is_unreachable(redis_exceptions.RedisClusterException(text))


def test_a_cluster_that_is_being_repaired_is_waited_for() -> None:
    for text in (
        "All slots are not covered after query all startup_nodes. 8192 of 16384 covered...",
        "startup_nodes could not agree on a valid slots cache: 10.0.0.1:6379 vs 10.0.0.2:6379 on slot: 7",
    ):
        error = redis_exceptions.RedisClusterException(text)
        assert redis_error_is_transient(error)
        assert not is_unreachable(error)  # it did respond


@pytest.mark.parametrize(
    "denial",
    [
        redis_exceptions.AuthenticationError("invalid username-password pair", status_code="WRONGPASS"),
        redis_exceptions.ExternalAuthProviderError("problem with LDAP service"),
        redis_exceptions.NoPermissionError("No permissions to run CLUSTER SLOTS", status_code="NOPERM"),
    ],
)
def test_a_node_that_denies_the_login_is_no_unreachable_one(denial: redis_exceptions.RedisError) -> None:
    """redis-py raises "cannot be connected" for it; nobody would read the changed password again."""
    error = redis_exceptions.RedisClusterException("Redis Cluster cannot be connected. Please provide a node: no")
    error.__cause__ = redis_exceptions.RedisClusterException("Cluster mode is not enabled on this node")
    error.__cause__.__context__ = denial
    assert not redis_error_is_transient(error)
    assert not is_unreachable(error)
    ours = to_redis_error("ping", error)
    assert (ours.transient, ours.rejected) == (False, True)
    assert str(denial) in str(ours)


@pytest.mark.parametrize(
    "reply", ["This instance has cluster support disabled", "unknown command 'CLUSTER', with args"]
)
def test_a_server_that_is_no_cluster_is_named_and_is_an_outage_while_a_daemon_runs(reply: str) -> None:
    """Behind one name a cluster may respond later; no recording fails for it. A start does not wait."""
    error = redis_exceptions.RedisClusterException("Redis Cluster cannot be connected. Please provide a node: no")
    error.__cause__ = redis_exceptions.RedisClusterException("Cluster mode is not enabled on this node")
    error.__cause__.__context__ = redis_exceptions.ResponseError(reply)
    ours = to_redis_error("ping", error)
    assert (ours.transient, ours.rejected, ours.other_topology) == (True, False, True)
    assert "not in cluster mode" in str(ours)


def test_a_cluster_that_is_only_silent_is_no_server_of_another_kind() -> None:
    text = "Redis Cluster cannot be connected. Please provide at least one reachable node: Timeout"
    assert not to_redis_error("ping", redis_exceptions.RedisClusterException(text)).other_topology


def test_a_rejected_certificate_is_an_outage_and_has_its_own_message() -> None:
    """No start waits for it (``assembly``), but a running daemon gives no recording up for it."""
    error = redis_exceptions.ConnectionError("Error 1 connecting to h:1")
    error.__context__ = ssl.SSLCertVerificationError(1, "self-signed certificate")
    assert redis_error_is_transient(error)
    says = r"not trusted \(.*self-signed.*\); set REDIS_CA_FILE"
    with pytest.raises(RedisOperationError, match=says) as caught, mapped("ping"):
        raise error
    assert caught.value.transient
    assert caught.value.certificate_refused


def test_what_is_not_an_error_of_redis_is_let_through() -> None:
    for error in (ValueError("ours"), KeyboardInterrupt()):
        assert not isinstance(error, MAPPED)
        with pytest.raises(type(error)), mapped("load"):
            raise error


def test_an_error_while_a_slot_moves_names_the_cause() -> None:
    error = to_redis_error("commit", redis_exceptions.ClusterError("TTL exhausted."))
    assert error.transient
    assert "TRYAGAIN: the cluster is moving the slot" in str(error)
