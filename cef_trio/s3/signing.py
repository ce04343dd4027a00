"""AWS Signature Version 4 for S3: a pure function of a request, credentials and the time.

Rules: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. Specific to S3: the path is
URI-encoded once, not twice, and never normalised (``a//b`` and ``a/../b`` are different keys).

The signature covers the encoded text that is sent: callers encode path and query with :func:`encode_path` and
:func:`encode_query` and pass the same text to :func:`sign` and to the HTTP library. The hash of the body is an argument
(``UNSIGNED_PAYLOAD``, or a SHA-256 in hex).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_UNRESERVED: Final = "-_.~"  # quote() keeps letters and digits by itself

# Headers that proxies may change or drop; all others are signed.
_NEVER_SIGNED: Final = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-amzn-trace-id",
    }
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key; the secret parts stay out of ``repr``."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def encode_path(path: str) -> str:
    """URI-encode a path as S3 signs it: every byte but ``A-Za-z0-9-_.~/``, upper-case hex, once."""
    return quote(path, safe=_UNRESERVED + "/")


def encode_query(parameters: Iterable[tuple[str, str]]) -> str:
    """URI-encode query parameters; one without a value has no ``=`` (``?uploads``), as AWS's own clients send it."""
    pairs = ((quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in parameters)
    return "&".join(f"{name}={value}" if value else name for name, value in pairs)


def canonical_query(query: str) -> str:
    """Return an encoded query sorted by name and value, with ``=`` after every name."""
    if not query:
        return ""
    pairs = sorted(pair.partition("=")[::2] for pair in query.split("&"))
    return "&".join(f"{name}={value}" for name, value in pairs)


def canonical_request(
    method: str, path: str, query: str, headers: Mapping[str, str], payload_hash: str
) -> tuple[str, str]:
    """Return the canonical request and the list of signed headers (``host;x-amz-date``).

    ``path`` and ``query`` are encoded; ``headers`` must include ``host``.
    """
    signed = {
        name.lower(): " ".join(value.split()) for name, value in headers.items() if name.lower() not in _NEVER_SIGNED
    }
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    return f"{method}\n{path or '/'}\n{canonical_query(query)}\n{lines}\n{names}\n{payload_hash}", names


def credential_scope(moment: str, region: str, service: str = "s3") -> str:
    """Return the credential scope: day, region and service; ``moment`` is ``YYYYMMDDTHHMMSSZ``."""
    return f"{moment[:8]}/{region}/{service}/aws4_request"


def string_to_sign(canonical: str, moment: str, scope: str) -> str:
    """Return the string to sign."""
    return f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"


def signing_key(secret_access_key: str, scope: str) -> bytes:
    """Derive the signing key of one day, region and service from the secret."""
    key = b"AWS4" + secret_access_key.encode()
    for field_of_scope in scope.split("/"):
        key = hmac.new(key, field_of_scope.encode(), hashlib.sha256).digest()
    return key


def sign(
    *,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload_hash: str,
    credentials: Credentials,
    region: str,
    now: datetime,
) -> dict[str, str]:
    """Return the headers to add to a request, ``authorization`` among them.

    ``query`` has no ``?``; ``headers`` include ``host``; ``now`` has a time zone, and S3 accepts a difference of 15
    minutes to its clock.
    """
    moment = timestamp(now)
    added = {"x-amz-content-sha256": payload_hash, "x-amz-date": moment}
    if credentials.session_token is not None:
        added["x-amz-security-token"] = credentials.session_token
    canonical, names = canonical_request(method, path, query, {**headers, **added}, payload_hash)
    scope = credential_scope(moment, region)
    key, to_sign = signing_key(credentials.secret_access_key, scope), string_to_sign(canonical, moment, scope)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    added["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return added


def timestamp(now: datetime) -> str:
    """Return a time as ``YYYYMMDDTHHMMSSZ`` in UTC.

    Raises:
        ValueError: it has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("a signature needs a time with a time zone")
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
