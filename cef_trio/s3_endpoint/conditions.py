"""Conditional requests, and refusal of options that the endpoint does not support. Pure.

Options that change the meaning of a call are implemented as in S3 or refused with ``NotImplemented``; ignoring them
would hide mistakes of a client (a conditional deletion would delete in any case).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cef_trio.http import parse_http_date
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.records import StoredObject
from cef_trio.s3_endpoint.request import EndpointRequest, Target

_READ: Final = frozenset({"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"})
_WRITE: Final = frozenset({"if-match", "if-none-match"})
READ_CONDITIONS: Final = tuple(sorted(_READ))
"""The headers that ``check_read`` needs."""
_CONDITIONS: Final = _READ | {"if-range"}
_SUPPORTED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"GetObject": _READ, "HeadObject": _READ, "PutObject": _WRITE, "CompleteMultipartUpload": _WRITE}
)
"""Operation → the conditions that are implemented; others are refused."""
_NOT_IMPLEMENTED: Final = (
    "x-amz-bypass-governance-retention",
    "x-amz-if-match-",
    "x-amz-mfa",
    "x-amz-object-lock-",
    "x-amz-rename-",
    "x-amz-write-offset-bytes",
)
"""Headers (or prefixes of them) that change the meaning of a call and are not implemented."""
_NULL_VERSION: Final = "null"
_ETAG: Final = re.compile(r'\s*(?:W/)?(?:"([^"]*)"|([^",\s]+))\s*(?:,|$)')
_ANY: Final = "*"


def refuse_unsupported(operation: str, request: EndpointRequest, target: Target) -> None:
    """Refuse options that the endpoint does not support.

    Raises:
        S3Error: ``NotImplemented``.
    """
    if target.query.get("versionId", _NULL_VERSION) != _NULL_VERSION:
        # Buckets have no versions here, so the only version of an object is "null".
        raise S3Error("NotImplemented", "Versions are not implemented by this endpoint", details={"Query": "versionId"})
    for name, _ in request.headers:
        condition = name in _CONDITIONS and name not in _SUPPORTED.get(operation, frozenset())
        if condition or name.startswith(_NOT_IMPLEMENTED):
            raise S3Error("NotImplemented", details={"Header": name})


def check_read(record: StoredObject, headers: Mapping[str, str | None]) -> None:
    """Check the conditions of a read (RFC 9110, section 13.2.2); those on ETags override those on dates.

    Raises:
        S3Error: ``PreconditionFailed``, or ``NotModified`` (304).
    """
    modified = int(record.modified_at)  # dates of HTTP have no fractions
    match, none_match = headers["if-match"], headers["if-none-match"]
    if match is not None:
        if not _names(match, record.etag):
            raise S3Error("PreconditionFailed", details={"Condition": "If-Match"})
    elif (latest := _moment(headers["if-unmodified-since"])) is not None and modified > latest:
        raise S3Error("PreconditionFailed", details={"Condition": "If-Unmodified-Since"})
    if none_match is not None:
        if _names(none_match, record.etag):
            raise S3Error("NotModified", "Not Modified", status=304)
    elif (earliest := _moment(headers["if-modified-since"])) is not None and modified <= earliest:
        raise S3Error("NotModified", "Not Modified", status=304)


def _names(header: str, etag: str) -> bool:
    return header.strip() == _ANY or any(etag in match.groups() for match in _ETAG.finditer(header))


def _moment(text: str | None) -> float | None:
    """Return an HTTP date as Unix time; an invalid one is ignored (RFC 9110, section 13.1)."""
    moment = parse_http_date(text)
    return None if moment is None else moment.timestamp()
