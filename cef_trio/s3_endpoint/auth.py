"""Verification of AWS Signature Version 4. Pure.

Rules: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html,
``sigv4-query-string-auth.html``, ``sigv4-streaming.html``. Deliberately independent of ``cef_trio.s3.signing``: it is a
second implementation against which the client's signatures are tested; boto3 tests both.

Strict where S3 is strict: the key id must be known, the scope must name today's date, our region and ``s3``, the clock
may differ by 15 minutes, ``host`` and every ``x-amz-*`` header must be signed. The body is not read here:
``Authorization.payload`` determines how it is verified while it is received.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from cef_trio.s3_endpoint.decimals import decimal
from cef_trio.s3_endpoint.errors import S3Error
from cef_trio.s3_endpoint.request import EndpointRequest, Headers, parse_query

ALGORITHM: Final = "AWS4-HMAC-SHA256"
MAX_SKEW_SECONDS: Final = 15 * 60
MAX_EXPIRES_SECONDS: Final = 7 * 24 * 3600
_STREAMING: Final = frozenset(
    {
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
    }
)
_EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_SCOPE_FIELDS: Final = 5


@dataclass(frozen=True, slots=True, repr=False)
class Account:
    """The secret of an access key, and the session token of temporary credentials."""

    secret_access_key: str
    session_token: str | None = None
    expired_tokens: frozenset[str] = frozenset()
    """Earlier session tokens."""

    def renewed(self, session_token: str) -> Account:
        """Return the account with another token; the current one expires."""
        old = () if self.session_token is None else (self.session_token,)
        return Account(self.secret_access_key, session_token, self.expired_tokens.union(old))


@dataclass(frozen=True, slots=True, repr=False)
class Authorization:
    """The result of a valid signature, and what is needed to verify the body.

    ``payload`` is ``x-amz-content-sha256``: a hex digest, ``UNSIGNED-PAYLOAD`` or one of the ``STREAMING-…`` values.
    """

    access_key_id: str
    payload: str
    signing_key: bytes
    moment: str
    scope: str
    signature: str


@dataclass(frozen=True, slots=True, repr=False)
class _SignatureFields:
    """The signature of a request and its fields, from the header or from the query."""

    access_key_id: str
    scope: str
    signed_headers: tuple[str, ...]
    signature: str
    moment: str
    token: str | None
    payload: str
    expires_seconds: int | None


def verify(request: EndpointRequest, accounts: Mapping[str, Account], region: str, now: float) -> Authorization:
    """Check a request's signature and return its authorization.

    Args:
        request: the request; its body is not read.
        accounts: access key id → account.
        region: the only region that scopes may name.
        now: Unix seconds by the server's clock.

    Raises:
        S3Error: with S3's code.
    """
    query = parse_query(request.query)
    authorization = request.headers.get("authorization")
    if authorization is not None:
        given = _given_in_header(request.headers, authorization)
    elif any(name == "X-Amz-Algorithm" for name, _ in query):
        given = _given_in_query(request.headers, dict(query))
    else:
        raise S3Error("AccessDenied")
    account = _account(given, accounts)
    _check_scope(given, region)
    _check_time(given, now)
    _check_signed_headers(given, request.headers)
    return _check_signature(given, account, request, query)


class ChunkSignatures:
    """The chain of signatures over the chunks of a ``STREAMING-AWS4-HMAC-SHA256-PAYLOAD`` body."""

    def __init__(self, authorization: Authorization) -> None:
        self._authorization = authorization
        self._previous = authorization.signature

    def check_chunk(self, signature: str, sha256_hex: str) -> None:
        """Check the next chunk.

        Raises:
            S3Error: ``SignatureDoesNotMatch``.
        """
        self._check(f"{ALGORITHM}-PAYLOAD", f"{_EMPTY_SHA256}\n{sha256_hex}", signature)

    def check_trailer(self, signature: str, trailer: bytes) -> None:
        """Check the trailing headers, given as ``name:value\\n`` each.

        Raises:
            S3Error: ``SignatureDoesNotMatch``.
        """
        self._check(f"{ALGORITHM}-TRAILER", hashlib.sha256(trailer).hexdigest(), signature)

    def _check(self, algorithm: str, tail: str, signature: str) -> None:
        to_sign = f"{algorithm}\n{self._authorization.moment}\n{self._authorization.scope}\n{self._previous}\n{tail}"
        expected = hmac.new(self._authorization.signing_key, to_sign.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise S3Error("SignatureDoesNotMatch", details={"StringToSign": to_sign})
        self._previous = expected


def canonical_request(
    request: EndpointRequest, query: list[tuple[str, str]], signed_headers: tuple[str, ...], payload: str
) -> str:
    """Return the text whose hash is signed. Path and query are decoded and encoded again in canonical form."""
    path = quote(unquote_to_bytes(request.path), safe="/-_.~") or "/"
    encoded = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query)
    lines = [request.method, path, "&".join(f"{name}={value}" for name, value in encoded)]
    for name in signed_headers:
        values = ",".join(re.sub(" +", " ", value.strip()) for value in request.headers.all(name))
        lines.append(f"{name}:{values}")
    lines += ["", ";".join(signed_headers), payload]
    return "\n".join(lines)


def _given_in_header(headers: Headers, authorization: str) -> _SignatureFields:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm == "AWS":
        raise S3Error(
            "InvalidRequest",
            f"The authorization mechanism you have provided is not supported. Please use {ALGORITHM}.",
        )
    if algorithm != ALGORITHM:
        raise S3Error("InvalidArgument", "Unsupported Authorization Type")
    fields = dict(piece.strip().partition("=")[::2] for piece in rest.split(","))
    if not {"Credential", "SignedHeaders", "Signature"} <= fields.keys():
        raise S3Error("AuthorizationHeaderMalformed")
    access_key_id, _, scope = fields["Credential"].partition("/")
    moment = headers.get("x-amz-date") or _moment_of_date(headers.get("date"))
    payload = headers.get("x-amz-content-sha256")
    if payload is None:
        raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    return _SignatureFields(
        access_key_id=access_key_id,
        scope=scope,
        signed_headers=tuple(fields["SignedHeaders"].split(";")),
        signature=fields["Signature"],
        moment=moment,
        token=headers.get("x-amz-security-token"),
        payload=_known_payload(payload),
        expires_seconds=None,
    )


def _given_in_query(headers: Headers, query: Mapping[str, str]) -> _SignatureFields:
    needed = {"X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"}
    if query["X-Amz-Algorithm"] != ALGORITHM or not needed <= query.keys():
        raise S3Error(
            "AuthorizationQueryParametersError",
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
        )
    expires_seconds = decimal(query["X-Amz-Expires"])
    if expires_seconds is None or not 0 < expires_seconds <= MAX_EXPIRES_SECONDS:
        raise S3Error(
            "AuthorizationQueryParametersError",
            "X-Amz-Expires must be a number of seconds, at least 1 and less than a week",
        )
    access_key_id, _, scope = query["X-Amz-Credential"].partition("/")
    return _SignatureFields(
        access_key_id=access_key_id,
        scope=scope,
        signed_headers=tuple(query["X-Amz-SignedHeaders"].split(";")),
        signature=query["X-Amz-Signature"],
        moment=query["X-Amz-Date"],
        token=query.get("X-Amz-Security-Token"),
        payload=_known_payload(
            headers.get("x-amz-content-sha256") or query.get("X-Amz-Content-Sha256") or "UNSIGNED-PAYLOAD"
        ),
        expires_seconds=expires_seconds,
    )


def _known_payload(payload: str) -> str:
    if payload == "UNSIGNED-PAYLOAD" or payload in _STREAMING or re.fullmatch("[0-9a-f]{64}", payload):
        return payload
    raise S3Error(
        "InvalidArgument", "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a STREAMING- value or a valid sha256 value."
    )


def _moment_of_date(date: str | None) -> str:
    try:
        parsed = datetime.strptime(date or "", "%a, %d %b %Y %H:%M:%S GMT")  # noqa: DTZ007 - the format is in GMT
    except ValueError as error:
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from error
    return parsed.strftime("%Y%m%dT%H%M%SZ")


def _account(given: _SignatureFields, accounts: Mapping[str, Account]) -> Account:
    account = accounts.get(given.access_key_id)
    if account is None or (account.session_token is not None and given.token is None):
        # Temporary keys do not exist for S3 without their token.
        raise S3Error("InvalidAccessKeyId", details={"AWSAccessKeyId": given.access_key_id})
    if given.token is not None and given.token != account.session_token:
        raise S3Error("ExpiredToken" if given.token in account.expired_tokens else "InvalidToken")
    return account


def _check_scope(given: _SignatureFields, region: str) -> None:
    code = "AuthorizationHeaderMalformed" if given.expires_seconds is None else "AuthorizationQueryParametersError"
    fields = f"{given.access_key_id}/{given.scope}".split("/")
    if len(fields) != _SCOPE_FIELDS or fields[4] != "aws4_request" or fields[3] != "s3":
        raise S3Error(
            code,
            'The authorization header is malformed; the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/'
            'REGION/s3/aws4_request".',
        )
    if fields[2] != region:
        raise S3Error(
            code,
            f"The authorization header is malformed; the region '{fields[2]}' is wrong; expecting '{region}'",
            details={"Region": region},
        )
    if fields[1] != given.moment[:8]:
        raise S3Error(
            code,
            f'Invalid credential date "{fields[1]}". This date is not the same as X-Amz-Date: "{given.moment[:8]}".',
        )


def _check_time(given: _SignatureFields, now: float) -> None:
    try:
        signed = datetime.strptime(given.moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from error
    if given.expires_seconds is not None and now > signed + given.expires_seconds:
        raise S3Error("AccessDenied", "Request has expired", details={"X-Amz-Expires": str(given.expires_seconds)})
    if signed - now > MAX_SKEW_SECONDS or (given.expires_seconds is None and now - signed > MAX_SKEW_SECONDS):
        raise S3Error(
            "RequestTimeTooSkewed",
            details={
                "RequestTime": given.moment,
                "ServerTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "MaxAllowedSkewMilliseconds": str(MAX_SKEW_SECONDS * 1000),
            },
        )


def _check_signed_headers(given: _SignatureFields, headers: Headers) -> None:
    must = {name for name, _ in headers if name.startswith("x-amz-")} | {"host"}
    unsigned = sorted(must - set(given.signed_headers))
    if unsigned:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            details={"HeadersNotSigned": ", ".join(unsigned)},
        )
    if list(given.signed_headers) != sorted(set(given.signed_headers)):
        raise S3Error("AuthorizationHeaderMalformed", "SignedHeaders must be sorted and in lower case")


def _check_signature(
    given: _SignatureFields, account: Account, request: EndpointRequest, query: list[tuple[str, str]]
) -> Authorization:
    signed_query = [pair for pair in query if pair[0] != "X-Amz-Signature"]
    canonical = canonical_request(request, signed_query, given.signed_headers, given.payload)
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{ALGORITHM}\n{given.moment}\n{given.scope}\n{hashed}"
    key = b"AWS4" + account.secret_access_key.encode()
    for field in given.scope.split("/"):
        key = hmac.new(key, field.encode(), hashlib.sha256).digest()
    expected = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), given.signature.encode()):
        raise S3Error(
            "SignatureDoesNotMatch",
            details={
                "AWSAccessKeyId": given.access_key_id,
                "StringToSign": to_sign,
                "SignatureProvided": given.signature,
                "CanonicalRequest": canonical,
            },
        )
    return Authorization(
        access_key_id=given.access_key_id,
        payload=given.payload,
        signing_key=key,
        moment=given.moment,
        scope=given.scope,
        signature=expected,
    )
