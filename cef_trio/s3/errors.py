"""What S3 means when it says no. Pure.

S3 tells its errors apart by a code in an XML body and by HTTP status
(https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html). ``TRANSIENT`` and ``PERMANENT`` sort the codes;
what stands in neither, and answers without a readable body (HEAD, proxies, load balancers), is sorted by status. When
in doubt about a 4xx it is permanent: a call that can never succeed must be heard of, not repeated for ever.

``HINTS`` says what a person does about it. Nothing here ever holds a secret: S3's own texts may quote the request that
was signed (``SignatureDoesNotMatch``), so of the body only the code, the message, the region and the ids are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Final

from cef_trio.exceptions import S3OperationError
from cef_trio.s3.response_origin import NOT_S3_ANSWER, describe_foreign
from cef_trio.s3.xml import XmlError, one_line, parse_xml

MAX_ERROR_BYTES: Final = 64 * 1024
"""How much of an error's body is looked at."""

UNREADABLE_ANSWER: Final = "UnreadableAnswer"
"""Our code for an answer of S3's that makes no sense, or is not whole."""
ARCHIVED: Final = "InvalidObjectState"
"""The object is in an archive class (GLACIER, DEEP_ARCHIVE): it is there, and cannot be read."""

TRANSIENT: Final = frozenset(
    {
        "BadDigest",  # the bytes were damaged, or changed, on the way: read and send them again
        "BandwidthLimitExceeded",
        "Busy",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "KMS.DependencyTimeoutException",
        "KMS.KMSInternalException",
        "KMS.ThrottlingException",
        NOT_S3_ANSWER,  # it says nothing of the upload, and comes from whoever stands in the store's place
        "OperationAborted",
        "RequestTimeTooSkewed",  # the client corrects its clock; makes it permanent where that does not help
        "RequestTimeout",
        "RequestTimeoutException",
        "ServerBusy",
        "ServiceUnavailable",
        "SlowDown",
        "TemporaryRedirect",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        UNREADABLE_ANSWER,
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)

PERMANENT: Final = frozenset(
    {
        "AccessControlListNotSupported",
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
        "BucketAlreadyExists",
        "EntityTooLarge",
        "EntityTooSmall",
        "ExpiredToken",
        "IllegalLocationConstraintException",
        "InvalidAccessKeyId",
        "InvalidArgument",
        "InvalidBucketName",
        "InvalidDigest",
        "InvalidObjectState",
        "InvalidPart",
        "InvalidPartOrder",
        "InvalidRequest",
        "InvalidSecurity",
        "InvalidStorageClass",
        "InvalidTag",
        "InvalidToken",
        "KMS.DisabledException",
        "KMS.InvalidKeyUsageException",
        "KMS.KMSInvalidStateException",
        "KMS.NotFoundException",
        "KeyTooLongError",
        "MalformedXML",
        "MetadataTooLarge",
        "MethodNotAllowed",
        "MissingContentLength",
        "NoSuchBucket",
        "NoSuchKey",
        "NoSuchUpload",
        "NotImplemented",
        "NotSignedUp",
        "PermanentRedirect",
        "PreconditionFailed",
        "QuotaExceeded",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnauthorizedAccess",
    }
)

REQUEST_SPECIFIC: Final = frozenset(
    {
        "EntityTooLarge",
        "EntityTooSmall",
        "InvalidDigest",
        "InvalidObjectState",
        "InvalidPart",
        "InvalidPartOrder",
        "KeyTooLongError",
        "MalformedXML",
        "MetadataTooLarge",
        "NoSuchKey",
        "NoSuchLifecycleConfiguration",
        "NoSuchUpload",
        "PreconditionFailed",
    }
)
"""Refusals that name what only their call has. Every other one may strike all calls alike, also one of a code that
nobody has heard of (quotas have many names): that is found out, not listed."""

HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AccessControlListNotSupported": "the bucket has no ACLs; leave S3_ACL empty, or allow ACLs in its ownership",
        "AccessDenied": (
            "the credentials are known but may not do this; allow s3:PutObject, s3:GetObject, s3:AbortMultipartUpload, "
            "s3:ListMultipartUploadParts on the objects and s3:ListBucket, s3:ListBucketMultipartUploads on the "
            "bucket; for S3_TAGS also s3:PutObjectTagging, for S3_ACL s3:PutObjectAcl, for KMS kms:GenerateDataKey and "
            "kms:Decrypt on the key"
        ),
        "AuthorizationHeaderMalformed": "set S3_REGION_NAME to the bucket's region",
        "BucketAlreadyExists": "somebody else owns a bucket of that name; choose another S3_BUCKET_NAME",
        "EntityTooLarge": "one part may have at most 5 GiB; lower CHUNK_SIZE_BYTES",
        "EntityTooSmall": (
            "parts other than the last need at least 5 MiB; raise CHUNK_SIZE_BYTES, or set S3_EQUAL_PARTS=true where "
            "the store wants equal parts"
        ),
        "ExpiredToken": "the session token has run out; renew S3_SESSION_TOKEN or use a role",
        "IllegalLocationConstraintException": "set S3_REGION_NAME to the bucket's region",
        "InvalidAccessKeyId": "the store does not know this access key; check S3_ACCESS_KEY_ID and S3_ENDPOINT_URL",
        "InvalidBucketName": "check S3_BUCKET_NAME: 3 to 63 lower-case letters, digits, dots and hyphens",
        "InvalidObjectState": (
            "it is in an archive class (GLACIER, DEEP_ARCHIVE); restore it first (RestoreObject), then read it"
        ),
        "InvalidPart": (
            "the store has not every part that it acknowledged, or wants all but the last equally long: then "
            "S3_EQUAL_PARTS=true"
        ),
        "InvalidStorageClass": "the store has no such class; check S3_STORAGE_CLASS",
        "InvalidTag": "the store takes no such tags; check S3_TAGS",
        "KMS.DisabledException": "the KMS key is disabled; enable it, or set another S3_SSE_KMS_KEY_ID",
        "KMS.InvalidKeyUsageException": "the KMS key is not for this; set another S3_SSE_KMS_KEY_ID",
        "KMS.KMSInvalidStateException": "the KMS key cannot be used now, it may wait for its deletion; see to the key",
        "KMS.NotFoundException": "there is no such KMS key in the bucket's region; check S3_SSE_KMS_KEY_ID",
        "InvalidToken": "check S3_SESSION_TOKEN; it belongs to its access key",
        "KeyTooLongError": "an object's key may have 1,024 bytes; shorten S3_KEY_TEMPLATE or the file's name",
        "NoSuchBucket": "create the bucket, set S3_CREATE_BUCKET=true, or check S3_BUCKET_NAME and S3_REGION_NAME",
        "NoSuchUpload": "the multipart upload is gone: completed, aborted, or removed by a lifecycle rule",
        "NotImplemented": (
            "the store lacks something that was asked for; S3_CHECKSUM=md5, and S3_SSE, S3_TAGS, S3_STORAGE_CLASS and "
            "S3_ACL left empty, ask for the least"
        ),
        "PermanentRedirect": "the bucket lives elsewhere; set S3_REGION_NAME, or S3_ENDPOINT_URL, to where it is",
        "QuotaExceeded": "the bucket's or account's quota is used up",
        "RequestTimeTooSkewed": "this machine's clock is wrong; synchronise it (chrony, systemd-timesyncd)",
        "SignatureDoesNotMatch": (
            "the secret key does not fit the access key, or a proxy changes requests; check S3_SECRET_ACCESS_KEY, "
            "S3_REGION_NAME and S3_ENDPOINT_URL"
        ),
    }
)

_NO_REASON: Final = (
    "the store did not say why (answers to HEAD cannot): a wrong key or secret, a missing permission, a wrong clock, "
    "or an object that is not there while s3:ListBucket is not allowed"
)

_CODE_OF_STATUS: Final[Mapping[int, str]] = MappingProxyType(
    {301: "PermanentRedirect", 307: "TemporaryRedirect", 403: "AccessDenied", 503: "ServiceUnavailable"}
)
"""What a status says where no body names a code (HEAD answers have none)."""
_TRANSIENT_STATUS: Final = frozenset({307, 408, 425, 429})
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500
_NOT_IMPLEMENTED: Final = 501  # the one 5xx that will not pass


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error's body says; every field may be missing."""

    code: str | None = None
    message: str | None = None
    region: str | None = None
    endpoint: str | None = None
    request_id: str | None = None


def parse_error_body(body: bytes) -> ErrorBody:
    """Read an error's XML; what is none (HTML, nothing, garbage, something hostile) gives an empty answer."""
    try:
        root = parse_xml(body[:MAX_ERROR_BYTES])
    except XmlError:
        return ErrorBody()
    if root.name != "Error":
        return ErrorBody()
    return ErrorBody(
        code=one_line(root.text_of("Code")),
        message=one_line(root.text_of("Message")),
        region=one_line(root.text_of("Region")),
        endpoint=one_line(root.text_of("Endpoint")),
        request_id=one_line(root.text_of("RequestId")),
    )


def is_transient(code: str | None, status: int | None) -> bool:
    """Whether the same call may succeed later without anybody changing anything."""
    if code in TRANSIENT:
        return True
    if code in PERMANENT:
        return False
    if status is None:
        return True
    return status in _TRANSIENT_STATUS or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """``Retry-After`` in seconds from ``now``, from its number or its HTTP date; ``None`` where it says nothing."""
    if value is None:
        return None
    text = value.strip()
    try:
        seconds = float(text)
    except ValueError:
        moment = parse_http_date(text)
        return None if moment is None else max(0.0, (moment - now).total_seconds())
    return seconds if 0 <= seconds < math.inf else None


def parse_http_date(value: str | None) -> datetime | None:
    """The moment in a ``Date`` header, or ``None``."""
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def error_from_response(
    operation: str,
    *,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
    bucket: str | None = None,
    key: str | None = None,
    part_number: int | None = None,
    part_of_200: bool = False,
    cut_off: bool = False,
    foreign: bool = False,
) -> S3OperationError:
    """The error in an answer, with what a person needs to act on it.

    Args:
        operation: as the caller names it (``upload_part``).
        status: HTTP status of the answer.
        headers: of the answer, names in lower case.
        body: what was read of it; may be empty, and need not be XML.
        now: to turn a ``Retry-After`` date into seconds.
        bucket: the subject.
        key: the subject.
        part_number: the subject.
        part_of_200: the status was 200 and the error stands in its body (CompleteMultipartUpload); then only the code
            counts.
        cut_off: the body did not arrive to its end. If what is there names no code, nobody knows why the call was
            refused: the status alone may mean a wrong clock as well as a missing permission, so it is asked again.
        foreign: the answer is not the store's own (``response_origin.py``), so it says nothing of the call.
    """
    if foreign:
        return S3OperationError(
            operation,
            f"{NOT_S3_ANSWER} (HTTP {status}): {describe_foreign(status, headers, body)}"
            + describe(bucket, key, part_number),
            transient=True,
            code=NOT_S3_ANSWER,
            status=status,
            bucket=bucket,
            key=key,
            part_number=part_number,
            retry_after_seconds=parse_retry_after(headers.get("retry-after"), now),
        )
    said = parse_error_body(body)
    region = said.region or one_line(headers.get("x-amz-bucket-region"))
    unsaid = cut_off and said.code is None
    code = UNREADABLE_ANSWER if unsaid else said.code or _code_without_body(status, region, key)
    transient = is_transient(code, _SERVER_ERROR if part_of_200 else status)
    text = [f"{code} (HTTP {status})"]
    if unsaid:
        text.append(": the answer was cut off before it said why")
    if said.message:
        text.append(f": {said.message.rstrip('.')}")  # something may follow
    hint = _NO_REASON if said.code is None and code == "AccessDenied" else _hint(code, region, said.endpoint)
    if hint:
        text.append(f"; {hint}")
    error = S3OperationError(
        operation,
        "".join(text) + describe(bucket, key, part_number),
        transient=transient,
        code=code,
        status=status,
        request_id=said.request_id or one_line(headers.get("x-amz-request-id")),
        bucket=bucket,
        key=key,
        part_number=part_number,
        retry_after_seconds=parse_retry_after(headers.get("retry-after"), now),
    )
    error.refusal = not transient and code not in REQUEST_SPECIFIC
    return error


def describe(bucket: str | None, key: str | None, part_number: int | None) -> str:
    """The subject of a call, to stand at the end of a message."""
    said = [
        f"bucket {bucket!r}" if bucket is not None else None,
        f"key {key!r}" if key is not None else None,
        f"part {part_number}" if part_number is not None else None,
    ]
    words = ", ".join(word for word in said if word)
    return f" [{words}]" if words else ""


def _code_without_body(status: int, region: str | None, key: str | None) -> str:
    if status == _BAD_REQUEST and region:  # HeadBucket in the wrong region
        return "AuthorizationHeaderMalformed"
    if status == _NOT_FOUND:
        return "NoSuchKey" if key is not None else "NoSuchBucket"
    return _CODE_OF_STATUS.get(status, f"Http{status}")


def _hint(code: str, region: str | None, endpoint: str | None) -> str | None:
    if code in {"PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect"} and region:
        return f"the bucket's region is {region}: set S3_REGION_NAME={region}"
    if code == "PermanentRedirect" and endpoint:
        return f"the bucket is at {endpoint}: set S3_ENDPOINT_URL or S3_REGION_NAME accordingly"
    return HINTS.get(code)
