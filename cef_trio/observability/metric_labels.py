"""The values that labels may have: closed sets, so that no stranger's text can make a new time series. Pure.

A label that grows without bound fills Prometheus' memory
(https://prometheus.io/docs/practices/naming/#labels), and S3's error codes come from the network. What is not in the
set is ``other``; the log line beside the counter has the whole text.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from cef_trio import exceptions
from cef_trio.checkpoint import FailureReason, Status
from cef_trio.s3 import PERMANENT, TRANSIENT

OTHER: Final = "other"

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
"""Codes that the S3 client gives to what it finds itself."""
_NETWORK: Final = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "LocalProtocolError",
        "PoolTimeout",
        "ReadError",
        "ReadTimeout",
        "RemoteProtocolError",
        "WriteError",
        "WriteTimeout",
    }
)
"""httpx's exceptions (https://www.python-httpx.org/exceptions/), which stand where there was no answer."""
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
"""redis-py's exceptions, which are the causes of ours."""
_OURS: Final = frozenset(
    name
    for name, value in vars(exceptions).items()
    if isinstance(value, type) and issubclass(value, exceptions.CefMp4ProcessorError)
)

_STATUS: Final = re.compile(r"Http([1-5])\d\d")
"""The code of an answer that has none (a proxy's 502): only its class is told."""

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
"""Every value of the label ``error``."""

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
"""Every value of the label ``outcome``: how a stream's task ended."""

REASONS: Final = (
    *(reason.value for reason in FailureReason),
    Status.DELETED_LOCALLY.value,
    Status.ABORTED_NO_PARTS.value,
)
"""Every value of the label ``reason``: why a stream is in ``streams:failed``."""


class WebhookOutcome(StrEnum):
    """What became of an attempt to deliver a webhook: the label ``outcome`` of those."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """Another attempt follows."""
    REFUSED = "refused"
    """For good."""
    GIVEN_UP = "given_up"


class StreamState(StrEnum):
    """What a live stream's task does: the label ``state``."""

    WORKING = "working"
    WAITING = "waiting"
    RETRYING = "retrying"


def error_label(error: BaseException) -> str:
    """The error's S3 code, else the class of what Redis's driver raised, else its own class; or ``other``."""
    if isinstance(error, exceptions.S3OperationError):
        status = _STATUS.fullmatch(error.code or "")
        found = f"Http{status[1]}xx" if status else error.code
    elif isinstance(error, exceptions.RedisOperationError) and error.__cause__ is not None:
        found = type(error.__cause__).__name__
    else:
        found = type(error).__name__
    return found if found in ERRORS else OTHER
