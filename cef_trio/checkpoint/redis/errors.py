"""Mapping of redis-py's exceptions to :class:`RedisOperationError`; the only place for it.

An exception is classified by its class, and an error reply by its code
(https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors), since redis-py has classes for some codes
only. Transient errors pass by themselves or when the *server* is repaired (restart, failover, memory, disk). Permanent
errors stay until the settings or the data change.

Not here: what follows from an error. ``resilience/outage.py`` decides whether a rejection (NOPERM, a wrong password)
concerns one call or all; ``upload/failures.py`` decides whether it ends a stream (NOPERM: the stream waits).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from redis import exceptions as redis_exceptions
from redis.sentinel import MasterNotFoundError

from cef_trio.exceptions import RedisOperationError, causes
from cef_trio.http import tls
from cef_trio.safe_text import one_line

MAPPED: Final = (
    redis_exceptions.RedisError,
    redis_exceptions.RedisClusterException,
    redis_exceptions.ChildDeadlockedError,
    redis_exceptions.IncorrectPolicyType,
    OSError,
)
"""Every exception that redis-py raises, except for invalid arguments."""

_DENIALS: Final = (
    redis_exceptions.AuthenticationError,
    redis_exceptions.AuthorizationError,
    redis_exceptions.ExternalAuthProviderError,
    redis_exceptions.AuthenticationWrongNumberOfArgsError,
    redis_exceptions.NoPermissionError,
)
"""Refusals of a user: by the login, or by what it may do."""
# Subclasses first: AuthenticationError is a ConnectionError in redis-py, MasterDownError a ClusterError.
_TRANSIENT_BY_CLASS: Final[Sequence[tuple[type[Exception], bool]]] = (
    *((kind, False) for kind in _DENIALS),
    (redis_exceptions.ConnectionError, True),
    (redis_exceptions.TimeoutError, True),
    (redis_exceptions.ReadOnlyError, True),
    (redis_exceptions.OutOfMemoryError, True),
    (redis_exceptions.TryAgainError, True),
    (redis_exceptions.AskError, True),
    (redis_exceptions.ClusterError, True),
    (redis_exceptions.SlotNotCoveredError, True),
    (redis_exceptions.WatchError, True),
    (redis_exceptions.NoScriptError, True),
    (redis_exceptions.InvalidResponse, True),  # a proxy's response shows nothing about the data
)

_TRANSIENT_CODES: Final = (
    "BUSY",  # another script is running
    "CLUSTERDOWN",
    "IOERR",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",  # the last save to disk failed, writes are refused until one succeeds
    "NOREPLICAS",
    "OOM",
    "READONLY",  # a replica that was the master a moment ago
    "TRYAGAIN",
)
_REFUSALS: Final = (
    redis_exceptions.ResponseError,
    redis_exceptions.AuthenticationError,
    redis_exceptions.AuthorizationError,
    redis_exceptions.ExternalAuthProviderError,
)
_OF_ONE_KEY: Final = re.compile(r"(?:^|[ :]-)WRONGTYPE\b")
# Redis 6 wraps what failed inside a script: "ERR Error running script (...): @user_script:1: -READONLY You can't ...".
_TRANSIENT_REPLY: Final = re.compile(rf"(?:^|[ :]-)(?:{'|'.join(_TRANSIENT_CODES)})\b")
# Texts of RedisCluster when no start-up node can be reached, when some slots have no node (a failover, a cluster being
# set up), and when the nodes name different ones for a slot (a cluster being repaired); the class is the same.
_CLUSTER_UNREACHABLE: Final = "Redis Cluster cannot be connected"
_CLUSTER_UNCOVERED: Final = "All slots are not covered"
_CLUSTER_DISAGREES: Final = "could not agree on a valid slots cache"
# What a server without cluster mode, or without that command, replies to CLUSTER SLOTS; redis-py turns it into
# "cannot be connected".
_NO_CLUSTER: Final = re.compile(r"cluster support disabled|unknown command '?CLUSTER", re.IGNORECASE)
# Of each sentinel that was asked in vain: its address, and the class of its error ("> - auth:AuthenticationError").
_ASKED_SENTINEL: Final = re.compile(r"\bhost=([^,]+),port=(\d+).*?> - (?:\w+:)?(\w+)")
# Its text of a ClusterError after 16 redirections (ASK, MOVED) and refusals (TRYAGAIN).
_REDIRECTED_TOO_OFTEN: Final = "TTL exhausted"


def redis_error_is_transient(error: BaseException) -> bool:
    """Return whether the same call may succeed later with the same settings and data."""
    error = _denial_in(error)
    for kind, transient in _TRANSIENT_BY_CLASS:
        if isinstance(error, kind):
            return transient
    if isinstance(error, redis_exceptions.ResponseError):
        return _TRANSIENT_REPLY.search(str(error)) is not None
    if isinstance(error, redis_exceptions.RedisClusterException):
        return any(text in str(error) for text in (_CLUSTER_UNREACHABLE, _CLUSTER_UNCOVERED, _CLUSTER_DISAGREES))
    return isinstance(error, OSError)


def is_unreachable(error: BaseException) -> bool:
    """Return whether the server did not respond at all, so that a concurrent call would fail too."""
    return redis_error_is_transient(error) and (
        isinstance(error, redis_exceptions.ConnectionError | redis_exceptions.TimeoutError | OSError)
        or _CLUSTER_UNREACHABLE in str(error)
    )


def is_rejected(error: BaseException) -> bool:
    """Return whether the server rejected a call permanently for a reason that affects all calls: login, permission,
    command. Errors in the data of one key (a wrong type) do not count.
    """
    error = _denial_in(error)
    return isinstance(error, _REFUSALS) and not redis_error_is_transient(error) and not is_of_one_key(error)


def _denial_in(error: BaseException) -> BaseException:
    """Return the denial that redis-py turned into "unreachable", or the error itself.

    Its clients of clusters and sentinels go on to the next server whatever one replies. Nobody would read a changed
    password again, and a start with a wrong one would wait for ever.
    """
    if isinstance(error, redis_exceptions.RedisClusterException) and _CLUSTER_UNREACHABLE in str(error):
        return next((one for one in causes(error) if isinstance(one, _DENIALS)), error)
    if isinstance(error, MasterNotFoundError) and any(denied for _, denied in _asked_sentinels(str(error))):
        return redis_exceptions.AuthenticationError(f"no master: {_without_options(str(error))}")
    return error


def is_of_one_key(error: BaseException) -> bool:
    """Return whether an error reply is about the type of one key."""
    return _OF_ONE_KEY.search(str(error)) is not None


def _other_topology(error: BaseException) -> str | None:
    """Return what is wrong with ``REDIS_URL`` if a server of another kind responds; ``None``: nothing is known.

    It is transient nevertheless: behind one name another server may respond later, and no recording is to fail for it.
    """
    is_of_cluster = isinstance(error, redis_exceptions.RedisClusterException)
    if is_of_cluster and any(_NO_CLUSTER.search(str(one)) for one in causes(error)):
        return (
            "the server is not in cluster mode: for one server REDIS_URL is redis://host:port/db, for sentinels "
            "redis+sentinel://… (with TLS rediss in place of redis)"
        )
    if isinstance(error, redis_exceptions.MovedError):  # a client of a cluster follows it
        return (
            f"the server is a node of a cluster, and has not all keys (MOVED {error}): REDIS_URL is to be "
            "redis+cluster://host:port,… (with TLS rediss+cluster)"
        )
    return None


def to_redis_error(operation: str, error: BaseException, secrets: Sequence[str] = ()) -> RedisOperationError:
    """Return the error to raise for one of redis-py's; ``secrets`` are masked in its text."""
    error = _denial_in(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MasterNotFoundError):
        text = f"no master: {_without_options(text)}"
    unreadable = isinstance(error, redis_exceptions.InvalidResponse)
    if unreadable:
        text = f"the reply is not one of Redis ({one_line(text)}); does a proxy or another server respond at REDIS_URL?"
    if text.startswith(_REDIRECTED_TOO_OFTEN):
        text = "TRYAGAIN: the cluster is moving the slot of the keys, and has some of them here and some there"
    code = getattr(error, "status_code", None)
    if code and code != "ERR" and not text.startswith(code):
        text = f"{code} {text}"
    refused = tls.explain_refused_certificate(error, ca_setting="REDIS_CA_FILE", address_setting="REDIS_URL")
    elsewhere = _other_topology(error)
    text = refused or elsewhere or text
    for secret in secrets:
        text = text.replace(secret, "***")
    ours = RedisOperationError(operation, text, transient=redis_error_is_transient(error))
    ours.certificate_refused = refused is not None
    ours.other_topology = elsewhere is not None
    ours.rejected = is_rejected(error)
    ours.unreadable = unreadable
    return ours


def _without_options(text: str) -> str:
    """Return redis-py's text about the sentinels that were asked in vain, with their addresses only."""
    found, separator, _ = text.partition(" : <")
    if not separator:
        return text
    asked = _asked_sentinels(text)
    for said, what in ((True, "refuse the login (sentinel_username, sentinel_password)"), (False, "do not answer")):
        if names := ", ".join(name for name, denied in asked if denied is said):
            found += f"; these sentinels {what}: {names}"
    return found


def _asked_sentinels(text: str) -> list[tuple[str, bool]]:
    """Return the sentinels in redis-py's text, and whether each denied the login."""
    names = {kind.__name__ for kind in _DENIALS}
    return [(f"{host}:{port}", kind in names) for host, port, kind in _ASKED_SENTINEL.findall(text)]


@contextmanager
def mapped(operation: str, secrets: Sequence[str] = ()) -> Iterator[None]:
    """Convert redis-py's exceptions in the body to :class:`RedisOperationError`."""
    try:
        yield
    except MAPPED as error:
        raise to_redis_error(operation, error, secrets) from error
