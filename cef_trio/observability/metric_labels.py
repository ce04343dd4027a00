"""Values of the metrics' labels: closed sets, so that outside text cannot create time series. Pure.

A label without a limit fills Prometheus' memory (https://prometheus.io/docs/practices/naming/#labels), and S3's error
codes come from the network. A value outside the set becomes ``other``; the log has the full text.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from cef_trio import exceptions
from cef_trio.checkpoint import FailureReason, Status
from cef_trio.s3 import PERMANENT, TRANSIENT

OTHER: Final = "other"


class FreedBy(StrEnum):
    """Why a recording was deleted or moved."""

    AFTER_UPLOAD = "after_upload"
    MIN_FREE_SPACE = "min_free_space"


_OUR_CODES: Final = frozenset(
    {
        "ChecksumMismatch",
        "ChecksumNotConfirmed",
        "EndlessListing",
        "MissingExtra",
        "NoCredentials",
        "RequestTimeTooSkewed",
        "UnknownOutcome",
        "UnreadableAnswer",
    }
)
"""Codes of errors that the S3 client detects."""
_NETWORK: Final = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "LocalProtocolError",
        "PoolTimeout",
        "ProxyError",
        "ReadError",
        "ReadTimeout",
        "RemoteProtocolError",
        "WriteError",
        "WriteTimeout",
    }
)
"""httpx's exceptions (https://www.python-httpx.org/exceptions/), for calls without a response."""
_REDIS: Final = frozenset(
    {
        "AuthenticationError",
        "BusyLoadingError",
        "ClusterDownError",
        "ConnectionError",
        "MasterNotFoundError",
        "NoPermissionError",
        "OutOfMemoryError",
        "ReadOnlyError",
        "ResponseError",
        "TimeoutError",
    }
)
"""redis-py's exceptions, the causes of ``RedisOperationError``."""
_OURS: Final = frozenset(
    name
    for name, value in vars(exceptions).items()
    if isinstance(value, type) and issubclass(value, exceptions.CefMp4ProcessorError)
)

_STATUS: Final = re.compile(r"Http([1-5])\d\d")
"""Code of a response without an S3 error (a proxy's 502); only the class of the status is used."""

ERRORS: Final = (
    TRANSIENT
    | PERMANENT
    | _OUR_CODES
    | _NETWORK
    | _REDIS
    | _OURS
    | {f"Http{digit}xx" for digit in range(1, 6)}
    | {OTHER}
)
"""Values of the label ``error``."""

OUTCOMES: Final = (
    "completed",
    "failed",
    "parked",
    "lease_lost",
    "file_missing",
    "unchanged",
    "set_aside",
    "cancelled",
)
"""Values of the label ``outcome``: how a stream's task ended."""

REASONS: Final = (
    *(reason.value for reason in FailureReason),
    Status.DELETED_LOCALLY.value,
    Status.ABORTED_NO_PARTS.value,
)
"""Values of the label ``reason``: why a stream is in ``streams:failed``."""


class WebhookOutcome(StrEnum):
    """Outcome of an attempt to deliver a webhook: the label ``outcome``."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """Another attempt follows."""
    REFUSED = "refused"
    """Permanently."""
    GIVEN_UP = "given_up"


class StreamState(StrEnum):
    """What an active stream's task does: the label ``state``."""

    WORKING = "working"
    WAITING = "waiting"
    RETRYING = "retrying"


def error_label(error: BaseException) -> str:
    """Return the S3 code, the class of redis-py's exception, or the error's class; ``other`` if not in the set."""
    if isinstance(error, exceptions.S3OperationError):
        status = _STATUS.fullmatch(error.code or "")
        found = f"Http{status[1]}xx" if status else error.code
    elif isinstance(error, exceptions.RedisOperationError) and error.__cause__ is not None:
        found = type(error.__cause__).__name__
    else:
        found = type(error).__name__
    return found if found in ERRORS else OTHER
